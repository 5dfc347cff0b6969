"""What is left of a cleaning: labels.csv, the cleaned labels or data, suspects.html; and the paragraph that sums it up."""

import csv
import io
import os
from pathlib import Path

import numpy as np

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
    above = next((p for p in out.absolute().parents if p.exists()), out.absolute().parent)
    if not above.is_dir():
        raise InputError(f"--out {out}: {above} is a file, so nothing can be written below it")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise InputError(
            f"--out {out} is not empty; name another folder, or --force to write over what was written there"
        )


def rows(found: Examined) -> list[list[str]]:
    """labels.csv: a row a label, in the order of the data set."""
    told, classes = found.judged, found.data.classes
    named = found.data.paths.get("training")
    table = [[_named(found), "given", "suggested", "quality", "issue", "reason"]]
    for i, y in enumerate(told.given):
        why = reason(told, i, classes) if told.issue[i] else ""
        issue = "yes" if told.issue[i] else "no"
        name = named[i] if named else str(i)
        table.append([name, classes[y], classes[told.suggested[i]], f"{told.quality[i]:.4f}", issue, why])
    return table


def _named(found: Examined) -> str:
    """What a sample is known by: its path, its place in a table, its position."""
    if not found.data.paths.get("training"):
        return "index"
    return "path" if found.data.kind == "images" else "row"


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
    data = found.data
    if found.dataset.startswith("npz:"):
        held = io.BytesIO()
        x = in_memory(found.images)[stays].numpy()
        x = np.moveaxis(x, 1, 3) if x.ndim == 4 else x
        x_test = in_memory(data.x_test).numpy()
        x_test = np.moveaxis(x_test, 1, 3) if x_test.ndim == 4 else x_test
        tested = {"x_test": x_test, "y_test": data.y_test.numpy()} if len(x_test) else {}
        np.savez(
            held, x_train=x, y_train=labels, **tested,  # type: ignore[arg-type]
            index=stays, class_names=np.array(data.classes), kind=np.array(data.kind),
        )  # fmt: skip
        contents[f"{CLEANED}.npz"] = held.getvalue()
    else:
        named = data.paths.get("training")
        lines = [[named[i] if named else str(i), data.classes[y]] for i, y in zip(stays, labels, strict=True)]
        contents[f"{CLEANED}.csv"] = _csv([[_named(found), "label"], *lines]).encode()
    parts = {out / name: out / f".{name}.{os.getpid()}" for name in contents}
    try:
        for (_, part), told in zip(parts.items(), contents.values(), strict=True):
            part.write_bytes(told)
        for file, part in parts.items():
            os.replace(part, file)
        for name in {f"{CLEANED}.csv", f"{CLEANED}.npz"} - set(contents):
            (out / name).unlink(missing_ok=True)  # of an earlier cleaning, which these are not
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return list(parts)


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
