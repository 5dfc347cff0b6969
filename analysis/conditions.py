"""Conditions under which methods were compared, and what each reached there: read from studies, and from the reference results.

A condition is described by what a user of a data set can know: its kind, size and classes, and the noise of its labels as estimated
from them. Rows are plain dicts, of ``COLUMNS``; how near two conditions are and what follows for a third is ``recommend``'s.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis import load
from analysis.select import MAIN, RULES, chosen, paper, replicates
from raystudy.data import masks
from raystudy.data.spec import base
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory, TrialHistory

BASELINE = "ce"
KINDS = ("vectors", "small images", "colour images")  # see ``kind_of``
PUBLISHED, CHOSEN = "published", "chosen"  # how a point was come by: from the literature, or by noisy validation
COLUMNS = {
    "source": "the study, or results.jsonl",
    "dataset": "its name, of a file without its folder",
    "kind": f"of data, of {KINDS}",
    "n": "training labels, validation among them",
    "classes": "how many",
    "network": "its name",
    "epochs": "of a training",
    "noise": "kind and variant",
    "rate": "nominal",
    "effective": "share of the labels that are wrong",
    "concentration": "of the true matrix, see ``concentration``",
    "seen_rate": "the share, as ``raystudy recommend`` estimates it from the labels; none: not estimated",
    "seen_concentration": "likewise",
    "method": "its name",
    "selection": f"{PUBLISHED}: the published point; {CHOSEN}: that which noisy validation chose",
    "point": "hyperparameters, as JSON",
    "oracle": "names of those that were filled from the true noise rate, with spaces between",
    "values": "test accuracy of each seed, mean of its last ten epochs",
    "mean": "of the values",
    "std": "of the values, n - 1",
    "seeds": "how many values",
    "seconds": "of a training, one thread of a CPU",
}
Row = Mapping[str, Any]


def concentration(matrix: NDArray[np.float64]) -> float:
    """How far the mistakes of each class go to one other class, of T [K, K], rows true classes: 0 evenly to all, 1 all to one.

    sum_i max_j!=i T_ij / sum_i (1 - T_ii), scaled from [1/(K - 1), 1]. 0 for two classes, where there is but one other, and without noise.
    """
    k = len(matrix)
    wrong = np.where(np.eye(k, dtype=bool), 0.0, matrix)
    if k < 3 or (total := wrong.sum()) <= 0:
        return 0.0
    even = 1 / (k - 1)
    return float(np.clip((wrong.max(1).sum() / total - even) / (1 - even), 0, 1))


def kind_of(shape: tuple[int, ...]) -> str:
    """The kind of data whose samples have this shape: photographs, which pixels alone do not tell apart, are one of their own."""
    if len(shape) == 1:
        return KINDS[0]
    return KINDS[2] if shape[0] == 3 and shape[1] >= 16 else KINDS[1]


class Condition(NamedTuple):
    """What decides which results tell of a data set."""

    kind: str  # of KINDS; empty: nobody knows
    n: int  # training labels
    classes: int
    rate: float  # share of wrong labels
    concentration: float  # NaN: nobody knows


class Result(NamedTuple):
    """What a method reached under a condition."""

    values: tuple[float, ...]  # test accuracy by seed
    seconds: float  # of a training; NaN: not known
    point: Mapping[str, Any]
    oracle: tuple[str, ...]
    selection: str

    @property
    def mean(self) -> float:
        return math.fsum(self.values) / len(self.values)


@dataclass(frozen=True)
class Known:
    """A condition, as it looks to a user, and the methods that were compared under it."""

    source: str
    dataset: str
    noise: str  # for people
    network: str
    epochs: int
    where: Condition
    results: Mapping[str, Result] = field(repr=False)  # by method; cross-entropy is among them

    @property
    def gains(self) -> dict[str, float]:
        """Test accuracy above that of cross-entropy, in [-1, 1], by method."""
        plain = self.results[BASELINE].mean
        return {method: result.mean - plain for method, result in self.results.items()}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in units of those of cross-entropy, by method; those that are known."""
        plain = self.results[BASELINE].seconds
        return {m: r.seconds / plain for m, r in self.results.items() if r.seconds / plain > 0}


def known(rows: Iterable[Row], seen: bool = True) -> list[Known]:
    """The conditions of ``rows`` in which cross-entropy was measured too; of a method the chosen point where there is one.

    ``seen``: a condition is where a user would see it, at its estimated noise, at the true one where that was not estimated; else at the
    true one.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if len(row["values"]):
            same = tuple(row[name] for name in ("source", "dataset", "noise", "rate", "network", "epochs", "n"))
            groups.setdefault(same, []).append(row)
    out = []
    for group in groups.values():
        first, results = group[0], dict[str, Result]()
        for row in sorted(group, key=lambda r: r["selection"] == CHOSEN):
            results[row["method"]] = Result(
                tuple(map(float, row["values"])),
                float(row["seconds"]),
                json.loads(row["point"]),
                tuple(row["oracle"].split()),
                row["selection"],
            )
        if BASELINE in results:
            noise_at = [_or(first[f"seen_{name}"] if seen else None, first[of]) for name, of in SEEN]
            where = Condition(first["kind"], int(first["n"]), int(first["classes"]), *noise_at)
            noise = f"{first['noise']} {first['rate']:g}"
            out.append(
                Known(
                    first["source"],
                    first["dataset"],
                    noise,
                    first["network"],
                    int(first["epochs"]),
                    where,
                    results,
                )
            )
    return out


SEEN = (("rate", "effective"), ("concentration", "concentration"))


def _or(value: float | None, other: float) -> float:
    return float(other) if value is None or math.isnan(value) else float(value)


def of_study(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """The rows of a study: for each cell its published point, and that which noisy validation chose, where their trainings have ended.

    Cells whose share of wrong labels nobody knows are left out. ``kind``: of its data.
    """
    study, histories = load.study(folder)
    held, out = _masks(study, histories, folder), []
    for cell, history in histories.items():
        rate, mask = history.header.get("effective_rate"), held[cell.data_key]
        if rate is None or mask is None:
            continue
        told = {
            "source": study.name,
            "dataset": Path(base(cell.dataset).partition(":")[2] or cell.dataset).stem,
            "kind": kind,
            "n": len(mask.given),
            "classes": len(mask.matrix),
            "network": study.network_of(cell),
            "epochs": study.epochs_of(cell),
            "noise": ":".join(filter(None, (cell.noise.kind, cell.noise.variant))),
            "rate": cell.noise.level,
            "effective": float(rate),
            "concentration": concentration(mask.matrix) if rate else 0.0,
            "seen_rate": None,
            "seen_concentration": None,
            "method": cell.method,
        }
        for selection, trial in ((PUBLISHED, paper(history)), (CHOSEN, chosen(history, study.objective))):
            if trial is not None and (done := replicates(history, trial)):
                out.append(told | _reached(trial, done) | {"selection": selection})
    return out


def _masks(study: Study, histories: Mapping[Cell, CellHistory], folder: Path) -> dict[str, masks.Mask | None]:
    out: dict[str, masks.Mask | None] = {}
    for cell in histories:
        if cell.data_key not in out:
            try:
                out[cell.data_key] = masks.load(folder / "masks" / f"{cell.data_key}.npz")
            except InputError:
                out[cell.data_key] = None
    return out


def _reached(trial: TrialHistory, done: list[TrialHistory]) -> dict[str, Any]:
    values = [v for t in sorted(done, key=lambda t: t.seed) if not math.isnan(v := RULES[MAIN](t))]
    seconds = [math.fsum(t.curves["cost/seconds"]) for t in done if "cost/seconds" in t.curves]
    return {
        "point": json.dumps(trial.point, sort_keys=True),
        "oracle": " ".join(trial.oracle),
        **measured(values),
        "seconds": float(np.mean(seconds)) if seconds else math.nan,
    }


def measured(values: list[float]) -> dict[str, Any]:
    """The columns that follow from the accuracies of the seeds."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    mean = float(np.mean(values)) if values else math.nan
    return {"values": [round(v, 5) for v in values], "mean": mean, "std": std, "seeds": len(values)}
