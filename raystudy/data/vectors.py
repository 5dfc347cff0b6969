"""Batches of vectors made on the device: what ``loader`` is for images. And the mean and deviation by which vectors are standardised.

Vectors come as one [n, d], or as V precomputed views of each sample [n, V, d], of which the first is the plain one. Where there
are views to draw from, an augmented sample is one of them; where there is one only, it is jittered. Methods do not see which.

Normal numbers are dear where a network is a few matrix products, so jitter is not drawn number by number: of one long row of
normal draws each sample takes the stretch that begins at a place of its own, as a crop is a window into an image.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from raystudy.data.batch import Batch, View
from raystudy.data.dataset import Array, Stats, plain
from raystudy.data.loader import STREAM, STREAM_STRONG, asked, drawn_from

# Standard deviations of the jitter of a weak and of a strong view, in those of the features; the first is measured (docs/datasets.md).
JITTER, STRONG_JITTER = 0.4, 0.8
DROPPED = 0.2  # share of the features of a strong view that are set to their mean
STREAM_POOL = 0x6A697474
POOL = 1 << 17  # places at which a stretch of jitter may begin
CHUNK_BYTES = (1 << 19, 1 << 26)  # of float32 vectors, that with their jitter stay within a core's cache
STATS_BYTES = 1 << 25  # of float64 that stand in memory at once


def feature_stats(x: Array) -> Stats:
    """Mean and standard deviation of each feature of vectors [n, d], to six digits. A constant feature gets standard deviation 1."""
    rows = max(1, STATS_BYTES // (8 * x.shape[1]))
    parts = [x[at : at + rows] for at in range(0, len(x), rows)]
    mean = np.sum([part.sum(0, dtype=np.float64) for part in parts], axis=0) / len(x)
    spread = np.sqrt(np.sum([((part - mean) ** 2).sum(0) for part in parts], axis=0) / len(x))
    largest = np.abs(x).max(0).astype(np.float64)
    constant = (spread <= 1e-7 * largest) | (spread < 1e-30)  # less than float32 can tell apart
    # Sums of floats may differ in their last bits between machines; six digits do not. Those of a mean are told in deviations.
    std = [float(f"{v:.6g}") for v in np.where(constant, 1.0, spread)]
    return tuple(round(float(m), 5 - math.floor(math.log10(s))) for m, s in zip(mean, std, strict=True)), tuple(std)


def standardising(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factor and mean [d] that make of vectors what networks take."""
    return 1 / torch.tensor(std, dtype=torch.float32), torch.tensor(mean, dtype=torch.float32)


class Drawn(NamedTuple):
    """What one view of the members of a pass is made from, [n] each, on the device."""

    rows: Tensor  # where the vector is among all views of all samples
    jitter: Tensor | None  # where its stretch of jitter begins; None: none is added
    dropped: Tensor | None  # where its stretch of dropped features begins
    scale: float  # of the jitter

    def at(self, here: slice) -> "Drawn":
        jitter, dropped = (None if part is None else part[here] for part in (self.jitter, self.dropped))
        return Drawn(self.rows[here], jitter, dropped, self.scale)


class Vectors:
    """The training set of one trial: ``method.Train`` for methods, ``at`` and ``normalised`` for the training loop."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        n_classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        strong: Sequence[int] = (),
        batch_size: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        """``x`` [n, d] or [n, V, d], any floats or uint8, ``y`` [n] int64 given labels; mean and std of each feature.

        ``strong``: which of the views are strong ones; the others are weak. None are: weak and strong views are drawn from all.
        """
        self.device = torch.device(device)
        self.y = y.to(self.device)
        self.n_classes, self.batch_size, self.seed = n_classes, batch_size, seed
        self._index = torch.arange(len(y), device=self.device)
        self._views = x.shape[1] if x.dim() == 3 else 1
        weak = [v for v in range(self._views) if v not in strong]
        self._sets: dict[View, list[int]] = {False: [0], True: weak, "strong": list(strong) or weak}
        self._scale, self._mean = (t.to(self.device) for t in standardising(mean, std))
        self._x = x.to(self.device).reshape(-1, x.shape[-1])
        # Few vectors are standardised once: numbers are the same as of those that are standardised batch by batch.
        self._ready = x.dtype == torch.float32 and x.numel() < 2**25
        if self._ready:
            self._x = self._standardised(self._x.clone())
        rng, d = drawn_from(STREAM_POOL, seed), x.shape[-1]
        self._jitter = self._stretches(torch.randn(POOL + d, generator=rng), d)
        self._kept = self._stretches((torch.rand(POOL + d, generator=rng) >= DROPPED).float(), d)
        self.at(0)

    def _stretches(self, numbers: Tensor, d: int) -> Tensor:
        """Row i is the stretch of ``d`` numbers that begins at number i. A view, not a copy."""
        return numbers.to(self.device).as_strided((POOL, d), (1, 1))

    def __len__(self) -> int:
        return len(self.y)

    def at(self, epoch: int) -> Self:
        """Begins an epoch: the passes that follow are its pass 0, 1, ..."""
        self.epoch, self._pass = epoch, 0
        return self

    def normalised(self, x: Tensor) -> Tensor:
        """Vectors as networks take them: plain ones [B, d] or the first of views [B, V, d] -> float32, (x - mean)/std."""
        return self._standardised(plain(x).to(torch.float32, copy=True))

    def _standardised(self, x: Tensor) -> Tensor:
        return x.sub_(self._mean).mul_(self._scale)  # in this order: a mean may be many deviations from 0

    def batches(
        self,
        subset: Tensor | None = None,
        views: int = 1,
        augment: View | tuple[View, ...] = True,
        shuffle: bool = True,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """One pass over the set, or over ``subset`` (int64 positions, any device); the last short batch is kept.

        Each call is a pass of its own, with its own order and augmentation, which are settled when it is called. Of two views that
        are drawn from the same precomputed ones, no sample gets the same twice.
        """
        wanted = asked(views, augment)
        members = self._index if subset is None else subset.to(self.device)
        key = (self.seed, self.epoch, self._pass)
        self._pass += 1
        rng = drawn_from(STREAM, *key)
        if shuffle:
            members = members.index_select(0, torch.randperm(len(members), generator=rng).to(self.device))
        drawn: list[Drawn] = []
        before: tuple[list[int], Tensor] | None = None
        for i, view in enumerate(wanted):
            among = self._sets[view]
            chosen = _choice(len(members), len(among), rng, before[1] if before and before[0] == among else None)
            before = among, chosen
            rows = members * self._views + torch.tensor(among)[chosen].to(self.device)
            drawn.append(self._draw(rows, view, rng, *key, i))
        return self._slices(members, drawn, batch_size or self.batch_size)

    def _draw(self, rows: Tensor, view: View, rng: torch.Generator, *key: int) -> Drawn:
        """Jitter is for views that have no others to be drawn from; what makes them strong has draws of its own."""
        if not view or len(self._sets[view]) > 1:
            return Drawn(rows, None, None, 0.0)
        jitter = torch.randint(POOL, (len(rows),), generator=rng).to(self.device)
        if view is True or self._sets["strong"] != self._sets[True]:  # a strong view that was made as such
            return Drawn(rows, jitter, None, JITTER)
        dropped = torch.randint(POOL, (len(rows),), generator=drawn_from(STREAM_STRONG, *key)).to(self.device)
        return Drawn(rows, jitter, dropped, STRONG_JITTER)

    def _slices(self, members: Tensor, drawn: list[Drawn], size: int) -> Iterator[Batch]:
        room = CHUNK_BYTES[self.device.type != "cpu"] // (4 * self._x.shape[1])
        chunk = max(room // size, 1) * size
        for i in range(0, len(members), chunk):
            here = slice(i, i + chunk)
            index = members[here]
            views = [self._view(draws.at(here)).split(size) for draws in drawn]
            yield from map(Batch, index.split(size), views[0], self.y.index_select(0, index).split(size), *views[1:])

    def _view(self, draws: Drawn) -> Tensor:
        x = self._x.index_select(0, draws.rows)
        if not self._ready:
            x = self._standardised(x.to(torch.float32))
        if draws.jitter is not None:
            x.add_(self._jitter.index_select(0, draws.jitter), alpha=draws.scale)
        if draws.dropped is not None:
            x.mul_(self._kept.index_select(0, draws.dropped))
        return x

    def chunks(self, x: Any, size: int) -> Iterator[Tensor]:
        """Other vectors, such as those of the test set, as networks take them: standardised, ``size`` at a time, in order."""
        return map(self.normalised, x.split(size))


def _choice(n: int, among: int, rng: torch.Generator, other: Tensor | None) -> Tensor:
    """Positions [n] in 0..among-1; where there are two to choose from, none is that of ``other``, which is as often any of the rest."""
    if among == 1:
        return torch.zeros(n, dtype=torch.int64)
    if other is None:
        return torch.randint(among, (n,), generator=rng)
    return (other + torch.randint(1, among, (n,), generator=rng)) % among
