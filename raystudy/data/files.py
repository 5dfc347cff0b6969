"""Images in files: which there are (``Listing``), and decoding them, in worker threads, to uint8 of one size. No labels are drawn here."""

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data.decode import as_ever, decoded, profiled
from raystudy.data.noise import digest
from raystudy.errors import InputError

Array = NDArray[Any]

GROUP = 8  # images a worker thread decodes at a time: handing over single small ones costs more than decoding them
BUFFER_BYTES = 1 << 26  # of decoded images that wait to be used
CONTENT_BYTES = (
    1 << 32
)  # of decoded images up to which a set's digest covers the contents of its files, see ``Files.digest``
READING = "as a viewer shows"  # how pictures are decoded, where that has changed: a word of digests and of what was found before
STATS_IMAGES = 2048  # evenly spread training images from which mean and standard deviation are taken


@dataclass(frozen=True)
class Listing:
    """The image files of a data set and their labels, as its lists tell them; nothing is decoded."""

    name: str
    folder: Path
    train: Sequence[str]  # N paths below ``folder``
    y_train: Array  # [N] clean labels where ``truth``, else the labels there are; -1: an image of none of the classes
    test: Sequence[str]  # M paths
    y_test: Array  # [M] clean labels
    classes: tuple[str, ...]
    label_sets: Mapping[str, Array] = field(default_factory=dict)  # name -> [N] noisy labels that came with the data
    truth: bool = True  # whether ``y_train`` is known to be clean
    val: tuple[Sequence[str], Array] | None = None  # clean validation images that were published with the data
    tests: Mapping[str, tuple[Sequence[str], Array]] = field(default_factory=dict)  # further clean test sets by name
    size: int = 32  # height = width in pixels after the resize, where the user asks for no other
    channels: int = 3
    flip: bool = True
    stats: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # mean and std per channel; None: from the images
    title: str = ""  # short, for pictures; empty: the name
    notes: tuple[str, ...] = ()  # what a person should hear of the lists
    stored: "Stored | None" = None  # where the images lie within something else than files, see ``Files``
    rows: tuple[Sequence[int], Sequence[int]] | None = None  # where the split is ours: of train and test, in the table


Stored = Callable[[str], Array]  # a path -> the bytes of the image [n] uint8


class Files:
    """Images [n, C, S, S] that stay in their files until they are looked at; ``len`` and ``[...]`` as of a tensor."""

    def __init__(
        self, folder: Path, paths: Sequence[str], size: int, channels: int = 3, stored: Stored | None = None
    ) -> None:
        """``stored``: gives the bytes of a path, where the images lie within something else than a folder of files."""
        self.folder, self.paths, self.size, self.channels, self.stored = folder, paths, size, channels, stored

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self), self.channels, self.size, self.size)

    def numel(self) -> int:
        return len(self) * self.channels * self.size**2

    def __getitem__(self, index: Tensor | slice) -> "Files":
        """The images at int64 positions [m], in that order, or of a slice."""
        chosen = self.paths[index] if isinstance(index, slice) else [self.paths[i] for i in index.tolist()]
        return Files(self.folder, chosen, self.size, self.channels, self.stored)

    def __add__(self, other: "Files") -> "Files":
        return Files(self.folder, [*self.paths, *other.paths], self.size, self.channels, self.stored)

    def _bytes(self, path: str) -> Array:
        return np.fromfile(self.folder / path, dtype=np.uint8) if self.stored is None else self.stored(path)

    def _length(self, path: str) -> int:
        return (self.folder / path).stat().st_size if self.stored is None else len(self.stored(path))

    def decode(self, i: int) -> Tensor:
        """Image ``i`` [C, S, S] uint8: the shorter side is resized to S (bilinear, antialiased), the middle is kept.

        Raises InputError, one line with the file, where it is absent, empty or cannot be decoded.
        """
        path = self.folder / self.paths[i]
        try:
            x = decoded(self._bytes(self.paths[i]), self.channels)
        except Exception as error:  # torch's and Pillow's errors differ from version to version
            why = "it is empty" if path.is_file() and path.stat().st_size == 0 else one_line(error)
            raise InputError(f"{path}: not an image that can be decoded ({why})") from None
        return fitted(x, self.size)

    def chunks(self, order: Sequence[int], size: int, pool: ThreadPoolExecutor) -> Iterator[Tensor]:
        """The images at ``order``, decoded ahead by the pool's threads: tensors [m, C, S, S] uint8, m = ``size`` but for the last.

        What waits is bounded: about BUFFER_BYTES, and at least one chunk. The order is that asked for, whatever the threads do.
        """
        groups = [
            (i, min(i + GROUP, j)) for j0 in range(0, len(order), size)
            for j in [min(j0 + size, len(order))] for i in range(j0, j, GROUP)
        ]  # fmt: skip
        ahead = max(BUFFER_BYTES // (GROUP * self.channels * self.size**2), -(-size // GROUP) + 1)
        waiting: deque[Future[Tensor]] = deque()
        held: list[Tensor] = []
        submitted = 0
        try:
            for _, end in groups:
                while submitted < len(groups) and len(waiting) < ahead:
                    a, b = groups[submitted]
                    waiting.append(pool.submit(self._group, order[a:b]))
                    submitted += 1
                held.append(waiting.popleft().result())
                if end % size == 0 or end == len(order):
                    yield torch.cat(held)
                    held = []
        finally:  # also where a method leaves a pass before its end
            for future in waiting:
                future.cancel()

    def _group(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self.decode(i) for i in indices])

    def read(self) -> Tensor:
        """All images [n, C, S, S] uint8, in memory."""
        out = torch.empty(self.shape, dtype=torch.uint8)
        with decoders() as pool:
            done = 0
            for chunk in self.chunks(range(len(self)), 256, pool):
                out[done : done + len(chunk)] = chunk
                done += len(chunk)
        return out

    def contents(self) -> list[str] | None:
        """A digest of each file; None where they hold more than CONTENT_BYTES decoded."""
        if self.numel() > CONTENT_BYTES:
            return None
        return [digest(self._bytes(p)) for p in self.paths]

    def marks(self) -> tuple[bool, list[str]]:
        """Whether all are read as ever (see ``decode.as_ever``), and the paths of those with a colour profile of their own."""
        if self.numel() > CONTENT_BYTES:
            return True, []

        def mark(path: str) -> tuple[bool, bool]:
            data = self._bytes(path)
            return as_ever(data), profiled(data)

        with decoders() as pool:
            found = list(pool.map(mark, self.paths))
        return all(e for e, _ in found), [p for p, (_, own) in zip(self.paths, found, strict=True) if own]

    def digest(self, ever: bool = True) -> str:
        """Of the paths and what is in the files; where they hold more than CONTENT_BYTES decoded, of paths and file sizes.

        Does not hang on where the images are kept once they are read, in memory or in their files. ``ever``: see ``marks``.
        """
        parts: list[Array] = [np.frombuffer("\n".join(self.paths).encode(), dtype=np.uint8)]
        parts.append(np.array([self.size, self.channels]))
        contents = self.contents()
        if contents is None:
            parts.append(np.array([self._length(p) for p in self.paths], dtype=np.int64))
        else:
            parts.append(np.frombuffer("".join(contents).encode(), dtype=np.uint8))
        if not ever:
            parts.append(np.frombuffer(READING.encode(), dtype=np.uint8))
        return digest(*parts)


def fitted(x: Tensor, size: int) -> Tensor:
    """An image [C, H, W] uint8 as [C, S, S]: shorter side to S, then the middle; as it is where it has that size already."""
    height, width = x.shape[1:]
    if (height, width) == (size, size):
        return x
    short = min(height, width)
    height, width = max(size, round(height * size / short)), max(size, round(width * size / short))
    if tuple(x.shape[1:]) != (height, width):
        x = F.interpolate(x[None], (height, width), mode="bilinear", antialias=True)[0]
    top, left = (height - size) // 2, (width - size) // 2
    return x[:, top : top + size, left : left + size].contiguous()


def decoders() -> ThreadPoolExecutor:
    """Worker threads for decoding: as many as the trial has torch threads. Decoding runs outside Python's lock."""
    return ThreadPoolExecutor(torch.get_num_threads(), "decode", initializer=torch.set_num_threads, initargs=(1,))


def sound(files: Files, what: str, skip: bool) -> Array:
    """Positions [m] of the images that can be decoded; all of them, or InputError with their count unless ``skip``.

    Looks at every file once. Where the folder can be written the result is kept there, so that other processes need not look again.
    """
    if files.stored is not None:  # in no folder in which to keep what was found
        return _left(files, what, skip, _look(files, range(len(files)), what))
    stats = [size_and_time(files.folder / p) for p in files.paths]
    names = np.frombuffer("\n".join((*files.paths, READING)).encode(), dtype=np.uint8)
    note = files.folder / f".raystudy-corrupt-{digest(names, np.array(stats, dtype=np.int64))}.json"
    try:
        bad: dict[str, str] = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = [i for i, (size, _) in enumerate(stats) if size >= 0]
        bad = {str(i): "it is not there" for i, (size, _) in enumerate(stats) if size < 0} | _look(files, there, what)
        _keep(note, json.dumps(bad))
    return _left(files, what, skip, bad)


def _left(files: Files, what: str, skip: bool, bad: dict[str, str]) -> Array:
    """Positions of the images that are not ``bad``, see ``sound``."""
    count = f"{len(bad):,} of {len(files):,} images are missing or cannot be decoded"
    if bad and (not skip or len(bad) == len(files)):
        i, why = min(bad.items(), key=lambda item: int(item[0]))
        rest = "" if len(bad) == len(files) else "; repair them, or leave them out with --skip-corrupt"
        raise InputError(f"{what}: {count}, the first is {files.folder / files.paths[int(i)]} ({why}){rest}")
    if bad:
        print(f"{what}: {count} and are left out", file=sys.stderr)
    good = np.ones(len(files), dtype=bool)
    good[[int(i) for i in bad]] = False
    return np.flatnonzero(good)


def size_and_time(path: Path) -> tuple[int, int]:
    """Size and time of writing; (-1, -1) where there is no file."""
    try:
        stat = path.stat()
    except (OSError, ValueError):  # or none can have the name
        return -1, -1
    return (stat.st_size, stat.st_mtime_ns) if S_ISREG(stat.st_mode) else (-1, -1)


def _look(files: Files, there: Sequence[int], what: str) -> dict[str, str]:
    """Position -> reason for every image that cannot be decoded."""

    def fault(i: int) -> str:
        try:
            files.decode(i)
        except InputError as error:
            return str(error).partition("decoded (")[2].removesuffix(")")
        return ""

    bad: dict[str, str] = {}
    told = time.monotonic()
    with decoders() as pool:
        for start in range(0, len(there), 1024):
            part = there[start : start + 1024]
            bad |= {str(i): why for i, why in zip(part, pool.map(fault, part), strict=True) if why}
            if time.monotonic() - told > 5:
                print(f"{what}: looked at {start + len(part):,} of {len(there):,} images", file=sys.stderr)
                told = time.monotonic()
    return bad


def _keep(note: Path, text: str) -> None:
    new = note.with_suffix(f".{os.getpid()}.new")
    try:
        new.write_text(text, encoding="utf-8")
        os.replace(new, note)
    except OSError:
        pass  # a read-only folder: every process looks for itself


def one_line(error: BaseException) -> str:
    """An error of a library in at most 160 characters, without torchvision's C++ file names."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(".cpp:")[-1].partition(", ")[2] or text if ".cpp:" in text else text
    return text if len(text) <= 160 else text[:157] + "..."
