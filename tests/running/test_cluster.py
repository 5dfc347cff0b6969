"""Attaching to a running cluster of several nodes: Ray's own cluster utility, real sweeps."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raystudy.record import usage
from raystudy.record.ledger import cells, events, replay

pytestmark = [pytest.mark.slow, pytest.mark.ray]
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def head(**options: Any) -> Iterator[Any]:
    """A cluster with a head on which nothing is placed; tests add nodes."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **options})
    try:
        yield found
    finally:
        found.shutdown()


@pytest.fixture
def cluster() -> Iterator[Any]:
    with head() as found:
        yield found


def copied(to: Path) -> Path:
    """The code, to be changed."""
    for name in ("raystudy", "analysis", "search_spaces"):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
    return to


def sweep(cluster: Any, folder: Path, *options: str, code: Path = ROOT) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "raystudy.sweep", "--name", "s", "--replicates", "0", "--address", cluster.address]
    return subprocess.Popen(
        [*command, "--tracking-uri", "none", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(code), "XDG_CACHE_HOME": str(folder / "cache")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: "subprocess.Popen[str]", seconds: float = 240) -> str:
    try:
        out, _ = process.communicate(timeout=seconds)
    finally:
        process.kill()
    assert "Traceback" not in out, out
    return out


def test_autoscaling_sees_the_whole_demand_and_a_trial_moves_to_another_node(cluster: Any, tmp_path: Path) -> None:
    """With no node for a trial, all four that are out wait as requests; a node comes and is killed, its trials go on on another."""
    import ray
    from ray.util import placement_group_table

    url = f"file://{tmp_path}/there"
    options = ("ce", "elr", "--no-baseline", "--noise", "symmetric:0.2,0.5", "--epochs", "300", "--trials", "1")
    process = sweep(cluster, tmp_path, *options, "--max-concurrent", "4", "--storage", url, "--checkpoint-every", "0.5")
    ray.init(cluster.address, log_to_driver=False)
    try:
        waiting: list[Any] = []
        end = time.monotonic() + 120
        while len(waiting) < 4 and time.monotonic() < end and process.poll() is None:
            waiting = [g for g in placement_group_table().values() if g["state"] in ("PENDING", "CREATED")]
            time.sleep(0.2)
        assert len(waiting) == 4, process.communicate()[0] if process.poll() is not None else waiting
        first = cluster.add_node(num_cpus=4)
        study = tmp_path / "there" / "s"
        end = time.monotonic() + 150
        while not list((study / "checkpoints").glob("*.pt")):
            assert time.monotonic() < end, "no checkpoints"
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        cluster.remove_node(first, allow_graceful=False)
        cluster.add_node(num_cpus=4)
        out = ended(process)
    finally:
        process.kill()
        ray.shutdown()
    assert process.returncode == 0, out
    found = [t for path in cells(study) for t in replay(path).trials.values()]
    assert [(t.state, t.epochs) for t in found] == [("complete", 300)] * 4
    assert not list((study / "checkpoints").iterdir())  # ended: gone
    assert {f.stem for f in (study / "arrays").iterdir()} == {
        t.key for t in found
    }  # of trials on another node than the driver
    assert not (study / "driver.json").exists()


def told(study: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of a study by cell and trial, without what the machine decides: times, workers and seconds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in cells(study):
        for event, _ in events(path):
            kept = {k: v for k, v in event.items() if k not in ("time", "worker", "commit")}
            if "metrics" in kept:
                kept["metrics"] = {k: v for k, v in kept["metrics"].items() if k != "cost/seconds"}
            found.setdefault(f"{path.stem} {event.get('key', 'cell')}", []).append(kept)
    return found


@pytest.mark.timeout(1800)
def test_nodes_that_join_and_leave_change_the_places_and_nothing_else(cluster: Any, tmp_path: Path) -> None:
    """Two nodes join a study, one leaves with a trial on it: the ledger is event for event that of an undisturbed study."""
    cluster.add_node(num_cpus=1)
    options = (
        "elr",
        "--no-baseline",
        "--noise",
        "symmetric:0.2,0.5",
        "--epochs",
        "500",  # enough left, on a fast machine too, when the node goes: nodes are asked for every two seconds
        "--scheduler",
        "none",
        "--trials",
        "2",
        "--max-concurrent",
        "3",
    )
    process = sweep(cluster, tmp_path, *options, "--checkpoint-every", "0.5")
    study = tmp_path / "studies" / "s"

    def until(what: str, done: Callable[[], bool]) -> None:
        end = time.monotonic() + 400
        while not done():
            assert time.monotonic() < end, what
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.2)

    def trained() -> int:
        return sum(t.epochs > 0 for p in cells(study) for t in replay(p).trials.values())

    try:
        until("a first record", lambda: trained() > 0)
        more = [cluster.add_node(num_cpus=1), cluster.add_node(num_cpus=1)]
        until("records of three trials", lambda: trained() > 2)
        cluster.remove_node(more[0], allow_graceful=False)
        out = ended(process, 900)
    finally:
        process.kill()
    assert process.returncode == 0, out
    assert re.search(r"joined.*; places for 3 trials at once", out), out
    assert re.search(r"left; places for 2 trials at once", out), out
    spans = usage.read(study)
    seen = [round(s.places / s.seconds, 3) for s in spans]
    assert {1, 2, 3} <= set(seen), seen
    assert sum(s.died for s in spans) > 0
    assert not any(t.state == "failed" for p in cells(study) for t in replay(p).trials.values())

    alone = sweep(cluster, tmp_path, "--name", "alone", "--study", str(study / "study.toml"))
    out = ended(alone, 900)
    assert alone.returncode == 0, out
    assert told(study) == told(tmp_path / "studies" / "alone")


def test_out_of_memory_is_tried_once_more_with_a_whole_device(tmp_path: Path) -> None:
    """A method that runs out of memory on a part of a device and not on a whole one; another that always does; and one that never does."""
    code = copied(tmp_path / "code")
    for name, when in (("mae", "True"), ("gce", "not config['whole']")):
        trial = code / "raystudy" / "running" / "trial.py"
        here = "            self.run = Run(spec, data, device)\n"
        text = trial.read_text()
        assert text.count(here) == 1
        condition = f"            if spec.method == {name!r} and ({when}):\n"
        raised = condition + "                raise torch.OutOfMemoryError('CUDA out of memory')\n"
        trial.write_text(text.replace(here, raised + here))
    options = ("gce", "mae", "ce", "--no-baseline", "--noise", "symmetric:0.2", "--epochs", "2", "--trials", "1")
    there = {"PYTHONPATH": str(code)}
    with head(env_vars=there) as cluster:
        cluster.add_node(
            num_cpus=2, num_gpus=1, env_vars=there
        )  # Ray believes what it is told of GPUs; the trials run on the CPU
        parts = ("--gpus-per-trial", "0.5", "--max-concurrent", "4")
        out = ended(process := sweep(cluster, tmp_path, *options, *parts, code=code))
    assert process.returncode == 0, out
    found = {p.stem.split("_")[0]: next(iter(replay(p).trials.values())) for p in cells(tmp_path / "studies" / "s")}
    assert {name: t.state for name, t in found.items()} == {"ce": "complete", "gce": "complete", "mae": "failed"}
    assert found["ce"].retried == ""
    assert found["gce"].retried.startswith("out of memory on its part of a device: OutOfMemoryError")
    assert found["mae"].reason.startswith("out of memory on a whole device: OutOfMemoryError")
    assert "failed: trial 0" in out


def test_a_node_with_other_code_or_a_disk_of_its_own_is_one_clear_line(cluster: Any, tmp_path: Path) -> None:
    code = copied(tmp_path / "code")
    (code / "raystudy" / "learn" / "losses.py").write_text(
        (ROOT / "raystudy" / "learn" / "losses.py").read_text() + "\n# newer\n"
    )
    other = cluster.add_node(num_cpus=2, env_vars={"PYTHONPATH": str(code)})
    options = ("ce", "--noise", "symmetric:0.2", "--epochs", "2", "--trials", "1")
    out = ended(process := sweep(cluster, tmp_path, *options))
    assert process.returncode == 2, out
    last = out.strip().splitlines()[-1]
    assert last.startswith("raystudy: node ")
    assert "code " in last
    assert "install the same on every node" in last
    cluster.remove_node(other)
    # The same node, joining while trials run on another.
    cluster.add_node(num_cpus=2)
    process = sweep(cluster, tmp_path, *options[:3], "--epochs", "20000", "--trials", "1", "--name", "late")
    end = time.monotonic() + 150
    while not any(t.epochs for p in cells(tmp_path / "studies" / "late") for t in replay(p).trials.values()):
        assert time.monotonic() < end, "no records"
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.2)
    other = cluster.add_node(num_cpus=2, env_vars={"PYTHONPATH": str(code)})
    out = ended(process)
    assert process.returncode == 2, out
    assert re.search(
        r"^raystudy: node \S+ has code \w+ \(driver: \w+\); install the same", out.strip().splitlines()[-1]
    ), out
    cluster.remove_node(other)
    # A storage that no node can write: a file is in the way.
    (tmp_path / "studies").mkdir(exist_ok=True)
    shutil.rmtree(tmp_path / "studies")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "s").mkdir()
    (tmp_path / "there" / "s" / "probes").write_text("in the way")
    out = ended(process := sweep(cluster, tmp_path, *options, "--storage", f"file://{tmp_path}/there"))
    assert process.returncode == 2, out
    assert "cannot write to --storage" in out.strip().splitlines()[-1]


def test_an_address_where_nothing_listens_is_one_clear_line(tmp_path: Path) -> None:
    class Nowhere:
        address = "127.0.0.1:1"

    out = ended(process := sweep(Nowhere(), tmp_path, "ce", "--noise", "symmetric:0.2", "--epochs", "2"))
    assert process.returncode == 2, out
    assert "cannot start or reach Ray on 127.0.0.1:1" in out.strip().splitlines()[-1]
    assert not (tmp_path / "studies" / "s").exists()
