"""A user's own folder of images with a table of labels -> ``Listing``; and unpacking of an archive of images. No image is opened."""

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from raystudy.data.files import Array, Listing, one_line
from raystudy.data.lists import inside
from raystudy.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NEEDED, OPTIONAL = ("path", "label"), ("clean_label", "split")
SPLITS = ("train", "test", "val")
TEST_SHARE = 0.2  # of the images, where the table has no column split
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


def read(folder: Path, table: Path) -> Listing:
    """A folder of images and a .csv or .parquet of their labels.

    Columns: ``path``, relative to the folder; ``label``, class ids from 0 or names; optionally ``clean_label``, which makes ``label``
    the label set "given" of a data set whose truth is known; optionally ``split``: train, test, or val for clean validation images.
    Without it an image is a test image if the SHA-256 of its path, as a fraction, is below a fifth: the same images on every
    machine, and no image changes sides when others are added. Test and validation images are scored by ``clean_label``
    where there is one. Raises InputError, one line with the table, its row and its first fault.
    """
    rows = _table(table)
    paths = [inside(p, f"{table}, row {i}") for i, p in enumerate(rows["path"], 1)]
    columns = [c for c in ("label", "clean_label") if c in rows]
    classes, numbers = _classes(table, {c: list(rows[c]) for c in columns})
    label, clean = numbers["label"], numbers.get("clean_label", numbers["label"])
    split = _splits(table, paths, list(rows["split"]) if "split" in rows else None)

    def part(name: str) -> tuple[list[str], Array]:
        chosen = np.flatnonzero(split == name)
        return [paths[i] for i in chosen], clean[chosen]

    train, (test, y_test) = np.flatnonzero(split == "train"), part("test")
    for name, n in (("train", len(train)), ("test", len(test))):
        if not n:
            raise InputError(f"{table}: has no {name} images; its {len(paths)} rows are all of other splits")
    return Listing(
        name=table.name,
        folder=folder,
        train=[paths[i] for i in train],
        y_train=clean[train],
        test=test,
        y_test=y_test,
        classes=classes,
        label_sets={"given": label[train]},
        truth="clean_label" in rows,
        val=part("val") if (split == "val").any() else None,
    )


def _table(path: Path) -> "pd.DataFrame":
    """The columns that count, as texts."""
    import pandas as pd  # not at the top: it is slow to import

    if path.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{path}: labels are read from a .csv or a .parquet file")
    if not path.is_file():
        raise InputError(f"{path}: no such file; --labels names a .csv or .parquet with the columns path, label")
    try:
        if path.suffix.lower() == ".csv":
            rows = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
        else:
            rows = pd.read_parquet(path)
    except Exception as error:  # pandas and pyarrow each have their own
        raise InputError(f"{path}: cannot be read as a table ({one_line(error)})") from None
    if missing := [c for c in NEEDED if c not in rows]:
        raise InputError(
            f"{path}: no column {', '.join(missing)}; needed are {', '.join(NEEDED)} (optional: {', '.join(OPTIONAL)}), "
            f"the file has: {', '.join(map(str, rows.columns)) or '(nothing)'}"
        )
    rows = rows[[c for c in (*NEEDED, *OPTIONAL) if c in rows]]
    if not len(rows):
        raise InputError(f"{path}: has no rows")
    empty = rows.isna() | (rows.astype(str).apply(lambda c: c.str.strip()) == "")
    if empty.to_numpy().any():
        i, j = np.argwhere(empty.to_numpy())[0]
        raise InputError(
            f"{path}, row {i + 1}: {rows.columns[j]} is empty; fill it everywhere, or leave an optional column out"
        )
    return rows.astype(str).apply(lambda c: c.str.strip())


def _classes(table: Path, columns: dict[str, list[str]]) -> tuple[tuple[str, ...], dict[str, Array]]:
    """Class names, and every column as class ids [n]: labels are ids from 0 if all are whole numbers, else names in alphabetical order."""
    every = {v for column in columns.values() for v in column}
    whole = {v for v in every if v.removeprefix("-").removesuffix(".0").isdecimal()}
    if whole == every:
        numbers = {c: np.array([int(float(v)) for v in column], dtype=np.int64) for c, column in columns.items()}
        for c, y in numbers.items():
            if (wrong := (y < 0) | (y >= len(y))).any():
                i = int(wrong.argmax())
                raise InputError(
                    f"{table}, row {i + 1}: {c} is {y[i]}, out of range for {len(y)} images; labels are 0 to the number of classes - 1"
                )
        k = max(int(y.max()) for y in numbers.values()) + 1
        classes = tuple(str(i) for i in range(k))
    else:
        classes = tuple(sorted(every))
        ids = {name: i for i, name in enumerate(classes)}
        numbers = {c: np.array([ids[v] for v in column], dtype=np.int64) for c, column in columns.items()}
    if len(classes) < 2:
        raise InputError(f"{table}: holds one class only ({classes[0]}); at least two are needed")
    return classes, numbers


def _splits(table: Path, paths: list[str], told: list[str] | None) -> Array:
    if told is None:
        share = [int.from_bytes(hashlib.sha256(p.encode()).digest()[:8], "big") / 2**64 for p in paths]
        return np.where(np.array(share) < TEST_SHARE, "test", "train")
    for i, name in enumerate(told, 1):
        if name not in SPLITS:
            raise InputError(f"{table}, row {i}: split is {name!r}; choose from: {', '.join(SPLITS)}")
    return np.array(told)


# --- archives -----------------------------------------------------------------------------------------------------


def unpacked(archive: Path) -> Path:
    """The folder of an archive's files, beside it: ``images.zip`` -> ``images.zip.unpacked``. Unpacked once, whole or not at all.

    Raises InputError, one line, for a damaged archive and for a member that would leave the folder (by its name or as a link),
    and then nothing has been written.
    """
    folder = archive.with_name(archive.name + ".unpacked")
    if folder.is_dir():
        return folder
    try:
        scratch = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=archive.parent))
    except OSError as error:
        raise InputError(
            f"{archive}: cannot be unpacked beside itself ({one_line(error)}); unpack it elsewhere"
        ) from None
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as z:
                for name in z.namelist():
                    inside(name.replace("\\", "/"), str(archive))
                z.extractall(scratch)
        else:
            with tarfile.open(archive) as t:
                t.extractall(scratch, filter="data")
        scratch.chmod(0o755)
        os.replace(scratch, folder)
    except InputError:
        raise
    except tarfile.FilterError as error:
        raise InputError(
            f"{archive}: a member leads out of the folder ({one_line(error)}); nothing was unpacked"
        ) from None
    except Exception as error:  # zip and tar each have their own for damaged bytes
        if folder.is_dir():  # another process was first
            return folder
        raise InputError(f"{archive}: cannot be unpacked ({one_line(error)})") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
