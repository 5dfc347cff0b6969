"""The file of a training that was left: written in one step, and read with every part of it checked before anything is changed.

Nothing in it is unpickled but tensors and plain values. Where checkpoints lie and how they travel: ``record/checkpoints.py``.
"""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raystudy.errors import InputError

FORMAT = "raystudy-checkpoint-1"


PARTS = {"format", "key", "records", "method", "optimizers"}


def write(state: dict[str, Any], path: Path) -> None:
    """Writes a training's state: a new file takes the old one's place in one step, and the old one is kept as ``.prev``."""
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    torch.save({"format": FORMAT, **state}, new)
    if path.exists():
        os.replace(path, previous(path))
    os.replace(new, path)


def read(
    path: Path,
    foreign: Callable[[dict[str, Any]], str],
    method: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    device: torch.device,
) -> dict[str, Any]:
    """The state of a training, such that it can be loaded into ``method`` and ``optimizers``. ``foreign`` says of a state why this
    training cannot begin from it, or "".

    Raises InputError, one line, for a file that is broken or is not this training's. Changes nothing.
    """
    try:
        with zipfile.ZipFile(path) as z:  # torch checks no sums: a flipped bit would pass for a weight
            if damaged := z.testzip():
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except Exception as e:  # torch reports a foreign or torn file in many ways, and all mean the same to the user
        raise InputError(
            f"checkpoint {path} is truncated, damaged or not a checkpoint of raystudy ({type(e).__name__})"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= PARTS:
        raise InputError(f"checkpoint {path} is not a checkpoint of raystudy (format {FORMAT})")
    if why := foreign(state):
        raise InputError(f"checkpoint {path} {why}")
    if not fits(state, method, optimizers):
        raise InputError(f"checkpoint {path} does not fit this trial: a part of it was changed")
    return state


def fits(state: dict[str, Any], method: nn.Module, optimizers: list[torch.optim.Optimizer]) -> bool:
    """Whether all parts of a checkpoint are such as ``Run.save`` writes for this trial."""
    records, told = state["records"], state["optimizers"]
    if not isinstance(records, list) or not isinstance(told, list) or len(told) != len(optimizers):
        return False
    for record in records:
        if not isinstance(record, dict) or "train/loss" not in record:
            return False
        if not all(isinstance(k, str) and isinstance(v, float | None) for k, v in record.items()):
            return False
    if not alike(state["method"], dict(method.state_dict())):
        return False
    return all(isinstance(t, dict) and optimizer_fits(t, o) for t, o in zip(told, optimizers, strict=True))


def alike(a: object, b: object) -> bool:
    """Whether two nested structures have the same keys, lengths and types, and tensors of one shape and type."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b)


def optimizer_fits(told: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer's stored state has its groups, and for each parameter nothing but numbers and tensors of its shape."""
    if told.keys() != {"state", "param_groups"} or not isinstance(told["state"], dict):
        return False
    groups = [{**g, "lr": 0.0} for g in told["param_groups"]] if _dicts(told["param_groups"]) else []
    if not alike(groups, [{**g, "lr": 0.0} for g in optimizer.state_dict()["param_groups"]]):
        return False
    shapes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    names = {"step", "exp_avg", "exp_avg_sq"} if isinstance(optimizer, torch.optim.Adam) else {"momentum_buffer"}
    for i, kept in told["state"].items():
        if (
            type(i) is not int
            or not 0 <= i < len(shapes)
            or not isinstance(kept, dict)
            or (kept and kept.keys() != names)
        ):
            return False
        for name, value in kept.items():
            shape = torch.Size([]) if name == "step" else shapes[i]
            if not (isinstance(value, Tensor) and value.shape == shape) and not (value is None and len(names) == 1):
                return False
    return True


def _dicts(told: object) -> bool:
    return isinstance(told, list) and all(isinstance(g, dict) for g in told)


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest one lies."""
    return path.with_name(path.name + ".prev")
