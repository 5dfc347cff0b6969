"""Data set and noise setting -> what a study trains on: images, given labels, and the truth apart from them.

Here belongs what needs more than labels: images, files, another data set, label sets that came with the data. What is
drawn and how is in ``noise`` and ``instance``. A kind without a matrix has a row in ``BUILDERS``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data import brought, datasets, instance, masks, noise, smoke, spec
from raystudy.data.dataset import Dataset, Images, plain
from raystudy.data.files import Files
from raystudy.data.masks import Mask
from raystudy.data.noise import CLASS_MAP_OF, NONE, Labels, Matrix, Noise, digest, generator
from raystudy.errors import InputError

Pixels = NDArray[np.uint8]

STREAM_FOREIGN = 0x666F7265
STREAM_PIXELS = 0x70697865
SUM_TOLERANCE = 1e-6  # of a row of a matrix file: written with six digits it is good enough


@dataclass(frozen=True)
class Corrupted:
    """A data set under noise, on the CPU."""

    x_train: Images  # [N, C, H, W] uint8, or vectors; the data set's own where none was changed
    x_test: Images  # [M, C, H, W] uint8, or vectors, likewise
    given: Labels  # [N] labels in 0..K-1 to train on
    clean: Labels  # [N] the truth: NONE for an image that shows none of the classes, so that no label of it is right
    matrix: Matrix  # [K, K] the model's transition matrix, or counted where it has none
    noise: Noise  # what was done, in full: the data set's class map, the setting inside a mask
    images: str  # digest of the images where they were changed, else ""
    split_seed: int  # of the validation split

    @property
    def effective_rate(self) -> float:
        """The share of wrong labels among the training images."""
        return noise.effective_rate(self.clean, self.given)

    def digest(self, val: Tensor) -> str:
        """Tells the condition from others, with its validation positions; see ``noise.condition_digest``."""
        return noise.condition_digest(self.given, val, self.images)


def corrupted(data: Dataset, setting: Noise, root: Path | str = "data") -> Corrupted:
    """A data set under a noise setting; ``root`` is where other data sets lie (open-set noise).

    Only kinds that depend on images touch them. Raises InputError, one line, for noise that this data cannot have.
    """
    name = data.name.removeprefix(smoke.PREFIX)
    if name != data.name:
        setting = smoke.noise(setting)
    if setting.kind == "asymmetric" and not setting.variant:
        if (base := spec.base(name)) not in CLASS_MAP_OF:
            raise InputError(
                f"noise 'asymmetric' has no class map for data set {data.name!r}; it knows {', '.join(CLASS_MAP_OF)}: "
                f"write asymmetric:cifar10:RATE for a copy of one of them, or matrix:FILE for your own"
            )
        setting = replace(setting, variant=CLASS_MAP_OF[base])
    if setting.kind in BUILDERS:
        return BUILDERS[setting.kind](data, setting, Path(root))
    if setting.kind not in noise.NOISES:
        return _labelled(data, setting, *brought.given(data.y_train.numpy(), setting, data.n_classes))
    given = noise.corrupt(data.y_train.numpy(), setting, data.n_classes)
    return _labelled(data, setting, given, noise.transition_matrix(setting, data.n_classes))


def _labelled(data: Dataset, setting: Noise, given: Labels, matrix: Matrix | None = None) -> Corrupted:
    """Noise that leaves the images alone."""
    clean: Labels = data.y_train.numpy()
    if matrix is None:
        matrix = noise.realised_matrix(clean, given, data.n_classes)
    return Corrupted(data.x_train, data.x_test, given, clean, matrix, setting, "", setting.seed)


# --- labels from elsewhere ----------------------------------------------------------------------------------------


def _came(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    """Label sets that came with the data, as they are or diluted to a rate of wrong labels."""
    name = setting.variant or "given"
    only = not (data.truth or data.label_sets or setting.kind == "human")  # one set of labels: they are as they came
    sets = {"given": data.y_train} if only else data.label_sets
    if name not in sets:
        if setting.kind == "human":
            where = "cifar100" if name == "noisy" else "cifar10"
            hint = f"{setting.label!r} is a label set of CIFAR-N, for {where}"
        else:
            hint = f"{setting.label!r} needs an npz: file with {'y_noisy' + f'_{name}' * (name != 'given')}"
        held = f"; it has: {', '.join(data.label_sets)}" if data.label_sets else ""
        raise InputError(
            f"data set {data.name!r} came with no noisy labels{f' {name!r}' if held else ''}{held}; {hint}"
        )
    clean, came = data.y_train.numpy(), sets[name].numpy()
    if not setting.rate:
        return _labelled(data, setting, came.copy())
    if not data.truth:
        raise InputError(
            f"noise {setting.label!r}: nobody knows which labels of {data.name!r} are wrong, so they cannot be diluted; write given"
        )
    try:
        return _labelled(data, setting, noise.dilute(clean, came, setting.rate, setting.seed))
    except ValueError:
        natural = noise.effective_rate(clean, came)
        raise InputError(
            f"noise {setting.label!r}: {natural:.4g} of the labels {name!r} of {data.name!r} are wrong, and noise can be "
            f"diluted only; choose a rate up to that, or none"
        ) from None


def _web(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    """Controlled noisy web labels: the data set was loaded with the images of this level, their labels came with it."""
    if "web" not in data.label_sets:
        raise InputError(f"data set {data.name!r} came with no noisy labels; 'web' needs one of the cnwl_ data sets")
    return _labelled(data, setting, data.label_sets["web"].numpy().copy())


def _stored(data: Dataset, setting: Noise, root: Path) -> Corrupted:
    """A mask read back: the labels in it, and images made again as it says. The noise seed adds to that of the mask."""
    path = setting.variant
    mask = masks.load(Path(path))
    n, k = len(mask.given), len(mask.matrix)
    if n != len(data.y_train) or k != data.n_classes:
        raise InputError(
            f"mask {path} is of data set {mask.dataset!r} with {n} labels and {k} classes; {data.name!r} has "
            f"{len(data.y_train)} and {data.n_classes}"
        )
    if mask.data != data.digest:
        raise InputError(
            f"mask {path} is of other data: {mask.dataset!r} with digest {mask.data}; {data.name!r} here has {data.digest}"
        )
    x_train, x_test = data.x_train, data.x_test
    if mask.images:
        again = corrupted(data, mask.noise, root)
        if again.images != mask.images:
            raise InputError(f"mask {path}: the images of {mask.noise.label} cannot be made again as they were")
        x_train, x_test = again.x_train, again.x_test
    seed = mask.seed + setting.seed
    return Corrupted(x_train, x_test, mask.given, mask.clean, mask.matrix, mask.noise, mask.images, seed)


def read_matrix(path: Path, n_classes: int) -> Matrix:
    """T [K, K] of a .npy, .npz (its only array) or .csv file, each row made to sum to 1 exactly.

    Raises InputError, one line, where the file cannot be read, is not square, has not K rows, an entry outside [0, 1] or a
    row that does not sum to 1. Nothing is ever unpickled.
    """
    form = path.suffix.lower()
    try:
        if form == ".csv":
            told = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8")
        elif form in (".npy", ".npz"):
            with path.open("rb") as file:
                read = np.load(file, allow_pickle=False)
                if isinstance(read, np.lib.npyio.NpzFile):
                    if len(read.files) != 1:
                        raise InputError(f"{path} holds {len(read.files)} arrays; a matrix file holds one")
                    read = read[read.files[0]]
            told = np.asarray(read, dtype=np.float64)
        else:
            raise InputError(
                f"{path}: a matrix is read from .npy, .npz or .csv, not {form or 'a file without ending'!r}"
            )
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no matrix file {path}") from None
    except Exception as e:  # numpy raises all sorts on bytes that are no array
        why = " ".join(str(e).split())[:120] or type(e).__name__
        raise InputError(f"{path}: not a matrix of numbers ({why})") from None
    shape = "x".join(map(str, told.shape))
    if told.ndim != 2 or told.shape[0] != told.shape[1]:
        raise InputError(f"{path}: a transition matrix is square, this is {shape}")
    if len(told) != n_classes:
        raise InputError(f"{path}: the matrix is {shape}, the data has {n_classes} classes")
    bad = ~((told >= 0) & (told <= 1))
    if bad.any():
        i, j = (int(v) for v in np.argwhere(bad)[0])
        raise InputError(f"{path}: row {i}, column {j} is {told[i, j]:g}; probabilities lie in [0, 1]")
    sums = told.sum(1)
    if (off := np.abs(sums - 1) > SUM_TOLERANCE).any():
        i = int(off.argmax())
        raise InputError(f"{path}: row {i} sums to {sums[i]:.8g}; the rows of a transition matrix sum to 1")
    return told / sums[:, None]


def _from_matrix(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    full = read_matrix(Path(setting.variant), data.n_classes)
    given = noise.flip(data.y_train.numpy(), full, setting.rate, setting.seed, setting.count)
    return _labelled(data, setting, given, (1 - setting.rate) * np.eye(len(full)) + setting.rate * full)


# --- noise that looks at images, or changes them ------------------------------------------------------------------


def _in_memory(data: Dataset, setting: Noise) -> tuple[Tensor, Tensor]:
    """Training and test images or vectors, which have to be in memory for noise that looks at them."""
    if isinstance(data.x_train, Files) or isinstance(data.x_test, Files):
        raise InputError(
            f"noise {setting.kind!r} looks at images, so they must be in memory; {data.name!r} is streamed: --stream never"
        )
    return data.x_train, data.x_test


def _pixels(data: Dataset, setting: Noise) -> tuple[Tensor, Tensor]:
    """Training and test images, for noise that makes others of them."""
    if data.kind != "images":
        raise InputError(f"noise {setting.kind!r} is of images, and {data.name!r} holds {data.kind}")
    return _in_memory(data, setting)


def _instance(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    x, y = plain(_in_memory(data, setting)[0]).numpy(), data.y_train.numpy()
    seen = x if data.kind == "images" else instance.standardised(x, data.mean, data.std)
    return _labelled(data, setting, instance.flip(seen, y, setting.variant, setting.rate, data.n_classes, setting.seed))


def _open_set(data: Dataset, setting: Noise, root: Path) -> Corrupted:
    """int(r N) images replaced by training images of another set, each used once; their labels stay and are all wrong.

    Vectors are replaced by vectors of the same features, as another data set has them behind the same network.


    Another int(closed N) images keep their picture and get a uniform wrong label (r_out and r_in of Albert et al. 2022). Both
    shares are of the whole set. Which are replaced, and by what, is nested over rates.
    """
    x_train, x_test = _in_memory(data, setting)
    name, closed = noise.open_set(setting.variant)
    foreign = datasets.load(name, root)
    told, theirs = (f"{d.kind} of {_form(d.x_train)}" for d in (data, foreign))
    if "vectors" in (data.kind, foreign.kind) and told != theirs:
        raise InputError(
            f"noise {setting.label!r}: {data.name!r} holds {told}, {foreign.name!r} {theirs}; foreign vectors must be of the same form"
        )
    if foreign.digest == data.digest:
        raise InputError(f"noise {setting.label!r}: foreign images must come from another data set than {data.name!r}")
    clean: Labels = data.y_train.numpy().copy()
    given = clean.copy()
    rng = generator(STREAM_FOREIGN, setting.seed)
    order = np.argsort(rng.random(len(clean)), kind="stable")
    replaced = order[: int(setting.rate * len(clean))]
    if len(replaced) > len(foreign.x_train):
        raise InputError(
            f"noise {setting.label!r} replaces {len(replaced)} images; {name!r} has {len(foreign.x_train)} to give"
        )
    source = np.argsort(generator(STREAM_FOREIGN, setting.seed, 1).random(len(foreign.x_train)), kind="stable")
    x = x_train.clone()
    brought = foreign.x_train[torch.from_numpy(source[: len(replaced)])]
    brought = brought.read() if isinstance(brought, Files) else brought
    x[torch.from_numpy(replaced)] = fitted(brought, x.shape[1:]) if data.kind == "images" else brought
    clean[replaced] = NONE
    if closed:  # from the other end of the order, so that the two never meet
        wrong = order[len(order) - int(closed * len(clean)) :]
        shift = rng.integers(1, data.n_classes, len(clean))
        given[wrong] = (given[wrong] + shift[wrong]) % data.n_classes
    return _changed(data, setting, given, clean, x, x_test)


def _form(x: Images) -> str:
    """Of one image or vector: 8x256 float16."""
    dtype = "uint8" if isinstance(x, Files) else str(x.dtype).removeprefix("torch.")
    return f"{'x'.join(map(str, x.shape[1:]))} {dtype}"


def fitted(x: Tensor, shape: torch.Size) -> Tensor:
    """Images [n, C', H', W'] uint8 in the shape [C, H, W] of others: nearest pixel, grey from colour by luma, in whole numbers."""
    channels, height, width = shape
    if x.shape[1] == 3 and channels == 1:
        r, g, b = x.to(torch.int64).unbind(1)
        x = ((299 * r + 587 * g + 114 * b + 500) // 1000).to(torch.uint8)[:, None]
    elif x.shape[1] == 1:
        x = x.expand(-1, channels, -1, -1)
    rows = torch.arange(height) * x.shape[2] // height
    columns = torch.arange(width) * x.shape[3] // width
    return x[:, :, rows][:, :, :, columns].contiguous()


def _random_pixels(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    """The pixels of int(r N) training images in an order of their own each; a pixel keeps its channels. Labels are right."""

    def shuffled(x: Pixels, rng: np.random.Generator, chosen: NDArray[np.int64]) -> Pixels:
        flat = x.reshape(*x.shape[:2], -1)
        orders = rng.permuted(np.tile(np.arange(flat.shape[2], dtype=np.int32), (len(x), 1)), axis=1)
        return np.take_along_axis(flat[chosen], orders[chosen, None], 2).reshape(x[chosen].shape)

    return _each_its_own(data, setting, generator(STREAM_PIXELS, setting.seed), shuffled)


def _gaussian_pixels(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    """Int(r N) training images of normal draws with the mean and variance of each channel over the training set. Labels are right.

    Rounded and cut to 0..255, so that the variance comes out a little smaller. A channel that is constant has variance 0 and stays so.
    """
    moments = []
    for channel in _pixels(data, setting)[0].numpy().transpose(1, 0, 2, 3):  # whole numbers, so the same everywhere
        count = np.bincount(channel.ravel(), minlength=256)
        first, second = (int(count @ np.arange(256) ** power) for power in (1, 2))
        moments.append((first / channel.size, math.sqrt(channel.size * second - first**2) / channel.size))
    mean, std = (np.array(m)[:, None, None] for m in zip(*moments, strict=True))

    def drawn(x: Pixels, rng: np.random.Generator, chosen: NDArray[np.int64]) -> Pixels:
        draws = rng.standard_normal(x.shape)[chosen]
        return np.clip(np.rint(mean + std * draws), 0, 255).astype(np.uint8)

    return _each_its_own(data, setting, generator(STREAM_PIXELS, setting.seed, 2), drawn)


def _each_its_own(
    data: Dataset,
    setting: Noise,
    rng: np.random.Generator,
    other: Callable[[Pixels, np.random.Generator, NDArray[np.int64]], Pixels],
) -> Corrupted:
    """int(r N) training images changed, each by draws of its own, in blocks of some 2^20 pixels.

    ``other(x, rng, chosen)`` is given images [b, C, H, W] and says what becomes of the ``chosen`` positions among them. It draws for
    all of them, so that what an image becomes does not depend on the rate.
    """
    x_train, x_test = _pixels(data, setting)
    x = x_train.numpy().copy()
    chosen = np.zeros(len(x), dtype=bool)
    chosen[noise.first(rng.random(len(x)), setting.rate)] = True
    block = max(1, (1 << 20) // (x.shape[2] * x.shape[3]))
    for at in range(0, len(x), block):
        part, mine = x[at : at + block], np.flatnonzero(chosen[at : at + block])
        part[mine] = other(part, rng, mine)
    return _changed(data, setting, data.y_train.numpy(), data.y_train.numpy(), torch.from_numpy(x), x_test)


def _shuffled_pixels(data: Dataset, setting: Noise, _: Path) -> Corrupted:
    """The pixels of int(r N) training images and int(r M) test images in one order, the same for all. Labels are right."""
    rng = generator(STREAM_PIXELS, setting.seed, 1)
    images = _pixels(data, setting)
    order = torch.from_numpy(rng.permutation(images[0][0, 0].numel()))
    parts = []
    for x in images:
        chosen = torch.from_numpy(noise.first(rng.random(len(x)), setting.rate))
        parts.append(x.clone())
        parts[-1][chosen] = x[chosen].flatten(2)[:, :, order].reshape(x[chosen].shape)
    return _changed(data, setting, data.y_train.numpy(), data.y_train.numpy(), *parts)


def _changed(data: Dataset, setting: Noise, given: Labels, clean: Labels, x_train: Tensor, x_test: Tensor) -> Corrupted:
    """Noise that changes images."""
    matrix = noise.realised_matrix(clean, given, data.n_classes)
    images = digest(x_train.numpy(), x_test.numpy())
    return Corrupted(x_train, x_test, given, clean, matrix, setting, images, setting.seed)


BUILDERS: dict[str, Callable[[Dataset, Noise, Path], Corrupted]] = {
    "given": _came,
    "human": _came,
    "web": _web,
    "file": _stored,
    "matrix": _from_matrix,
    "instance": _instance,
    "openset": _open_set,
    "random_pixels": _random_pixels,
    "gaussian_pixels": _gaussian_pixels,
    "shuffled_pixels": _shuffled_pixels,
}


# --- masks --------------------------------------------------------------------------------------------------------


def mask(data: Dataset, setting: Noise, root: Path | str = "data") -> Mask:
    """What is stored of a condition, see ``masks``."""
    c = corrupted(data, setting, root)
    return Mask(c.noise, data.name, data.digest, c.images, c.given, c.clean, c.matrix, c.split_seed)
