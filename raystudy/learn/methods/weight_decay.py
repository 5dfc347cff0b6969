"""Cross-entropy with a tuned weight decay: the row "WeightDecay" of the MentorMix tables.

Paper: as a baseline in Jiang, Huang, Liu, Yang, "Beyond Synthetic Noise: Deep Learning on Controlled Noisy Labels",
ICML 2020 (arXiv 1911.09781); no code of its own. L = mean CE + (wd / 2) ||w||^2.

The method is plain cross-entropy; what differs from ``ce`` is its search space, which is the recipe's ``weight_decay``.

Deviations from the original, and why
- The tuned values are not published. In that table it was tuned for fine-tuning only; from scratch it failed to train
  there.
- The decay is coupled L2, as in the papers: the optimizer adds wd w to the gradient. It acts on every parameter, batch
  norm and biases included, since the recipe's optimizer is shared by all methods.
- The weight decay of MentorNet's "inception" student is declared but seems not to act in the released code; here it
  acts.
"""

import torch.nn.functional as F

from raystudy.learn.method import Batch, Log, Method


class WeightDecay(Method):
    """Cross-entropy on the given labels; its one hyperparameter, ``weight_decay``, is the recipe's."""

    def step(self, batch: Batch, t: int) -> Log:
        loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
        self.descend(0, loss)
        return {"loss": loss.detach()}
