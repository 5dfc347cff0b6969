"""Batch normalisation of our own networks and heads. Layers of a library's networks are in ``networks``."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation of [B, C] and [B, C, H, W] that also takes one value per channel.

    In training mode torch refuses a batch of one where nothing is left to average over. The last batch of a pass can
    be that small, as the subsets of methods change from epoch to epoch: it is normalised by the running statistics.
    """

    def forward(self, x: Tensor) -> Tensor:
        batch_stats = self.training and x.numel() > x.shape[1]
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, batch_stats, self.momentum or 0.0, self.eps
        )

    def _check_input_dim(self, x: Tensor) -> None:
        pass
