"""MentorNet PD: weigh the samples of a batch by a pre-defined curriculum on their loss and the progress of training.

Paper: Jiang, Zhou, Leung, Li, Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for Very Deep Neural Networks on
Corrupted Labels", ICML 2018 (arXiv 1712.05055). Original code: google/mentornet @76d6be2 (utils.py,
training_mentornet/models.py, training/).

| original | here |
| --- | --- |
| progress e = floor(100 t/S), in percent ("epoch" throughout) | ``ops.progress`` |
| q = p-percentile of the batch's losses, by nearest rank; m <- d m + (1 - d) q | ``ops.nearest_rank``, ``moving_average`` |
| v* of the curricula on (l, l - m, e) (``vstar_*``) | ``curriculum_weights``, ``ops.pd_weights`` |
| the minimiser of v l + lam2 v^2/2 - (lam1 + lam2) v (eq. 5, 6) | ``ops.spcl_weights`` |
| example dropout: v = 0 but for int(B (1 - rho)) samples | ``example_mask`` |
| mean_B(v l) + mean(v) weight decay | ``losses.weighted_mean`` |

Deviations from the original, and why
- The rule v* is used itself; the original trains a small net to imitate it, which is only as good as the imitation.
  Its released checkpoint (TensorFlow 1) cannot be read; nets relearned by its recipe are off the rule by a mean square
  of 0.007 to 0.039, so the rule may be cleaner than what the published numbers were made with. The learned net is the
  method ``mentornet_dd``. So nothing of a MentorNet can slip into the student's optimizer or weight decay, and its label
  input, always 0, does not occur.
- p (``keep``): every published command misspells the flag (loss_p_precentile), which the program ignores, so 0.7, the
  default here, was in effect in runs launched with them; the values meant are the paper points. Try both.
- Progress is counted in whole epochs of the budget (e = floor(100 epoch/epochs)), in steps there.
- m starts at the first percentile, not at 0: there diff is about l - q/2 in the first steps (all within the burn-in). It
  is part of our checkpoints, not of theirs. ``update_rate`` is 1 - d; d is 0.5 by the flag that wins, 0.9 by the function's default.
- Burn-in: in the PD runs the flag is 0 and the learned net gives 1 for e <= 18, which is ``burn_in=0.19`` here; the
  other curricula, which ran without, get 1 as long as well, so set 0 for theirs. ``fixed_epoch_after_burn_in`` belongs
  to the DD runs. With the burn-in goes 50 % example dropout, for the first 17 %.
- The schedule's third stage, of the code's default (rate 1.0 for the last 5 %), is that of no PD run and left out.
- ``gamma`` is 1 in the generated data whatever its flag says (it is not passed on); focal weighting there has 2.
- The step scales with the mean of v, dropped samples included, and so does the weight decay (the ResNet runs; the
  Inception runs have none): ``weighted_mean``'s "batch". v is a constant in it.
- The weight decay of the original acts on the weights of convolutions and dense layers only, here on all parameters.
- The last short batch is kept; a dropout leaves at least one sample. The weight reported is v without the dropout,
  from the end of the burn-in on; "focal" and "hard_mining" prefer large losses, so theirs finds no clean labels.
- The "MentorNet" that papers of the Co-teaching line compare with is a self-paced net with small-loss selection:
  ``self_paced`` with ``age="rank"``.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import weighted_mean
from raystudy.learn.method import Batch, Log, Method, Task
from raystudy.learn.ops import moving_average, nearest_rank, pd_weights, permutation, progress, spcl_weights

CURRICULA = ("pd", "self_paced", "spcl_linear", "focal", "hard_mining")


def curriculum_weights(
    curriculum: str,
    losses: Tensor,
    diff: Tensor,
    e: int,
    gamma: float = 1.0,
    burn_in: float = 0.19,
    linear_from: float = 0.9,
) -> Tensor:
    """v* [B] of a curriculum from ``losses`` and ``diff`` = loss - moving percentile, both [B], at ``e`` percent.

    "pd": ``ops.pd_weights``; "self_paced": 1[diff <= 0]; "spcl_linear": clip(1 - diff/gamma, 0, 1); "hard_mining":
    1[diff >= 0]; "focal": (1 - exp(-l))^gamma. The burn-in and ``linear_from`` are those of "pd" only.
    """
    if curriculum == "pd":
        return pd_weights(diff, e, gamma, burn_in, linear_from)
    if curriculum == "self_paced":
        return (diff <= 0).to(diff)
    if curriculum == "spcl_linear":
        return spcl_weights(diff, 0.0, gamma)
    if curriculum == "hard_mining":
        return (diff >= 0).to(diff)
    return (-torch.expm1(-losses)) ** gamma


def example_mask(n: int, rate: float, device: torch.device) -> Tensor:
    """Example dropout: ones at int(n (1 - rate)) positions, at least one, drawn without replacement; [n] float32."""
    mask = torch.zeros(n, device=device)
    mask[permutation(n, device)[: max(int(n * (1 - rate)), 1)]] = 1.0
    return mask


class MentorNetPD(Method):
    """A student weighted by a pre-defined curriculum.

    ``curriculum``: which v*. ``keep``: the percentile p of the losses, ideally near the share of clean labels.
    ``update_rate``: weight of the newest batch in its moving average. ``burn_in``: fraction of the epochs with v = 1.
    ``linear_from``: fraction from which "pd" is linear. ``gamma``: width of the linear weights (exponent of focal).
    ``early_dropout``: example dropout until ``dropout_until`` of the epochs, ``late_dropout`` after it.
    """

    m: Tensor  # 0-d moving average, NaN before the first batch

    def __init__(
        self,
        task: Task,
        *,
        curriculum: Literal["pd", "self_paced", "spcl_linear", "focal", "hard_mining"] = "pd",
        keep: float = 0.7,
        update_rate: float = 0.5,
        burn_in: float = 0.19,
        linear_from: float = 0.9,
        gamma: float = 1.0,
        early_dropout: float = 0.5,
        dropout_until: float = 0.17,
        late_dropout: float = 0.05,
    ) -> None:
        super().__init__(task)
        if curriculum not in CURRICULA:
            raise unknown("curriculum", curriculum, CURRICULA)
        self.curriculum, self.keep, self.update_rate = curriculum, keep, update_rate
        self.burn_in, self.linear_from, self.gamma = burn_in, linear_from, gamma
        self.early_dropout, self.dropout_until, self.late_dropout = early_dropout, dropout_until, late_dropout
        device = next(self.nets.parameters()).device
        self.register_buffer("m", torch.full((), torch.nan, device=device))

    def settled(self) -> float:
        return min(max(self.burn_in, self.dropout_until), 1.0)

    def step(self, batch: Batch, t: int) -> Log:
        e = progress(t, self.task.epochs)
        losses = F.cross_entropy(self.nets[0](batch.x), batch.y, reduction="none")
        fixed = losses.detach()
        self.m = moving_average(self.m, nearest_rank(fixed, self.keep), self.update_rate)
        burning = e < 100 * self.burn_in
        v = (
            torch.ones_like(fixed)
            if burning
            else curriculum_weights(
                self.curriculum, fixed, fixed - self.m, e, self.gamma, self.burn_in, self.linear_from
            )
        )
        rate = self.early_dropout if e < 100 * self.dropout_until else self.late_dropout
        used = v * example_mask(len(v), rate, v.device)
        self.descend(0, weighted_mean(losses, used, self.optimizers[0], "batch"))
        log: Log = {"loss": (used * fixed).mean(), "percentile": self.m}
        return log if burning else log | {"weight": v}
