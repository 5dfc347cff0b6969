"""Co-teaching: two networks, each trained on the samples of the batch that its peer finds easiest.

Paper: Han, Yao, Yu, Niu, Xu, Hu, Tsang, Sugiyama, "Co-teaching: Robust Training of Deep Neural Networks with
Extremely Noisy Labels", NeurIPS 2018 (arXiv 1804.06872). Original code: bhanML/Co-teaching @7c7fbe2 (loss.py,
main.py).

| equation | here |
| --- | --- |
| R(T) = 1 - tau min(T^c / T_k, 1) (paper), linspace(0, tau^c, T_k) then tau (code) | ``drop_rate`` |
| I_i = the R(T) B samples of smallest loss of net i | ``n_keep``, ``ops.small_loss`` |
| L_1 = mean CE of net 1 on I_2, L_2 = mean CE of net 2 on I_1 | ``coteaching_losses`` |

Deviations from the original, and why
- The original divides the mean over the kept samples by their number once more. Adam hardly notices; with SGD it
  shrinks the step about a hundredfold. We descend on the plain mean; ``coteaching_losses(divide_twice=True)`` is the
  original value.
- ``forget_rate`` is the *true* noise rate in the original. Here it is an ordinary hyperparameter (default 0.3, for an
  unknown rate); a paper point that took it from the truth is marked oracle.
- The original trains epochs 1 to 199 of its schedule of 200 (its epoch 0 only evaluates random nets), so its drop
  rate of 0 is never used. Our epoch t, from 0, uses the schedule's entry e = t + 1: the e-th training epoch drops
  what it drops there.
- The code's exponent acts on tau, not on T, so for exponent != 1 its ramp ends at tau^c and then jumps to tau; the
  paper's formula is ``schedule="paper"``. With exponent 1 they differ only in the slope (tau / (T_k - 1) against tau
  / T_k).
- The ramp is a fraction of the epochs (10 of 200) and so is the epoch from which Adam's beta1 is ``late_beta1`` (0.9
  to 0.1 at epoch 80 of 200 for MNIST and CIFAR-10, 100 for CIFAR-100; ports often lose it). It acts on optimizers
  with betas only; the learning rate's linear decay from the same epoch on is the recipe's, which counts epochs from 1,
  too (0.4 of the epochs; for CIFAR-100 both are 0.5).
- The last short batch is kept (the original drops it, in the test set too); at least one sample is selected.
- Both nets' selections are reported as the weight, the mean of two 0/1 masks. Clean labels are not seen here: the
  "pure ratio" of the original is computed outside, from the weight.
- Prediction is the mean softmax of both nets; the original reports each net alone.
- Images are scaled to [0, 1] there, not normalised, and not augmented; here both are the data set's. The data set's
  options say what was published: ``cifar10?pad=0&flip=no&mean=0,0,0&std=1,1,1``. Labels were drawn one by one
  (``symmetric:exclusive:bernoulli:0.5``). On MNIST an epoch of the original ends after 401 of its 468 batches.
- The published numbers had channel dropout off (a torch 0.3 default) and noise always seeded 0: matters of network
  and noise.
- ``exchange=False`` is the self-selection ablation (each net keeps its own easiest samples), with the same ramp.
"""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import small_loss

Schedule = Literal["code", "paper"]


def drop_rate(e: int, forget_rate: float, n_gradual: int, exponent: float = 1.0, schedule: Schedule = "code") -> float:
    """The share of a batch to drop in entry ``e`` (from 0) of the original's schedule, of ``n_gradual`` ramp entries.

    "code": linspace(0, forget_rate^exponent, n_gradual), then forget_rate (main.py). "paper": forget_rate
    min(e^exponent / n_gradual, 1) (section 3 of the paper).
    """
    if schedule == "paper":
        return forget_rate * min(e**exponent / n_gradual, 1.0)
    if e >= n_gradual:
        return forget_rate
    return forget_rate**exponent * e / max(n_gradual - 1, 1)


def n_keep(rate: float, batch_size: int) -> int:
    """floor((1 - rate) B), at least 1; in floating point as the original, so 0.1 of 10 drops what it drops there."""
    return max(int((1 - rate) * batch_size), 1)


def set_beta1(optimizers: Iterable[torch.optim.Optimizer], beta1: float) -> None:
    """Gives optimizers that have betas (Adam) another first one."""
    for group in (g for optimizer in optimizers for g in optimizer.param_groups if "betas" in g):
        group["betas"] = (beta1, group["betas"][1])


class CoTeachingLosses(NamedTuple):
    loss1: Tensor  # scalar, to descend on with net 1
    loss2: Tensor
    kept1: Tensor  # [n_keep] positions net 1 selects, in ascending order of its losses
    kept2: Tensor


def coteaching_losses(
    logits1: Tensor, logits2: Tensor, y: Tensor, rate: float, *, exchange: bool = True, divide_twice: bool = False
) -> CoTeachingLosses:
    """The cross update: mean CE of each net on the samples the other net selects (Algorithm 1).

    ``logits1``, ``logits2`` [B, K], ``y`` [B], ``rate`` the share dropped. ``exchange=False``: on its own selection.
    ``divide_twice``: the value of the original code, the mean divided by n_keep once more.
    """
    losses1 = F.cross_entropy(logits1, y, reduction="none")
    losses2 = F.cross_entropy(logits2, y, reduction="none")
    n = n_keep(rate, len(y))
    kept1, kept2 = small_loss(losses1.detach(), n), small_loss(losses2.detach(), n)
    teach1, teach2 = (kept2, kept1) if exchange else (kept1, kept2)
    scale = 1 / n if divide_twice else 1.0
    return CoTeachingLosses(losses1[teach1].mean() * scale, losses2[teach2].mean() * scale, kept1, kept2)


class CoTeaching(Method):
    """Co-teaching.

    ``forget_rate``: final share of a batch to drop, ideally the noise rate. ``gradual``: fraction of the epochs over
    which it ramps. ``exponent``: of that ramp. ``schedule``: the ramp of the "code" or of the "paper", see
    ``drop_rate``. ``decay_start``: fraction of the epochs after which Adam's beta1 is ``late_beta1``. ``exchange``:
    False for self-selection.
    """

    n_nets = 2

    def __init__(
        self,
        task: Task,
        *,
        forget_rate: float = 0.3,
        gradual: float = 0.05,
        exponent: float = 1.0,
        schedule: Schedule = "code",
        decay_start: float = 0.4,
        late_beta1: float = 0.1,
        exchange: bool = True,
    ) -> None:
        super().__init__(task)
        if schedule not in ("code", "paper"):
            raise unknown("schedule", schedule, ("code", "paper"))
        self.forget_rate, self.exponent, self.late_beta1, self.exchange = forget_rate, exponent, late_beta1, exchange
        self.schedule: Schedule = schedule
        self.settled_at = min(gradual, 1.0)
        self.n_gradual = max(round(gradual * task.epochs), 1)
        self.decay_epoch = round(decay_start * task.epochs)

    def settled(self) -> float:
        return self.settled_at

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t + 1 >= self.decay_epoch:
            set_beta1(self.optimizers, self.late_beta1)
        yield from super().epoch(t, train)

    def step(self, batch: Batch, t: int) -> Log:
        rate = drop_rate(t + 1, self.forget_rate, self.n_gradual, self.exponent, self.schedule)
        logits1, logits2 = self.nets[0](batch.x), self.nets[1](batch.x)
        loss1, loss2, kept1, kept2 = coteaching_losses(logits1, logits2, batch.y, rate, exchange=self.exchange)
        self.descend(0, loss1)
        self.descend(1, loss2)
        weight = torch.zeros(len(batch.y), device=batch.y.device)
        weight[kept1] += 0.5
        weight[kept2] += 0.5
        return {"loss": (loss1.detach() + loss2.detach()) / 2, "index": batch.index, "weight": weight}
