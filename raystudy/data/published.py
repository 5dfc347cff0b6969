"""Data sets in the files that torchvision reads, MNIST to CIFAR-100: files first, a download only where they are absent."""

import contextlib
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from raystudy.data import human
from raystudy.data.dataset import Array, Dataset, Stats, build
from raystudy.data.files import one_line
from raystudy.errors import InputError


@dataclass(frozen=True)
class Published:
    """What is known of a data set before it is read."""

    reader: str  # its class in torchvision.datasets
    pad: int
    flip: bool
    stats: Stats
    source: str
    archives: tuple[str, ...]  # relative to the data root
    files: tuple[str, ...]  # likewise


def _idx(folder: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/raw/{part}-ubyte" for part in parts)


def _zipped(folder: str) -> tuple[str, ...]:
    return tuple(f + ".gz" for f in _idx(folder))


_CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR10 = tuple(
    f"cifar-10-batches-py/{f}" for f in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
)
_CIFAR100 = tuple(f"cifar-100-python/{f}" for f in ("train", "test", "meta"))
# Mean and standard deviation are those of the DivideMix code; for MNIST and Fashion-MNIST the usual ones of their training images.
SETS = {
    "mnist": Published(
        "MNIST", 2, False, ((0.1307,), (0.3081,)), "https://ossci-datasets.s3.amazonaws.com/mnist",
        _zipped("MNIST"), _idx("MNIST"),
    ),
    "fashion_mnist": Published(
        "FashionMNIST", 2, False, ((0.2860,), (0.3530,)), "https://github.com/zalandoresearch/fashion-mnist",
        _zipped("FashionMNIST"), _idx("FashionMNIST"),
    ),
    "cifar10": Published(
        "CIFAR10", 4, True, ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)), _CIFAR_SOURCE,
        ("cifar-10-python.tar.gz",), _CIFAR10,
    ),
    "cifar100": Published(
        "CIFAR100", 4, True, ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)), _CIFAR_SOURCE,
        ("cifar-100-python.tar.gz",), _CIFAR100,
    ),
}  # fmt: skip


def read(name: str, root: Path, row: str = "") -> Dataset:
    """A key of SETS. CIFAR comes with the human labels as label sets where their file is there; the data set ``row`` is not without."""
    from torchvision import datasets  # not at the top: it is slow to import

    known = SETS[name]
    labels = human.find(name, root) if name in human.FILES else None
    if row and labels is None:
        raise InputError(
            f"data set {row!r} needs the human labels: fetch {human.FILES[name][0]} from {human.SOURCE} (CC BY-NC 4.0, not for "
            f"commercial use) and put it into {root}, or name the folder that has it with --data-root"
        )
    cls = getattr(datasets, known.reader)
    if not all((root / file).is_file() for file in known.files):
        _download(name, root, cls)
    try:
        train, test = cls(str(root), train=True), cls(str(root), train=False)
    except Exception as error:  # whatever a damaged file makes of itself in idx or pickle readers
        raise InputError(
            f"data set {name!r}: the files under {root} cannot be read ({one_line(error)}); "
            "delete them to download again"
        ) from None
    arrays = [(_planes(np.asarray(part.data)), np.asarray(part.targets)) for part in (train, test)]
    classes = tuple(label.split(" - ")[0] for label in train.classes)  # MNIST's are "0 - zero"
    data = build(row or name, arrays[0], arrays[1], classes, pad=known.pad, flip=known.flip, stats=known.stats)
    return data if labels is None else with_human(data, name, labels)


def with_human(data: Dataset, name: str, path: Path) -> Dataset:
    """A CIFAR data set with the human label sets of a published file; ``name``: cifar10 or cifar100."""
    found = human.label_sets(path, data.y_train.numpy(), data.n_classes, human.ORDERS[name])
    return replace(data, label_sets={**data.label_sets, **{k: torch.from_numpy(y) for k, y in found.items()}})


def _planes(x: Array) -> Array:
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)


def _download(name: str, root: Path, cls: Callable[..., object]) -> None:
    """Tries torchvision's download (it takes archives that already lie in place, after checking their sums)."""
    known = SETS[name]
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(root / f".{name}.lock"),
            contextlib.redirect_stdout(sys.stderr),
        ):  # trials of one machine start together
            socket.setdefaulttimeout(30)  # torchvision sets none, and a dead network should not hang a study
            for train in (True, False):
                cls(str(root), train=train, download=True)
    except Exception as error:
        raise InputError(
            f"data set {name!r} is not under {root} and downloading it failed ({one_line(error)}); fetch "
            f"{', '.join(Path(a).name for a in known.archives)} from {known.source} and put them into "
            f"{(root / known.archives[0]).parent}, or name the folder that has them with --data-root"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
