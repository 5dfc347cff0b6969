"""A Ray to run trials in: one of its own on this machine, or a running cluster that is joined; and how many places for trials it has."""

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from raystudy.errors import InputError
from raystudy.running.audience import Audience
from raystudy.running.resources import Resources, capacity, reach
from raystudy.running.signals import stopping

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the record
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # nothing is ever restored from Tune's own snapshots
    "TUNE_WARN_THRESHOLD_S": "60",
}
NAMED = 8  # nodes that are named, where there are more


@contextlib.contextmanager
def session(resources: Resources, audience: Audience) -> Iterator[float]:
    """Starts or joins Ray, and leaves or ends it. Yields how many trials fit at once.

    Ctrl-C and SIGTERM end the block cleanly, and nothing is raised for them. Raises InputError, one line, where there is no Ray.
    """
    os.environ |= ENVIRONMENT
    for logger in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    where: dict[str, Any] = {"address": resources.address}
    if not resources.address:  # a Ray of its own, never one that an earlier, killed driver left behind
        where = {"address": "local", "num_cpus": os.cpu_count(), "include_dashboard": False}
        audience.line(f"starting Ray on this machine: up to {capacity(resources):.0f} trials at once")
    reach(resources)
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as e:  # Ray raises nothing more special where a busy machine keeps it from starting in time
        place = f"on {resources.address}" if resources.address else "on this machine"
        raise InputError(f"cannot start or reach Ray {place}: {' '.join(str(e).split())[:400]}") from None
    with stopping(
        audience.abandoned
    ):  # only now: Ray has set a handler of its own for SIGTERM, and stopping takes time, too
        try:
            yield joined(resources, audience) if resources.address else capacity(resources)
        finally:
            ray.shutdown()


def joined(resources: Resources, audience: Audience) -> float:
    """Says what a cluster that was joined has. Returns its places; at least one, since an autoscaler may bring more."""
    nodes: list[dict[str, Any]] = [n for n in ray.nodes() if n["Alive"]]
    here = places(nodes, resources)
    named = [f"{n['NodeManagerAddress']} ({_holds(n['Resources'])})" for n in nodes[:NAMED]]
    more = f", and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    seen = f"Ray at {resources.address}: {len(nodes)} node{'s' * (len(nodes) != 1)}: {', '.join(named)}{more}"
    audience.line(f"{seen}; places for {here} trial{'s' * (here != 1)} at once")
    if (wanted := resources.max_concurrent) and here < wanted:
        audience.line(
            f"note: --max-concurrent {wanted} asks for more places than these nodes have now ({here}); a node that was refused, for its "
            "token for instance, says so only in its own output (docs/cluster.md)",
            style="yellow",
        )
    return min(max(1, here), resources.max_concurrent or math.inf)


def places(nodes: Sequence[dict[str, Any]], resources: Resources) -> int:
    """How many trials these nodes hold at once, node by node: a trial is on one node."""

    def on(held: dict[str, float]) -> int:
        fit = held.get("CPU", 0.0) / resources.cpus
        return math.floor(min(fit, held.get("GPU", 0.0) / resources.gpus) if resources.gpus else fit)

    return sum(on(node["Resources"]) for node in nodes)


def _holds(held: dict[str, float]) -> str:
    told = [f"{held[name]:g} {name}{'s' * (held[name] != 1)}" for name in ("CPU", "GPU") if held.get(name)]
    return ", ".join(told) or "nothing for trials"
