"""Imbalance as a condition: how many training samples each class keeps, and which. No data set is read here.

``exp:R`` is the long tail of Cui et al. 2019 and Cao et al. 2019, ``step:R`` the two steps of Buda et al. 2018; R is how many times as many
samples the largest class keeps as the smallest.
"""

import re

import numpy as np
from numpy.typing import NDArray

from raystudy.data.noise import generator
from raystudy.errors import InputError, unknown

KINDS = ("exp", "step")
STREAM = 0x696D6261  # keeps the order in which samples are kept apart from the draws of the noise

Labels = NDArray[np.int64]


def parse(text: str) -> tuple[str, float]:
    """Kind and ratio. Raises InputError for what is neither ``exp:R`` nor ``step:R`` with R of at least 1."""
    kind, _, ratio = text.partition(":")
    if kind not in KINDS:
        raise unknown("kind of imbalance", kind, [f"{k}:R" for k in KINDS])
    if not re.fullmatch(r"\d+(\.\d+)?", ratio) or not 1 <= float(ratio) <= 1e6:
        raise InputError(f"imbalance is {text!r}; its ratio must be a number from 1, such as {kind}:100")
    return kind, float(ratio)


def profile(text: str, n_max: int, n_classes: int) -> list[int]:
    """How many samples each class may keep, in order of label: ``n_max`` of the first, n_max / R of the last, rounded down."""
    kind, ratio = parse(text)
    if kind == "step":
        shares = [1.0 if c < n_classes // 2 else 1 / ratio for c in range(n_classes)]
    else:
        shares = [ratio ** (-c / (n_classes - 1)) for c in range(n_classes)]
    return [int(n_max * share + 1e-6) for share in shares]  # a whole number may come out a hair below itself


def kept(y: Labels, n_classes: int, text: str, least: int = 0) -> Labels:
    """Positions [m], ascending, of the samples that stay, by labels [N] (-1: of none of the classes, which all stay).

    The largest class gives ``n_max``; a class that has fewer than its share keeps all. Which stay is drawn once for all ratios, so that
    those of a larger one are among those of a smaller. ``least``: at least so many of a class; else InputError for one that would be lost.
    """
    counts = np.bincount(y[y >= 0], minlength=n_classes)
    sizes = profile(text, int(counts.max()), n_classes)
    order = np.argsort(generator(STREAM).random(len(y)), kind="stable")
    chosen = [np.flatnonzero(y < 0)]
    for c, size in enumerate(sizes):
        if max(size, least) < 1:
            raise InputError(
                f"imbalance {text}: class {c} of {n_classes} would keep none of its {counts[c]:,} training samples, as the largest class "
                f"has {counts.max():,}; choose a ratio of at most {counts.max()}"
            )
        chosen.append(order[y[order] == c][: max(size, least)])
    return np.sort(np.concatenate(chosen))
