"""Noise models: pure functions from clean labels to given labels. NumPy only; no images, no files, no training.

A kind is a transition matrix T(r), T[i, j] = P(given j | clean i), that is linear in the rate r:
T(r) = (1 - r) I + r T(1). So one sampler serves every kind: select a share r of the labels, then redraw
each selected label from its row of T(1). To add a kind, add a row to ``NOISES``.

Which labels are selected and what they become depends on the noise seed only. The draws do not depend on
the rate, so with one seed the flips at a low rate are among the flips at a higher one, which takes a source of
variance out of comparisons across rates.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raystudy.errors import InputError, unknown

Matrix = NDArray[np.float64]

COUNTS = ("exact_global", "exact_per_class", "bernoulli")  # how many labels are selected, see ``corrupt``
STREAM = 0x6E6F6973  # keeps these draws apart from everything else that is seeded with the same small number


@dataclass(frozen=True)
class Noise:
    """One noise setting: a kind at a rate, with the seed that fixes every flip. Always valid, or InputError."""

    kind: str  # a key of NOISES
    rate: float  # nominal rate in [0, 1]: the share of labels selected; 0 for `given`
    variant: str = ""  # one of the kind's variants; "" becomes its first
    seed: int = 0
    count: str = "exact_global"

    def __post_init__(self) -> None:
        if self.kind not in NOISES:
            raise unknown("noise kind", self.kind, NOISES)
        kind = NOISES[self.kind]
        if not 0 <= self.rate <= 1:
            raise InputError(f"noise rate {self.rate:g} of {self.kind!r} is outside [0, 1]; write 50 % as 0.5")
        if kind.matrix is None and self.rate != 0:
            raise InputError(f"noise {self.kind!r} takes no rate: it is the labels that came with the data")
        if self.variant and not kind.variants:
            raise InputError(
                f"noise {self.kind!r} has no variants, so {self.variant!r} cannot be read; write {kind.usage}"
            )
        if self.variant and self.variant not in kind.variants:
            raise unknown(f"variant of noise {self.kind!r}", self.variant, kind.variants)
        if self.count not in COUNTS:
            raise unknown("noise count mode", self.count, COUNTS)
        if self.seed < 0:
            raise InputError(f"noise seed {self.seed} is negative; use 0 or a positive whole number")
        if not self.variant and kind.variants:
            object.__setattr__(self, "variant", kind.variants[0])

    @property
    def label(self) -> str:
        """What people and ``parse`` read: ``symmetric:inclusive:0.5``, ``pair:0.45``, ``given``."""
        parts = [self.kind, self.variant, "" if NOISES[self.kind].matrix is None else f"{self.rate:g}"]
        return ":".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        """The label as part of a file name; an unusual count mode is added: ``pair-0.45-bernoulli``."""
        return self.label.replace(":", "-") + ("" if self.count == COUNTS[0] else f"-{self.count}")

    def to_dict(self) -> dict[str, Any]:
        """The fields, for a record; ``Noise(**d)`` is the way back."""
        return asdict(self)


@dataclass(frozen=True)
class Kind:
    """A row of NOISES."""

    usage: str  # how to write it, for messages
    about: str
    matrix: Callable[[int, float, str], Matrix] | None  # (n_classes, rate, variant) -> T; None: came with the data
    variants: tuple[str, ...] = ()  # the first is the default


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


def pair_matrix(n_classes: int, rate: float) -> Matrix:
    """T [K, K] of pair flips: 1 - r stay, r go to class (i + 1) mod K (Han et al. 2018, appendix A)."""
    eye = np.eye(n_classes)
    return (1 - rate) * eye + rate * np.roll(eye, 1, axis=1)


NOISES: dict[str, Kind] = {
    "symmetric": Kind(
        "symmetric[:inclusive|exclusive]:RATE,...",
        "uniform; inclusive redraws over all classes (effective rate r(K-1)/K), exclusive over the others (r)",
        symmetric_matrix,
        ("inclusive", "exclusive"),
    ),
    "pair": Kind("pair:RATE,...", "every class to the next class id", lambda k, rate, _: pair_matrix(k, rate)),
    "given": Kind("given", "the noisy labels that came with the data set", None),
}


def parse(text: str, seed: int = 0, count: str = "exact_global") -> list[Noise]:
    """Reads ``kind[:variant]:rate,rate,...`` (``given`` takes no rate) into one Noise per distinct rate, in order.

    Raises InputError, one line, for an unknown kind or variant, and for a rate that is missing, no number
    or outside [0, 1].
    """
    kind, *rest = text.strip().split(":")
    if kind not in NOISES:
        raise unknown("noise kind", kind, NOISES)
    usage = NOISES[kind].usage
    if NOISES[kind].matrix is None:
        if rest:
            raise InputError(f"noise {kind!r} takes neither a variant nor a rate, got {text!r}; write {usage}")
        return [Noise(kind, 0.0, seed=seed, count=count)]
    if len(rest) > 2:
        raise InputError(f"noise {text!r} has too many parts; write {usage}")
    variant, rates = ("", "") if not rest else ("", rest[0]) if len(rest) == 1 else (rest[0], rest[1])
    if rates in NOISES[kind].variants:  # symmetric:exclusive
        rates = ""
    words = [word.strip() for word in rates.split(",") if word.strip()]
    if not words:
        raise InputError(f"noise {text!r} names no rate; write {usage}, such as {kind}:0.2,0.5")
    found: dict[float, Noise] = {}
    for word in words:
        try:
            rate = float(word) or 0.0  # not -0
        except ValueError:
            raise InputError(f"noise rate {word!r} in {text!r} is not a number; write {usage}") from None
        found.setdefault(rate, Noise(kind, rate, variant, seed, count))
    return list(found.values())


def transition_matrix(noise: Noise, n_classes: int) -> Matrix:
    """T [K, K] of a noise setting; rows are clean classes, columns given ones, each row sums to 1."""
    matrix = NOISES[noise.kind].matrix
    if matrix is None:
        raise InputError(f"noise {noise.kind!r} has no transition matrix: its labels came with the data")
    return matrix(n_classes, noise.rate, noise.variant)


def generator(*key: int) -> np.random.Generator:
    """A generator of its own for a key of non-negative whole numbers, the same in every process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def corrupt(labels: NDArray[np.integer], noise: Noise, n_classes: int) -> NDArray[np.int64]:
    """Given labels [N] from clean labels [N] in 0..K-1.

    A share of the labels is selected, and each selected label is redrawn from its row of T(1), which for
    inclusive noise may give it back unchanged. How many are selected is the count mode:
    ``exact_global`` int(r N) of the whole set (DivideMix, ELR); ``exact_per_class`` int(r N_c) of each class (APL);
    ``bernoulli`` each label with probability r (the same as drawing from T(r): PENCIL, Co-teaching).
    """
    clean: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
    cdf = transition_matrix(Noise(noise.kind, 1.0, noise.variant), n_classes).cumsum(1)
    cdf /= cdf[:, -1:]  # the last class that can be drawn ends at exactly 1: rounding never lets in another one
    rng = generator(STREAM, noise.seed)
    order, draw = rng.random(len(clean)), rng.random(len(clean))

    if noise.count == "bernoulli":
        selected = np.flatnonzero(order < noise.rate)
    elif noise.count == "exact_global":
        selected = np.argsort(order, kind="stable")[: int(noise.rate * len(clean))]
    else:
        members = [np.flatnonzero(clean == c) for c in range(n_classes)]
        selected = np.concatenate([m[np.argsort(order[m], kind="stable")][: int(noise.rate * len(m))] for m in members])

    given = clean.copy()
    for c in range(n_classes):
        mine = selected[clean[selected] == c]
        given[mine] = np.searchsorted(cdf[c], draw[mine], side="right")
    return given


def effective_rate(clean: NDArray[np.integer], given: NDArray[np.integer]) -> float:
    """The share of labels that are wrong: mean of 1[given != clean]."""
    return float(np.mean(np.asarray(clean) != np.asarray(given)))


def digest(*arrays: Any) -> str:
    """16 hex characters of the SHA-256 over dtype, shape and little-endian bytes of arrays or CPU tensors, in order."""
    total = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array)
        plain = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
        total.update(f"{plain.dtype.kind}{plain.dtype.itemsize}{plain.shape}".encode())
        total.update(plain.data)
    return total.hexdigest()[:16]
