"""A Ray to run trials in: one of its own on this machine, or a running cluster that is joined; and how many places for trials it has."""

import contextlib
import os
from collections.abc import Iterator

import ray

from raystudy.errors import InputError
from raystudy.running.audience import Audience
from raystudy.running.local import LocalRay, eager, quiet, start
from raystudy.running.places import Places, alive, counted, held, named
from raystudy.running.resources import Resources, capacity, reach
from raystudy.running.signals import stopping


@contextlib.contextmanager
def session(resources: Resources, audience: Audience, rising: LocalRay | None = None) -> Iterator[Places]:
    """Starts or joins Ray, and leaves or ends it. Yields the places for trials. ``rising``: a Ray that comes up already.

    Ctrl-C and SIGTERM end the block cleanly, and nothing is raised for them. Raises InputError, one line, where there is no Ray.
    """
    if resources.address:
        quiet()
        reach(resources)
        try:
            start(address=resources.address)
        except Exception as e:  # Ray raises nothing more special
            asks = (
                ""
                if os.environ.get("RAY_AUTH_MODE")
                else "; one that asks for a token: RAY_AUTH_MODE=token, docs/cluster.md"
            )
            raise InputError(
                f"cannot start or reach Ray on {resources.address}: {' '.join(str(e).split())[:400]}{asks}"
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
            places = Places(resources)
            if resources.address:
                joined(places, audience)
            else:
                places.see(ray.nodes())
            yield places
        finally:
            end()


def joined(places: Places, audience: Audience) -> None:
    """Takes, and says, what a cluster that was joined has."""
    nodes, wanted = alive(ray.nodes()), places.resources.max_concurrent
    places.see(nodes)
    here = held(nodes, places.resources)
    audience.line(f"Ray at {places.resources.address}: {named(nodes)}; {counted(here)}")
    if here < (wanted or 1):
        asks = f"--max-concurrent {wanted} asks for more places than these nodes have now ({here})" if wanted else ""
        audience.line(
            f"note: {asks or 'no node has room for a trial: the study waits for one'}; a node that was refused, for its token for "
            "instance, says so only in its own output (docs/cluster.md)",
            style="yellow",
        )
