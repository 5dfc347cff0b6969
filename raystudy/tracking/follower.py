"""The process that follows a study's ledger into MLflow while it runs: ``commands/processes.py`` is its door.

Here belong starting it, ending it and its loop. It is a process of its own, so the driver's loop never waits for MLflow and never
imports it. MLflow can be away: the follower tries again until the study ends, and ``raystudy sync`` brings what is then missing.
"""

import contextlib
import os
import select
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from raystudy.errors import InputError
from raystudy.record import ledger
from raystudy.tracking import store
from raystudy.tracking.projection import Projection
from raystudy.tracking.sync import OURS, environment

PATIENCE = 20.0  # seconds that it waits at most for a first record
LOOK_SECONDS = 0.25
PAUSE = 2.0  # seconds between two looks at the ledger; longer if looking takes more than a twentieth of that


def start(study_dir: Path, uri: str) -> subprocess.Popen[bytes]:
    """Starts the process that follows the ledger. It ends with ``finish``, or with this process, however that ends."""
    folder = study_dir / "tracking"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [*OURS, "follow", str(study_dir.absolute())],
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


def follow(study_dir: Path, uri: str, log: Callable[[str], None]) -> str | None:
    """Follows the ledger until standard input ends, then does a last pass. Returns None if all is in MLflow, else why not.

    It begins with the first record: until then the workers that come up need the cores, and MLflow takes seconds to import.
    """
    projection, wait = None, 0.0
    ended = _awaited(study_dir)
    while True:
        ended = ended or _over(wait)
        if store.replaced(uri):  # only a new process gets a new store
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        try:
            projection = projection or Projection(study_dir, uri)
            began = time.monotonic()
            projection.sync(running=not ended)
            wait, problem = min(30.0, max(PAUSE, 20 * (time.monotonic() - began))), None
        except Exception as e:
            wait, problem = min(60.0, max(PAUSE, 2 * wait)), store.trouble(uri, e)
            log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {problem}")
            if not isinstance(e, InputError | OSError) and type(e).__name__ != "MlflowException":
                log(traceback.format_exc())
        if ended:
            return problem


def _over(wait: float) -> bool:
    """Whether standard input ends within so many seconds."""
    return bool(select.select([sys.stdin], [], [], wait)[0]) and not os.read(sys.stdin.fileno(), 4096)


def _awaited(study_dir: Path) -> bool:
    """Waits for a record that is not there yet, for no longer than ``PATIENCE``. Returns whether standard input has ended."""
    begun, seen = time.monotonic(), {path: path.stat().st_size for path in ledger.cells(study_dir)}
    while time.monotonic() - begun < PATIENCE:
        if _over(LOOK_SECONDS):
            return True
        try:
            new = ((p, seen.get(p, 0)) for p in ledger.cells(study_dir))
            if any(event["event"] == "record" for path, known in new for event, _ in ledger.events(path, known)):
                return False
        except (InputError, OSError):  # the first pass tells what is wrong
            return False
    return False
