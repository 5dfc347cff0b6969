"""Forward correction: train the clean class through the noise matrix T, estimated at anchors after a warm-up.

Paper: Patrini, Rozza, Menon, Nock, Qu, "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
Approach", CVPR 2017 (arXiv 1609.03683). Original code: giorgiop/loss-correction @15a79de (loss.py, models.py).

| equation | here |
| --- | --- |
| -log (p T)[y] (theorem 2) | ``losses.forward_correction`` |
| T[i] = prediction at the anchor of class i, at the 97th percentile (section 4.1) | ``ops.anchor_transition`` |
| alpha I + (1 - alpha) T, rows normalised | ``FCorrection._estimate`` |

Deviations from the original, and why
- The original trains to the end, keeps the checkpoint of the lowest noisy validation loss for the estimate, and builds
  the model anew before it trains with the correction: no weights are carried over (experiment.py, lines 107 to 141).
  That is ``restart``, the default; False goes on from the warm-up. A method has no validation set here: T is estimated
  after a fixed ``warmup``, and a net that has memorised the labels would give the identity. One budget and one schedule
  serve both stages: with the recipe, 40 epochs at the first rate, then the original's 120 (CIFAR-100: 150) epochs with
  theirs.
- Keras' l2 has no factor 1/2: its 1e-4 (CIFAR-100: 1e-3) is a weight decay of 2e-4 (2e-3). It acts on the kernels of
  convolutions and dense layers only there, on all parameters here. Images are shifted there, by a tenth and filled with
  the edge; here cropping is the data set's.
- The percentile search there zeroes the top 3 % of a column of the predictions themselves, which spoils later rows (by
  up to 0.7). Ours leaves them as they are; ``ops.anchor_transition(in_place=True)`` is the published value.
- The original prints the true matrix under the name of the estimate. Here nothing is read from the truth. ``t_source``
  "symmetric" and "pair" are for a T that somebody gives, by the share of wrong labels; such a ``noise_rate`` is an
  oracle if it is the true one (published rows often do not say which T they used). "confusion" (counts of prediction
  against label) is an extension.
- No clipping of p at 1e-7: it is all done in log space, with T at least 1e-30.
- The original's CIFAR-100 noise takes blocks of five for superclasses: a matter of the noise model.

Known traits, kept: pair noise at 45 % destroys the estimate (6.6 % on CIFAR-10 in Co-teaching's tables); with 100
classes the estimate is noisy, and ELR's Table 1 shows it below cross-entropy. ``diagonal`` is the mean of T's.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import forward_correction
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import anchor_transition, confusion, known_transition, row_normalise

SOURCES = ("anchor", "confusion", "symmetric", "pair")


class FCorrection(Method):
    """Forward correction.

    ``t_source``: how T is found; ``noise_rate``: the share of wrong labels where it is "symmetric" or "pair".
    ``warmup``: fraction of the epochs with cross-entropy before T is estimated. ``percentile``: of the anchors, 100 for
    arg max. ``alpha``: weight of the identity in T. ``restart``: train from fresh weights after the warm-up.
    """

    version = 2
    transition: Tensor  # [K, K] T

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
    ) -> None:
        super().__init__(task)
        if t_source not in SOURCES:
            raise unknown("source of T", t_source, SOURCES)
        self.t_source, self.percentile, self.alpha, self.restart = t_source, percentile, alpha, restart
        given = t_source in ("symmetric", "pair")
        self.warmup_epochs = 0 if given else max(round(warmup * task.epochs), 1)
        self.settled_at = 0.0 if given else min(warmup, 1.0)
        t = known_transition(t_source, task.n_classes, noise_rate if given else 0.0).float()
        self.register_buffer("transition", t.to(next(self.nets.parameters()).device))

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
        self.transition.copy_(self.alpha * torch.eye(len(rows)).to(rows) + (1 - self.alpha) * rows)
        if self.restart:
            self.nets[0].load_state_dict(self.task.net().state_dict())
            self.optimizers[0].state.clear()
        return {"passes": len(train), "diagonal": self.transition.diagonal().mean()}

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        if t < self.warmup_epochs:
            loss = F.cross_entropy(logits, batch.y)
        else:
            loss = forward_correction(logits, batch.y, self.transition.clamp_min(1e-30).log()).mean()
        self.descend(0, loss)
        return {"loss": loss.detach()}
