"""A user's own folder of images with a table of labels -> ``Listing``; and unpacking of an archive of images. No image is opened."""

import hashlib
import json
import os
import posixpath
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raystudy.data import tables
from raystudy.data.dataset import held_out, without_test
from raystudy.data.files import Array, Listing, one_line, size_and_time
from raystudy.data.lists import inside
from raystudy.data.tables import Table
from raystudy.errors import InputError

SPLITS = ("train", "test", "val")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
UNPACKED, STAMP = (
    ".unpacked",
    ".raystudy-archive.json",
)  # of an unpacked archive: its folder's ending, and of which archive it is
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def read(folder: Path, table: Path | None) -> Listing:
    """A folder of images and a .csv or .parquet of their labels; without a table, a folder of classes (``of_classes``).

    Columns: ``path``, relative to the folder; ``label``, class names or numbers; optionally ``clean_label``, which makes ``label``
    the label set "given" of a data set whose truth is known; optionally ``split``: train, test, or val for clean validation images.
    Without it an image is a test image if the SHA-256 of its path, as a fraction, is below a fifth: the same images on every
    machine, and no image changes sides when others are added. Test and validation images are scored by ``clean_label``
    where there is one. Raises InputError, one line with the table, its line and its first fault.
    """
    rows = tables.read(table) if table else of_classes(folder)
    paths = [inside(p, rows.where(i)) for i, p in enumerate(rows.columns["path"])]
    labels: dict[str, list[str]] = {name: y for name, y in rows.columns.items() if name in ("label", "clean_label")}
    classes, numbers = classes_of(rows, labels)
    label, clean = numbers["label"], numbers.get("clean_label", numbers["label"])
    split = splits_of(rows, paths)
    repeated = _repeated(rows, paths, {**labels, "split": split.tolist()})

    def part(name: str) -> tuple[list[str], Array]:
        chosen = np.flatnonzero(split == name)
        return [paths[i] for i in chosen], clean[chosen]

    train, (test, y_test) = np.flatnonzero(split == "train"), part("test")
    for name, n in (("train", len(train)), ("test", len(test))):
        if not n:
            raise InputError(f"{rows.file}: has no {name} images; its {len(paths)} rows are all of other splits")
    learnable(rows, classes, split, label, clean)
    untested = sorted(set(clean[train].tolist()) - set(y_test.tolist()))
    return Listing(
        rows=None if "split" in rows.columns else (train.tolist(), np.flatnonzero(split == "test").tolist()),
        name=rows.file.name,
        folder=folder,
        train=[paths[i] for i in train],
        y_train=clean[train],
        test=test,
        y_test=y_test,
        classes=classes,
        label_sets={"given": label[train]},
        truth="clean_label" in labels,
        val=part("val") if (split == "val").any() else None,
        title=_title(folder),
        notes=repeated + without_test([classes[c] for c in untested]),
    )


def of_classes(folder: Path) -> Table:
    """A folder whose subfolders are classes, ``CLASS/.../IMAGE`` or ``train/CLASS/...``, ``test/CLASS/...`` (and ``val``), as a table of
    its images. Raises InputError where it is none."""
    paths = pictures_below(folder)
    parts = [path.split("/") for path in paths]
    split = len(paths) > 0 and all(p[0] in SPLITS for p in parts)
    if loose := next((path for path, p in zip(paths, parts, strict=True) if len(p) < 2 + split), None):
        raise InputError(
            f"{folder}: {loose} lies in no folder of a class; without --labels images lie in CLASS/ or in train/CLASS/ and test/CLASS/"
        )
    if not paths:
        raise InputError(
            f"{folder}: holds no images in folders of their classes ({', '.join(PICTURES)}), and --labels names no table"
        )
    columns = {"path": paths, "label": [tables.composed(p[split]) for p in parts]}
    return Table(folder, columns | ({"split": [p[0] for p in parts]} if split else {}), paths)


def pictures_below(folder: Path) -> list[str]:
    """The paths of all images below a folder, in their order; what begins with a dot is left out."""
    found = (f.relative_to(folder) for f in folder.rglob("*") if f.suffix.lower() in PICTURES and f.is_file())
    return sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts))


def _title(folder: Path) -> str:
    """A folder's name, an archive's without its endings."""
    name = folder.resolve().name
    if name.endswith(UNPACKED):
        name = name.removesuffix(UNPACKED)
        name = name.removesuffix(next((a for a in sorted(ARCHIVES, key=len, reverse=True) if name.endswith(a)), ""))
    return name


def classes_of(rows: Table, columns: dict[str, list[str]]) -> tuple[tuple[str, ...], dict[str, Array]]:
    """The names that occur, in order, and every column as positions [n] among them. Numbers are names, too: in order of size."""
    every = {v for column in columns.values() for v in column}
    if all(_whole(v) for v in every):
        if any(v.endswith(".0") for v in every):  # as pandas writes whole numbers where a field was empty once
            columns = {c: [v.removesuffix(".0") for v in column] for c, column in columns.items()}
        _one_spelling(rows, columns)
        classes = tuple(sorted({v for column in columns.values() for v in column}, key=int))
    else:
        classes = tuple(sorted(every))
    if len(classes) < 2:
        raise InputError(f"{rows.file}: holds one class only ({classes[0]}); at least two are needed")
    ids = {name: i for i, name in enumerate(classes)}
    return classes, {c: np.array([ids[v] for v in column], dtype=np.int64) for c, column in columns.items()}


def _whole(value: str) -> bool:
    return value.isascii() and value.removeprefix("-").removesuffix(".0").isdecimal() and len(value) < 20


def _one_spelling(rows: Table, columns: dict[str, list[str]]) -> None:
    """Raises InputError for a number that is below 0, and for one that is written in two ways."""
    seen: dict[int, tuple[str, int]] = {}
    for name, column in columns.items():
        for i, value in enumerate(column):
            if int(value) < 0:
                raise InputError(
                    f"{rows.where(i)}: {name} is {value}, out of range; a number below 0 is no class, so leave such images out"
                )
            before, at = seen.setdefault(int(value), (value, i))
            if before != value:
                raise InputError(f"{rows.where(i)}: {name} is {value}, in {rows.places[at]} {before}; write it one way")


def learnable(rows: Table, classes: Sequence[str], split: Array, label: Array, clean: Array) -> None:
    """Raises InputError for a class that only test or validation images have: nothing can learn it."""
    known = {*label[split == "train"].tolist(), *clean[split == "train"].tolist()}
    for i in np.flatnonzero(split != "train").tolist():
        if int(clean[i]) not in known:
            raise InputError(
                f"{rows.where(i)}: {classes[clean[i]]!r} is a class of {split[i]} images and of no training image, so that nothing can "
                "learn it; leave its images out, or put some of them into the training set with a column split"
            )


def _repeated(rows: Table, paths: Sequence[str], columns: dict[str, list[str]]) -> tuple[str, ...]:
    """A sentence where rows repeat an earlier one; InputError where one path has two labels or splits."""
    first: dict[str, int] = {}
    again = []
    for i, path in enumerate(paths):
        at = first.setdefault(posixpath.normpath(path), i)
        if at == i:
            continue
        again.append(path)
        for name, column in columns.items():
            if column[at] != column[i]:
                raise InputError(
                    f"{rows.where(i)}: {path} has the {name} {column[i]!r}, and {column[at]!r} in {rows.places[at]}; "
                    "an image is listed once, with one label and in one split"
                )
    if not again:
        return ()
    return (f"rows that list an image again, which then counts twice: {len(again):,} (the first is {again[0]})",)


def splits_of(rows: Table, paths: list[str]) -> Array:
    """The split of each row: the table's, or else by the digests of what ``paths`` holds of each."""
    told = rows.columns.get("split")
    if told is None:
        return np.where(held_out(p.encode() for p in paths), "test", "train")
    for i, name in enumerate(told):
        if name not in SPLITS:
            raise InputError(f"{rows.where(i)}: split is {name!r}; choose from: {', '.join(SPLITS)}")
    return np.array(told)


def fingerprint(folder: Path, paths: Sequence[str]) -> int:
    """A number that changes with the sizes and times of the files at ``paths`` below a folder."""
    total = hashlib.sha256()
    for path in paths:
        total.update(b"%d %d\0" % size_and_time(folder / path))
    return int.from_bytes(total.digest()[:8], "big")


# --- archives -----------------------------------------------------------------------------------------------------


def unpacked(archive: Path) -> Path:
    """The folder of an archive's files, beside it: ``images.zip`` -> ``images.zip.unpacked``. Whole or not at all, and anew
    where the archive is another than was unpacked, by its size and time.

    Raises InputError, one line, for a damaged archive and for a member that would leave the folder (by its name or as a link),
    and then nothing has been written.
    """
    folder = archive.with_name(archive.name + UNPACKED)
    if _of(folder, archive):
        return folder
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=archive.parent))
    except OSError as error:
        raise InputError(
            f"{archive}: cannot be unpacked beside itself ({one_line(error)}); unpack it elsewhere"
        ) from None
    old = scratch.with_name(scratch.name + ".old")
    try:
        stamp = size_and_time(archive)  # before it is read: if it changes meanwhile, it is unpacked again
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as z:
                for name in z.namelist():
                    inside(name.replace("\\", "/"), str(archive))
                z.extractall(scratch)
        else:
            with tarfile.open(archive) as t:
                t.extractall(scratch, filter="data")
        (scratch / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
        scratch.chmod(0o755)
        if folder.is_dir():
            os.replace(folder, old)
        os.replace(scratch, folder)
    except InputError:
        raise
    except tarfile.FilterError as error:
        raise InputError(
            f"{archive}: a member leads out of the folder ({one_line(error)}); nothing was unpacked"
        ) from None
    except Exception as error:  # zip and tar each have their own for damaged bytes
        if _of(folder, archive):  # another process was first
            return folder
        raise InputError(f"{archive}: cannot be unpacked ({one_line(error)})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return folder


def _of(folder: Path, archive: Path) -> bool:
    """Whether a folder holds this archive's files. One without a stamp was unpacked before there were any: it does if it is newer."""
    try:
        return bool(tuple(json.loads((folder / STAMP).read_text(encoding="utf-8"))) == size_and_time(archive))
    except FileNotFoundError:
        return folder.is_dir() and folder.stat().st_mtime_ns >= archive.stat().st_mtime_ns
    except (OSError, ValueError, TypeError):
        return False
