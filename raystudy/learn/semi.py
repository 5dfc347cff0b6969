"""What semi-supervised methods share: passes over several views of the same images, selection by class, losses on features.

No state and no networks; what needs the parts of a network is in ``features``. MixMatch's own maths is in ``methods.dividemix``.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from raystudy.learn.method import Batch, Train
from raystudy.learn.ops import permutation


def passes(
    train: Train, subset: Tensor, strong: bool, batch_size: int | None = None
) -> Iterator[tuple[Batch, Batch | None]]:
    """One pass over ``subset`` in two weak views, beside them two strong ones of the same images where asked for."""
    if not strong:
        yield from ((batch, None) for batch in train.batches(subset, views=2, batch_size=batch_size))
        return
    order = subset[permutation(len(subset), subset.device)]
    weak = train.batches(order, views=2, shuffle=False, batch_size=batch_size)
    yield from zip(
        weak, train.batches(order, views=2, augment="strong", shuffle=False, batch_size=batch_size), strict=True
    )


def cycle(
    train: Train, subset: Tensor, strong: bool, batch_size: int | None = None
) -> Iterator[tuple[Batch, Batch | None]]:
    """Passes over ``subset`` without end, in a new order each round."""
    while True:
        yield from passes(train, subset, strong, batch_size)


def views(batch: Batch | None) -> list[Tensor]:
    """Both views of a batch of two, none of none."""
    if batch is None:
        return []
    assert batch.x2 is not None
    return [batch.x, batch.x2]


def smallest_of_each_class(scores: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """Bool [n]: of the samples of label c in ``y`` [n] the ``counts`` [K] [c] with the smallest ``scores`` [n], all where there are fewer.

    Of equal scores the first.
    """
    order = scores.argsort(stable=True)
    order = order[y[order].argsort(stable=True)]  # class by class, ascending inside
    sizes = torch.bincount(y, minlength=len(counts))
    first = sizes.cumsum(0) - sizes
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(y), device=y.device) - first[y[order]]
    return rank < counts.to(y.device)[y]


def js_divergence(p: Tensor, q: Tensor, eps: float = 1e-10) -> Tensor:
    """Jensen-Shannon divergence of the rows of ``p`` and ``q`` [n, K] in nats, [n], in [0, ln 2]; ``eps`` inside the logarithms."""
    middle = (p + q) / 2

    def kl(a: Tensor) -> Tensor:
        return (a * ((a + eps) / (middle + eps)).log()).sum(1)

    return (kl(p) + kl(q)) / 2


def contrastive(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views [B, D] of the same images, scalar: each of the 2B is told from the others by its partner (SimCLR).

    -1/(2B) sum_i log(exp(h_i h_partner / T) / sum_{j != i} exp(h_i h_j / T)), h of length 1.
    """
    h = F.normalize(torch.cat([a, b]), dim=1)
    logits = (h @ h.t() / temperature).masked_fill(torch.eye(len(h), dtype=torch.bool, device=h.device), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(h), device=h.device).roll(len(a)))


def feature_consistency(prediction: Tensor, target: Tensor) -> Tensor:
    """Minus the mean cosine of the rows of ``prediction`` and ``target`` [B, D]; the target has no gradient (SimSiam, one direction)."""
    return -F.cosine_similarity(prediction, target.detach(), dim=1).mean()
