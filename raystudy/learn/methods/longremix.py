"""LongReMix: a first DivideMix finds the samples it calls clean again and again; a second one, from new networks, takes them for certain.

Paper: Cordeiro, Sachdeva, Belagiannis, Reid, Carneiro, "LongReMix: Robust Learning with High Confidence Samples in a Noisy Label
Environment", Pattern Recognition 133 (2023), arXiv 2103.04173. Original code: filipe-research/LongReMix @567c89b
(Train_cifar_longremix_stage1.py, _stage2.py).

| original | here |
| --- | --- |
| S: samples with w > tau in each of the last n epochs, this one included; those of the warm-up count | ``streak`` |
| stage 1: net 1 is trained on net 2's S and w, net 2 on net 1's; all others are unlabelled | ``LongReMix._first`` |
| the high-confidence set: the largest S of *net 1* among the last 150 of 300 epochs, the last of equal ones | ``newest_largest`` |
| stage 2: new networks; w = 1 for both nets on that set, so its refined target is the given label | ``LongReMix._second`` |
| N // B + 1 updates per net and epoch, the labelled set begun anew as often as that takes | ``DivideMix.mixmatch`` |
| the ramp's e + i / n begins anew with each of those passes | ``dividemix.epoch_progress`` |
| all else as in DivideMix | ``DivideMix``, whose card has its equations and traps |

Owns its learning rate: each stage starts anew, so the recipe's *initial* rate is kept through stage 1 (its drop is commented out there:
``stage1_drop``), and falls to 1/10 at half of stage 2 (``drop``; for CNWL at 2/3, and to 1/100 at 5/6: ``second_drop``). The recipe's
schedule is not used.

Deviations from the original, and why
- Two runs of 300 epochs are one here: ``stage1`` is the first one's share of the budget. Durations (``warmup``, ``rampup``,
  ``window``) are fractions of a stage. Fewer than 150 epochs after the warm-up are an index error there.
- In both scripts the warm-up's losses of net 2 are those of net 1 (a slip: net 1 is passed twice), which enters net 2's S in the first
  n - 1 epochs after it. Here each net is scored by itself.
- The set is chosen by its size alone, from net 1 alone, as published: with a constant rate it is usually a late one, and at high noise
  it may hold many wrong labels. ``choice`` = "last" takes the last S. (One of mean size would need all of the window kept: not offered.)
- Its members keep w = 1 for all of stage 2: a wrong one is never mended, as published.
- An empty S (the first epochs have few) is trained on as in DivideMix, everything as in the warm-up; the loader breaks there.
- Stage 2 makes five to ten times DivideMix's updates at 90 % noise: compare at equal passes. ``oversample`` = false leaves that out.
- Restarting means new networks, drawn with the others at the beginning; those of stage 1 stay in the checkpoint.
- Its resume reads keys that are never saved, repeats an epoch and forgets the accuracies so far; its file names hold neither lambda_u nor
  the seed, and their folder must be there; sums of losses keep their graph; sets are searched in lists (N^2); in the warm-up stage 2
  keeps the unlabelled indices under the labelled ones' name (for plots only). Nothing of that is rebuilt.
- Kinds of noise other than sym and asym leave its warm-up loss undefined: the semantic label files it ships need a patch. Here any kind
  will do.
- The noise rate decides ``loss_history`` (5 at 0.9) and, as tuned, ``lambda_u``; the kind of noise the confidence penalty. Hence oracle.
- Noise there is one fixed draw per setting, shipped as files: its real rates are 17.9/45.0/72.1/80.8 and, asymmetric, 20.0 % (CIFAR-10),
  19.8/49.5/79.2/89.1 % (CIFAR-100) and, for CIFAR-100 asymmetric, 40.2 % in a map inside superclasses which its loader itself cannot
  draw.
- No WebVision, Clothing1M or Food-101N script is released; CNWL at 32x32 is not rebuilt.
- Losses of a linear classifier hardly change from epoch to epoch, so that n in a row filters little there: choose a larger n.
- Weights: the mean of both nets' clean posteriors, in stage 2 with 1 for the set.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from raystudy.errors import InputError, unknown
from raystudy.learn.method import Log, Method, Task, Train
from raystudy.learn.methods.dividemix import DivideMix

Choice = Literal["largest", "last"]


def streak(flags: Tensor, n: int) -> Tensor:
    """Set in each of the last ``n`` of ``flags`` [E, ...] bool (in all of them, where there are fewer)."""
    return flags[-n:].all(0)


def newest_largest(sizes: list[int], window: int) -> int:
    """Which of the last ``window`` of ``sizes`` is the largest, counted from the end (1: the last); of equal ones the newest."""
    recent = sizes[-window:]
    return 1 + max(range(len(recent)), key=lambda back: (recent[-1 - back], -back))


def rate_factor(e: int, epochs: int, drops: tuple[float, ...]) -> float:
    """What the initial rate is multiplied by in epoch ``e`` of a stage: 1/10 from each of ``drops`` on, fractions of ``epochs``."""
    return 0.1 ** sum(e >= drop * epochs for drop in drops)


class LongReMix(Method):
    """LongReMix.

    ``n_streak``: epochs in a row in which a sample must be called clean. ``stage1``: the first DivideMix's share of the
    epochs. ``window``: fraction of stage 1, its last part, from which the set is taken. ``choice``: the largest set of
    it, or the last. ``oversample``: stage 2 makes as many updates as the whole set has batches. ``stage1_drop``: the
    rate falls at half of stage 1, too. ``drop``, ``second_drop``: fractions of stage 2 at which it falls to 1/10 and
    1/100. ``p_threshold``: a sample is called clean where its probability is above it. ``lambda_u``: weight of the
    unlabelled loss. ``alpha``: strength of mixing. ``temperature``: of sharpening. ``warmup``, ``rampup``: fractions of
    a stage. ``loss_history``: how many epochs of losses the split averages. ``confidence_penalty``: its weight in the
    warm-up. ``prior_penalty``: weight of the prior penalty after it. ``reg_covar``: added to the mixture's variances.
    """

    n_nets = 0  # those of two DivideMixes
    flags: Tensor  # [n_streak, 2, n] bool, newest last: called clean by each net
    n_flags: Tensor  # how many of them are filled
    certain: Tensor  # [n] bool, the high-confidence set so far
    certain_size: Tensor  # its size, -1 before there is one
    restarted: Tensor  # bool: stage 2 has begun

    def __init__(
        self,
        task: Task,
        *,
        n_streak: int = 5,
        stage1: float = 0.5,
        window: float = 0.5,
        choice: Choice = "largest",
        oversample: bool = True,
        stage1_drop: bool = False,
        drop: float = 0.5,
        second_drop: float = 1.0,
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
    ) -> None:
        super().__init__(task)
        if choice not in ("largest", "last"):
            raise unknown("choice", choice, ("largest", "last"))
        if n_streak < 1 or not 0 < stage1 < 1 or not 0 < window <= 1:
            told = f"n_streak={n_streak}, stage1={stage1:g}, window={window:g}"
            raise InputError(f"longremix: {told}; n_streak is at least 1, stage1 in (0, 1), window in (0, 1]")
        self.choice: Choice = choice
        self.oversample, self.n_streak = oversample, n_streak
        self.drops = ((0.5,) if stage1_drop else (), (drop, second_drop))
        self.stage1_epochs = max(min(round(stage1 * task.epochs), task.epochs - 1), 1)
        self.stage2_epochs = max(task.epochs - self.stage1_epochs, 1)
        self.window_from = self.stage1_epochs - max(round(window * self.stage1_epochs), 1)
        self.settled_at = min(stage1 + (1 - stage1) * (warmup + rampup), 1.0)
        self.stages = torch.nn.ModuleList(
            DivideMix(
                replace(task, epochs=epochs),
                p_threshold=p_threshold,
                lambda_u=lambda_u,
                alpha=alpha,
                temperature=temperature,
                warmup=warmup,
                rampup=rampup,
                loss_history=loss_history,
                confidence_penalty=confidence_penalty,
                prior_penalty=prior_penalty,
                reg_covar=reg_covar,
            )
            for epochs in (self.stage1_epochs, self.stage2_epochs)
        )
        self.optimizers = self._stage(0).optimizers + self._stage(1).optimizers
        self.base_lr: float = self.optimizers[0].defaults["lr"]
        device = next(self.stages.parameters()).device
        self.register_buffer("flags", torch.zeros(n_streak, 2, task.n, dtype=torch.bool, device=device))
        self.register_buffer("certain", torch.zeros(task.n, dtype=torch.bool, device=device))
        for name, start in {"n_flags": 0, "certain_size": -1}.items():
            self.register_buffer(name, torch.tensor(start, device=device))
        self.register_buffer("restarted", torch.tensor(False, device=device))

    def _stage(self, i: int) -> DivideMix:
        stage = self.stages[i]
        assert isinstance(stage, DivideMix)
        return stage

    def settled(self) -> float:
        return self.settled_at

    def probs(self, x: Tensor) -> Tensor:
        return self._stage(int(self.restarted)).probs(x)

    def epoch(self, t: int, train: Train) -> Iterator[Log]:
        second = t >= self.stage1_epochs
        self.restarted.fill_(second)
        e, epochs = (t - self.stage1_epochs, self.stage2_epochs) if second else (t, self.stage1_epochs)
        factor = rate_factor(e, epochs, self.drops[second])
        for group in (g for optimizer in self.optimizers for g in optimizer.param_groups):
            group["lr"] = factor * self.base_lr
        stage = self._stage(int(second))
        if e >= stage.warmup_epochs:
            yield from self._second(stage, e, train) if second else self._first(stage, e, train)
            return
        for i in range(2):
            yield from stage.warm_up(i, train)
        w, log = stage.divide(train)  # its losses and flags count later on
        if not second:
            self._remember(w > stage.p_threshold)
        yield {"passes": log["passes"]}

    def _remember(self, clean: Tensor) -> Tensor:
        """Adds flags [2, n] to the last ones; returns what was set in all of these, [2, n]."""
        self.flags.copy_(torch.cat([self.flags[1:], clean[None]]))
        self.n_flags += 1
        return streak(self.flags, min(int(self.n_flags), self.n_streak))

    def _first(self, stage: DivideMix, e: int, train: Train) -> Iterator[Log]:
        """An epoch of stage 1: the labelled samples are those of the streak."""
        w, log = stage.divide(train)
        streaks = self._remember(w > stage.p_threshold)
        size = int(streaks[0].sum())
        if e >= self.window_from and (self.choice == "last" or size >= int(self.certain_size)):
            self.certain.copy_(streaks[0])
            self.certain_size.fill_(size)
        yield log | {"labelled": streaks.double().mean()}
        for i in range(2):
            yield from self._train(stage, i, e, train, w[1 - i], streaks[1 - i], None)

    def _second(self, stage: DivideMix, e: int, train: Train) -> Iterator[Log]:
        """An epoch of stage 2: the set is certainly clean, the mixture adds more."""
        w, log = stage.divide(train)
        w = w.masked_fill(self.certain, 1.0)
        labelled = w > stage.p_threshold
        steps = len(train) // train.batch_size + 1 if self.oversample else None
        yield log | {
            "weight": w.mean(0).float(),
            "labelled": labelled.double().mean(),
            "certain": self.certain.double().mean(),
        }
        for i in range(2):
            yield from self._train(stage, i, e, train, w[1 - i], labelled[1 - i], steps)

    def _train(
        self, stage: DivideMix, i: int, e: int, train: Train, w: Tensor, labelled: Tensor, steps: int | None
    ) -> Iterator[Log]:
        if labelled.any():
            yield from stage.mixmatch(i, e, train, w.float(), labelled, steps)
        else:
            yield from stage.warm_up(i, train)
