"""From evidence to a verdict on each label: quality, issue or not, what it should be, and what speaks against it. No truth, no files."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from raystudy.tools.clean import evidence
from raystudy.tools.clean.quality import Scores, Values, Weighed, anchor_counts, posterior, shrunk
from raystudy.tools.folds import Labels, Predictions, Probs, folds_of
from raystudy.tools.transition import Estimate, bootstrap

TEMPER = 0.5  # the pieces of evidence see the same samples, so they are not as many witnesses as they seem
SURE = 0.8  # probability from which a label given stays, and from which a suggestion takes its place
RESAMPLES = 100


@dataclass(frozen=True)
class Judged:
    """A verdict on every label."""

    given: Labels  # [N]
    quality: Values  # [N] in [0, 1]: how likely the label given is right
    suggested: Labels  # [N] the likeliest other class of an issue, else the one given
    confidence: Values  # [N] of the class suggested
    issue: NDArray[np.bool_]  # [N] more likely wrong than right
    probs: Probs  # [N, K] of the models that did not see the label
    votes: Labels  # [N, K] labels of the nearest others
    position: Labels  # [N, k] where they are
    estimate: Estimate  # the noise, from the surest samples of each class
    trained: bool = True  # whether ``probs`` are of models; else they are the votes

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Issues of which the class suggested is rather certain (``SURE``)."""
        out: NDArray[np.bool_] = self.issue & (self.confidence >= SURE)
        return out

    @property
    def kept(self) -> NDArray[np.bool_]:
        """What stays in cleaned data: sure suggestions, and labels given whose quality is as high."""
        out: NDArray[np.bool_] = self.sure | (self.quality >= SURE)
        return out

    @property
    def worst_first(self) -> Labels:
        """Positions of the issues [M]."""
        order = np.argsort(self.quality, kind="stable")
        out: Labels = order[self.issue[order]]
        return out


def mean_posterior(found: list[Weighed], given: Labels, power: float = 1.0) -> Probs:
    """P(true class | sample, label given) [N, K], the mean over rounds; probabilities are taken to a ``power`` before T is heard."""
    parts = []
    for one in found:
        tempered = one.probs**power
        parts.append(posterior(tempered / tempered.sum(1, keepdims=True), one.matrix, given))
    out: Probs = np.mean(parts, axis=0)
    return out


def levelled(order: Values, likely: Values) -> Values:
    """Qualities [N] in the order of ``order`` [N], at the level of the probabilities ``likely`` [N]: a logistic curve, never falling.

    The order of tempered posteriors is the better one, but they are too close to the noise that is expected of all labels alike.
    """
    x = np.log(np.clip(order, 1e-9, None)) - np.log(np.clip(1 - order, 1e-9, None))

    def loss(w: Values) -> tuple[float, Values]:
        z = np.exp(w[0]) * x + w[1]
        off = expit(z) - likely
        return float((np.logaddexp(0, z) - likely * z).mean()), np.array([(off * x).mean() * np.exp(w[0]), off.mean()])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-3, 3), (-20, 20)]).x
    out: Values = expit(np.exp(found[0]) * x + found[1])
    return out


def verdict(of_all: Probs, quality: Values, given: Labels) -> tuple[Labels, NDArray[np.bool_]]:
    """Suggestion and issue, [N] each: where a quality is below one half, the likeliest other class by the posterior [N, K]."""
    issue = quality < 0.5
    others = of_all.copy()
    others[np.arange(len(given)), given] = -1
    return np.where(issue, others.argmax(1), given), issue


def judge(
    x: evidence.Features,
    given: Labels,
    n_classes: int,
    *,
    folds: int = 5,
    k: int = evidence.NEIGHBOURS,
    seed: int = 0,
    more: tuple[Probs, ...] = (),
    tell: Callable[[str], None] = lambda text: None,
) -> Judged:
    """Of features [N, D] and given labels [N]. ``more``: out-of-fold probabilities of others, such as a network's."""
    tell(f"{folds} x a linear model")
    fixed: list[Scores] = [evidence.logarithms(evidence.linear(x, given, n_classes, folds, seed))]
    fixed += [evidence.logarithms(p) for p in more]
    tell("a kernel, and who is near to whom")
    kernel = evidence.Kernel(x, given, n_classes, seed)
    near = evidence.Neighbours(x, min(k, len(x) - 1))
    found = evidence.refined(fixed, [kernel.scores, near.scores], given, n_classes)
    tell("what that makes of each label")
    last = found[-1]
    rows, of_all = np.arange(len(given)), mean_posterior(found, given)
    quality = levelled(mean_posterior(found, given, TEMPER)[rows, given], of_all[rows, given])
    suggested, issue = verdict(of_all, quality, given)
    fold = folds_of(given, folds, seed)
    estimate = bootstrap(
        Predictions(last.probs, given, fold), lambda p, y: shrunk(anchor_counts(p, y)), RESAMPLES, seed
    )
    votes = near.votes(np.eye(n_classes)[given]).astype(np.int64)
    return Judged(
        given, quality, suggested, of_all[rows, suggested], issue, found[0].probs, votes, near.position, estimate
    )


def reason(told: Judged, i: int, classes: tuple[str, ...]) -> str:
    """What speaks against a label, in one sentence."""
    y, s = int(told.given[i]), int(told.suggested[i])
    p, v, k = told.probs[i], told.votes[i], told.position.shape[1]
    near = f"of the {k} nearest {v[s]} are labelled {classes[s]} and {v[y]} are labelled {classes[y]}"
    if not told.trained:
        return f"the filter does not trust this label; {near}"
    return f"models that did not see this label: p({classes[s]}) = {p[s]:.2f}, p({classes[y]}) = {p[y]:.2f}; {near}"
