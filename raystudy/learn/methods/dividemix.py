"""DivideMix: split the data by a mixture model of one net's losses, train the other net on the split by MixMatch.

Paper: Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020 (arXiv
2002.07394). Original code: LiJunnan1992/DivideMix @d9d3058 (Train_cifar.py).

| original | here |
| --- | --- |
| co-divide: w_i = posterior of the smaller-mean Gaussian of the losses | ``DivideMix.divide``, ``ops.gmm_1d`` |
| on losses min-max-normalised over the set, per net; labelled where w > tau (strict) | ``ops.normalise_losses`` |
| net 1 is trained on net 2's split and net 2 on net 1's; both splits precede both trainings | ``DivideMix.epoch`` |
| co-refinement: p = w y + (1 - w) mean of the net's own two views, sharpened (eq. 3, 4) | ``co_refine`` |
| co-guessing: mean of both nets' two views, sharpened | ``co_guess`` |
| mixing over the whole batch x1, x2, u1, u2, lam = max(draw, 1 - draw), one per batch (eq. 5 to 8) | ``ops.mix`` |
| L_x, L_u (eq. 9, 10; L_u is a mean over rows and classes) | ``semi_loss`` |
| L_reg, weight 1 (eq. 11) | ``losses.prior_penalty`` |
| lambda_u(t) = lambda_u clip((e - W) / R, 0, 1), e with the fraction of the epoch | ``ramp`` |
| confidence penalty in the warm-up (minus entropy) | ``confidence_penalty`` |
| prediction: sum of the logits of both nets | ``DivideMix.probs`` |
| AugDesc (an ablation): weak views for splits and guesses, strong ones for the update | ``strong`` |

Deviations from the original, and why
- What the original decides from the truth is a hyperparameter: ``loss_history`` (5 where it reads r == 0.9, else 1),
  ``confidence_penalty`` (1 where it reads asymmetric noise, else 0). ``lambda_u`` must fit the setting (0 at low
  noise; the default 25 costs four points at 20 %), ``p_threshold`` is 0.6 at 90 % by the author.
- Durations are fractions of the budget (W 10 and R 16 of 300 epochs, W 30 for CIFAR-100). Exactly ``epochs`` epochs
  are trained (the original runs one more). The learning rate is the recipe's (the original's drops at half, not after
  W).
- Empty labelled set (collapse): that net is trained for this epoch on everything as in warm-up; the original crashes.
  Empty unlabelled set (low noise): the labelled terms only; the original crashes here too.
- ``guess="train"`` (the default, as published): the trained net guesses in train mode, on the statistics of the
  batch, and those forwards move its running statistics. ``guess="eval"`` (safe too, by the author) needs one forward
  pass instead of four.
- The unlabelled set is cycled with a fresh order each round (a bare ``except`` around it there). The last batch may
  be of one image: the networks' batch norm then uses its running statistics (the original crashes).
- The mixture is our EM, the same fit as scikit-learn's with a k-means start that needs no seed. Losses are normalised
  per net and sensitive to outliers, as published; equal losses give posterior 1 for all, and non-finite ones too.
- Penalties are computed from log-softmax (p log p of underflowed probabilities is NaN in the original).
- lam and permutations come from torch's seeded generator (NumPy is not seeded there).
- ``probs`` is the softmax of the summed logits, so its arg max is the paper's; it is sharper than a mean of
  probabilities.
- Clothing1M (class-balanced subsets, labelled rows only, selected on clean validation data) and WebVision are not
  rebuilt.
- ``strong=True`` is no part of DivideMix but the switch of Nishi et al. (CVPR 2021, arXiv 2103.02130;
  KentoNishi/Augmentation-for-LNL): losses and guesses by weakly augmented images, the gradient step on two strong views of the
  same ones. Their warm-up stays weak too; their strong policy is AutoAugment's of CIFAR-10, ours the study's.
- Weights are the mean of both nets' clean posteriors, reported each epoch after the warm-up. Clean labels (the
  original logs an AUC from them) are not seen here.

Cost: an update is 4 Bu + 2 Bx passes forward and 2 Bx + 2 Bu forward and backward, per net; the number of updates
follows the labelled set, so at high noise epochs are short. If ``clean_mean`` and ``noisy_mean`` coincide the split
means nothing.
"""

from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy.errors import InputError, unknown
from raystudy.learn.losses import prior_penalty, soft_cross_entropy
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.ops import beta_draw, gmm_1d, mix, normalise_losses, permutation
from raystudy.learn.semi import cycle, views

EVAL_BATCH = 2048  # images per forward pass when losses are collected; changes no result


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T) renormalised over the classes of ``p`` [B, K] (Li et al. 2020, eq. 4)."""
    p = p ** (1 / temperature)
    return p / p.sum(1, keepdim=True)


def co_guess(logits: list[Tensor], temperature: float) -> Tensor:
    """Targets [B, K] of unlabelled images: the mean prediction over nets and views (logits [B, K] each), sharpened."""
    return sharpen(torch.stack([z.softmax(1) for z in logits]).mean(0), temperature)


def co_refine(y_onehot: Tensor, w: Tensor, probs: Tensor, temperature: float) -> Tensor:
    """Targets [B, K] of labelled images: w y + (1 - w) p, sharpened (eq. 3, 4).

    ``y_onehot`` [B, K], ``w`` [B] clean probabilities, ``probs`` [B, K] mean prediction of the trained net.
    """
    return sharpen(torch.lerp(probs, y_onehot, w[:, None]), temperature)


def semi_loss(logits: Tensor, targets: Tensor, n_labelled: int) -> tuple[Tensor, Tensor]:
    """(L_x, L_u) of mixed rows, labelled ones first; ``logits`` and ``targets`` [M, K] (eq. 9, 10).

    L_x: mean cross-entropy of the first ``n_labelled`` rows. L_u: mean over rows *and classes* of
    (softmax - target)^2 of the rest, 0 where there is no rest.
    """
    loss_x = soft_cross_entropy(logits[:n_labelled], targets[:n_labelled])
    if n_labelled == len(logits):
        return loss_x, loss_x.new_zeros(())
    return loss_x, F.mse_loss(logits[n_labelled:].softmax(1), targets[n_labelled:])


def confidence_penalty(logits: Tensor) -> Tensor:
    """Mean negative entropy, sum_k p log p, of ``logits`` [B, K]; scalar (Pereyra et al. 2017)."""
    log_p = F.log_softmax(logits, 1)
    return (log_p.exp() * log_p).sum(1).mean()


def ramp(progress: float, warmup: float, length: float) -> float:
    """clip((e - W) / R, 0, 1) at the fractional epoch ``progress`` e; W, R in epochs."""
    return min(max((progress - warmup) / length, 0.0), 1.0)


def epoch_progress(t: int, step: int, n_labelled: int, batch_size: int) -> float:
    """Where in epoch ``t`` the ramp is at ``step``: it begins anew with each pass over the labelled samples.

    A pass counts as n // B + 1 steps, as in the original: one too many where B divides n.
    """
    return t + step % -(-n_labelled // batch_size) / (n_labelled // batch_size + 1)


class DivideMix(Method):
    """DivideMix.

    ``p_threshold``: a sample is labelled where its clean probability is above it. ``lambda_u``: weight of the
    unlabelled loss. ``alpha``: strength of mixing. ``temperature``: of sharpening. ``warmup``, ``rampup``: fractions of
    the epochs. ``loss_history``: how many epochs of losses the split averages. ``confidence_penalty``: its weight in
    the warm-up. ``prior_penalty``: weight of the prior penalty after it. ``reg_covar``: added to the mixture's
    variances. ``guess``: mode of the trained net while it guesses. ``strong``: descend on strongly augmented views.
    """

    n_nets = 2
    past_losses: Tensor  # [2, loss_history, n] normalised losses, newest last
    n_past: Tensor  # how many of them are filled

    def __init__(
        self,
        task: Task,
        *,
        p_threshold: float = 0.5,
        lambda_u: float = 25.0,
        alpha: float = 4.0,
        temperature: float = 0.5,
        warmup: float = 10 / 300,
        rampup: float = 16 / 300,
        loss_history: int = 1,
        confidence_penalty: float = 0.0,
        prior_penalty: float = 1.0,
        reg_covar: float = 5e-4,
        guess: Literal["train", "eval"] = "train",
        strong: bool = False,
    ) -> None:
        super().__init__(task)
        if guess not in ("train", "eval"):
            raise unknown("guess", guess, ("train", "eval"))
        if loss_history < 1 or warmup > 1 or rampup > 1:
            told = f"loss_history={loss_history}, warmup={warmup:g}, rampup={rampup:g}"
            raise InputError(
                f"dividemix: {told}; loss_history is at least 1, warmup and rampup are fractions of the epochs"
            )
        self.p_threshold, self.lambda_u, self.alpha, self.temperature = p_threshold, lambda_u, alpha, temperature
        self.confidence_weight, self.prior_weight = confidence_penalty, prior_penalty
        self.reg_covar, self.guess, self.strong = reg_covar, guess, strong
        self.settled_at = min(warmup + rampup, 1.0)
        self.warmup_epochs = max(round(warmup * task.epochs), 1)  # a split by the losses of untrained nets is no split
        self.rampup_epochs = max(round(rampup * task.epochs), 1)
        device = next(self.nets.parameters()).device
        self.register_buffer("past_losses", torch.zeros(2, loss_history, task.n, device=device))
        self.register_buffer("n_past", torch.zeros((), dtype=torch.int64, device=device))

    def settled(self) -> float:
        return self.settled_at

    def probs(self, x: Tensor) -> Tensor:
        return (self.nets[0](x).float() + self.nets[1](x).float()).softmax(1)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t < self.warmup_epochs:
            for i in range(2):
                yield from self.warm_up(i, train)
            return
        w, log = self.divide(train)
        yield log
        for i in range(2):
            clean = w[1 - i]  # the peer's split
            labelled = clean > self.p_threshold
            if labelled.any():
                yield from self.mixmatch(i, t, train, clean.float(), labelled)
            else:
                yield from self.warm_up(i, train)

    def warm_up(self, i: int, train: Train) -> Iterator[Log]:
        """One pass of net ``i`` over everything, on batches as large as a labelled and an unlabelled one together."""
        net = self.nets[i].train()
        for batch in train.batches(batch_size=2 * train.batch_size):
            logits = net(batch.x)
            loss = F.cross_entropy(logits, batch.y)
            if self.confidence_weight:
                loss = loss + self.confidence_weight * confidence_penalty(logits)
            self.descend(i, loss)
            yield {"loss": loss.detach(), "passes": 3 * len(batch.y)}

    @torch.no_grad()
    def divide(self, train: Train) -> tuple[Tensor, Log]:
        """The clean probability of every sample by each net's losses, [2, n] float64, and the log of the split."""
        self.eval()
        losses = torch.zeros_like(self.past_losses[:, 0])
        for batch in train.batches(augment=False, shuffle=False, batch_size=EVAL_BATCH):
            for i, net in enumerate(self.nets):
                losses[i, batch.index] = F.cross_entropy(net(batch.x).float(), batch.y, reduction="none")
        newest = torch.stack([normalise_losses(row) for row in losses])
        self.past_losses = torch.cat([self.past_losses[:, 1:], newest[:, None]], 1)
        self.n_past += 1
        window = min(int(self.n_past), self.past_losses.shape[1])
        fits = [gmm_1d(row, reg_covar=self.reg_covar) for row in self.past_losses[:, -window:].mean(1)]
        w = torch.stack([fit.posterior for fit in fits])
        means = torch.stack([fit.means for fit in fits]).mean(0)
        log = {
            "index": torch.arange(len(train), device=w.device),
            "weight": w.mean(0).float(),
            "passes": 2 * len(train),
            "clean_mean": means[0],
            "noisy_mean": means[1],
            "clean_share": torch.stack([fit.weights[0] for fit in fits]).mean(),
            "labelled": (w > self.p_threshold).double().mean(),
        }
        return w, log

    def mixmatch(
        self, i: int, t: int, train: Train, w: Tensor, labelled: Tensor, steps: int | None = None
    ) -> Iterator[Log]:
        """One pass of net ``i`` over the labelled samples, or ``steps`` updates, with as many unlabelled ones beside them."""
        net, peer = self.nets[i].train(), self.nets[1 - i].eval()
        subset_x, subset_u = labelled.nonzero().squeeze(1), (~labelled).nonzero().squeeze(1)
        labelled_x, one_pass = cycle(train, subset_x, self.strong), -(-len(subset_x) // train.batch_size)
        unlabelled = cycle(train, subset_u, self.strong) if len(subset_u) else None
        for step in range(steps or one_pass):
            x, strong_x = next(labelled_x)
            u, strong_u = next(unlabelled) if unlabelled else (None, None)
            with torch.no_grad():
                images, targets = self._targets(net, peer, x, w[x.index], u)
                if strong_x is not None:
                    images = torch.cat(views(strong_x) + views(strong_u))
                lam = beta_draw(self.alpha)
                images, targets = mix(images, targets, max(lam, 1 - lam), permutation(len(images), images.device))
            logits = net(images)
            loss_x, loss_u = semi_loss(logits, targets, 2 * len(x.y))
            progress = epoch_progress(t, step, len(subset_x), train.batch_size)
            weight_u = self.lambda_u * ramp(progress, self.warmup_epochs, self.rampup_epochs)
            loss = loss_x + weight_u * loss_u + self.prior_weight * prior_penalty(logits)
            self.descend(i, loss)
            n_u = len(u.y) if u else 0
            yield {"loss": loss.detach(), "passes": 8 * len(x.y) + 10 * n_u}

    def _targets(self, net: nn.Module, peer: nn.Module, x: Batch, w: Tensor, u: Batch | None) -> tuple[Tensor, Tensor]:
        """Images [M, ...] in the order x1, x2, u1, u2 and their targets [M, K], M = 2 Bx + 2 Bu."""
        views_x, views_u = views(x), views(u)
        # The original's order (it matters to batch norm's running statistics): unlabelled views first.
        *own_u, own_x1, own_x2 = _forward_views(net, views_u + views_x, self.guess)
        probs = (own_x1.softmax(1) + own_x2.softmax(1)) / 2
        q_x = co_refine(F.one_hot(x.y, self.task.n_classes).to(probs), w, probs, self.temperature)
        if not u:
            return torch.cat(views_x), torch.cat([q_x, q_x])
        theirs = peer(torch.cat(views_u)).chunk(2)  # in eval mode one pass gives what two would
        q_u = co_guess([*own_u, *theirs], self.temperature)
        return torch.cat(views_x + views_u), torch.cat([q_x, q_x, q_u, q_u])


def _forward_views(net: nn.Module, images: list[Tensor], guess: str) -> list[Tensor]:
    """The logits of each view. In train mode each view is a batch of its own; in eval mode one pass serves all."""
    if guess == "train":
        return [net(view) for view in images]
    net.eval()
    logits = net(torch.cat(images)).split([len(view) for view in images])
    net.train()
    return list(logits)
