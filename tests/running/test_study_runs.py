"""Studies from files end to end on a real local Ray: a grid of two data sets, shipped tables in miniature, budgets that stop and go on."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kept import RULES, TOLERANCE, differences, kept, rows

from analysis import load, report
from raystudy.design.study import Study
from raystudy.tools.chaos.holds import outcome

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STUDY = Path("studies", "s")

FILE = """
methods = ["ce", "mixup"]
noise = ["symmetric:0.3"]
network = "mlp"
epochs = 30
trials = 3
replicates = 1

[[grid]]
datasets = ["digits"]

[[grid]]
methods = ["elr"]
datasets = ["smoke:cifar100"]
network = "convnet"
epochs = 12
recipe = "paper"
"""
PRICES = """
date = "2026-01"
currency = "EUR"
gpu = "here"
cpu = "here"
machine = { here = { price = 3600, cpus = 1, gpus = 1 } }
"""  # one euro a second and trial


def sweep(folder: Path, *argv: str) -> tuple[int, str]:
    """Runs the command to its end: its exit code and what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s.toml").write_text(FILE)
    (folder / "prices.toml").write_text(PRICES)
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "raystudy.sweep", "--tracking-uri", "none", "--gpus-per-trial", "0", *argv]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400
    )
    assert "Traceback" not in done.stdout
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    code, printed = sweep(folder, "--study", "s.toml")
    assert code == 0, printed
    return folder


def test_a_study_of_two_data_sets(undisturbed: Path) -> None:
    study, histories = load.study(undisturbed / "studies" / "s")
    assert [(c.method, c.dataset, c.network, c.epochs, c.recipe) for c in histories] == [
        ("ce", "digits", "", 0, ""),
        ("mixup", "digits", "", 0, ""),
        ("elr", "smoke:cifar100", "convnet", 12, "paper"),
    ]
    for cell, history in histories.items():
        assert history.header["epochs"] == study.epochs_of(cell)
        assert history.header["network"] == study.network_of(cell)
        states = [(t.state, t.epochs) for t in history.trials.values()]
        assert all(epochs == study.epochs_of(cell) for state, epochs in states if state == "complete")
        assert len([t for t in history.trials.values() if t.origin != "replicate"]) == (1 if cell.method == "ce" else 3)
    elr = next(h for c, h in histories.items() if c.method == "elr")
    assert elr.header["recipe"]["lr"] != next(iter(histories.values())).header["recipe"]["lr"]
    assert Study.from_toml(undisturbed / "studies" / "s" / "study.toml") == study


def test_its_report_tells_how_to_run_it_again_and_a_budget_stops_that(undisturbed: Path, tmp_path: Path) -> None:
    """On what might be another machine: in another folder, by the command and the file that the report gives, a trial at a time.

    Time, and then money, that is used up stops it, and the same command goes on.
    """
    out = undisturbed / "report"
    page = report.build(undisturbed / "studies" / "s", out)[0].read_text()
    assert "python -m raystudy.sweep --study study.toml" in page
    (tmp_path / "study.toml").write_bytes((out / "study.toml").read_bytes())
    argv = ("--study", "study.toml", "--max-concurrent", "1", "--prices", "prices.toml", "--checkpoint-every", "0.2")
    code, printed = sweep(tmp_path, *argv, "--time-budget", "1s")  # over before Ray is up
    assert code == 130, printed
    assert "the time budget of 1 s is used up; stopped: " in printed
    assert "the same command goes on from here" in printed
    code, printed = sweep(tmp_path, *argv, "--max-cost", "4")
    assert code == 130, printed
    assert "the 4 EUR of --max-cost are used up (here, 3600 EUR an hour and trial" in printed
    begun = outcome(tmp_path / STUDY)
    assert any(trials for trials in begun.values())
    code, printed = sweep(tmp_path, *argv)
    assert code == 0, printed
    assert outcome(tmp_path / STUDY) == outcome(undisturbed / STUDY)  # every key, number, state and curve


@pytest.mark.parametrize("name", ["mixup-table2", "rethinking-fig1"])
def test_a_shipped_study_in_miniature(tmp_path: Path, name: str) -> None:
    code, printed = sweep(tmp_path, "--study", name, "--scale", "smoke")
    assert code == 0, printed
    study, histories = load.study(tmp_path / "studies" / f"{name}-smoke")
    assert list(histories) == study.cells()
    for history in histories.values():
        assert sorted(t.origin for t in history.trials.values()) == ["paper", "replicate"]
        assert {t.state for t in history.trials.values()} == {"complete"}
    assert "noisy_val" in printed
    assert differences(rows(histories), kept(name)) == []
    if name == "mixup-table2":
        reported(tmp_path, name)


def reported(folder: Path, name: str) -> None:
    """The leaderboards of the study's report have the accuracies that are kept."""
    command = [sys.executable, "-m", "raystudy", "report", f"{name}-smoke"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    report = folder / "studies" / f"{name}-smoke" / "report"
    assert "mixup" in (report / "index.html").read_text(encoding="utf-8")
    before = {(row["method"], row["condition"]): row for row in kept(name)}
    for rule in RULES:
        (table,) = (report / "tables").glob(f"leaderboard-{rule}-*.csv")
        shown = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        assert len(shown) == len(before)
        for row in shown:
            condition = f"{row['dataset']} {row['noise']}:{row['variant']}:{row['rate']}"
            was = float(before[row["method"], condition][rule])
            assert 100 * float(row["mean"]) == pytest.approx(was, abs=TOLERANCE)
