"""The main job end to end: the real command on a real local Ray, with a real MLflow store, and killed in every way."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raystudy.data import masks
from raystudy.learn.methods import METHODS
from raystudy.record.ledger import cells, replay
from raystudy.tools.chaos.bout import Bout
from raystudy.tools.chaos.holds import outcome, violations
from raystudy.tools.chaos.processes import descendants, send
from raystudy.tracking.store import connect

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SMALL = (
    *("dividemix", "--noise", "symmetric:0.3", "--epochs", "12", "--trials", "4", "--replicates", "1", "--name", "s"),
    *("--checkpoint-every", "0.2"),
)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Bout:
    study = Bout(tmp_path_factory.mktemp("undisturbed"), command=SMALL)
    study.start()
    study.wait(0)
    return study


@pytest.fixture
def bout(undisturbed: Bout, tmp_path: Path) -> Iterator[Bout]:
    """The same study, to be disturbed. In the end it must be as the undisturbed one."""
    with contextlib.closing(Bout(tmp_path, undisturbed, SMALL)) as study:
        yield study
        study.finish()
        assert violations(study) == []


def test_a_study_from_nothing_to_the_leaderboard(undisturbed: Bout) -> None:
    printed = undisturbed.printed()
    assert "noisy_val" in printed
    assert "ORACLE" in printed
    assert "raystudy ui" in printed
    for noise in ("INFO", "WARNING", "(raylet)", "[I 20"):
        assert noise not in printed
    found = outcome(undisturbed.study)
    assert sorted(name.split("_")[0] for name in found) == ["ce", "dividemix"]
    origins = Counter(t[1] for name, trials in found.items() for t in trials if name.startswith("dividemix"))
    assert origins["paper"] == 1
    assert origins["search"] == 3
    assert origins["replicate"] in (1, 2)  # chosen and paper point may be the same
    files = cells(undisturbed.study)
    headers = {json.loads(path.read_text().splitlines()[0])["digests"]["data"] for path in files}
    stored = [masks.load(path) for path in sorted((undisturbed.study / "masks").iterdir())]
    assert len(stored) == len({path.stem.partition("_")[2] for path in files})
    assert {mask.data for mask in stored} == headers
    trials = [t for path in files for t in replay(path).trials.values()]
    left = {path.stem for path in (undisturbed.study / "arrays").glob("*.npz")}
    assert left == {t.key for t in trials if t.state == "complete"}
    assert violations(undisturbed) == []


def runs_in_mlflow(bout: Bout) -> list[Any]:
    client = connect(bout.store)
    return list(client.search_runs([client.get_experiment_by_name("s").experiment_id], max_results=1000))


def test_mlflow_tells_of_a_finished_study_in_few_metrics(undisturbed: Bout) -> None:
    runs = runs_in_mlflow(undisturbed)
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert all(len(r.data.metrics) < 25 for r in runs if "mlflow.parentRunId" in r.data.tags)


def test_actors_are_reused(undisturbed: Bout) -> None:
    workers = Counter(e["worker"] for e in undisturbed.events() if e["event"] == "end")
    assert 1 <= len(workers) <= (os.cpu_count() or 1)
    assert sum(workers.values()) >= 6


def test_a_finished_study_run_again_only_prints(undisturbed: Bout) -> None:
    before, printed = {p: p.read_bytes() for p in cells(undisturbed.study)}, undisturbed.printed()
    again = undisturbed.finish()
    assert {p: p.read_bytes() for p in cells(undisturbed.study)} == before
    assert again.startswith("s (digits): clean test accuracy")
    assert printed.endswith(again)
    assert violations(undisturbed) == []


def test_kill_9_of_the_driver_and_of_everything(bout: Bout) -> None:
    """At the first records, and later and later, as a whole machine that loses power, too. What two workers have begun, one brings to the
    end that two come to."""
    for after, everything in ((3, False), (10, True), (10, False), (10, True)):
        bout.start()
        bout.until_records(after)
        bout.kill(everything)
        ended = [e["key"] for e in bout.events() if e["event"] == "end"]
        assert len(ended) == len(set(ended))
    bout.options += ["--max-concurrent", "1"]


def test_kill_9_of_workers(bout: Bout) -> None:
    """Of one that begins its trial, and of two that train."""

    def began() -> bool:
        below = descendants(bout.running().pid)
        found = [p for p, name in below.items() if name.startswith("ray::") and "Trainable.__init__" in name]
        send(found[:1])
        return bool(found)

    bout.start()
    bout.until(began)
    for after in (10, 30):
        bout.until_records(after)
        send(bout.workers()[:1])


DIES = """
'''Cross-entropy. The first worker that begins a second trial dies of it.'''
import os
from pathlib import Path
import torch.nn.functional as F
from raystudy import Method

class Dies(Method):
    def __init__(self, task):
        super().__init__(task)
        begun = os.environ["BEGUN"] = os.environ.get("BEGUN", "") + "x"
        if begun == "xx" and Path("/proc/self/cmdline").read_bytes().startswith(b"ray::"):
            try:
                Path("FOLDER/died").touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), 9)

    def step(self, batch, t):
        loss = F.cross_entropy(self.nets[0](batch.x), batch.y)
        self.descend(0, loss)
        return {"loss": loss.detach()}
"""


def test_a_worker_that_dies_as_it_goes_on_to_another_trial(tmp_path: Path) -> None:
    """Tune itself starts a trial again only once it runs: it would take this death for the trial's end."""
    (tmp_path / "dies.py").write_text(DIES.replace("FOLDER", str(tmp_path)))
    options = ("--no-baseline", "--noise", "symmetric:0.3", "--epochs", "2", "--trials", "1", "--replicates", "2")
    more = ("--max-concurrent", "1", "--name", "s", "--tracking-uri", "none")
    command = [sys.executable, "-m", "raystudy.sweep", "dies.py:Dies", *options, *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "died").exists()
    (path,) = cells(tmp_path / "studies" / "s")
    assert [(t.state, t.reason) for t in replay(path).trials.values()] == [("complete", "")] * 3


def test_a_clean_stop_says_how_to_go_on(bout: Bout) -> None:
    """By Ctrl-C, by SIGTERM, and as `timeout make sweep` and Slurm stop it: then Ray's own processes get the signal, too, and the
    driver does not wait for them."""
    for by, everything in ((signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)):
        bout.start()
        bout.until_records(10)
        below = [*descendants(bout.running().pid)] if everything else []
        send([bout.running().pid, *below], by)
        bout.wait(130, "the same command goes on", 40 if everything else 60)
        if not everything:
            assert "RUNNING" not in {r.info.status for r in runs_in_mlflow(bout)}


def test_a_study_grows(undisturbed: Bout, tmp_path: Path) -> None:
    study = Bout(tmp_path, command=SMALL)
    study.start("--trials", "2", "--replicates", "0", "--tracking-uri", "none")
    study.wait(0)
    before = {p: p.read_bytes() for p in cells(study.study)}
    study.start("--noise", "symmetric:0.6", "--replicates", "0")
    study.wait(0)
    for path, old in before.items():
        assert path.read_bytes().startswith(old)  # nothing that was there is repeated or changed
    grown = outcome(study.study)
    assert len(grown) == 4
    for name, trials in outcome(undisturbed.study).items():
        assert grown[name] == [t for t in trials if t[1] != "replicate"]
    assert violations(study) == []


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
