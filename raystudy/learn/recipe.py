"""A recipe: optimizer, learning rate and its schedule, weight decay, batch size. What is shared by all methods of a study."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from raystudy.errors import InputError, unknown

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("cosine", "step", "linear", "constant")
CHANGED = {
    "linear": 2
}  # part of the trial key: schedules whose rates are no longer what they were, and how often they changed


@dataclass(frozen=True)
class Recipe:
    """How networks are trained. Milestones and starts are fractions of the budget, as all durations are.

    ``step`` multiplies the rate by ``gamma`` at each milestone; ``linear`` keeps it until the first milestone
    and then lets it fall to zero at the end (Co-teaching's schedule, which counts epochs from 1 and never trains
    the last, whose rate is 0: here it repeats the last but one); ``cosine`` falls from the first epoch on.
    """

    optimizer: str = "sgd"
    lr: float = 0.02
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    milestones: tuple[float, ...] = (0.5,)
    gamma: float = 0.1
    batch_size: int = 64

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule not in SCHEDULES:
            raise unknown("schedule", self.schedule, SCHEDULES)
        if not self.lr > 0 or not self.weight_decay >= 0 or not 0 <= self.momentum < 1:
            raise InputError(
                f"recipe: lr={self.lr:g} must be above 0, weight_decay={self.weight_decay:g} at least 0, "
                f"momentum={self.momentum:g} in [0, 1)"
            )
        if self.nesterov and self.momentum == 0:
            raise InputError("recipe: nesterov needs a momentum above 0")
        if not self.gamma > 0:
            raise InputError(f"recipe: gamma={self.gamma:g} must be above 0")
        if not all(isinstance(m, int | float) and 0 <= m < 1 for m in self.milestones):
            raise InputError(f"recipe: milestones={list(self.milestones)} must be fractions of the budget in [0, 1)")
        if self.schedule == "linear" and not self.milestones:
            raise InputError("recipe: schedule 'linear' needs a milestone, the fraction from which the rate falls")
        if self.batch_size < 2:
            raise InputError(f"recipe: batch_size={self.batch_size} must be at least 2 (batch norm needs two images)")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "milestones": list(self.milestones)}

    @property
    def open_ended(self) -> bool:
        """Whether the rates of the first epochs are the same for any number of epochs."""
        return self.schedule == "constant" or (self.schedule == "step" and not self.milestones)

    def optimizer_for(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of one network. Fused: one kernel an update also on the CPU, where small nets are bound by call overhead."""
        if self.optimizer == "adam":
            return torch.optim.Adam(net.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        return torch.optim.SGD(
            net.parameters(),
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
            fused=True,
        )

    def rate(self, epoch: int, epochs: int) -> float:
        """Learning rate of an epoch counted from 0, of ``epochs`` in all."""
        done = epoch / epochs
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(done >= m for m in self.milestones)
        if self.schedule == "linear":
            left = max(epochs - (epoch + 1), 1) / epochs
            return self.lr * min(1.0, left / (1 - self.milestones[0]))
        return self.lr
