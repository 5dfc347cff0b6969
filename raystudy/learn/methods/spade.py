"""SPADE: one net and one latent weight per sample, updated in turn by stochastic (partial) gradient descent.

Paper: Jiang, Zhou, Leung, Li, Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for Very Deep Neural Networks on
Corrupted Labels", ICML 2018 (arXiv 1712.05055), Algorithm 1 ("scholastic gradient partial descent") with an explicit
regulariser G, that is, without a learned MentorNet.

F(w, v) = (1/n) sum v_i l_i(w) + G(v) + theta |w|^2, v in [0, 1]^n, G = sum lam2 v_i^2/2 - (lam1 + lam2) v_i (eq. 1, 5).

| step of Algorithm 1 | here |
| --- | --- |
| v_B <- v_B - alpha grad_v F(w, v) on the batch B, kept in [0, 1] | ``descend_v`` |
| w <- w - alpha grad_w of the v-weighted loss, v constant | ``losses.weighted_mean`` |
| curriculum: lam1 follows the p-percentile of the losses | ``ops.nearest_rank``, ``ops.moving_average`` |
| burn-in (first 20 %): v is a random Bernoulli mask | ``Spade.step`` |

The fixed point of the v step at constant losses is the closed form ``ops.spcl_weights``, which is what ``self_paced``
and ``mentornet_pd`` set v to at once; SPADE walks there, one step per visit, so v remembers and one odd loss moves it
little.

Deviations from the paper, and why
- The released code (google/mentornet @76d6be2) never runs this branch: it always asks a MentorNet. So there is no
  published setting; defaults are the paper's where it has one (step 0.1, the learning rate; burn-in 20 %, percentile
  and decay of the released runs) and lam2 = 1.
- The step on v is not scaled by 1/n (n grows, a visit stays a visit) and is a hyperparameter of its own, as tying it to
  the learning rate would freeze v when the rate decays.
- v starts at 1 and takes its steps during the burn-in as well, while the net is trained with the mask.
- lam1 starts at the first percentile (0 in the code); mean over B with weight decay scaled by the mean of v, as in the
  MentorNet code.
- Projection onto [0, 1] is not written out in Algorithm 1; its constraint is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.learn.losses import weighted_mean
from raystudy.learn.method import Batch, Log, Method, Task
from raystudy.learn.ops import moving_average, nearest_rank


def descend_v(v: Tensor, losses: Tensor, lam1: float | Tensor, lam2: float, step: float) -> Tensor:
    """One projected gradient step on the weights: clip(v - step (l + lam2 v - lam1 - lam2), 0, 1); ``v``, ``losses`` [B]."""
    return (v - step * (losses + lam2 * v - lam1 - lam2)).clamp(0, 1)


class Spade(Method):
    """SPADE with the explicit regulariser of the pre-defined curriculum.

    ``keep``: the percentile that lam1 follows. ``lam2``: softness; 0 drives every v to 0 or 1. ``v_step``: step size of
    v. ``update_rate``: weight of the newest batch in lam1. ``burn_in``: fraction of the epochs with a random mask;
    ``dropout``: the share it drops.
    """

    v: Tensor  # [n]
    lam1: Tensor  # 0-d, NaN before the first batch

    def __init__(
        self,
        task: Task,
        *,
        keep: float = 0.7,
        lam2: float = 1.0,
        v_step: float = 0.1,
        update_rate: float = 0.5,
        burn_in: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(task)
        self.keep, self.lam2, self.v_step, self.update_rate, self.dropout = keep, lam2, v_step, update_rate, dropout
        self.settled_at = min(burn_in, 1.0)
        self.burn_in_epochs = round(burn_in * task.epochs)
        device = next(self.nets.parameters()).device
        self.register_buffer("v", torch.ones(task.n, device=device))
        self.register_buffer("lam1", torch.full((), torch.nan, device=device))

    def settled(self) -> float:
        return self.settled_at

    def step(self, batch: Batch, t: int) -> Log:
        losses = F.cross_entropy(self.nets[0](batch.x), batch.y, reduction="none")
        fixed = losses.detach()
        self.lam1 = moving_average(self.lam1, nearest_rank(fixed, self.keep), self.update_rate)
        v = descend_v(self.v[batch.index], fixed, self.lam1, self.lam2, self.v_step)
        self.v[batch.index] = v
        burning = t < self.burn_in_epochs
        if burning:
            mask = (torch.rand(len(v)) >= self.dropout).to(v.device, non_blocking=True)
            loss = weighted_mean(losses, mask.to(v), self.optimizers[0], "batch")
        else:
            loss = weighted_mean(losses, v, self.optimizers[0], "batch")
        self.descend(0, loss)
        log: Log = {"loss": fixed.mean() if burning else (v * fixed).mean(), "lam1": self.lam1}
        return log if burning else log | {"weight": v}
