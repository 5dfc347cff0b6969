"""How sure one may be of each label: pure functions of evidence and given labels (docs/clean.md). No truth, no training, no files.

A piece of evidence scores every class of every sample without having seen its label. What it says and the noise of the labels are told
apart in turns: the surest samples of each class show how that class is labelled (T), T says what given labels are to be expected
of a prediction, and that says how much to make of each piece of evidence. The quality of a label is then the probability that
the sample is of the class given, by Bayes: P(i | x, given j) = p_i(x) T_ij / sum_l p_l(x) T_lj.

Without T, noise from one class into another (pair, asymmetric) makes the wrong label look almost as likely as the right one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, log_softmax

from raystudy.data.noise import Matrix
from raystudy.tools.folds import Labels, Probs
from raystudy.tools.transition import ANCHORS

Scores = NDArray[
    np.float64
]  # [N, K], larger where a class is likelier: logarithms of probabilities, or anything on such a scale
Values = NDArray[np.float64]

CONCENTRATIONS = 10.0 ** np.arange(-1, 4.01, 0.25)  # of the priors that ``shrunk`` chooses from
FLOOR = 1e-12


class Weighed(NamedTuple):
    """What the evidence says of the true classes, and of the noise of the labels."""

    probs: Probs  # [N, K] P(true class | sample), its own label not looked at
    matrix: Matrix  # [K, K] T
    weights: Values  # [E] of the pieces of evidence: what their scores are multiplied by
    posterior: Probs  # [N, K] P(true class | sample, label given)


def posterior(probs: Probs, matrix: Matrix, given: Labels) -> Probs:
    """P(true class | sample, label given) [N, K] of P(true class | sample) ``probs`` [N, K] under ``matrix`` T [K, K].

    A label that T holds to be impossible for all classes that a sample may be of says nothing: the probabilities stay.
    """
    joint = probs * matrix[:, given].T
    total = joint.sum(1, keepdims=True)
    out: Probs = np.where(total > 0, joint / np.where(total > 0, total, 1), probs)
    return out


def anchor_counts(probs: Probs, given: Labels, most: int = ANCHORS) -> Matrix:
    """How the surest samples of each class are labelled, [K, K] counts: rows are classes, columns labels given.

    For class i the ``most`` samples with the largest p_i, and never more than half of the class's share, N/(2K).
    """
    n, k = probs.shape
    many = max(1, min(most, round(n / (2 * k))))
    rows = [np.bincount(given[np.argsort(-p, kind="stable")[:many]], minlength=k) for p in probs.T]
    return np.stack(rows).astype(np.float64)


def shrunk(counts: Matrix) -> Matrix:
    """T [K, K] from ``counts`` [K, K] of few anchors: rates are drawn to their mean, wrong labels to all classes alike.

    How strongly is read off the counts themselves (empirical Bayes): the concentrations of the beta and Dirichlet priors are those under
    which such counts are likeliest. Symmetric noise becomes symmetric; where one class is taken for one other, the rows stay.
    A rate is never quite 0 or 1.
    """
    k = len(counts)
    wrong = np.where(np.eye(k, dtype=bool), 0.0, counts)
    total, missed = counts.sum(1), wrong.sum(1)
    mean = (missed.sum() + 0.5) / (total.sum() + 1)
    likely = [_beta_binomial(missed, total, c * mean, c * (1 - mean)) for c in CONCENTRATIONS]
    c = CONCENTRATIONS[int(np.argmax(likely))]
    rate = (missed + c * mean) / (total + c)
    likely = [_multinomial(wrong, c / max(k - 1, 1)) for c in CONCENTRATIONS]
    c = CONCENTRATIONS[int(np.argmax(likely))]
    other = np.where(np.eye(k, dtype=bool), 0.0, wrong + c / max(k - 1, 1))
    matrix: Matrix = rate[:, None] * other / other.sum(1, keepdims=True) + np.diag(1 - rate)
    return matrix


def _beta_binomial(missed: Values, total: Values, a: float, b: float) -> float:
    terms = gammaln(a + b) - gammaln(a + b + total) + gammaln(a + missed) - gammaln(a)
    return float((terms + gammaln(b + total - missed) - gammaln(b)).sum())


def _multinomial(wrong: Matrix, each: float) -> float:
    """The log likelihood of wrong labels [K, K] by class, their shares drawn from a Dirichlet of ``each`` for every other class."""
    k = len(wrong)
    off = wrong[~np.eye(k, dtype=bool)].reshape(k, k - 1)
    c = each * (k - 1)
    return float((gammaln(c) - gammaln(c + off.sum(1)) + (gammaln(each + off) - gammaln(each)).sum(1)).sum())


def calibrated(evidence: Sequence[Scores], given: Labels, matrix: Matrix) -> tuple[Probs, Values]:
    """P(true class | sample) as the softmax of sum_e w_e evidence_e, and the weights w_e >= 0 that make the given labels likeliest.

    sum_n log (p_n T)_given(n) under ``matrix`` T: a piece of evidence that tells nothing more than the others gets no weight.
    """
    from scipy.optimize import minimize

    stacked = np.stack([e - e.max(1, keepdims=True) for e in evidence])
    rows, towards = np.arange(len(given)), np.ascontiguousarray(matrix[:, given].T)

    def loss(w: Values) -> tuple[float, Values]:
        p = np.exp(log_softmax(np.tensordot(w, stacked, 1), axis=1))
        seen = (p * towards).sum(1)
        pull = p * (towards / np.maximum(seen, FLOOR)[:, None] - 1)  # of the log likelihood, by each score
        return -float(np.log(np.maximum(seen, FLOOR)).mean()), -np.array([(pull * s).sum() for s in stacked]) / len(
            rows
        )

    start = np.full(len(stacked), 1 / len(stacked))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, 50)] * len(stacked))
    weights = np.asarray(found.x, dtype=np.float64)
    return np.exp(log_softmax(np.tensordot(weights, stacked, 1), axis=1)), weights


def weighed(evidence: Sequence[Scores], given: Labels, before: Matrix | None = None) -> Weighed:
    """Evidence and the noise of the labels, told apart: T from anchors of what the evidence says under ``before`` (no noise, if None)."""
    k = evidence[0].shape[1]
    plain, _ = calibrated(evidence, given, np.eye(k) if before is None else before)
    matrix = shrunk(anchor_counts(plain, given))
    probs, weights = calibrated(evidence, given, matrix)
    return Weighed(probs, matrix, weights, posterior(probs, matrix, given))
