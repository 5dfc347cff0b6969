"""A user's table of texts and labels (.csv, .parquet, hf:) -> ``Texts``. What makes vectors takes them; nothing trains on texts."""

from dataclasses import dataclass

import numpy as np

from raystudy.data import folder
from raystudy.data.columns import MISSING, Labelled
from raystudy.data.dataset import Array
from raystudy.errors import InputError, unknown


@dataclass(frozen=True)
class Texts:
    """Texts and their labels."""

    name: str
    train: list[str]  # N
    test: list[str]  # M
    y_train: Array  # [N] int64, clean where ``truth``, else the labels that there are
    y_test: Array  # [M]
    given: Array  # [N] the labels that came with the texts
    classes: tuple[str, ...]
    truth: bool
    left_out: int  # rows of the split val
    notes: tuple[str, ...]


def of(found: Labelled, column: str) -> Texts:
    """The texts of a column, with labels and split as ``columns.read`` has them; the split's digest is of the text alone."""
    header, rows, told, table, classes, numbers = found
    file = table.file
    if header.count(column) != 1 or column in told.values():
        raise unknown(f"column of texts in {file}", column, [h for h in header if h and h not in told.values()])
    texts = [row[header.index(column)].strip() for row in rows]
    for i, text in enumerate(texts):
        if text in MISSING:
            raise InputError(f"{table.where(i)}: {column} is empty; fill it everywhere, or leave the row out")
    split = folder.splits_of(table, texts)
    y = numbers.get("clean_label", numbers["label"])
    folder.learnable(table, classes, split, numbers["label"], y)
    train, test = (np.flatnonzero(split == name) for name in ("train", "test"))
    for name, part in (("train", train), ("test", test)):
        if not len(part):
            raise InputError(f"{file}: has no {name} rows; its {len(rows)} rows are all of other splits")
    shown = f"{len(test):,} of {len(rows):,} rows"
    note = f"no column split: the test set is {shown}, chosen by their texts, so the same on every machine"
    return Texts(
        file.name,
        [texts[i] for i in train],
        [texts[i] for i in test],
        y[train],
        y[test],
        numbers["label"][train],
        classes,
        "clean_label" in numbers,
        int((split == "val").sum()),
        () if "split" in told else (note,),
    )
