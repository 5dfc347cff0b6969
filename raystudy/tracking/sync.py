"""One pass, as commands ask for it: bring MLflow up to a study's ledger now, and say in one line what came of it.

Here belong a single pass and the process it may need; ``follower`` is for the passes beside a running study.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from raystudy.errors import InputError
from raystudy.record import storage
from raystudy.tracking import cursor, store
from raystudy.tracking.projection import Projection, Synced

# How a process of ours is started (commands/processes.py): -P, so that no file of the folder a person works in hides a package.
OURS = (sys.executable, "-P", "-m", "raystudy.commands.processes")


def sync(study_dir: Path, uri: str, running: bool = False) -> Synced:
    """Brings MLflow up to the ledger, once. Raises InputError, one line, if it cannot."""
    uri = store.absolute(uri)
    if store.replaced(uri):  # only a new process gets a new store
        command = [*OURS, "once", str(study_dir.absolute()), *(["--running"] if running else [])]
        told = subprocess.run(
            command, env=environment(uri), stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8"
        )
        if told.returncode:
            raise InputError((told.stderr.strip() or "the projection ended without a word").splitlines()[-1])
        return Synced(**json.loads(told.stdout))
    try:
        return Projection(study_dir, uri).sync(running, whole=True)
    except InputError:
        raise
    except Exception as e:
        raise InputError(store.trouble(uri, e)) from e


def command(study_dir: Path, uri: str) -> str:
    """What brings a study to a store, as it is typed in this working directory."""
    words = ["raystudy", "sync", study_dir.name]
    if study_dir.parent != Path("studies").absolute():
        words += ["--storage", storage.told(study_dir.parent)]
    if uri != store.default_uri():
        words += ["--tracking-uri", store.public(uri)]
    return shlex.join(words)


def environment(uri: str) -> dict[str, str]:
    """Of a process of ours. The URI goes by the environment, because it may hold a password and others can read command lines."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONPATH": path}


def logged(study_dir: Path, running: bool) -> str:
    """Brings what was written beside a study's ledger to the store the study was brought to last; what came of it, in a line."""
    uri = cursor.store_of(study_dir)
    if uri is None:
        return "not in MLflow: the study is not there (raystudy sync brings both)"
    if running:
        return f"not in MLflow yet: the running sweep brings it to {uri} when it ends"
    try:
        store.check(uri)
        sync(study_dir, uri)
    except InputError as e:
        return f"not in MLflow (raystudy sync brings it there): {e}"
    return f"in MLflow: an artifact of the study's first cell, to which the others' descriptions link ({uri})"
