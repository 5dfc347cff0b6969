"""The noise read off how often near points agree, and the labels it says are wrong: pure functions of features and given labels.

HOC and SimiFeat-R belong here; neighbours and their votes are in ``neighbours``. Nothing reads the truth; nothing trains.

Papers: Zhu, Song, Liu, "Clusterability as an Alternative to Anchor Points When Learning with Noisy Labels" (HOC), ICML 2021
(arXiv 2102.05291); Zhu, Dong, Liu, "Detecting Corrupted Labels Without Training a Model to Predict", ICML 2022 (arXiv 2110.06283);
code UCSC-REAL/SimiFeat @534af48 (hoc.py, main_fast.py).

| equation | here |
| --- | --- |
| shares of (label, of the nearest, of the second nearest): c1, c2, c3 | ``count``, ``consensus`` |
| the same under T and the clean prior p: q_abc = sum_i p_i T_ia T_ib T_ic | ``implied`` |
| min over T, p of the three Frobenius norms, by Adam | ``misfit``, ``fit`` |
| P(clean i given j) = p_i T_ij / P(j) | ``clean_given_noisy`` |
| SimiFeat-R: of each class the worst, as many as are expected | ``scores``, ``wrong_shares``, ``ranked_wrong``, ``simifeat_r`` |

It rests on: a point and its two nearest have one true class, and each class is given more often than not its own label (which
tells the classes apart: any other order of them fits alike).

Deviations, and why
- ``fit`` gives the best iterate. The code means to, but its record of the best shares memory with what Adam changes: it
  returns the last (``keep="last"``). The objective is a sum of norms without squares, so Adam at a constant rate jumps about it.
- A point is its own nearest neighbour whatever twins it has. Negative votes count as none in a score, where the code has NaN.
- A class that is never given has nobody to be wrong.

Known traits, kept: a class that looks clean still loses its worst 5 %, and no class more than 95 %; among equal scores at the
cut all are taken for wrong.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from raystudy.learn.neighbours import nearest, similarity_votes

FEWEST, MOST = 0.05, 0.95  # shares of a class that are taken for wrong where the estimate leaves (0, 1)


class Consensus(NamedTuple):
    """Shares of labels, of (label, nearest) and of (label, nearest, second nearest); float64, each sums to 1."""

    one: Tensor  # [K]
    two: Tensor  # [K, K]
    three: Tensor  # [K, K, K]


def count(y: Tensor, two_nearest: Tensor, n_classes: int) -> Tensor:
    """How many of ``y`` [n] have each label and each pair of labels at their ``two_nearest`` [n, 2], [K, K, K] int64."""
    key = (y * n_classes + y[two_nearest[:, 0]]) * n_classes + y[two_nearest[:, 1]]
    return torch.bincount(key, minlength=n_classes**3).view(n_classes, n_classes, n_classes)


def implied(transition: Tensor, prior: Tensor) -> Consensus:
    """The shares under T [K, K], T_ij = P(given j | clean i), and the clean ``prior`` [K] (``calc_func`` of hoc.py)."""
    pt = prior[:, None] * transition
    two = pt.t() @ transition
    return Consensus(pt.sum(0), two, torch.einsum("ia,ib,ic->abc", pt, transition, transition))


def misfit(seen: Consensus, t_logits: Tensor, p_logits: Tensor) -> Tensor:
    """Sum of the Frobenius norms of seen - implied, 0-d, for T = row softmax of [K, K] and p = softmax of [K] (``func`` of hoc.py)."""
    model = implied(t_logits.softmax(1), p_logits.softmax(0))
    return torch.stack([(a - b).norm() for a, b in zip(seen, model, strict=True)]).sum()


class Fit(NamedTuple):
    """What ``fit`` found; float64."""

    transition: Tensor  # [K, K], rows sum to 1
    prior: Tensor  # [K], sum 1
    t_logits: Tensor  # [K, K], of which they are the softmax: where a later fit may start
    p_logits: Tensor  # [K]
    losses: Tensor  # [steps] of each iterate, the start first


def start(uniform: Tensor) -> tuple[Tensor, Tensor]:
    """The published start from ``uniform`` [K] draws: logits of T 5 I - 1, logits of p 1/K + 0.1 u; float64."""
    n = len(uniform)
    return 5 * torch.eye(n, dtype=torch.float64).to(uniform.device) - 1, 1 / n + 0.1 * uniform.double()


def fit(
    seen: Consensus,
    logits: tuple[Tensor, Tensor],
    steps: int = 400,
    lr: float = 0.1,
    keep: Literal["best", "last"] = "best",
) -> Fit:
    """T and p that explain ``seen`` best, from ``logits`` ([K, K] of T, [K] of p) on: ``steps`` iterates of Adam, the start among them.

    Published: 400 at 0.1, then 20 at 0.01 from the last result for each further round. After some 100 steps the last digit of the
    start has come to the surface: no two implementations agree then.
    """
    at = [value.detach().double().clone().requires_grad_() for value in logits]
    adam = torch.optim.Adam(at, lr=lr)
    losses: list[Tensor] = []
    least, found = torch.tensor(torch.inf), at
    with torch.enable_grad():
        for step in range(steps):
            loss = misfit(seen, at[0], at[1])
            losses.append(loss.detach())
            if keep == "last" or step == 0 or bool(losses[-1] < least):
                least, found = losses[-1], [value.detach().clone() for value in at]
            if step < steps - 1:
                adam.zero_grad()
                loss.backward()
                adam.step()
    return Fit(found[0].softmax(1), found[1].softmax(0), found[0], found[1], torch.stack(losses))


def subsets(n: int, generator: torch.Generator, size: int = 15_000, rounds: int = 10) -> Tensor:
    """Positions of ``rounds`` random subsets of ``size`` of n points (all, if fewer), int64 [rounds, size]."""
    return torch.stack([torch.randperm(n, generator=generator)[:size] for _ in range(rounds)])


def consensus(x: Tensor, y: Tensor, n_classes: int, samples: Tensor) -> Consensus:
    """The consensus of labels ``y`` [N] inside each of ``samples`` [G, m] of the features ``x`` [N, D] by cosine, averaged.

    K^3 numbers: 8 MB for 100 classes, 8 GB for 1000.

    ValueError for subsets of fewer than three points.
    """
    if samples.shape[1] < 3:
        raise ValueError(f"a point and its two nearest are three; the subsets have {samples.shape[1]}")
    total = torch.zeros(n_classes, n_classes, n_classes, dtype=torch.long, device=y.device)
    for each in samples:
        total += count(y[each], nearest(x[each], 2, "cosine", itself=False).position, n_classes)
    three = total.double() / samples.numel()
    return Consensus(three.sum((1, 2)), three.sum(2), three)


# --- SimiFeat-R ---------------------------------------------------------------------------------------------------


def clean_given_noisy(transition: Tensor, prior: Tensor, y: Tensor) -> Tensor:
    """A_ij = P(clean i | given j) = p_i T_ij / (share of j in the labels ``y`` [N]), [K, K] float64.

    Columns sum to 1 only where T and p explain those shares. The column of a class never given is the identity's.
    """
    share = torch.bincount(y, minlength=len(prior)).double() / len(y)
    eye = torch.eye(len(prior), dtype=torch.float64).to(share)
    return torch.where(share > 0, prior[:, None] * transition / share.clamp_min(1e-300), eye)


SCORES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda own, mean, expected: own,
    "cores": lambda own, mean, expected: own - mean,
    "peer": lambda own, mean, expected: own - expected,
    "avg": lambda own, mean, expected: -mean,
    "new": lambda own, mean, expected: 1.1 * own - mean,
}


def scores(votes: Tensor, y: Tensor, kind: str = "ce") -> Tensor:
    """How much ``votes`` [N, K] in [0, 1] speak against each label of ``y`` [N], [N]; ``kind``: a key of ``SCORES``.

    With r_c = -log(v_c + 1e-8): "ce" r_y, the one the paper uses; "cores" less the mean over classes; "peer" less that under the shares
    of the labels; "avg" the mean alone, negative; "new" 1.1 r_y less the mean.
    """
    against = -(votes.clamp_min(0) + 1e-8).log()
    share = torch.bincount(y, minlength=votes.shape[1]).to(votes) / len(y)
    return SCORES[kind](against.gather(1, y[:, None]).squeeze(1), against.mean(1), (against * share).sum(1))


def wrong_shares(right: Tensor, offset: float = 1.0) -> Tensor:
    """The share of wrong labels in each class from ``right`` [K] = P(clean c | given c): 1 - offset right, [K] in [0.05, 0.95].

    Only estimates at or beyond 0 and 1 are moved: 0.01 stays 0.01. Published: offset 1, and ``right`` with jitter from U(-0.05, 0.05).
    """
    share = 1 - (offset * right).clamp(max=1)
    return torch.where(share >= 1, MOST, torch.where(share <= 0, FEWEST, share))


def ranked_wrong(score: Tensor, y: Tensor, shares: Tensor) -> Tensor:
    """Which labels are wrong, bool [N]: in each class c those from the percentile 100 (1 - shares_c) of its ``score`` [N] on.

    ``shares`` [K]; the percentile between two values by linear interpolation, as numpy's. Classes without members have none.
    """
    wrong = torch.zeros_like(y, dtype=torch.bool)
    for c, share in enumerate(shares.tolist()):
        mine = y == c
        if mine.any():
            wrong |= mine & (score >= _percentile(score[mine], 1 - share))
    return wrong


def _percentile(values: Tensor, q: float) -> Tensor:
    """The ``q``-quantile, q in [0, 1], of ``values`` [n], linear between two; 0-d. torch.quantile refuses more than 16 million."""
    ordered = values.sort().values
    at = round(q * (len(values) - 1), 9)  # a whole rank stays whole: 0.95 of 20 is the 19th, not a hair above it
    low = min(int(at), len(values) - 1)
    return torch.lerp(ordered[low], ordered[min(low + 1, len(values) - 1)], at - low)


def simifeat_r(
    x: Tensor,
    y: Tensor,
    found: Fit,
    k: int = 10,
    jitter: Tensor | None = None,
    offset: float = 1.0,
) -> Tensor:
    """Which labels are wrong, bool [N], by one round of SimiFeat-R on features ``x`` [N, D] and labels ``y`` [N].

    ``found``: T and p by ``fit`` to the ``consensus`` of the same features and labels. ``jitter`` [K]: added to P(clean c | given c); the
    code draws it anew from U(-0.05, 0.05) each round, which moves what is found by 5 % of a class. None: none.
    """
    return ranked(similarity_votes(nearest(x, k, "cosine"), y, len(found.prior)), y, found, jitter, offset)


def ranked(votes: Tensor, y: Tensor, found: Fit, jitter: Tensor | None = None, offset: float = 1.0) -> Tensor:
    """``simifeat_r`` from the ``similarity_votes`` [N, K] of the features."""
    right = clean_given_noisy(found.transition, found.prior, y).diagonal()
    return ranked_wrong(scores(votes, y), y, wrong_shares(right if jitter is None else right + jitter, offset))


def verdict(clean: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """(clean, wrong), bool [N] each, from ``clean`` [E, N] in {0, 1} of E rounds and ``seen`` [E, N], which of them count.

    The majority; an even split, and a sample never seen, is neither (21 rounds: no even split).
    """
    rounds = seen.sum(0)
    votes = (clean * seen).sum(0)
    return 2 * votes > rounds, 2 * votes < rounds
