"""Noise that depends on the image or vector: pure functions (images, labels, rate, seed) -> given labels. NumPy and scipy only.

Both kinds flip image i with a probability q_i of its own and then ask a linear score of the image which wrong class it
becomes. They differ in the score: ``pdn_scores`` on raw pixels, ``feature_scores`` on a few fixed features. Of vectors they look at
the standardised numbers (``standardised``).

What decides a flip is the same on every platform as far as that can be had. Random weights are rounded to whole
multiples of 2^-20, so products with pixels are whole numbers that float64 holds exactly in whatever order a BLAS sums
them; where that is not so, sums are elementwise in a fixed order. What is left is the last bit of exp and of the normal
quantile, which decides one label in about 10^15.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raystudy.data.noise import Labels, generator

Pixels = NDArray[np.uint8 | np.float32]  # images [n, C, H, W], or vectors [n, d] of ``standardised``
Array = NDArray[np.float64]
Scores = Callable[[Pixels, Labels, int, int], Iterator[tuple[Labels, Array]]]

STREAM = 0x696E7374
STREAM_FEATURES = 0x66656174
SPREAD = 0.1  # standard deviation of the flip probabilities, as published
UNIT = 2.0**20  # weights are whole multiples of 1 / UNIT: exact up to images of 5 million values
CHUNK = 1 << 22  # values of images that stand in memory as float64 at once: 32 MB
STEP = 2.0**8  # standardised numbers are whole multiples of 1 / STEP ...
FARTHEST = 64.0  # ... cut at so many deviations: sums of 50,000 products of them with weights are exact
FEATURES = 16
GRID = 8  # features look at the means of at most 8 x 8 blocks


def standardised(x: NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Vectors [n, d] in deviations of each feature from its mean, rounded to whole multiples of 1 / 256, see above."""
    out = np.empty(x.shape, dtype=np.float32)
    rows = max(1, CHUNK // x.shape[1])
    for at in range(0, len(x), rows):
        z = (x[at : at + rows].astype(np.float64) - np.array(mean)) / np.array(std)
        out[at : at + rows] = np.rint(z.clip(-FARTHEST, FARTHEST) * STEP) / STEP
    return out


def flip_probabilities(n: int, rate: float, seed: int) -> Array:
    """q [n]: one flip probability per image, normal(rate, 0.1) truncated to [0, 1] (Xia et al. 2020, algorithm 2).

    By inversion of draws that do not depend on the rate, so each q grows with the rate. Truncation moves the mean where
    the rate is near an end: 0.129 at rate 0.1, 0.205 at 0.2, the rate itself (to 0.001) from 0.3 to 0.7. Rate 0 is no noise.
    """
    if rate == 0:
        return np.zeros(n)
    from scipy.special import ndtr, ndtri  # not at the top: workers that need none of it import it for long

    low, high = ndtr((0 - rate) / SPREAD), ndtr((1 - rate) / SPREAD)
    u = generator(STREAM, seed).random(n)
    return np.clip(rate + SPREAD * ndtri(low + u * (high - low)), 0, 1)


def pdn_scores(x: Pixels, labels: Labels, n_classes: int, seed: int) -> Iterator[tuple[Labels, Array]]:
    """Scores x_i W[y_i] of part-dependent noise, as (indices [m], scores [m, K]) chunk by chunk.

    W [K, S, K] is standard normal, one S x K projection per class, drawn class by class, so that no more than one stands in
    memory. Pixels are the raw 0..255 that the published code feeds: scores then lie thousands apart, so
    that the softmax is one-hot and each image has one wrong class. Those of d standardised numbers lie some sqrt(d) apart: next to
    one-hot where there are hundreds, softer where there are few.
    """
    flat = x.reshape(len(x), -1)
    for c in range(n_classes):
        members = np.flatnonzero(labels == c)
        if not len(members):
            continue
        weight = np.rint(generator(STREAM, seed, 1 + c).standard_normal((flat.shape[1], n_classes)) * UNIT)
        size = max(1, CHUNK // flat.shape[1])
        for at in range(0, len(members), size):
            mine = members[at : at + size]
            yield mine, flat[mine].astype(np.float64) @ weight / UNIT


def features(x: Pixels) -> Array:
    """Sixteen features [n, 16] of images [n, C, H, W], each of mean 0 and standard deviation 1 over the set.

    Sums over at most 8 x 8 blocks of an image, or the numbers of a vector, projected by one fixed normal matrix: the same map for
    every seed, rate and data set of a shape.
    """
    blocks = x.astype(np.float64) if x.ndim == 2 else _block_sums(x)
    weight = np.rint(generator(STREAM_FEATURES).standard_normal((blocks.shape[1], FEATURES)) * 2**10)
    values = blocks @ weight / 2**10
    # Sums of floats differ in their last bits between machines; six digits do not.
    mean, std = ([float(f"{v:.6g}") for v in moment] for moment in (values.mean(0), values.std(0)))
    return (values - mean) / np.where(np.array(std) > 0, std, 1.0)


def _block_sums(x: Pixels) -> Array:
    n, channels, height, width = x.shape
    rows, columns = (np.linspace(0, s, min(GRID, s) + 1).astype(int)[:-1] for s in (height, width))
    blocks = np.empty((n, channels * len(rows) * len(columns)))
    size = max(1, CHUNK // x[0].size)
    for at in range(0, n, size):
        sums = np.add.reduceat(x[at : at + size].astype(np.int64), rows, axis=2)
        blocks[at : at + size] = np.add.reduceat(sums, columns, axis=3).reshape(len(sums), -1)
    return blocks


def feature_scores(x: Pixels, labels: Labels, n_classes: int, seed: int) -> Iterator[tuple[Labels, Array]]:
    """Scores of the sixteen features, as (indices [m], scores [m, K]) class by class; W [K, 16, K] normal, of variance 1/4.

    Scores have a standard deviation of 2, so that a wrong class is likely, not certain, and like images go to like classes.
    """
    z = features(x)
    for c in range(n_classes):
        members = np.flatnonzero(labels == c)
        weight = generator(STREAM_FEATURES, seed, 1 + c).standard_normal((FEATURES, n_classes)) / 2
        scores = np.zeros((len(members), n_classes))
        for f in range(FEATURES):  # in this order, which a matrix product would leave to the BLAS
            scores += z[members, f, None] * weight[f]
        yield members, scores


SCORES: dict[str, Scores] = {"pdn": pdn_scores, "features": feature_scores}


def wrong_weights(scores: Array, clean: Labels) -> Array:
    """What each class weighs when the wrong class of an image is drawn, [m, K], 0 for its own of ``clean`` [m]: softmax but for the sum."""
    others = np.where(np.arange(scores.shape[1]) == clean[:, None], -np.inf, scores)
    weights: Array = np.exp(others - others.max(1, keepdims=True))
    return weights


def flip(x: Pixels, labels: NDArray[np.integer], variant: str, rate: float, n_classes: int, seed: int) -> Labels:
    """Given labels [N] from images uint8 [N, C, H, W], or vectors [N, d], and clean labels [N]; variant is a key of SCORES.

    Image i keeps its label with probability 1 - q_i, else its wrong class is drawn from the softmax of its scores over the
    other classes (Xia et al. 2020, algorithm 2, with the scores of ``pdn``). Draws do not depend on the rate: flips are
    nested over rates.
    """
    clean: Labels = np.asarray(labels, dtype=np.int64)
    flipped = generator(STREAM, seed, 0, 1).random(len(clean)) < flip_probabilities(len(clean), rate, seed)
    draw = generator(STREAM, seed, 0, 2).random(len(clean))
    given = clean.copy()
    for mine, scores in SCORES[variant](x, clean, n_classes, seed):
        cdf = wrong_weights(scores, clean[mine]).cumsum(1)
        cdf /= cdf[:, -1:]
        wrong = (draw[mine, None] >= cdf).sum(1)
        given[mine] = np.where(flipped[mine], wrong, clean[mine])
    return given
