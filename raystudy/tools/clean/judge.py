"""From evidence to a verdict on each label: quality, issue or not, what it should be, and what speaks against it. No truth, no files."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raystudy.tools.clean import evidence
from raystudy.tools.clean.quality import Scores, Values, Weighed, anchor_counts, posterior, shrunk
from raystudy.tools.folds import Labels, Predictions, Probs, folds_of
from raystudy.tools.transition import Estimate, bootstrap

TEMPER = 0.5  # the pieces of evidence see the same samples, so they are not as many witnesses as they seem
SURE = 0.5  # probability from which a suggestion takes the place of the label given
RESAMPLES = 100


@dataclass(frozen=True)
class Judged:
    """A verdict on every label."""

    given: Labels  # [N]
    quality: Values  # [N] in [0, 1]: how likely the label given is right
    suggested: Labels  # [N] the likeliest class
    confidence: Values  # [N] of the class suggested
    issue: NDArray[np.bool_]  # [N] another class is likelier than the one given
    probs: Probs  # [N, K] of the models that did not see the label
    votes: Labels  # [N, K] labels of the nearest others
    position: Labels  # [N, k] where they are
    estimate: Estimate  # the noise, from the surest samples of each class

    @property
    def sure(self) -> NDArray[np.bool_]:
        """Issues whose suggestion is more likely than all else together."""
        out: NDArray[np.bool_] = self.issue & (self.confidence >= SURE)
        return out

    @property
    def worst_first(self) -> Labels:
        """Positions of the issues [M]."""
        order = np.argsort(self.quality, kind="stable")
        out: Labels = order[self.issue[order]]
        return out


def mean_posterior(found: list[Weighed], given: Labels) -> Probs:
    """P(true class | sample, label given) [N, K], the mean over rounds; probabilities to the power ``TEMPER`` before T is heard."""
    parts = []
    for one in found:
        tempered = one.probs**TEMPER
        parts.append(posterior(tempered / tempered.sum(1, keepdims=True), one.matrix, given))
    out: Probs = np.mean(parts, axis=0)
    return out


def verdict(quality_of: Probs, given: Labels) -> tuple[Values, Labels, NDArray[np.bool_]]:
    """Quality, suggestion and issue, [N] each, of a posterior [N, K]; where the label given is among the likeliest it stays."""
    quality = quality_of[np.arange(len(given)), given]
    issue = quality_of.max(1) > quality
    return quality, np.where(issue, quality_of.argmax(1), given), issue


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
    of_all = mean_posterior(found, given)
    quality, suggested, issue = verdict(of_all, given)
    fold = folds_of(given, folds, seed)
    estimate = bootstrap(
        Predictions(last.probs, given, fold), lambda p, y: shrunk(anchor_counts(p, y)), RESAMPLES, seed
    )
    votes = near.votes(np.eye(n_classes)[given]).astype(np.int64)
    return Judged(given, quality, suggested, of_all.max(1), issue, found[0].probs, votes, near.position, estimate)


def reason(told: Judged, i: int, classes: tuple[str, ...]) -> str:
    """What speaks against a label, in one sentence."""
    y, s = int(told.given[i]), int(told.suggested[i])
    p, v, k = told.probs[i], told.votes[i], told.position.shape[1]
    return (
        f"models that did not see this label: {classes[s]} {p[s]:.2f}, {classes[y]} {p[y]:.2f}; "
        f"of the {k} nearest {v[s]} are labelled {classes[s]}, {v[y]} {classes[y]}"
    )
