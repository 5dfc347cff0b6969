"""``raystudy export``: a study for other programs. Tables, an Optuna storage, a tabular benchmark; all from the ledger, none read back.

Here belong the formats that others read (docs/export.md describes every column). Each file is written beside its place and moved there,
so that a reader sees the old export or the new one.

The Optuna storage holds one Optuna study a cell with the trials of its search in the order they were proposed: COMPLETE with the value
Optuna was told, PRUNED with its curve, FAIL for diverged and failed. Replicates are no proposals and unfinished trials have no result: they
stand in the tables only.
"""

import json
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from analysis import load
from analysis.select import BALANCED, RULES, balanced, chosen, objective, replicates
from analysis.suspects import PARTS, WORST, left, rows, trusted
from raystudy.design import space
from raystudy.design.space import Dimension, Space
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory, TrialHistory
from raystudy.running.samplers import STATES

Histories = Mapping[Cell, CellHistory]
OPTUNA = "optuna.log"  # Optuna's journal: a line a trial, where SQLite would take a row a value


def export(folder: Path, out: Path) -> dict[Path, str]:
    """Writes a study's export into ``out``. Returns the files and what they hold. Raises InputError if it cannot be written."""
    study, histories = load.study(folder)
    if not histories:
        raise InputError(f"study {study.name} has no cell that was begun; there is nothing to export")
    try:
        out.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=out))
    except OSError as e:
        raise InputError(f"cannot write to {out}: {e.strerror}") from None
    try:
        told: dict[str, str] = {}
        for name, table in (("trials", trials(study, histories)), ("records", records(histories))):
            table.to_parquet(scratch / f"{name}.parquet", index=False)
            table.to_csv(scratch / f"{name}.csv", index=False)
            told |= {
                f"{name}.{kind}": f"{len(table)} {name}, {len(table.columns)} columns" for kind in ("parquet", "csv")
            }
        doubted = suspects(study, histories, folder)
        if len(doubted):
            worst = doubted[
                doubted["rank"] <= (WORST * doubted.groupby(["cell", "part"])["rank"].transform("size")).clip(1)
            ]
            doubted.to_parquet(scratch / "suspects.parquet", index=False)
            worst.to_csv(scratch / "suspects.csv", index=False)
            told["suspects.parquet"] = f"{len(doubted)} images of cells, the most distrusted of each cell first"
            told["suspects.csv"] = f"of these the worst {WORST:.0%}, {len(worst)} rows"
        n = to_optuna(study, histories, scratch / OPTUNA)
        told[OPTUNA] = (
            f"{len(histories)} Optuna studies, {n} trials; look at them with: optuna-dashboard {out / OPTUNA}"
        )
        n = benchmark(study, histories, scratch)
        told["benchmark.parquet"] = f"{n} trainings, each with its point and its curves"
        told["benchmark.json"] = "what benchmark.parquet holds: cells, spaces, columns"
        for name in told:
            os.replace(scratch / name, out / name)
        return {out / name: what for name, what in told.items()}
    except OSError as e:
        raise InputError(f"cannot write to {out}: {e.strerror or e}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


# ------------------------------------------------------------------------------------------------------------- tables


def trials(study: Study, histories: Histories) -> pd.DataFrame:
    """A row a trial: where it stands in the grid, its point (``hp.NAME``), how it ended, its test accuracy under every rule."""
    rows = []
    for cell, history in histories.items():
        for t in history.trials.values():
            row = _place(study, cell, history) | {
                "key": t.key,
                "number": t.number,
                "origin": t.origin,
                "seed": t.seed,
                "state": t.state,
                "reason": t.reason,
                "oracle": " ".join(t.oracle),
                "epochs": t.epochs,
                "started": _utc(t.started),
                "ended": _utc(t.ended) if t.ended else None,
                "seconds": math.fsum(v for v in t.curves.get("cost/seconds", ()) if not math.isnan(v)),
                "objective": objective(t.curves.get(study.objective, ())),
            }
            row |= {f"test.{rule}": f(t) if t.epochs else math.nan for rule, f in RULES.items()}
            if BALANCED in t.curves:
                row["test.balanced"] = balanced([t]).mean
            rows.append(row | {f"hp.{name}": _plain(v) for name, v in t.point.items()})
    table = pd.DataFrame(rows)
    for name in table.columns:  # a column of one kind each: Parquet has no other
        if name.startswith("hp.") and table[name].map(type).nunique() > 1 and not _numbers(table[name]):
            table[name] = table[name].map(lambda v: None if _missing(v) else str(v))
    return table


def _numbers(column: "pd.Series[Any]") -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in column)


def _missing(v: object) -> bool:
    return v is None or (isinstance(v, float) and math.isnan(v))


def _plain(v: object) -> object:
    """A value that a table holds: lists as JSON."""
    return json.dumps(v) if isinstance(v, list | tuple | dict) else v


def _utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def _place(study: Study, cell: Cell, history: CellHistory) -> dict[str, Any]:
    return {
        "study": study.name,
        "cell": cell.key,
        "method": cell.method,
        "dataset": cell.dataset,
        "noise": cell.noise.kind,
        "variant": cell.noise.variant,
        "rate": cell.noise.rate,
        "noise_seed": cell.noise.seed,
        "network": study.network_of(cell),
        "recipe": study.recipe_of(cell),
        "effective_rate": history.header.get("effective_rate", math.nan),
    } | ({"filter": chosen} if (chosen := study.filter_of(cell)) else {})


def records(histories: Histories) -> pd.DataFrame:
    """A row an epoch of a trial, a column a measure; empty where it was not measured."""
    flat = [(cell, t) for cell, history in histories.items() for t in history.trials.values() if t.epochs]
    lengths = [t.epochs for _, t in flat]

    def each(values: Iterable[Any]) -> "pd.Categorical":
        """A name a trial, over its epochs."""
        codes, names = pd.factorize(np.array(list(values), dtype=object))
        return pd.Categorical.from_codes(np.repeat(codes, lengths), categories=names)

    columns: dict[str, Any] = {
        "cell": each(cell.key for cell, _ in flat),
        "method": each(cell.method for cell, _ in flat),
        "key": each(t.key for _, t in flat),
        "number": np.repeat(np.array([t.number for _, t in flat], dtype=np.int64), lengths),
        "epoch": np.concatenate([np.arange(n) for n in lengths]) if flat else np.array([], dtype=np.int64),
        "time": pd.to_datetime(np.array([w for _, t in flat for w in t.times], dtype=np.int64), unit="ms", utc=True),
    }
    for name in dict.fromkeys(name for _, t in flat for name in t.curves):
        missing = {n: np.full(n, math.nan) for n in set(lengths)}
        columns[name] = np.concatenate([np.asarray(t.curves.get(name, missing[t.epochs])) for _, t in flat])
    return pd.DataFrame(columns)


def suspects(study: Study, histories: Histories, folder: Path) -> pd.DataFrame:
    """A row an image and cell: how far the replicates of the chosen point trust its given label (``analysis.suspects``), by rank.

    Empty where no replicate left what it holds of single images.
    """
    found = []
    for cell, history in histories.items():
        arrays = left(folder, replicates(history, chosen(history, study.objective)))
        for part in PARTS:
            if trust := trusted(arrays, part):
                told = {"cell": cell.key, "method": cell.method, "part": part, "measure": trust.measure}
                columns = rows(trust, np.arange(len(trust.image)))
                found.append(pd.DataFrame(told | columns | {"replicates": trust.replicates}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


# ------------------------------------------------------------------------------------------------------------- Optuna


def distributions(found: Space | None, points: list[dict[str, Any]]) -> dict[str, BaseDistribution]:
    """Where the parameters of a cell's points may lie: the search space, widened to the points where it has changed since.

    Without a space (a method that is no more) it is the span of the points.
    """
    values: dict[str, list[Any]] = {}
    for point in points:
        for name, value in point.items():
            values.setdefault(name, []).append(value)
    known = {d.name: d for d in found.dimensions} if found else {}
    switches = {d.switch for d in known.values() if d.or_zero}
    out: dict[str, BaseDistribution] = {}
    for name, seen in values.items():
        d = known.get(name)
        if name in switches:
            out[name] = CategoricalDistribution([False, True])
        elif (d and d.choices) or any(isinstance(v, str | bool) or v is None for v in seen):
            out[name] = CategoricalDistribution(list(dict.fromkeys([*(map(_plain, d.choices) if d else ()), *seen])))
        else:
            low, high = min([*seen, d.low] if d else seen), max([*seen, d.high] if d else seen)
            integer = all(isinstance(v, int) for v in seen)
            log = bool(d and d.log and low > 0)
            out[name] = IntDistribution(int(low), int(high), log) if integer else FloatDistribution(low, high, log)
    return out


def to_optuna(study: Study, histories: Histories, file: Path) -> int:
    """Writes the Optuna storage. Returns how many trials it holds."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    count = 0
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
        direction = StudyDirection.MINIMIZE if study.objective.endswith("loss") else StudyDirection.MAXIMIZE
        for cell, history in histories.items():
            told = optuna.create_study(storage=storage, study_name=f"{study.name} {cell.key}", direction=direction)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # experimental since Optuna 3.2
                told.set_metric_names([study.objective])
            for name, value in {**_place(study, cell, history), "versions": history.header.get("versions")}.items():
                told.set_user_attr(name, value)
            searched = [t for t in history.trials.values() if t.origin != "replicate" and t.state != "running"]
            found = _space(cell.method)
            params = [_params(found, t) for t in searched]
            where = distributions(found, params)
            for trial, point in zip(searched, params, strict=True):
                told.add_trial(_frozen(study, trial, point, {name: where[name] for name in point}))
            count += len(searched)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return count


def _space(method: str) -> Space | None:
    try:
        return space.load(method)
    except InputError:
        return None


def _params(found: Space | None, trial: TrialHistory) -> dict[str, Any]:
    """A point as Optuna had it, with the switches of dimensions that may be 0; what the space does not name as it is."""
    dimensions = {d.name: d for d in found.dimensions} if found else {}
    out: dict[str, Any] = {}
    for name, value in trial.point.items():
        out |= dimensions[name].params(value, False) if name in dimensions else {name: value}
    return {name: _plain(value) for name, value in out.items()}


def _frozen(
    study: Study, trial: TrialHistory, params: dict[str, Any], where: dict[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    curve = trial.curves.get(study.objective, ())
    value, state = objective(curve), STATES[trial.state]
    if state == TrialState.COMPLETE and math.isnan(value):
        state = TrialState.FAIL
    attrs = {
        "raystudy.key": trial.key,
        "raystudy.number": trial.number,
        "raystudy.origin": trial.origin,
        "seed": trial.seed,
    }
    attrs |= {"raystudy.state": trial.state, "raystudy.reason": trial.reason, "raystudy.oracle": list(trial.oracle)}
    frozen = optuna.create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE else None,
        params=params,
        distributions=where,
        user_attrs=attrs,
        intermediate_values={epoch: v for epoch, v in enumerate(curve) if math.isfinite(v)},
    )
    frozen.datetime_start, frozen.datetime_complete = _utc(trial.started), _utc(trial.ended or trial.started)
    return frozen


# ---------------------------------------------------------------------------------------------------------- benchmark

CURVES = ("val/acc", "val/loss", "test/acc", "train/loss", "cost/seconds", "cost/passes")


def benchmark(study: Study, histories: Histories, folder: Path) -> int:
    """Writes ``benchmark.parquet`` (a row a training: its point, its curves as lists) and ``benchmark.json`` (what these are)."""
    rows = [(c, t) for c, h in histories.items() for t in h.trials.values() if t.epochs and t.state != "failed"]
    curves = [name for name in CURVES if any(name in t.curves for _, t in rows)]
    names = sorted({name for _, t in rows for name in t.point})
    columns: dict[str, Any] = {
        "cell": [c.key for c, _ in rows],
        "key": [t.key for _, t in rows],
        "point": [json.dumps(t.point, sort_keys=True) for _, t in rows],
        "seed": [t.seed for _, t in rows],
        "origin": [t.origin for _, t in rows],
        "epochs": [t.epochs for _, t in rows],
        "censored": [t.state != "complete" for _, t in rows],
    }
    columns |= {f"curve.{name}": [list(t.curves.get(name, ())) for _, t in rows] for name in curves}
    pq.write_table(pa.table(columns), folder / "benchmark.parquet")
    cells = {}
    for cell, history in histories.items():
        found, mine = _space(cell.method), [t for c, t in rows if c is cell]
        cells[cell.key] = _place(study, cell, history) | {
            "space": {d.name: _dimension(d) for d in found.dimensions} if found else {},
            "epochs": study.epochs_of(cell),
            "trainings": len(mine),
            "whole": sum(t.state == "complete" for t in mine),
        }
    part = {"evaluated": f"{study.evaluated} NaN in a curve: not measured in that epoch"} if study.evaluate else {}
    told = {
        "format": 1,
        "study": study.name,
        "objective": study.objective,
        "direction": "minimize" if study.objective.endswith("loss") else "maximize",
        "value": "mean of the objective over the last tenth of the epochs",
        "epochs": study.epochs,
        "hyperparameters": names,
        "curves": curves,
        "censored": "true where the training was stopped early: its curve ends there and tells nothing of later epochs",
        "never_select_on": ["curve.test/acc"],
        **part,
        "cells": cells,
    }
    (folder / "benchmark.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return len(rows)


def _dimension(d: Dimension) -> dict[str, Any]:
    if d.choices:
        return {"choices": [_plain(c) for c in d.choices]}
    return {"low": d.low, "high": d.high, "log": d.log, "or_zero": d.or_zero, "integer": d.integer}
