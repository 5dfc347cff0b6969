"""Losses and penalties on logits that two or more methods share. Those of one method stay with it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of ``logits`` [B, K] against target distributions [B, K]; scalar.

    Linear in the target, so against mixup's mixed one-hots it equals the two-term loss
    lam CE(y) + (1 - lam) CE(y[perm]) of Zhang et al. 2018.
    """
    return -(targets * F.log_softmax(logits, 1)).sum(1).mean()


def prior_penalty(logits: Tensor) -> Tensor:
    """KL(uniform prior || mean prediction of the batch), for ``logits`` [B, K]; a scalar, 0 for a uniform mean.

    sum_k pi_k log(pi_k / p_k), pi_k = 1/K, p = mean softmax (Tanaka et al. 2018, eq. 4; DivideMix eq. 11;
    Arazo et al. 2019, eq. 13). In log space, so that a class that nobody predicts gives a large number, not infinity.
    """
    rows, n_classes = logits.shape
    log_mean = torch.logsumexp(F.log_softmax(logits, 1), 0) - math.log(rows)
    return -math.log(n_classes) - log_mean.mean()
