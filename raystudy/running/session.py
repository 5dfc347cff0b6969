"""A Ray to run trials in: one of its own on this machine, or a running cluster that is joined; and how many places for trials it has."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from raystudy.errors import InputError
from raystudy.running.audience import Audience
from raystudy.running.local import LocalRay, eager, quiet, start
from raystudy.running.resources import Resources, capacity, reach
from raystudy.running.signals import stopping

NAMED = 8  # nodes that are named, where there are more


@contextlib.contextmanager
def session(resources: Resources, audience: Audience, rising: LocalRay | None = None) -> Iterator[float]:
    """Starts or joins Ray, and leaves or ends it. Yields how many trials fit at once. ``rising``: a Ray that comes up already.

    Ctrl-C and SIGTERM end the block cleanly, and nothing is raised for them. Raises InputError, one line, where there is no Ray.
    """
    if resources.address:
        quiet()
        reach(resources)
        try:
            start(address=resources.address)
        except Exception as e:  # Ray raises nothing more special
            raise InputError(
                f"cannot start or reach Ray on {resources.address}: {' '.join(str(e).split())[:400]}"
            ) from None
        end = ray.shutdown
    else:
        audience.line(f"starting Ray on this machine: up to {capacity(resources):.0f} trials at once")
        ours = rising or LocalRay(
            resources.threads, eager(resources.cpus, resources.max_concurrent, resources.gpus > 0)
        )
        end = ours.end
        try:
            ours.wait()
        except BaseException:
            end()
            raise
    with stopping(
        audience.abandoned
    ):  # only now: Ray may have set a handler of its own for SIGTERM, and stopping takes time, too
        try:
            yield joined(resources, audience) if resources.address else capacity(resources)
        finally:
            end()


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
