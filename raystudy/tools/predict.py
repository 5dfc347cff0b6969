"""``raystudy predict``: what a kept model says of other data. Finds the inputs, asks the model, writes probabilities.

Inputs are told from their name: a data set (its test images), an ``.npz`` or ``.npy`` of images or vectors, a folder or archive of
pictures, one picture, a table for a model of one. Pictures are resized and cut to what the model takes; arrays must fit.
Nothing is unpickled.
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data import brought, columns, datasets, folder, npz, spec
from raystudy.data.files import Files, one_line, sound
from raystudy.data.folder import PICTURES
from raystudy.errors import InputError
from raystudy.learn.model import Card, Model
from raystudy.learn.training import device_here

ARRAYS = ("x", "x_test")  # of a file of several arrays those that are looked for
ENDS = (".csv", ".npz")  # of what is written


@dataclass(frozen=True)
class Inputs:
    """What is to be predicted."""

    x: Tensor | Files
    paths: Sequence[str] | None = None  # of each input, where they are pictures
    labels: Sequence[str] | None = None  # the class of each, where it is known
    left_out: int = 0  # pictures that cannot be decoded

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Predicted:
    """What came of it."""

    file: Path
    n: int
    left_out: int
    counts: dict[str, int]  # by predicted class
    accuracy: float | None  # against the labels that the data came with


# --- finding inputs -----------------------------------------------------------------------------------------------


def inputs(data: str, card: Card, root: Path, array: str | None = None, skip_corrupt: bool = False) -> Inputs:
    """The inputs that a text names. Raises InputError, one line, for what is not there, cannot be read or does not fit."""
    kind, colon, rest = data.partition(":")
    named = spec.base(data)
    if (
        named in datasets.DATASETS
        or data.startswith("smoke:")
        or brought.is_dataset(named)
        or (kind == "hf" and card.columns is None)
    ):
        return _test_images(data, root)
    if kind == "hf":
        raise InputError(f"{data}: this model was trained on a table; it takes a .csv or .parquet with those columns")
    place = Path(rest if colon and kind in spec.PATHS else data).expanduser()
    if not place.exists():
        choices = f"a data set ({', '.join(datasets.DATASETS)}), an .npz, .npy, .csv, .parquet, a folder or archive of pictures, a picture"
        raise InputError(f"{place}: no such file; DATA is {choices}")
    if place.suffix.lower() in (".csv", ".parquet"):
        if card.columns is None:
            raise InputError(f"{place}: this model was not trained on a table; it takes {card.kind}")
        x, labels = columns.rows(place, card.columns)
        return Inputs(torch.from_numpy(x), labels=labels)
    if place.suffix in (".npz", ".npy"):
        return _arrays(place, card, array)
    if place.is_file() and place.name.endswith(folder.ARCHIVES):
        place = folder.unpacked(place)
    if place.is_file() and place.suffix.lower() not in PICTURES:
        raise InputError(f"{place}: not an .npz, .npy or archive, nor a picture ({', '.join(PICTURES)})")
    if card.kind != "images":
        raise InputError(f"{place}: this model takes {card.kind}, from an .npz or .npy, not pictures")
    return _pictures(place, card, skip_corrupt)


def _test_images(data: str, root: Path) -> Inputs:
    told = datasets.load(data, root)
    return Inputs(told.x_test, told.paths.get("test"), [told.classes[y] for y in told.y_test.tolist()])


def _pictures(place: Path, card: Card, skip_corrupt: bool) -> Inputs:
    """A picture, or all below a folder in the order of their names."""
    base = place if place.is_dir() else place.parent
    every = [place] if place.is_file() else [f for f in base.rglob("*") if f.is_file()]
    paths = sorted(f.relative_to(base).as_posix() for f in every if f.suffix.lower() in PICTURES)
    if not paths:
        raise InputError(f"{place}: holds no pictures ({', '.join(PICTURES)})")
    found = Files(base, paths, card.shape[1], card.shape[0])
    good = sound(found, str(place), skip_corrupt) if place.is_dir() else np.arange(1)
    return Inputs(found[torch.from_numpy(good)], [paths[i] for i in good], left_out=len(paths) - len(good))


def _arrays(place: Path, card: Card, asked: str | None) -> Inputs:
    """One array of a file, and the labels beside it: ``x`` has ``y``, ``x_test`` has ``y_test``."""
    try:
        held = np.load(place, allow_pickle=False)
        if isinstance(held, np.ndarray):
            name, x, y, named = place.name, held, None, None
        else:
            with held:
                name = _chosen(place, held.files, asked)
                x, beside = held[name], name.replace("x", "y", 1)
                y = held[beside] if beside != name and beside in held.files else None
                named = held["class_names"].tolist() if "class_names" in held.files else None
    except InputError:
        raise
    except Exception as error:  # numpy and zipfile raise all sorts on foreign or torn files
        why = "it holds pickled objects" if "allow_pickle" in str(error) else one_line(error)
        raise InputError(f"{place}: cannot be read as arrays of numbers ({why})") from None
    labels = None
    if y is not None and y.shape == x.shape[:1]:
        inside = named is not None and y.dtype.kind in "iu" and len(y) and y.min() >= 0 and y.max() < len(named)
        labels = [str(named[v] if inside and named else v) for v in y.tolist()]
    return Inputs(torch.from_numpy(npz.taken(place, name, x, card.kind)), labels=labels)


def _chosen(place: Path, names: Sequence[str], asked: str | None) -> str:
    wanted = [asked] if asked else [*(n for n in ARRAYS if n in names), *(names if len(names) == 1 else ())]
    if not wanted or wanted[0] not in names:
        told = f"no array {asked}" if asked else f"neither {' nor '.join(ARRAYS)}, and more than one array"
        raise InputError(f"{place}: {told}; name one with --array: {', '.join(names) or '(none)'}")
    return wanted[0]


# --- asking and writing -------------------------------------------------------------------------------------------


def check_out(out: Path) -> None:
    """Raises InputError for a file that cannot be written or whose ending says nothing."""
    if out.suffix not in ENDS:
        raise InputError(f"--out {out}: its name must end in {' or '.join(ENDS)}")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: it is a folder, or {out.parent} is not there or cannot be written")


def predict(model: Model, given: Inputs, out: Path, tell: Callable[[int], None] = lambda done: None) -> Predicted:
    """Writes the probabilities of all inputs to ``out`` (.csv or .npz) in one step. ``tell`` hears how many are done."""
    check_out(out)
    x = model.inputs(given.x) if isinstance(given.x, Tensor) else given.x
    new = out.with_name(f"{out.name}.{os.getpid()}.new")
    best: list[int] = []
    try:
        if out.suffix == ".csv":
            with new.open("w", encoding="utf-8", newline="") as f:
                for chunk in _rows(f, model, given, x):
                    best += chunk
                    tell(len(best))
        else:
            parts: list[NDArray[np.float32]] = []
            for p in model.chunks(x):
                parts.append(p.numpy())
                best += parts[-1].argmax(1).tolist()
                tell(len(best))
            _save(new, model, given, parts, best)
        os.replace(new, out)
    finally:
        new.unlink(missing_ok=True)
    names = [model.classes[i] for i in best]
    counts = {name: names.count(name) for name in model.classes}
    known = given.labels is not None and set(given.labels) <= set(model.classes)
    right = sum(a == b for a, b in zip(names, given.labels or (), strict=True)) if known else 0
    return Predicted(out, len(best), given.left_out, counts, right / len(best) if known and best else None)


def _rows(file: IO[str], model: Model, given: Inputs, x: Tensor | Files) -> Iterator[list[int]]:
    """Writes a row an input, and yields the predicted classes of each chunk."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["path" if given.paths else "index", "predicted", *(f"p.{name}" for name in model.classes)])
    done = 0
    for p in model.chunks(x):
        best = p.argmax(1).tolist()
        texts = p.numpy().astype(str)  # the shortest that are these numbers
        for i, (b, row) in enumerate(zip(best, texts, strict=True), done):
            writer.writerow([given.paths[i] if given.paths else i, model.classes[b], *row])
        done += len(best)
        yield best


def _save(file: Path, model: Model, given: Inputs, parts: list[NDArray[np.float32]], best: list[int]) -> None:
    p = np.concatenate(parts) if parts else np.empty((0, len(model.classes)), np.float32)
    which = {"path": np.array(given.paths)} if given.paths else {"index": np.arange(len(p))}
    told = {"probs": p, "predicted": np.array(best, dtype=np.int64), "classes": np.array(model.classes)}
    with file.open("wb") as f:
        np.savez_compressed(f, **which, **told)  # type: ignore[arg-type]


def opened(text: str, device: str | None = None, threads: int | None = None, code: Sequence[str] = ()) -> Model:
    """The model that a path names, its weights read. Sets torch's threads, unless they are None. Raises InputError."""
    if threads is not None:
        torch.set_num_threads(threads)
    found = Model(located(text), device_here(device), code)
    found.network  # noqa: B018 - damaged weights are told before anything else is done
    return found


def located(text: str) -> Path:
    """The card of the model that a path names: its card, its weights, or a folder that holds one model. Raises InputError."""
    place = Path(text).expanduser()
    if not place.is_dir():
        return place
    cards = sorted(place.glob("*.json"))
    if len(cards) != 1:
        several = (
            f"; name one: {', '.join(c.name for c in cards[:5])}{', ...' if len(cards) > 5 else ''}" if cards else ""
        )
        raise InputError(f"{place}: a folder of {len(cards)} models{several} (raystudy model STUDY lists a study's)")
    return cards[0]
