"""What speaks for and against each label without having seen it: arrays in, scores of every class out. No truth, no files.

``linear``: a linear model, out of fold. ``Kernel``: ridge regression with a Gaussian kernel, each sample left out in closed form, so
that other targets cost one product. ``Neighbours``: the labels of the nearest others. The last two can be asked again of better
labels (soft ones, rows of probabilities), which is how ``refined`` learns from what it found.
"""

from collections.abc import Callable

import numpy as np
import torch

from raystudy.data.noise import generator
from raystudy.learn.filtering import Features
from raystudy.learn.neighbours import nearest
from raystudy.tools.clean.quality import FLOOR, Scores, Weighed, weighed
from raystudy.tools.folds import Labels, Probs, folds_of

STREAM_LANDMARKS = 0x6B65726E
NEIGHBOURS = 60
LANDMARKS = 1500
WIDTHS = (0.25, 0.5, 1.0)  # of the kernel, in medians of the squared distance
PENALTIES = 10.0 ** np.arange(-2, 3.01, 0.5)
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # C of the linear model: small is strongly regularised
TRIED = 2000  # samples on which a width is chosen
SPREAD = 5.0  # scores of the kernel are regressions of 0 and 1; so much sharper they are on the scale of logarithms
ROUNDS = 2


def linear(x: Features, given: Labels, n_classes: int, folds: int, seed: int) -> Probs:
    """Out-of-fold probabilities of a logistic regression [N, K]; its strength is the one that predicts the first fold's labels best."""
    from sklearn.linear_model import LogisticRegression  # not at the top: seconds

    fold = folds_of(given, folds, seed)

    def predicted(k: int, strength: float) -> Probs:
        model = LogisticRegression(C=strength, max_iter=300).fit(x[fold != k], given[fold != k])
        out = np.zeros((int((fold == k).sum()), n_classes))
        out[:, model.classes_] = model.predict_proba(x[fold == k])
        return out

    def surprise(p: Probs) -> float:
        return -float(np.log(np.maximum(p[np.arange(len(p)), given[fold == 0]], 1e-6)).mean())

    first = {c: predicted(0, c) for c in STRENGTHS}
    best = min(first, key=lambda c: surprise(first[c]))
    probs = np.zeros((len(given), n_classes))
    probs[fold == 0] = first[best]
    for k in range(1, folds):
        probs[fold == k] = predicted(k, best)
    return probs


class Kernel:
    """Ridge regression on a Gaussian kernel (Nystroem's approximation from ``LANDMARKS`` samples), each sample predicted by the others."""

    def __init__(self, x: Features, given: Labels, n_classes: int, seed: int) -> None:
        """Width and penalty are those that predict the given labels best, each left out."""
        targets = np.eye(n_classes)[given]
        order = generator(STREAM_LANDMARKS, seed).permutation(len(x))
        some, few = order[:TRIED], LANDMARKS // 3
        tried = {w: _Smoother(_mapped(x[some], x[some[:few]], w)) for w in WIDTHS}
        width = min(tried, key=lambda w: min(tried[w].error(targets[some], p) for p in PENALTIES))
        self._smoother = _Smoother(_mapped(x, x[order[:LANDMARKS]], width))
        self._penalty = min(PENALTIES, key=lambda p: self._smoother.error(targets, p))

    def scores(self, targets: Probs) -> Scores:
        """Of every class [N, K], from ``targets`` [N, K] of the others."""
        return SPREAD * self._smoother.left_out(targets, self._penalty)


class _Smoother:
    """Ridge regression on features [N, M] for any penalty and targets, by their singular vectors."""

    def __init__(self, mapped: Features) -> None:
        values, vectors = np.linalg.eigh(mapped.T @ mapped)
        kept = values > 1e-9 * values[-1]
        self._values = values[kept]
        self._basis = mapped @ vectors[:, kept] / np.sqrt(self._values)

    def left_out(self, targets: Probs, penalty: float) -> Scores:
        """The prediction of each row by a fit to all others: (fit - h y) / (1 - h), h the row's leverage."""
        kept = self._values / (self._values + penalty)
        own = (self._basis**2 @ kept)[:, None]
        fit = self._basis @ (kept[:, None] * (self._basis.T @ targets))
        out: Scores = (fit - own * targets) / np.maximum(1 - own, FLOOR)
        return out

    def error(self, targets: Probs, penalty: float) -> float:
        return float(((self.left_out(targets, penalty) - targets) ** 2).mean())


def _mapped(x: Features, landmarks: Features, width: float) -> Features:
    """Features [N, M] whose products are the kernel exp(-d^2 / (width median)), as far as the landmarks [M, D] tell it."""
    among = _squared(landmarks, landmarks)
    scale = width * (float(np.median(among[np.triu_indices(len(among), 1)])) if len(among) > 1 else 1.0)
    scale = scale if scale > 0 else 1.0
    values, vectors = np.linalg.eigh(np.exp(-among / scale))
    kept = values > 1e-6 * values[-1]
    out: Features = np.exp(-_squared(x, landmarks) / scale) @ (vectors[:, kept] / np.sqrt(values[kept]))
    return out


def _squared(a: Features, b: Features) -> Features:
    out: Features = np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)
    return out


class Neighbours:
    """The labels of the nearest others by cosine (``learn.neighbours``)."""

    def __init__(self, x: Features, k: int) -> None:
        self.position = nearest(torch.from_numpy(x).float(), k, "cosine", itself=False).position.numpy()  # [N, k]

    def votes(self, targets: Probs) -> Probs:
        """How many of the neighbours are of each class [N, K]; of soft ``targets`` [N, K] their sums."""
        out = np.zeros_like(targets)
        for column in self.position.T:
            out += targets[column]
        return out

    def scores(self, targets: Probs) -> Scores:
        """Logarithms of the shares, half a vote added to each class."""
        votes = self.votes(targets) + 0.5
        out: Scores = np.log(votes / votes.sum(1, keepdims=True))
        return out


def logarithms(probs: Probs) -> Scores:
    """Of probabilities; none is taken to be smaller than a millionth."""
    out: Scores = np.log(np.maximum(probs, 1e-6))
    return out


def refined(
    fixed: list[Scores],
    asked: list[Callable[[Probs], Scores]],
    given: Labels,
    n_classes: int,
    rounds: int = ROUNDS,
    tell: Callable[[Weighed], None] = lambda found: None,
) -> list[Weighed]:
    """What ``fixed`` evidence and those ``asked`` make of the given labels, then of what they found: one more than ``rounds``.

    A kernel and neighbours that learned from labels of which a part is wrong say much the same of all samples that are taken for one
    another. Of the posterior of the round before, where most wrong labels weigh little, they tell these apart.
    """
    targets, matrix, found = np.eye(n_classes)[given], None, []
    for _ in range(rounds + 1):
        found.append(weighed([*fixed, *(ask(targets) for ask in asked)], given, matrix))
        targets, matrix = found[-1].posterior, found[-1].matrix
        tell(found[-1])
    return found
