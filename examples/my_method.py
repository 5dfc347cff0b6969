"""Small-loss training: each step learns from the images of small loss alone, the rest are taken to be mislabelled.

Deviation from nothing published: this is the shortest method that does something, for docs/your-own.md.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F

from raystudy import Batch, Method, Task


class SmallLoss(Method):
    """``keep``: the share of each batch that is learnt from once the warm-up, ``warmup`` of the epochs, is over."""

    SPACE: ClassVar = {"space": {"keep": {"low": 0.3, "high": 0.9}}}

    def __init__(self, task: Task, *, keep: float = 0.6, warmup: float = 0.2) -> None:
        super().__init__(task)
        self.keep, self.warmup = keep, warmup

    def settled(self) -> float:
        return self.warmup

    def step(self, batch: Batch, t: int) -> dict[str, torch.Tensor]:
        losses = F.cross_entropy(self.nets[0](batch.x), batch.y, reduction="none")
        kept = torch.ones_like(losses)
        if t >= self.warmup * self.task.epochs:
            most = max(1, round(self.keep * len(losses)))
            kept = (losses <= losses.detach().kthvalue(most).values).float()
        loss = (kept * losses).sum() / kept.sum()
        self.descend(0, loss)
        return {"loss": loss.detach(), "weight": kept.detach()}
