"""Features of networks: what stands before the last linear layer, that layer, and further heads beside it.

Methods that need features build their networks through ``with_heads``. Any network will do whose output is that of its last linear
layer, ours, torchvision's and timm's; one of a user may offer ``features(x)`` [B, D], a method, and ``head``, a module, itself. The
network as others see it, and the names in its checkpoints, stay as they are: what is taken apart is a method's own copy.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from raystudy.errors import InputError
from raystudy.learn.method import Batch, Task
from raystudy.learn.norm import BatchNorm

Maker = Callable[[int], nn.Module]  # width of the features -> a head


class Featured(nn.Module):
    """A network whose logits are ``head(features(x))``; the ``heads`` further ones, by name, are modules of it, too."""

    trunk: nn.Module
    head: nn.Module

    def __init__(self, net: Any, n_classes: int, **heads: Maker) -> None:
        super().__init__()
        self.own = inspect.ismethod(getattr(net, "features", None)) and isinstance(
            getattr(net, "head", None), nn.Module
        )
        self.trunk, self.head = (net, net.head) if self.own else _apart(net, n_classes)
        weights = [weight for _, _, weight in _linear(self.head)]
        if not weights:
            raise InputError(f"the head of a {type(net).__name__} has no linear layer to tell the width of features by")
        self.width: int = weights[0].shape[1]
        for name, make in heads.items():
            self.add_module(name, make(self.width).to(weights[0].device))

    def features(self, x: Tensor) -> Tensor:
        """What the head is given, [B, width]. Raises InputError, one line, where that is not all that follows."""
        trunk: Any = self.trunk
        f: Tensor = trunk.features(x) if self.own else trunk(x)
        if f.dim() != 2 or f.shape[1] != self.width:
            raise InputError(
                f"features of {type(self.trunk).__name__} have shape {list(f.shape[1:])}, its last linear layer takes {self.width}: "
                "its output is not that layer's; give the network features(x) and head, or choose another"
            )
        return f

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits

    @property
    def learns(self) -> bool:
        """Whether features can be trained: not in front of a linear classifier of fixed vectors."""
        mine = {id(p) for p in self.head.parameters()}
        return any(id(p) not in mine for p in self.trunk.parameters())


def _linear(net: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
    """All layers with a matrix for a weight, with their names in ``net``: linear ones, and those of cosines."""
    layers = [(path, m, getattr(m, "weight", None)) for path, m in net.named_modules()]
    return [(path, m, weight) for path, m, weight in layers if isinstance(weight, Tensor) and weight.dim() == 2]


def _apart(net: nn.Module, n_classes: int) -> tuple[nn.Module, nn.Module]:
    """(``net`` without its last linear layer, that layer)."""
    layers = _linear(net)
    if not layers or len(layers[-1][2]) != n_classes:
        raise InputError(
            f"{type(net).__name__} has no last linear layer to take features in front of; "
            "choose another network, or give it features(x) and head"
        )
    path, head, _ = layers[-1]
    if not path:
        return nn.Flatten(), net
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, nn.Identity())
    return net, head


def with_heads(task: Task, **heads: Maker) -> Task:
    """``task`` with networks that give features, and have ``heads`` beside their own."""
    return replace(task, net=lambda **options: Featured(task.net(**options), task.n_classes, **heads))


def projector(width: int, hidden: int, out: int) -> nn.Module:
    """A head of two layers with batch norm and ReLU between them."""
    return nn.Sequential(nn.Linear(width, hidden), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, out))


def apart(optimizer: torch.optim.Optimizer, head: nn.Module) -> None:
    """Gives ``head`` a group of its own in ``optimizer``, for one whose training begins later than the network's.

    Fused SGD wants a momentum of all parameters of a group or of none.
    """
    late = {id(p) for p in head.parameters()}
    group = optimizer.param_groups[0]
    params, group["params"] = group["params"], [p for p in group["params"] if id(p) not in late]
    optimizer.add_param_group({**group, "params": [p for p in params if id(p) in late]})


@torch.no_grad()
def bank(net: Featured, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
    """Features [n, D] and logits [n, K] of all images of ``batches``, in their order, float32; the mode of ``net`` is the caller's."""
    parts = []
    for batch in batches:
        f = net.features(batch.x)
        parts.append((f.float(), net.head(f).float()))
    return torch.cat([f for f, _ in parts]), torch.cat([z for _, z in parts])
