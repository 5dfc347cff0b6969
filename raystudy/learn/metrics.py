"""Truth, and every measure that needs it. Nothing on the methods' side of the wall may import this."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Truth:
    """What a real user does not have: the clean labels of the training images, and so which given labels are wrong."""

    clean: Tensor  # [n] int64; -1 for an image that shows none of the classes: no label of it is right
    wrong: Tensor  # [n] bool: given != clean
    val_clean: Tensor  # [m] int64, clean labels of the validation images
    known: bool = (
        True  # False: nobody knows; ``clean`` then repeats the given labels, and nothing is measured against it
    )


def auroc(score: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve of ``score`` [n] for ``positive`` [n] bool: P(positive scores higher), ties count half.

    0-d float64; NaN where one of the two classes is empty. By ranks (Mann-Whitney U).
    """
    _, inverse, counts = score.double().unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    rank = (last - (counts - 1) / 2)[inverse]  # mean rank of tied scores, from 1
    p = positive.sum().double()
    q = positive.numel() - p
    return (rank[positive].sum() - p * (p + 1) / 2) / (p * q)


def selection(weight: Tensor, wrong: Tensor) -> dict[str, Tensor]:
    """How well per-sample weights [n] in [0, 1] (NaN: not weighed) tell clean from wrong labels.

    ``auroc`` of the weight for clean; ``precision``: share of clean labels among those with weight > 1/2; ``recall``: share of the
    clean labels that have weight > 1/2.
    """
    seen = ~weight.isnan()
    w, clean = weight[seen], ~wrong[seen]
    picked = w > 0.5
    hits = (picked & clean).sum()
    return {
        "select/auroc": auroc(w, clean),
        "select/precision": hits / picked.sum(),
        "select/recall": hits / clean.sum(),
    }


def filtering(weight: Tensor, keep: Tensor, given: Tensor, now: Tensor, truth: Truth) -> dict[str, Tensor]:
    """What a filter did to labels ``given`` [n]: ``keep`` [n] bool, labels ``now`` [n], ``weight`` [n] how clean it held each to be.

    How many samples were ``removed`` and ``relabelled``; where the truth is known ``precision``, the share of wrong labels among those
    it touched, ``recall``, the share of the wrong labels that it touched, ``auroc`` of the weight for clean, and ``wrong``, the share of
    wrong labels among what it leaves.
    """
    moved = keep & (now != given)
    out = {"filter/removed": (~keep).sum(), "filter/relabelled": moved.sum()}
    if not truth.known:
        return out
    touched = moved | ~keep
    hits = (touched & truth.wrong).sum()
    return out | {
        "filter/precision": hits / touched.sum(),
        "filter/recall": hits / truth.wrong.sum(),
        "filter/auroc": auroc(weight, ~truth.wrong),
        "filter/wrong": (now != truth.clean)[keep].double().mean(),
    }


def labels(predicted: Tensor, given: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """What became of wrong labels [w]: share ``memorised`` (predicted as given) and ``corrected`` (predicted as the truth)."""
    return {
        "label/memorised": (predicted == given).float().mean(),
        "label/corrected": (predicted == clean).float().mean(),
    }


def balanced(predicted: Tensor, y: Tensor, n_classes: int) -> Tensor:
    """Mean over the classes in ``y`` [k] of the share of their images that are predicted as them: each class counts alike."""
    of = torch.bincount(y, minlength=n_classes)
    right = torch.bincount(y[predicted == y], minlength=n_classes)
    return (right[of > 0].double() / of[of > 0]).mean()


def scalars(values: dict[str, Tensor | float]) -> dict[str, float | None]:
    """Plain numbers of six significant digits, None where not finite; one transfer from the device for all of them."""
    tensors = {k: v for k, v in values.items() if isinstance(v, Tensor)}
    device = next(iter(tensors.values())).device if tensors else None
    stacked = torch.stack([v.detach().to(device, torch.float64) for v in tensors.values()]).tolist() if tensors else []
    plain = values | dict(zip(tensors, stacked, strict=True))
    return {k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in plain.items()}
