"""Data sets: names and files -> uint8 images, checked. No noise is drawn and nothing is augmented here.

To add a data set, add a row to ``DATASETS``. A user's own images need none: ``npz:PATH``, see ``read_npz``, and
``folder:PATH``, see ``raystudy.data.folder``. Images that come in files stand in memory, or stay in their files where they are many.
"""

import contextlib
import socket
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data import folder, human, lists, smoke
from raystudy.data.files import STATS_IMAGES, Files, Listing, one_line, sound
from raystudy.data.noise import Noise, digest, generator
from raystudy.data.spec import Options, parse
from raystudy.errors import InputError, unknown

Array = NDArray[Any]
Images = Tensor | Files  # [N, C, H, H] uint8

IN_MEMORY_BYTES = (
    1 << 31
)  # of a data set's decoded images, up to which they stand in memory where the user does not say
FILE_OPTIONS = ("labels", "size", "channels", "skip_corrupt", "stream")  # options of image files only


@dataclass(frozen=True)
class Dataset:
    """Images and labels as they were published, on the CPU or in files, with what the loader needs to know of them."""

    name: str
    x_train: Images  # [N, C, H, H]
    y_train: Tensor  # [N] int64, clean (-1: none of the classes) where ``truth``, else the labels that there are
    x_test: Images  # [M, C, H, H]
    y_test: Tensor  # [M] int64, clean
    label_sets: Mapping[str, Tensor]  # name -> [N] int64: noisy labels that came with the data
    n_classes: int
    classes: tuple[str, ...]
    pad: int  # zero padding of the random crop, in pixels
    flip: bool  # whether mirrored images are images of the same class
    mean: tuple[float, ...]  # per channel, pixels in [0, 1]
    std: tuple[float, ...]
    digest: str  # of the images and the clean labels
    truth: bool = True  # whether ``y_train`` is known to be clean
    extra: Mapping[str, tuple[Images, Tensor]] = field(
        default_factory=dict
    )  # further clean sets: "val", or a test set's name

    @property
    def channels(self) -> int:
        return self.x_train.shape[1]

    @property
    def size(self) -> int:
        """Height = width in pixels."""
        return self.x_train.shape[2]


@dataclass(frozen=True)
class Info:
    """A row of DATASETS: how a data set is read, and what a person wants to know before using it."""

    load: Callable[[Path, Options, Noise | None], Dataset]  # of the data root; controlled noise chooses its images
    train: int  # images
    test: int
    n_classes: int
    shape: tuple[int, int, int]  # C, H, W
    source: str
    licence: str
    archives: tuple[str, ...] = ()  # what to download where there is no network; empty: nothing to download
    files: tuple[str, ...] = ()  # present when these are, relative to the data root
    noises: tuple[str, ...] = ()  # the noise kinds that make sense of it; empty: all of those that draw labels
    listed: bool = False  # whether it consists of image files, so that size and the like may be chosen


def load(spec: str, root: Path | str = "data", noise: Noise | None = None) -> Dataset:
    """A data set by name (a key of DATASETS), ``npz:PATH`` or ``folder:PATH``, with options (see ``raystudy.data.spec``).

    ``root`` is the folder of downloads. ``noise`` decides which images there are only where the noise came as images
    (controlled noisy web labels); without it these sets are read noise-free. The last two sets are kept. Raises InputError, one
    line, for an unknown name, for files that are absent and cannot be downloaded, and for everything wrong with a user's file.
    """
    if spec.startswith(smoke.PREFIX):
        return _cached_smoke(spec, Path(root).expanduser().resolve())
    name, options = parse(spec)
    _known(name)
    kind, _, path = name.partition(":")
    if kind != "folder" and not (name in DATASETS and DATASETS[name].listed):
        for option in FILE_OPTIONS:
            if option in options.given():
                raise InputError(
                    f"data set {name!r} has no option {option}: it is for sets of image files, such as folder:PATH"
                )
    if name not in DATASETS:
        where = Path(path).expanduser()
        table = Path(options.labels).expanduser() if options.labels else None
        return _cached_file(kind, where, _stamp(kind, where), options, table and (table, _stamp("labels", table)))
    allowed = DATASETS[name].noises
    if noise is not None and allowed and noise.kind not in allowed:
        raise InputError(
            f"the labels of {name!r} are noisy as they came, so {noise.kind!r} on top has no known rate; choose from: {', '.join(allowed)}"
        )
    chosen = noise if noise is not None and noise.kind == "web" else None
    return _cached(name, Path(root).expanduser().resolve(), options, chosen and replace(chosen, seed=0))


def _known(name: str) -> None:
    if name not in DATASETS and not name.startswith(("npz:", "folder:")):
        raise unknown("data set", name, [*DATASETS, "npz:PATH", "folder:PATH"])


def _stamp(kind: str, path: Path) -> tuple[int, int]:
    """Changes when a file is written again, so that it is read again."""
    try:
        stat = path.stat()
    except OSError:
        told = {
            "npz": "npz: takes the path of an .npz file",
            "folder": "folder: takes a folder of images, or an archive of one",
        }
        raise InputError(
            f"{path}: no such file; {told.get(kind, '--labels names a .csv or .parquet')}, see README"
        ) from None
    return (stat.st_mtime_ns, stat.st_size) if kind != "folder" or path.is_file() else (0, 0)


@lru_cache(maxsize=2)
def _cached(name: str, root: Path, options: Options, noise: Noise | None) -> Dataset:
    return changed(DATASETS[name].load(root, options, noise), options)


@lru_cache(maxsize=2)
def _cached_file(
    kind: str, path: Path, stamp: tuple[int, int], options: Options, table: tuple[Path, tuple[int, int]] | None
) -> Dataset:
    if kind == "npz":
        return changed(read_npz(path.resolve()), options)
    if table is None:
        raise InputError(f"folder:{path} needs --labels: a .csv or .parquet with the columns path, label")
    if path.is_file():
        if not path.name.endswith(folder.ARCHIVES):
            raise InputError(f"{path}: not a folder of images; an archive's name ends in {', '.join(folder.ARCHIVES)}")
        path = folder.unpacked(path)
    return from_files(folder.read(path, table[0]), options)


def changed(data: Dataset, options: Options) -> Dataset:
    """A data set as the options have it; what changes training changes the digest."""
    told = {k: v for k, v in options.given().items() if k in ("pad", "flip", "mean", "std")}
    if len(told.get("mean", data.mean)) != data.channels:
        raise InputError(f"data set {data.name!r} has {data.channels} channels; mean and std take as many numbers")
    if not told:
        return data
    key = digest(np.frombuffer(f"{data.digest} {sorted(told.items())}".encode(), dtype=np.uint8))
    return replace(data, **told, digest=key)


@lru_cache(maxsize=4)
def _cached_smoke(spec: str, root: Path) -> Dataset:
    return read_smoke(spec, root)


def present(name: str, root: Path | str = "data") -> bool:
    """Whether a data set can be loaded without a download."""
    if name.startswith(smoke.PREFIX):
        return present(name.removeprefix(smoke.PREFIX), root) or True  # raises for a name that is none
    name = parse(name)[0]
    _known(name)
    kind, colon, path = name.partition(":")
    if colon:
        return Path(path).expanduser().is_file() if kind == "npz" else Path(path).expanduser().exists()
    found = all((Path(root).expanduser() / file).is_file() for file in DATASETS[name].files)
    return found and (name not in HUMAN or human.find(HUMAN[name], Path(root).expanduser()) is not None)


def image_size(spec: str, root: Path | str = "data") -> int:
    """Height = width in pixels, without loading a data set of files."""
    name, options = parse(spec)
    if name.startswith(("npz:", smoke.PREFIX)) or name not in DATASETS:
        return options.size or (Listing.size if name.startswith("folder:") else load(spec, root).size)
    return options.size or DATASETS[name].shape[1]


def channel_stats(x: Array | Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
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
    stats: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    label_sets: Mapping[str, Array] | None = None,
) -> Dataset:
    """A Dataset from checked arrays: images uint8 [N, C, H, W], labels whole numbers [N], noisy label sets by name [N]."""
    x_train, x_test = (torch.from_numpy(np.ascontiguousarray(x)) for x in (train[0], test[0]))
    y_train, y_test = (torch.from_numpy(np.asarray(y, dtype=np.int64)) for y in (train[1], test[1]))
    sets = {label: torch.from_numpy(np.asarray(y, dtype=np.int64)) for label, y in (label_sets or {}).items()}
    mean, std = stats or channel_stats(train[0])
    key = digest(*(t.numpy() for t in (x_train, y_train, x_test, y_test)))
    return Dataset(name, x_train, y_train, x_test, y_test, sets, len(classes), classes, pad, flip, mean, std, key)


def from_files(listing: Listing, options: Options) -> Dataset:
    """A Dataset from lists of image files: every file is looked at once; then the images are read, or stay where they are.

    They stay in their files where all of them decoded are more than IN_MEMORY_BYTES, or as ``options.stream`` says; that changes
    no digest and no result. Raises InputError with a count for files that are missing or cannot be decoded, see ``sound``.
    """
    size, channels = options.size or listing.size, options.channels or listing.channels

    def usable(what: str, paths: Any, y: Array) -> tuple[Files, Array, Array]:
        files = Files(listing.folder, paths, size, channels)
        good = sound(files, f"{listing.name}, {what}", bool(options.skip_corrupt))
        return (files if len(good) == len(files) else files[torch.from_numpy(good)]), y[good], good

    train, y_train, good = usable("training images", listing.train, listing.y_train)
    test, y_test, _ = usable("test images", listing.test, listing.y_test)
    extra = {name: usable(name, *part)[:2] for name, part in listing.tests.items()}
    if listing.val is not None:
        extra["val"] = usable("validation images", *listing.val)[:2]
    pixels = sum(files.numel() for files in (train, test, *(x for x, _ in extra.values())))
    stream = options.stream == "always" or (options.stream != "never" and pixels > IN_MEMORY_BYTES)
    stats = listing.stats if channels == listing.channels else None
    if options.mean is not None and options.std is not None:
        stats = options.mean, options.std
    if stats is None:
        some = torch.from_numpy(np.unique(np.linspace(0, len(train) - 1, min(len(train), STATS_IMAGES)).astype(int)))
        stats = channel_stats(train[some].read())
    key = digest(*(np.frombuffer(f.digest().encode(), np.uint8) for f in (train, test)), y_train, y_test)

    def placed(files: Files) -> Images:
        return files if stream else files.read()

    data = Dataset(
        name=listing.name,
        x_train=placed(train),
        y_train=torch.from_numpy(y_train),
        x_test=placed(test),
        y_test=torch.from_numpy(y_test),
        label_sets={name: torch.from_numpy(y[good]) for name, y in listing.label_sets.items()},
        n_classes=len(listing.classes),
        classes=listing.classes,
        pad=max(1, size // 8),  # 4 at 32x32 pixels, as is usual for CIFAR
        flip=listing.flip,
        mean=stats[0],
        std=stats[1],
        digest=key,
        truth=listing.truth,
        extra={name: (placed(files), torch.from_numpy(y)) for name, (files, y) in extra.items()},
    )
    return changed(data, options)


# --- the embedded set ---------------------------------------------------------------------------------------------


def read_digits(root: Path, options: Options, noise: Noise | None) -> Dataset:
    """scikit-learn's digits with a fixed split: 450 test images spread evenly over the classes, 1,347 to train on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 17 grey levels, 0..16
    y = bunch.target.astype(np.int64)
    # Shuffled, sorted by class, then every fourth or so: each class gets its share of the test set to within one.
    order = np.lexsort((generator(0).random(len(y)), y))
    marks = np.arange(len(y) + 1) * 450 // len(y)
    test = np.zeros(len(y), dtype=bool)
    test[order[np.flatnonzero(np.diff(marks))]] = True
    names = tuple(str(c) for c in range(10))
    return build("digits", (x[~test], y[~test]), (x[test], y[test]), names, pad=1, flip=False)


def read_smoke(spec: str, root: Path) -> Dataset:
    """``smoke:NAME``: the stand-in of a data set, with as many classes. Only a user's own file is read to count them."""
    name = spec.removeprefix(smoke.PREFIX)
    info = DATASETS.get(name.partition("?")[0])
    n_classes = info.n_classes if info else load(name, root).n_classes
    if n_classes == 10:
        digits = load("digits", root)
        parts = [
            (torch.as_tensor(x[:n]).numpy(), y[:n].numpy())
            for x, y, n in ((digits.x_train, digits.y_train, smoke.TRAIN), (digits.x_test, digits.y_test, smoke.TEST))
        ]
        train, test = parts
    else:
        train, test = smoke.patterns(n_classes)
    return build(spec, train, test, tuple(map(str, range(n_classes))), pad=1, flip=False)


# --- downloads through torchvision --------------------------------------------------------------------------------

Stats = tuple[tuple[float, ...], tuple[float, ...]]


def torchvision_set(
    name: str, pad: int, flip: bool, stats: Stats, row: str = ""
) -> Callable[[Path, Options, Noise | None], Dataset]:
    """How a torchvision data set is read: files first, a download only where they are absent.

    CIFAR comes with the human labels as label sets where their file is there; the data set ``row`` is not without them.
    """

    def read(root: Path, options: Options, noise: Noise | None) -> Dataset:
        from torchvision import datasets

        labels = human.find(name, root) if name in human.FILES else None
        if row and labels is None:
            raise InputError(
                f"data set {row!r} needs the human labels: fetch {human.FILES[name][0]} from {human.SOURCE} (CC BY-NC 4.0, not for "
                f"commercial use) and put it into {root}, or name the folder that has it with --data-root"
            )

        cls = {
            "mnist": datasets.MNIST,
            "fashion_mnist": datasets.FashionMNIST,
            "cifar10": datasets.CIFAR10,
            "cifar100": datasets.CIFAR100,
        }[name]
        if not present(name, root):
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
        data = build(row or name, arrays[0], arrays[1], classes, pad=pad, flip=flip, stats=stats)
        return data if labels is None else with_human(data, name, labels)

    return read


def with_human(data: Dataset, name: str, path: Path) -> Dataset:
    """A CIFAR data set with the human label sets of a published file; ``name``: cifar10 or cifar100."""
    found = human.label_sets(path, data.y_train.numpy(), data.n_classes, human.ORDERS[name])
    return replace(data, label_sets={**data.label_sets, **{k: torch.from_numpy(y) for k, y in found.items()}})


def _planes(x: Array) -> Array:
    return x[:, None] if x.ndim == 3 else x.transpose(0, 3, 1, 2)


def _download(name: str, root: Path, cls: Callable[..., object]) -> None:
    """Tries torchvision's download (it takes archives that already lie in place, after checking their sums)."""
    info = DATASETS[name]
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
            f"{', '.join(Path(a).name for a in info.archives)} from {info.source} and put them into "
            f"{(root / info.archives[0]).parent}, or name the folder that has them with --data-root"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _idx(folder: str) -> tuple[str, ...]:
    parts = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return tuple(f"{folder}/raw/{part}-ubyte" for part in parts)


_CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR10 = tuple(
    f"cifar-10-batches-py/{f}" for f in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
)
_CIFAR100 = tuple(f"cifar-100-python/{f}" for f in ("train", "test", "meta"))
HUMAN = {"cifar10n": "cifar10", "cifar100n": "cifar100"}  # sets that are not there without their human labels
# The values of the DivideMix code; those of MNIST and Fashion-MNIST are the usual ones of their training images.
_STATS_CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_STATS_CIFAR100 = ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))
_STATS_MNIST = ((0.1307,), (0.3081,))
_STATS_FASHION = ((0.2860,), (0.3530,))

_CNWL_SOURCE = "https://google.github.io/controlled-noisy-web-labels"
_WEBVISION_SOURCE = "https://data.vision.ee.ethz.ch/cvl/webvision/download.html"
_CLOTHING = tuple(
    f"clothing1m/{f}"
    for f in (
        "noisy_label_kv.txt",
        "clean_label_kv.txt",
        "noisy_train_key_list.txt",
        "clean_val_key_list.txt",
        "clean_test_key_list.txt",
    )
)


# --- lists of image files -----------------------------------------------------------------------------------------


def _there(name: str, root: Path) -> None:
    if not present(name, root):
        info = DATASETS[name]
        raise InputError(
            f"data set {name!r} is not under {root}: fetch {', '.join(info.archives)} from {info.source} and put the contents into "
            f"{(root / info.files[0].partition('/')[0])} (see docs/datasets.md), or name the folder that has them with --data-root"
        )


def _controlled(name: str, place: str, size: int, root: Path, options: Options, noise: Noise | None) -> Dataset:
    _there(name, root)
    colour, level = ("red", 0.0) if noise is None else (noise.variant, noise.rate)
    annotations = root / "cnwl" / f"{place.replace('_', '-')}-annotations.json"
    listing = lists.controlled(root / "cnwl" / place, annotations, name, colour, level, options.size or size)
    return from_files(listing, options)


def _listed(
    name: str, place: str, read: Callable[[Path], Listing], root: Path, options: Options, noise: Noise | None
) -> Dataset:
    _there(name, root)
    return from_files(read(root / place), options)


# --- the rows -----------------------------------------------------------------------------------------------------

DATASETS: dict[str, Info] = {
    "digits": Info(
        read_digits,
        1347, 450, 10, (1, 8, 8), "in scikit-learn (UCI optical recognition of handwritten digits)", "CC BY 4.0",
    ),
    "mnist": Info(
        torchvision_set("mnist", 2, False, _STATS_MNIST),
        60000, 10000, 10, (1, 28, 28), "https://ossci-datasets.s3.amazonaws.com/mnist", "CC BY-SA 3.0",
        tuple(f + ".gz" for f in _idx("MNIST")), _idx("MNIST"),
    ),
    "fashion_mnist": Info(
        torchvision_set("fashion_mnist", 2, False, _STATS_FASHION),
        60000, 10000, 10, (1, 28, 28), "https://github.com/zalandoresearch/fashion-mnist", "MIT",
        tuple(f + ".gz" for f in _idx("FashionMNIST")), _idx("FashionMNIST"),
    ),
    "cifar10": Info(
        torchvision_set("cifar10", 4, True, _STATS_CIFAR10),
        50000, 10000, 10, (3, 32, 32), _CIFAR_SOURCE, "none stated; cite Krizhevsky 2009",
        ("cifar-10-python.tar.gz",), _CIFAR10,
    ),
    "cifar100": Info(
        torchvision_set("cifar100", 4, True, _STATS_CIFAR100),
        50000, 10000, 100, (3, 32, 32), _CIFAR_SOURCE, "none stated; cite Krizhevsky 2009",
        ("cifar-100-python.tar.gz",), _CIFAR100,
    ),
    "cifar10n": Info(
        torchvision_set("cifar10", 4, True, _STATS_CIFAR10, "cifar10n"),
        50000, 10000, 10, (3, 32, 32), human.SOURCE, "labels CC BY-NC 4.0 (non-commercial)",
        ("CIFAR-10_human.pt",), _CIFAR10,
    ),
    "cifar100n": Info(
        torchvision_set("cifar100", 4, True, _STATS_CIFAR100, "cifar100n"),
        50000, 10000, 100, (3, 32, 32), human.SOURCE, "labels CC BY-NC 4.0 (non-commercial)",
        ("CIFAR-100_human.pt",), _CIFAR100,
    ),
    "cnwl_mini_imagenet": Info(
        partial(_controlled, "cnwl_mini_imagenet", "mini-imagenet", 32),
        50000, 5000, 100, (3, 32, 32), _CNWL_SOURCE, "lists CC BY 4.0; images their owners'",
        ("dataset_no_images.zip", "the images of its lists"), ("cnwl/mini-imagenet/split/clean_validation",), listed=True,
    ),
    "cnwl_stanford_cars": Info(
        partial(_controlled, "cnwl_stanford_cars", "stanford_cars", 224),
        8144, 8041, 196, (3, 224, 224), _CNWL_SOURCE, "lists CC BY 4.0; images their owners'",
        ("dataset_no_images.zip", "the images of its lists"), ("cnwl/stanford_cars/split/clean_validation",), listed=True,
    ),
    "webvision_mini": Info(
        partial(_listed, "webvision_mini", "webvision", lists.webvision),
        65944, 2500, 50, (3, 224, 224), _WEBVISION_SOURCE, "terms on its page; images their owners'",
        ("google_resized_256.tar", "val_images_resized.tar", "info.tar"),
        ("webvision/info/train_filelist_google.txt", "webvision/info/val_filelist.txt"), ("given",), listed=True,
    ),
    "clothing1m": Info(
        partial(_listed, "clothing1m", "clothing1m", lists.clothing1m),
        1000000, 10526, 14, (3, 224, 224), "https://github.com/Cysu/noisy_label (on request)", "research, by agreement with the authors",
        ("images", "noisy_label_kv.txt", "clean_label_kv.txt", "the key lists"), _CLOTHING, ("given",), listed=True,
    ),
}  # fmt: skip


# --- a user's own file --------------------------------------------------------------------------------------------

NEEDED = ("x_train", "y_train", "x_test", "y_test")


def read_npz(path: Path) -> Dataset:
    """A user's ``.npz``: x_train, y_train, x_test, y_test and optionally noisy labels of the training images.

    ``y_noisy`` is the label set "given", ``y_noisy_NAME`` (any number of them) the label set NAME.

    Images are uint8, or floats in [0, 1]; [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3 (the last dimension
    is the channels if it is 1 or 3, else the second), and square. Labels are whole numbers 0..K-1 in one dimension, K
    being one more than the largest of y_train. Crops are padded by 4 pixels from size 32 on, by 2 from 16, else by 1;
    only colour images are flipped. Nothing is ever unpickled. Raises InputError, one line with the file and its first
    fault.
    """
    arrays = _open_npz(path)
    x_train, x_test = (_images(path, name, arrays[name]) for name in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = " and ".join("x".join(map(str, x.shape[1:])) for x in (x_train, x_test))
        raise InputError(f"{path}: x_train and x_test differ in image shape (channels x height x width): {shapes}")
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train))
    n_classes = int(y_train.max()) + 1
    if n_classes > len(y_train):
        i = int(y_train.argmax())
        raise InputError(
            f"{path}: y_train[{i}] is {n_classes - 1}, out of range for {len(y_train)} images; "
            "labels are 0 to the number of classes - 1"
        )
    seen = np.unique(y_train)
    if len(seen) == n_classes - 1 and seen[0] == 1:
        raise InputError(f"{path}: y_train runs from 1 to {n_classes - 1}; labels start at 0, so subtract 1 everywhere")
    if n_classes < 2:
        raise InputError(f"{path}: y_train holds one class only; at least two are needed")
    y_test = _labels(path, "y_test", arrays["y_test"], len(x_test), n_classes)
    label_sets = {
        name.removeprefix("y_noisy").removeprefix("_") or "given": _labels(path, name, y, len(x_train), n_classes)
        for name, y in arrays.items()
        if name.startswith("y_noisy")
    }
    channels, size = x_train.shape[1:3]
    pad = 4 if size >= 32 else 2 if size >= 16 else 1
    classes = tuple(str(c) for c in range(n_classes))
    train, test = (x_train, y_train), (x_test, y_test)
    return build(path.name, train, test, classes, pad=pad, flip=channels == 3, label_sets=label_sets)


def _open_npz(path: Path) -> dict[str, Array]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
    except Exception as error:  # numpy and zipfile raise all sorts on bytes that are no zip
        why = "is empty" if path.is_file() and path.stat().st_size == 0 else "cannot be read"
        raise InputError(
            f"{path}: not an .npz file, or one that {why} ({one_line(error)}); write it with numpy.savez"
        ) from None
    with file:
        missing = [name for name in NEEDED if name not in file.files]
        if missing:
            raise InputError(
                f"{path}: no array {', '.join(missing)}; needed are {', '.join(NEEDED)} (and y_noisy if you have it), "
                f"the file has: {', '.join(file.files) or '(nothing)'}"
            )
        arrays = {}
        for name in [*NEEDED, *(f for f in file.files if f == "y_noisy" or f.startswith("y_noisy_"))]:
            try:
                arrays[name] = file[name]
            except Exception as error:
                if "Object arrays" in str(error):
                    raise InputError(
                        f"{path}: {name} is an object array (pickled); save it as a plain array of numbers"
                    ) from None
                raise InputError(
                    f"{path}: {name} cannot be read, the file is damaged or cut short ({one_line(error)})"
                ) from None
            if not isinstance(arrays[name], np.ndarray):  # a member that is not .npy comes back as bytes
                raise InputError(f"{path}: {name} is not a numpy array; write the file with numpy.savez")
    return arrays


def _images(path: Path, name: str, x: Array) -> Array:
    """Images as uint8 [N, C, H, W], or InputError."""
    shape = "x".join(map(str, x.shape)) or "a single number"
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(f"{path}: {name} is {shape}; images are [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3")
    if x.size == 0:
        raise InputError(f"{path}: {name} is {shape}: it holds no images")
    if x.shape[2] != x.shape[3]:
        raise InputError(
            f"{path}: {name} holds images of {x.shape[2]}x{x.shape[3]} pixels; they must be square, pad or crop them"
        )
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"{path}: {name} is {x.dtype}; images are uint8 (0 to 255) or floats in [0, 1]")
    finite = np.isfinite(x).all(axis=(1, 2, 3))
    if not finite.all():
        raise InputError(f"{path}: {name}[{int(finite.argmin())}] has pixels that are NaN or infinite")
    if x.min() < 0 or x.max() > 1:
        raise InputError(
            f"{path}: {name} has floats from {x.min():g} to {x.max():g}; float images lie in [0, 1], or store uint8"
        )
    return np.rint(x * 255).astype(np.uint8, order="C")


def _labels(path: Path, name: str, y: Array, n: int, n_classes: int | None = None) -> NDArray[np.int64]:
    """Labels as int64 [n] in 0..n_classes-1, or InputError with the first offending index and value."""
    if y.ndim != 1:
        raise InputError(
            f"{path}: {name} has shape {list(y.shape)}; labels are one whole number per image, shape [{n}]"
        )
    if len(y) != n:
        raise InputError(f"{path}: {name} has {len(y)} labels for {n} images")
    if y.dtype.kind not in "iufb":
        raise InputError(f"{path}: {name}[0] is {y[0]!s} ({y.dtype}); labels are whole numbers from 0")
    for wrong, why in (
        (~np.isfinite(y) | (y != np.floor(y)) if y.dtype.kind == "f" else None, "not a whole number"),
        (y < 0, "negative"),
        (
            None if n_classes is None else y >= n_classes,
            f"out of range: y_train has the classes 0 to {(n_classes or 1) - 1}",
        ),
    ):
        if wrong is not None and wrong.any():
            i = int(wrong.argmax())
            raise InputError(f"{path}: {name}[{i}] is {y[i].item()}, {why}")
    return y.astype(np.int64)
