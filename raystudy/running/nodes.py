"""The nodes of a running Ray: that ours lives, and that each runs the code and versions of the driver and can write to the storage.

A node whose torch, or whose raystudy, differs measures something else under the same name; one that writes to a disk of its own loses what
it keeps there. Both are found before the first trial, and again on every node that the autoscaler brings.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raystudy.errors import InputError
from raystudy.record import provenance
from raystudy.record.storage import Place, place, url
from raystudy.running.audience import Audience
from raystudy.running.places import Node, Places, alive, counted

ANSWER_SECONDS = 120.0  # a fresh worker imports torch; on a busy node that takes a while
WATCH_SECONDS = 2.0


def built() -> dict[str, str]:
    """What must be equal on every node: the digest of the code and the public versions (torch 2.14.1+cu130 is 2.14.1)."""
    told = {name: version.partition("+")[0] for name, version in provenance.versions().items()}
    return {**told, "code": provenance.digest(provenance.root())}


def difference(mine: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What a node has that the driver has not, in words; "" where they agree."""
    other = [
        f"{n} {theirs.get(n) or 'missing'} (driver: {mine.get(n) or 'missing'})"
        for n in {**mine, **theirs}
        if mine.get(n) != theirs.get(n)
    ]
    return ", ".join(other)


def _probes(study_dir: Path) -> Place:
    """Where nodes show that they can write."""
    address = url(study_dir.parent)
    if address:
        return place(address) / study_dir.name / "probes"
    from pyarrow.fs import LocalFileSystem

    return Place(LocalFileSystem(), f"{study_dir}/probes")


@ray.remote(num_cpus=0, max_retries=0)
def _look(study_dir: str, address: str | None, name: str) -> tuple[dict[str, str], str]:
    """Runs on the node: what it is built of, and what keeps it from writing."""
    try:
        if address:
            there = place(address) / Path(study_dir).name / "probes"
        else:
            there = _probes(Path(study_dir))
        (there / name).write(name.encode())
    except Exception as e:
        return built(), " ".join(str(e).split())[:300] or type(e).__name__
    return built(), ""


def addresses(nodes: Sequence[Node]) -> dict[str, str]:
    """Ids and addresses of the nodes that are alive."""
    return {n["NodeID"]: n["NodeManagerAddress"] for n in alive(nodes)}


def check(study_dir: Path, nodes: Mapping[str, str]) -> None:
    """Asks every node. Raises InputError, one line, for the first that differs from the driver or cannot write where it must."""
    mine, there, address = built(), _probes(study_dir), url(study_dir.parent)
    asked = {
        _look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
            str(study_dir), address, node
        ): node
        for node in nodes
    }
    try:
        done, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_SECONDS)
        for question in [*done, *late]:
            node = asked[question]
            if node not in addresses(ray.nodes()):
                continue
            name = f"node {nodes[node]}"
            if question in late:
                raise InputError(
                    f"{name} gave no answer within {ANSWER_SECONDS:.0f} s; see its logs, or take it out of the cluster"
                )
            try:
                theirs, problem = ray.get(question)
            except ray.exceptions.RayError as e:
                raise InputError(f"{name} cannot run raystudy: {' '.join(str(e).split())[-300:]}") from None
            if told := difference(mine, theirs):
                raise InputError(
                    f"{name} has {told}; install the same on every node (constraints.txt; `raystudy ship` and `ray up`)"
                )
            if problem:
                raise InputError(f"{name} cannot write to --storage: {problem}")
            if (there / node).size() is None:
                raise InputError(
                    f"{name} writes to a disk of its own: --storage {study_dir.parent} is not shared; "
                    "give a folder that all nodes mount, or a URL (s3://, gs://, file:///mounted)"
                )
    finally:
        with contextlib.suppress(OSError):
            for node in nodes:
                (there / node).remove()
            there.fs.delete_dir(there.path)


class Watch:
    """Sees to it that this machine's own node lives: without it Tune would wait for ever for workers. A context manager.

    On a cluster it asks the nodes, and those that join later; one that is not as it must be stops the study, too. What joins or leaves
    changes the places, and is said.
    """

    def __init__(self, study_dir: Path, places: Places, audience: Audience) -> None:
        self.dir, self.places, self.audience = study_dir, places, audience
        self.others = bool(places.resources.address)
        self.here = ""
        self.problem: InputError | None = None
        self._there: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="raystudy-nodes", daemon=True)

    def __enter__(self) -> "Watch":
        self.here = ray.get_runtime_context().get_node_id()
        self._there = addresses(ray.nodes())
        if self.others:
            check(self.dir, self._there)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(1.0)  # it hangs, where Ray is dead; it ends with the process
        if self.problem:
            raise self.problem from None

    def _follow(self) -> None:
        while not self._stop.wait(WATCH_SECONDS):
            try:
                nodes = ray.nodes()
                found = addresses(nodes)
                if self.here not in found:
                    raise InputError("Ray's own process on this machine has died; the same command goes on from here")
                new = {node: address for node, address in found.items() if node not in self._there}
                gone = {node: address for node, address in self._there.items() if node not in found}
                self._there = found
                self.places.see(nodes)
                if (new or gone) and self.others:
                    self._say(new, gone)
                if new and self.others:
                    check(self.dir, new)
            except InputError as e:
                self.problem = e
                os.kill(os.getpid(), signal.SIGINT)  # Tune stops as it does for Ctrl-C
                return
            except Exception:  # the cluster is going away; the driver finds that out by itself
                continue

    def _say(self, new: Mapping[str, str], gone: Mapping[str, str]) -> None:
        told = [f"node {', '.join(who.values())} {what}" for who, what in ((new, "joined"), (gone, "left")) if who]
        now = f"{time.strftime('%H:%M:%S')} {', '.join(told)}; {counted(int(self.places.now))}"
        self.audience.line(now, style="yellow" if gone else "")
