"""M-correction: a beta mixture of the losses says how far each label is replaced by the network's own prediction, under mixup.

Paper: Arazo, Ortego, Albert, O'Connor, McGuinness, "Unsupervised Label Noise Modeling and Loss Correction", ICML 2019 (arXiv
1904.11238). Original code: PaulAlbert31/LabelNoiseCorrection @5e9a73e (main.py, utils.py). Its names: M-DYR-H is ``bootstrap="hard"``,
M-DYR-S "soft", MD-DYR-SH "soft_to_hard".

| original | here |
| --- | --- |
| losses of an epoch, cut at the 5th and 95th percentile, min-max-normalised | ``loss_range``, ``normalise`` |
| beta mixture by EM; w_i = posterior of the noisy component (eq. 3 to 8) | ``ops.bmm_1d``, ``ops.bmm_posterior`` |
| w by a table of 100 entries, constant from its maximum on | ``noise_table``, ``look_up`` |
| target (1 - w) y + w z, z the prediction on the unmixed image (eq. 9, 10) | ``bootstrap_targets`` |
| lam of two images' losses on the mixed image (eq. 12), in the equal form of a mixed target | ``ops.mix``, ``losses.soft_cross_entropy`` |
| delta_i = (1 - w_i) / ((1 - w_i) + (1 - w_perm(i))) | ``guided_coefficient`` |
| regulariser R, only while bootstrapping (eq. 13) | ``losses.prior_penalty`` |

Deviations from the original, and why
- Its default flags do not run the method (no mixup, weight 0 of R, 30 epochs); ours are those of its runs: alpha 32, R 1, M-DYR-H.
- Durations are fractions: epoch 106 of 300 begins bootstrapping (``start``; hard-coded there for MD-DYR-SH), 5 epochs of guided mixup
  before it in MD-DYR-SH (``lead``), whose temperature reaches .001 in epoch 199 (``temperature_end``; 89 steps there, whatever the
  budget). Keep ``start`` after the recipe's first drop. Drops act in epochs 100 and 250 exactly (fractions .33 and .83 of 0-based epochs).
  Plain mixup at alpha 32 before is essential: cross-entropy would memorise. ``alpha`` is that of the plain and the guided phase, too,
  where the original has 32 whatever its flag says: a point with another alpha differs from the original from the first epoch on.
- R uses the number of classes; the soft variant of the original uses 10 for CIFAR-100, which makes its gradient ten times too large.
  Its soft variant weighs both halves lam and 1 - lam, as its last commit does (before: one half each). Without R, high noise collapses.
- ``order_components=True`` calls the component with the larger mean the noisy one; False is published: component 1, however it ended.
- Degenerate moments keep the component's last parameters, and losses without spread give w = 0; the original turns NaN.
- The table repairs the upper end only: w > 0 for the smallest losses can occur, as published. ``mixture="gaussian"`` is an extension.
- w is computed in every batch from current losses in eval mode, with last epoch's mixture, as published. Forwards run in the order
  clean image (train mode: it moves batch norm's statistics, as published), clean image in eval mode, mixed image; the original
  takes the last two the other way round in the H and S variants.
- Losses are tracked without gradients (kept by mistake there) on augmented images in fixed order (``tracking="train"``), or on plain
  ones ("eval"); only from the epoch before the first use on, since the mixture is fitted afresh each time.
- Its noise resets all seeds and redraws labels over classes 0 to 9 even for CIFAR-100; a seed of 0 means none; the best epoch is by the
  test set, as the authors say. Matters of noise, seeds and selection here. At 90 % M-DYR-H fails in the original, too (9.9 last).
- Weights are 1 - w of the tracked losses. Samples are never discarded; w may be used to flag noise.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn.losses import prior_penalty, soft_cross_entropy
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import Bmm, beta_draw, bmm_1d, bmm_posterior, gmm_1d, gmm_posterior, mix, permutation

EVAL_BATCH = 2048  # images per forward pass when losses are tracked; changes no result
BINS = 100  # entries of the table of posteriors
W_MIN = 1e-4  # w is kept inside [W_MIN, 1 - W_MIN]
COLDEST = 0.001  # the last temperature of soft_to_hard

Bootstrap = Literal["hard", "soft", "soft_to_hard"]
Mixture = Literal["beta", "gaussian"]


def loss_range(losses: Tensor, lower: float = 0.05, upper: float = 0.95) -> tuple[Tensor, Tensor, Tensor]:
    """(low, high, inside): the ``lower`` and ``upper`` quantile of ``losses`` [n], and the losses [m] within.

    ``low`` is the lower quantile plus 1e-5, as in the original.
    """
    low, high = torch.quantile(losses, torch.tensor([lower, upper], dtype=losses.dtype, device=losses.device))
    return low + 1e-5, high, losses[(losses >= low) & (losses <= high)]


def normalise(losses: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(l - low) / (high - low + 1e-6) of ``losses`` [n]; .999 where that is 1 or more, .001 where it is 0 or less."""
    scaled = (losses - low) / (high - low + 1e-6)
    return torch.where(scaled >= 1, 0.999, torch.where(scaled <= 0, 0.001, scaled))


def noise_table(
    inside: Tensor, max_iter: int = 10, mixture: Mixture = "beta", order: bool = True, bins: int = BINS
) -> Tensor:
    """p(noisy | loss) at ``bins`` points of (0, 1), float64, from normalised losses ``inside`` [m].

    Constant from its maximum on, so that the largest losses are not the cleaner ones. ``order``: the component with the larger
    mean is the noisy one; otherwise component 1.
    """
    at = torch.linspace(1e-12, 1 - 1e-12, bins, dtype=torch.float64, device=inside.device)
    if mixture == "gaussian":
        table = gmm_posterior(gmm_1d(inside, max_iter), at)
    else:
        bmm = bmm_1d(inside, max_iter)
        if order:
            by_mean = (bmm.alphas / (bmm.alphas + bmm.betas)).argsort()
            bmm = Bmm(*(values[by_mean] for values in bmm))
        table = bmm_posterior(bmm, at)
    return torch.where(torch.arange(bins, device=at.device) >= table.argmax(), table.max(), table)


def look_up(table: Tensor, losses: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """w = p(noisy) of ``losses`` [n] by the table, in [1e-4, 1 - 1e-4]."""
    n = len(table)
    bins = (n * normalise(losses.to(table.dtype), low, high).nan_to_num(0.999)).long().clamp(0, n - 1)
    return table[bins].clamp(W_MIN, 1 - W_MIN)


def bootstrap_targets(y_onehot: Tensor, logits: Tensor, w: Tensor, temperature: float) -> Tensor:
    """(1 - w) y + w z [B, K], z = softmax(logits / T), the one-hot of its largest entry for T = 0 (eq. 9, 10).

    ``y_onehot`` [B, K], ``logits`` [B, K] on the unmixed images, ``w`` [B] how noisy each label is.
    """
    if temperature == 0:
        z = F.one_hot(logits.argmax(1), logits.shape[1]).to(y_onehot)
    else:
        z = (logits / temperature).softmax(1).to(y_onehot)
    return torch.lerp(y_onehot, z, w.to(y_onehot)[:, None])


def guided_coefficient(w: Tensor, perm: Tensor) -> Tensor:
    """delta [B]: the share of image i in its mixture with image perm[i], by how clean each is; 1/2 for equal w."""
    return (1 - w) / ((1 - w) + (1 - w[perm]))


class MCorrection(Method):
    """M-correction.

    ``bootstrap``: which variant. ``alpha``: strength of mixup. ``reg``: weight of R. ``start``: fraction of the epochs before bootstrapping
    (or guided mixup). ``lead``, ``temperature_end`` (soft_to_hard only): fraction of guided mixup, and at which the temperature is at its
    lowest. ``em_iter``, ``trim``, ``mixture``, ``order_components``: of the mixture. ``tracking``: images whose losses it is fitted to.
    """

    table: Tensor  # [BINS] p(noisy) by normalised loss
    low: Tensor
    high: Tensor

    def __init__(
        self,
        task: Task,
        *,
        bootstrap: Bootstrap = "hard",
        alpha: float = 32.0,
        reg: float = 1.0,
        start: float = 0.35,
        lead: float = 5 / 300,
        temperature_end: float = 0.66,
        em_iter: int = 10,
        trim: float = 0.05,
        mixture: Mixture = "beta",
        order_components: bool = True,
        tracking: Literal["train", "eval"] = "train",
    ) -> None:
        super().__init__(task)
        for name, value, choices in (
            ("bootstrap", bootstrap, ("hard", "soft", "soft_to_hard")),
            ("mixture", mixture, ("beta", "gaussian")),
            ("tracking", tracking, ("train", "eval")),
        ):
            if value not in choices:
                raise unknown(name, value, choices)
        self.bootstrap: Bootstrap = bootstrap
        self.mixture: Mixture = mixture
        self.alpha, self.reg, self.em_iter, self.trim = alpha, reg, em_iter, trim
        self.order_components, self.tracking = order_components, tracking
        lead, end = (lead, max(temperature_end, start + lead)) if bootstrap == "soft_to_hard" else (0.0, start)
        self.settled_at = min(end, 1.0)
        self.guided_epoch = round(start * task.epochs)
        self.bootstrap_epoch = self.guided_epoch + round(lead * task.epochs)
        self.coldest_epoch = round(end * task.epochs)
        device = next(self.nets.parameters()).device
        self.register_buffer("table", torch.zeros(BINS, dtype=torch.float64, device=device))
        for name in ("low", "high"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64, device=device))

    def settled(self) -> float:
        return self.settled_at

    def temperature(self, t: int) -> float:
        """Of the predictions that replace labels in epoch ``t``; 0 means their largest class."""
        if self.bootstrap != "soft_to_hard":
            return 0.0 if self.bootstrap == "hard" else 1.0
        length = max(self.coldest_epoch - self.bootstrap_epoch, 1)
        return 1 + (COLDEST - 1) * min((t - self.bootstrap_epoch) / length, 1.0)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        yield from super().epoch(t, train)
        if t >= self.guided_epoch - 1:
            yield self._track(train)

    def step(self, batch: Batch, t: int) -> Log:
        net, x, n = self.nets[0], batch.x, len(batch.y)
        q = F.one_hot(batch.y, self.task.n_classes).to(x.dtype)
        lam, perm, passes = beta_draw(self.alpha), permutation(n, x.device), 3 * n
        if t < self.guided_epoch:
            x, q = mix(x, q, lam, perm)
        else:
            if t >= self.bootstrap_epoch:
                with torch.no_grad():
                    clean = net(x).float()
                w = self._noisy(batch)
                q = bootstrap_targets(q, clean, w, self.temperature(t))
                passes += n
            else:
                w = self._noisy(batch)
            passes += n
            if self.bootstrap == "soft_to_hard":
                mixed, _ = mix(x, q, guided_coefficient(w, perm).to(x), perm)
                _, q = mix(x, q, 0.5 if t >= self.bootstrap_epoch else lam, perm)
                x = mixed
            else:
                x, q = mix(x, q, lam, perm)
        logits = net(x)
        loss = soft_cross_entropy(logits, q)
        if t >= self.bootstrap_epoch:
            loss = loss + self.reg * prior_penalty(logits)
        self.descend(0, loss)
        return {"loss": loss.detach(), "passes": passes}

    @torch.no_grad()
    def _noisy(self, batch: Batch) -> Tensor:
        """w [B] of the batch's current losses."""
        self.nets[0].eval()
        losses = F.cross_entropy(self.nets[0](batch.x).float(), batch.y, reduction="none")
        self.nets[0].train()
        return look_up(self.table, losses, self.low, self.high)

    @torch.no_grad()
    def _track(self, train: Train) -> Log:
        """Refits the mixture to the losses of all samples."""
        self.eval()
        losses = torch.zeros(len(train), dtype=torch.float64, device=train.y.device)
        for batch in train.batches(augment=self.tracking == "train", shuffle=False, batch_size=EVAL_BATCH):
            logits = self.nets[0](batch.x).float()
            losses[batch.index] = F.cross_entropy(logits, batch.y, reduction="none").double()
        low, high, inside = loss_range(losses, self.trim, 1 - self.trim)
        fits = bool((high > low) & losses.isfinite().all())
        table = noise_table(normalise(inside, low, high), self.em_iter, self.mixture, self.order_components)
        self.table.copy_(table if fits else torch.zeros_like(table))
        self.low.copy_(low)
        self.high.copy_(high)
        w = look_up(self.table, losses, low, high)
        index = torch.arange(len(train), device=w.device)
        return {"index": index, "weight": 1 - w, "passes": len(train), "noisy_share": w.mean()}
