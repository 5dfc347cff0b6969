"""Wrong labels told by the labels of the nearest neighbours, without training: pure functions of features and given labels.

Neighbours, their votes, and what follows from votes alone belong here. How likely each mistake is, is in ``consensus``. Nothing
reads the truth; nothing trains.

Papers: Bahri, Jiang, Gupta, "Deep k-NN for Noisy Labels", ICML 2020 (arXiv 2004.12289; no code was published): ``nearest`` by
Euclidean distance, ``tally``, ``plurality``. Published: k = 500 for images, 50 for tables (both recalled, not
confirmed), logits of a preliminary network.
Zhu, Dong, Liu, "Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022 (arXiv 2110.06283), detector SimiFeat-V;
code UCSC-REAL/SimiFeat @534af48: ``nearest`` by cosine, ``similarity_votes``, ``plurality``. Published: k = 10, 21 rounds of new
augmentations.

Deviations, and why
- An image is its own nearest neighbour whatever twins it has; there, a twin may stand in its place.
- Equal distances go by position. Where the given label is among the winners of a vote it wins: a tie does not speak against it
  (argmax would favour the classes of small number).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from raystudy.errors import InputError

CHUNK = 1 << 22  # distances that stand in memory at once, a few times over: 16 MB of float32 each; changes no result
Metric = Literal["euclidean", "cosine"]


class Neighbours(NamedTuple):
    """The nearest of each row, nearest first; equally near ones by position."""

    position: Tensor  # [Q, k] int64
    distance: Tensor  # [Q, k] Euclidean, or 1 - cosine in [0, 2]


def unit_rows(x: Tensor) -> Tensor:
    """The rows of ``x`` [N, D] at length 1; a row of zeros has no direction and stays."""
    largest = x.abs().amax(1, keepdim=True)
    x = x / torch.where(largest > 0, largest, torch.ones_like(largest))  # squares of very small numbers would be 0
    return x / x.norm(dim=1, keepdim=True).clamp_min(1)


def nearest(
    x: Tensor, k: int, metric: Metric = "euclidean", itself: bool = True, rows: Tensor | None = None
) -> Neighbours:
    """The ``k`` nearest rows of ``x`` [N, D] to each of its ``rows`` [Q] (positions; None: to all), [Q, min(k, those there are)].

    ``itself``: each row comes first in its own list, else it is left out. "cosine" does not look at lengths; a row of zeros is as far
    from any other as a right angle. Exact, and on the CPU the same bits whatever the chunks and threads: a matrix product says
    who can be near, and only those distances are computed, by differences and not by a^2 + b^2 - 2ab, which loses the digits of
    near ones. Memory beside ``x`` and the result: some 64 MB. In float64 if ``x`` is, else in float32; without gradient.

    InputError where a feature is not finite or too large for its square to be; ValueError for k < 1.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a point has at least one neighbour to ask")
    x = x.detach().to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    x = _directions(x) if metric == "cosine" else x
    squares = x.square().sum(1)
    if odd := int((~squares.isfinite()).sum()):
        raise InputError(f"{odd} of {len(x)} rows of features are not finite (or beyond 1e18): no distance can be told")
    rows = torch.arange(len(x), device=x.device) if rows is None else rows
    k = min(k, len(x) - (not itself))
    pool = min(k + k // 4 + 16, len(x))
    size = max(1, CHUNK // max(len(x), pool * x.shape[1], 1))
    parts = [_nearest_chunk(x, squares, chunk, k, pool, itself) for chunk in rows.split(size)]
    distance = torch.cat([d for _, d in parts])
    return Neighbours(torch.cat([i for i, _ in parts]), distance.square() / 2 if metric == "cosine" else distance)


def _directions(x: Tensor) -> Tensor:
    """Rows of length 1 [N, D + 1], for which |a - b|^2 / 2 = 1 - cosine; rows of zeros share a direction that no other has."""
    return torch.cat([unit_rows(x), (x == 0).all(1, keepdim=True).to(x)], 1)


def _nearest_chunk(x: Tensor, squares: Tensor, rows: Tensor, k: int, pool: int, itself: bool) -> tuple[Tensor, Tensor]:
    """Positions and Euclidean distances [Q, k] for ``rows`` [Q]; ``pool``: how many are looked at closely.

    A product of D terms is within D eps |a| |b| of the true one, so (1 - 2 slack) (a^2 + b^2) - 2ab is a lower bound of the squared
    distance. Where the k-th of the pool is nearer than the lowest bound outside of it, nobody was missed; where not
    (many twins, or features far from 0), all distances are computed.
    """
    slack = 2 * (x.shape[1] + 4) * torch.finfo(x.dtype).eps
    own = rows[:, None]
    squares = (1 - 2 * slack) * squares
    with torch.autocast(x.device.type, enabled=False):  # a method may call from where products are in bfloat16
        bound = torch.addmm(squares, x[rows], x.t(), alpha=-2)  # but for a^2, the same for a whole row
    bound.scatter_(1, own, -torch.inf if itself else torch.inf)
    lowest, candidates = bound.topk(pool, largest=False)
    candidates = candidates.sort(1).values  # so that a stable sort by distance leaves equal ones in order of position
    index, distance = _ordered(_distances(x[own], x[candidates]).squeeze(1), candidates, own, k, itself)
    missed = distance[:, -1:].square() * (1 + slack) >= lowest[:, -1:] + squares[own]
    again = missed.any(1).nonzero().squeeze(1)
    if pool == len(x) or not len(again):
        return index, distance
    everyone = torch.arange(len(x), device=x.device)
    for part in again.split(max(1, CHUNK // (4 * len(x)))):  # positions are 64 bit, too
        full = _distances(x[rows[part]], x)
        index[part], distance[part] = _ordered(full, everyone.expand_as(full), own[part], k, itself)
    return index, distance


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, [..., n, m], each by differences and so the same bits wherever it is computed."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def _ordered(distance: Tensor, index: Tensor, own: Tensor, k: int, itself: bool) -> tuple[Tensor, Tensor]:
    """The ``k`` first by (distance, position) of ``index`` [Q, m], ascending, with ``own`` [Q, 1] first or last of all."""
    distance = distance.masked_fill(index == own, -1 if itself else torch.inf)
    ordered, at = distance.sort(stable=True, dim=1)
    return index.gather(1, at[:, :k]), ordered[:, :k].clamp_min(0)


# --- votes --------------------------------------------------------------------------------------------------------


def tally(position: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """How many of the neighbours at ``position`` [Q, k] have each label of ``y`` [N], [Q, K] int64; rows sum to k (Bahri et al., eta_k)."""
    return _votes(position, y, torch.ones_like(position), n_classes)


def _votes(position: Tensor, y: Tensor, weight: Tensor, n_classes: int) -> Tensor:
    return weight.new_zeros(len(position), n_classes).scatter_add_(1, y[position], weight)


def similarity_votes(
    near: Neighbours, y: Tensor, n_classes: int, min_similarity: float = 0.0, norm: Literal["l2", "l1"] = "l2"
) -> Tensor:
    """Soft votes of SimiFeat, [Q, K]: V_c = sum_j (1 - min_similarity - d_j) 1[y_j = c], each row divided by its norm.

    ``near``: by cosine, each point first in its own list; ``y`` [N]. The point's own d_0 = 0 would outweigh the others, so it
    becomes 2 d_1 - d_2, the line through the next two; with fewer than two others it stays. A neighbour less similar than
    ``min_similarity`` votes against. "l1" divides by the sum (as the code does, not by the sum of absolute values).
    Rows of zero norm stay zero.
    """
    distance = near.distance.clone()
    if distance.shape[1] > 2:
        distance[:, 0] = 2 * distance[:, 1] - distance[:, 2]
    votes = _votes(near.position, y, 1 - min_similarity - distance, n_classes)
    total = votes.norm(dim=1, keepdim=True) if norm == "l2" else votes.sum(1, keepdim=True)
    return torch.where(total == 0, votes, votes / torch.where(total == 0, 1, total))


def plurality(votes: Tensor, y: Tensor) -> Tensor:
    """The label with most of ``votes`` [Q, K], [Q]: of several, the given ``y`` [Q] if it is one of them, else the smallest.

    A label is taken for wrong where it is not this one (Bahri et al., SimiFeat-V). One class, k = 1 with
    the point itself, or k >= N where all labels are equal: no label is.
    """
    return torch.where(votes.gather(1, y[:, None]).squeeze(1) == votes.amax(1), y, votes.argmax(1))


def simifeat_v(x: Tensor, y: Tensor, n_classes: int, k: int = 10) -> Tensor:
    """Which labels are wrong, bool [N], by one round of SimiFeat-V on features ``x`` [N, D] and labels ``y`` [N]."""
    return plurality(similarity_votes(nearest(x, k, "cosine"), y, n_classes), y) != y


def agreement(votes: Tensor, y: Tensor) -> Tensor:
    """The share of the neighbours that have the label given, [Q] in [0, 1], float64, of counts ``votes`` [Q, K] and ``y`` [Q].

    As a weight of the sample an extension of Bahri et al.; 1 - agreement ranks labels by how likely they are wrong.
    """
    return votes.gather(1, y[:, None]).squeeze(1).double() / votes.sum(1)


class Relabelled(NamedTuple):
    """New labels, and which samples stay."""

    y: Tensor  # [Q] int64
    keep: Tensor  # [Q] bool


def relabel(votes: Tensor, y: Tensor, threshold: float) -> Relabelled:
    """Labels ``y`` [Q] that counts ``votes`` [Q, K] contradict: replaced where the winner has at least that share, else dropped.

    An extension (Wilson 1972 editing with a threshold). Above 1 it is the filter of Bahri et al.: nothing is replaced. Below 1/2 it
    copies a class that attracts mistakes into everything.
    """
    winner = plurality(votes, y)
    sure = votes.amax(1).double() / votes.sum(1) >= threshold
    return Relabelled(torch.where(sure, winner, y), sure | (winner == y))


# --- trusted samples ----------------------------------------------------------------------------------------------


def split_trusted(order: Tensor, share: float = 0.7) -> tuple[Tensor, Tensor]:
    """Trusted samples in random ``order`` [C] for training, the first int(share C), and for validation, the rest (Bahri et al.)."""
    cut = int(share * len(order))
    return order[:cut], order[cut:]


def trains_on_all(trusted_only: Tensor, union: Tensor, y: Tensor) -> bool:
    """Whether the preliminary network is to learn from noisy labels, too: the one that did is right more often.

    ``trusted_only`` and ``union`` [v, K]: outputs of both networks on the trusted samples kept for validation, ``y`` [v]. Bahri et
    al.; a tie is for the trusted ones alone.
    """
    return bool((union.argmax(1) == y).sum() > (trusted_only.argmax(1) == y).sum())
