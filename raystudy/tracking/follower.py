"""The process that follows a study's ledger into MLflow while it runs: ``python -m raystudy.tracking.follower STUDY_DIR``.

Here belong starting it, ending it and its loop. It is a process of its own, so the driver's loop never waits for MLflow and never
imports it. MLflow can be away: the follower tries again until the study ends, and ``raystudy sync`` brings what is then missing.
"""

import argparse
import contextlib
import json
import os
import select
import subprocess
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from raystudy.errors import InputError
from raystudy.terminal import lenient
from raystudy.tracking import store
from raystudy.tracking.projection import Projection
from raystudy.tracking.sync import environment, sync

PAUSE = 2.0  # seconds between two looks at the ledger; longer if looking takes more than a twentieth of that


def start(study_dir: Path, uri: str) -> subprocess.Popen[bytes]:
    """Starts the process that follows the ledger. It ends with ``finish``, or with this process, however that ends."""
    folder = study_dir / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "raystudy.tracking.follower", str(study_dir.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,  # its last word
            stderr=log,
            env=environment(store.absolute(uri)),
            start_new_session=True,  # Ctrl-C is for the driver; this one still has its last pass to do
        )


def finish(process: subprocess.Popen[bytes], timeout: float) -> str | None:
    """Lets the process do its last pass. Returns None if all is in MLflow, else why not, in one line.

    If it takes longer it goes on by itself, for as long as it needs.
    """
    assert process.stdin
    assert process.stdout
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        code = process.wait(timeout)
    except subprocess.TimeoutExpired:
        return f"it takes longer than {timeout:.0f} seconds and goes on by itself"
    with process.stdout as word:
        told = word.read().decode(errors="replace").strip()
    return (told or f"its process ended with code {code}, see tracking/log.txt of the study") if code else None


def follow(study_dir: Path, uri: str) -> str | None:
    """Follows the ledger until standard input ends, then does a last pass. Returns None if all is in MLflow, else why not."""
    projection, wait = None, 0.0
    while True:
        ended = bool(select.select([sys.stdin], [], [], wait)[0]) and not os.read(sys.stdin.fileno(), 4096)
        if store.replaced(uri):  # only a new process gets a new store
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        try:
            projection = projection or Projection(study_dir, uri)
            began = time.monotonic()
            projection.sync(running=not ended)
            wait, problem = min(30.0, max(PAUSE, 20 * (time.monotonic() - began))), None
        except Exception as e:
            wait, problem = min(60.0, max(PAUSE, 2 * wait)), store.trouble(uri, e)
            print(time.strftime("%Y-%m-%d %H:%M:%S"), problem, file=sys.stderr, flush=True)
            if not isinstance(e, InputError | OSError) and type(e).__name__ != "MlflowException":
                traceback.print_exc()
        if ended:
            return problem


def main() -> int:
    about = "Follows a study's ledger into MLflow until standard input ends."
    parser = argparse.ArgumentParser(prog="python -m raystudy.tracking.follower", description=about)
    parser.add_argument("study_dir", type=Path)
    parser.add_argument("--uri", help="default: MLFLOW_TRACKING_URI, else ./mlflow.db")
    parser.add_argument("--once", action="store_true", help="one pass, and print what it wrote")
    parser.add_argument("--running", action="store_true", help="with --once: show unfinished trials as running")
    told = parser.parse_args()
    lenient()
    uri = store.absolute(told.uri) if told.uri else store.default_uri()
    if told.once:
        try:
            print(json.dumps(asdict(sync(told.study_dir, uri, told.running))))
        except InputError as e:
            print(e, file=sys.stderr)
            return 2
        return 0
    sys.stderr.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]  # a log file
    os.nice(10)  # training comes first
    word, sys.stdout = sys.stdout.fileno(), sys.stderr  # what else is printed goes to the log
    problem = follow(told.study_dir, uri)
    if problem:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            os.write(word, problem.encode(errors="replace"))
    return int(problem is not None)


if __name__ == "__main__":
    sys.exit(main())
