"""What was promised and did not happen is said, in a line each; the study is whole all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raystudy.running.execute import noted
from raystudy.tracking import store

ROOT = Path(__file__).parents[2]


def sweep(folder: Path, replicates: int) -> subprocess.CompletedProcess[str]:
    options = ["ce", "--no-baseline", "--noise", "symmetric:0.2", "--trials", "1", "--epochs", "1", "--name", "s"]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "raystudy.sweep", *options, "--replicates", str(replicates)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", timeout=300)


@pytest.mark.ray
@pytest.mark.slow
def test_mlflow_pictures_and_arrays_that_are_missing_are_said(tmp_path: Path) -> None:
    study = tmp_path / "studies" / "s"
    study.mkdir(parents=True)
    (study / "arrays").write_text("a file where a folder should be")
    (study / "data").write_text("and another")
    done = sweep(tmp_path, 1)
    assert done.returncode == 0, done.stderr
    assert "no arrays written" in done.stdout
    assert "no pictures of digits symmetric" in done.stdout
    assert "MLflow lacks" not in done.stdout

    client = store.connect(f"sqlite:///{tmp_path}/mlflow.db")
    client.delete_experiment(client.get_experiment_by_name("s").experiment_id)
    done = sweep(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "MLflow lacks" in line]
    assert "trash" in line
    assert line.endswith("raystudy sync s")


def test_notes_of_trials() -> None:
    assert noted({}) == []
    assert noted({"no arrays": {"a", "b"}, "no\ncheckpoint": {"a"}}) == [
        "note: no arrays (2 trials)",
        "note: no\\ncheckpoint (1 trial)",
    ]
    assert noted({str(n): {"a"} for n in range(5)})[3:] == ["note: and 2 more of the kind"]
