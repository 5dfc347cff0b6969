"""Batches of images that do not fit in memory: decoded by worker threads while the network trains, and otherwise those of ``OnDevice``.

Order and augmentation are drawn as ``OnDevice`` draws them, before anything is decoded; threads only decide when an image is
ready, never which is next or how it is cropped. So the same images give the same batches, bit for bit, on either loader.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from raystudy.data.files import Files, decoders
from raystudy.data.loader import OnDevice


class Streaming(OnDevice):
    """``OnDevice`` over ``Files`` [n, C, S, S] in place of a tensor."""

    files: Files

    def _hold(self, x: Any) -> None:
        assert isinstance(x, Files)
        self.files = x
        self._pool = decoders()

    def _sources(self, members: Tensor, chunk: int) -> Iterator[tuple[Tensor, Tensor]]:
        for x in self.files.chunks(members.tolist(), chunk, self._pool):
            windows = self._windows_of(self._sent(x))
            yield windows, torch.arange(len(x), device=self.device) * self._image

    def chunks(self, x: Any, size: int) -> Iterator[Tensor]:
        if isinstance(x, Tensor):
            return super().chunks(x, size)
        decoded = x.chunks(range(len(x)), size, self._pool)
        return (self.normalised(self._sent(chunk).to(self.device, non_blocking=True)) for chunk in decoded)

    def _sent(self, x: Tensor) -> Tensor:
        """Pinned, where that lets the copy to the device go on beside the training."""
        return x.pin_memory() if self.device.type == "cuda" else x
