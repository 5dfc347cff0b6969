"""Batches made on the device: shuffled, cropped, flipped, where asked strongly augmented (``augment``), and normalised.

The training images stay on the device as uint8. Tiny networks are bound by the overhead per batch, so gathering and
augmenting is done for a chunk of many batches at once, and a batch is a slice of a chunk. Every draw comes from
(seed, epoch, pass), on the CPU: the same on every device, whatever the chunk size and torch's global generator are.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.data import augment
from raystudy.data.batch import Batch, View
from raystudy.data.noise import generator
from raystudy.errors import InputError

STREAM = 0x6F726465  # keeps the draws of the order apart from those of the noise, STREAM_SPLIT those of the split
STREAM_SPLIT = 0x73706C69
STREAM_STRONG = 0x7374726F  # of what strong views add, so that crops and flips are those of weak ones
CHUNK_BYTES = (1 << 21, 1 << 26)  # of float32 images: on the CPU within a core's cache, elsewhere few kernel launches


def asked(views: int, augment: View | tuple[View, ...]) -> tuple[View, ...]:
    """How each of the views of a pass is augmented."""
    if views not in (1, 2):
        raise ValueError(f"views is {views}; a batch has one or two views of each image")
    wanted = augment if isinstance(augment, tuple) else (augment,) * views
    if len(wanted) != views or any(view not in (False, True, "strong") for view in wanted):
        raise ValueError(
            f"augment is {augment!r} for {views} views; it is False, True, 'strong' or one of these for each"
        )
    return wanted


def drawn_from(*key: int) -> torch.Generator:
    """A generator of torch's on the CPU, for a key of whole numbers."""
    rng = torch.Generator()
    rng.manual_seed(int(generator(*key).integers(2**63)))
    return rng


class OnDevice:
    """The training set of one trial: ``method.Train`` for methods, ``at`` and ``normalised`` for the training loop."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        n_classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        pad: int = 0,
        flip: bool = False,
        batch_size: int = 64,
        seed: int = 0,
        device: torch.device | str = "cpu",
        channels_last: bool = False,
    ) -> None:
        """``x`` [n, C, H, W] uint8, ``y`` [n] int64 given labels; mean and std per channel of pixels in [0, 1].

        ``pad`` zero pixels on each side are added before a random crop to H x W; ``flip`` mirrors half of the images.
        ``channels_last`` sets the memory format of the batches, on cuda only (on the CPU it gains nothing here).
        """
        self.device = torch.device(device)
        self.y = y.to(self.device)
        self.n_classes = n_classes
        self.batch_size = batch_size
        self.pad, self.flip, self.seed = pad, flip, seed
        self.channels_last = channels_last and self.device.type == "cuda"
        self._index = torch.arange(len(y), device=self.device)
        channels, height, width = x.shape[1:]
        self._size = height, width
        self._pixels = channels * height * width  # of an image
        self._row = width + 2 * pad  # pixels from one padded row, and from one padded image, to the next
        self._image = channels * (height + 2 * pad) * self._row
        self._hold(x)
        self._grey = torch.tensor(
            [round(255 * m) for m in mean], dtype=torch.uint8, device=self.device
        )  # ~0 when normalised
        self._scale, self._shift = (t.to(self.device) for t in scaling(mean, std))
        self.at(0)

    def _hold(self, x: Any) -> None:
        self._windows = self._windows_of(x)

    def _windows_of(self, x: Tensor) -> Tensor:
        """Images lie padded in memory, and a crop is a window into them: ``windows[start]`` is the C x H x W window that starts
        ``start`` pixels into the whole memory. A view, not a copy.
        """
        pad = self.pad
        padded = F.pad(x.to(self.device, non_blocking=True), (pad, pad, pad, pad)).contiguous()
        windows = (len(x) - 1) * self._image + 2 * pad * (self._row + 1) + 1 if len(x) else 0
        return padded.as_strided((windows, *x.shape[1:]), (1, *padded.stride()[1:]))

    def __len__(self) -> int:
        return len(self.y)

    def at(self, epoch: int) -> Self:
        """Begins an epoch: the passes that follow are its pass 0, 1, ..."""
        self.epoch, self._pass = epoch, 0
        return self

    def normalised(self, x: Tensor) -> Tensor:
        """Images as networks take them: uint8 [B, C, H, W] on the device -> float32, (x/255 - mean)/std."""
        out = x.to(torch.float32, copy=True).mul_(self._scale).add_(self._shift)
        return out.contiguous(memory_format=torch.channels_last) if self.channels_last else out

    def batches(
        self,
        subset: Tensor | None = None,
        views: int = 1,
        augment: View | tuple[View, ...] = True,
        shuffle: bool = True,
        batch_size: int | None = None,
    ) -> Iterator[Batch]:
        """One pass over the set, or over ``subset`` (int64 positions, any device); the last short batch is kept.

        Each call is a pass of its own, with its own order and augmentation, which are settled when it is called.
        ``views`` is 1 or 2: the second fills ``x2`` with independently augmented images. ``augment``, for all views or
        for each: False, True (crop and flip), or "strong" (the same crop and flip, then ``augment.strong``).
        """
        wanted = asked(views, augment)
        members = self._index if subset is None else subset.to(self.device)
        n, key = len(members), (self.seed, self.epoch, self._pass)
        rng = drawn_from(STREAM, *key)
        self._pass += 1
        if shuffle:
            members = members.index_select(0, torch.randperm(n, generator=rng).to(self.device))
        starts, flips, strong = [], [], []
        for i, view in enumerate(wanted):
            if view and self.pad:
                down, right = torch.randint(2 * self.pad + 1, (2, n), generator=rng)
                starts.append((down * self._row + right).to(self.device))
            else:
                starts.append(torch.full((n,), self.pad * (self._row + 1), device=self.device))
            flips.append((torch.rand(n, generator=rng) < 0.5).to(self.device) if view and self.flip else None)
            strong.append(self._draw_strong(n, *key, i) if view == "strong" else None)
        return self._slices(members, starts, flips, strong, batch_size or self.batch_size)

    def _draw_strong(self, n: int, *key: int) -> augment.Strong:
        return augment.draw_strong(n, self._size, drawn_from(STREAM_STRONG, *key))

    def _slices(
        self,
        members: Tensor,
        starts: list[Tensor],
        flips: list[Tensor | None],
        strong: list[augment.Strong | None],
        size: int,
    ) -> Iterator[Batch]:
        if not len(members):
            return
        room = CHUNK_BYTES[self.device.type != "cpu"] // (4 * self._pixels)
        chunk = max(room // size, 1) * size
        sources = self._sources(members, chunk)
        for i, (windows, first) in zip(range(0, len(members), chunk), sources, strict=True):
            here = slice(i, i + chunk)
            index = members[here]
            views = [
                self._view(
                    windows,
                    first + start[here],
                    None if flip is None else flip[here],
                    None if draws is None else draws.at(here),
                ).split(size)
                for start, flip, draws in zip(starts, flips, strong, strict=True)
            ]
            yield from map(Batch, index.split(size), views[0], self.y.index_select(0, index).split(size), *views[1:])

    def _sources(self, members: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        """For each chunk of ``members``: windows, and where in them the padded images of its members begin [chunk]."""
        for index in members.split(chunk):
            yield self._windows, index * self._image

    def chunks(self, x: Any, size: int) -> Iterator[Tensor]:
        """Other images, such as those of the test set, as networks take them: normalised, ``size`` at a time, in order."""
        return map(self.normalised, x.split(size))

    def _view(self, windows: Tensor, starts: Tensor, mirrored: Tensor | None, strong: augment.Strong | None) -> Tensor:
        x = windows.index_select(0, starts)
        if mirrored is not None:
            x = augment.flip(x, mirrored)
        if strong is not None:
            x = augment.strong(x, strong, self._grey)
        return self.normalised(x)


def scaling(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Factor and summand [C, 1, 1] that make of pixels 0 to 255 what networks take; mean and std per channel of pixels in [0, 1]."""
    scale = torch.tensor([1 / (255 * s) for s in std]).view(-1, 1, 1)
    return scale, torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(-1, 1, 1)


def split_validation(n: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Positions to train on and to validate on, int64, ascending and disjoint; round(n x fraction) to validate on.

    Drawn from the (noise) seed alone. Fraction 0 holds out nothing; otherwise InputError where one of the two is empty.
    """
    held = round(n * fraction) if 0 <= fraction < 1 else n
    if held >= n or (fraction > 0 and held == 0):
        raise InputError(
            f"a validation share of {fraction:g} of {n} training images leaves nothing on one side; use 0.1, say"
        )
    chosen = torch.zeros(n, dtype=torch.bool)
    draws = torch.from_numpy(generator(STREAM_SPLIT, seed).random(n))
    chosen[draws.argsort(stable=True)[:held]] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]
