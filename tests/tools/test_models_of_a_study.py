"""The models of a real study: which are there, that they are what the ledger says, and that MLflow serves them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import raystudy as rs
from analysis import load, models
from analysis.select import standing
from raystudy.cli import main
from raystudy.data import datasets
from raystudy.record import models as record
from raystudy.tracking import store

pytestmark = [pytest.mark.slow, pytest.mark.ray]

GRID = ["elr", "--noise", "symmetric:0.5", "--epochs", "6", "--trials", "2", "--gpus-per-trial", "0"]
NAME = "elr-digits"


def run(folder: Path, *words: str) -> str:
    """A command in a folder of its own, as a user types it; what it printed."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "raystudy", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    run(folder, "sweep", *GRID, "--replicates", "2")
    return folder


@pytest.fixture
def study(place: Path) -> Path:
    return place / "studies" / NAME


def kept(study: Path) -> dict[str, set[str]]:
    """Cell -> trials with a model."""
    return {cell.key: record.here(study, cell.key) for cell in load.study(study)[1]}


def test_each_cell_has_the_model_of_its_best_replicate(study: Path) -> None:
    for cell, history in load.study(study)[1].items():
        best = standing(history)
        assert best is not None
        assert best.origin == "replicate"
        rivals = [t for t in history.trials.values() if t.origin == "replicate"]
        assert best.curves["val/acc"][-1] == max(
            t.curves["val/acc"][-1] for t in rivals
        )  # of six epochs the last tenth
        assert record.here(study, cell.key) == {best.key}
    assert sum(m.winner for m in models.found(study)) == 1  # one condition


def test_a_model_that_is_read_again_has_the_accuracy_of_the_ledger(study: Path) -> None:
    data, histories = datasets.load("digits"), load.study(study)[1]
    found = rs.Results(study).models
    assert set(found) == {cell.key for cell in histories}
    for cell, history in histories.items():
        model = found[cell.key]
        p = model.predict_proba(data.x_test)
        right = (p.argmax(1) == data.y_test.numpy()).mean()
        told = history.trials[model.card.key].curves["test/acc"][-1]
        assert float(f"{right:.6g}") == told
        assert model.card.metrics["weights"] == {
            "rule": "last",
            "epoch": 6,
            **{k: v[-1] for k, v in history.trials[model.card.key].curves.items() if k.startswith(("val/", "test/"))},
        }
        again = rs.load_model(model.file)
        assert np.array_equal(again.predict_proba(data.x_test), p)


def test_they_are_shown(place: Path, study: Path) -> None:
    assert "models: of 2 of 2 cells (raystudy model elr-digits)" in run(place, "status", NAME)
    out = run(place, "model", NAME)
    assert out.count("replicate seed") == 2
    assert out.count("(best)") == 1
    page = Path(rs.Results(study).report(place / "report"))
    assert "The models that were kept" in page.read_text()
    assert (place / "report" / "tables" / "models.csv").exists()


def test_mlflow_has_the_cards_and_serves_the_model(place: Path, study: Path) -> None:
    uri = store.sqlite_uri(place / "mlflow.db")
    client = store.connect(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == NAME]
    cells = client.search_runs([experiment.experiment_id], "tags.`raystudy.role` = 'cell'")
    shown = [f.path for run_ in cells for f in client.list_artifacts(run_.info.run_id, "models")]
    assert sorted(shown) == sorted(f"models/{key}.json" for keys in kept(study).values() for key in keys)

    ended = {r.info.run_id: r.info.end_time for r in cells}
    out = run(place, "model", NAME, "--export", "exported", "--format", "mlflow")
    again = run(place, "model", NAME, "--export", "exported", "--format", "mlflow")
    assert re.findall(r"models:/\S+", out) == re.findall(r"models:/\S+", again)  # no second version
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 2
    cells = client.search_runs([experiment.experiment_id], "tags.`raystudy.role` = 'cell'")
    assert {r.info.run_id: r.info.end_time for r in cells} == ended
    best = next(m for m in models.found(study) if m.winner)
    version = client.get_model_version_by_alias(NAME, "digits_symmetric_inclusive_0_5")
    assert version.tags["raystudy.cell"] == best.cell

    x = datasets.load("digits").x_test[:1].numpy()
    np.save(place / "x.npy", x)
    ask = (
        f"import mlflow, numpy as np; mlflow.set_tracking_uri({uri!r})\n"
        f"m = mlflow.pyfunc.load_model('models:/{NAME}@digits_symmetric_inclusive_0_5')\n"
        "p = m.predict(np.load('x.npy')); np.save('p.npy', p.to_numpy()); print(list(p.columns))"
    )
    done = subprocess.run([sys.executable, "-c", ask], cwd=place, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(place / "p.npy"), rs.load_model(best.card).predict_proba(x))
    assert str([str(i) for i in range(10)]) in done.stdout
    assert not list((place / "exported").rglob("*.pkl"))  # nothing that would be unpickled


def test_an_unknown_cell_is_one_line_with_the_choices(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", NAME, "--storage", str(study.parent), "--cell", "elr_digits"]) == 2
    told = capsys.readouterr().err
    assert "unknown cell with a model 'elr_digits'; choose from: ce_digits_symmetric-inclusive-0.5, elr_digits_" in told
    assert len(told.strip().splitlines()) == 1


def test_the_same_command_keeps_them_and_a_study_that_grows_has_the_best(place: Path, study: Path) -> None:
    """The last of this file: the study is another after it."""
    files = {f: f.stat().st_mtime_ns for f in (study / "models").rglob("*.*")}
    run(place, "sweep", *GRID, "--replicates", "2", "--tracking-uri", "none")
    assert {f: f.stat().st_mtime_ns for f in (study / "models").rglob("*.*")} == files
    run(place, "sweep", *GRID, "--replicates", "4", "--tracking-uri", "none")
    for cell, history in load.study(study)[1].items():
        best = standing(history)
        assert best is not None
        assert record.here(study, cell.key) == {best.key}
    before = kept(study)
    run(place, "sweep", *GRID, "--replicates", "5", "--keep-models", "all", "--tracking-uri", "none")
    assert all(len(keys) > 1 and before[cell] <= keys for cell, keys in kept(study).items())
    run(place, "sweep", *GRID, "--replicates", "5", "--tracking-uri", "none")  # says nothing, so "all" holds
    assert all(len(keys) > 1 for keys in kept(study).values())


def test_a_storage_has_them_and_who_asks_gets_them(tmp_path: Path) -> None:
    words = ["ce", "--noise", "symmetric:0.5", "--epochs", "3", "--trials", "1", "--replicates", "2"]
    there = ["--storage", f"file://{tmp_path}/there"]
    run(tmp_path, "sweep", *words, "--gpus-per-trial", "0", "--tracking-uri", "none", *there)
    held = tmp_path / "there" / "ce-digits" / "models" / "ce_digits_symmetric-inclusive-0.5"
    assert sorted(f.suffix for f in held.iterdir()) == [".json", ".safetensors"]
    run(tmp_path, "model", "ce-digits", *there, "--export", "exported")
    assert sorted(f.suffix for f in (tmp_path / "exported").iterdir()) == [".json", ".pt2"]
