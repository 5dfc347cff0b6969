"""A data set of Hugging Face ``datasets`` (``hf:FOLDER``, ``hf:NAME`` of the hub) -> ``Dataset``: images, vectors or a table of features.

Here belongs which splits and columns are what; what becomes of images is told in ``listed``, of vectors in ``npz``, of tables in
``columns``. The package is asked for when it is needed: the extra ``hf``.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raystudy.data import columns, folder, listed, npz, tables
from raystudy.data.columns import TARGET, Labelled
from raystudy.data.dataset import Array, Dataset, changed, held_out, without_test
from raystudy.data.files import Listing, one_line
from raystudy.data.spec import Options, on_disk
from raystudy.errors import InputError, unknown

TRAIN, TEST = "train", "test"
IMAGE_OPTIONS = ("size", "channels", "skip_corrupt", "stream")
ARRAYS = ("Array2D", "Array3D")
LISTS = ("List", "LargeList", "Sequence")


@dataclass(frozen=True)
class Found:
    """A data set that was opened: the splits that are read, and which columns are what."""

    name: Path  # the folder, or the name on the hub
    parts: dict[str, Any]  # train, and test where there is one -> a ``datasets.Dataset``
    told: dict[str, str]  # label, clean_label -> the column that is it
    inputs: str  # the column of images, vectors or arrays; empty: a table of features
    kind: str  # images, vectors, arrays, table
    unread: tuple[str, ...]  # other splits

    @property
    def names(self) -> list[str] | None:
        """The names of the classes by number, where the column of labels has them."""
        return getattr(self.parts[TRAIN].features[self.told[TARGET]], "names", None)


def read(path: str, options: Options) -> Dataset:
    """A data set by its folder, as ``save_to_disk`` writes it, or by its name on the hub.

    The splits ``train`` and ``test`` are trained and tested on (``options.split`` and ``options.test`` name others); without a test split
    a fifth of the samples, chosen by a digest of what they hold, is the test set, and a note says so. Other splits are not read: nobody
    says that their labels are clean. Inputs are the column of images, else that of vectors (lists of numbers of one length) or of arrays,
    else all columns of numbers and categories; ``options.inputs`` names one, ``options.drop`` those that are none. Labels are the column
    ``label`` (``options.target``); ``clean_label`` (``options.clean``) makes them the label set "given" of a data set whose truth is
    known. Raises InputError, one line.
    """
    found = opened(path, options)
    if found.kind != "images" and (wrong := [o for o in IMAGE_OPTIONS if o in options.given()]):
        raise InputError(f"data set {path!r} has no option {wrong[0]}: it is for images, and these are {found.kind}")
    if found.kind == "images":
        return listed.from_files(_listing(found), options)
    if found.kind == "table":
        told = labelled(found, options)
        _no_texts(found, told.header, told.rows)
        data = columns.of(told, _title(path))
    else:
        data = _arrays(found, options)
    notes = tuple(re.sub("^no (x_test|column split):", "no split test:", note) for note in data.notes)
    return changed(replace(data, name=found.name.name, title=_title(path), notes=notes + _said(found)), options)


def _title(path: str) -> str:
    return Path(path.rstrip("/")).name


def _said(found: Found) -> tuple[str, ...]:
    return (f"splits that are not read: {', '.join(found.unread)}",) if found.unread else ()


# --- opening ------------------------------------------------------------------------------------------------------


def opened(path: str, options: Options) -> Found:
    """Opens a data set and tells its splits and columns apart. Raises InputError."""
    if not path:
        raise InputError("hf: takes a folder that save_to_disk wrote, or a name on the hub, see docs/datasets.md")
    try:
        import datasets
    except ImportError:
        raise InputError("hf: needs the package datasets: pip install 'raystudy[hf]'") from None
    held = _loaded(datasets, path, options)
    name = Path(path).expanduser()
    splits = dict(held) if isinstance(held, dict) else {TRAIN: held}
    train = options.split or (TRAIN if TRAIN in splits or len(splits) > 1 else next(iter(splits), TRAIN))
    test = options.test or (TEST if TEST in splits and train != TEST else None)
    for what, split in (("split", train), ("test", test)):
        if split is not None and split not in splits:
            raise InputError(f"{name}: has no split {split!r}; name another with {what}=, it has: {', '.join(splits)}")
    if train == test:
        raise InputError(
            f"{name}: split={train} and test={test} are the same; leave test= out, and a fifth is held out"
        )
    parts = {what: splits[s] for what, s in ((TRAIN, train), (TEST, test)) if s is not None}
    told = _labels(name, parts, options)
    for split, part in ((train, parts[TRAIN]), *(((test, parts[TEST]),) if TEST in parts else ())):
        if not len(part):
            raise InputError(f"{name}: has no rows in its split {split}")
        if missing := [c for c in (*told.values(), options.inputs) if c and c not in part.features]:
            raise InputError(f"{name}: has no column {missing[0]!r} in its split {split}")
    inputs, kind = _inputs(name, parts[TRAIN].features, told, options)
    return Found(name, parts, told, inputs, kind, tuple(s for s in splits if s not in (train, test)))


def _loaded(datasets: Any, path: str, options: Options) -> Any:
    """What the package makes of a folder or a name: a ``Dataset``, or a dictionary of them."""
    from huggingface_hub.utils import logging

    place = Path(path).expanduser()
    if on_disk(path) and not place.is_dir():
        raise InputError(f"{place}: no such folder; hf: takes one that save_to_disk wrote, or a name on the hub")
    saved = any((place / file).is_file() for file in ("state.json", "dataset_dict.json"))
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its tries are not told one by one
    try:
        if saved:
            return datasets.load_from_disk(str(place))
        return datasets.load_dataset(str(place) if place.is_dir() else path, options.config)
    except Exception as error:  # of its own, of the hub's client, of the network and of the disk
        hint = "; on a machine without a network name a folder that save_to_disk wrote" if not place.is_dir() else ""
        hint = "; name one with config=" if "onfig name is missing" in str(error) else hint
        raise InputError(f"hf:{path} cannot be had ({one_line(error)}){hint}") from None
    finally:
        logging.set_verbosity(before)


def _labels(name: Path, parts: dict[str, Any], options: Options) -> dict[str, str]:
    """label and, where there is one, clean_label -> the column."""
    has = list(parts[TRAIN].features)
    target = options.target or TARGET
    if target not in has:
        raise InputError(
            f"{name}: has no column {target!r}, the labels; name another with target=COLUMN, it has: {', '.join(has)[:300]}"
        )
    clean = options.clean or "clean_label"
    if options.clean and clean not in has:
        raise unknown(f"column of clean labels of {name}", clean, has)
    for column in options.drop or ():
        if column not in has:
            raise unknown(f"column to drop of {name}", column, has)
    return {TARGET: target} | ({"clean_label": clean} if clean in has and clean != target else {})


def _inputs(name: Path, features: Any, told: dict[str, str], options: Options) -> tuple[str, str]:
    """The column of inputs and its kind; no column where all are features of a table. Raises InputError."""
    left = [c for c in features if c not in told.values() and c not in (options.drop or ())]
    if not left:
        raise InputError(f"{name}: has no column beside {', '.join(told.values())}; the others are the inputs")
    kinds = {c: _kind(features[c]) for c in left}
    if options.inputs:
        if options.inputs not in left:
            raise unknown(f"column of inputs of {name}", options.inputs, left)
        kind = kinds[options.inputs]
        if kind not in ("images", "vectors", "arrays"):
            raise InputError(f"{name}: inputs={options.inputs} is {kind or 'of a kind that is not read'}; {_TAKES}")
        return options.inputs, kind
    for kind in ("images", "vectors", "arrays"):
        if several := [c for c in left if kinds[c] == kind]:
            if len(several) > 1:
                raise InputError(
                    f"{name}: has {len(several)} columns of {kind}; name one with inputs=: {', '.join(several)}"
                )
            return several[0], kind
    if odd := [c for c in left if not kinds[c]]:
        raise InputError(
            f"{name}: column {odd[0]!r} is {features[odd[0]]!s:.80}; {_TAKES}; leave it out with drop={odd[0]}"
        )
    return "", "table"


_TAKES = "inputs are images, lists of numbers of one length, or columns of numbers and categories"


def _kind(feature: Any) -> str:
    """What a column may be: images, vectors, arrays, values (of a table); empty: none of these."""
    what = type(feature).__name__
    if what == "Image":
        return "images"
    if what in ARRAYS:
        return "arrays"
    if what in LISTS:
        inner = getattr(feature, "feature", None)
        number = type(inner).__name__ == "Value" and str(getattr(inner, "dtype", "")).startswith(
            ("float", "int", "uint")
        )
        return "vectors" if number else ""
    return "values" if what in ("Value", "ClassLabel") else ""


# --- labels and tables --------------------------------------------------------------------------------------------


def labelled(found: Found, options: Options) -> Labelled:
    """The rows of all splits as a table of text, the split in its last column. Raises InputError."""
    first = found.parts[TRAIN]
    kept = [c for c in first.column_names if found.kind == "table" or c in found.told.values()]
    several = len(found.parts) > 1
    header = [c for c in kept if c not in (options.drop or ()) and not (several and c == "split")]
    rows: list[list[str]] = []
    places: list[str] = []
    for what, part in found.parts.items():
        table = part.select_columns(header).with_format("arrow")[:]
        where = [f"split {what}, row {i}" if several else f"row {i}" for i in range(1, len(part) + 1)]
        texts = [_texts(found, c, part.features[c], table.column(c).to_pylist(), where) for c in header]
        rows += [[*row, *([what] * several)] for row in zip(*texts, strict=True)]
        places += where
    header += ["split"] * several
    told = found.told | ({"split": "split"} if several or found.kind == "table" else {})
    return _ordered(columns.labels_of(found.name, header, rows, places, told), found.names)


def _texts(found: Found, column: str, feature: Any, values: list[Any], where: Sequence[str]) -> list[str]:
    """A column as text: names of classes for their numbers."""
    label = column in found.told.values()
    names = getattr(feature, "names", None) or (found.names if label else None)
    if names and all(v is None or isinstance(v, int) for v in values):
        for v, at in zip(values, where, strict=True):
            if label and (v is None or not 0 <= v < len(names)):
                raise InputError(
                    f"{found.name}, {at}: {column} is {v}, which is no class; are the labels of this split withheld?"
                )
        values = [names[v] if v is not None and 0 <= v < len(names) else None for v in values]
    return [tables.field(v, f"{found.name}, {at}: {column}") for v, at in zip(values, where, strict=True)]


def _no_texts(found: Found, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Raises InputError where no column is left but texts that hardly repeat: nothing trains on those."""
    features = found.parts[TRAIN].features
    free = [c for c in header if c not in (*found.told.values(), "split")]

    def prose(column: str) -> bool:
        values = [row[header.index(column)] for row in rows]
        words = getattr(features[column], "dtype", "") in ("string", "large_string") and not hasattr(
            features[column], "names"
        )
        return words and len({*values}) > max(columns.MOST, len(values) // 2)

    if free and all(prose(c) for c in free):
        raise InputError(
            f"{found.name}: holds texts ({', '.join(free)}), which are not trained on as they are; make vectors of them with "
            f"raystudy embed 'hf:{found.name}' --text {free[0]} --backbone sentence-transformers:NAME --out FILE.npz"
        )


def _ordered(found: Labelled, names: Sequence[str] | None) -> Labelled:
    """The classes in the order that the data set gives them."""
    order = [n for n in map(tables.composed, names or ()) if n in found.classes]
    if sorted(order) != sorted(found.classes):
        return found
    place = np.array([order.index(c) for c in found.classes])
    return found._replace(classes=tuple(order), numbers={what: place[y] for what, y in found.numbers.items()})


def _of_split(found: Found, y: Array) -> dict[str, Array]:
    """Labels [all rows] -> by split."""
    ends = np.cumsum([len(part) for part in found.parts.values()])[:-1]
    return dict(zip(found.parts, np.split(y, ends), strict=True))


# --- images and vectors -------------------------------------------------------------------------------------------


def _listing(found: Found) -> Listing:
    import datasets

    told = labelled(found, Options())
    parts = {
        what: part.select_columns([found.inputs]).cast_column(found.inputs, datasets.Image(decode=False))
        for what, part in found.parts.items()
    }

    def stored(path: str) -> Array:
        what, i = path.split("/")
        image = parts[what][int(i)][found.inputs] or {}
        if image.get("bytes") is not None:
            return np.frombuffer(image["bytes"], dtype=np.uint8)
        return np.fromfile(image.get("path") or "no picture", dtype=np.uint8)

    label, clean = (_of_split(found, told.numbers.get(what, told.numbers[TARGET])) for what in (TARGET, "clean_label"))
    paths = {what: [f"{what}/{i}" for i in range(len(part))] for what, part in parts.items()}
    split = np.repeat(list(parts), [len(p) for p in paths.values()])
    notes, rows = _said(found), None
    train, y, given = paths[TRAIN], clean[TRAIN], label[TRAIN]
    if TEST in parts:
        test, y_test = paths[TEST], clean[TEST]
    else:
        tested = held_out(stored(path).tobytes() for path in train)
        rows = (np.flatnonzero(~tested).tolist(), np.flatnonzero(tested).tolist())
        if not all(rows):
            raise InputError(
                f"{found.name}: has {len(train)} images, of which no fifth can be held out; name a split with test="
            )
        split = np.where(tested, TEST, TRAIN)
        notes += (
            f"no split test: the test set is {len(rows[1]):,} of {len(train):,} images, "
            "chosen by what they hold, so the same on every machine",
        )
        test, y_test = [train[i] for i in rows[1]], y[tested]
        train, y, given = [train[i] for i in rows[0]], y[~tested], given[~tested]
    folder.learnable(
        told.table, told.classes, split, told.numbers[TARGET], told.numbers.get("clean_label", told.numbers[TARGET])
    )
    untested = [told.classes[c] for c in sorted({*y.tolist()} - {*y_test.tolist()})]
    return Listing(
        name=found.name.name,
        folder=found.name,
        train=train,
        y_train=y,
        test=test,
        y_test=y_test,
        classes=told.classes,
        label_sets={"given": given},
        truth="clean_label" in found.told,
        title=_title(str(found.name)),
        notes=notes + without_test(untested),
        rows=rows,
        stored=stored,
    )


def _arrays(found: Found, options: Options) -> Dataset:
    """Vectors, or images that are arrays, as an ``.npz`` would hold them."""
    told = labelled(found, options)
    label, clean = (_of_split(found, told.numbers.get(what, told.numbers[TARGET])) for what in (TARGET, "clean_label"))
    kind = "vectors" if found.kind == "vectors" else "images"
    x = {what: _array(found, what, part) for what, part in found.parts.items()}
    arrays: dict[str, Array] = {"x_train": x[TRAIN], "y_train": clean[TRAIN], "kind": np.array(kind)}
    arrays |= {"x_test": x[TEST], "y_test": clean[TEST]} if TEST in x else {}
    arrays |= {"y_noisy": label[TRAIN]} if "clean_label" in found.told else {}
    return npz.of(found.name, arrays | {"class_names": np.array(told.classes)})


def _array(found: Found, what: str, part: Any) -> Array:
    """The column of inputs of a split as one array. Raises InputError where its lists differ in length."""
    whole = part.select_columns([found.inputs]).with_format("numpy")[:][found.inputs]
    x = whole if isinstance(whole, np.ndarray) and whole.dtype != object else None
    if x is None or x.ndim < 2:
        rows = [() if row is None else row for row in whole]
        length = len(rows[0])
        i = next((i for i, row in enumerate(rows) if len(row) != length), 0)
        raise InputError(
            f"{found.name}, split {what}, row {i + 1}: {found.inputs} has {len(rows[i])} numbers, the first row has {length}; "
            "vectors are of one length"
        )
    feature = part.features[found.inputs]
    kind = np.dtype(getattr(feature, "feature", feature).dtype)  # the package reads small whole numbers as large ones
    return x.astype(np.float32 if found.kind == "vectors" and kind.kind in "iu" and kind != np.uint8 else kind)
