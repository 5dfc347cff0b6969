"""Places for trials on the nodes that are seen, and what is said of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raystudy.running import session
from raystudy.running.audience import Audience
from raystudy.running.resources import Resources

ONE = Resources("auto", 1, 0, False, None, 10.0, Path("data"))


def node(address: str, **held: float) -> dict[str, Any]:
    return {"NodeManagerAddress": address, "Resources": held, "Alive": True}


NODES = [node("10.0.0.1"), node("10.0.0.2", CPU=4.0), node("10.0.0.3", CPU=7.0, GPU=2.0)]


@pytest.mark.parametrize(
    ("cpus", "gpus", "want"),
    [
        (1, 0, 4 + 7),
        (2, 0, 2 + 3),  # a trial is on one node: the odd core is of no use
        (5, 0, 1),
        (1, 0.5, 4),  # two of a device, two devices
        (3, 0.5, 2),  # cores run out first
        (1, 1, 2),
        (8, 0, 0),
    ],
)
def test_places(cpus: float, gpus: float, want: int) -> None:
    assert session.places(NODES, replace(ONE, cpus=cpus, gpus=gpus)) == want


def test_the_nodes_are_named_and_too_few_places_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was refused for its token is none of the nodes; Ray says so on that worker only."""
    said: list[tuple[str, str]] = []
    audience = Audience(line=lambda text, style="": said.append((text, style)))
    monkeypatch.setattr(session.ray, "nodes", lambda: [NODES[1], {**NODES[2], "Alive": False}])
    assert session.joined(replace(ONE, max_concurrent=8), audience) == 4
    (seen, plain), (few, yellow) = said
    assert seen == "Ray at auto: 1 node: 10.0.0.2 (4 CPUs); places for 4 trials at once"
    assert few.startswith("note: --max-concurrent 8 asks for more places than these nodes have now (4)")
    assert (plain, yellow) == ("", "yellow")
    said.clear()
    monkeypatch.setattr(session.ray, "nodes", lambda: [NODES[0]])
    assert session.joined(ONE, audience) == 1  # an autoscaler may bring more
    assert [text for text, _ in said] == [
        "Ray at auto: 1 node: 10.0.0.1 (nothing for trials); places for 0 trials at once"
    ]
