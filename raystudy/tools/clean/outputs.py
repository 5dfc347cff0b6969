"""What is left of a cleaning: labels.csv, the cleaned labels or data, suspects.html; and the paragraph that sums it up."""

import csv
import io
import os
from pathlib import Path

import numpy as np

from raystudy.data import columns, datasets
from raystudy.errors import InputError
from raystudy.learn.celldata import in_memory
from raystudy.tools.clean.examine import Examined
from raystudy.tools.clean.judge import Judged, reason
from raystudy.tools.clean.page import page

LABELS, CLEANED, SUSPECTS = "labels.csv", "cleaned", "suspects.html"
UNSURE = ("drop", "keep")


def refuse(out: Path, force: bool) -> None:
    """InputError where ``out`` cannot be written to, before anything is computed."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; it takes a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InputError(
            f"--out {out} is not empty; name another folder, or --force to write over what was written there"
        )


def rows(found: Examined) -> list[list[str]]:
    """labels.csv: a row a label, in the order of the data set."""
    told, classes = found.judged, found.data.classes
    table = [["path" if found.data.paths else "index", "given", "suggested", "quality", "issue", "reason"]]
    for i, y in enumerate(told.given):
        why = reason(told, i, classes) if told.issue[i] else ""
        issue = "yes" if told.issue[i] else "no"
        table.append(
            [str(found.names[i]), classes[y], classes[told.suggested[i]], f"{told.quality[i]:.4f}", issue, why]
        )
    return table


def cleaned(told: Judged, unsure: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions that stay [M] and their labels [M]: suggested where sure; what is neither right nor wrong for sure is dropped or kept."""
    stays = told.kept if unsure == "drop" else np.ones(len(told.given), dtype=bool)
    return np.flatnonzero(stays), np.where(told.sure, told.suggested, told.given)[stays]


def lost(found: Examined, unsure: str = "drop") -> str:
    """A sentence on the classes of which the cleaned data have no sample any more; empty where all are there."""
    _, labels = cleaned(found.judged, unsure)
    gone = np.setdiff1d(found.judged.given, labels).tolist()
    if not gone:
        return ""
    few = ", ".join(found.data.classes[c] for c in gone[:5]) + ", ..." * (len(gone) > 5)
    text = f"no label of {few} is left in the cleaned data; --unsure keep leaves what is not sure"
    return text + (
        "; and with fewer than two classes they cannot be trained on" if len(set(labels.tolist())) < 2 else ""
    )


def write(found: Examined, out: Path, unsure: str = "drop") -> list[Path]:
    """Writes all files into ``out`` and returns them; each takes its place when all are whole."""
    out.mkdir(parents=True, exist_ok=True)
    stays, labels = cleaned(found.judged, unsure)
    contents = {LABELS: _csv(rows(found)).encode(), SUSPECTS: page(found).encode()}
    if found.dataset.startswith("npz:") or (found.dataset.startswith("hf:") and found.data.columns is None):
        contents[f"{CLEANED}.npz"] = _npz(found, stays, labels)
    else:
        contents[f"{CLEANED}.csv"] = _csv(_table(found, stays, labels)).encode()
    parts = {out / name: out / f".{name}.{os.getpid()}" for name in contents}
    try:
        for (_, part), told in zip(parts.items(), contents.values(), strict=True):
            part.write_bytes(told)
        for file, part in parts.items():
            os.replace(part, file)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(parts)


def _tested(found: Examined, labels: np.ndarray) -> np.ndarray:
    """Positions of the test samples whose class is still trained on: a data set with others cannot be read."""
    return np.flatnonzero(np.isin(found.data.y_test.numpy(), labels))


def _npz(found: Examined, stays: np.ndarray, labels: np.ndarray) -> bytes:
    """The cleaned data as they were laid out: where the file had no test set, its samples stand among the others again."""
    data, tested = found.data, _tested(found, labels)
    x, x_test = (
        np.moveaxis(a, 1, 3) if a.ndim == 4 else a
        for a in (in_memory(found.images)[stays].numpy(), in_memory(data.x_test)[tested].numpy())
    )
    places = np.array([int(str(name).rpartition("/")[2]) for name in found.names])  # of images of hf: train/7
    index, y_test = places[stays], data.y_test.numpy()[tested]
    arrays = {"class_names": np.array(data.classes), "kind": np.array(data.kind)}
    if data.rows:
        index = np.concatenate([index, np.array(data.rows["test"], dtype=np.int64)[tested]])
        order = np.argsort(index)
        x, labels, index = np.concatenate([x, x_test])[order], np.concatenate([labels, y_test])[order], index[order]
    else:
        arrays |= {"x_test": x_test, "y_test": y_test}
    held = io.BytesIO()
    np.savez(held, x_train=x, y_train=labels, index=index, **arrays)  # type: ignore[arg-type]
    return held.getvalue()


def _table(found: Examined, stays: np.ndarray, labels: np.ndarray) -> list[list[str]]:
    """The cleaned labels: of a table of features the table, with its column of labels cleaned; of pictures path, label, split."""
    data = found.data
    named = [(found.names[i], data.classes[y], "train") for i, y in zip(stays, labels, strict=True)]
    if data.rows and not data.paths:
        told = datasets.labelled(found.dataset)
        at, new = told.header.index(told.told[columns.TARGET]), {int(i): label for i, label, _ in named}
        new = {i: row[at] for i, row in enumerate(told.rows)} | dict.fromkeys(data.rows["training"], "") | new
        return [told.header, *([*r[:at], new[i], *r[at + 1 :]] for i, r in enumerate(told.rows) if new[i])]
    if not data.paths:
        return [["index", "label"], *([str(i), label] for i, label, _ in named)]
    if not len(data.y_test):  # all of them were judged, and nobody told which are for tests
        return [["path", "label"], *([str(p), label] for p, label, _ in named)]
    tested = data.y_test.numpy()
    named += [(data.paths["test"][i], data.classes[tested[i]], "test") for i in _tested(found, labels)]
    if "val" in data.extra:
        y = data.extra["val"][1].tolist()
        named += [(p, data.classes[c], "val") for p, c in zip(data.paths["validation"], y, strict=True) if c in labels]
    return [["path", "label", "split"], *([str(p), label, split] for p, label, split in named)]


def _csv(table: list[list[str]]) -> str:
    held = io.StringIO()
    csv.writer(held, lineterminator="\n").writerows(table)
    return held.getvalue()


def confused(found: Examined, most: int = 3) -> list[tuple[str, str, int]]:
    """The pairs (given, suggested) with most issues, and how many."""
    told, k = found.judged, len(found.data.classes)
    counts = np.bincount(told.given[told.issue] * k + told.suggested[told.issue], minlength=k * k)
    order = np.argsort(-counts, kind="stable")[:most]
    names = found.data.classes
    return [(names[i // k], names[i % k], int(counts[i])) for i in order if counts[i]]


def summary(found: Examined) -> str:
    """One paragraph: the estimated rate, what is confused, what to look at first."""
    told = found.judged
    n, issues, sure = len(told.given), int(told.issue.sum()), int(told.sure.sum())
    low, high = told.estimate.rate_interval
    share = (
        f"an estimated {told.estimate.rate:.1%} of the {n:,} labels are wrong (95 % interval {low:.1%} to {high:.1%})"
    )
    text = (
        f"{found.data.name}, {found.came}: {share}. {issues:,} labels look wrong; for {sure:,} the suggestion is sure. "
    )
    if pairs := confused(found):
        named = ", ".join(f"{a} that look like {b} ({c:,})" for a, b, c in pairs)
        text += f"Most confused: labels {named}. Look first at the top of {SUSPECTS}, with the pair {pairs[0][0]} -> {pairs[0][1]}."
    else:
        text += "Nothing to look at."
    return text
