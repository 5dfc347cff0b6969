"""Our packages are found, whatever lies in the folder a person works in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ran(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def hidden(tmp_path: Path) -> Path:
    for name in ("analysis", "search_spaces"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("door", ["raystudy", "raystudy.sweep"])
def test_a_command_beside_files_of_these_names(hidden: Path, door: str) -> None:
    words = ["sweep"] * (door == "raystudy") + ["ce", "--dry-run"]
    done = ran(hidden, "-m", door, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert "study ce-digits" in done.stdout


@pytest.mark.slow
def test_a_script_beside_files_of_these_names(hidden: Path) -> None:
    (hidden / "mine.py").write_text("import raystudy as rs; print(rs.Study('ce').name)\n")
    done = ran(hidden, "mine.py")
    assert (done.returncode, done.stdout) == (0, "ce-digits\n"), done.stderr


@pytest.mark.slow
def test_a_module_of_this_name_that_is_imported_already_is_named(tmp_path: Path) -> None:
    (tmp_path / "analysis.py").write_text("mine = 1\n")
    (tmp_path / "mine.py").write_text(
        "import analysis, raystudy as rs\ntry: rs.Study('ce')\nexcept rs.InputError as e: print(e)\n"
    )
    assert "a module 'analysis' of yours is imported" in ran(tmp_path, "mine.py").stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_sweep_beside_files_of_these_names(hidden: Path) -> None:
    """Ray's workers and MLflow's follower start in this folder, too."""
    words = ("ce", "--no-baseline", "--noise", "pair:0.2", "--epochs", "2", "--trials", "1", "--replicates", "0")
    done = ran(hidden, "-m", "raystudy.sweep", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "last10" in done.stdout
    assert "failed: trial" not in done.stdout
    (cell,) = (hidden / "studies" / "ce-digits" / "cells").glob("*.jsonl")
    assert '"state":"complete"' in cell.read_text()
    assert "MLflow lacks" not in done.stdout
