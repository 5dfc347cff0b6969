"""Filters: what a data set's labels become before any method sees them, from features and given labels alone.

Nothing trains and nothing reads the truth. The mathematics is in ``neighbours`` (votes) and ``consensus`` (how likely each mistake is);
here it is put together under the names of ``FILTERS``.

``knn_relabel``: Bahri, Jiang, Gupta, "Deep k-NN for Noisy Labels", ICML 2020 (no code was published). ``simifeat``: Zhu, Dong, Liu,
"Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022, code UCSC-REAL/SimiFeat @534af48.

Deviations, and why
- Features of a network that has memorised its labels keep everything: give logits of one stopped early, or features that no label of
  this set has made.
- ``knn_relabel``: k is ``K_USUAL``, and no more than a fifth of N/K, where nobody says it, and at most N/K (the published 500 is a whole
  class of CIFAR-100); ties are for the given label; a class of which nothing would be left keeps, with their labels, the ``SPARED``
  samples that most of their neighbours agree with. Relabelling and weights are extensions.
- ``simifeat``: each round has features of new augmentations, one of each where they are fixed; then rounds differ by subsets and jitter
  alone. T and p are those of the best step, where the code's alias returns the last. A sample on which rounds are split stays. Sets no
  larger than a subset of the paper's are looked at whole, once: ten orders of the same points count the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from raystudy.errors import unknown
from raystudy.learn import consensus, neighbours
from raystudy.learn.neighbours import Metric

SPARED = 10  # samples of a class that stay whatever the votes
K_USUAL = 50  # neighbours of ``knn_relabel``; with a fifth of a class for small sets, both by its sheet
WHOLE = 15_000  # samples up to which the noise is estimated from all of them, above from subsets of so many
Mode = Literal["filter", "relabel", "weight"]
Detector = Literal["vote", "rank"]


class Filtered(NamedTuple):
    """The labels to train on, which samples to train on, and how far each counts."""

    y: Tensor  # [n] int64
    keep: Tensor  # [n] bool
    weight: Tensor  # [n] in [0, 1], how clean the given label is held to be


def knn_relabel(
    features: Sequence[Tensor],
    y: Tensor,
    n_classes: int,
    k: int = 0,
    metric: Metric = "euclidean",
    itself: bool = True,
    mode: Mode = "filter",
    threshold: float = 0.6,
) -> Filtered:
    """Labels ``y`` [n] against the votes of the ``k`` nearest by the first of ``features`` ([n, D] each).

    "filter" drops what the votes contradict, "relabel" replaces it where the winner has at least ``threshold`` of them and drops the
    rest, "weight" keeps all. ``k`` 0: as many as the number of samples allows.
    """
    if mode not in ("filter", "relabel", "weight"):
        raise unknown("mode of knn_relabel", mode, ("filter", "relabel", "weight"))
    k = max(min(k or min(K_USUAL, len(y) // (5 * n_classes)), len(y) // n_classes), 1)
    votes = neighbours.tally(neighbours.nearest(features[0], k, metric, itself).position, y, n_classes)
    weight = neighbours.agreement(votes, y)
    if mode == "weight":
        return Filtered(y, torch.ones_like(y, dtype=torch.bool), weight)
    told = neighbours.relabel(votes, y, threshold if mode == "relabel" else 2.0)
    spared = _spared(y, told.y[told.keep], weight, n_classes)
    return Filtered(torch.where(spared, y, told.y), told.keep | spared, weight)


def simifeat(
    features: Sequence[Tensor],
    y: Tensor,
    n_classes: int,
    k: int = 10,
    detector: Detector = "rank",
    rounds: int = 21,
    steps: int = 400,
    offset: float = 1.0,
    seed: int = 0,
) -> Filtered:
    """Labels ``y`` [n] that the majority of ``rounds`` calls wrong are dropped; round r looks at features r, begun anew when they end.

    "vote": those that the votes contradict. "rank": in each class as many as T and p say, by the votes.
    """
    if detector not in ("vote", "rank"):
        raise unknown("detector of simifeat", detector, ("rank", "vote"))
    g = torch.Generator().manual_seed(seed)
    votes = [neighbours.similarity_votes(neighbours.nearest(x, k, "cosine"), y, n_classes) for x in features[:rounds]]
    every, at = torch.arange(len(y), device=y.device)[None], None
    small = detector == "rank" and len(y) <= WHOLE
    whole = [consensus.consensus(x, y, n_classes, every) for x in features[:rounds]] if small else []
    clean: list[Tensor] = []
    for r in range(rounds):
        i = r % len(features)
        if detector == "vote":
            clean.append(neighbours.plurality(votes[i], y) == y)
            continue
        some = None if small else consensus.subsets(len(y), g, WHOLE).to(y.device)
        seen = whole[i] if some is None else consensus.consensus(features[i], y, n_classes, some)
        begin = consensus.start(torch.rand(n_classes, generator=g).to(y.device)) if at is None else at
        found = consensus.fit(seen, begin, steps if at is None else 20, 0.1 if at is None else 0.01)
        at = found.t_logits, found.p_logits
        jitter = (0.1 * torch.rand(n_classes, generator=g, dtype=torch.float64) - 0.05).to(y.device)
        clean.append(~consensus.ranked(votes[i], y, found, jitter, offset))
    flags = torch.stack(clean).long()
    _, wrong = consensus.verdict(flags, torch.ones_like(flags))
    weight = flags.double().mean(0)
    return Filtered(y, ~wrong | _spared(y, y[~wrong], weight, n_classes), weight)


def _spared(y: Tensor, left: Tensor, weight: Tensor, n_classes: int) -> Tensor:
    """Bool [n]: of each class of ``y`` [n] that is not among the labels ``left`` [m], the ``SPARED`` samples with the largest
    ``weight`` [n]."""
    spared = torch.zeros_like(y, dtype=torch.bool)
    counts = torch.bincount(left, minlength=n_classes).tolist()
    for c in range(n_classes):
        mine = (y == c).nonzero().squeeze(1)
        if not counts[c]:
            spared[mine[weight[mine].argsort(descending=True, stable=True)[:SPARED]]] = True
    return spared


FILTERS: dict[str, Callable[..., Filtered]] = {"knn_relabel": knn_relabel, "simifeat": simifeat}


def filtered(name: str, features: Sequence[Tensor], y: Tensor, n_classes: int, **options: Any) -> Filtered:
    """The filter of that name. Raises InputError, one line, for a name that there is not."""
    if name not in FILTERS:
        raise unknown("filter", name, FILTERS)
    return FILTERS[name](features, y, n_classes, **options)
