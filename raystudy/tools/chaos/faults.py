"""The faults.

A fault is given a study that is not running yet, and random numbers. It does its worst, returns what it did in a few words, and raises
Violated (or Skip) where it must. Whoever called it brings the study to its end, and checks what must hold of every study.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from random import Random

from raystudy.record.ledger import cells
from raystudy.tools.chaos.bout import Bout, Skip, Violated
from raystudy.tools.chaos.holds import lost_or_repeated
from raystudy.tools.chaos.processes import descendants, send
from raystudy.tools.chaos.servers import Proxy, free_port, mlflow_server

CLEAN_STOP = 10.0  # seconds from a signal to the end of the process
HANG = 8.0  # least --trial-timeout where a trial is made to hang


def driver(bout: Bout, random: Random, everything: bool = False) -> str:
    """kill -9 of the driver at a random moment, twice: once while it starts, once while trials run."""
    bout.start()
    moment = random.uniform(0.1, 12)
    with contextlib.suppress(subprocess.TimeoutExpired):
        bout.running().wait(moment)
    bout.kill(everything)
    bout.start()
    n = random.randrange(1, 60)
    bout.until_records(n)
    bout.kill(everything)
    return f"killed after {moment:.1f} s, then after {n} records"


def everything(bout: Bout, random: Random) -> str:
    """The same, of the driver and all processes that it started: what a power cut leaves."""
    return driver(bout, random, everything=True)


def worker(bout: Bout, random: Random) -> str:
    """kill -9 of workers while they train; the study goes on by itself."""
    bout.start()
    moments = sorted(random.sample(range(5, 120), 3))
    for n in moments:
        bout.until_records(n)
        send([random.choice(bout.workers())])
    return f"{len(moments)} workers killed, after {', '.join(map(str, moments))} records"


def raylet(bout: Bout, random: Random) -> str:
    """kill -9 of Ray's own process on this machine: one clear line, and the same command goes on."""
    bout.start()
    n = random.randrange(1, 60)
    bout.until_records(n)
    send([p for p, name in descendants(bout.running().pid).items() if "/raylet/raylet " in name])
    begun = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        if bout.running().wait(120) == 0:
            raise Skip("the study ended before Ray had given up its own process")
    took = time.monotonic() - begun
    bout.wait(2, "the same command goes on", 1)
    return f"killed after {n} records; the driver ended after {took:.0f} s"


def node(bout: Bout, random: Random) -> str:
    """kill -9 of one of two nodes of a cluster; its trials go on on the other."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    bout.cleanup.callback(cluster.shutdown)
    nodes = [cluster.add_node(num_cpus=1, include_dashboard=False) for _ in range(2)]
    bout.options += ["--address", cluster.address]
    bout.start()
    n = random.randrange(1, 60)
    bout.until_records(n)
    cluster.remove_node(random.choice(nodes), allow_graceful=False)
    return f"one of two nodes killed after {n} records"


def mlflow(bout: Bout, random: Random) -> str:
    """The MLflow server slow, answering 500, and killed and started again, all during one study, in a random order."""
    port = free_port()
    proxy = Proxy(port)
    bout.cleanup.callback(proxy.close)
    bout.uri, bout.store = proxy.uri, f"sqlite:///{bout.folder}/server.db"
    server = bout.cleanup.enter_context(contextlib.ExitStack())
    server.enter_context(mlflow_server(bout.folder, port))
    moods = ["slow", "500", "down"]
    random.shuffle(moods)
    bout.start()
    for i, mood in enumerate(moods):
        bout.until_records(1 + 20 * i)
        if mood == "down":
            server.close()
        paused = bout.workers()  # so that the study does not end before the fault was met
        send(paused, signal.SIGSTOP)
        proxy.mood, proxy.asked = mood, 0
        bout.until(lambda: proxy.asked >= 2)
        send(paused, signal.SIGCONT)
        if mood == "down":
            server.enter_context(mlflow_server(bout.folder, port))
        proxy.mood = ""
    return ", then ".join(moods)


def locked(bout: Bout, random: Random) -> str:
    """MLflow's SQLite database locked by somebody else for longer than MLflow waits."""
    bout.start()
    bout.until_records(random.randrange(1, 40))
    file, log = bout.folder / "mlflow.db", bout.study / "tracking" / "log.txt"
    bout.until(lambda: file.exists() and file.stat().st_size > 0)
    begun = time.monotonic()
    with contextlib.closing(sqlite3.connect(file, timeout=60, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        bout.until(lambda: "locked" in log.read_text(encoding="utf-8", errors="replace"))
        db.execute("ROLLBACK")
    return f"locked for {time.monotonic() - begun:.0f} s, until that was noticed"


def disk(bout: Bout, random: Random) -> str:
    """The disk with the study full (a small tmpfs): one clear line, and the same command goes on once there is space."""
    bout.storage = bout.folder / "small"
    bout.storage.mkdir()
    if os.geteuid() or shutil.which("mount") is None:
        raise Skip("mounting a small tmpfs takes root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(bout.storage)], capture_output=True, encoding="utf-8"
    )
    if mounted.returncode:
        raise Skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    bout.cleanup.callback(subprocess.run, ["umount", "-l", str(bout.storage)], check=True)
    bout.start("--checkpoint-every", "1000")  # checkpoints that are removed would make space
    n = random.randrange(1, 60)
    bout.until_records(n)
    filler = bout.storage / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as f:
        while f.write(bytes(4096)):
            pass
    bout.wait(2, "No space left")
    filler.unlink()
    return f"filled after {n} records; it said: {bout.printed().strip().splitlines()[-1]}"


def torn(bout: Bout, random: Random) -> str:
    """The last line of a ledger file cut in the middle, as a power cut may leave it."""
    bout.start()
    bout.until_records(random.randrange(5, 80))
    bout.kill(everything=True)
    path = random.choice(cells(bout.study))
    content = path.read_bytes()
    last = content[:-1].rpartition(b"\n")[2]
    cut = random.randrange(1, len(last) + 1)
    path.write_bytes(content[:-cut])
    return f"{cut} of the last {len(last) + 1} bytes of a cell cut off"


def checkpoint(bout: Bout, random: Random) -> str:
    """The newest checkpoint of each unfinished trial truncated: the one before is taken."""
    folder = bout.study / "checkpoints"
    bout.start()
    bout.until(lambda: bool(list(folder.glob("*.pt.prev"))))
    bout.kill(everything=True)
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise Skip("the trials ended before they were killed")
    for file in files:
        os.truncate(file, random.randrange(file.stat().st_size))
    return f"{len(files)} checkpoints truncated"


def silence(bout: Bout) -> float:
    """The longest time in seconds between two events of one trial."""
    times: dict[str, list[int]] = {}
    for e in bout.events():
        times.setdefault(e.get("key", ""), []).append(e["time"])
    return max(b - a for key, told in times.items() if key for a, b in pairwise(told)) / 1000


def hang(bout: Bout, random: Random) -> str:
    """A worker that answers no more (SIGSTOP): its trial fails for that reason, the worker is replaced, the study goes on."""
    bout.failing = "failed", "it hung"
    limit = max(HANG, 1.5 * silence(bout.undisturbed)) if bout.undisturbed else HANG
    bout.start("--trial-timeout", f"{limit:g}")
    bout.until_records(random.randrange(1, 40))
    stopped = random.choice(bout.workers())
    send([stopped], signal.SIGSTOP)
    bout.cleanup.callback(send, [stopped])
    bout.wait(0)
    if Path(f"/proc/{stopped}").exists():
        raise Violated(f"the worker that hung, process {stopped}, is still there")
    return f"a worker stopped for ever, found after {limit:.0f} s"


def diverge(bout: Bout, random: Random) -> str:
    """A learning rate of 1e30 in an unfinished trial: it is told as diverged, the study goes on."""
    bout.failing = "diverged", "not finite"
    bout.start()
    bout.until_records(random.randrange(1, 40))
    bout.kill(everything=True)
    told = {path: [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] for path in cells(bout.study)}
    trials = [(path, e["key"]) for path, events in told.items() for e in events if e["event"] == "trial"]
    path, key = random.choice([(path, key) for path, key in trials if key not in bout.ends()])
    events = [e for e in told[path] if e["event"] != "record" or e["key"] != key]
    for event in events:
        if event["event"] == "trial" and event["key"] == key:
            event["point"]["lr"] = 1e30
            event["time"] += 1  # another trial than the one that MLflow may know
    path.write_text("".join(json.dumps(e, separators=(",", ":")) + "\n" for e in events), encoding="utf-8")
    return "a trial was given a learning rate of 1e30"


def memory(bout: Bout, random: Random) -> str:
    """Ray kills every worker for the memory it takes (a threshold that any worker is above): its trial is tried on a whole machine, too."""
    bout.failing = "failed", "memory"
    bout.options += ["--no-baseline", "--trials", "1", "--replicates", "0"]
    bout.start(RAY_memory_usage_threshold="0.01", RAY_memory_monitor_refresh_ms="100")
    bout.wait(0)
    if not any(e["event"] == "retry" for e in bout.events()):
        raise Violated("a trial that ran out of memory was not tried again on a whole machine")
    return "every worker killed for its memory, on its part of the machine and on the whole"


def stop(bout: Bout, random: Random) -> str:
    """SIGINT, SIGTERM, and SIGTERM to Ray's processes as well: each a clean stop within 10 s that says how to go on."""
    took = []
    for which, everyone in ((signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)):
        bout.start()
        bout.until_records(random.randrange(1, 30))
        below = list(descendants(bout.running().pid)) if everyone else []
        send([bout.running().pid, *below], which)
        took.append(bout.wait(130, "the same command goes on", 60))
        if took[-1] > CLEAN_STOP:
            name = which.name + (" to all processes" if everyone else "")
            raise Violated(f"{name} took {took[-1]:.1f} s to stop the study, more than {CLEAN_STOP:g}")
    return f"stopped in {', '.join(f'{t:.1f}' for t in took)} s"


Fault = Callable[[Bout, Random], str]
FAULTS: dict[str, Fault] = {
    f.__name__: f
    for f in (
        *(driver, everything, worker, raylet, node, mlflow, locked),
        *(disk, torn, checkpoint, hang, diverge, memory, stop),
    )
}


def kills(bout: Bout, random: Random, times: int, tell: Callable[[str], None]) -> str:
    """``times`` kills -9 in a row within one study, each of the driver, of everything or of a worker, at random moments."""
    did = Counter[str]()
    total = bout.undisturbed.records() if bout.undisturbed else 0
    for i in range(times):
        if not bout.process or bout.process.poll() is not None:
            bout.start()
        what = random.choice(("driver", "everything", "worker"))
        if what != "worker" and random.random() < 0.3:  # now and then while it starts
            with contextlib.suppress(subprocess.TimeoutExpired):
                bout.running().wait(random.uniform(0.1, 10))
        else:
            bout.until_records(random.randrange(1, max(2, 2 * total // (3 * times))))
        if what == "worker":
            send([random.choice(bout.workers())])
            bout.begun_with = bout.records()
        else:
            bout.kill(what == "everything")
        did[what] += 1
        if wrong := [w for w in lost_or_repeated(bout) if "never ended" not in w]:
            raise Violated("; ".join(wrong))
        tell(f"  kill {i + 1} of {times}: {what}, {bout.records()} of {total} records")
    return ", ".join(f"{n} of {what}" for what, n in did.items())
