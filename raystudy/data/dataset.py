"""What a data set is: images or vectors and labels as they were published, checked, with what the loader needs to know of them.

Here belongs what holds for every data set, wherever it comes from; how each is read is in a module of its own.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data import imbalance, repeats
from raystudy.data.files import Files
from raystudy.data.noise import digest
from raystudy.data.spec import Options
from raystudy.errors import InputError

Array = NDArray[Any]
Images = Tensor | Files  # images [N, C, H, H] uint8, or vectors [N, d] or [N, V, d] of any floats or uint8
TEST_SHARE = 0.2  # of the samples, where the data names no test set
NAMED = 3  # classes that a sentence names
Stats = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, see ``Dataset``


@dataclass(frozen=True)
class Dataset:
    """Images and labels as they were published, on the CPU or in files, with what the loader needs to know of them.

    Or vectors and labels: one vector of each sample [N, d], or V precomputed views [N, V, d], of which the first is the plain one.
    """

    name: str
    x_train: Images  # [N, C, H, H], or vectors
    y_train: Tensor  # [N] int64, clean (-1: none of the classes) where ``truth``, else the labels that there are
    x_test: Images  # [M, C, H, H], or plain vectors [M, d]
    y_test: Tensor  # [M] int64, clean
    label_sets: Mapping[str, Tensor]  # name -> [N] int64: noisy labels that came with the data
    n_classes: int
    classes: tuple[str, ...]
    pad: int  # zero padding of the random crop, in pixels
    flip: bool  # whether mirrored images are images of the same class
    mean: tuple[float, ...]  # per channel, pixels in [0, 1]; of vectors per feature, as they are
    std: tuple[float, ...]
    digest: str  # of the images and the clean labels
    truth: bool = True  # whether ``y_train`` is known to be clean
    extra: Mapping[str, tuple[Images, Tensor]] = field(
        default_factory=dict
    )  # further clean sets: "val", or a test set's name

    title: str = ""  # short, for pictures; empty: the name
    notes: tuple[str, ...] = ()  # what its reader found that a person should hear, a sentence each
    paths: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  # "training", "test": of each image, where they are files
    rows: Mapping[str, Sequence[int]] = field(
        default_factory=dict
    )  # "training", "test": the place of each sample in its file, from 0, where one list was split here
    ours: bool = False  # whether the test set is our choice
    columns: Mapping[str, Any] | None = None  # of a table: what its columns became, see ``columns.learnt``
    imbalance: str = ""  # as the user asked for it; empty: the classes are as large as they came
    strong: tuple[int, ...] = ()  # which views of vectors are strong ones; empty: weak and strong are drawn from all

    @cached_property
    def leaks(self) -> tuple[str, ...]:
        """A sentence for every two splits that have images in common. Looks at all images, the first time it is asked."""
        parts = {"training": (plain(self.x_train), self.y_train), "test": (self.x_test, self.y_test)}
        if "val" in self.extra:
            parts["validation"] = self.extra["val"]
        return repeats.told(parts, self.paths, self.kind)

    @property
    def remarks(self) -> tuple[str, ...]:
        """All that a person should hear before trusting the data."""
        return self.notes + self.leaks

    @property
    def kind(self) -> Literal["images", "vectors"]:
        return "images" if len(self.x_train.shape) == 4 else "vectors"

    @property
    def shape(self) -> tuple[int, ...]:
        """What networks take: channels, height and width, or the features of a vector."""
        return tuple(self.x_train.shape[1:] if self.kind == "images" else self.x_train.shape[-1:])

    @property
    def channels(self) -> int:
        return self.x_train.shape[1]

    @property
    def size(self) -> int:
        """Height = width in pixels."""
        return self.x_train.shape[2]


@overload
def plain(x: Tensor) -> Tensor: ...
@overload
def plain(x: Files) -> Files: ...
@overload
def plain(x: Images) -> Images: ...
def plain(x: Images) -> Images:
    """Vectors without their further views; anything else as it is."""
    return x[:, 0] if isinstance(x, Tensor) and x.dim() == 3 else x


def unsplit(data: Dataset) -> Dataset:
    """All samples as one training set in the order in which they came, where it was us who took a test set from labels of unknown truth;
    any other data as it is."""
    if not data.ours or data.truth:
        return data
    rows = np.concatenate([np.asarray(data.rows[name], dtype=np.int64) for name in ("training", "test")])
    order = np.argsort(rows)
    x, test, at = plain(data.x_train), data.x_test, torch.from_numpy(order)
    whole = x + test if isinstance(x, Files) else torch.cat([x, test])  # type: ignore[operator, list-item]
    y = torch.cat([data.y_train, data.y_test])[at]
    names = [*data.paths.get("training", ()), *data.paths.get("test", ())]
    return replace(
        data,
        x_train=whole[at],
        y_train=y,
        x_test=test[:0],
        y_test=data.y_test[:0],
        label_sets=dict.fromkeys(data.label_sets, y),
        paths={"training": [names[i] for i in order.tolist()]} if names else {},
        rows={"training": rows[order].tolist(), "test": []},
        ours=False,
    )


def channel_stats(x: Array | Tensor) -> Stats:
    """Mean and standard deviation per channel of uint8 images [N, C, H, W], in units of [0, 1].

    From counts of the 256 values, so exact and the same everywhere. A constant channel gets standard deviation 1.
    """
    values, moments = np.arange(256) / 255, []
    for channel in np.asarray(x).transpose(1, 0, 2, 3):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        mean = float(share @ values)
        moments.append((round(mean, 6), round(float(np.sqrt(share @ (values - mean) ** 2)), 6) or 1.0))
    mean_std = tuple(zip(*moments, strict=True))
    return mean_std[0], mean_std[1]


def build(
    name: str,
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    classes: tuple[str, ...],
    *,
    pad: int,
    flip: bool,
    stats: Stats | None = None,
    label_sets: Mapping[str, Array] | None = None,
) -> Dataset:
    """A Dataset from checked arrays: images uint8 [N, C, H, W] or vectors, labels whole numbers [N], noisy label sets by name [N].

    ``stats`` are needed of vectors.
    """
    x_train, x_test = (torch.from_numpy(np.ascontiguousarray(x)) for x in (train[0], test[0]))
    y_train, y_test = (torch.from_numpy(np.asarray(y, dtype=np.int64)) for y in (train[1], test[1]))
    sets = {label: torch.from_numpy(np.asarray(y, dtype=np.int64)) for label, y in (label_sets or {}).items()}
    mean, std = stats or channel_stats(train[0])
    key = digest(*(t.numpy() for t in (x_train, y_train, x_test, y_test)))
    return Dataset(name, x_train, y_train, x_test, y_test, sets, len(classes), classes, pad, flip, mean, std, key)


def changed(data: Dataset, options: Options) -> Dataset:
    """A data set as the options have it; what changes training changes the digest."""
    told = {k: v for k, v in options.given().items() if k in ("pad", "flip", "mean", "std")}
    if told and data.kind == "vectors":
        raise InputError(
            f"data set {data.name!r} has no option {next(iter(told))}: it is for images, and these are vectors"
        )
    if told and len(told.get("mean", data.mean)) != data.channels:
        raise InputError(f"data set {data.name!r} has {data.channels} channels; mean and std take as many numbers")
    data = replace(data, **told, digest=_digest_with(data, told)) if told else data
    return data if options.imbalance is None else unbalanced(data, options.imbalance)


def _digest_with(data: Dataset, told: Mapping[str, Any]) -> str:
    return digest(np.frombuffer(f"{data.digest} {sorted(told.items())}".encode(), dtype=np.uint8))


def unbalanced(data: Dataset, asked: str, least: int = 0) -> Dataset:
    """A data set with the training samples that ``imbalance.kept`` leaves, and all that is told of each; the test set is as it was.

    Mean and standard deviation stay those of the whole training set, as in the papers. ``least``: at least so many of each class.
    """
    whole = data.y_train.numpy()
    try:
        stay = torch.from_numpy(imbalance.kept(whole, data.n_classes, asked, least))
    except InputError as error:
        raise InputError(f"data set {data.name!r}: {error}") from None
    y = data.y_train[stay]
    sizes = torch.bincount(y[y >= 0], minlength=data.n_classes)
    (most, few), names = ((int(sizes.argmax()), int(sizes.argmin())), data.classes)
    note = (
        f"imbalance {asked}: {len(stay):,} of {len(whole):,} training {data.kind} stay, from {sizes[most]:,} of class {names[most]!r} "
        f"to {sizes[few]:,} of class {names[few]!r}"
    )
    paths = dict(data.paths)
    if "training" in paths:
        paths["training"] = [paths["training"][i] for i in stay.tolist()]
    return replace(
        data,
        x_train=data.x_train[stay],
        y_train=y,
        label_sets={name: labels[stay] for name, labels in data.label_sets.items()},
        paths=paths,
        notes=(*data.notes, note),
        imbalance=asked,
        rows={},
        ours=False,
        digest=_digest_with(data, {"imbalance": asked}),
    )


def held_out(contents: Iterable[bytes]) -> Array:
    """Which samples [N] bool are the test set where the data names none: a fifth, by the digest of what each holds.

    So the same on every machine, equal samples stay on one side, and none changes sides when others are added.
    """
    share = [int.from_bytes(hashlib.sha256(c).digest()[:8], "big") / 2**64 for c in contents]
    return np.array(share) < TEST_SHARE


def without_test(names: Sequence[str], one: str = "image") -> tuple[str, ...]:
    """A sentence on classes that are trained on and never tested."""
    if not names:
        return ()
    more = ", ..." if len(names) > NAMED else ""
    return (f"classes without a test {one}: {len(names):,} ({', '.join(names[:NAMED])}{more})",)
