"""A user's own table of features (``csv:PATH``, ``parquet:PATH``) -> ``Dataset`` of vectors: numbers, categories and missing values.

What a column becomes is scikit-learn's doing, fitted on the training rows alone: numbers get the median where they are missing and a
column that says so, categories a column for each. Here belongs which columns are what, and the mistakes of tables.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from raystudy.data import folder, tables
from raystudy.data.dataset import Array, Dataset, build, without_test
from raystudy.data.spec import Options
from raystudy.data.tables import Table
from raystudy.data.vectors import feature_stats
from raystudy.errors import InputError, unknown

MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
MOST = 100  # columns that the categories of one column become
TARGET = "label"
Columns = dict[str, Any]  # what columns become, as JSON has it: see ``learnt``


class Labelled(NamedTuple):
    """A table of which every row has a label."""

    header: list[str]
    rows: list[list[str]]
    told: dict[str, str]  # label, clean_label, split: the column of the file that is each of them
    table: Table  # of those columns
    classes: tuple[str, ...]
    numbers: dict[str, Array]  # label and, where there is one, clean_label, as positions among the classes


def read(file: Path, options: Options) -> Dataset:
    """A .csv or .parquet with a column of labels (``target``: by default ``label``); optionally ``clean_label`` and ``split``.

    Every other column is a feature but for those that ``drop`` names: numbers where all its values are, else categories. ``clean_label``
    makes the labels the set "given" of a data set whose truth is known. Without ``split`` (train, test, val) a fifth of the rows, chosen by
    a digest of what they hold so that equal rows stay together, is the test set; a note says so. Raises InputError, one line with the
    table, its line and its first fault.
    """
    return of(labelled(file, options), file.stem, options.drop or ())


def of(found: Labelled, title: str, dropped: Collection[str] = ()) -> Dataset:
    """The data set of a table that was read, see ``read``."""
    header, rows, told, table, classes, numbers = found
    file, columns, places = table.file, table.columns, table.places
    features = [name for name in header if name not in (*told.values(), *dropped)]
    if not features:
        raise InputError(f"{file}: has no column beside {', '.join(told.values())}; the others are the features")
    if twice := [name for name in features if header.count(name) > 1]:
        raise InputError(f"{file}: has {header.count(twice[0])} columns {twice[0]!r}; give each a name of its own")
    frame = pd.DataFrame({name: [row[header.index(name)].strip() for row in rows] for name in features}, dtype=object)
    split = folder.splits_of(table, ["\x1f".join(row) for row in zip(*(frame[n] for n in features), strict=True)])
    folder.learnable(table, classes, split, numbers[TARGET], numbers.get("clean_label", numbers[TARGET]))
    parts = {name: np.flatnonzero(split == name) for name in folder.SPLITS}
    for name in ("train", "test"):
        if not len(parts[name]):
            raise InputError(f"{file}: has no {name} rows; its {len(rows)} rows are all of other splits")
    plan, kinds = learnt(file, frame, parts["train"], places)
    x = made(file, frame, plan, places)
    y = numbers.get("clean_label", numbers[TARGET])
    notes = [kinds]
    if "split" not in columns:
        shown = f"{len(parts['test']):,} of {len(rows):,} rows"
        notes.append(
            f"no column split: the test set is {shown}, chosen by what they hold, so the same on every machine"
        )
    untested = [classes[c] for c in sorted({*y[parts["train"]].tolist()} - {*y[parts["test"]].tolist()})]
    train, test = ((x[parts[name]], y[parts[name]]) for name in ("train", "test"))
    given = {"given": numbers[TARGET][parts["train"]]}
    data = build(file.name, train, test, classes, pad=0, flip=False, stats=feature_stats(train[0]), label_sets=given)
    extra = {"val": _tensors(x[parts["val"]], y[parts["val"]])} if len(parts["val"]) else {}
    notes += without_test(untested, "row")
    return replace(
        data,
        truth="clean_label" in columns,
        title=title,
        notes=tuple(notes),
        extra=extra,
        columns=plan | {"target": told[TARGET]},
        rows={"training": parts["train"].tolist(), "test": parts["test"].tolist()},
        ours="split" not in columns,
    )


def labelled(file: Path, options: Options) -> Labelled:
    """Reads a table whose rows have labels, and looks at its labels. Raises InputError, one line with the table and its line."""
    target, dropped = options.target or TARGET, options.drop or ()
    header, rows, places = tables.whole(file, target, dropped)
    for name in dropped:
        if name not in header:
            raise unknown(f"column to drop of {file}", name, header)
    if options.clean and options.clean not in header:
        raise unknown(f"column of clean labels of {file}", options.clean, header)
    told = {TARGET: target, "clean_label": options.clean or "clean_label", "split": "split"}
    return labels_of(file, header, rows, places, told)


def labels_of(
    file: Path, header: list[str], rows: list[list[str]], places: list[str], told: dict[str, str]
) -> Labelled:
    """A table by the columns that ``told`` names, those that it has; see ``labelled``."""
    told = {w: name for w, name in told.items() if w == TARGET or (name in header and name != told[TARGET])}
    columns = {what: [row[header.index(name)].strip() for row in rows] for what, name in told.items()}
    for what, values in columns.items():
        for i, value in enumerate(values):
            if value in MISSING:
                raise InputError(
                    f"{file}, {places[i]}: {told[what]} is empty; fill it everywhere, or leave the row out"
                )
    labels = {what: [tables.composed(v) for v in values] for what, values in columns.items() if what != "split"}
    table = Table(file, columns, places)
    return Labelled(header, rows, told, table, *folder.classes_of(table, labels))


def _tensors(x: Array, y: Array):  # type: ignore[no-untyped-def]
    import torch

    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64))


def learnt(file: Path, frame: pd.DataFrame, train: Array, places: Sequence[str]) -> tuple[Columns, str]:
    """What the columns become, by the training rows alone; and a sentence on it.

    ``numbers``: each with its median, ``holes``: those that were missing somewhere and have a feature that says so, ``categories``: each
    with its values, and whether rare ones and unknown ones share a feature.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    told = _told(frame)
    numeric = {name: values for name in frame if (values := _numbers(file, told[name], places)) is not None}
    named = [name for name in frame if name not in numeric]
    for name in named:
        count = told[name].iloc[train].nunique()
        if count > max(MOST, len(train) // 2):
            raise InputError(
                f"{file}: column {name!r} holds {count:,} different texts in {len(train):,} training rows, so it is no category; "
                f"leave it out with drop={name}"
            )
    plan: Columns = {"numbers": [], "holes": [], "categories": []}
    if numeric:
        numbers = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
        numbers.fit(np.stack([values[train] for values in numeric.values()], 1))
        medians = np.nan_to_num(
            numbers.statistics_
        )  # of a column that is empty in all training rows 0, as scikit-learn has it
        plan["numbers"] = [[name, float(m)] for name, m in zip(numeric, medians, strict=True)]
        plan["holes"] = [list(numeric)[i] for i in numbers.indicator_.features_]
    for name in named:
        coder = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MOST)
        coder.fit(told[name].iloc[train].fillna("").to_numpy(dtype=object)[:, None])
        rare = coder.infrequent_categories_[0]
        known = [v for v in coder.categories_[0].tolist() if rare is None or v not in set(rare)]
        plan["categories"].append([name, known, rare is not None])
    holes = [name for name in frame if told[name].isna().any()]
    kinds = [f"{len(names)} {what}" for names, what in ((numeric, "of numbers"), (named, "of categories")) if names]
    filled = f"; missing values in {len(holes)} ({', '.join(holes[:3])}{', ...' * (len(holes) > 3)})" if holes else ""
    return plan, f"columns {' and '.join(kinds)}, as {width(plan)} features{filled}"


def width(plan: Columns) -> int:
    """Features that the columns become."""
    return len(plan["numbers"]) + len(plan["holes"]) + sum(len(v) + rare for _, v, rare in plan["categories"])


def made(file: Path, frame: pd.DataFrame, plan: Columns, places: Sequence[str]) -> Array:
    """Rows as vectors float32 [N, d]. Raises InputError for a text where a number was learnt."""
    told = _told(frame)
    parts: list[Array] = []
    numbers: dict[str, Array] = {}
    for name, median in plan["numbers"]:
        values = _numbers(file, told[name], places)
        if values is None:
            i = next(i for i, v in enumerate(told[name]) if v == v and v is not None and not _is_number(v))
            raise InputError(f"{file}, {places[i]}: {name} is {told[name].iloc[i]!r}; it is a column of numbers")
        numbers[name] = values
        parts.append(np.where(np.isnan(values), median, values)[:, None])
    parts += [np.isnan(numbers[name])[:, None] for name in plan["holes"]]
    for name, known, rare in plan["categories"]:
        column = told[name].fillna("").to_numpy(dtype=object)
        hot = column[:, None] == np.array(known, dtype=object)[None]
        parts += [hot, ~hot.any(1, keepdims=True)] if rare else [hot]
    return np.concatenate(parts, 1).astype(np.float32)


def rows(file: Path, plan: Columns) -> tuple[Array, list[str] | None]:
    """The rows of another table as vectors [N, d], and its labels where it has the column of them. Raises InputError."""
    names = [name for name, *_ in (*plan["numbers"], *plan["categories"])]
    header, found, places = tables.every(file, names)
    for name in names:
        if header.count(name) != 1:
            raise InputError(
                f"{file}: has {header.count(name) or 'no'} column {name!r}, which the model was trained on"
            )
    if not found:
        raise InputError(f"{file}: has no rows")
    frame = pd.DataFrame({name: [row[header.index(name)].strip() for row in found] for name in names}, dtype=object)
    at = header.index(plan["target"]) if plan["target"] in header else None
    return made(file, frame, plan, places), None if at is None else [tables.composed(row[at]) for row in found]


def _told(frame: pd.DataFrame) -> pd.DataFrame:
    """None where missing."""
    return frame.where(~frame.isin(MISSING))


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _numbers(file: Path, column: pd.Series, places: Sequence[str]) -> Array | None:
    """A column as numbers, NaN where missing; None where it holds a text. Raises InputError for one that is infinite."""
    out = np.full(len(column), math.nan)
    for i, value in enumerate(column):
        if value is None or value != value:
            continue
        try:
            out[i] = float(value)
        except ValueError:
            return None
        if not abs(out[i]) < 1e30:
            raise InputError(f"{file}, {places[i]}: {column.name} is {value}; a number must be finite, and below 1e30")
    return out
