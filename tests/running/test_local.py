"""Ray's start beside other work: what is not begun for a mistake, what is left of one, and what workers have imported."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("--noise", "symmetric:0.3", "--trials", "1", "--replicates", "0", "--epochs", "2")


def fresh(folder: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Python that has imported nothing yet, with a standard input that does not end."""
    env = os.environ | {"PYTHONPATH": str(ROOT)} | more
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ours, theirs = os.pipe()
    try:
        return subprocess.run(
            command, cwd=folder, env=env, stdin=ours, capture_output=True, text=True, timeout=400, check=False
        )
    finally:
        os.close(ours)
        os.close(theirs)


def sweep(*argv: str, say: str) -> str:
    """The code of a sweep in a process that says something of itself at its end."""
    return f"""
        import sys
        from raystudy.commands import app
        code = app.run(app.sweep, {list(argv)!r})
        print({say})
        sys.exit(code)
    """


def left(mark: str) -> list[str]:
    """Processes whose environment has the mark."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        pytest.param(("dividemx",), "unknown method", id="method"),
        pytest.param(("ce", "--epoch", "3"), "unknown option", id="option"),
        pytest.param(("ce", "--cpus-per-trial", "0"), "--cpus-per-trial is 0", id="cores"),
        pytest.param(
            ("ce", "--dry-run", "--network", "resnet1"), "unknown network", id="dry run", marks=pytest.mark.slow
        ),
    ],
)
def test_a_mistake_that_is_seen_at_once_starts_no_ray(tmp_path: Path, argv: tuple[str, ...], word: str) -> None:
    done = fresh(tmp_path, sweep(*argv, say="'ray' in sys.modules and __import__('ray').is_initialized()"))
    assert done.returncode == 2
    assert word in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "False\n"
    assert not any(tmp_path.iterdir())


@pytest.mark.ray
@pytest.mark.slow
def test_a_mistake_that_is_seen_while_ray_comes_up_leaves_nothing_of_it(tmp_path: Path) -> None:
    mark = f"RAYSTUDY_TEST={tmp_path.name}{os.getpid()}"
    done = fresh(
        tmp_path,
        sweep("ce", *QUICK, "--dataset", "npz:none.npz", say="__import__('ray').is_initialized()"),
        RAYSTUDY_TEST=mark.partition("=")[2],
    )
    assert done.returncode == 2
    assert "none.npz" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "False\n"
    assert not any(tmp_path.iterdir())
    assert left(mark) == []


def test_mlflow_is_not_imported_before_there_is_a_record(tmp_path: Path) -> None:
    """The follower of a study that has begun, and has no record yet."""
    cells = tmp_path / "s" / "cells"
    cells.mkdir(parents=True)
    done = fresh(
        tmp_path,
        f"""
        import sys, threading, time
        from pathlib import Path
        from raystudy.tracking import follower

        def driver():
            time.sleep(1)
            with cells.open("a") as f:
                f.write('{{"event":"note","time":1}}\\n')
            time.sleep(1)
            print([m for m in ("mlflow", "torch", "ray", "pandas") if m in sys.modules], flush=True)
            with cells.open("a") as f:
                f.write('{{"event":"record","time":1,"key":"k","epoch":0,"metrics":{{}}}}\\n')

        cells = Path({str(cells)!r}) / "c.jsonl"
        cells.write_text("")
        threading.Thread(target=driver).start()
        began = time.monotonic()
        print(follower._awaited(Path({str(cells.parent)!r})), 1.5 < time.monotonic() - began < 15)
        """,
    )
    assert done.stdout.splitlines() == ["[]", "False True"], done.stderr


WORKER = """
    import os, sys, time
    from pathlib import Path
    from raystudy.running.local import LocalRay, inherited

    if __name__ == "__main__":
        rising = LocalRay(1, preload=True)
        rising.wait()
        import ray
        from ray import tune
        from ray.tune.execution.class_cache import _ActorClassCache
        from raystudy.running.trial import TrialActor

        class Asked(TrialActor):
            def setup(self, config):
                pass
            def told(self):
                heavy = ("mlflow", "optuna", "sklearn", "torchvision", "matplotlib", "tensorboardX", "scipy", "cleanlab")
                seen = [m for m in heavy if m in sys.modules]
                return seen, os.environ.get("OMP_NUM_THREADS"), os.environ["PL_DISABLE_FORK"], os.nice(0), os.getpid()

        time.sleep({pause})
        began = time.time()
        with inherited():
            actor = _ActorClassCache().get(Asked).remote({{}})
        heavy, threads, fork, nice, pid = ray.get(actor.told.remote())
        started = time.time() - float(Path("/proc/uptime").read_text().split()[0])
        started += int(Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        print(heavy, threads, fork, nice - os.nice(0), started < began, flush=True)
        rising.end()
        rising.end()
        print(ray.is_initialized(), "OMP_NUM_THREADS" in os.environ)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_takes_a_worker_that_has_started_before_and_has_only_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(WORKER.format(pause=1)))
    env = {n: v for n, v in os.environ.items() if n != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.stdout.splitlines() == ["[] 1 1 0 True", "False False"], done.stderr
