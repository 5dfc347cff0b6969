"""How a data set is written: ``NAME`` or ``KIND:PATH`` (npz, folder, csv, parquet, hf), then ``?option=value&...``. No file is opened.

The text carries everything that decides what the images are, so it can travel from a command line through a study's ledger to any worker.
"""

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from raystudy import own
from raystudy.data import imbalance
from raystudy.errors import InputError, unknown

STREAM = ("auto", "always", "never")
PATHS = ("npz", "folder", "csv", "parquet", "hf")  # kinds that are followed by a path
# The rows of ``datasets.DATASETS``, whose test labels people have checked; a test holds the two together.
PUBLISHED = (
    "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "cifar10n", "cifar100n",
    "cnwl_mini_imagenet", "cnwl_stanford_cars", "webvision_mini", "clothing1m",
)  # fmt: skip
FAMILY = {
    "cifar10n": "cifar10",
    "cifar100n": "cifar100",
    "webvision_mini": "webvision",
}  # name -> as the papers' settings are filed
_OPTIONS = re.compile(r"\?(?=\w+=)(?!.*\?\w+=)")  # the last question mark before name=value


@dataclass(frozen=True)
class Options:
    """What a user may set of a data set; None: the data set's own."""

    labels: str | None = None  # folder: the table of labels
    size: int | None = None  # image files: height = width in pixels after resize and centre crop
    channels: int | None = None  # image files: 3 (colour) or 1 (grey)
    pad: int | None = None  # pixels of the random crop
    flip: bool | None = None
    mean: tuple[float, ...] | None = None  # per channel, pixels in [0, 1]
    std: tuple[float, ...] | None = None
    skip_corrupt: bool | None = None  # image files: leave out those that are missing or cannot be decoded
    target: str | None = None  # tables: the column of labels
    drop: tuple[str, ...] | None = None  # tables: columns that are no features
    clean: str | None = None  # tables: the column of clean labels
    inputs: str | None = None  # hf: the column of images or vectors
    split: str | None = None  # hf: the split that is trained on
    test: str | None = None  # hf: the split that is tested on
    config: str | None = None  # hf: one of the data sets of a name of the hub
    stream: str | None = None  # image files: auto (by their size), always, never
    imbalance: str | None = None  # exp:R or step:R, see ``raystudy.data.imbalance``

    def __post_init__(self) -> None:
        for name, low, high in (("size", 4, 4096), ("pad", 0, 512)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"data set option {name} is {value}; it must be from {low} to {high}")
        if self.channels not in (None, 1, 3):
            raise InputError(f"data set option channels is {self.channels}; it is 1 or 3")
        if self.stream is not None and self.stream not in STREAM:
            raise unknown("value of stream", self.stream, STREAM)
        if self.imbalance is not None:
            imbalance.parse(self.imbalance)
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise InputError(
                "data set options mean and std go together: one number per channel each, such as mean=0.5&std=0.25"
            )
        if any(not 0 <= m <= 1 for m in self.mean or ()) or any(not 0 < s <= 1 for s in self.std or ()):
            raise InputError("data set options mean and std are of pixels in [0, 1], and std is above 0")

    def given(self) -> dict[str, Any]:
        """The options that are set."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}


def parse(text: str) -> tuple[str, Options]:
    """A data set's name, or kind and path, and its options. Raises InputError for an unknown option or a value it cannot have."""
    if "\0" in text:
        raise InputError(f"data set {text!r} has a zero byte in it, which no path and no name can have")
    name, *rest = _OPTIONS.split(text, maxsplit=1)
    told: dict[str, Any] = {}
    for part in rest[0].split("&") if rest else []:
        key, _, value = part.partition("=")
        told[key] = _value(key, value)
    return name, Options(**told)


def _value(key: str, value: str) -> Any:
    kinds = {f.name: str(f.type) for f in fields(Options)}
    if key not in kinds:
        raise unknown("data set option", key, kinds)
    kind = kinds[key].partition(" ")[0]
    try:
        if kind == "int":
            return int(value)
        if kind == "bool":
            return {"yes": True, "no": False}[value]
        if kind.startswith("tuple[str"):
            return tuple(value.split(","))
        if kind.startswith("tuple"):
            return tuple(float(v) for v in value.split(","))
    except (ValueError, KeyError):
        wanted = {"int": "a whole number", "bool": "yes or no"}.get(kind, "one number per channel, with commas")
        raise InputError(f"data set option {key} is {value!r}; it is {wanted}") from None
    return value


def text(name: str, options: Options) -> str:
    """The way back from ``parse``."""

    def word(value: Any) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return (
            ",".join(v if isinstance(v, str) else f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
        )

    return name + "".join(f"{'&' if i else '?'}{k}={word(v)}" for i, (k, v) in enumerate(options.given().items()))


def located(spec: str, **more: Any) -> str:
    """A data set's text with the options ``more`` (None: not asked for) and absolute paths: workers run in folders of their own."""
    name, options = parse(spec)
    options = replace(options, **{k: v for k, v in more.items() if v is not None})
    kind, _, path = name.partition(":")
    if kind in PATHS and path and (kind != "hf" or on_disk(path)):
        name = f"{kind}:{Path(path).expanduser().absolute()}"
    elif code_of(name):
        name = own.located(name)
    if options.labels:
        options = replace(options, labels=str(Path(options.labels).expanduser().absolute()))
    return text(name, options)


def on_disk(path: str) -> bool:
    """Whether what stands behind ``hf:`` is a folder, not a name of the hub: it is there, or is written as only a path is."""
    return path.startswith((".", "~", "/")) or path.count("/") > 1 or Path(path).exists()


def code_of(spec: str) -> str:
    """The function of a user's own that a text names, ``FILE.py:NAME`` or ``PACKAGE.MODULE:NAME``; empty where it names none."""
    name = base(spec).removeprefix("smoke:")
    return name if name.partition(":")[0] not in PATHS and own.written(name) else ""


def base(spec: str) -> str:
    """The text without its options."""
    return _OPTIONS.split(spec, maxsplit=1)[0]


def imbalanced(spec: str) -> str:
    """The imbalance that a text asks for; empty where it asks for none."""
    return parse(spec)[1].imbalance or ""


def family(spec: str) -> str:
    """The name under which the papers' settings for a data set are filed."""
    return FAMILY.get(base(spec), base(spec))
