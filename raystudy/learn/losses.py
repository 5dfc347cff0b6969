"""Losses and penalties on logits: those that two or more methods share, and the robust losses that are a method by themselves.

Any other loss of one method only stays with it. The robust losses are per sample, [B]; methods descend on their mean.
"""

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


def kl_rows(logits_p: Tensor, logits_q: Tensor) -> Tensor:
    """KL(p || q) = sum_k p_k (log p_k - log q_k) of each row, [B], for p, q the softmax of ``logits_p``, ``logits_q`` [B, K]."""
    log_p, log_q = F.log_softmax(logits_p, 1), F.log_softmax(logits_q, 1)
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _log_p(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities [B, K] of ``logits`` [B, K], and [B] those of the labels ``y`` [B]."""
    log_p = F.log_softmax(logits, 1)
    return log_p, log_p.gather(1, y[:, None]).squeeze(1)


def gce(logits: Tensor, y: Tensor, q: float) -> Tensor:
    """Generalised cross-entropy (1 - p_y^q) / q, [B], of ``logits`` [B, K] and labels ``y`` [B]; q in (0, 1].

    q -> 0 is cross-entropy, q = 1 is ``mae`` (Zhang & Sabuncu 2018, eq. 6). Its gradient is that of cross-entropy times p_y^q.
    """
    return -torch.expm1(q * _log_p(logits, y)[1]) / q


def ngce(logits: Tensor, y: Tensor, q: float) -> Tensor:
    """Normalised ``gce``, [B]: gce(y) / sum_k gce(k) = (1 - p_y^q) / (K - sum_k p_k^q) (Ma et al. 2020, eq. 4)."""
    log_p, log_p_y = _log_p(logits, y)
    return torch.expm1(q * log_p_y) / torch.expm1(q * log_p).sum(1)


def mae(logits: Tensor, y: Tensor) -> Tensor:
    """Mean absolute error in its reduced form 1 - p_y, [B]; half of sum_k |p_k - t_k| (Ghosh et al. 2017)."""
    return -torch.expm1(_log_p(logits, y)[1])


def rce(logits: Tensor, y: Tensor, log_zero: float = math.log(1e-4)) -> Tensor:
    """Reverse cross-entropy -sum_k p_k log t_k with log 0 := ``log_zero``, so -log_zero (1 - p_y), [B] (Wang et al. 2019, eq. 6)."""
    return -log_zero * mae(logits, y)


def nce(logits: Tensor, y: Tensor) -> Tensor:
    """Normalised cross-entropy log p_y / sum_k log p_k, [B], in [0, 1] (Ma et al. 2020, eq. 5)."""
    log_p, log_p_y = _log_p(logits, y)
    return log_p_y / log_p.sum(1)


def focal(logits: Tensor, y: Tensor, gamma: float, detach: bool = False) -> Tensor:
    """Focal loss -(1 - p_y)^gamma log p_y, [B] (Lin et al. 2017, eq. 4). ``detach``: the factor is a weight without gradient."""
    return _focal_of_every_class(logits, gamma, detach).gather(1, y[:, None]).squeeze(1)


def nfl(logits: Tensor, y: Tensor, gamma: float, detach: bool = False) -> Tensor:
    """Normalised focal loss focal(y) / sum_k focal(k), [B] (Ma et al. 2020, eq. 7). ``detach`` as in ``focal``, also in the sum."""
    losses = _focal_of_every_class(logits, gamma, detach)
    return losses.gather(1, y[:, None]).squeeze(1) / losses.sum(1)


def _focal_of_every_class(logits: Tensor, gamma: float, detach: bool) -> Tensor:
    """The focal loss [B, K] of each class taken for the label."""
    log_p = F.log_softmax(logits, 1)
    rest = -torch.expm1(log_p.detach() if detach else log_p)
    # Where p rounds to 1 the power of 0 has an infinite slope for gamma < 1, and 0 x inf would be NaN.
    return -rest.clamp_min(torch.finfo(rest.dtype).eps).pow(gamma) * log_p


def label_smoothing(logits: Tensor, y: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy against (1 - e) one-hot + e / K, [B] (Szegedy et al. 2016); e < 0 as well (Wei et al. 2022)."""
    log_p, log_p_y = _log_p(logits, y)
    return -torch.lerp(log_p_y, log_p.mean(1), smoothing)


def forward_correction(logits: Tensor, y: Tensor, log_t: Tensor) -> Tensor:
    """-log (p T)[y], [B]: cross-entropy of the prediction passed through the noise (Patrini et al. 2017, thm. 2).

    ``logits`` [B, K] of the clean class, ``y`` [B] given labels, ``log_t`` [K, K] log P(given j | clean i), finite.
    """
    return -torch.logsumexp(F.log_softmax(logits, 1) + log_t.t()[y], 1)


def early_learning_target(rows: Tensor, logits: Tensor, beta: float, clamp: float) -> Tensor:
    """beta rows + (1 - beta) p / sum(p), [B, K]: the running mean of predictions (Liu et al. 2020, eq. 7), without gradient.

    ``rows`` [B, K] the mean so far, ``logits`` [B, K]; p is clamped to [clamp, 1 - clamp] (0: not clamped).
    """
    p = logits.detach().softmax(1).clamp(clamp, 1 - clamp)
    return torch.lerp(p / p.sum(1, keepdim=True), rows, beta)


def early_learning_penalty(logits: Tensor, target: Tensor, clamp: float = 1e-4) -> Tensor:
    """log(1 - <target, p>), [B] (Liu et al. 2020, eq. 6); at most 0. The clamp of p keeps it bounded from below.

    ``logits`` and ``target`` [B, K]; the target is a constant.
    """
    p = logits.softmax(1).clamp(clamp, 1 - clamp)
    return torch.log(1 - (target * p).sum(1))


def bounded_nll(logits: Tensor, y: Tensor, eps: float) -> Tensor:
    """-log(p_y + eps), [B]: cross-entropy of at most -log eps, which may be subtracted (peer loss, CORES, CAL)."""
    return -torch.log(logits.softmax(1).gather(1, y[:, None]).squeeze(1) + eps)


def expected_nll(logits: Tensor, prior: Tensor, eps: float) -> Tensor:
    """sum_k prior_k (-log(p_k + eps)), [B]: ``bounded_nll`` with the label drawn from ``prior`` [K], averaged out."""
    log_p = torch.log(logits.softmax(1) + eps)
    return -(log_p * prior.to(log_p)).sum(1)


def weighted_mean(losses: Tensor, v: Tensor, optimizer: torch.optim.Optimizer, reduction: str) -> Tensor:
    """The loss of samples with ``losses`` and constant weights ``v`` [B], a scalar.

    "batch", of the MentorNet code: sum v l / B + mean(v) decay(w), so that the share of what is kept scales the whole step.
    The optimizer already adds its full weight decay to the gradient; what is added here takes the rest of it back.
    "selected": sum v l / sum v, with full weight decay; 0 where nothing is selected.
    """
    if reduction == "selected":
        return (v * losses).sum() / v.sum().clamp_min(1e-12)
    decays = [(g["weight_decay"] / 2, p) for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]]
    surplus = sum((half * p.square().sum() for half, p in decays), losses.new_zeros(()))
    return (v * losses).mean() + (v.mean() - 1) * surplus
