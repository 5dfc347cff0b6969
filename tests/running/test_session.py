"""Places for trials on the nodes that are seen, and what is said of them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raystudy.record.usage import read
from raystudy.running import places, session
from raystudy.running.audience import Audience
from raystudy.running.places import Places
from raystudy.running.resources import Resources
from raystudy.running.usage import Usage, shares

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
        (1, 0.4, 4),  # two of each device: a trial is on one
        (0.1, 0.3, 6),
        (0.1, 0, 110),
    ],
)
def test_places(cpus: float, gpus: float, want: int) -> None:
    assert places.held(NODES, replace(ONE, cpus=cpus, gpus=gpus)) == want


def test_the_nodes_are_named_and_too_few_places_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was refused for its token is none of the nodes; Ray says so on that worker only."""
    said: list[tuple[str, str]] = []
    audience = Audience(line=lambda text, style="": said.append((text, style)))
    monkeypatch.setattr(session.ray, "nodes", lambda: [NODES[1], {**NODES[2], "Alive": False}])
    told = Places(replace(ONE, max_concurrent=8))
    session.joined(told, audience)
    assert (told.now, told.nodes, told.machine, told.asked) == (4, 1, 4, 8)
    (seen, plain), (few, yellow) = said
    assert seen == "Ray at auto: 1 node: 10.0.0.2 (4 CPUs); places for 4 trials at once"
    assert few.startswith("note: --max-concurrent 8 asks for more places than these nodes have now (4)")
    assert (plain, yellow) == ("", "yellow")
    said.clear()
    monkeypatch.setattr(session.ray, "nodes", lambda: [NODES[0]])
    told = Places(ONE)
    session.joined(told, audience)
    assert (told.now, told.asked) == (0, 1)  # an autoscaler may bring more
    (seen, _), (none, _) = said
    assert seen == "Ray at auto: 1 node: 10.0.0.1 (nothing for trials); places for 0 trials at once"
    assert none.startswith("note: no node has room for a trial: the study waits for one; a node that was refused")


def test_nodes_that_join_and_leave_change_the_places() -> None:
    told = Places(replace(ONE, cpus=2))
    for nodes, now, most in ((NODES[:2], 2, 4), (NODES, 5, 7), (NODES[:1], 0, 0)):
        told.see(nodes)
        assert (told.now, told.nodes, told.machine) == (now, len(nodes), most)
    few = Places(replace(ONE, max_concurrent=3))
    few.see(NODES)
    assert (few.now, few.asked) == (3, 3)
    assert float(Places(replace(ONE, address="", max_concurrent=1))) == 1.0  # from whole numbers, too


def test_idle_places_have_a_reason() -> None:
    """Four places; two trials run, Ray has three; results may still bring proposals, or not."""
    assert shares(4, 2, 3, True) == {"places": 4, "busy": 2, "starting": 1, "waiting": 1, "ending": 0}
    assert shares(4, 2, 2, False) == {"places": 4, "busy": 2, "starting": 0, "waiting": 0, "ending": 2}
    assert shares(1, 2, 9, True) == {
        "places": 2,
        "busy": 2,
        "starting": 0,
        "waiting": 0,
        "ending": 0,
    }  # one has just left
    assert shares(0, 0, 9, True)["places"] == 0


def test_places_are_added_up_as_they_were_until_the_next_look(tmp_path: Path) -> None:
    """Three seconds with one of two places busy, one with both, and a node that joins; the last look ends the last span."""
    there, cell = Places(ONE), SimpleNamespace(opens=lambda: True, beyond=0.0)
    there.see([node("a", CPU=2.0)])
    usage = Usage(tmp_path, [cell], there)  # type: ignore[list-item]
    begun = usage._begun
    usage.look(1, 2, begun)
    usage.lost["repeated"] += 5
    usage.look(2, 2, begun + 3)
    there.see([node("a", CPU=2.0), node("b", CPU=1.0)])
    cell.beyond = 2.0
    usage.look(3, 3, begun + 3.5)  # not yet a second, but the places have changed
    usage.look(3, 3, begun + 4)
    usage.close()
    usage.close()  # nothing since
    told = [(s.seconds, s.nodes, s.places, s.busy, s.starting, s.repeated, s.beyond) for s in read(tmp_path)]
    assert sorted(told, reverse=True) == [(3, 1, 6, 3, 3, 5, 0), (0.5, 2, 1.5, 1.5, 0, 0, 0), (0.5, 2, 1, 1, 0, 0, 2)]
