"""One mini-batch, and the views of an image in it: what the loaders make and methods are given."""

from typing import Literal, NamedTuple

from torch import Tensor

View = bool | Literal["strong"]  # how an image is augmented: not at all, by the data set's crop and flip, or strongly


class Batch(NamedTuple):
    """One mini-batch on the device."""

    index: Tensor  # type: ignore[assignment]  # [B] int64, positions in the training set (shadows tuple.index)
    x: Tensor  # [B, C, H, W] float32, augmented and normalised
    y: Tensor  # [B] int64, the given (noisy) labels
    x2: Tensor | None = None  # a second, independently drawn view of the same images, where asked for
