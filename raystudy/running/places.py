"""Places: how many trials fit at once on the nodes that are there now, which join and leave while a study runs. Asks Ray nothing."""

import math
from collections.abc import Sequence
from typing import Any

from raystudy.running.resources import Resources, capacity, fitting

NAMED = 8  # nodes that are named, where there are more
Node = dict[str, Any]  # of ray.nodes()


class Places:
    """The places of a study. On this machine's own Ray their number stands; on a cluster ``see`` takes what is there now."""

    def __init__(self, resources: Resources) -> None:
        self.resources = resources
        self.now = 0.0 if resources.address else capacity(resources)
        self.nodes = 0 if resources.address else 1
        self.machine = 0.0  # cores of the largest node

    def see(self, nodes: Sequence[Node]) -> None:
        """Takes the nodes of the cluster."""
        there = alive(nodes)
        self.nodes = len(there)
        self.machine = max((n["Resources"].get("CPU", 0.0) for n in there), default=0.0)
        if self.resources.address:
            self.now = min(held(there, self.resources), self.resources.max_concurrent or math.inf)

    def for_trials_of(self, resources: Resources, nodes: Sequence[Node]) -> None:
        """Takes what trials need, once that is measured."""
        self.resources = resources
        if not resources.address:
            self.now = capacity(resources)
        self.see(nodes)

    def __float__(self) -> float:
        return float(self.now)

    @property
    def asked(self) -> float:
        """How many places the study is planned for, at least 1: where an autoscaler brings nodes, none may be there yet."""
        wanted = self.resources.max_concurrent if self.resources.address else None
        return wanted or max(1.0, self.now)


def alive(nodes: Sequence[Node]) -> list[Node]:
    return [n for n in nodes if n["Alive"]]


def held(nodes: Sequence[Node], resources: Resources) -> int:
    """How many trials these nodes hold at once, node by node: a trial is on one node."""
    return sum(fitting(r.get("CPU", 0.0), r.get("GPU", 0.0), resources) for n in nodes for r in [n["Resources"]])


def named(nodes: Sequence[Node]) -> str:
    """How many nodes there are, which, and what they hold."""
    told = [f"{n['NodeManagerAddress']} ({_holds(n['Resources'])})" for n in nodes[:NAMED]]
    more = f", and {len(nodes) - NAMED} more" if len(nodes) > NAMED else ""
    return f"{len(nodes)} node{'s' * (len(nodes) != 1)}: {', '.join(told)}{more}"


def counted(places: int) -> str:
    return f"places for {places} trial{'s' * (places != 1)} at once"


def _holds(held: dict[str, float]) -> str:
    told = [f"{held[name]:g} {name}{'s' * (held[name] != 1)}" for name in ("CPU", "GPU") if held.get(name)]
    return ", ".join(told) or "nothing for trials"
