"""MentorMix: weigh the batch as MentorNet does, draw mixup partners by the weights, mix towards trusted samples, weigh again.

Paper: Jiang, Huang, Liu, Yang, "Beyond Synthetic Noise: Deep Learning on Controlled Noisy Labels", ICML 2020 (arXiv
1911.09781), Algorithm 1. Original code: google-research/google-research @0c1bbe5, folder mentormix (utils.py,
cifar_train_mentormix.py).

| original | here |
| --- | --- |
| m1 follows the p-percentile of the losses of the unmixed batch | ``ops.nearest_rank``, ``ops.moving_average`` |
| v = MentorNet(l, l - m1, e): the exact curriculum, 1[l < m1], or learned | ``mentor_weights``, ``mentornet_dd.Mentor`` |
| partner j(i) ~ softmax(v), independently and with replacement | ``partner_probs``, ``draw_partners`` |
| lam_i ~ Beta(alpha, alpha) per sample; max(lam, 1 - lam), flipped where v_i < 0.5 | ``mixing_coefficients`` |
| x~ = lam x_i + (1 - lam) x_j, y~ likewise | ``ops.mix`` |
| loss mean(l~), or with the second weighting mean(v~ l~), v~ from l~ - m2 | ``MentorMix.step`` |
| weights averaged with decay min(0.9999, (1 + t)/(10 + t)), used for evaluation | ``average_decay`` |

Deviations from the original, and why
- ``mentor="pd"`` is the rule v* that the released MentorNet imitates (19 % of burn-in in it, linear from 90 % on);
  "threshold" is the variant the README endorses. With ``update_rate=1`` it is the batch's own percentile. The flag's
  burn-in of 10 % (v = 1 while e < burn_in - 1, as there) acts on all. "learned" is a MentorNet learned from data as in
  ``mentornet_dd``: the package's, or the one of ``mentor_file``.
- ``lam_rule="soft"`` is the paper's v max + (1 - v) min; "hard", the code's threshold, is the default. Where v is 0 or
  1 they agree.
- softmax(v), not v/sum v: a trusted sample is at most e times as likely a partner as a rejected one. ``temperature``
  (softmax(v/s), 1 in the original) is an extension that sharpens this.
- Weight decay depends on the branch in the original: 2e-4, but none with the second weighting, whose collection is
  empty. Here it is the recipe's, and the paper points with the second weighting set ``weight_decay = 0`` (the paper
  says 2e-4). It reaches all parameters, in the original conv and FC weights.
- The first forward pass uses the statistics of the batch and leaves the running ones alone; only the mixed pass moves
  them, as in the original. Both passes and both averages are separate; v, v~, x~, y~ are constants.
- m1 and m2 start at the first percentile, not at 0 (with decay 1/2 that is three steps of difference).
- Without the second weighting every sample counts in full; ``trusted`` logs the share with v >= 0.5. Where v~ is all 0,
  the step is that of momentum and weight decay alone.
- Progress e is counted in whole epochs. The steps are the single-GPU code's; the paper ran asynchronously and longer.
- Averaged are the parameters; the running statistics of batch norm are the raw net's, as there. ``ema=0``
  evaluates the raw net. The decay's warm-up makes the window a tenth of the steps done, so it fits short budgets too.
- The strong colour jitter is a matter of the data, not of the method: compare like with like. Partners are drawn by
  inverting the cumulative distribution of uniform numbers from the CPU, the same on every device.
- The port LJY-HY/MentorMix_pytorch differs much (an averaging without effect, Bernoulli burn-in, always the second
  weighting) and collapses at high noise: no reference.
"""

import copy
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.mentornet_dd import Mentor
from raystudy.learn.ops import beta_draws, mix, moving_average, nearest_rank, pd_weights, progress


def mentor_weights(mentor: str, losses: Tensor, m: Tensor, e: int) -> Tensor:
    """v [B] from ``losses`` [B] and their moving percentile ``m`` (0-d), at ``e`` percent of training.

    "pd": the exact pre-defined curriculum; "threshold": 1[l < m].
    """
    return pd_weights(losses - m, e) if mentor == "pd" else (losses < m).to(losses)


def partner_probs(v: Tensor, temperature: float = 1.0) -> Tensor:
    """softmax(v/temperature), the probability [B] of each sample to be a partner (Jiang et al. 2020, section 4)."""
    return (v / temperature).softmax(0)


def draw_partners(probs: Tensor, u: Tensor) -> Tensor:
    """Positions [n] drawn from ``probs`` [B], by uniform numbers ``u`` [n] in [0, 1)."""
    return torch.searchsorted(probs.cumsum(0), u.to(probs), right=True).clamp_max(len(probs) - 1)


def mixing_coefficients(draws: Tensor, v: Tensor, rule: str = "hard") -> Tensor:
    """lam [B] from Beta ``draws`` and weights ``v`` [B]: the larger of lam, 1 - lam for trusted samples, else the smaller.

    "hard": trusted is v >= 0.5 (code); "soft": v max + (1 - v) min (paper).
    """
    large = torch.maximum(draws, 1 - draws)
    trust = (v >= 0.5).to(v) if rule == "hard" else v
    return trust * large + (1 - trust) * (1 - large)


def average_decay(ema: float, t: int) -> float:
    """min(ema, (1 + t)/(10 + t)) after update ``t``, from 0: the weight of the old average."""
    return min(ema, (1 + t) / (10 + t))


class MentorMix(Method):
    """MentorMix.

    ``keep``: percentile p of the losses (gamma_p of the paper), ideally near the share of clean labels. ``alpha``:
    strength of mixing. ``second_reweight``: weigh the mixed losses too. ``mentor``: the weighting, exact curriculum
    "pd", "threshold" or "learned". ``lam_rule``: lambda's side by v >= 0.5 ("hard") or in proportion to v ("soft").
    ``burn_in``: fraction of the epochs with weight 1. ``update_rate``: weight of the newest batch in the moving
    percentiles. ``temperature``: of the partners' softmax. ``ema``: decay of the averaged weights. ``mentor_file``:
    with mentor="learned", "package" or the path of a learned MentorNet.
    """

    m1: Tensor  # 0-d moving percentile of the unmixed losses, NaN before the first batch
    m2: Tensor  # of the mixed losses

    def __init__(
        self,
        task: Task,
        *,
        keep: float = 0.7,
        alpha: float = 8.0,
        second_reweight: bool = True,
        mentor: Literal["pd", "threshold", "learned"] = "pd",
        lam_rule: Literal["hard", "soft"] = "hard",
        burn_in: float = 0.1,
        update_rate: float = 0.5,
        temperature: float = 1.0,
        ema: float = 0.9999,
        mentor_file: str = "package",
    ) -> None:
        super().__init__(task)
        if mentor not in ("pd", "threshold", "learned"):
            raise unknown("mentor", mentor, ("pd", "threshold", "learned"))
        if lam_rule not in ("hard", "soft"):
            raise unknown("lam_rule", lam_rule, ("hard", "soft"))
        self.mentor, self.lam_rule = mentor, lam_rule
        self.burn_in_percent = max(100 * burn_in - 1, 19 if mentor == "pd" else 0)  # before it every weight is 1
        self.keep, self.alpha, self.second_reweight = keep, alpha, second_reweight
        self.update_rate, self.temperature, self.ema = update_rate, temperature, ema
        self.average = copy.deepcopy(self.nets[0]).requires_grad_(False)
        device = next(self.nets.parameters()).device
        self.learned = Mentor(mentor_file).to(device) if mentor == "learned" else None
        self.register_buffer("m1", torch.full((), torch.nan, device=device))
        self.register_buffer("m2", torch.full((), torch.nan, device=device))

    def settled(self) -> float:
        return min(self.burn_in_percent / 100, 1.0)

    def probs(self, x: Tensor) -> Tensor:
        return self.average(x).float().softmax(1)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        per_epoch = -(-len(train) // train.batch_size)
        for i, batch in enumerate(train.batches()):
            yield {"index": batch.index, "passes": 4 * len(batch.y)} | self.step(batch, t)
            self._average(t * per_epoch + i)
        for mine, theirs in zip(self.average.buffers(), self.nets[0].buffers(), strict=True):
            mine.copy_(theirs)

    def step(self, batch: Batch, t: int) -> Log:
        e = progress(t, self.task.epochs)
        with torch.no_grad():
            losses = F.cross_entropy(self._logits_apart(batch.x), batch.y, reduction="none")
            self.m1 = moving_average(self.m1, nearest_rank(losses, self.keep), self.update_rate)
            v = self._weigh(losses, self.m1, e)
            partner = draw_partners(partner_probs(v, self.temperature), torch.rand(len(v)))
            lam = mixing_coefficients(beta_draws(self.alpha, len(v)).to(v), v, self.lam_rule)
            q = F.one_hot(batch.y, self.task.n_classes).to(v)
            x, q = mix(batch.x, q, lam, partner)
        mixed = F.cross_entropy(self.nets[0](x), q, reduction="none")
        if self.second_reweight:
            fixed = mixed.detach()
            self.m2 = moving_average(self.m2, nearest_rank(fixed, self.keep), self.update_rate)
            mixed = self._weigh(fixed, self.m2, e) * mixed
        loss = mixed.mean()
        self.descend(0, loss)
        log: Log = {"loss": loss.detach(), "trusted": (v >= 0.5).float().mean()}
        return log if e < self.burn_in_percent else log | {"weight": v}

    def _weigh(self, losses: Tensor, m: Tensor, e: int) -> Tensor:
        if e < self.burn_in_percent:
            return torch.ones_like(losses)
        return self.learned(losses, losses - m) if self.learned else mentor_weights(self.mentor, losses, m, e)

    def _logits_apart(self, x: Tensor) -> Tensor:
        """Logits in train mode, with batch norm's running statistics left as they are."""
        net = self.nets[0]
        return torch.func.functional_call(net, {name: b.clone() for name, b in net.named_buffers()}, (x,))

    @torch.no_grad()
    def _average(self, update: int) -> None:
        decay = average_decay(self.ema, update)
        torch._foreach_lerp_(list(self.average.parameters()), list(self.nets[0].parameters()), 1 - decay)
