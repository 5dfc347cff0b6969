"""What other programs read of a study: the same numbers as the ledger's, in their own formats."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import recorded
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from searched import CELL, accuracy, opened, train
from searched import study as told

from analysis import load
from analysis.select import RULES, chosen, objective
from raystudy import cli
from raystudy.design.space import Dimension, Space
from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory
from raystudy.running.samplers import STATES
from raystudy.tools import export


def score(point: dict[str, Any], seed: int, epoch: int) -> float:
    return math.nan if point["p_threshold"] > 0.8 and epoch == 2 else accuracy(point, seed, epoch)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search with pruned and diverged trials; one more cell in the middle of its first trial."""
    folder = tmp_path_factory.mktemp("studies") / "s"
    cells = (CELL, replace(CELL, noise=replace(CELL.noise, rate=0.2)))
    grid = told(name="s", trials=14, sampler="random", replicates=1, noises=tuple(c.noise for c in cells))
    search = opened(folder, grid)
    train(search, score)
    search.ledger.close()
    begun = opened(folder, grid, cells[1])
    turns = iter(range(5))
    train(begun, stop=lambda: next(turns, None) is None)
    begun.ledger.close()
    (folder / "study.toml").write_text(grid.to_toml())
    return folder


@pytest.fixture(scope="module")
def out(study: Path) -> Path:
    export.export(study, study / "export")
    return study / "export"


def histories(study: Path) -> dict[str, CellHistory]:
    return {cell.key: history for cell, history in load.study(study)[1].items()}


def test_tables_hold_every_trial_and_every_record(study: Path, out: Path) -> None:
    trials, records = (pd.read_parquet(out / f"{name}.parquet") for name in ("trials", "records"))
    known = [(key, t) for key, h in histories(study).items() for t in h.trials.values()]
    assert list(zip(trials["cell"], trials["key"], strict=True)) == [(key, t.key) for key, t in known]
    assert set(trials["state"]) == {"complete", "pruned", "diverged", "running"}
    for (_, t), row in zip(known, trials.to_dict("records"), strict=True):
        assert row["hp.p_threshold"] == t.point["p_threshold"]
        assert row["number"] == t.number
        assert row["epochs"] == t.epochs
        assert row["test.last10"] == pytest.approx(RULES["last10"](t), nan_ok=True)
        assert row["objective"] == pytest.approx(objective(t.curves.get("val/acc", ())), nan_ok=True)
    assert len(records) == sum(t.epochs for _, t in known)
    for key, t in known:
        own = records[(records["cell"] == key) & (records["key"] == t.key)]
        assert list(own["epoch"]) == list(range(t.epochs))
        np.testing.assert_array_equal(own["val/acc"], np.array(t.curves.get("val/acc", ())))
    assert str(trials["started"].dtype).endswith("UTC]")


def test_csv_says_the_same(out: Path) -> None:
    for name in ("trials", "records"):
        parquet, csv = pd.read_parquet(out / f"{name}.parquet"), pd.read_csv(out / f"{name}.csv")
        assert list(parquet.columns) == list(csv.columns)
        assert len(parquet) == len(csv)
    np.testing.assert_array_equal(csv["val/acc"], parquet["val/acc"])


def test_the_optuna_storage_is_what_the_search_saw(study: Path, out: Path) -> None:
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(out / "optuna.log")))
    assert set(optuna.get_all_study_names(storage)) == {f"s {key}" for key in histories(study)}
    loaded = optuna.load_study(study_name=f"s {CELL.key}", storage=storage)
    history = histories(study)[CELL.key]
    searched = [t for t in history.trials.values() if t.origin != "replicate"]
    assert len(loaded.trials) == len(searched)
    assert {t.state for t in loaded.trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for got, t in zip(loaded.trials, searched, strict=True):
        assert got.state == STATES[t.state]
        assert got.user_attrs["raystudy.key"] == t.key
        assert got.user_attrs["raystudy.state"] == t.state
        assert got.params["p_threshold"] == t.point["p_threshold"]
        finite = {e: v for e, v in enumerate(t.curves["val/acc"]) if math.isfinite(v)}
        assert got.intermediate_values == finite
    assert loaded.best_trial.user_attrs["raystudy.key"] == chosen(history).key
    assert loaded.best_value == pytest.approx(objective(chosen(history).curves["val/acc"]))
    begun = next(s for s in optuna.get_all_study_summaries(storage) if s.study_name != f"s {CELL.key}")
    assert begun.n_trials == 0  # its only trial has not ended
    assert begun.user_attrs["rate"] == 0.2


def test_the_benchmark_answers_a_surrogate_as_its_page_says(study: Path, out: Path) -> None:
    told = json.loads((out / "benchmark.json").read_text())
    table = pd.read_parquet(out / "benchmark.parquet")
    where = told["cells"][CELL.key]["space"]["p_threshold"]
    assert (where["low"], where["high"], where["log"]) == (0.2, 0.9, False)
    cell = table[(table["cell"] == CELL.key) & (table["origin"] != "replicate")]
    points = pd.DataFrame(list(map(json.loads, cell["point"])))
    nearest = cell.iloc[(points["p_threshold"] - 0.6).abs().argmin()]
    trial = histories(study)[CELL.key].trials[nearest["key"]]
    assert abs(trial.point["p_threshold"] - 0.6) < 0.1
    assert list(nearest["curve.val/acc"]) == list(trial.curves["val/acc"])
    assert nearest["censored"] == (trial.state != "complete")
    assert told["cells"][CELL.key]["whole"] == (~table[table["cell"] == CELL.key]["censored"]).sum()


def test_suspects_are_every_image_by_rank_and_the_worst_for_people(tmp_path: Path) -> None:
    recorded.write(tmp_path / "s", ("ce", "elr"), rates=(0.2, 0.5), trials=1, replicates=2)
    export.export(tmp_path / "s", tmp_path / "out")
    table, worst = pd.read_parquet(tmp_path / "out/suspects.parquet"), pd.read_csv(tmp_path / "out/suspects.csv")
    assert len(table) == 4 * 200
    assert set(table["measure"]) == {"weight", "out-of-sample"}
    assert (table["replicates"] == 2).all()
    for _, rows in table.groupby(["cell", "part"]):
        assert rows["rank"].tolist() == list(range(1, len(rows) + 1))
        assert rows["trust"].is_monotonic_increasing
        assert rows["image"].is_unique
    assert len(worst) == 4 * (9 + 1)
    recorded.write(tmp_path / "old", ("ce",), rates=(0.2,), trials=1, replicates=1, arrays=False)
    assert not [f for f in export.export(tmp_path / "old", tmp_path / "old-out") if "suspects" in f.name]


def test_again_it_is_written_anew_and_nothing_else_is_left(study: Path, out: Path) -> None:
    before = {f.name: f.read_bytes() for f in out.iterdir() if f.suffix != ".log"}
    names = {f.name for f in out.iterdir()}
    export.export(study, out)
    assert {f.name for f in out.iterdir()} == names
    assert {f.name: f.read_bytes() for f in out.iterdir() if f.suffix != ".log"} == before


def test_a_space_that_was_changed_since_holds_the_old_points() -> None:
    space = Space("x", (Dimension("a", 1.0, 2.0, log=True, or_zero=True), Dimension("c", choices=("u",))), (), {})
    found = export.distributions(space, [{"a": 8.0, "a>0": True, "c": "v"}, {"a>0": False, "c": "u", "lr": 0.1}])
    assert (found["a"].low, found["a"].high, found["a"].log) == (1.0, 8.0, True)
    assert found["c"].choices == ("u", "v")
    assert (found["lr"].low, found["lr"].high) == (0.1, 0.1)
    assert export.distributions(None, [{"n": 3}, {"n": 5}])["n"] == optuna.distributions.IntDistribution(3, 5)


def test_mistakes(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for argv, words in (
        (["t"], "unknown study"),
        (["s", "--out", str(tmp_path / "file" / "x")], "cannot write to"),
    ):
        assert cli.main(["export", *argv, "--storage", str(study.parent)]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    empty = tmp_path / "s"
    (empty / "cells").mkdir(parents=True)
    (empty / "study.toml").write_text(told(name="s").to_toml())
    with pytest.raises(InputError, match="nothing to export"):
        export.export(empty, empty / "export")
    assert not (empty / "export").exists()
