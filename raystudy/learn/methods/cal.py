"""CAL: covariances between noise and loss, estimated from a first training's labels, are taken out of a second one's peer loss.

Paper: Zhu, Liu, Liu, "A Second-Order Approach to Learning with Instance-Dependent Label Noise", CVPR 2021 (arXiv
2012.11854). Original code: UCSC-REAL/CAL @bdb376b (lossfuncs/peerloss.py, exptPeerReg.py, peerreg_CAL.py).

| equation | here |
| --- | --- |
| stage 1: mean -log(p_y + 1e-8) - alpha mean sum_k pi'_k (-log(p_k + 1e-5)), pi' = sqrt(pi) / sum | ``peer_regularised``, ``prior_of`` |
| its labels: given where -log p_y - mean_k -log p_k < -8, else arg max | ``distil`` |
| stage 2: the same with pi, less sum_i P_i mean over class i of sum_j T_ij(n) (l_nj - m_ij) | ``covariance`` |
| T_ij(n) = 1[d_n = i] (1[y_n = j] - its mean within class i) | ``given_shares``, never as [K, K, N] |
| alpha: linear through (0, 0), (10, 0), (40, a), then a; rate 0.1^(e // 60) / (1 + alpha) | ``segments``, ``CAL._set_rate`` |

Deviations from the original, and why
- Both stages of 100 epochs share one budget. Stage 1 stops where its labels are taken, at epoch 65 (``sieve``) of a plan as long as stage
  2's; stage 2 begins from fresh weights. The learning rate starts anew for it, so both follow the original's steps from the
  recipe's first rate, whatever the recipe's schedule.
- Without a file of stage 1's labels the original silently takes the *clean* labels for them, an oracle run; its class statistics
  are printed from them, too. Here there is no such way.
- The labels come from single augmented training passes at different moments of one epoch, there as here. The paper drops samples
  between two thresholds, the code has none between: ``band`` is their distance, 0 as in the code.
- The threshold -8 hangs on the 1e-8 in the logarithm: the mean over classes is at most 16.6 for 10 classes and 18.2 for 100, so a score
  below -8 needs a very confident fit, and early on most labels are predictions. Another K asks for another threshold.
- For 100 classes the original multiplies the prior by 10 in both stages, its comment says in the first, and alpha stays 1: ``prior_sum``.
  The loss is that of a ten times larger alpha, as the paper writes it, but the rate is divided by 1 + 1 and not by 1 + 10.
- Three eps, kept: 1e-8 in cross-entropy and score, 1e-5 in the peer and covariance terms.
- A class whose members all have one given label has T = 0 and drops out of all counts, as there (1 - n / n is exactly 0).
- m is that of the epoch before, 0 in the first. As T sums to zero it moves the noise of the term, not its mean. An epoch that was
  not seen whole divides by the members of the whole set, as there.
- T is never stored as [K, K, N] (2 GB for 100 classes): two labels a sample and a [K, K] table say the same.
- The weight is what stage 2 holds of each label: 1 where stage 1's label is the given one, 0 where not, 1/2 where it has none.
- A typing error in the original's mean of the green channel, its import of torch._six and its seeds: matters of data and versions. Its
  noise is CORES' instance noise, one attractor class; CIFAR-100 is turned by up to 15 degrees on top of crop and flip, which no data set
  here does. Clothing1M is in the paper only.

Known traits, kept: it overfits while the rate is low where noise does not hang on the image (the published best epoch is chosen on the
test set, without a validation split; reruns lose 2 to 29 points by the last). ``covariance`` 0 is the peer loss from fresh weights. Where
two classes share the probability (asymmetric noise), either label's score is far below 0, as in CORES: stage 1 then tells no wrong labels.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import bounded_nll, expected_nll
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import label_shares

EPS_CE = 1e-8  # added to probabilities in cross-entropy
EPS_REG = 1e-5  # and in the peer and covariance terms
EPS_DISTIL = 1e-8  # and in the score of a label
MILESTONES = (0.1, 0.4, 0.8)  # of a stage: where alpha has the values (0, a, a)
DROP_EVERY = 0.6  # of a stage: the rate falls to a tenth
NONE = -1  # the distilled label of a sample that has none

Prior = Literal["sqrt", "histogram", "uniform"]
PRIORS = ("sqrt", "histogram", "uniform")


def segments(e: float, milestones: Sequence[float], values: Sequence[float]) -> float:
    """At ``e`` >= 0 the piecewise linear function through (0, 0) and (milestone, value), constant after the last."""
    left, low = 0.0, 0.0
    for right, high in zip(milestones, values, strict=True):
        if e < right:
            return low + (high - low) * (e - left) / (right - left)
        left, low = right, high
    return low


def prior_of(kind: Prior, shares: Tensor) -> Tensor:
    """The prior [K] of the peer term from label ``shares`` [K]: "sqrt" flattens them, "histogram" keeps them, or "uniform"."""
    if kind == "uniform":
        return torch.full_like(shares, 1 / len(shares))
    return shares.sqrt() / shares.sqrt().sum() if kind == "sqrt" else shares


def peer_regularised(logits: Tensor, y: Tensor, alpha: float, prior: Tensor) -> Tensor:
    """Mean cross-entropy less ``alpha`` times that with a label drawn from ``prior`` [K]; a scalar, of ``logits`` [B, K], ``y`` [B]."""
    return bounded_nll(logits, y, EPS_CE).mean() - alpha * expected_nll(logits, prior, EPS_REG).mean()


def distil_scores(logits: Tensor, y: Tensor) -> Tensor:
    """-log p_y less the mean over classes of -log p_k, [B]: far below 0 where the label fits confidently."""
    uniform = torch.full((logits.shape[1],), 1 / logits.shape[1], dtype=torch.float64, device=logits.device)
    return bounded_nll(logits, y, EPS_DISTIL) - expected_nll(logits, uniform, EPS_DISTIL)


def distil(logits: Tensor, y: Tensor, threshold: float, band: float = 0.0) -> Tensor:
    """Estimated Bayes labels [B]: ``y`` where the score is below the band around the threshold, arg max above, NONE within."""
    scores = distil_scores(logits, y)
    label = torch.where(scores < threshold - band / 2, y, logits.argmax(1))
    within = (scores >= threshold - band / 2) & (scores < threshold + band / 2)
    return torch.where(within, NONE, label)


def given_shares(distilled: Tensor, y: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """The share of given label j among samples of distilled label i, [K, K], and the share of i, [K]; float64, without NONE."""
    inside = distilled != NONE
    counts = torch.bincount(distilled[inside] * n_classes + y[inside], minlength=n_classes**2)
    counts = counts.view(n_classes, n_classes).double()
    sizes = counts.sum(1)
    return counts / sizes.clamp_min(1)[:, None], sizes / sizes.sum().clamp_min(1)


def members(distilled: Tensor, y: Tensor, shares: Tensor) -> Tensor:
    """Which samples have a part in the covariance, bool [B]: a distilled label whose class has more than one given label."""
    return (distilled != NONE) & (shares[distilled.clamp_min(0), y] < 1)


def covariance(
    losses: Tensor, y: Tensor, distilled: Tensor, shares: Tensor, class_shares: Tensor, class_losses: Tensor
) -> Tensor:
    """sum_i P_i mean over the members n of class i of sum_j T_ij(n) (l_nj - m_ij), a scalar.

    ``losses`` [B, K] of every class taken for the label, ``y`` and ``distilled`` [B], ``shares`` [K, K] and ``class_shares`` P [K] as
    from ``given_shares``, ``class_losses`` m [K, K].
    """
    n_classes = losses.shape[1]
    mine = members(distilled, y, shares).nonzero().squeeze(1)
    d = distilled[mine]
    centred = F.one_hot(y[mine], n_classes) - shares[d]
    inner = (centred.to(losses) * (losses[mine] - class_losses[d].to(losses))).sum(1)
    counts = torch.bincount(d, minlength=n_classes)
    return (inner * (class_shares / counts.clamp_min(1))[d].to(losses)).sum()


class CAL(Method):
    """CAL.

    ``alpha1``, ``alpha2``: final weight of the peer term in the first and the second stage. ``sieve``: where in its plan the first stage
    stops and gives its labels. ``threshold``: samples whose score is below it keep their label. ``band``: width of scores around it
    without a label. ``covariance``: weight of that term. ``prior``: of the first stage's peer term, "sqrt" (flattened), "histogram" or
    "uniform". ``prior_sum``: what the priors of both stages sum to. ``slow_down``: divide the learning rate by 1 + alpha.
    """

    distilled: Tensor  # [n] estimated Bayes labels, NONE where there is none
    class_losses: Tensor  # [K, K] m: mean loss of label j in class i, in the epoch before

    def __init__(
        self,
        task: Task,
        *,
        alpha1: float = 2.0,
        alpha2: float = 1.0,
        sieve: float = 0.65,
        threshold: float = -8.0,
        band: float = 0.0,
        covariance: float = 1.0,
        prior: Prior = "sqrt",
        prior_sum: float = 1.0,
        slow_down: bool = True,
    ) -> None:
        super().__init__(task)
        if prior not in PRIORS:
            raise unknown("prior", prior, PRIORS)
        self.prior: Prior = prior
        self.prior_sum = prior_sum
        self.alphas = (alpha1, alpha2)
        self.threshold, self.band, self.covariance, self.slow_down = threshold, band, covariance, slow_down
        # As in the original both plans are equally long, and the first one is left after the epoch of the sieve.
        self.plan = max(round((task.epochs - 1) / (1 + sieve)), 1)
        self.second_epoch = max(task.epochs - self.plan, 1)
        self.settled_at = min((self.second_epoch + MILESTONES[1] * self.plan) / task.epochs, 1.0)
        self.base_lr: float = self.optimizers[0].defaults["lr"]
        device = next(self.nets.parameters()).device
        self.register_buffer("distilled", torch.full((task.n,), NONE, device=device))
        self.register_buffer("class_losses", torch.zeros(task.n_classes, task.n_classes, device=device))

    def settled(self) -> float:
        return self.settled_at

    def alpha(self, t: int) -> float:
        """The weight of the peer term in epoch ``t``."""
        stage = int(t >= self.second_epoch)
        a = self.alphas[stage]
        return segments((t - stage * self.second_epoch) / self.plan, MILESTONES, (0.0, a, a))

    def _set_rate(self, t: int) -> None:
        done = (t - self.second_epoch if t >= self.second_epoch else t) / self.plan
        rate = self.base_lr * 0.1 ** int(done / DROP_EVERY) / (1 + self.alpha(t) * self.slow_down)
        for group in self.optimizers[0].param_groups:
            group["lr"] = rate

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        self._set_rate(t)
        everyone = label_shares(train.y, train.n_classes)
        if t < self.second_epoch:
            prior = self.prior_sum * prior_of(self.prior, everyone)
            for batch in train.batches():
                yield {"passes": 3 * len(batch.y)} | self._first_step(batch, t, prior)
            return
        if t == self.second_epoch:
            self.nets[0].load_state_dict(self.task.net().state_dict())
            self.optimizers[0].state.clear()
        yield self._belief(train)
        shares, class_shares = given_shares(self.distilled, train.y, train.n_classes)
        sums = torch.zeros_like(self.class_losses)
        for batch in train.batches():
            yield {"passes": 3 * len(batch.y)} | self.second_step(
                batch, t, self.prior_sum * everyone, shares, class_shares, sums
            )
        mine = members(self.distilled, train.y, shares)
        sizes = torch.bincount(self.distilled[mine], minlength=train.n_classes).clamp_min(1)
        self.class_losses.copy_(sums / sizes[:, None])

    def _first_step(self, batch: Batch, t: int, prior: Tensor) -> Log:
        logits = self.nets[0](batch.x)
        if t == self.second_epoch - 1:
            self.distilled[batch.index] = distil(logits.detach(), batch.y, self.threshold, self.band)
        loss = peer_regularised(logits, batch.y, self.alpha(t), prior)
        self.descend(0, loss)
        return {"loss": loss.detach()}

    def _belief(self, train: Train) -> Log:
        """What stage 1's labels say of the given ones."""
        weight = torch.where(self.distilled == NONE, 0.5, (self.distilled == train.y).float())
        agree = (self.distilled == train.y).float().mean()
        return {"index": torch.arange(len(train), device=weight.device), "weight": weight, "agree": agree}

    def second_step(
        self, batch: Batch, t: int, prior: Tensor, shares: Tensor, class_shares: Tensor, sums: Tensor
    ) -> Log:
        """One update of stage 2; ``sums`` [K, K] collects the losses of each class."""
        distilled = self.distilled[batch.index]
        logits = self.nets[0](batch.x)
        losses = -torch.log(logits.softmax(1) + EPS_REG)
        term = covariance(losses, batch.y, distilled, shares, class_shares, self.class_losses)
        loss = peer_regularised(logits, batch.y, self.alpha(t), prior) - self.covariance * term
        self.descend(0, loss)
        mine = members(distilled, batch.y, shares)
        of_class = F.one_hot(distilled.clamp_min(0), len(sums)) * mine[:, None]
        sums += of_class.t().to(sums) @ losses.detach().to(sums)
        return {"loss": loss.detach(), "covariance": term.detach()}
