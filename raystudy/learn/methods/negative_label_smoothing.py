"""Negative label smoothing (NLS): after a warm-up with cross-entropy, the given label weighs above one and all others below zero.

Paper: Wei, Liu, Liu, Niu, Sugiyama, Liu, "To Smooth or Not? When Label Smoothing Meets Noisy Labels", ICML 2022 (arXiv
2106.04149). Original code: UCSC-REAL/negative-label-smoothing @05078f6 (loss.py, main_warmup.py, main_GLS_load.py,
main_GLS_direct_train.py).

| equation | here |
| --- | --- |
| cross-entropy against (1 - r) one-hot + r / K, r <= 1, also below 0 (eq. 2) | ``losses.label_smoothing`` |
| wa CE + wb of that | ``generalised_smoothing`` |

Deviations from the original, and why
- Negative r from scratch diverges, as users report and the authors answer: the model must be well trained first. So r < 0 has at least
  one epoch of ``warmup``, and the method is this whole procedure; ``label_smoothing`` is the bare loss. For r >= 0 the warm-up may
  be 0: the original's direct training.
- The warm-up checkpoint is the best on the *test* set there, and so is what is reported, since there is no validation split; here
  training goes on from the last epoch.
- After the warm-up the learning rate is ``late_lr`` times the recipe's first, and constant: 1e-6 against 0.1 there. Logits then
  move little: predictions get sharper, features stay. Other rates need the extensions ``ramp`` (of r from 0) and ``clip_norm``, both
  off by default.
- The warm-up is plain SGD without momentum and weight decay there, and the rest Nesterov with both; one recipe here. Weight
  decay must stay on: it is all that bounds the logits where r < 0.
- The loss is not bounded from below for r < 0; its value, and that on validation, says nothing. Select by accuracy. All in log space and in
  at least single precision, as the mean over classes needs every log-probability to be finite.
- r is not scaled with K: the same r is another target for 100 classes. For symmetric noise of a *known* rate e, r = -e K / ((1 - e) K - 1)
  is exactly the backward correction of the loss; such points are oracles. The paper's tables choose r by noise level.
- The seed there leaves the noise as it is; its pair noise is symmetric swaps of ten named classes, so that 40 % are 40 %, and fails for
  100; label files lie about that nothing loads; ``--lr`` is overruled by tables; the README's loss differs in its arguments, not in its
  value; its 9-layer network drops channels in evaluation too: matters of noise and network.
- KlemenVovk/noisy-labels @3d92600 has r = -0.2 after 2 of 100 epochs, its own choice on clean data.
"""

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor

from raystudy.learn.losses import label_smoothing
from raystudy.learn.method import Batch, Log, Method, Task, Train


def generalised_smoothing(logits: Tensor, y: Tensor, rate: float, wa: float = 0.0, wb: float = 1.0) -> Tensor:
    """wa CE + wb (CE against (1 - r) one-hot + r / K), [B], for ``logits`` [B, K], ``y`` [B], r = ``rate``."""
    return wa * F.cross_entropy(logits, y, reduction="none") + wb * label_smoothing(logits, y, rate)


class NegativeLabelSmoothing(Method):
    """Negative label smoothing.

    ``smoothing``: r; below 0 the label weighs above one. ``warmup``: fraction of the epochs with plain cross-entropy first. ``late_lr``:
    learning rate after it, as a share of the recipe's first. ``ramp``: fraction of the epochs after the warm-up over which r < 0 rises.
    ``clip_norm``: largest norm of the gradient after the warm-up, 0 for no limit. ``ce_weight``: of plain cross-entropy
    beside the smoothed one.
    """

    def __init__(
        self,
        task: Task,
        *,
        smoothing: float = -0.4,
        warmup: float = 0.5,
        late_lr: float = 1e-5,
        ramp: float = 0.0,
        clip_norm: float = 0.0,
        ce_weight: float = 0.0,
    ) -> None:
        super().__init__(task)
        self.smoothing, self.late_lr, self.clip_norm, self.ce_weight = smoothing, late_lr, clip_norm, ce_weight
        self.settled_at = min(warmup, 1.0)
        self.warmup_epochs = max(round(warmup * task.epochs), int(smoothing < 0))
        self.ramp_epochs = max(round(ramp * (task.epochs - self.warmup_epochs)), 1)
        self.base_lr: float = self.optimizers[0].defaults["lr"]

    def settled(self) -> float:
        return self.settled_at

    def rate(self, t: int) -> float:
        """r of epoch ``t``: 0 in the warm-up."""
        if t < self.warmup_epochs:
            return 0.0
        return self.smoothing * (
            1.0 if self.smoothing >= 0 else min((t + 1 - self.warmup_epochs) / self.ramp_epochs, 1.0)
        )

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if 0 < self.warmup_epochs <= t:
            for group in self.optimizers[0].param_groups:
                group["lr"] = self.late_lr * self.base_lr
        yield from super().epoch(t, train)

    def step(self, batch: Batch, t: int) -> Log:
        logits = self.nets[0](batch.x)
        if t < self.warmup_epochs:
            loss = F.cross_entropy(logits, batch.y)
            self.descend(0, loss)
        else:
            loss = generalised_smoothing(logits, batch.y, self.rate(t), wa=self.ce_weight).mean()
            self.descend(0, loss, self.clip_norm)
        return {"loss": loss.detach()}
