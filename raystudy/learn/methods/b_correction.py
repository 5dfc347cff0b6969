"""Backward correction: an unbiased loss through the inverse of the noise matrix T, estimated at anchors after a
warm-up.

Paper: Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
Approach", CVPR 2017 (arXiv 1609.03683). Original code: giorgiop/loss-correction @15a79de (loss.py, models.py).

| equation | here |
| --- | --- |
| sum_j inv(T)[y, j] (-log p_j) (theorem 1) | ``backward_correction`` |
| T[i] = prediction at the anchor of class i, at the 97th percentile (section 4.1) | ``ops.anchor_transition`` |
| alpha I + (1 - alpha) T, rows normalised | ``BCorrection._estimate`` |

Deviations from the original, and why
- T is nearly singular for symmetric noise close to (K - 1) / K. Its singular values are raised to the largest one over
  ``max_condition``, which changes nothing for a T that is better than that, and the gradient norm is clipped
  (``clip_norm``, 0: not). The original has neither.
- The loss may be negative and is not bounded from below: its value says nothing.
- The estimate of T, the stages and what they deviate in are those of ``f_correction``: a fixed ``warmup`` instead of
  the checkpoint of the lowest noisy validation loss, one budget for both stages, fresh weights for the second
  (``restart``, as in the released code), weight decay on all parameters (kernels only there), anchors read off a copy
  of the predictions (``ops.anchor_transition(in_place=True)`` is the published value, in which earlier columns spoil
  later rows).
- Nothing is read from the truth (the original prints the true matrix as the estimate). ``t_source`` "symmetric" and
  "pair" are for a T that somebody gives; such a ``noise_rate`` is an oracle if it is the true one.
- No clipping of p at 1e-7: log-softmax needs none.
- The original's CIFAR-100 noise takes blocks of five for superclasses: a matter of the noise model.

Known traits, kept: pair noise at 45 % destroys the estimate, and with 100 classes it is noisy. A net that has memorised
the labels gives the identity, and with it plain cross-entropy. ``diagonal`` is the mean of T's.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import anchor_transition, confusion, known_transition, row_normalise

SOURCES = ("anchor", "confusion", "symmetric", "pair")


def backward_correction(logits: Tensor, y: Tensor, inverse: Tensor) -> Tensor:
    """sum_j inv(T)[y, j] (-log p_j), [B], of ``logits`` [B, K], labels ``y`` [B], ``inverse`` [K, K] (theorem 1)."""
    return -(inverse[y] * F.log_softmax(logits, 1)).sum(1)


def capped_inverse(t: Tensor, max_condition: float) -> Tensor:
    """The inverse of ``t`` [K, K], its singular values raised to at least the largest over ``max_condition``."""
    u, s, vh = torch.linalg.svd(t.double())
    return (vh.t() / s.clamp_min(s.max() / max_condition)) @ u.t()


class BCorrection(Method):
    """Backward correction.

    ``t_source``: how T is found; ``noise_rate``: the share of wrong labels where it is "symmetric" or "pair".
    ``warmup``: fraction of the epochs with cross-entropy before T is estimated. ``percentile``: of the anchors, 100 for
    arg max. ``alpha``: weight of the identity in T. ``restart``: train from fresh weights after the warm-up.
    ``max_condition``: cap of T's condition number. ``clip_norm``: largest norm of the corrected loss's gradient, 0 for
    no limit.
    """

    version = 2
    inverse: Tensor  # [K, K] of T

    def __init__(
        self,
        task: Task,
        *,
        t_source: Literal["anchor", "confusion", "symmetric", "pair"] = "anchor",
        noise_rate: float = 0.0,
        warmup: float = 0.25,
        percentile: float = 97.0,
        alpha: float = 0.0,
        restart: bool = True,
        max_condition: float = 100.0,
        clip_norm: float = 5.0,
    ) -> None:
        super().__init__(task)
        if t_source not in SOURCES:
            raise unknown("source of T", t_source, SOURCES)
        self.t_source, self.percentile, self.alpha, self.restart = t_source, percentile, alpha, restart
        self.max_condition, self.clip_norm = max_condition, clip_norm
        given = t_source in ("symmetric", "pair")
        self.warmup_epochs = 0 if given else max(round(warmup * task.epochs), 1)
        self.settled_at = 0.0 if given else min(warmup, 1.0)
        t = known_transition(t_source, task.n_classes, noise_rate if given else 0.0)
        device = next(self.nets.parameters()).device
        self.register_buffer("inverse", capped_inverse(t, max_condition).float().to(device))

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if 0 < t == self.warmup_epochs:
            yield self._estimate(train)
        yield from super().epoch(t, train)

    @torch.no_grad()
    def _estimate(self, train: Train) -> Log:
        probs = self.predictions(train)
        if self.t_source == "anchor":
            rows = anchor_transition(probs, self.percentile)[0]
        else:
            rows = confusion(probs, train.y)
        rows = row_normalise(rows)
        t = self.alpha * torch.eye(len(rows)).to(rows) + (1 - self.alpha) * rows
        self.inverse.copy_(capped_inverse(t, self.max_condition))
        if self.restart:
            self.nets[0].load_state_dict(self.task.net().state_dict())
            self.optimizers[0].state.clear()
        return {"passes": len(train), "diagonal": t.diagonal().mean()}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        if t < self.warmup_epochs:
            loss = F.cross_entropy(logits, batch.y)
            self.descend(0, loss)
        else:
            loss = backward_correction(logits, batch.y, self.inverse).mean()
            self.descend(0, loss, self.clip_norm)
        return {"loss": loss.detach()}
