"""The models of a study that is being run: what a finished training leaves, and which of them stay.

Every finished training writes its weights before its last epoch is told, so that a trial that the ledger calls complete has left them.
Which stay is decided from the ledger and from what is there, whenever a trial has ended and whenever a study is opened: a driver that
was killed in between leaves a file too many, and never one too few.
"""

import math
from collections.abc import Collection, Sequence
from typing import Any

from analysis import truth
from analysis.select import RULES, standing
from raystudy.data import spec as names
from raystudy.data.datasets import DATASETS
from raystudy.learn import model
from raystudy.learn.training import Record, Run
from raystudy.record.ledger import CellHistory, TrialHistory


def surplus(cell: CellHistory, present: Collection[str], keeps: str) -> set[str]:
    """Of the trials that have left a model those whose model goes: those that were to stop before their end; where the best is kept,
    all that have ended but it."""
    if keeps != "best" or not present:
        return {k for k in present if k in cell.trials and cell.trials[k].state == "pruned"}
    best = standing(cell, present)
    return {k for k in present if k in cell.trials and cell.trials[k].state != "running" and best and k != best.key}


def files(run: Run, told: dict[str, Any]) -> dict[str, bytes]:
    """The files that a finished training leaves, the card last. ``told``: whose it is, and ``versions`` it ran with."""
    whose = {k: v for k, v in told.items() if k != "versions"}
    card = model.card(run, licence(run.spec.dataset), metrics(run), whose, told["versions"])
    return model.files(card, run.method)


def licence(dataset: str) -> str:
    """What is known of the licence of a data set."""
    row = DATASETS.get(names.base(dataset))
    return row.licence if row else "the user's own data: as they were had"


def metrics(run: Run) -> dict[str, Any]:
    """What was measured, by rule. Only ``last`` is of the weights that are kept: other rules take other epochs of the training."""
    trial = TrialHistory("", 0, "replicate", {}, run.spec.seed)
    trial.add(run.records, [0] * len(run.records))
    chosen = {("ORACLE" if rule == "oracle_test" else rule): RULES[rule](trial) for rule in RULES if rule != "last"}
    header = {"effective_rate": run.data.effective_rate, "cell": {"dataset": run.spec.dataset}}
    return {
        "weights": {"rule": "last", "epoch": len(run.records), **_accuracies(run.records)},
        "training": {rule: round(v, 6) for rule, v in chosen.items() if not math.isnan(v)},
        "tested against": "checked labels" if truth.tested_clean(header) else "given labels",
    }


def _accuracies(records: Sequence[Record]) -> dict[str, float]:
    last = records[-1]
    return {k: v for k, v in last.items() if k.startswith(("val/", "test/")) and v is not None}
