"""A study's ledger as one compact Parquet file, and back: what is published of the reference studies.

A row is a trial, its curves are lists, and the study and the header of each cell are in the file, so a folder can be made of it again that
every command reads. What is left out is what tells nothing of the methods: workers, retries, and curves that are not in ``CURVES``.
"""

import json
import math
import tempfile
import zlib
from array import array
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from analysis import load
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory, TrialHistory

CURVES = (
    *("val/acc", "test/acc", "train/loss", "train/acc", "label/memorised", "label/corrected"),
    *("select/auroc", "method/collapsed", "cost/seconds", "cost/passes"),
)
FORMAT = b"raystudy ledger 1"
PLAIN = ("key", "number", "origin", "seed", "state", "reason", "started", "ended", "planned")


def portable(dataset: str) -> str:
    """A data set's name without the folder that its file lay in: ``npz:/a/b.npz`` is ``npz:b.npz``."""
    kind, colon, where = dataset.partition(":")
    return f"{kind}:{PurePath(where).name}" if colon and "/" in where else dataset


def write(folder: Path, path: Path) -> int:
    """Writes the study in ``folder`` to ``path``, whole or not at all; trials that have not ended are left out.

    Returns the number of trials. Raises InputError for a folder that holds no study.
    """
    study, histories = load.study(folder, CURVES)
    text, headers, rows = study.to_toml(), {}, []
    names = {name: portable(name) for name in study.datasets}
    if len(set(names.values())) < len(names):
        raise InputError(f"{folder}: two of its data sets would have one name: {', '.join(sorted(names))}")
    for name, plain in names.items():
        text = text.replace(json.dumps(name), json.dumps(plain))
    for place, (cell, history) in enumerate(histories.items()):
        told = {**history.header, "cell": {**cell.to_dict(), "dataset": names[cell.dataset]}}
        headers[place] = {"key": history.key, **told}
        for t in history.trials.values():
            if t.state != "running":
                row = {"cell": place, "point": json.dumps(t.point), "oracle": list(t.oracle), "times": list(t.times)}
                rows.append(row | {k: getattr(t, k) for k in PLAIN} | {m: list(c) for m, c in t.curves.items()})
    schema = pa.schema(
        [("cell", pa.int32()), ("point", pa.string()), ("oracle", pa.list_(pa.string()))]
        + [(k, pa.string() if k in ("key", "origin", "state", "reason") else pa.int64()) for k in PLAIN]
        + [("times", pa.list_(pa.int64())), *((m, pa.list_(pa.float64())) for m in CURVES)],
        metadata={b"format": FORMAT, b"study": text.encode(), b"cells": zlib.compress(json.dumps(headers).encode(), 9)},
    )
    beside = path.with_name(path.name + ".part")
    pq.write_table(pa.Table.from_pylist(rows, schema), beside, compression="zstd", compression_level=19)
    beside.replace(path)
    return len(rows)


def read(path: Path) -> tuple[Study, dict[Cell, CellHistory]]:
    """The study in a file that ``write`` wrote, as ``analysis.load.study`` gives that of a folder. Raises InputError for another file."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as e:
        raise InputError(f"{path}: cannot be read as a reference study ({str(e).splitlines()[0]})") from None
    told: dict[bytes, bytes] = table.schema.metadata or {}
    if told.get(b"format") != FORMAT:
        raise InputError(f"{path}: not a reference study of raystudy")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "study.toml"
        file.write_bytes(told[b"study"])
        study = Study.from_toml(file)
    headers = {int(place): header for place, header in json.loads(zlib.decompress(told[b"cells"])).items()}
    histories = {place: CellHistory(header.pop("key"), header) for place, header in headers.items()}
    for row in table.to_pylist():
        histories[row["cell"]].trials[row["key"]] = _trial(row)
    return study, {Cell.from_dict(h.header["cell"]): h for h in histories.values()}


def restore(path: Path, storage: Path, data: Path | None = None) -> Path:
    """Makes the study's folder again in ``storage``, its ledger with the events it had; ``data``: the folder its files lie in now.

    Returns the study's folder. Raises InputError where there is one of this name.
    """
    study, histories = read(path)
    where = {d: located(d, data) if data else d for d in study.datasets}
    text = study.to_toml()
    for name, place in where.items():
        text = text.replace(json.dumps(name), json.dumps(place))
    folder = storage / study.name
    if (folder / "study.toml").exists():
        raise InputError(f"{folder}: there is a study already")
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    for cell, history in histories.items():
        moved = replace(cell, dataset=where[cell.dataset])
        told = [{**history.header, "cell": moved.to_dict()}]
        for t in history.trials.values():
            told += _events(t)
        lines = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in told)
        (folder / "cells" / f"{moved.key}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "study.toml").write_text(text, encoding="utf-8")  # last: without it there is no study
    return folder


def located(dataset: str, data: Path) -> str:
    """``npz:b.npz`` with the folder its file lies in now."""
    kind, colon, name = dataset.partition(":")
    return f"{kind}:{data.absolute() / name}" if colon else dataset


def _events(t: TrialHistory) -> list[dict[str, Any]]:
    """What the ledger told of a trial that has ended."""
    first: dict[str, Any] = {
        "event": "trial",
        **{k: getattr(t, k) for k in ("key", "number", "origin", "point", "seed")},
    }
    first |= {"oracle": list(t.oracle)} if t.oracle else {}
    first |= {"epochs": t.planned} if t.planned else {}
    told = [{**first, "time": t.started}]
    for epoch, time in enumerate(t.times):
        metrics = {m: c[epoch] for m, c in t.curves.items() if not math.isnan(c[epoch])}
        told.append({"event": "record", "key": t.key, "epoch": epoch, "metrics": metrics, "time": time})
    return [*told, {"event": "end", "key": t.key, "state": t.state, "reason": t.reason, "time": t.ended}]


def _trial(row: dict[str, Any]) -> TrialHistory:
    curves = {m: array("d", row[m]) for m in CURVES if row[m]}
    plain = {k: row[k] for k in PLAIN}
    return TrialHistory(
        point=json.loads(row["point"]),
        oracle=tuple(row["oracle"]),
        times=array("q", row["times"]),
        curves=curves,
        **plain,
    )
