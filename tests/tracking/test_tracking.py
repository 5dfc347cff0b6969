"""The ledger in MLflow: exactly what the ledger tells, once, whatever is killed, deleted or away in between."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import recorded

from analysis import palette
from raystudy.cli import main
from raystudy.errors import InputError
from raystudy.record.ledger import Ledger
from raystudy.tracking import cursor, follower, links, projection, store, views
from raystudy.tracking.sync import OURS, environment, sync

ROOT = Path(__file__).parents[2]
NOISE = {"kind": "symmetric", "rate": 0.5, "variant": "inclusive", "seed": 0, "count": "exact_global"}
ELR, CE = "elr_digits_symmetric-inclusive-0.5", "ce_digits_symmetric-inclusive-0.5"


def header(method: str) -> dict[str, Any]:
    return {
        "cell": {"method": method, "dataset": "digits", "noise": NOISE},
        "digests": {"data": "0123456789abcdef", "noise": "fedcba9876543210"},
        "effective_rate": 0.4512345,
        "network": "mlp",
        "recipe": {"lr": 0.05, "momentum": 0.9},
        "epochs": 3,
        "versions": {"torch": "2.9"},
        "commit": "c0ffee",
    }


def trial(number: int, origin: str = "search", seed: int = 0, **point: Any) -> dict[str, Any]:
    key = f"{number:016x}"
    return {"event": "trial", "key": key, "number": number, "origin": origin, "point": point, "seed": seed}


def record(number: int, epoch: int, acc: float) -> dict[str, Any]:
    metrics = {"val/acc": acc, "test/acc": acc + 0.01, "train/loss": None if epoch == 0 else 1.0 - acc}
    return {"event": "record", "key": f"{number:016x}", "epoch": epoch, "metrics": metrics}


def end(number: int, state: str, reason: str = "") -> dict[str, Any]:
    return {"event": "end", "key": f"{number:016x}", "state": state, "reason": reason}


@contextlib.contextmanager
def written(study: Path) -> Iterator[Ledger]:
    ledger = Ledger(study)
    ledger.open(ELR, header("elr"))
    ledger.open(CE, header("ce"))
    yield ledger
    ledger.close()


def two_cells(study: Path) -> None:
    """One cell with a trial of every state, one of them not ended; one cell that is done."""
    with written(study) as ledger:
        ledger.append(
            ELR, {**trial(0, "paper", lam=3.0), "oracle": ["lam"]}, trial(1, lam=1.5), trial(2), trial(3), trial(4)
        )
        for number, epochs in ((0, 3), (1, 2), (2, 1), (3, 2)):
            ledger.append(ELR, *(record(number, epoch, 0.5 + 0.1 * epoch) for epoch in range(epochs)))
        ledger.append(
            ELR, end(0, "complete"), end(1, "pruned"), end(2, "diverged", "loss is nan"), end(4, "failed", "OOM")
        )
        ledger.append(CE, trial(0, "paper"), trial(1, "replicate", seed=1))
        for number in (0, 1):
            ledger.append(
                CE, *(record(number, epoch, 0.4 + 0.1 * epoch) for epoch in range(3)), end(number, "complete")
            )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    two_cells(tmp_path / "studies" / "demo")
    return tmp_path / "studies" / "demo"


@pytest.fixture
def uri(tmp_path: Path, empty_store: Callable[[Path], str]) -> str:
    """A store that MLflow has made already, as making one takes seconds."""
    return empty_store(tmp_path)


@pytest.fixture
def unmade(tmp_path: Path) -> str:
    """A store that is not there yet."""
    return f"sqlite:///{tmp_path}/mlflow.db"


def client(uri: str) -> Any:
    return store.connect(uri)


def runs(uri: str, name: str = "demo") -> dict[str, Any]:
    """All runs of an experiment by cell and name, with the histories of their metrics; fails if two have the same."""
    mlflow = client(uri)
    found: dict[str, Any] = {}
    for run in mlflow.search_runs([mlflow.get_experiment_by_name(name).experiment_id], max_results=1000):
        tags = run.data.tags
        label = tags["raystudy.cell"].split("_")[0] + (f"/{run.info.run_name}" if "mlflow.parentRunId" in tags else "")
        assert label not in found
        curves = {
            m: [(x.step, x.value, x.timestamp) for x in mlflow.get_metric_history(run.info.run_id, m)]
            for m in run.data.metrics
        }
        found[label] = (run, curves)
    return found


def seen(uri: str) -> dict[str, Any]:
    """What a user sees of all runs, without what MLflow makes up (ids)."""
    out = {}
    for label, (run, curves) in runs(uri).items():
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        out[label] = (run.info.status, run.info.start_time, run.info.end_time, run.data.params, tags, curves)
    return out


def dump(uri: str) -> dict[str, list[Any]]:
    """The store's tables, row by row."""
    with contextlib.closing(sqlite3.connect(str(store.sqlite_file(uri)))) as db:
        return {
            table: sorted(map(repr, db.execute(f"SELECT * FROM {table}")))
            for table in ("experiments", "runs", "metrics", "latest_metrics", "params", "tags", "datasets", "inputs")
        }


def forget_cursor(study: Path) -> None:
    shutil.rmtree(study / "tracking")


@pytest.mark.slow
def test_mlflow_has_exactly_what_the_ledger_tells(study: Path, unmade: str) -> None:
    synced = sync(study, unmade)
    found = runs(unmade)
    assert synced.runs == len(found) == 9
    status = {label: run.info.status for label, (run, _) in found.items()}
    assert status == {
        "elr": "KILLED",  # something is unfinished and nobody is at it
        "elr/#0 paper (oracle) lam=3": "FINISHED",
        "elr/#1 search lam=1.5": "FINISHED",
        "elr/#2 search": "FAILED",
        "elr/#3 search": "KILLED",
        "elr/#4 search": "FAILED",
        "ce": "FINISHED",
        "ce/#0 paper": "FINISHED",
        "ce/#1 replicate of #0 seed 1": "FINISHED",
    }
    parent, summary = found["elr"]
    assert parent.info.run_name == "elr 0.5"  # what is the same in the whole study is left out
    assert {k: v[-1][:2] for k, v in summary.items() if k.startswith("trials/")} == {
        "trials/complete": (0, 1.0),
        "trials/pruned": (0, 1.0),
        "trials/diverged": (0, 1.0),
        "trials/failed": (0, 1.0),
    }
    assert found["ce"][1]["tuned/last"][-1][1] == pytest.approx(0.61)
    data = parent.inputs.dataset_inputs[0].dataset
    assert data.name == "digits symmetric:inclusive:0.5"
    assert data.digest == "0123456789abcdef-fedcba9876543210"

    run, curves = found["elr/#0 paper (oracle) lam=3"]
    assert [(step, value) for step, value, _ in curves["val/acc"]] == [(0, 0.5), (1, 0.6), (2, 0.7)]
    assert [step for step, _, _ in curves["train/loss"]] == [1, 2]  # not measured in epoch 0
    assert run.data.params == {
        "lam": "3.0",
        "seed": "0",
        "epochs": "3",
        "network": "mlp",
        "recipe.lr": "0.05",
        "recipe.momentum": "0.9",
    }
    told = {
        "mlflow.parentRunId": parent.info.run_id,
        "mlflow.source.git.commit": "c0ffee",
        "raystudy.study": "demo",
        "raystudy.key": f"{0:016x}",
        "raystudy.origin": "paper",
        "raystudy.role": "trial",
        "raystudy.state": "complete",
        "raystudy.oracle": "lam",
        "method": "elr",
        "dataset": "digits",
        "noise": "symmetric",
        "rate": "0.5",
        "version.torch": "2.9",
    }
    assert told.items() <= run.data.tags.items()
    assert found["elr/#1 search lam=1.5"][0].data.tags["raystudy.state"] == "pruned"
    assert found["elr/#2 search"][0].data.tags["raystudy.reason"] == "loss is nan"
    assert not found["elr/#4 search"][1]  # failed before its first record
    experiment = client(unmade).get_experiment(synced.experiment)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    assert experiment.tags["raystudy.study"] == "demo"
    assert all(len(curves) < 25 for _, curves in found.values())


def place(run: Any) -> Path:
    """The folder of a run's artifacts."""
    return Path(urllib.request.url2pathname(run.info.artifact_uri.removeprefix("file://")))


def files(uri: str, run: Any) -> dict[str, str]:
    """What is logged with a run, by path."""
    root = place(run)
    return {str(f.relative_to(root)): f.read_text() for f in root.rglob("*") if f.is_file()}


@pytest.mark.slow
def test_what_cells_are_compared_by(study: Path, uri: str) -> None:
    """Params as axes, the search's progress as a curve, tags on the tuned trainings, saved views; none of it twice."""
    synced = sync(study, uri)
    found = runs(uri)
    assert found["ce"][0].data.params == {
        "method": "ce",
        "dataset": "digits",
        "noise": "symmetric",
        "rate": "0.5",
        "network": "mlp",
        "epochs": "3",
    }
    assert [(step, value) for step, value, _ in found["elr"][1]["search/best_val"]] == [(0, 0.7), (1, 0.7), (2, 0.7)]
    assert found["elr"][1]["search/test_of_best"][-1][1] == pytest.approx(0.71)  # trial 3 has not ended: no further
    tuned = {label: run.data.tags.get(projection.TUNED) for label, (run, _) in found.items()}
    assert {k: v for k, v in tuned.items() if v} == {
        "elr/#0 paper (oracle) lam=3": "elr 0.5",
        "ce/#1 replicate of #0 seed 1": "ce 0.5",
    }
    tags = client(uri).get_experiment(synced.experiment).tags
    saved = {k.removeprefix("mlflow.sharedViewState."): json.loads(v) for k, v in tags.items() if "sharedView" in k}
    assert saved.keys() == {"study", "cells", "noise", "curves", "places", f"trials-{CE}", f"trials-{ELR}"}
    pages = {"study", "cells", "noise", "curves", "compare", "trials of ce 0.5", "trials of elr 0.5"}
    assert links.studies(uri)["demo"].keys() == pages
    state = json.loads(saved["cells"]["state"])
    assert state["searchFilter"] == "tags.`raystudy.role` = 'cell'"
    first = state["compareRunCharts"][0]
    assert (first["type"], first["xaxis"]["key"], first["yaxis"]["key"]) == ("SCATTER", "rate", "tuned/last10")
    assert f"= '{ELR}'" in json.loads(saved[f"trials-{ELR}"]["state"])["searchFilter"]
    by_noise = {label: curves["noise/last10"] for label, (_, curves) in found.items() if "noise/last10" in curves}
    assert {label: [(step, round(value, 9)) for step, value, _ in points] for label, points in by_noise.items()} == {
        "elr/#0 paper (oracle) lam=3": [
            (50, 0.61)
        ],  # the step is the noise in percent, the value the mean of .51 .61 .71
        "ce/#1 replicate of #0 seed 1": [(50, 0.51)],
    }
    with written(study) as ledger:
        ledger.append(ELR, record(3, 2, 0.9), end(3, "complete"), trial(5, "replicate", seed=1, lam=3.0))
    with written(study) as ledger:  # trial 3 has another point, which is chosen now
        ledger.append(ELR, *(record(5, e, 0.5) for e in range(3)), end(5, "complete"))
    sync(study, uri)
    found = runs(uri)
    assert {k for k, (run, _) in found.items() if projection.TUNED in run.data.tags} == {
        "elr/#3 search",
        "ce/#1 replicate of #0 seed 1",
    }
    assert [v for _, v, _ in found["elr"][1]["search/best_val"]] == [0.7, 0.7, 0.7, 0.9, 0.9]
    before = dump(uri)
    forget_cursor(study)
    sync(study, uri)
    assert dump(uri) == before


@pytest.mark.slow
def test_a_method_has_one_colour_and_names_say_what_differs(tmp_path: Path, uri: str) -> None:
    """Over all levels; when another kind of noise comes it is in the names; what somebody named or coloured stays so."""
    study = tmp_path / "studies" / "demo"
    ledger = Ledger(study)

    def cells(kind: str, rates: tuple[float, ...]) -> None:
        for method in ("ce", "elr"):
            for rate in rates:
                noise = NOISE | {"kind": kind, "rate": rate, "variant": "inclusive" if kind == "symmetric" else ""}
                key = f"{method}_digits_{kind}-{rate:g}"
                told = header(method)
                ledger.open(key, told | {"cell": told["cell"] | {"noise": noise}})
                ledger.append(key, trial(0, "paper"), record(0, 0, 0.5), end(0, "complete"))

    def names() -> dict[str, str]:
        mlflow = client(uri)
        found = mlflow.search_runs(
            [mlflow.get_experiment_by_name("demo").experiment_id], "tags.`raystudy.role` = 'cell'"
        )
        return {run.info.run_name: run.data.tags["mlflow.runColor"] for run in found}

    cells("symmetric", (0.2, 0.5))
    sync(study, uri)
    assert names() == {name: palette.alone(name.split()[0]) for name in ("ce 0.2", "ce 0.5", "elr 0.2", "elr 0.5")}
    mlflow = client(uri)
    experiment = mlflow.get_experiment_by_name("demo")
    (mine,) = mlflow.search_runs([experiment.experiment_id], "attributes.run_name = 'elr 0.5'")
    for name, value in (("mlflow.runName", "the best"), ("mlflow.runColor", "#ff0000")):
        mlflow.set_tag(mine.info.run_id, name, value)
    mlflow.set_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.trials-elr", "of an earlier version")
    cells("pair", (0.5,))
    ledger.close()
    sync(study, uri)
    found = names()
    whole = {"ce 0.2 symmetric", "ce 0.5 symmetric", "ce 0.5 pair", "elr 0.2 symmetric", "the best", "elr 0.5 pair"}
    assert found.keys() == whole
    assert found["the best"] == "#ff0000"
    saved = mlflow.get_experiment(experiment.experiment_id).tags
    assert "mlflow.sharedViewState.trials-elr" not in saved
    assert sum(name.startswith("mlflow.sharedViewState.trials-") for name in saved) == 6
    keys = json.loads(json.loads(saved["mlflow.sharedViewState.noise"])["state"])["groupBy"]["groupByKeys"]
    assert [key["groupByData"] for key in keys] == ["method", "noise", "variant"]
    assert sync(study, uri).changes == 0


def test_the_trials_of_a_cell_are_a_view_or_of_very_many_cells_a_search() -> None:
    few, many = (views.trials("7", "elr_digits_pair-0.5", n) for n in (views.MOST_VIEWS, views.MOST_VIEWS + 1))
    assert "viewStateShareKey=trials-elr_digits_pair-0.5" in few
    assert "searchFilter=tags.%60raystudy.role%60%20%3D%20%27trial%27" in many
    assert "viewStateShareKey" not in many
    assert len(views.TAG + views.trials_of("x" * 255)) <= 250
    cells = {str(i): (f"elr {i}", "run") for i in range(views.LISTED + 1)}
    assert not any(name.startswith("trials") for name in views.links("7", cells))


@pytest.mark.slow
def test_files_are_logged_with_their_cells_and_again_when_they_change(study: Path, uri: str) -> None:
    for place in ("report/index.html", "report/figures/a.svg", f"artifacts/{ELR}/loss.svg", "report/.index.html.new"):
        (study / place).parent.mkdir(parents=True, exist_ok=True)
        (study / place).write_text(place)
    sync(study, uri, running=True)  # not while it runs
    assert not files(uri, runs(uri)["elr"][0])
    sync(study, uri)
    found = {label: files(uri, run) for label, (run, _) in runs(uri).items() if "/" not in label}
    whole = {"report/index.html": "report/index.html", "report/figures/a.svg": "report/figures/a.svg"}
    assert sorted(map(len, found.values())) in ([1, 2], [0, 3])  # both cells may have begun in the same millisecond
    assert {k: v for held in found.values() for k, v in held.items()} == whole | {
        "loss.svg": f"artifacts/{ELR}/loss.svg"
    }
    notes = [run.data.tags["mlflow.note.content"] for label, (run, _) in runs(uri).items() if "/" not in label]
    assert len({note.partition("\n")[2] for note in notes}) == 1  # both tell where the report is
    assert (
        sorted(CE in note for note in notes) == sorted(ELR in note for note in notes) == [False, True]
    )  # and their trials
    assert sync(study, uri).changes == 0
    with written(study) as ledger:
        ledger.append(ELR, end(3, "failed"))
    sync(study, uri)
    assert not cursor.behind(study, store.absolute(uri))

    (study / "report" / "index.html").write_text("another")
    assert cursor.behind(study, store.absolute(uri))
    assert sync(study, uri).changes == 1
    held = {k: v for label, (run, _) in runs(uri).items() if "/" not in label for k, v in files(uri, run).items()}
    assert held["report/index.html"] == "another"
    forget_cursor(study)
    before = dump(uri)
    sync(study, uri)
    assert dump(uri) == before


@pytest.mark.slow
def test_a_report_is_in_mlflow_when_its_command_ends(
    tmp_path: Path, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "studies" / "demo"
    recorded.write(study, ("ce", "elr"), (0.5,), trials=2, replicates=1, epochs=2, arrays=False)
    command = ("demo", "--storage", str(study.parent))
    assert main(["report", *command]) == 0
    assert "not in MLflow: the study is not there" in capsys.readouterr().out
    shutil.rmtree(study / "report")
    sync(study, uri)
    assert main(["report", *command]) == 0
    assert "in MLflow: an artifact of the study's first cell" in capsys.readouterr().out
    (run,) = [run for label, (run, _) in runs(uri).items() if "/" not in label and (place(run) / "report").exists()]
    for name in ("index.html", "report.md", "study.toml", "figures/ranks.png", "tables/points.csv"):
        if (study / "report" / name).exists():
            assert (place(run) / "report" / name).read_bytes() == (study / "report" / name).read_bytes()
    assert (place(run) / "report" / "index.html").exists()
    notes = {run.data.tags["mlflow.note.content"] for label, (run, _) in runs(uri).items() if "/" not in label}
    assert [run.info.run_id in note for note in notes] == [True, True]  # both cells tell where it is
    assert sync(study, uri).changes == 0
    before = dump(uri)
    assert main(["sync", *command, "--tracking-uri", uri]) == 0
    assert "nothing was missing" in capsys.readouterr().out
    assert dump(uri) == before


@pytest.mark.slow
def test_a_merged_study_keeps_its_experiment_and_its_runs_in_place(tmp_path: Path, uri: str) -> None:
    """The other machine's cell began earlier: the cell gets a run of that time, and its trials go along, numbered anew."""
    from raystudy.design.study import Study
    from raystudy.record.merge import merge

    told = Study("demo", ("elr", "ce"), ("digits",), (), 5, 1, 3, "mlp")
    other, mine = tmp_path / "other" / "demo", tmp_path / "mine" / "demo"
    for folder, numbers in ((other, (0, 2)), (mine, (0, 1))):
        with written(folder) as ledger:
            for place, number in enumerate(numbers):
                event = {**trial(number, "search" if number else "paper"), "number": place}
                ledger.append(ELR, event, *(record(number, e, 0.5) for e in range(3)), end(number, "complete"))
        (folder / "study.toml").write_text(told.to_toml())
        time.sleep(0.01)
    sync(mine, uri)
    merge(mine, other)
    sync(mine, uri)
    found = runs(uri)
    assert {k for k in found if k.startswith("elr")} == {
        "elr",
        "elr/#0 paper",
        "elr/#1 search",
        "elr/#2 search",
    }
    for label, (run, _) in found.items():
        if label.startswith("elr/"):
            assert run.data.tags["mlflow.parentRunId"] == found["elr"][0].info.run_id
            assert f"#{run.data.tags['raystudy.number']} " in label
    assert len(client(uri).search_experiments()) == 2  # the default one, too


@pytest.mark.slow
def test_the_store_keeps_a_write_ahead_log(study: Path, unmade: str) -> None:
    sync(study, unmade)
    with contextlib.closing(sqlite3.connect(str(store.sqlite_file(unmade)))) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.slow
def test_a_store_is_made_whole_or_not_at_all(study: Path, unmade: str) -> None:
    """MLflow cannot go on from a migration that was killed half-way."""
    file = store.sqlite_file(unmade)
    assert file is not None
    new = file.with_name(file.name + ".new")
    process = subprocess.Popen([*OURS, "once", str(study)], env=environment(unmade))
    wait_for(lambda: new.exists() and new.stat().st_size > 50_000)  # some tables are there, and not all
    process.kill()
    process.wait()
    assert not file.exists()
    sync(study, unmade)
    assert len(runs(unmade)) == 9
    assert not new.exists()


@pytest.mark.slow
def test_a_second_sync_changes_nothing_with_or_without_cursor(study: Path, uri: str) -> None:
    sync(study, uri)
    before = dump(uri)
    assert sync(study, uri).changes == 0
    assert dump(uri) == before
    forget_cursor(study)
    again = sync(study, uri)
    assert again.runs == 0
    assert dump(uri) == before
    (cursor,) = (study / "tracking").glob("*.json")
    cursor.write_text("{torn")
    sync(study, uri)
    assert dump(uri) == before


@pytest.mark.slow
def test_a_deleted_store_is_built_again(study: Path, uri: str) -> None:
    sync(study, uri)
    before = seen(uri)
    for file in store.sqlite_file(uri).parent.glob("mlflow.db*"):
        file.unlink()
    assert sync(study, uri).runs == 9  # the cursor is there, and told of a store that is no more
    with contextlib.closing(sqlite3.connect(str(store.sqlite_file(uri)))) as db:
        statuses = dict(db.execute("SELECT status, count(*) FROM runs GROUP BY status"))
        values = db.execute("SELECT count(*) FROM metrics WHERE key LIKE 'val/%'").fetchone()[0]
    assert statuses == {"FINISHED": 5, "FAILED": 2, "KILLED": 2}
    assert values == sum(len(curves.get("val/acc", ())) for *_, curves in before.values())


@pytest.mark.slow
def test_a_store_set_back_to_an_older_state_is_brought_up(study: Path, uri: str) -> None:
    """The cursor tells of more than the store holds: it must not be believed."""
    file = store.sqlite_file(uri)
    command = [*OURS, "once", str(study)]
    subprocess.run(command, check=True, env=environment(uri))
    old = file.read_bytes()
    with written(study) as ledger:
        ledger.append(ELR, record(3, 2, 0.9), end(3, "complete"))
    subprocess.run(command, check=True, env=environment(uri))
    file.write_bytes(old)
    subprocess.run(command, check=True, env=environment(uri))
    run, curves = runs(uri)["elr/#3 search"]
    assert run.info.status == "FINISHED"
    assert [value for _, value, _ in curves["val/acc"]] == [0.5, 0.6, 0.9]


@pytest.mark.slow
@pytest.mark.parametrize("lose_cursor", [False, True])
def test_unfinished_goes_on_and_its_curve_is_whole_and_there_once(study: Path, uri: str, lose_cursor: bool) -> None:
    sync(study, uri)
    assert runs(uri)["elr/#3 search"][0].info.status == "KILLED"
    if lose_cursor:
        forget_cursor(study)
    with written(study) as ledger:
        sync(study, uri, running=True)
        found = runs(uri)
        assert {k for k, (run, _) in found.items() if run.info.status == "RUNNING"} == {"elr", "elr/#3 search"}
        ledger.append(ELR, record(3, 2, 0.9), end(3, "complete"))
        sync(study, uri, running=True)
    sync(study, uri)
    found = runs(uri)
    assert len(found) == 9
    run, curves = found["elr/#3 search"]
    assert run.info.status == found["elr"][0].info.status == "FINISHED"
    assert [(step, value) for step, value, _ in curves["val/acc"]] == [(0, 0.5), (1, 0.6), (2, 0.9)]
    assert run.data.tags["raystudy.state"] == "complete"
    assert found["elr"][1]["trials/complete"][-1][:2] == (0, 2.0)


@pytest.mark.slow
@pytest.mark.parametrize("lose_cursor", [False, True])
def test_runs_deleted_by_hand_are_there_again_and_counted(study: Path, uri: str, lose_cursor: bool) -> None:
    """Of a trial that has ended, of one that has not, and of a cell that is done; and of a trial that MLflow has forgotten."""
    sync(study, uri)
    before, deleted = seen(uri), runs(uri)
    for label in ("elr/#3 search", "elr/#1 search lam=1.5", "ce", "ce/#0 paper"):
        client(uri).delete_run(deleted[label][0].info.run_id)
    if lose_cursor:
        forget_cursor(study)
    done = sync(study, uri)
    assert (done.runs, done.restored, done.values) == (0, 4, 0)
    assert str(done) == "0 runs created, 4 restored from MLflow's trash, 0 metric values written"
    assert seen(uri) == before
    assert str(sync(study, uri)) == "nothing was missing"

    gone = deleted["ce/#1 replicate of #0 seed 1"][0].info.run_id
    with contextlib.closing(sqlite3.connect(str(store.sqlite_file(uri)))) as db:
        for table in ("metrics", "latest_metrics", "params", "tags", "runs"):
            db.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (gone,))
        db.commit()
    assert sync(study, uri).runs == 1
    assert seen(uri) == before


@pytest.mark.slow
def test_a_run_deleted_while_it_is_followed_goes_on(study: Path, uri: str) -> None:
    sync(study, uri)
    client(uri).delete_run(runs(uri)["elr/#3 search"][0].info.run_id)
    with written(study) as ledger:
        ledger.append(ELR, record(3, 2, 0.9), end(3, "complete"), trial(5))
    assert follower.finish(follower.start(study, uri), 60) is None
    found = runs(uri)
    assert len(found) == 10
    assert [value for _, value, _ in found["elr/#3 search"][1]["val/acc"]] == [0.5, 0.6, 0.9]


@pytest.mark.slow
def test_files_of_a_cell_in_the_trash_are_not_said_to_be_logged(study: Path, uri: str) -> None:
    sync(study, uri)
    with written(study) as ledger:
        ledger.append(ELR, end(3, "failed"))
    sync(study, uri)
    client(uri).delete_run(runs(uri)["ce"][0].info.run_id)
    (study / "artifacts" / CE).mkdir(parents=True)
    (study / "artifacts" / CE / "loss.svg").write_text("a picture")
    told = follower.finish(follower.start(study, uri), 60)
    assert told
    assert "no files were logged" in told
    sync(study, uri)
    assert files(uri, runs(uri)["ce"][0])["loss.svg"] == "a picture"


def lose_the_tail(study: Path, events: int) -> None:
    """A crash of the machine: the last events of a cell's file never reached the disk."""
    path = study / "cells" / f"{ELR}.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-events]))


@pytest.mark.slow
@pytest.mark.parametrize("lose_cursor", [False, True])
@pytest.mark.parametrize("seen_between", [False, True])
def test_an_epoch_recorded_again_has_one_point(study: Path, uri: str, lose_cursor: bool, seen_between: bool) -> None:
    """MLflow saw the first record of an epoch, and even the trial's end; the ledger lost both, and tells them anew."""
    with written(study) as ledger:
        ledger.append(ELR, record(3, 2, 0.9))
        ledger.append(ELR, end(3, "complete"))
    sync(study, uri)
    lose_the_tail(study, 2)
    if lose_cursor:
        forget_cursor(study)
    if seen_between:
        sync(study, uri)  # the ledger tells less than MLflow has, and nothing else
        assert runs(uri)["elr/#3 search"][0].info.status == "FINISHED"
    time.sleep(0.01)
    with written(study) as ledger:
        ledger.append(ELR, record(3, 2, 0.8))
        if seen_between:
            sync(study, uri, running=True)
        ledger.append(ELR, end(3, "complete"))
    sync(study, uri)
    found = runs(uri)
    assert len(found) == 9
    for label, (run, curves) in found.items():
        for name, points in curves.items():
            steps = [step for step, _, _ in points]
            assert name.startswith(("trials/", "tuned/", "paper/", "cost/")) or steps == sorted(set(steps)), (
                label,
                name,
            )
        assert run.info.status in {"FINISHED", "FAILED"}
    assert [value for _, value, _ in found["elr/#3 search"][1]["val/acc"]] == [0.5, 0.6, 0.8]
    assert found["elr/#3 search"][0].data.tags["mlflow.parentRunId"] == found["elr"][0].info.run_id
    before = dump(uri)
    forget_cursor(study)
    sync(study, uri)
    assert dump(uri) == before


QUOTED = ("%2e%2e", "b%20c", "größe 100%", "what?")  # in a URI; MLflow takes dots after a question mark for an attack
NAMES = ("a#b &+=@", "new\nline", "sqlite:x", "back\\slash")


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES, QUOTED])
def test_a_folder_whose_name_is_no_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """The store and its files lie in the working folder, whatever it and those around it are called, and nothing lies beside them."""
    here = tmp_path.joinpath(*names)
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = here / "studies" / "demo"
    two_cells(study)
    (study / "report").mkdir()
    (study / "report" / "index.html").write_text("a report")
    uri = store.default_uri()
    assert store.absolute(uri) == uri
    store.check(uri)
    assert follower.finish(follower.start(study, uri), 100) is None
    assert sync(study, uri).changes == 0
    assert (here / "mlflow.db").stat().st_size
    found = runs(uri)
    assert len(found) == 9
    (run,) = [run for label, (run, _) in found.items() if "/" not in label and place(run).exists()]
    assert files(uri, run)["report/index.html"] == "a report"
    assert cursor.store_of(study) == uri
    for folder in (here, *here.parents[: len(names) - 1]):
        assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.slow
def test_another_study_of_the_same_name_gets_an_experiment_of_its_own(study: Path, uri: str) -> None:
    sync(study, uri)
    before = seen(uri)
    shutil.rmtree(study)
    time.sleep(0.01)
    two_cells(study)
    sync(study, uri)
    sync(study, uri)
    assert seen(uri) == before
    names = [e.name for e in client(uri).search_experiments() if e.name.startswith("demo")]
    assert len(names) == 2
    assert len(runs(uri, next(name for name in names if name != "demo"))) == 9


@pytest.mark.slow
@pytest.mark.parametrize("lose_cursor", [False, True])
def test_a_cell_begun_anew_replaces_its_old_runs(study: Path, uri: str, lose_cursor: bool) -> None:
    sync(study, uri)
    time.sleep(0.01)
    if lose_cursor:
        forget_cursor(study)
    (study / "cells" / f"{ELR}.jsonl").unlink()
    with written(study) as ledger:
        ledger.append(ELR, trial(1, lam=1.5), record(1, 0, 0.8), end(1, "failed", "new"))
    sync(study, uri)
    run, curves = runs(uri)["elr/#1 search lam=1.5"]
    assert run.info.status == "FAILED"
    assert [value for _, value, _ in curves["val/acc"]] == [0.8]
    assert len([e for e in client(uri).search_experiments() if e.name.startswith("demo")]) == 1


@pytest.mark.slow
def test_an_experiment_in_the_trash_is_told(study: Path, uri: str) -> None:
    synced = sync(study, uri)
    client(uri).delete_experiment(synced.experiment)
    with pytest.raises(InputError, match="trash"):
        sync(study, uri)
    forget_cursor(study)
    with pytest.raises(InputError, match="trash"):
        sync(study, uri)


@pytest.mark.slow
def test_an_experiment_made_by_hand_is_taken(study: Path, uri: str) -> None:
    made = client(uri).create_experiment("demo")
    assert sync(study, uri).experiment == made
    assert sync(study, uri).experiment == made
    assert len(runs(uri)) == 9


@pytest.mark.slow
def test_a_broken_cell_file_is_told_and_the_others_are_synced(study: Path, uri: str) -> None:
    with (study / "cells" / f"{CE}.jsonl").open("a") as f:
        f.write('{"event": "record", "key": "unheard of", "time": 1, "epoch": 0, "metrics": {}}\n')
    with pytest.raises(InputError, match="not a ledger file"):
        sync(study, uri)
    assert "elr/#1 search lam=1.5" in runs(uri)


@pytest.mark.slow
def test_two_processes_at_once_make_nothing_twice(study: Path, unmade: str) -> None:
    command = [*OURS, "once", str(study)]
    both = [subprocess.Popen(command, env=environment(unmade), stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [json.loads(p.communicate()[0]) for p in both]
    assert sorted(t["runs"] for t in told) == [0, 9]
    assert len(runs(unmade)) == 9


@pytest.mark.slow
def test_killed_in_the_middle_it_makes_nothing_twice(tmp_path: Path, uri: str) -> None:
    study = tmp_path / "demo"
    with written(study) as ledger:
        for number in range(40):
            ledger.append(ELR, trial(number), *(record(number, e, 0.01 * e) for e in range(50)))
            ledger.append(ELR, *([end(number, "complete")] if number % 2 else []))
    command = [*OURS, "once", str(study)]
    for target in (5, 20):
        process = subprocess.Popen(command, env=environment(uri))
        wait_for(lambda target=target: len(runs(uri)) >= target)
        process.kill()
        process.wait()
    sync(study, uri)
    found = runs(uri)
    assert len(found) == 42
    for label, (run, curves) in found.items():
        if "/" in label:
            assert [(step, value) for step, value, _ in curves["val/acc"]] == [(e, 0.01 * e) for e in range(50)]
            assert run.info.status == ("FINISHED" if int(run.data.tags["raystudy.number"]) % 2 else "KILLED")


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(Exception):
            if got := what():
                return got
        time.sleep(0.2)
    raise AssertionError("it did not come about")


@pytest.mark.slow
def test_the_follower_follows_and_leaves_nothing_running(study: Path, uri: str) -> None:
    with written(study) as ledger:
        process = follower.start(study, uri)
        wait_for(lambda: runs(uri)["elr/#3 search"][0].info.status == "RUNNING")
        ledger.append(ELR, record(3, 2, 0.9), end(3, "complete"), trial(5), record(5, 0, 0.3))
        wait_for(lambda: runs(uri)["elr/#5 search"][1]["val/acc"])
        assert runs(uri)["elr"][0].info.status == "RUNNING"
        assert follower.finish(process, 60) is None
    found = runs(uri)
    assert found["elr/#3 search"][0].info.status == "FINISHED"
    assert {run.info.status for run, _ in found.values()} == {"FINISHED", "FAILED", "KILLED"}
    assert sync(study, uri).changes == 0


@pytest.mark.slow
def test_the_follower_outlives_a_killed_driver_just_long_enough(study: Path, uri: str) -> None:
    driver = textwrap.dedent(f"""
        import time
        from pathlib import Path
        from raystudy.tracking import follower
        from raystudy.record.ledger import Ledger
        Ledger(Path({str(study)!r}))
        print(follower.start(Path({str(study)!r}), {uri!r}).pid, flush=True)
        time.sleep(600)
    """)
    process = subprocess.Popen([sys.executable, "-c", driver], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    follows = int(process.stdout.readline())
    wait_for(lambda: runs(uri)["elr/#3 search"][0].info.status == "RUNNING")
    process.send_signal(signal.SIGKILL)
    process.communicate()

    def gone() -> bool:
        try:
            os.kill(follows, 0)
        except ProcessLookupError:
            return True
        return Path(f"/proc/{follows}/stat").read_text().rsplit(")")[1].split()[0] == "Z"  # nobody to wait for it

    wait_for(gone)
    assert {run.info.status for run, _ in runs(uri).values()} == {"FINISHED", "FAILED", "KILLED"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Callable[[], subprocess.Popen[bytes]]]]:
    """The URI of a server that is down, and what brings it up."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    started: list[subprocess.Popen[bytes]] = []

    def up() -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (tmp_path / "server.txt").open("ab") as log:
            started.append(
                subprocess.Popen(command, cwd=tmp_path, env=env, stdout=log, stderr=log, start_new_session=True)
            )
        wait_for(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).status == 200, 120)
        return started[-1]

    yield f"http://127.0.0.1:{port}", up
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.mark.slow
def test_a_server_that_is_away_is_caught_up_with(study: Path, server: tuple[str, Any]) -> None:
    uri, up = server
    with pytest.raises(InputError, match="does not answer"):
        store.check(uri)
    with pytest.raises(InputError, match=uri) as e:
        sync(study, uri.replace("//", "//user:secret@"))
    assert "secret" not in str(e.value)
    assert "\n" not in str(e.value)

    process = follower.start(study, uri)
    log = study / "tracking" / "log.txt"
    wait_for(lambda: log.read_text().count("\n") >= 2)  # it keeps trying
    assert process.poll() is None
    up()
    store.check(uri)
    wait_for(lambda: len(runs(uri)) == 9)
    assert follower.finish(process, 60) is None
    found = runs(uri)
    assert {run.info.status for run, _ in found.values()} == {"FINISHED", "FAILED", "KILLED"}
    assert [value for _, value, _ in found["ce/#0 paper"][1]["val/acc"]] == [0.4, 0.5, pytest.approx(0.6)]
    forget_cursor(study)
    assert sync(study, uri).runs == 0
    assert [value for _, value, _ in runs(uri)["elr/#3 search"][1]["val/acc"]] == [0.5, 0.6]


@pytest.mark.slow
def test_a_follower_without_a_server_gives_up_when_the_study_ends(study: Path, server: tuple[str, Any]) -> None:
    uri, up = server
    process = follower.start(study, uri)
    began = time.monotonic()
    assert "does not answer" in str(follower.finish(process, 60))
    assert process.poll() == 1
    assert time.monotonic() - began < 40
    up()
    assert sync(study, uri).runs == 9


@pytest.mark.slow
def test_nothing_has_begun(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert sync(tmp_path / "empty", f"sqlite:///{tmp_path}/m.db").runs == 0


def test_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store.default_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/x.db")
    assert store.default_uri() == f"sqlite:///{tmp_path}/sub/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://10.0.0.1:5000/")
    assert store.default_uri() == "http://10.0.0.1:5000"


@pytest.mark.parametrize("name", [*NAMES, *QUOTED])
def test_a_file_has_one_uri(tmp_path: Path, name: str) -> None:
    """That SQLAlchemy reads as this very file."""
    from sqlalchemy import make_url

    file = tmp_path / name / "mlflow.db"
    uri = store.sqlite_uri(file)
    assert store.sqlite_file(uri) == file
    assert make_url(uri).database == str(file)
    assert not make_url(uri).query
    assert store.absolute(uri) == uri


def test_a_folder_from_which_mlflow_reads_no_models(tmp_path: Path) -> None:
    for name in ("what?", "100%", "a b#c"):
        store.check_models(store.sqlite_uri(tmp_path / name / "mlflow.db"))
    with pytest.raises(InputError, match="finds no model"):
        store.check_models(store.sqlite_uri(tmp_path / "b%20c" / "mlflow.db"))


def test_a_store_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    """MLflow would try for minutes."""
    (tmp_path / "mlflow.db").mkdir()
    began = time.monotonic()
    with pytest.raises(InputError, match="cannot open"):
        sync(tmp_path, f"sqlite:///{tmp_path}/mlflow.db")
    assert time.monotonic() - began < 20


def test_check_takes_stores_that_can_be_used(tmp_path: Path) -> None:
    store.check(f"sqlite:///{tmp_path}/new/mlflow.db")
    (tmp_path / "empty.db").touch()
    store.check(f"sqlite:///{tmp_path}/empty.db")
    store.check("postgresql://user:secret@db/mlflow")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("sqlite:///{here}/text.db", "not a SQLite database"),
        ("sqlite:///{here}", "is a folder"),
        ("sqlite:///{here}/text.db/mlflow.db", "is not a folder"),
        ("sqlite://", "no file"),
        ("sqlite:///{here}/what?/mlflow.db", "%3F"),
        ("sqlite:///{here}/\udcff/mlflow.db", "no text"),
        ("sqlite:///:memory:", "no file"),
        ("{here}/mlruns", "is a folder"),
        ("file://{here}/mlruns", "is a folder"),
        ("mlruns", "is a folder"),
        ("htp://localhost:5000", "not known"),
        ("databricks", "not known"),
        ("http://user:secret@127.0.0.1:9", "does not answer"),
        ("http://", "does not answer"),
    ],
)
def test_check_tells_in_one_line_what_is_wrong(tmp_path: Path, uri: str, told: str) -> None:
    (tmp_path / "text.db").write_text("this is not a database")
    with pytest.raises(InputError, match=told) as e:
        store.check(uri.format(here=tmp_path))
    assert "\n" not in str(e.value)
    assert "secret" not in str(e.value)


def test_the_driver_never_imports_mlflow() -> None:
    code = "import sys, raystudy.tracking.store as t; t.check('sqlite:///x.db'); sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
