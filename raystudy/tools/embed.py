"""``raystudy embed``: what a backbone makes of all images or texts of a data set, with their labels, as a file ``npz:`` reads.

Here belong what is embedded, in which parts, and the file. What makes vectors is in ``learn.backbones``. Everything is asked in
``prepared``, before anything is written. Parts lie in a folder beside the file until it is whole, so that a run that was ended
goes on; view 0 is the plain one, the others are weak augmentations that come from (seed, view) alone.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data import augment, datasets, spec, texts
from raystudy.data.dataset import Array, Dataset, Images
from raystudy.data.files import Files
from raystudy.data.loader import drawn_from
from raystudy.data.noise import digest
from raystudy.errors import InputError
from raystudy.learn import backbones
from raystudy.learn.backbones import Backbone
from raystudy.learn.training import device_here

STREAM_EMBED = 0x656D6264  # keeps the draws of views apart from all others
PART = 256  # samples that are kept at a time, with all their views
MADE_OF = "made_of"
Samples = Images | list[str]
Tell = Callable[[int, int], None]  # vectors made, and of how many


@dataclass(frozen=True)
class Source:
    """What is embedded, and all else that the file will hold."""

    name: str
    train: Samples
    test: Samples
    arrays: dict[str, Array]  # labels, class names, whether they are the truth: as ``npz.read`` takes them
    digest: str  # of images or texts
    pad: int
    flip: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """An embedding that has been asked for, and that can be made."""

    source: Source
    backbone: Backbone
    out: Path
    views: int
    batch: int
    seed: int
    features: int
    made_of: dict[str, Any]
    done: bool  # the file is there already

    @property
    def total(self) -> int:
        """How many vectors there will be."""
        return len(self.source.train) * self.views + len(self.source.test)


def prepared(
    dataset: str,
    backbone: str,
    out: Path,
    *,
    views: int = 1,
    weights: Path | None = None,
    size: int | None = None,
    text: str | None = None,
    batch: int = 64,
    seed: int = 0,
    force: bool = False,
    root: Path = Path("data"),
    device: str | None = None,
    threads: int = 1,
) -> Job:
    """Asks everything there is to ask and tries the backbone on two samples; writes nothing. Raises InputError, one line."""
    for name, value, low, high in (
        ("--views", views, 1, 1000),
        ("--batch", batch, 1, PART),
        ("--threads", threads, 1, 4096),
        ("--seed", seed, 0, 2**63 - 1),
        ("--size", size if size is not None else 4, 4, 4096),
    ):
        if not low <= value <= high:
            raise InputError(f"{name} is {value}; it must be from {low} to {high}")
    out = out.expanduser()
    _check_out(out)
    if text is not None and views > 1:
        raise InputError(f"--views {views}: a text has one view; views are crops and mirror images")
    torch.set_num_threads(threads)
    _check_kind(dataset, text)
    if out.exists() and Path(spec.base(dataset).partition(":")[2]).expanduser().resolve() == out.resolve():
        raise InputError(f"--out {out} is the file that would be read; name another")
    told_texts = None if text is None else _texts(dataset, text)  # before a hub is waited for
    made = backbones.build(
        backbone, "images" if text is None else "texts", size=size, weights=weights, device=device_here(device)
    )
    source = told_texts or _images(dataset, made.size, root)
    if views > 1 and not (source.pad or source.flip):
        raise InputError(f"--views {views}: these images are neither cropped nor flipped, so all views would be alike")
    features = backbones.vectors(made, _read(source.train, 0, 2)).shape[1]
    told = _made_of(source, made, views, seed)
    done = False
    if out.exists() and not force:
        before = made_of(out)
        if before != told:
            raise InputError(f"--out {out} is there, {_difference(before, told)}; name another file, or add --force")
        done = True
    before = _note(parts_of(out))
    if not done and not force and parts_of(out).exists() and before != told:
        raise InputError(
            f"{parts_of(out)} holds the parts of another embedding, {_difference(before, told)}; name another file, or add --force"
        )
    return Job(source, made, out, views, batch, seed, features, told, done)


def run(job: Job, tell: Tell = lambda done, total: None) -> Path:
    """Makes the vectors that are not there yet, and the file of them all in one step. Returns the file."""
    folder = parts_of(job.out)
    with _held(folder):
        if _note(folder) != job.made_of:
            for old in folder.glob("*.npy"):
                old.unlink()
            _written(folder / f"{MADE_OF}.json", json.dumps(job.made_of).encode())
        n, m = len(job.source.train), len(job.source.test)
        train = np.empty((n, job.views, job.features), dtype=np.float16)
        test = np.empty((m, 1, job.features), dtype=np.float16)
        drawn = _draws(job, n)
        left, done = [], 0
        for name, whole, samples in (("train", train, job.source.train), ("test", test, job.source.test)):
            for at in range(0, len(whole), PART):
                into, file = whole[at : at + PART], folder / f"{name}-{at:09d}.npy"
                if _taken(file, into):
                    done += into.shape[0] * into.shape[1]
                else:
                    left.append((file, into, samples, at))
        tell(done, job.total)
        for file, into, samples, at in left:
            for made in _part(job, samples, at, into, drawn):
                done += made
                tell(done, job.total)
            with _new(file) as f:
                np.save(f, into)
        plain = train if job.views > 1 else train[:, 0]
        with _new(job.out) as f:
            np.savez(f, x_train=plain, x_test=test[:, 0], **_labels(job))  # type: ignore[arg-type]
        for name in ("*.npy", f"{MADE_OF}.json", "lock"):
            for old in folder.glob(name):
                old.unlink()
    with suppress(OSError):  # somebody else's files are in it
        folder.rmdir()
    return job.out


# --- what is embedded ---------------------------------------------------------------------------------------------


def _check_kind(dataset: str, text: str | None) -> None:
    kind = dataset.partition(":")[0]
    table = kind in datasets.TABLES
    if table and text is None and kind != "hf":
        raise InputError(f"{spec.base(dataset)} is a table: name the column of its texts with --text COLUMN")
    if text is not None and not table:
        raise InputError("--text names a column of a table; the data set is csv:PATH, parquet:PATH or hf:NAME")


def _images(dataset: str, size: int | None, root: Path) -> Source:
    """A data set of images; those in files are decoded in the size in which they are looked at, where nobody asks for another."""
    name, options = spec.parse(dataset)
    files = name.startswith(("folder:", "hf:")) or (name in datasets.DATASETS and datasets.DATASETS[name].listed)
    if files and options.size is None and size is not None:
        dataset = spec.located(dataset, size=size)
    data = datasets.load(dataset, root)
    if data.kind != "images":
        raise InputError(f"data set {data.name!r} is of vectors already; images or texts are embedded")
    sets = {label: y.numpy() for label, y in data.label_sets.items()} if data.truth else {}
    arrays = _arrays(data.name, data.y_train.numpy(), data.y_test.numpy(), sets, data.classes, data.truth)
    return Source(
        data.name, data.x_train, data.x_test, arrays, data.digest, data.pad, data.flip, data.notes + _left_out(data)
    )


def _left_out(data: Dataset) -> tuple[str, ...]:
    return tuple(
        f"the set {name!r} of {len(y):,} further images is left out: the file has no place for it"
        for name, (_, y) in data.extra.items()
    )


def _texts(dataset: str, column: str) -> Source:
    told = texts.of(datasets.labelled(dataset), column)
    sets = {"given": told.given} if told.truth else {}
    arrays = _arrays(told.name, told.y_train, told.y_test, sets, told.classes, told.truth)
    words = [np.frombuffer("\0".join(part).encode("utf-8", "replace"), np.uint8) for part in (told.train, told.test)]
    notes = told.notes
    if told.left_out:
        notes += (f"{told.left_out:,} rows of the split val are left out: the file has no place for them",)
    return Source(told.name, told.train, told.test, arrays, digest(*words), 0, False, notes)


def _arrays(
    name: str, y_train: Array, y_test: Array, sets: dict[str, Array], classes: Sequence[str], truth: bool
) -> dict[str, Array]:
    """All arrays of the file but the vectors: classes are those that training samples have."""
    ys = {"y_train": y_train, "y_test": y_test}
    ys |= {"y_noisy" if label == "given" else f"y_noisy_{label}": y for label, y in sets.items()}
    seen = np.unique(y_train)
    for what, y in ys.items():
        if (y < 0).any():
            raise InputError(
                f"{name}: {int((y < 0).sum()):,} labels of {what} are none of the classes; a file has no such labels"
            )
        if (wrong := ~np.isin(y, seen)).any():
            missing = classes[int(y[wrong][0])]
            raise InputError(
                f"{name}: {what} has the class {missing!r}, of which y_train has none; a file has no such labels"
            )
    numbered = {what: np.searchsorted(seen, y) for what, y in ys.items()}
    names = [classes[c].strip() or str(c) for c in seen]
    told = [n if n not in names[:i] else f"{n} ({seen[i]})" for i, n in enumerate(names)]
    return numbered | {"class_names": np.array(told, dtype=np.str_), "truth": np.array(truth)}


def _read(samples: Samples, start: int, stop: int) -> Tensor | list[str]:
    """Some samples, in memory."""
    some = samples[start:stop]
    return some.read() if isinstance(some, Files) else some


# --- vectors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Draws:
    """Where the crop of each training image begins, and whether it is mirrored; in one view."""

    down: Tensor
    right: Tensor
    mirrored: Tensor


def _draws(job: Job, n: int) -> list[Draws]:
    """Of views 1, 2, ...; each comes from (seed, view), whatever is made first."""
    made = []
    for view in range(1, job.views):
        rng = drawn_from(STREAM_EMBED, job.seed, view)
        down, right = torch.randint(2 * job.source.pad + 1, (2, n), generator=rng)
        made.append(Draws(down, right, (torch.rand(n, generator=rng) < 0.5) & job.source.flip))
    return made


def weak(x: Tensor, draws: Draws, here: slice, pad: int) -> Tensor:
    """The weak augmentation of images that stand at ``here`` in the training set."""
    return augment.flip(augment.crop(x, draws.down[here], draws.right[here], pad), draws.mirrored[here])


def _part(job: Job, samples: Samples, at: int, into: Array, drawn: list[Draws]) -> Iterator[int]:
    """Fills in the vectors of a part [m, V, d], a batch at a time; yields how many were made."""
    m, views, _ = into.shape
    plain = _read(samples, at, at + m)
    for view in range(views):
        x = plain
        if view and isinstance(x, Tensor):
            x = weak(x, drawn[view - 1], slice(at, at + m), job.source.pad)
        for i in range(0, m, job.batch):
            made = backbones.vectors(job.backbone, x[i : i + job.batch])
            if made.shape[1] != job.features:
                raise InputError(
                    f"backbone {job.backbone.name!r} gives {made.shape[1]} numbers for some samples and {job.features} for others"
                )
            into[i : i + job.batch, view] = made
            yield len(made)


# --- files --------------------------------------------------------------------------------------------------------


def parts_of(out: Path) -> Path:
    """The folder of the parts of a file that is being made."""
    return out.with_name(f"{out.name}.parts")


def made_of(file: Path) -> dict[str, Any] | None:
    """What an embedding was made of; None for any other file."""
    try:
        with np.load(file, allow_pickle=False) as held:
            told = json.loads(str(held[MADE_OF]))
    except Exception:  # numpy, zipfile and json raise all sorts on foreign or torn files
        return None
    return told if isinstance(told, dict) else None


def _made_of(source: Source, backbone: Backbone, views: int, seed: int) -> dict[str, Any]:
    """All that decides what is in the file."""
    labels = [source.arrays[name] for name in sorted(source.arrays) if name.startswith("y_")]
    words = json.dumps([sorted(source.arrays), source.arrays["class_names"].tolist(), bool(source.arrays["truth"])])
    told = {
        "data": source.name,
        "samples": source.digest,
        "labels": digest(*labels, np.frombuffer(words.encode(), np.uint8)),
        "backbone": backbone.name,
        "weights": backbone.digest,
        "size": backbone.size,
        "views": views,
    }
    return told if views == 1 else told | {"seed": seed, "pad": source.pad, "flip": source.flip}


def _difference(before: dict[str, Any] | None, told: dict[str, Any]) -> str:
    if before is None:
        return "and is no embedding"
    names = [name for name in told if name in before and before[name] != told[name]]  # the others follow from these
    shown = ", ".join(f"{name} {before[name]} and not {told[name]}" for name in names[:3])
    return f"made of {shown}" if shown else "and made of something else"


def _labels(job: Job) -> dict[str, NDArray[Any]]:
    told = {MADE_OF: np.array(json.dumps(job.made_of)), "kind": np.array("vectors")}
    return job.source.arrays | told


def _check_out(out: Path) -> None:
    if out.suffix != ".npz":
        raise InputError(f"--out {out}: its name must end in .npz")
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise InputError(f"--out {out}: it is a folder, or {out.parent} is not there or cannot be written")
    parts = parts_of(out)
    if parts.exists() and not parts.is_dir():
        raise InputError(f"{parts} is a file; parts of {out} are kept in a folder of that name, so remove or rename it")


def _note(folder: Path) -> dict[str, Any] | None:
    try:
        told = json.loads((folder / f"{MADE_OF}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _taken(file: Path, into: Array) -> bool:
    """Whether a part was there, whole: it is read into its place."""
    try:
        told = np.load(file, allow_pickle=False)
    except Exception:  # absent, or damaged: it is made again
        return False
    if told.shape != into.shape or told.dtype != into.dtype:
        return False
    into[:] = told
    return True


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder of parts, while no other process works in it."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder}: another process is making this file; wait for it, or name another") from None
        yield


@contextmanager
def _new(file: Path) -> Iterator[Any]:
    """A file that appears when it is whole."""
    new = file.with_name(f"{file.name}.{os.getpid()}.new")
    try:
        with new.open("wb") as f:
            yield f
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)


def _written(file: Path, data: bytes) -> None:
    with _new(file) as f:
        f.write(data)
