"""A filter's verdict (``learn.filters``) as a judgement of every label, which ``clean`` shows as any other. No truth, no files."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raystudy.learn import filtering
from raystudy.tools.clean import evidence
from raystudy.tools.clean.judge import RESAMPLES, SURE, Judged
from raystudy.tools.clean.quality import anchor_counts, shrunk
from raystudy.tools.folds import Labels, Predictions, folds_of
from raystudy.tools.transition import bootstrap

TIES = 0.01  # of a quality is by the votes: less than what weights of up to a hundred rounds or neighbours differ by


def judged_by(
    text: str,
    views: Sequence[Tensor],
    x: evidence.Features,
    given: Labels,
    n_classes: int,
    folds: int,
    k: int,
    seed: int,
) -> Judged:
    """Of features ``views`` ([N, D] each) and ``x`` [N, D], the plain one, and given labels [N], by the filter ``text`` alone.

    A quality is a score here, no probability: labels that the filter keeps lie from ``SURE`` on, others below one half, and each part
    in the order of the filter's weights, and where those are equal (SimiFeat's often are 0) of the votes for the given label. Only what
    the filter replaces is sure. The other class suggested, and the noise, are by the votes of the ``k`` nearest others.
    """
    told = filtering.verdict(text, views, torch.from_numpy(given), n_classes, seed)
    weight, now, keep = told.weight.double().numpy(), told.y.numpy(), told.keep.numpy()
    replaced = keep & (now != given)
    issue = ~keep | replaced
    near = evidence.Neighbours(x, min(k, len(x) - 1))
    votes = near.votes(np.eye(n_classes)[given])
    rows, others = np.arange(len(given)), votes.copy()
    others[rows, given] = -1
    suggested = np.where(issue, np.where(replaced, now, others.argmax(1)), given)
    shares = (votes + 0.5) / (votes + 0.5).sum(1, keepdims=True)
    agreed = shares[rows, suggested]
    order = (1 - TIES) * weight + TIES * shares[rows, given]
    estimate = bootstrap(
        Predictions(shares, given, folds_of(given, folds, seed)),
        lambda p, y: shrunk(anchor_counts(p, y)),
        RESAMPLES,
        seed,
    )
    return Judged(
        given=given,
        quality=np.where(issue, 0.5 * order * (1 - 1e-9), SURE + (1 - SURE) * order),
        suggested=suggested,
        confidence=np.where(replaced, SURE + (1 - SURE) * agreed, SURE * agreed * (1 - 1e-9)),
        issue=issue,
        probs=shares,
        votes=votes.astype(np.int64),
        position=near.position,
        estimate=estimate,
        trained=False,
    )
