"""INCV: cross-validation on the noisy labels selects the samples whose label a network predicts without having seen it; Co-teaching
is then trained on them.

Paper: Chen, Liao, Chen, Zhang, "Understanding and Utilizing Deep Neural Networks Trained with Noisy Labels", ICML 2019 (PMLR 97,
1062-1070). Original code: chenpf1025/noisy_label_understanding_utilizing @a6c8e0d (INCV_main.py).

| original | here |
| --- | --- |
| hold-out accuracy A(eps) = (1 - eps)^2 + eps^2 / kappa, solved for eps from the first hold-out | ``estimate_noise`` |
| noise left in the selected set, eps_S = eps^2 / (eps^2 + kappa (1 - eps)^2) | ``selection_noise`` |
| train on S and half of C from theta_0, select in the other half, discard its r abs(correct) largest losses; then swap | ``INCV._fold`` |
| S grows by the correct ones, C loses them and the discarded ones; repeat | ``INCV._end_fold`` |
| Co-teaching on S, after E epochs with candidates of C in the batch; n_keep from the share of S alone | ``INCV._co_teach`` |

Owns its learning rate: each half starts anew, so the recipe's *initial* rate falls to 1/2, 1/4, 1/10 within each half (after 40, 60, 80 %)
and to 0.1, 0.01, 0.001, 0.0005 within Co-teaching (at 40, 60, 80, 90 %), and the recipe's schedule is not used.

Deviations from the original, and why
- It branches on the *true* kind of noise: discarding (symmetric only), kappa, E (80 instead of 40 of 200, also for an estimate above 0.6)
  and how long the best epoch of a half is kept. Here they are declared inputs: ``discard_cap`` (0 discards nothing), ``pattern``,
  ``warmup``, ``t_best`` (-1: the original's rule, 1 iteration for pair noise or an estimate above 0.6, 2 above 0.3, else 4).
- It estimates with the symmetric formula whatever the noise, which gives 0.286 for pair noise of 0.4: that is ``estimator="symmetric"``,
  the default; "pair" is the matching one (it needs A > 1/2). Beyond the minimum of A there is no solution: the estimate stops there.
  Networks that underfit inflate it, so that clean data give a positive estimate: it is logged as ``noise_rate``.
- Its slice of the last r abs(correct) losses takes *everything* for 0; ours takes none. Discarded samples accumulate; S goes first.
- Weights are reset to theta_0, the same for both halves as published (which costs diversity); its checkpoints bring Adam's moments
  back, ours start anew. Co-teaching starts from two initialisations of its own; Adam is not reset at its drops of the rate.
- The best epoch of a half is chosen on the noisy labels that are then selected by it: mildly optimistic, and the method. We keep its
  predictions rather than its weights (newer Keras silently writes no checkpoint there).
- Samples are ranked by the forward pass they are trained with, as ``CoTeaching.step`` does: the original ranks in inference mode with
  a pass of its own and then trains on the selected ones alone, so its batch norm sees only those.
- Candidates are left out where they would be none per batch, an empty selection means all samples: the original crashes in both.
- Images are scaled to [0, 1] there, not normalised, shifted by up to 4 of 32 pixels with the nearest pixel filled in, and flipped; here
  that is the data set's. Its weight decay is of the blocks' convolutions only. It scores each net alone, we the mean of both.
- Top-1 only (its formula for top-k is another). Only CIFAR-10 runs there; its "asym" noise is pair flipping.
- Its folds are two halves. With more (``folds``, an extension) each training sees all folds but the held-out one: what is called a half
  below is then that fold, or the others. The estimate is still from the first hold-out.
- ``stage1`` is the share of the epochs for the ``folds`` x ``iterations`` halves: 2/3 as published (8 x 50, then 200). Iterations are left
  out where a half would get less than one epoch. Epochs of a half and of a small S are short; cost is metered.
- Weights: after each half, 1 for the held-out samples predicted as labelled; in Co-teaching, the share of both nets that selected the
  sample, 0 for samples in neither set. S may miss whole classes at high noise: ``rarest`` is the share of S of its rarest class.
"""

import copy
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.errors import InputError, unknown
from raystudy.learn.method import Batch, Log, Method, Task, Train
from raystudy.learn.methods.coteaching import CoTeaching, drop_rate

EVAL_BATCH = 2048  # images per forward pass on the held-out half; changes no result

Pattern = Literal["symmetric", "pair"]


def _kappa(n_classes: int, pattern: Pattern) -> int:
    """How many classes a wrong label may be."""
    return n_classes - 1 if pattern == "symmetric" else 1


def estimate_noise(accuracy: float, n_classes: int, estimator: Pattern = "symmetric") -> float:
    """The smallest multiple of .001, from .001, whose hold-out accuracy (1 - eps)^2 + eps^2 / kappa is at most ``accuracy``.

    At most kappa / (kappa + 1), where the formula has its minimum (Chen et al. 2019, section 3).
    """
    kappa = _kappa(n_classes, estimator)
    steps = range(1, 1000 * kappa // (kappa + 1) + 1)
    return next(
        (i / 1000 for i in steps if (1 - i / 1000) ** 2 + (i / 1000) ** 2 / kappa <= accuracy), steps[-1] / 1000
    )


def selection_noise(rate: float, n_classes: int, pattern: Pattern) -> float:
    """The noise left among samples whose label was predicted: eps^2 / (eps^2 + kappa (1 - eps)^2)."""
    return rate**2 / (rate**2 + _kappa(n_classes, pattern) * (1 - rate) ** 2)


def discard_ratio(rate: float, cap: float = 2.0) -> float:
    """How many samples to discard per selected one: eps / (1 - eps), at most ``cap``."""
    return min(cap, rate / (1 - rate))


def candidate_batch(n_candidates: int, n_selected: int, batch_size: int, share: float = 0.5) -> int:
    """Candidates in a batch: as many as lets one pass over S see C once, at most ``share`` of the batch size."""
    return min(n_candidates * batch_size // n_selected, int(share * batch_size))


class INCV(Method):
    """INCV.

    ``iterations``: of cross-validation. ``folds``: of each iteration, 2 or more. ``stage1``: fraction of the epochs for them. ``t_best``:
    iterations in which the best epoch of a half counts instead of the last (-1: by the estimated rate).
    ``discard_cap``: largest ratio of what is discarded to what is selected, 0 for none. ``estimator``, ``pattern``:
    kind of noise taken for the estimate, and for the noise left in the selection. ``warmup``, ``gradual``: fractions of
    the epochs of Co-teaching before candidates come in, and over which it forgets more. ``candidate_share``: the
    largest share of candidates beside a batch of the selected. ``forget_scale``: multiplies the share to forget.
    """

    selected: Tensor  # [n] bool, S
    candidate: Tensor  # [n] bool, C
    discarded: Tensor  # [n] bool
    side: Tensor  # [n] the fold of C a sample is in: 0 to folds - 1, or -1 for none
    correct: Tensor  # [n] bool: predicted as labelled while held out in this iteration
    losses: Tensor  # [n] its loss then
    best: Tensor  # the best hold-out accuracy of this half
    noise_rate: Tensor  # the estimate
    co_teaching: Tensor  # bool: the second stage has begun

    def __init__(
        self,
        task: Task,
        *,
        iterations: int = 4,
        folds: int = 2,
        stage1: float = 2 / 3,
        t_best: int = -1,
        discard_cap: float = 2.0,
        estimator: Pattern = "symmetric",
        pattern: Pattern = "symmetric",
        warmup: float = 0.2,
        gradual: float = 0.05,
        candidate_share: float = 0.5,
        forget_scale: float = 1.0,
    ) -> None:
        super().__init__(task)
        for name, value in (("estimator", estimator), ("pattern", pattern)):
            if value not in ("symmetric", "pair"):
                raise unknown(name, value, ("symmetric", "pair"))
        if folds < 2:
            raise InputError(f"folds={folds} leaves nothing to train on or nothing to hold out; choose 2 or more")
        self.folds = folds
        self.estimator: Pattern = estimator
        self.pattern: Pattern = pattern
        self.t_best, self.discard_cap = t_best, discard_cap
        self.candidate_share, self.forget_scale = candidate_share, forget_scale
        self.settled_at = min(stage1 + (1 - stage1) * max(warmup, gradual), 1.0)
        trainings = folds * min(iterations, max(int(stage1 * task.epochs / folds), 1))
        self.fold_epochs = max(round(stage1 * task.epochs / trainings), 1)
        self.stage2_epoch = min(trainings * self.fold_epochs, task.epochs)
        self.stage2_epochs = max(task.epochs - self.stage2_epoch, 1)
        self.warmup_epochs = round(warmup * self.stage2_epochs)
        self.n_gradual = max(round(gradual * self.stage2_epochs), 1)

        self.initial = copy.deepcopy(self.nets[0]).requires_grad_(False)
        self.peers = CoTeaching(task, forget_rate=0.0, gradual=0.0)  # told the share to forget before each step
        self.optimizers += self.peers.optimizers
        self.base_lr: float = self.optimizers[0].defaults["lr"]
        device = next(self.nets.parameters()).device
        for name, buffer in {
            "selected": torch.zeros(task.n, dtype=torch.bool),
            "candidate": torch.ones(task.n, dtype=torch.bool),
            "discarded": torch.zeros(task.n, dtype=torch.bool),
            "side": torch.full((task.n,), -1),
            "correct": torch.zeros(task.n, dtype=torch.bool),
            "losses": torch.zeros(task.n),
            "best": torch.tensor(-1.0, dtype=torch.float64),
            "noise_rate": torch.tensor(0.0, dtype=torch.float64),
            "co_teaching": torch.tensor(False),
        }.items():
            self.register_buffer(name, buffer.to(device))

    def settled(self) -> float:
        return self.settled_at

    def probs(self, x: Tensor) -> Tensor:
        return self.peers.probs(x) if self.co_teaching else super().probs(x)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        self.train()
        if t < self.stage2_epoch:
            yield from self._fold(*divmod(t, self.fold_epochs), train)
        else:
            yield from self._co_teach(t - self.stage2_epoch, train)

    def _set_rate(self, factor: float) -> None:
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            group["lr"] = factor * self.base_lr

    # --- cross-validation: `fold` counts trainings, `folds` to an iteration

    def _fold(self, fold: int, e: int, train: Train) -> Iterator[Log]:
        """Epoch ``e`` of a half: train on S and the half, look at the other half (on all folds but one, look at that one)."""
        if e == 0:
            self._begin_fold(fold)
        done = e / self.fold_epochs
        self._set_rate(0.1 if done > 0.8 else 0.25 if done > 0.6 else 0.5 if done > 0.4 else 1.0)
        hidden = self.side == self.folds - 1 - fold % self.folds
        mine, held = self.selected | ((self.side >= 0) & ~hidden), hidden.nonzero().squeeze(1)
        for batch in train.batches(mine.nonzero().squeeze(1) if mine.any() else None):
            loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
            self.descend(0, loss)
            yield {"loss": loss.detach(), "passes": 3 * len(batch.y)}
        last = e == self.fold_epochs - 1
        keeps_best = self._keeps_best(fold // self.folds)
        if last or keeps_best:
            self._look(held, train, keeps_best)
            yield {"passes": len(held)}
        if last:
            yield self._end_fold(fold, held, train)

    def _begin_fold(self, fold: int) -> None:
        self.nets[0].load_state_dict(self.initial.state_dict())
        self.optimizers[0].state.clear()
        self.best.fill_(-1.0)
        if fold % self.folds == 0:
            members = self.candidate.nonzero().squeeze(1)
            members = members[torch.randperm(len(members)).to(members.device)]
            self.side.fill_(-1)
            bounds = [len(members) * i // self.folds for i in range(1, self.folds)]
            for i, part in enumerate(members.tensor_split(bounds)):
                self.side[part] = i
            self.correct.fill_(False)

    def _keeps_best(self, iteration: int) -> bool:
        if self.t_best >= 0:
            return iteration < self.t_best
        rate = float(self.noise_rate)
        return iteration < (1 if self.pattern == "pair" or rate > 0.6 else 2 if rate > 0.3 else 4)

    @torch.no_grad()
    def _look(self, held: Tensor, train: Train, best_only: bool) -> None:
        """Predicts the held-out samples; remembers it, with ``best_only`` if no earlier epoch of this half was as good."""
        self.nets[0].eval()
        correct, losses = torch.zeros_like(self.correct), torch.zeros_like(self.losses)
        for batch in train.batches(held, augment=False, shuffle=False, batch_size=EVAL_BATCH):
            logits = self.nets[0](batch.x).float()
            correct[batch.index] = logits.argmax(1) == batch.y
            losses[batch.index] = F.cross_entropy(logits, batch.y, reduction="none")
        accuracy = correct[held].double().mean()
        if not best_only or accuracy > self.best:
            self.best.copy_(accuracy)
            self.correct[held], self.losses[held] = correct[held], losses[held]

    def _end_fold(self, fold: int, held: Tensor, train: Train) -> Log:
        """Discards; after the last fold, moves samples from C to S."""
        correct = self.correct[held]
        if fold == 0:
            self.noise_rate.fill_(estimate_noise(float(correct.double().mean()), train.n_classes, self.estimator))
        n_discard = int(discard_ratio(float(self.noise_rate), self.discard_cap) * int(correct.sum()))
        worst = torch.topk(self.losses[held], min(n_discard, len(held))).indices
        self.discarded[held[worst]] = True
        if fold % self.folds == self.folds - 1:
            self.selected |= self.correct
            self.candidate &= ~(self.selected | self.discarded)
        share = torch.bincount(train.y[self.selected], minlength=train.n_classes) / self.selected.sum().clamp_min(1)
        return {
            "index": held,
            "weight": correct.float(),
            "noise_rate": self.noise_rate.clone(),
            "selected": self.selected.double().mean(),
            "candidates": self.candidate.double().mean(),
            "rarest": share.min(),
        }

    # --- Co-teaching on what was selected

    def _co_teach(self, e: int, train: Train) -> Iterator[Log]:
        """Epoch ``e`` of the second stage."""
        self.co_teaching.fill_(True)
        done = e / self.stage2_epochs
        steps = ((0.9, 5e-4), (0.8, 1e-3), (0.6, 1e-2), (0.4, 0.1))
        self._set_rate(next((factor for start, factor in steps if done >= start), 1.0))
        chosen, others = self.selected.nonzero().squeeze(1), self.candidate.nonzero().squeeze(1)
        if not len(chosen):
            chosen, others = torch.arange(len(train), device=others.device), others[:0]
        forget = self.forget_scale * selection_noise(float(self.noise_rate), train.n_classes, self.pattern)
        forget = drop_rate(e, min(forget, 1.0), self.n_gradual, schedule="paper")
        n_others = candidate_batch(len(others), len(chosen), train.batch_size, self.candidate_share)
        extra = _cycle(train, others, n_others) if n_others and e > self.warmup_epochs else None
        weight = torch.zeros(len(train), device=chosen.device)
        for batch in train.batches(chosen):
            n_keep = max(round(len(batch.y) * (1 - forget)), 1)
            if extra:
                batch = _join(batch, next(extra))
            # Co-teaching keeps floor((1 - rate) B); the half makes that n_keep whatever the rounding.
            self.peers.forget_rate = 1 - (n_keep + 0.5) / len(batch.y) if n_keep < len(batch.y) else 0.0
            log = self.peers.step(batch, e)
            weight[log.pop("index")] = log.pop("weight")
            yield {"passes": 6 * len(batch.y)} | log
        yield {"index": torch.arange(len(train), device=weight.device), "weight": weight}


def _cycle(train: Train, subset: Tensor, batch_size: int) -> Iterator[Batch]:
    """Batches of ``subset`` without end, in a new order each round."""
    while True:
        yield from train.batches(subset, batch_size=batch_size)


def _join(a: Batch, b: Batch) -> Batch:
    return Batch(torch.cat([a.index, b.index]), torch.cat([a.x, b.x]), torch.cat([a.y, b.y]))
