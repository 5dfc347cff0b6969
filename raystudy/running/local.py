"""A Ray of this machine's own: what is told it before it starts, and how it comes up beside this process's other work.

Only what does not matter to a cluster that is joined belongs here. Nothing here imports torch: Ray comes up while others do.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._private import node as rays_node

from raystudy.errors import InputError

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing is ever restored from Tune's own snapshots
    "TUNE_WARN_THRESHOLD_S": "60",
    "PL_DISABLE_FORK": "1",  # what Tune asks for its workers, see ``inherited``
}
PRELOADED = "RAY_preload_python_modules"  # Ray's own setting: what a worker imports before it has work
IDLE = "RAY_idle_worker_killing_time_threshold_ms"  # else a worker that waits for a core's second trial is ended after one second
NICENESS = "RAY_worker_niceness"  # Ray's own setting, 15: beside others' processes a trial gets a quarter of their share, or less
# What our workers import for long; not raystudy, which a driver may have from another place. The first optimizer imports torch's compiler.
MODULES = "torch,torch._dynamo,ray.tune"
SMALL = (
    8  # cores up to which all of Ray's first workers, one a core, import beforehand: more would take memory for nothing
)
NEEDLESS = ("start_api_server", "start_monitor", "start_log_monitor")  # of ray._private.node.Node


def eager(cpus: float, max_concurrent: int | None, gpus: bool) -> bool:
    """Whether all workers that Ray starts, one a core, are likely to get a trial, so that they may import before."""
    return cpus == 1 and max_concurrent is None and not gpus and (os.cpu_count() or 1) <= SMALL


def gpus() -> bool:
    """Whether this machine has any, without asking torch."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


class LocalRay:
    """A Ray of its own, coming up since this was made, never one that an earlier, killed driver left behind.

    Ray's processes die with the thread that started them (PR_SET_PDEATHSIG), so it waits for ``end``.
    """

    def __init__(self, threads: int, preload: bool) -> None:
        quiet()
        # A worker would hear of its threads with its first trial, too late for what it has imported.
        told = {"OMP_NUM_THREADS": str(threads), IDLE: "60000", NICENESS: "0"} | (
            {PRELOADED: MODULES} if preload else {}
        )
        self._told = {name: value for name, value in told.items() if name not in os.environ}
        self._begin()

    def _begin(self) -> None:
        self._problem: Exception | None = None
        self._tried, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="raystudy-ray", daemon=True)
        self._thread.start()

    def _live(self) -> None:
        os.environ |= self._told
        try:
            with _lean():
                start(address="local", num_cpus=os.cpu_count(), include_dashboard=False)
        except Exception as e:  # Ray raises nothing more special where a busy machine keeps it from starting in time
            self._problem = e
        for name in self._told:
            os.environ.pop(name, None)
        self._tried.set()
        self._over.wait()

    def wait(self) -> None:
        """Returns when it is up. Raises InputError, one line, where it could not start."""
        self._tried.wait()
        if (
            self._problem
        ):  # once more, now that this process leaves it the cores: Ray gives its own processes seconds, not minutes
            self.end()
            self._begin()
            self._tried.wait()
        if self._problem:
            raise InputError(f"cannot start or reach Ray on this machine: {' '.join(str(self._problem).split())[:400]}")

    def end(self) -> None:
        """Ends it, all of its processes; a second call does nothing."""
        self._tried.wait()
        if not self._over.is_set():
            ray.shutdown()
        self._over.set()
        self._thread.join()


def start(**where: Any) -> None:
    """``ray.init``, saying nothing."""
    ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)


def quiet() -> None:
    """What Ray and Tune read when they are imported, started or used."""
    os.environ |= ENVIRONMENT
    for logger in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)


@contextlib.contextmanager
def _lean() -> Iterator[None]:
    """Ray without three processes of its own that a study on one machine has no use of: the server of a dashboard that is not shown, the
    autoscaler's monitor, and what brings workers' output to a driver that does not want it. Together they take two to three seconds of
    processor time, and the start waits for the first. Ray has no setting for it; in a Ray without these names they run as ever.
    """
    node = rays_node.Node
    held = {name: getattr(node, name) for name in NEEDLESS if hasattr(node, name)}
    for name in held:
        setattr(node, name, lambda self, *args, **options: None)
    try:
        yield
    finally:
        for name, method in held.items():
            setattr(node, name, method)


@contextlib.contextmanager
def inherited() -> Iterator[None]:
    """Tune's workers without variables of their own. Those of a local Ray have this process's environment anyway, and a worker that is to
    have others is none of those that Ray has already started: each trial's first worker would start, and import, from nothing."""
    from ray.tune.execution import class_cache

    held = {
        n: getattr(class_cache, n) for n in ("DEFAULT_ENV_VARS", "ENV_VARS_TO_PROPAGATE") if hasattr(class_cache, n)
    }
    for name, told in held.items():
        setattr(class_cache, name, type(told)())
    try:
        yield
    finally:
        for name, told in held.items():
            setattr(class_cache, name, told)
