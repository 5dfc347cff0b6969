"""The main job end to end: the real command on a real local Ray, with a real MLflow store, and killed in every way."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystudy.data import masks
from raystudy.ledger import cells, replay
from raystudy.methods import METHODS

pytestmark = pytest.mark.slow

SMALL = (
    *("dividemix", "--noise", "symmetric:0.3", "--epochs", "12", "--trials", "4", "--replicates", "1", "--name", "s"),
    *("--checkpoint-every", "0.2"),
)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "raystudy.sweep", *SMALL, *options]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def sweep(folder: Path, *options: str) -> str:
    """Runs the command to its end and returns what it printed."""
    process = start(folder, *options)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "Traceback" not in out
    return out


def outcome(folder: Path) -> dict[str, Any]:
    """Per cell what was tried, decided and measured, without the clock."""
    found = {}
    for path in cells(folder / "studies" / "s"):
        trials = replay(path).trials.values()
        found[path.stem] = sorted(
            (
                t.number,
                t.origin,
                sorted(t.point.items()),
                t.seed,
                t.state,
                t.reason,
                {k: str(list(v)) for k, v in sorted(t.curves.items()) if k != "cost/seconds"},
            )
            for t in trials
        )
    return found


def told(folder: Path) -> list[dict[str, Any]]:
    """All whole events so far."""
    files = cells(folder / "studies" / "s") if (folder / "studies" / "s").exists() else []
    return [json.loads(line) for path in files for line in path.read_bytes().split(b"\n")[:-1]]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def descendants(pid: int) -> dict[int, str]:
    """Living processes below ``pid``, by number, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
    found: dict[int, str] = {}
    grown = True
    while grown:
        new = {
            p: names[p]
            for p, parent in parents.items()
            if p not in found and (parent == pid or parent in found) and p in names
        }
        grown = bool(new)
        found |= new
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def runs_in_mlflow(folder: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], max_results=1000))


def check_mlflow(folder: Path) -> None:
    """One run per trial, one per cell, none left RUNNING, every curve whole."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = runs_in_mlflow(folder)
    trials = {t.key: t for path in cells(folder / "studies" / "s") for t in replay(path).trials.values()}
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    assert Counter(r.data.tags["raystudy.key"] for r in children) == Counter(list(trials))
    assert len(runs) - len(children) == len(cells(folder / "studies" / "s"))
    assert {r.info.status for r in runs} == {"FINISHED"}
    for run in children:
        curve = client.get_metric_history(run.info.run_id, "val/acc")
        want = list(trials[run.data.tags["raystudy.key"]].curves["val/acc"])
        assert [m.value for m in sorted(curve, key=lambda m: m.step)] == want
        assert len(run.data.metrics) < 25


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, sweep(folder)


def test_a_study_from_nothing_to_the_leaderboard(undisturbed: tuple[Path, str]) -> None:
    folder, printed = undisturbed
    assert "noisy_val" in printed
    assert "ORACLE" in printed
    assert "raystudy ui" in printed
    for noise in ("INFO", "WARNING", "(raylet)", "[I 20"):
        assert noise not in printed
    found = outcome(folder)
    assert sorted(name.split("_")[0] for name in found) == ["ce", "dividemix"]
    origins = Counter(t[1] for name, trials in found.items() for t in trials if name.startswith("dividemix"))
    assert origins["paper"] == 1
    assert origins["search"] == 3
    assert origins["replicate"] in (1, 2)  # chosen and paper point may be the same
    headers = {
        json.loads(path.read_text().splitlines()[0])["digests"]["data"] for path in cells(folder / "studies" / "s")
    }
    stored = [masks.load(path) for path in sorted((folder / "studies" / "s" / "masks").iterdir())]
    assert len(stored) == len({path.stem.partition("_")[2] for path in cells(folder / "studies" / "s")})
    assert {mask.data for mask in stored} == headers
    trials = [t for path in cells(folder / "studies" / "s") for t in replay(path).trials.values()]
    left = {path.stem for path in (folder / "studies" / "s" / "arrays").glob("*.npz")}
    assert left == {t.key for t in trials if t.state == "complete"}
    check_mlflow(folder)


def test_actors_are_reused(undisturbed: tuple[Path, str]) -> None:
    workers = Counter(e["worker"] for e in told(undisturbed[0]) if e["event"] == "end")
    assert 1 <= len(workers) <= (os.cpu_count() or 1)
    assert sum(workers.values()) >= 6


def test_a_finished_study_run_again_only_prints(undisturbed: tuple[Path, str]) -> None:
    folder, printed = undisturbed
    before = {p: p.read_bytes() for p in cells(folder / "studies" / "s")}
    again = sweep(folder)
    assert {p: p.read_bytes() for p in cells(folder / "studies" / "s")} == before
    assert again.startswith("s (digits): clean test accuracy")
    assert printed.endswith(again)
    check_mlflow(folder)


@pytest.mark.parametrize("after", [3, 40])
def test_kill_9_of_the_driver(undisturbed: tuple[Path, str], tmp_path: Path, after: int) -> None:
    process = start(tmp_path)
    wait_for(lambda: sum(e["event"] == "record" for e in told(tmp_path)) >= after, process)
    process.kill()
    process.wait()
    sweep(tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed[0])
    check_mlflow(tmp_path)


def test_kill_9_of_everything_twice(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    for after in (20, 60):
        process = start(tmp_path)
        wait_for(lambda after=after: sum(e["event"] == "record" for e in told(tmp_path)) >= after, process)
        below = list(descendants(process.pid))
        kill([process.pid, *below])
        process.wait()
        ended = [e["key"] for e in told(tmp_path) if e["event"] == "end"]
        assert len(ended) == len(set(ended))
    sweep(tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed[0])
    check_mlflow(tmp_path)


def test_kill_9_of_workers(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    process = start(tmp_path)
    for after in (10, 30):
        wait_for(lambda after=after: sum(e["event"] == "record" for e in told(tmp_path)) >= after, process)
        workers = [pid for pid, name in descendants(process.pid).items() if name.startswith("ray::")]
        kill([pid for pid in workers if "Trainable" in descendants(process.pid).get(pid, "")][:1])
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert outcome(tmp_path) == outcome(undisturbed[0])
    check_mlflow(tmp_path)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_clean_stop_says_how_to_go_on(undisturbed: tuple[Path, str], tmp_path: Path, by: signal.Signals) -> None:
    process = start(tmp_path)
    wait_for(lambda: sum(e["event"] == "record" for e in told(tmp_path)) >= 15, process)
    process.send_signal(by)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out
    assert "the same command goes on" in out
    assert "Traceback" not in out
    assert not [r for r in runs_in_mlflow(tmp_path) if r.info.status == "RUNNING"]
    sweep(tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed[0])
    check_mlflow(tmp_path)


def test_a_study_grows(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    sweep(tmp_path, "--trials", "2", "--replicates", "0", "--tracking-uri", "none")
    before = {p: p.read_bytes() for p in cells(tmp_path / "studies" / "s")}
    sweep(tmp_path, "--noise", "symmetric:0.6", "--replicates", "0")
    for path, old in before.items():
        assert path.read_bytes().startswith(old)  # nothing that was there is repeated or changed
    grown = outcome(tmp_path)
    assert len(grown) == 4
    want = outcome(undisturbed[0])
    for name, trials in want.items():
        assert grown[name] == [t for t in trials if t[1] != "replicate"]
    check_mlflow(tmp_path)


def test_a_failing_trial_is_told_and_the_study_goes_on(tmp_path: Path) -> None:
    """A batch size no GPU or CPU can hold is not ours to judge: here a network that cannot take the images fails in every trial."""
    folder = tmp_path / "f"
    folder.mkdir()
    command = [
        sys.executable,
        "-m",
        "raystudy.sweep",
        "ce",
        "--epochs",
        "2",
        "--network",
        "alexnet",
        "--tracking-uri",
        "none",
        "--name",
        "s",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "alexnet" in done.stderr


def test_every_method_runs_in_a_sweep(tmp_path: Path) -> None:
    """As ``python -m raystudy.sweep NAME`` runs it, through real Ray, all in one study."""
    options = (
        "--no-baseline",
        "--noise",
        "symmetric:0.4",
        "--epochs",
        "2",
        "--trials",
        "1",
        "--replicates",
        "0",
        "--name",
        "all",
    )
    command = [sys.executable, "-m", "raystudy.sweep", *sorted(METHODS), *options, "--tracking-uri", "none"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = {path.stem: list(replay(path).trials.values()) for path in cells(tmp_path / "studies" / "all")}
    assert len(trials) == len(METHODS)
    for cell, (trial,) in trials.items():
        assert (trial.origin, trial.state, trial.reason) == ("paper", "complete", ""), cell
        assert len(trial.curves["test/acc"]) == 2, cell
