"""How OpenMP's threads wait is settled before torch is imported, by whatever door one comes in; a user's own word stays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raystudy import threads

ROOT = Path(__file__).parents[2]

# Ends the process where torch is about to be imported, and tells what its runtime would read.
AT_TORCH = """
import importlib.abc, os, runpy, sys

class Stop(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("torch:", os.environ.get("OMP_WAIT_POLICY"), os.environ.get("KMP_BLOCKTIME"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Stop())
door, *words = sys.argv[1:]
sys.argv = [door, *words]
runpy.run_module(door, run_name="__main__")
"""


def clean(**said: str) -> dict[str, str]:
    """An environment in which nothing is said of threads, but for ``said``."""
    return {k: v for k, v in os.environ.items() if k not in threads.SAID} | {"PYTHONPATH": str(ROOT)} | said


def at_torch(door: str, *words: str, **said: str) -> str:
    command = [sys.executable, "-c", AT_TORCH, door, *words]
    done = subprocess.run(command, env=clean(**said), capture_output=True, text=True, check=False)
    return done.stdout.strip().splitlines()[-1] if done.stdout else done.stderr


@pytest.mark.parametrize("door", ["raystudy.running.trial", "raystudy.estimator"])  # a worker's, and Python's
def test_before_torch_is_imported(door: str) -> None:
    assert at_torch(door) == "torch: PASSIVE 0"


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "raystudy train ce",
        "raystudy sweep ce",
        "raystudy.sweep ce",
        "raystudy plan ce",
        "raystudy check x.py:X",
        "raystudy clean npz:x.npz --out x",
        "raystudy predict x.json npz:x.npz --out x.csv",
        "raystudy embed digits --backbone torchvision:resnet18 --out x.npz",
        "raystudy noise estimate digits",
        "raystudy data show digits",
        "raystudy train-mentor --out x.npz",
    ],
)
def test_in_every_command_that_trains_or_asks_a_network(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert at_torch(*words.split()) == "torch: PASSIVE 0"


@pytest.mark.parametrize("said", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "1000"}, {"KMP_BLOCKTIME": "200"}])
def test_what_the_user_said_stays(said: dict[str, str]) -> None:
    told = f"torch: {said.get('OMP_WAIT_POLICY')} {said.get('KMP_BLOCKTIME')}"
    assert at_torch("raystudy.running.trial", **said) == told


@pytest.mark.slow
def test_the_runtime_heeds_it() -> None:
    """libgomp says itself what it read: torch's, and scikit-learn's if it is loaded."""
    command = [sys.executable, "-m", "raystudy", "train", "ce", "--epochs", "1", "--threads", "2"]
    done = subprocess.run(command, env=clean(OMP_DISPLAY_ENV="VERBOSE"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = {line.strip() for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line or "GOMP_SPINCOUNT" in line}
    assert any("'PASSIVE'" in line for line in told), done.stderr
    assert not any("'ACTIVE'" in line for line in told)
    assert {line.rpartition("=")[2].strip() for line in told if "GOMP_SPINCOUNT" in line} == {"'0'"}


@pytest.mark.ray
@pytest.mark.slow
def test_in_a_worker_of_a_ray_that_was_started_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    for name in threads.SAID:
        monkeypatch.delenv(name, raising=False)

    def told() -> tuple[bool, str | None]:
        """As a worker takes a TrialActor: by the name of its module."""
        before = "torch" in sys.modules
        import raystudy.running.trial  # noqa: F401

        return before, os.environ.get("OMP_WAIT_POLICY")

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        assert ray.get(ray.remote(told).remote()) == (False, "PASSIVE")
    finally:
        ray.shutdown()
