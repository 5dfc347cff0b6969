"""A kept model: the weights of a finished training and a card of it, written, read, rebuilt, and asked for probabilities.

Two files of one name: ``NAME.safetensors`` has the whole state of the method, so that whatever its ``probs`` looks at is there;
``NAME.json``, the card, has all that the method is rebuilt from and what a person wants to know. The card is written last and has the
digest of the weights: a model is whole or it is refused. Nothing is unpickled. Where models lie in a study is in ``record/models.py``.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raystudy import own
from raystudy.data import columns
from raystudy.data.dataset import plain
from raystudy.data.files import Files, decoders
from raystudy.data.loader import scaling
from raystudy.data.vectors import standardising
from raystudy.errors import InputError, shown
from raystudy.learn import checkpoint, networks, point
from raystudy.learn.method import Method, Task
from raystudy.learn.point import method_class, split
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, at_once

FORMAT = "raystudy-model-1"
WEIGHTS, CARD = ".safetensors", ".json"
MOST = 10**9  # of a count in a card


@dataclass(frozen=True)
class Card:
    """What is told of a model beside its weights."""

    key: str  # of the trial
    spec: TrialSpec  # method, point, network, data and noise by their digests, recipe, epochs, seed: what the training was
    images: int  # that it was trained on
    kind: str  # of its inputs: images or vectors
    shape: tuple[int, ...]  # of one of them: channels, height, width; or features
    mean: tuple[float, ...]  # by which inputs are normalised: per channel, pixels in [0, 1]; or per feature
    std: tuple[float, ...]
    classes: tuple[str, ...]  # in the order of the probabilities
    licence: str  # of the data it was trained on
    metrics: dict[str, Any]  # by rule; ``last`` is the epoch of these weights
    trial: dict[str, Any]  # whose it is: study, cell, number, origin
    versions: dict[str, str]
    sha256: str = ""  # of the file of weights
    size: int = 0  # its bytes
    columns: dict[str, Any] | None = None  # of a table: what its columns became, see ``data.columns``

    def to_dict(self) -> dict[str, Any]:
        """As it is written: what a person looks for comes first, a digest of all of it last."""
        spec, plain_ = asdict(self.spec), asdict(self)
        if not spec["evaluate"]:
            del spec["evaluate"]
        if not self.spec.filter:
            del spec["filter"]
        head = {"format": FORMAT, "key": self.key}
        head |= {name: spec.pop(name) for name in ("method", "version", "point", "network", "dataset", "noise")}
        given: dict[str, Any] = {
            "kind": self.kind,
            "shape": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
        }
        given |= {"columns": self.columns} if self.columns else {}
        told = head | {"input": given, "classes": list(self.classes), "images": self.images}
        told |= {name: plain_[name] for name in ("metrics", "trial", "licence", "versions")}
        told |= {"training": spec, "weights": {"sha256": self.sha256, "bytes": self.size}}
        return told | {"digest": _digest(told)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], code: Sequence[str] = ()) -> "Card":
        """Raises KeyError, TypeError or ValueError for what is no card, InputError for names that this raystudy does not know."""
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {told['format']!r}, not {FORMAT}")
        if told["digest"] != _digest({k: v for k, v in told.items() if k != "digest"}):
            raise ValueError("it was changed since it was written: its digest is another")
        own_fields = {f.name: told[f.name] for f in fields(TrialSpec) if f.name in told}
        given, weights = told["input"], told["weights"]
        card = cls(
            key=told["key"],
            spec=TrialSpec(**(told["training"] | own_fields)),
            images=told["images"],
            kind=given["kind"],
            shape=tuple(given["shape"]),
            mean=tuple(map(float, given["mean"])),
            std=tuple(map(float, given["std"])),
            classes=tuple(told["classes"]),
            licence=told["licence"],
            metrics=told["metrics"],
            trial=told["trial"],
            versions=told["versions"],
            sha256=weights["sha256"],
            size=weights["bytes"],
            columns=given.get("columns"),
        )
        card._check(code)
        return card

    def _check(self, code: Sequence[str]) -> None:
        """Raises ValueError, TypeError or InputError for what cannot be: nothing that is built from a card has to doubt it."""
        if self.kind not in KINDS:
            raise ValueError(f"its inputs are {self.kind!r}; this raystudy knows {', '.join(KINDS)}")
        if self.columns is not None and columns.width(self.columns) != math.prod(self.shape):
            raise ValueError("its columns are of other inputs")
        if len(self.shape) != KINDS[self.kind]:
            raise ValueError(f"its inputs have the shape {list(self.shape)}")
        counts = (self.images, self.size, self.spec.epochs, *self.shape)
        if not all(type(n) is int and 0 < n < MOST for n in counts):
            raise ValueError("a count in it is no whole number from 1")
        if len(self.classes) < 2 or not all(isinstance(name, str) for name in self.classes):
            raise ValueError("its classes are not two texts or more")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError("its mean and deviation are of other inputs")
        for told, kind in ((self.licence, str), (self.metrics, dict), (self.trial, dict), (self.versions, dict)):
            if not isinstance(told, kind):
                raise TypeError(f"{told!r} is not of its kind")
        if not all(isinstance(v, str) for v in (self.key, self.spec.method, self.spec.network, self.spec.dataset)):
            raise TypeError("a name in it is no text")
        for name in (self.spec.method, self.spec.network):
            _trusted(name, code)
        if self.spec.code != point.code(self.spec.method, self.spec.network):
            raise InputError("it was trained by other code than what is named here of a user's own")
        point.checked(self.spec.method, self.spec.point, "the card")


def _digest(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _trusted(name: str, code: Sequence[str]) -> None:
    """Raises InputError for a name of code that nobody here has named: a card may be a stranger's, and must not run what it likes."""
    if own.written(name) and not own.named(name) and name.partition(":")[0] not in code:
        raise InputError(
            f"it is made by code of a user's own, {name}, which is run only where you name it: --code {name.partition(':')[0]}"
        )


def _named(code: Sequence[str]) -> None:
    """Reads the files among the code that a person names; modules are imported where they are used."""
    for name in code:
        if name.endswith(".py"):
            own.located(f"{name}:_")


KINDS = {"images": 3, "vectors": 1}  # of inputs -> how many numbers their shape has


# --- writing ------------------------------------------------------------------------------------------------------


def card(
    run: Run, licence: str, metrics: Mapping[str, Any], trial: Mapping[str, Any], versions: Mapping[str, str]
) -> Card:
    """The card of a training that has ended."""
    data = run.data
    return Card(
        key=run.spec.key,
        spec=run.spec,
        images=len(data.y),
        kind="vectors" if len(data.shape) == 1 else "images",
        shape=tuple(data.shape),
        columns=None if data.columns is None else dict(data.columns),
        mean=tuple(data.mean),
        std=tuple(data.std),
        classes=data.classes,
        licence=licence,
        metrics=dict(metrics),
        trial=dict(trial),
        versions=dict(versions),
    )


def packed(method: Method) -> bytes:
    """A method's whole state as safetensors."""
    from safetensors.torch import save

    # Copies: two names may stand for one tensor, and the file has each by itself.
    state = {
        name: v.detach().cpu().clone(memory_format=torch.contiguous_format) for name, v in method.state_dict().items()
    }
    return save(state, {"format": FORMAT})


def files(told: Card, method: Method) -> dict[str, bytes]:
    """The files of a model by their endings, in the order in which they are written: the card, with the digest of the weights, last."""
    data = packed(method)
    whole = replace(told, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return {WEIGHTS: data, CARD: (json.dumps(whole.to_dict(), indent=1, allow_nan=False) + "\n").encode()}


def write(told: Card, method: Method, file: Path) -> None:
    """Writes the weights to ``file`` (.safetensors) and the card beside it, each in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for ending, data in files(told, method).items():
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        new.write_bytes(data)
        os.replace(new, file.with_suffix(ending))


# --- reading ------------------------------------------------------------------------------------------------------


def read(file: Path, code: Sequence[str] = ()) -> Card:
    """The card of a model, by the name of its card or of its weights. Raises InputError, one line.

    ``code``: files and modules of a user's own that may be run for it; others that a card names are not.
    """
    place = file.with_suffix(CARD)
    try:
        told = json.loads(place.read_text(encoding="utf-8"))
        return Card.from_dict(told, code)
    except FileNotFoundError:
        raise InputError(f"there is no model {file}: no card {place.name} is there") from None
    except InputError as e:
        raise InputError(f"model {place}: {e}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        why = f"no {e}" if isinstance(e, KeyError) else " ".join(str(e).split())[:160]
        raise InputError(f"model {place} is damaged or not a model of raystudy ({why})") from None


def rebuilt(told: Card, weights: bytes, device: torch.device) -> Method:
    """The method with its weights, ready to predict. Raises InputError, one line, where the weights are not those of the card."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if len(weights) != told.size or hashlib.sha256(weights).hexdigest() != told.sha256:
        raise InputError(
            "its weights are damaged or another model's: they have not the SHA-256 of the card; copy both files anew"
        )
    try:
        state = load(weights)
    except (SafetensorError, ValueError, TypeError, KeyError) as e:
        raise InputError(f"its weights are no safetensors ({' '.join(str(e).split())[:120]})") from None
    method = _built(told, device)
    if not checkpoint.alike(state, dict(method.state_dict())):
        raise InputError(
            f"its weights do not fit {told.spec.method} with {told.spec.network}: this raystudy builds it in another way"
        )
    method.load_state_dict(state)
    return method.eval().requires_grad_(False)


def _built(told: Card, device: torch.device) -> Method:
    """The method as it was before its training. Of weights and mentors that it then read from files, its state has what became of them."""
    kind, spec = method_class(told.spec.method), told.spec
    values, overrides = split(spec.method, spec.point)
    recipe = Recipe(**{**spec.recipe, **overrides})

    def net(dropout: float = 0.0) -> nn.Module:
        name = spec.network.removesuffix(networks.PRETRAINED)
        made = networks.build(name, told.shape, len(told.classes), dropout)
        return made.to(device).to(memory_format=torch.channels_last)

    task = Task(told.images, len(told.classes), spec.epochs, net, recipe.optimizer_for)
    with torch.random.fork_rng(devices=[]):
        return kind(task, **{name: v for name, v in values.items() if name not in kind.files}).to(device)


class Probabilities(nn.Module):
    """Raw inputs -> probabilities [B, K]: normalisation and method in one module, of which exports are made."""

    scale: Tensor
    shift: Tensor

    def __init__(self, told: Card, method: Method) -> None:
        super().__init__()
        self.method, self.vectors = method, told.kind == "vectors"
        scale, shift = (standardising if self.vectors else scaling)(told.mean, told.std)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        raw = x.to(torch.float32)
        return self.method.probs((raw - self.shift) * self.scale if self.vectors else raw * self.scale + self.shift)


class Model:
    """A kept model. ``predict_proba`` and ``predict`` take raw inputs as they were trained on: images [n, C, H, W] uint8 or vectors
    [n, d]."""

    def __init__(self, file: Path, device: str = "cpu", code: Sequence[str] = ()) -> None:
        """``file``: the card or the weights. Only the card is read before probabilities are asked for. ``code``: see ``read``. Raises
        InputError, one line."""
        self.file, self.device = file.with_suffix(WEIGHTS), torch.device(device)
        _named(code)
        self.card = read(file, code)

    @cached_property
    def network(self) -> Probabilities:
        """The whole of it as a torch module. Raises InputError, one line, for weights that are damaged or not there."""
        try:
            method = rebuilt(self.card, self.file.read_bytes(), self.device)
        except FileNotFoundError:
            raise InputError(
                f"model {self.file.with_suffix(CARD)}: its weights {self.file.name} are not there"
            ) from None
        except InputError as e:
            raise InputError(f"model {self.file}: {e}") from None
        return Probabilities(self.card, method).to(self.device).eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the probabilities."""
        return self.card.classes

    def predict_proba(self, x: Any) -> NDArray[np.float32]:
        """Probabilities [n, K] of raw inputs (an array or a tensor). Raises InputError for inputs of another shape or type."""
        given = self.inputs(_numbers(x))
        parts = [p.numpy() for p in self.chunks(given)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.classes)), np.float32)

    def predict(self, x: Any) -> NDArray[Any]:
        """The name of the most probable class of each [n]."""
        return np.asarray(self.classes)[self.predict_proba(x).argmax(1)]

    def inputs(self, x: Tensor) -> Tensor:
        """Raw inputs as the network takes them. Raises InputError for what is not such."""
        images, shape = self.card.kind == "images", self.card.shape
        if images and x.ndim == 3 and shape[0] == 1:  # grey ones without a dimension for their channel
            x = x[:, None]
        x = x if images else plain(x)
        if tuple(x.shape[1:]) != shape:
            wanted = f"{'x'.join(map(str, shape))} (channels x height x width)" if images else f"{shape[0]} features"
            got = "x".join(map(str, x.shape[1:])) or "a single number"
            raise InputError(f"this model takes {self.card.kind} of {wanted}, not of {got}")
        if images and x.dtype != torch.uint8:
            raise InputError(f"this model takes images of uint8 (0 to 255), not {str(x.dtype).removeprefix('torch.')}")
        if not images and not (x.dtype == torch.uint8 or x.is_floating_point()):
            raise InputError(f"this model takes vectors of floats, not of {str(x.dtype).removeprefix('torch.')}")
        if not images and not (usable := torch.isfinite(x).all(1)).all():
            raise InputError(f"vector {int((~usable).nonzero()[0])} has numbers that are NaN or infinite")
        return x

    @torch.no_grad()
    def chunks(self, x: Tensor | Files) -> Iterator[Tensor]:
        """Probabilities [m, K] of raw inputs, some at a time in their order, computed as the training's were."""
        on_gpu = self.device.type == "cuda"
        size = at_once(self.card.shape, on_gpu)
        for raw in _apart(x, size):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
                yield self.network(raw.to(self.device)).float().cpu()


def _numbers(x: Any) -> Tensor:
    """What a caller gave as a tensor. Raises InputError for what is no array of numbers."""
    try:
        return x if isinstance(x, Tensor) else torch.as_tensor(np.asarray(x))
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"x is {shown(x)}; a model takes an array of numbers") from None


def _apart(x: Tensor | Files, size: int) -> Iterator[Tensor]:
    """Inputs ``size`` at a time; those in files are decoded ahead."""
    if isinstance(x, Tensor):
        yield from x.split(size) if len(x) else ()
        return
    with decoders() as pool:
        yield from x.chunks(range(len(x)), size, pool)
