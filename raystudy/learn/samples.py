"""What a training holds of every single image it was given a label of: what its replicates leave beside their figures.

Two kinds, and they are never mixed. Of its training images a training knows the label it learned from: how much weight its method gave
that label, and what the final model makes of it, are *in-sample*. Of its validation images, the same ones for all trials of a cell, it saw
no label: what the final model makes of them is *out of sample*, and honest. No truth is among it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

WHOLE = (np.int16, np.int32)  # of labels, of positions


def kept(
    places: Tensor,
    given: tuple[Tensor, Tensor],
    p_train: Tensor,
    p_val: Tensor,
    weight: Tensor | None,
) -> dict[str, Any]:
    """Arrays by name, in half precision, from positions in the data set [n + m], given labels (of training and validation images), the
    final model's probabilities [n, K] and [m, K], and the last weights [n] (NaN where not weighed; None from a method without).

    ``train_index``, ``train_given``; ``train_weight`` where the method weighs; ``train_confidence``, the model's probability of the given
    label, and ``train_predicted``, its class, both in-sample; ``val_index``, ``val_given`` and ``val_probs`` [m, K], out of sample.
    """
    n = len(given[0])
    told = {
        "train_index": _whole(places[:n], 1),
        "train_given": _whole(given[0], 0),
        "train_confidence": _half(p_train.gather(1, given[0][:, None])[:, 0]),
        "train_predicted": _whole(p_train.argmax(1), 0),
        "val_index": _whole(places[n:], 1),
        "val_given": _whole(given[1], 0),
        "val_probs": _half(p_val),
    }
    return told if weight is None else told | {"train_weight": _half(weight)}


def size(n: int, m: int, n_classes: int) -> int:
    """Bytes of ``kept`` for n training and m validation images, before compression."""
    label, place, half = (np.dtype(t).itemsize for t in (*WHOLE, np.float16))
    return n * (place + 2 * label + 2 * half) + m * (place + label + n_classes * half)


def _whole(x: Tensor, kind: int) -> Any:
    return x.cpu().numpy().astype(WHOLE[kind])


def _half(x: Tensor) -> Any:
    return x.to(torch.float16).cpu().numpy()
