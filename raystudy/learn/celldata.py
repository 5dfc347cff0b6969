"""A cell's data as trainings see it: loaded, given noisy labels, split, and on its device; with the truth that only ``metrics`` reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raystudy.data import datasets
from raystudy.data.corruption import corrupted
from raystudy.data.dataset import plain
from raystudy.data.files import Files
from raystudy.data.loader import split_validation
from raystudy.data.noise import Noise
from raystudy.errors import InputError
from raystudy.learn.metrics import Truth


@dataclass(frozen=True)
class CellData:
    """A cell's data on the device, or images in files where they are too many: the noisy training set, the held-out sets, the truth.

    Vectors stand in the place of images: [n, d] or [n, V, d] to train on, plain ones [m, d] where they are only looked at.
    """

    name: str
    data_digest: str
    noise_digest: str
    effective_rate: float | None  # None where the truth is not known
    shape: tuple[int, ...]  # what networks take: channels, height and width, or the features of a vector
    n_classes: int
    x: Tensor | Files  # [n, C, H, W] uint8
    y: Tensor  # [n] given labels
    x_held: Tensor | Files  # [m + k, C, H, W] uint8: validation, then test
    x_val: Tensor | Files  # [m, ...] the validation images as one would train on them
    places: Tensor  # [n + m] where these, training images and then validation images, are in the data set
    y_val: Tensor  # [m] given labels
    y_test: Tensor  # [k] clean labels
    extra: dict[str, tuple[Tensor | Files, Tensor]]  # further clean sets by name, ``val`` or a test set: images, labels
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    flip: bool
    strong: tuple[int, ...]
    truth: Truth
    classes: tuple[str, ...] = ()  # their names
    columns: Mapping[str, Any] | None = None  # of a table: what its columns became
    title: str = ""  # short, for pictures; empty: the name
    imbalance: str = ""  # see ``data.imbalance``; empty: the classes are as large as they came
    filter: str = ""  # what was asked of a filter (``filtering``); empty: none was
    filtered: Mapping[str, float | None] = field(default_factory=dict)  # what it did, measured
    assumed: bool = False  # whether noise was drawn on labels of which nobody knows whether they are right

    @property
    def clean_validation(self) -> int:
        """How many validation images there are whose true labels are known."""
        return len(self.extra["val"][1]) if "val" in self.extra else len(self.y_val) * self.truth.known


def prepare(dataset: str, root: Path, setting: Noise, val_fraction: float, device: str = "cpu") -> CellData:
    """Loads a data set, gives it noisy labels and holds out a validation split of the noisy training set.

    The split is drawn with the noise seed, so that all methods of a cell share it. Cached: an actor keeps the data between trials,
    until a file that they are read from is another.
    """
    return _prepared(dataset, root, setting, val_fraction, device, datasets.stamp(dataset, root, setting))


@lru_cache(maxsize=4)
def _prepared(
    dataset: str, root: Path, setting: Noise, val_fraction: float, device: str, stamp: datasets.Stamp
) -> CellData:
    data = datasets.load(dataset, root, setting)
    noisy = corrupted(data, setting, root)
    given, clean = torch.from_numpy(noisy.given), torch.from_numpy(noisy.clean)
    train, val = (torch.as_tensor(i) for i in split_validation(len(clean), val_fraction, noisy.split_seed))
    if len(train) < 2 or len(val) < 1:
        raise InputError(
            f"data set {dataset!r} has {len(clean)} training images: too few to hold out {val_fraction:.0%} for validation"
        )
    y, y_clean = given[train], clean[train]
    known = (
        data.truth or setting.kind != "given"
    )  # noise drawn on top of labels taken to be clean has a truth of its own

    def placed(x: Tensor | Files) -> Tensor | Files:
        return x.to(device) if isinstance(x, Tensor) else x

    held = placed(joined(plain(noisy.x_train[val]), noisy.x_test))
    return CellData(
        name=data.name,
        data_digest=data.digest,
        noise_digest=noisy.digest(val),
        effective_rate=noisy.effective_rate if known else None,
        shape=data.shape,
        n_classes=data.n_classes,
        x=placed(noisy.x_train[train]),
        places=torch.cat([train, val]),
        y=y.to(device),
        x_held=held,
        x_val=held[: len(val)] if len(noisy.x_train.shape) != 3 else placed(noisy.x_train[val]),
        y_val=given[val].to(device),
        y_test=data.y_test.to(device),
        extra={name: (placed(x), labels.to(device)) for name, (x, labels) in data.extra.items()},
        mean=data.mean,
        std=data.std,
        pad=data.pad,
        flip=data.flip,
        strong=data.strong,
        truth=Truth(y_clean.to(device), (y != y_clean).to(device), clean[val].to(device), known),
        classes=data.classes,
        columns=data.columns,
        title=data.title,
        imbalance=data.imbalance,
        assumed=known and not data.truth,
    )


def joined(*parts: Tensor | Files) -> Tensor | Files:
    """Images one after another; all in memory or all in files."""
    if isinstance(parts[0], Files):
        return sum(parts[1:], parts[0])
    return torch.cat(parts)  # type: ignore[arg-type]


def in_memory(x: Tensor | Files) -> Tensor:
    """Images as a tensor, decoded where they are in files."""
    return x.read() if isinstance(x, Files) else x
