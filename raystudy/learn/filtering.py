"""A filter before any method: what of a cell's training labels it leaves, measured against the truth that it did not see.

How a filter is written (``NAME[:OPTION=VALUE,...]``), which features it looks at and how its verdict becomes a cell's data belong here;
the filters themselves are in ``filters``. It looks at the training split alone: validation, test and the noise are what they were.
"""

import inspect
import shlex
import types
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from raystudy.data import datasets
from raystudy.data.dataset import Images, plain
from raystudy.data.files import Files
from raystudy.data.noise import Noise
from raystudy.errors import InputError, unknown
from raystudy.learn import celldata, metrics
from raystudy.learn.celldata import CellData, in_memory
from raystudy.learn.filters import FILTERS, Filtered

NONE = ("", "none")
SIDE = 32  # pixels of an image that are looked at, a side
TOLD = {int: "a whole number", float: "a number", bool: "yes or no"}
# (least, most) of each number; metric, detector and mode are words
RANGES = {
    "k": (0, 10**6),
    "rounds": (1, 999),
    "steps": (1, 10**5),
    "offset": (0.0, 10.0),
    "threshold": (0.0, 1.0),
}
WEIGHTS = "mode weight of knn_relabel keeps all labels and weighs them, and methods take no weights; choose from: filter, relabel"

Features = NDArray[np.float64]  # [N, D]


def options(name: str) -> Mapping[str, inspect.Parameter]:
    """What may be said of a filter, with annotation and default. Raises InputError for a name that is none."""
    if name not in FILTERS:
        raise unknown("filter", name, (*FILTERS, "none"))
    known = inspect.signature(FILTERS[name]).parameters
    return types.MappingProxyType({k: p for k, p in known.items() if k not in ("features", "y", "n_classes", "seed")})


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """A filter's name and the options that differ from its defaults, in the order of its signature; ("", {}) for none.

    Raises InputError, one line, for a name, an option or a value that cannot be.
    """
    if text in NONE:
        return "", {}
    name, sign, rest = text.partition(":")
    known, told = options(name), {}
    for part in rest.split(",") if sign else ():
        key, equals, word = part.partition("=")
        if key not in known:
            raise unknown(f"option of filter {name}", key, known)
        if not equals or key in told:
            raise InputError(
                f"filter {text!r}: {key} is given {'twice' if equals else 'no value'}; it is {name}:{key}=VALUE"
            )
        told[key] = _value(name, key, known[key], word)
    if told.get("mode") == "weight":
        raise InputError(WEIGHTS)
    return name, {k: told[k] for k, p in known.items() if k in told and told[k] != p.default}


def _value(name: str, key: str, of: inspect.Parameter, word: str) -> Any:
    if get_origin(of.annotation) is Literal:
        if word not in get_args(of.annotation):
            raise unknown(f"{key} of filter {name}", word, get_args(of.annotation))
        return word
    kind = type(of.default)
    try:
        value: Any = {"yes": True, "no": False}[word] if kind is bool else kind(word)
    except (KeyError, ValueError):
        raise InputError(f"{key} of filter {name} is {word!r}; it must be {TOLD[kind]}") from None
    low, high = RANGES.get(key, (False, True))
    low = 2 if (name, key) == ("simifeat", "k") else low  # a sample is the first of its own neighbours
    if not low <= value <= high:
        raise InputError(f"{key} of filter {name} is {word}; it must be from {low:g} to {high:g}")
    return value


def canonical(text: str) -> str:
    """A filter as a study keeps it: the same for all that mean the same; empty for none. Raises InputError as ``parse``."""
    name, told = parse(text)
    words = {
        k: ("no", "yes")[v] if isinstance(v, bool) else f"{v:g}" if isinstance(v, float) else v for k, v in told.items()
    }
    return name + ":" * bool(words) + ",".join(f"{k}={v}" for k, v in words.items())


def suits(text: str, dataset: str, shape: tuple[int, ...]) -> None:
    """InputError where the features of a data set, of networks' ``shape``, say too little: pixels of colour photographs do not tell
    which images show the same."""
    if len(shape) == 3 and shape[0] == 3 and shape[1] >= 16:
        name = dataset.partition("?")[0]
        here = Path(name.partition(":")[2] or name)
        out = f"{here.stem}-vectors.npz" if here.suffix == ".npz" else f"{here.name}.npz"
        command = ["raystudy", "embed", dataset, "--backbone", "torchvision:resnet18", "--out", out]
        raise InputError(
            f"filter {parse(text)[0]} asks which samples are near each other, which pixels of colour images do not tell: make vectors of "
            f"them ({shlex.join(command)}) and take those (npz:FILE)"
        )


def features(x: Images) -> Features:
    """What distances are taken of, [N, D]: vectors with each feature standardised, images as pixels, centred, of one common scale.

    Images larger than ``SIDE`` pixels are averaged down to it.
    """
    if isinstance(x, Files):
        x = torch.cat([_small(in_memory(x[rows])) for rows in torch.arange(len(x)).split(1024)])
    x = _small(x)
    flat = x.flatten(1).cpu().numpy()
    centred = flat - flat.mean(0)
    spread = centred.std(0) if x.dim() == 2 else np.full(flat.shape[1], centred.std())
    out: Features = centred / np.where(spread > 1e-9, spread, 1)
    return out


def _small(x: Tensor) -> Tensor:
    x = x.double()
    return adaptive_avg_pool2d(x, SIDE) if x.dim() == 4 and x.shape[2] > SIDE else x


def views(x: Images) -> list[Tensor]:
    """Features [N, D] of each view of vectors [N, V, d], which rounds take one after another; of anything else of what there is."""
    parts = [x[:, v] for v in range(x.shape[1])] if isinstance(x, Tensor) and x.dim() == 3 else [plain(x)]
    return [torch.from_numpy(features(part)).float() for part in parts]


def verdict(text: str, looked_at: Sequence[Tensor], y: Tensor, n_classes: int, seed: int) -> Filtered:
    """What a filter makes of labels ``y`` [n] by features ([n, D] each). Random parts, where it has them, follow from ``seed``."""
    name, told = parse(text)
    seeded = {"seed": seed} if "seed" in inspect.signature(FILTERS[name]).parameters else {}
    return FILTERS[name](looked_at, y, n_classes, **told, **seeded)


def applied(data: CellData, text: str, seed: int) -> CellData:
    """A cell's data with the training samples and labels that a filter leaves, and what it did. Raises InputError."""
    suits(text, data.name, data.shape)
    told = verdict(text, [x.to(data.y.device) for x in views(data.x)], data.y, data.n_classes, seed)
    measured = metrics.filtering(told.weight, told.keep, data.y, told.y, data.truth)
    keep = told.keep.nonzero().squeeze(1)
    here, n = keep.cpu(), len(data.y)
    y, clean = told.y[keep], data.truth.clean[keep]
    return replace(
        data,
        x=data.x[keep if isinstance(data.x, Tensor) else here],
        y=y,
        places=torch.cat([data.places[:n][here], data.places[n:]]),
        truth=replace(data.truth, clean=clean, wrong=y != clean) if data.truth.known else _unknown(data, y, keep),
        filter=text,
        filtered=metrics.scalars(dict(measured)),
    )


def _unknown(data: CellData, y: Tensor, keep: Tensor) -> metrics.Truth:
    """Of labels nobody knows the truth of: it repeats them (``Truth.known``)."""
    return replace(data.truth, clean=y, wrong=torch.zeros_like(data.truth.wrong[keep]))


def prepare(
    dataset: str, root: Path, setting: Noise, val_fraction: float, device: str = "cpu", filter: str = ""
) -> CellData:
    """``celldata.prepare``, and its training split filtered, with the noise seed: all methods of a cell see the same. Cached, too."""
    if not filter:
        return celldata.prepare(dataset, root, setting, val_fraction, device)
    return _prepared(dataset, root, setting, val_fraction, device, filter, datasets.stamp(dataset, root, setting))


@lru_cache(maxsize=2)
def _prepared(
    dataset: str, root: Path, setting: Noise, val_fraction: float, device: str, filter: str, stamp: datasets.Stamp
) -> CellData:
    return applied(celldata.prepare(dataset, root, setting, val_fraction, device), filter, setting.seed)
