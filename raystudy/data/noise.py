"""Noise models: pure functions from clean labels to given labels. NumPy only; no images, no files, no training.

Most kinds are a transition matrix T(r), T[i, j] = P(given j | clean i), that is linear in the rate r:
T(r) = (1 - r) I + r T(1). So one sampler, ``flip``, serves them all: select a share r of the labels, then redraw
each selected label from its row of T(1). Labels that came with the data are diluted instead (``dilute``). Kinds that
need more than labels (images, files, another data set) are built in ``corruption``. To add a kind, add a row to
``NOISES``, and a row to ``corruption.BUILDERS`` where it has no matrix.

Which labels are selected and what they become depends on the noise seed only. The draws do not depend on
the rate, so with one seed the flips at a low rate are among the flips at a higher one, which takes a source of
variance out of comparisons across rates.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raystudy import own
from raystudy.errors import InputError, unknown

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

COUNTS = ("exact_global", "exact_per_class", "bernoulli")  # how many labels are selected, see ``flip``
STREAM = 0x6E6F6973  # keeps these draws apart from everything else that is seeded with the same small number
STREAM_DILUTE = 0x64696C75
NONE = -1  # the clean label of an image that shows none of the classes; never a class, and never a given label


@dataclass(frozen=True)
class Noise:
    """One noise setting: a kind at a rate, with the seed that fixes every flip. Always valid, or InputError."""

    kind: str  # a key of NOISES
    rate: float  # nominal rate in [0, 1]; 0 for `given`, `human` and `file` says: as they came
    variant: str = ""  # one of the kind's variants, "" becomes its first; or the file, data set or label set it names
    seed: int = 0
    count: str = ""  # one of COUNTS, "" becomes the first; stays "" where the kind has no choice of it

    def __post_init__(self) -> None:
        kind = row(self.kind)
        if not 0 <= self.rate <= 1:
            raise InputError(f"noise rate {self.rate:g} of {self.kind!r} is outside [0, 1]; write 50 % as 0.5")
        if kind.levels and self.rate not in kind.levels:
            levels = ", ".join(f"{level:g}" for level in kind.levels)
            raise InputError(f"noise {self.kind!r} has no level {self.rate:g}; it was published at {levels}")
        if not kind.dial and self.rate != 0:
            raise InputError(f"noise {self.kind!r} takes no rate; write {kind.usage}")
        if not self.variant and kind.needs:
            raise InputError(f"noise {self.kind!r} names no {kind.needs}; write {kind.usage}")
        if self.variant and not kind.free:
            if not kind.variants:
                raise InputError(
                    f"noise {self.kind!r} has no variants, so {self.variant!r} cannot be read; write {kind.usage}"
                )
            if self.variant not in kind.variants:
                raise unknown(f"variant of noise {self.kind!r}", self.variant, filter(None, kind.variants))
        if self.kind == "openset" and self.rate + open_set(self.variant)[1] > 1:
            raise InputError(f"noise {self.label!r}: open and closed share together are more than all images")
        # Records from before some kinds had no count mode say exact_global for all.
        if not kind.counted and self.count in ("", COUNTS[0]):
            object.__setattr__(self, "count", "")
        elif not kind.counted:
            raise InputError(f"noise {self.kind!r} takes no count mode, so {self.count!r} cannot be read")
        elif self.count not in ("", *COUNTS):
            raise unknown("noise count mode", self.count, COUNTS)
        else:
            object.__setattr__(self, "count", self.count or COUNTS[0])
        if self.seed < 0:
            raise InputError(f"noise seed {self.seed} is negative; use 0 or a positive whole number")
        if not self.variant and kind.variants:
            object.__setattr__(self, "variant", kind.variants[0])

    @property
    def level(self) -> float:
        """The rate as it is comparable with others: of human labels as they came, the share of wrong ones as published."""
        return HUMAN[self.variant] if self.kind == "human" and not self.rate else self.rate

    @property
    def label(self) -> str:
        """What people and ``parse`` read: ``symmetric:inclusive:0.5``, ``pair:bernoulli:0.45``, ``human:worse``, ``given``."""
        rate = "" if self.rate == row(self.kind).default else number(self.rate)
        count = "" if self.count == COUNTS[0] else self.count
        return ":".join(part for part in (self.kind, self.variant, count, rate) if part)

    @property
    def slug(self) -> str:
        """The label for names; an unusual count mode stands last: ``pair-0.45-bernoulli``; of a path, the file and a short hash."""
        rate = "" if self.rate == row(self.kind).default else number(self.rate)
        count = "" if self.count == COUNTS[0] else self.count
        variant = self.variant
        if "/" in variant:
            variant = f"{Path(variant).stem}-{hashlib.sha256(variant.encode()).hexdigest()[:6]}"
        return "-".join(part for part in (self.kind, variant, rate, count) if part).replace(":", "-")

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a record; ``Noise(**d)`` is the way back."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """A row of NOISES."""

    usage: str  # how to write it, for messages
    about: str
    matrix: Callable[[int, float, str], Matrix] | None = (
        None  # (n_classes, rate, variant) -> T; None: see ``corruption``
    )
    variants: tuple[str, ...] = ()  # the first is the default
    needs: str = ""  # what has to be named in the place of the variant
    free: bool = False  # the variant is a name or path of the user's
    counted: bool = False  # whether there is a choice of count mode
    default: float | None = None  # the rate where none is written; None: one has to be
    dial: bool = True  # whether a rate may be written
    levels: tuple[float, ...] = ()  # the only rates there are, of noise that came with the data at several rates


# --- matrices -----------------------------------------------------------------------------------------------------

# Class maps of asymmetric noise, clean -> given; classes that are not named are never wrong (Patrini et al. 2017).
CLASS_MAPS: dict[str, dict[int, int]] = {
    "cifar10": {9: 1, 2: 0, 4: 7, 3: 5, 5: 3},  # truck > automobile, bird > airplane, deer > horse, cat <> dog
    "mnist": {7: 1, 2: 7, 3: 8, 5: 6, 6: 5},
}
# Which map belongs to a data set where the user names none. The digits are the ten classes of MNIST.
CLASS_MAP_OF = {"cifar10": "cifar10", "cifar10n": "cifar10", "mnist": "mnist", "digits": "mnist"}
# Fine labels of the 20 superclasses of CIFAR-100.
SUPERCLASSES = (
    (4, 30, 55, 72, 95), (1, 32, 67, 73, 91), (54, 62, 70, 82, 92), (9, 10, 16, 28, 61), (0, 51, 53, 57, 83),
    (22, 39, 40, 86, 87), (5, 20, 25, 84, 94), (6, 7, 14, 18, 24), (3, 42, 43, 88, 97), (12, 17, 37, 68, 76),
    (23, 33, 49, 60, 71), (15, 19, 21, 31, 38), (34, 63, 64, 66, 75), (26, 45, 77, 79, 99), (2, 11, 35, 46, 98),
    (27, 29, 44, 78, 93), (36, 50, 65, 74, 80), (47, 52, 56, 59, 96), (8, 13, 48, 58, 90), (41, 69, 81, 85, 89),
)  # fmt: skip


def symmetric_matrix(n_classes: int, rate: float, variant: str = "inclusive") -> Matrix:
    """T [K, K] of uniform noise.

    ``inclusive`` redraws a selected label over all K classes: 1 - r + r/K on, r/K off the diagonal, so the
    effective rate is r (K - 1)/K (DivideMix, ELR, PENCIL). ``exclusive`` redraws it over the K - 1 others:
    1 - r on, r/(K - 1) off the diagonal, effective rate r (Patrini et al., Co-teaching, JoCoR).
    """
    if variant == "inclusive":
        return (1 - rate) * np.eye(n_classes) + np.full((n_classes, n_classes), rate / n_classes)
    matrix = np.full((n_classes, n_classes), rate / (n_classes - 1))
    np.fill_diagonal(matrix, 1 - rate)
    return matrix


def map_matrix(targets: NDArray[np.integer], rate: float) -> Matrix:
    """T [K, K] that moves class i to targets[i] with probability r; a class that is its own target keeps its labels."""
    eye = np.eye(len(targets))
    return (1 - rate) * eye + rate * eye[targets]


def pair_matrix(n_classes: int, rate: float) -> Matrix:
    """T [K, K] of pair flips: 1 - r stay, r go to class (i + 1) mod K (Han et al. 2018, appendix A)."""
    return map_matrix((np.arange(n_classes) + 1) % n_classes, rate)


def asymmetric_matrix(n_classes: int, rate: float, variant: str) -> Matrix:
    """T [K, K] of the class maps of Patrini et al. 2017 for ``cifar10`` and ``mnist``; half of the classes are moved.

    The effective rate is r times the share of the moved classes: r/2 where classes are of one size. InputError without a
    map or for another number of classes.
    """
    if not variant:
        known = ", ".join(CLASS_MAPS)
        raise InputError(f"noise 'asymmetric' needs a class map; there are: {known}; write asymmetric:MAP:RATE")
    if n_classes != 10:
        raise InputError(f"noise 'asymmetric:{variant}' maps 10 classes; this data has {n_classes}")
    targets = np.arange(10)
    targets[list(CLASS_MAPS[variant])] = list(CLASS_MAPS[variant].values())
    return map_matrix(targets, rate)


def block5_matrix(n_classes: int, rate: float) -> Matrix:
    """T [K, K] that moves each class to the next in its block 0-4, 5-9, ..., the last to the first.

    What the published code calls the superclass noise of CIFAR-100 (Patrini et al. and all copies). Its fine labels are
    sorted by name, so the blocks are not the superclasses: 6 of 100 moves stay inside one.
    """
    if n_classes % 5:
        raise InputError(f"noise 'asym_block5' needs blocks of five classes; this data has {n_classes}")
    i = np.arange(n_classes)
    return map_matrix(i - i % 5 + (i + 1) % 5, rate)


def superclass_matrix(n_classes: int, rate: float) -> Matrix:
    """T [100, 100] of CIFAR-100: each class to the next of its superclass by fine label, the last to the first."""
    if n_classes != 100:
        raise InputError(f"noise 'asym_superclass' is made of the 100 classes of CIFAR-100; this data has {n_classes}")
    targets = np.empty(100, dtype=np.int64)
    for members in SUPERCLASSES:
        targets[list(members)] = np.roll(members, -1)
    return map_matrix(targets, rate)


# --- kinds --------------------------------------------------------------------------------------------------------

# Human label sets and their share of wrong labels (Wei et al. 2022): of CIFAR-10N, and noisy of CIFAR-100N.
HUMAN = {"aggre": 0.0901, "worse": 0.4021, "random1": 0.1723, "random2": 0.1812, "random3": 0.1764, "noisy": 0.4020}
WEB_LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)

NOISES: dict[str, Kind] = {
    "symmetric": Kind(
        "symmetric[:inclusive|exclusive][:COUNT]:RATE,...",
        "uniform; inclusive redraws over all classes (effective rate r(K-1)/K), exclusive over the others (r)",
        symmetric_matrix,
        ("inclusive", "exclusive"),
        counted=True,
    ),
    "pair": Kind(
        "pair[:COUNT]:RATE,...",
        "every class to the next class id",
        lambda k, rate, _: pair_matrix(k, rate),
        counted=True,
    ),
    "asymmetric": Kind(
        "asymmetric[:cifar10|mnist][:COUNT]:RATE,...",
        "similar classes of CIFAR-10 or MNIST, e.g. truck to automobile; about half of the rate is effective",
        asymmetric_matrix,
        ("", *CLASS_MAPS),
        counted=True,
    ),
    "asym_block5": Kind(
        "asym_block5[:COUNT]:RATE,...",
        "the next class of blocks 0-4, 5-9, ...: what most published CIFAR-100 'superclass' numbers are",
        lambda k, rate, _: block5_matrix(k, rate),
        counted=True,
    ),
    "asym_superclass": Kind(
        "asym_superclass[:COUNT]:RATE,...",
        "the next class of the true superclass of CIFAR-100",
        lambda k, rate, _: superclass_matrix(k, rate),
        counted=True,
    ),
    "random_labels": Kind(
        "random_labels[:COUNT][:RATE,...]",
        "labels redrawn over all classes, all of them without a rate (Zhang et al. 2017)",
        lambda k, rate, _: symmetric_matrix(k, rate),
        counted=True,
        default=1.0,
    ),
    "matrix": Kind(
        "matrix:FILE[:COUNT][:RATE,...]",
        "a transition matrix from a .npy, .npz or .csv file; a rate r scales it to (1 - r) I + r T",
        needs="FILE",
        free=True,
        counted=True,
        default=1.0,
    ),
    "instance": Kind(
        "instance[:pdn|features]:RATE,...",
        "depends on the image; pdn: part-dependent on raw pixels (Xia et al. 2020), features: spread out, cheap",
        variants=("pdn", "features"),
    ),
    "openset": Kind(
        "openset:DATASET[+CLOSED]:RATE,...",
        "a share of the images replaced by images of another data set; +0.2 flips another 20 % of the labels",
        needs="DATASET",
        free=True,
    ),
    "human": Kind(
        f"human:{'|'.join(HUMAN)}[:RATE,...]",
        "the human labels of CIFAR-10N or CIFAR-100N; a rate dilutes them to so many wrong labels",
        variants=tuple(HUMAN),
        needs="label set",
        default=0.0,
    ),
    "given": Kind(
        "given[:NAME][:RATE,...]",
        "the noisy labels that came with the data set; a rate dilutes them to so many wrong labels",
        free=True,
        default=0.0,
    ),
    "web": Kind(
        "web:red|blue:LEVEL,...",
        "controlled noisy web labels (Jiang et al. 2020): red, images found on the web; blue, flipped labels of the same images",
        variants=("red", "blue"),
        levels=WEB_LEVELS,
    ),
    "random_pixels": Kind(
        "random_pixels[:RATE,...]",
        "images whose pixels are shuffled, each in its own way (Zhang et al. 2017); labels stay",
        default=1.0,
    ),
    "shuffled_pixels": Kind(
        "shuffled_pixels[:RATE,...]",
        "images whose pixels are shuffled, all in one way, test images too (Zhang et al. 2017); labels stay",
        default=1.0,
    ),
    "gaussian_pixels": Kind(
        "gaussian_pixels[:RATE,...]",
        "images of Gaussian noise with the mean and variance of the data set (Zhang et al. 2017); labels stay",
        default=1.0,
    ),
    "file": Kind(
        "file:FILE",
        "a stored mask: the labels of masks/*.npz in the folder of a study",
        needs="FILE",
        free=True,
        default=0.0,
        dial=False,
    ),
}


def row(kind: str) -> Kind:
    """The row of a kind, ours or of an installed package (``brought.given`` runs those). Raises InputError for any other."""
    if kind in NOISES:
        return NOISES[kind]
    if kind not in own.installed("noise"):
        raise unknown("noise kind", kind, [*NOISES, *own.installed("noise")])
    return Kind(f"{kind}:RATE,...", own.whose("noise", kind))


def parse(text: str, seed: int = 0) -> list[Noise]:
    """Reads ``kind[:variant][:count]:rate,rate,...`` into one Noise per distinct rate, in order.

    Which kinds have variants and count modes, and where the rate may be left out, their rows say. Paths become absolute,
    since workers run in folders of their own. Raises InputError, one line, for an unknown kind, variant or count mode, and
    for a rate that is missing, no number or outside [0, 1].
    """
    kind, *parts = text.strip().split(":")
    known = row(kind)
    rates = parts.pop() if parts and _told_rates(parts[-1], known) else None
    counts = [part for part in parts if part in COUNTS]
    parts = [part for part in parts if part not in COUNTS]
    if len(counts) > 1 or (len(parts) > 1 and not known.free):
        raise InputError(f"noise {text!r} has too many parts; write {known.usage}")
    variant = _located(kind, ":".join(parts)) if known.free else "".join(parts)
    if rates is None and known.default is not None:
        return [Noise(kind, known.default, variant, seed, "".join(counts))]
    Noise(kind, 0.0, variant, seed, "".join(counts))  # what is wrong with the rest is told before the rates are
    words = [word.strip() for word in (rates or "").split(",") if word.strip()]
    if not words:
        raise InputError(f"noise {text!r} names no rate; write {known.usage}, such as {kind}:0.2,0.5")
    found: dict[float, Noise] = {}
    for word in words:
        try:
            rate = float(word) or 0.0  # not -0
        except ValueError:
            raise InputError(f"noise rate {word!r} in {text!r} is not a number; write {known.usage}") from None
        if rate == known.default == 0:
            raise InputError(f"noise {text!r}: at rate 0 all labels are clean; write symmetric:0 for that")
        found.setdefault(rate, Noise(kind, rate, variant, seed, "".join(counts)))
    return list(found.values())


def _told_rates(part: str, row: Kind) -> bool:
    """Whether the last part of a setting is meant as rates: a number, or a word that can be nothing else."""
    if part in (*COUNTS, *filter(None, row.variants)):
        return False
    try:
        float(part.split(",")[0])
    except ValueError:
        return not part or ("," in part and not row.free) or not (row.free or row.default is not None)
    return True


def _located(kind: str, name: str) -> str:
    """The name with its path made absolute: of ``matrix`` and ``file``, and of ``npz:PATH`` and the like elsewhere."""
    prefix, colon, path = name.partition(":") if kind == "openset" else ("", "", name)
    if not path or kind not in ("matrix", "file", "openset"):
        return name
    return f"{prefix}{colon}{Path(path).expanduser().absolute()}"


def number(rate: float) -> str:
    """A rate as short as it can be read back exactly."""
    return f"{rate:g}" if float(f"{rate:g}") == rate else repr(rate)


def open_set(variant: str) -> tuple[str, float]:
    """``cifar100+0.2`` -> the data set the foreign images come from, and the share of closed-set noise beside them."""
    name, plus, share = variant.rpartition("+")
    if not plus:
        return variant, 0.0
    try:
        closed = float(share)
    except ValueError:
        return variant, 0.0  # a plus in a path
    if not 0 <= closed <= 1:
        raise InputError(f"closed share {share} of noise 'openset:{variant}' is outside [0, 1]")
    return name, closed


# --- sampling -----------------------------------------------------------------------------------------------------


def transition_matrix(noise: Noise, n_classes: int) -> Matrix:
    """T [K, K] of a noise setting; rows are clean classes, columns given ones, each row sums to 1."""
    known = row(noise.kind)
    if known.matrix is None:
        raise InputError(f"noise {noise.kind!r} has no transition matrix to draw from: {known.about}")
    return known.matrix(n_classes, noise.rate, noise.variant)


def generator(*key: int) -> np.random.Generator:
    """A generator of its own for a key of non-negative whole numbers, the same in every process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def corrupt(labels: NDArray[np.integer], noise: Noise, n_classes: int) -> Labels:
    """Given labels [N] from clean labels [N] in 0..K-1, for a kind that has a matrix; see ``flip``."""
    full = transition_matrix(Noise(noise.kind, 1.0, noise.variant), n_classes)
    return flip(labels, full, noise.rate, noise.seed, noise.count)


def flip(labels: NDArray[np.integer], full: Matrix, rate: float, seed: int, count: str) -> Labels:
    """Given labels [N] from clean labels [N] in 0..K-1 and T(1) [K, K].

    A share of the labels is selected, and each selected label is redrawn from its row of T(1), which for
    inclusive noise may give it back unchanged. How many are selected is the count mode:
    ``exact_global`` int(r N) of the whole set (DivideMix, ELR); ``exact_per_class`` int(r N_c) of each class (APL);
    ``bernoulli`` each label with probability r (the same as drawing from T(r): PENCIL, Co-teaching).
    """
    clean: Labels = np.asarray(labels, dtype=np.int64)
    cdf = full.cumsum(1)
    cdf /= cdf[:, -1:]  # the last class that can be drawn ends at exactly 1: rounding never lets in another one
    rng = generator(STREAM, seed)
    order, draw = rng.random(len(clean)), rng.random(len(clean))

    if count == "bernoulli":
        selected = np.flatnonzero(order < rate)
    elif count == "exact_global":
        selected = first(order, rate)
    else:
        members = [np.flatnonzero(clean == c) for c in range(len(full))]
        selected = np.concatenate([m[first(order[m], rate)] for m in members])

    given = clean.copy()
    for c in range(len(full)):
        mine = selected[clean[selected] == c]
        given[mine] = np.searchsorted(cdf[c], draw[mine], side="right")
    return given


def first(order: NDArray[np.float64], rate: float) -> Labels:
    """The positions of the int(r N) smallest of N draws, smallest first."""
    return np.argsort(order, kind="stable")[: int(rate * len(order))]


def dilute(clean: NDArray[np.integer], given: NDArray[np.integer], rate: float, seed: int) -> Labels:
    """Noisy labels [N] that came with the data, mixed with clean ones until int(r N) are wrong; nested over rates.

    What stays wrong is drawn uniformly from the wrong labels, so the kind of mistake does not change with the rate (the
    dial of MentorMix for web labels, Jiang et al. 2020). ValueError where fewer are wrong.
    """
    y, s = np.asarray(clean, dtype=np.int64), np.asarray(given, dtype=np.int64)
    wrong = np.flatnonzero(y != s)
    target = int(rate * len(y))
    if target > len(wrong):
        raise ValueError(f"{len(wrong)} labels are wrong, fewer than {target}")
    order = generator(STREAM_DILUTE, seed).random(len(y))[wrong]
    kept = wrong[np.argsort(order, kind="stable")[:target]]
    mixed = y.copy()
    mixed[kept] = s[kept]
    return mixed


def effective_rate(clean: NDArray[np.integer], given: NDArray[np.integer]) -> float:
    """The share of labels that are wrong: mean of 1[given != clean]. An image of no class has none that is right."""
    return float(np.mean(np.asarray(clean) != np.asarray(given)))


def realised_matrix(clean: NDArray[np.integer], given: NDArray[np.integer], n_classes: int) -> Matrix:
    """Counted T [K, K] of given against clean labels; images of no class are left out, an empty class keeps its label."""
    y, s = np.asarray(clean), np.asarray(given)
    counts = np.zeros((n_classes, n_classes))
    np.add.at(counts, (y[y != NONE], s[y != NONE]), 1)
    empty = np.flatnonzero(counts.sum(1) == 0)
    counts[empty, empty] = 1
    return counts / counts.sum(1, keepdims=True)


def condition_digest(given: Labels, val: Any, images: str) -> str:
    """What tells one condition of a data set from another: given labels, validation positions and, where changed, the images."""
    return digest(given, val, *([np.frombuffer(images.encode(), np.uint8)] if images else []))


def told_wrong(rate: float | None) -> str:
    """An effective rate for people; None: nobody knows."""
    return "wrong labels unknown" if rate is None else f"{rate:.1%} wrong"


def digest(*arrays: Any) -> str:
    """16 hex characters of the SHA-256 over dtype, shape and little-endian bytes of arrays or CPU tensors, in order."""
    total = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        total.update(f"{plain.dtype.kind}{plain.dtype.itemsize}{plain.shape}".encode())
        total.update(plain.data)
    return total.hexdigest()[:16]
