"""ProMix: keep as many clean samples as can be: small loss by class, and every label that is predicted with confidence.

Paper: Xiao, Dong, Wang, Feng, Wu, Chen, Zhao, "ProMix: Combating Label Noise via Maximizing Clean Sample Utility", IJCAI 2023 (arXiv
2207.10276). Original code: Justherozen/ProMix @40d8378 (Train_promix.py, utils/utils.py, utils/fmix.py).

| original | here |
| --- | --- |
| CSS: in each given class the min(ceil(rho N / K), n_c) smallest losses, of each net by its own | ``ProMix._small_losses`` |
| MHCS: also every sample whose given label has a probability > tau (weak view, train mode, undebiased) | ``keep_label`` |
| all others get the arg max of the prediction debiased by the running prior of the selected set | ``pseudo_labels`` |
| LGA: late, where fewer than a share of the batch is selected, those on which both nets agree with confidence > tau | ``guessed`` |
| on what is selected: CE + w (CR + MIX + FMIX), logits raised by a_o log prior, for both heads | ``ProMix._selected_loss`` |
| pseudo head, on the rest: beta (weak + w strong) soft cross-entropy against the sharpened debiased guess | ``ProMix._rest_loss`` |
| running priors of the selected and of the rest, momentum b, used from the next step on | ``ProMix._update_priors`` |
| w = min(e / R, 1), beta = 0.1 e / 2R before 2R and 0 from then on | ``ramps`` |
| both nets in one step; prediction: mean of the two primary heads | ``ProMix.epoch``, ``ProMix.probs`` |

Deviations from the original, and why
- Durations are fractions: W 10 (30 for CIFAR-100), R 50, LGA after 350 of 600 epochs (the *last 250*; ``start_expand`` 250 reads
  otherwise). Exactly ``epochs`` epochs, there one more.
- The loss of the rest has a weight below 0.1 and is off for the last 500 of 600 epochs, as published. ``keep_beta`` leaves it on. There
  ``debias_pl`` = 0 also makes that weight 1 for good; here the two are apart.
- The warm-up's penalty for asymmetric noise clamps *logits* at 1e-12 where probabilities were meant: negative ones become 0 and have no
  gradient. Published numbers are with that: ``rectified`` = true, the default; false is the entropy itself.
- Empty sets give NaN there, in losses and from then on in the priors (clean data: issues 12, 18). Here they add nothing and leave
  priors alone; a batch with nothing selected makes no step.
- The pseudo head is not trained in the warm-up, as published: its accuracy is chance then (and it is what the original's log file
  shows).
- Confidences and priors are undebiased, new labels are not: a guessed sample may get a label that the nets did not agree on, as
  published.
- The quota rho N / K is by given class: a small one is taken whole. rho is constant, as in run.sh; the ramp of the defaults (0.2 to
  0.6) is ``rho_start``, -1 for none.
- b = 0.9999 needs some 10,000 steps to forget its start: scale it with the steps of a study.
- FMix's mask is drawn from the Fourier spectrum of the image; vectors, which have none, get a second mixup of coefficient Beta(1, 1)
  with its hard targets. In front of a linear classifier of fixed vectors the heads share nothing: the pseudo head is left out there.
- Its released main imports data/utils.py, which is deleted, and does not start; without ``--cosine`` an undefined option is read; noise
  is drawn anew at every start; NumPy, which draws lam, is not seeded; asymmetric noise of CIFAR-100 is a key error; true labels are
  loaded and not used. The rate enters as rho = 0.7 at 20 % and 0.5 else: oracle. Rates of 80 and 90 % and two of CIFAR-10N's labels
  (rand2, rand3) have published numbers and no released settings.
- The learning rate ends at lr / 1000 there, the recipe's cosine at 0. Strong views are the study's (there RandAugment of 3 with
  cutout). Last batches are kept. Its contrastive head is not used there, and absent here.
- Weights: the share of both nets that keep the given label (CSS or MHCS).

Cost: per net and batch two forward and backward passes and up to four more of the selected images: 600 epochs of that; compare at
equal budget. A rerun of 250 epochs is far lower (Speechless-10308/WSC, issue 1).
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raystudy.errors import InputError
from raystudy.learn.features import Featured, apart, with_heads
from raystudy.learn.losses import soft_cross_entropy
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.dividemix import confidence_penalty as negative_entropy
from raystudy.learn.methods.dividemix import sharpen
from raystudy.learn.ops import beta_draw, mix, permutation
from raystudy.learn.semi import smallest_of_each_class

EVAL_BATCH = 2048  # images per forward pass when losses are collected; changes no result


def ramps(e: float, length: float, beta_max: float = 0.1, keep: bool = False) -> tuple[float, float]:
    """(w, beta) in epoch ``e``: min(e / R, 1), and beta_max e / 2R before 2R, then 0 (with ``keep`` beta_max)."""
    done = e / (2 * length)
    return min(e / length, 1.0), beta_max * done if done < 1 else beta_max * keep


def small_loss_share(e: float, length: float, start: float, end: float) -> float:
    """rho in epoch ``e``: from ``start`` to ``end`` over ``length`` epochs; ``end`` where ``start`` is negative."""
    return end if start < 0 else start + (end - start) * min(e / length, 1.0)


def small_losses(losses: Tensor, y: Tensor, n_classes: int, rho: float) -> Tensor:
    """Bool [n]: the ceil(rho n / K) smallest of ``losses`` [n] in each class of ``y`` [n]."""
    return smallest_of_each_class(losses, y, torch.full((n_classes,), math.ceil(len(y) / n_classes * rho)))


def keep_label(probs: Tensor, y: Tensor, small: Tensor, tau: float) -> Tensor:
    """Bool [B]: labels ``y`` [B] of a ``small`` loss, or predicted with more than ``tau``; ``probs`` [B, K]."""
    return small | (probs.gather(1, y[:, None]).squeeze(1) > tau)


def raised(logits: Tensor, prior: Tensor, strength: float) -> Tensor:
    """Logits to train on, z + a log prior; a negative ``strength`` debiases them."""
    return logits + strength * prior.log()


def pseudo_labels(logits: Tensor, y: Tensor, keep: Tensor, prior: Tensor, strength: float) -> Tensor:
    """Labels [B]: the given ``y`` where it is kept, else the arg max of the debiased ``logits`` [B, K]."""
    return torch.where(keep, y, raised(logits, prior, -strength).argmax(1))


def guessed(probs: Tensor, peers: Tensor, chosen: Tensor, tau: float, fill: float) -> Tensor:
    """Bool [B]: samples that join the ``chosen`` [B], until int(fill B) are: both nets agree with more than ``tau``, surest first."""
    (p, own), (q, other) = probs.max(1), peers.max(1)
    candidates = (p > tau) & (q > tau) & (own == other) & ~chosen
    room = max(int(fill * len(chosen)) - int(chosen.sum()), 0)
    score = torch.where(candidates, (p + q) / 2, -1.0)
    joined = torch.zeros_like(chosen)
    joined[score.topk(min(room, int(candidates.sum()))).indices] = True
    return joined


def two_targets(logits: Tensor, y: Tensor, perm: Tensor, lam: float) -> Tensor:
    """lam CE(y) + (1 - lam) CE(y[perm]), the loss of FMix; scalar."""
    return lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[perm])


def rectified_penalty(logits: Tensor) -> Tensor:
    """The published penalty of the warm-up: the negative entropy of logits clamped at 1e-12; scalar."""
    return negative_entropy(logits.clamp_min(1e-12))


def fourier_mask(lam: float, height: int, width: int, decay: float = 3.0) -> Tensor:
    """A mask [H, W] in {0, 1} with a share ``lam`` of ones in few blobs, from low-pass noise (Harris et al. 2020)."""
    across, down = torch.fft.rfftfreq(width), torch.fft.fftfreq(height)
    frequency = torch.hypot(down[:, None], across).clamp_min(1 / max(height, width))
    spectrum = torch.view_as_complex(torch.randn(*frequency.shape, 2)) / frequency**decay
    grey = torch.fft.irfft2(spectrum, s=(height, width)).flatten()
    mask = torch.zeros(height * width)
    mask[grey.topk(round(lam * height * width)).indices] = 1
    return mask.view(height, width)


class Heads(NamedTuple):
    """Logits [B, K] of the weak and the strong view by one head."""

    weak: Tensor
    strong: Tensor


class ProMix(Method):
    """ProMix.

    ``rho``: share of a class taken by small loss. ``rho_start``: where rho's ramp begins, -1 for none. ``tau``:
    confidence of matched labels and of guesses. ``debias_output``, ``debias_pl``: how far priors raise logits, and lower
    those of pseudo-labels. ``prior_momentum``: of the priors. ``fill``: share of a batch up to which guesses join.
    ``expand_from``: fraction of the epochs after which they do. ``beta``: largest weight of the loss on the rest.
    ``keep_beta``: it stays on after its ramp. ``alpha``: strength of mixup. ``temperature``: of sharpening. ``warmup``,
    ``ramp``: fractions of the epochs. ``confidence_penalty``: its weight in the warm-up. ``rectified``: that penalty as
    published, on clamped logits.
    """

    n_nets = 2
    priors: Tensor  # [2, 2, K] of each net: of the selected, of the rest

    def __init__(
        self,
        task: Task,
        *,
        rho: float = 0.5,
        rho_start: float = -1.0,
        tau: float = 0.99,
        debias_output: float = 0.8,
        debias_pl: float = 0.8,
        prior_momentum: float = 0.9999,
        fill: float = 0.9,
        expand_from: float = 350 / 600,
        beta: float = 0.1,
        keep_beta: bool = False,
        alpha: float = 4.0,
        temperature: float = 0.5,
        warmup: float = 10 / 600,
        ramp: float = 50 / 600,
        confidence_penalty: float = 0.0,
        rectified: bool = True,
    ) -> None:
        super().__init__(with_heads(task, pseudo=lambda width: nn.Linear(width, task.n_classes)))
        if not 0 < rho <= 1 or not 0 <= prior_momentum <= 1 or not ramp > 0 or warmup > 1:
            told = f"rho={rho:g}, prior_momentum={prior_momentum:g}, ramp={ramp:g}, warmup={warmup:g}"
            raise InputError(
                f"promix: {told}; rho is in (0, 1], prior_momentum in [0, 1], ramp above 0, warmup at most 1"
            )
        for net, optimizer in zip(self.nets, self.optimizers, strict=True):
            apart(optimizer, net.get_submodule("pseudo"))
        self.rho, self.rho_start, self.tau, self.fill = rho, rho_start, tau, fill
        self.debias_output, self.debias_pl, self.prior_momentum = debias_output, debias_pl, prior_momentum
        self.beta, self.keep_beta, self.alpha, self.temperature = beta, keep_beta, alpha, temperature
        self.confidence_weight, self.rectified = confidence_penalty, rectified
        self.settled_at = min(max(warmup, ramp), 1.0)
        self.warmup_epochs = max(round(warmup * task.epochs), 1)
        self.ramp_epochs, self.expand_epoch = ramp * task.epochs, expand_from * task.epochs
        device = next(self.nets.parameters()).device
        self.register_buffer("priors", torch.full((2, 2, task.n_classes), 1 / task.n_classes, device=device))

    def settled(self) -> float:
        return self.settled_at

    def probs(self, x: Tensor) -> Tensor:
        return ((self.nets[0](x).float() + self.nets[1](x).float()) / 2).softmax(1)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        if t < self.warmup_epochs:
            self.train()
            for batch in train.batches():
                yield self._warm_up(batch)
            return
        small = self._small_losses(t, train)
        yield {"passes": 2 * len(train), "small_loss": small.double().mean()}
        self.train()
        chosen = 0
        for batch in train.batches(views=2, augment=(True, "strong")):
            log = self._step(t, batch, small[:, batch.index])
            chosen += log.pop("chosen")
            yield log
        yield {"selected": chosen / (2 * len(train))}

    def _warm_up(self, batch: Batch) -> Log:
        """Cross-entropy of the primary heads."""
        total = torch.zeros((), device=batch.x.device)
        for i, net in enumerate(self.nets):
            logits = net(batch.x)
            loss = F.cross_entropy(logits, batch.y)
            if self.confidence_weight:
                penalty = rectified_penalty(logits) if self.rectified else negative_entropy(logits)
                loss = loss + self.confidence_weight * penalty
            self.descend(i, loss)
            total = total + loss.detach()
        return {"loss": total, "passes": 6 * len(batch.y)}

    @torch.no_grad()
    def _small_losses(self, t: int, train: Train) -> Tensor:
        """The base selection of each net by its own losses, bool [2, n]."""
        self.eval()
        losses = torch.zeros(2, len(train), device=train.y.device)
        for batch in train.batches(augment=False, shuffle=False, batch_size=EVAL_BATCH):
            for i, net in enumerate(self.nets):
                losses[i, batch.index] = F.cross_entropy(net(batch.x).float(), batch.y, reduction="none")
        rho = small_loss_share(t, self.ramp_epochs, self.rho_start, self.rho)
        return torch.stack([small_losses(row, train.y, train.n_classes, rho) for row in losses])

    def _step(self, t: int, batch: Batch, small: Tensor) -> Log:
        """One update of both nets; ``small`` [2, B] their base selections."""
        w, beta = ramps(t, self.ramp_epochs, self.beta, self.keep_beta)
        assert batch.x2 is not None
        views, outputs, keep, labels = (batch.x, batch.x2), [], [], []
        for i, net in enumerate(self.nets):
            assert isinstance(net, Featured)
            weak, strong = (net.features(x) for x in views)
            primary = Heads(net.head(weak), net.head(strong))
            pseudo = net.get_submodule("pseudo")
            outputs.append([primary, Heads(pseudo(weak), pseudo(strong))] if net.learns else [primary])
            keep.append(keep_label(primary.weak.detach().float().softmax(1), batch.y, small[i], self.tau))
            labels.append(
                pseudo_labels(primary.weak.detach().float(), batch.y, keep[i], self.priors[i, 0], self.debias_pl)
            )
        probs = [heads[0].weak.detach().float().softmax(1) for heads in outputs]
        chosen = list(keep)
        if t > self.expand_epoch:
            chosen = [keep[i] | guessed(probs[i], probs[1 - i], keep[i], self.tau, self.fill) for i in range(2)]
        total, passes = torch.zeros((), device=batch.x.device), 0
        for i, heads in enumerate(outputs):
            loss = torch.zeros((), device=batch.x.device)
            for name, head in zip(("head", "pseudo"), heads, strict=False):
                if chosen[i].any():
                    loss = loss + self._selected_loss(i, name, head, batch.x, labels[i], chosen[i], w)
            if len(heads) == 2 and beta and not chosen[i].all():
                loss = loss + beta * self._rest_loss(i, heads, ~chosen[i], w)
            if loss.requires_grad:
                self.descend(i, loss)
            total = total + loss.detach()
            passes += 6 * len(batch.y) + 6 * len(heads) * int(chosen[i].sum())
            self._update_priors(i, probs[i], chosen[i])
        return {
            "loss": total,
            "index": batch.index,
            "weight": torch.stack(keep).float().mean(0),
            "passes": passes,
            "chosen": int(torch.stack(chosen).sum()),
        }

    def _selected_loss(
        self, i: int, name: str, head: Heads, x: Tensor, labels: Tensor, chosen: Tensor, w: float
    ) -> Tensor:
        """CE + w (CR + MIX + FMIX) of one head on the chosen images, weak ``x`` [B, ...] being mixed."""
        net, y, x = self.nets[i], labels[chosen], x[chosen]
        assert isinstance(net, Featured)
        module = net.get_submodule(name)

        def loss_of(logits: Tensor) -> Tensor:
            return raised(logits, self.priors[i, 0], self.debias_output)

        ce = F.cross_entropy(loss_of(head.weak[chosen]), y)
        if not w:
            return ce
        cr = F.cross_entropy(loss_of(head.strong[chosen]), y)
        lam, perm = beta_draw(self.alpha), permutation(len(y), x.device)
        images, targets = mix(x, F.one_hot(y, self.task.n_classes).float(), max(lam, 1 - lam), perm)
        mixed = soft_cross_entropy(loss_of(module(net.features(images))), targets)
        lam, perm = beta_draw(1.0), permutation(len(y), x.device)
        mask = fourier_mask(lam, *x.shape[2:]).to(x) if x.dim() == 4 else lam
        masked = two_targets(loss_of(module(net.features(mask * x + (1 - mask) * x[perm]))), y, perm, lam)
        return ce + w * (cr + mixed + masked)

    def _rest_loss(self, i: int, heads: list[Heads], rest: Tensor, w: float) -> Tensor:
        """Soft cross-entropy of the pseudo head on the ``rest`` against the sharpened guess of the primary one."""
        primary, pseudo = heads
        prior = self.priors[i, 1]
        guess = sharpen(
            raised(primary.weak[rest].detach().float(), prior, -self.debias_pl).softmax(1), self.temperature
        )
        weak, strong = (raised(z[rest], prior, self.debias_output) for z in pseudo)
        return soft_cross_entropy(weak, guess) + w * soft_cross_entropy(strong, guess)

    def _update_priors(self, i: int, probs: Tensor, chosen: Tensor) -> None:
        """Moves both priors of net ``i`` to the mean prediction of their set, where it has members."""
        for j, part in enumerate((chosen, ~chosen)):
            if part.any():
                self.priors[i, j] = torch.lerp(probs[part].mean(0), self.priors[i, j], self.prior_momentum)
