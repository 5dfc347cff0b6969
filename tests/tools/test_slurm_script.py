"""What the job script decides when an attempt has ended, with stand-ins for Slurm's commands, Ray and the sweep.

The same script on a real Slurm, with a real Ray, is in ``tests/running/test_slurm.py``; what it decides in cases that are seldom is quicker
to see here.
"""

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

from raystudy.tools import slurm

COMMANDS = {
    # Ray's head: it tells its address, and is there until scancel ends it.
    "srun": 'echo $$ >pid; mkdir -p "$scratch"; echo 127.0.0.1:1 >"$scratch/ray_current_cluster"; exec sleep 60',
    "scancel": 'kill "$(cat pid)" 2>/dev/null; rm -rf "$scratch"; echo "scancel $*" >>calls',
    "squeue": "cat state",
    "scontrol": 'echo "scontrol $*" >>calls',
    "python": 'stat -c %a "$RAY_AUTH_TOKEN_PATH" >mode; cp "$RAY_AUTH_TOKEN_PATH" token; env >environment; . ./sweep.sh',
}
REQUEUE = "scontrol requeue"


class Place:
    """A folder with a job script and stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ledger = folder, folder / "cells"
        commands = folder / "bin"
        commands.mkdir()
        for name, text in COMMANDS.items():
            (commands / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (commands / name).chmod(0o755)
        job = slurm.Job("s", folder, commands, nodes=1, time=3600, ahead=300)
        (folder / "job.sh").write_text(slurm.script(job, [slurm.Part("s", ("ce",), self.ledger)]))
        self.state("RUNNING")
        self.number = f"test{os.getpid()}"
        self.scratch = Path(f"/tmp/raystudy-{self.number}")

    def state(self, text: str) -> None:
        (self.folder / "state").write_text(f"{text}\n")

    def begin(self, sweep: str) -> "subprocess.Popen[str]":
        (self.folder / "sweep.sh").write_text(sweep)
        (self.folder / "calls").unlink(missing_ok=True)
        told = {"SLURM_JOB_ID": self.number, "SLURM_JOB_NUM_NODES": "1", "SLURMD_NODENAME": "n1"}
        told |= {"PATH": "/usr/bin:/bin", "RAY_AUTH_TOKEN": "another", "RAY_ADDRESS": "another:1"}
        return subprocess.Popen(
            ["bash", "job.sh"], cwd=self.folder, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def end(self, process: "subprocess.Popen[str]") -> tuple[int, str]:
        """The exit code and the last line; nothing of Ray or its token is left."""
        out, _ = process.communicate(timeout=60)
        assert not self.scratch.exists()
        assert not list(self.folder.glob(".raystudy-slurm/*/token"))
        assert "unbound variable" not in out
        return process.returncode, out.splitlines()[-1].partition(": ")[2]

    def attempt(self, sweep: str) -> tuple[int, str]:
        return self.end(self.begin(sweep))

    @property
    def calls(self) -> str:
        return (self.folder / "calls").read_text()

    @property
    def kept(self) -> list[Path]:
        return list(self.folder.glob(".raystudy-slurm"))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_study_that_is_done(place: Place) -> None:
    assert place.attempt("exit 0") == (0, "the study is done")
    assert REQUEUE not in place.calls
    assert place.kept == []


def test_the_token_is_a_new_one_that_only_this_user_reads(place: Place) -> None:
    place.attempt("exit 0")
    first = (place.folder / "token").read_text()
    assert len(first) == 64
    assert (place.folder / "mode").read_text() == "600\n"
    environment = (place.folder / "environment").read_text()
    assert "RAY_AUTH_MODE=token\n" in environment
    assert "RAY_AUTH_TOKEN=" not in environment  # another one, which would count before the file
    assert first not in environment
    assert stat.S_IMODE((place.folder / "job.sh").stat().st_mode) & stat.S_IRUSR
    place.attempt("exit 0")
    assert (place.folder / "token").read_text() != first


def test_a_mistake_is_not_tried_again(place: Place) -> None:
    assert place.attempt("exit 2") == (2, "a mistake, told above: not queued again")
    assert REQUEUE not in place.calls


def test_a_dead_ray_is_no_mistake(place: Place) -> None:
    """The sweep tells both with the same code."""
    code, said = place.attempt('kill "$(cat pid)"; sleep 0.5; exit 2')
    assert (code, said) == (1, "queued again")
    assert REQUEUE in place.calls


def test_limits_of_the_sweep_itself_are_the_last_word(place: Place) -> None:
    assert place.attempt("exit 130") == (130, "stopped by its own limits: not queued again; sbatch goes on")
    assert REQUEUE not in place.calls


@pytest.mark.slow
def test_failures_without_progress_are_bounded(place: Place) -> None:
    more = "mkdir -p cells; echo more >>cells/a.jsonl; exit 1"
    assert [place.attempt("exit 1")[1] for _ in range(2)] == ["queued again"] * 2
    assert place.attempt(more) == (1, "queued again")  # that counts
    assert [place.attempt("exit 1")[1] for _ in range(2)] == ["queued again"] * 2
    assert place.attempt("exit 1") == (1, "not queued again")
    assert REQUEUE not in place.calls
    assert place.kept == []


def stopped(place: Place, sweep: str, how: signal.Signals) -> tuple[int, str]:
    process = place.begin(sweep)
    end = time.monotonic() + 30
    while not (place.folder / "runs").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    (place.folder / "runs").unlink()
    process.send_signal(how)
    return place.end(process)


CLEAN = "trap 'mkdir -p cells; echo more >>cells/a.jsonl; exit 130' TERM; touch runs; while :; do sleep 0.05; done"


@pytest.mark.parametrize(
    "how", [signal.SIGUSR1, signal.SIGTERM]
)  # the time is nearly over; another job wants the nodes
def test_a_clean_stop_is_queued_again(place: Place, how: signal.Signals) -> None:
    assert stopped(place, CLEAN, how) == (130, "queued again")
    assert REQUEUE in place.calls


def test_a_cancelled_job_is_not_queued_again(place: Place) -> None:
    place.state("COMPLETING")
    assert stopped(place, CLEAN, signal.SIGTERM) == (130, "cancelled: not queued again")
    assert REQUEUE not in place.calls
    assert place.kept == []


@pytest.mark.slow
def test_time_limits_too_short_for_any_progress_are_bounded(place: Place) -> None:
    idle = "trap 'exit 130' TERM; touch runs; while :; do sleep 0.05; done"
    said = [stopped(place, idle, signal.SIGUSR1)[1] for _ in range(3)]
    assert said == ["queued again", "queued again", "not queued again"]
