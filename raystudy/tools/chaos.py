"""``raystudy chaos``: a small real study, run again and again under faults, must come out as if nothing had happened.

Here belong the faults, the study they are done to, and what must hold after each. Everything is real: the command, Ray, MLflow, kill -9,
a full disk. Nothing is patched, so whatever this finds, a user can meet. After each fault the same command is run until it ends, and then

- no trial that had ended is lost or repeated, and no event is in the ledger twice;
- what was tried, decided and measured is what an undisturbed run of the same seed has, apart from the clock;
- MLflow has one run for each trial and one for each cell, none of them RUNNING, each with its whole curve.

Three faults change what a study finds, because they fail a trial: one that hangs, one that diverges, one that eats memory. Of these the
second point is not asked; instead the trial must be told as failed for that reason, and the study must go on to its end.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from raystudy.errors import InputError, unknown
from raystudy.record.ledger import cells, replay
from raystudy.terminal import terminal

ROOT = Path(__file__).resolve().parents[2]
NAME = "s"
SMALL = (
    *("mixup", "--noise", "symmetric:0.3", "--epochs", "60", "--trials", "4", "--replicates", "1", "--name", NAME),
    *("--checkpoint-every", "0.2", "--max-concurrent", "2"),
)
PATIENCE = 600.0  # seconds that a run of the small study may take, on a machine that has much else to do
CLEAN_STOP = 10.0  # seconds from a signal to the end of the process
HANG = 8.0  # least --trial-timeout where a trial is made to hang
BAD = ("failed", "diverged")


class Skip(Exception):  # noqa: N818
    """A fault that cannot be made on this machine, and why."""


class Violated(Exception):  # noqa: N818
    """Something that must hold did not."""


# ------------------------------------------------------------------------------------------------------- processes


def descendants(pid: int) -> dict[int, str]:
    """Living processes below ``pid``, by number, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                )
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
    found: dict[int, str] = {}
    grown = True
    while grown:
        new = {p: names[p] for p, q in parents.items() if p not in found and (q == pid or q in found) and p in names}
        grown = bool(new)
        found |= new
    return found


def send(pids: list[int], which: signal.Signals = signal.SIGKILL) -> None:
    """A signal to processes, of which some may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)


class Bout:
    """One study in a folder of its own, and the process that runs it now. What a fault needs besides is changed before ``start``."""

    def __init__(self, folder: Path, undisturbed: "Bout | None" = None, command: Sequence[str] = SMALL) -> None:
        self.folder, self.undisturbed, self.options = folder, undisturbed, [*command]
        self.storage = folder / "studies"
        self.uri = self.store = (
            f"sqlite:///{folder}/mlflow.db"  # what the study is told, and where the runs are in the end
        )
        self.failing: tuple[str, str] | None = None  # the state in which one trial must end, and a part of the reason
        self.cleanup = contextlib.ExitStack()  # of what a fault has set up
        self.log = folder / "out.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.ended: dict[str, str] = {}  # how trials had ended when a run was last begun
        self.begun_with = 0  # records then
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def study(self) -> Path:
        return self.storage / NAME

    def start(self, *options: str, **environment: str) -> None:
        """Begins the study, or goes on with it."""
        self.ended, self.begun_with = self.ends(), self.records()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": path} | environment
        command = [sys.executable, "-m", "raystudy.sweep", *self.options]
        command += ["--tracking-uri", self.uri, "--storage", str(self.storage), *options]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def events(self) -> list[dict[str, Any]]:
        """All whole events so far."""
        files = cells(self.study) if self.study.exists() else []
        return [json.loads(line) for path in files for line in path.read_bytes().split(b"\n")[:-1]]

    def records(self) -> int:
        return sum(e["event"] == "record" for e in self.events())

    def ends(self) -> dict[str, str]:
        """How each trial that has ended did."""
        return {e["key"]: e["state"] for e in self.events() if e["event"] == "end"}

    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Waits for a condition. Raises Skip if the process ended before: a fault that did not come has shown nothing."""
        end = time.monotonic() + seconds
        while not condition():
            if (code := self.running().poll()) is not None:
                if code:
                    raise Violated(f"the study ended with code {code} by itself and printed: {self.printed()}")
                raise Skip("the study ended before the fault came, so nothing was tried")
            if time.monotonic() > end:
                raise Violated(f"nothing happened for {seconds:.0f} s; the study printed: {self.printed()}")
            time.sleep(0.02)

    def until_records(self, n: int) -> None:
        """Waits for ``n`` more records than there were when this run began."""
        self.until(lambda: self.records() >= self.begun_with + n)

    def printed(self) -> str:
        """What the last run printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def workers(self) -> list[int]:
        """The processes that run trials now. Waits for the first."""
        found: list[int] = []

        def look() -> bool:
            below = descendants(self.running().pid)
            found[:] = [p for p, name in below.items() if name.startswith("ray::") and "Trainable" in name]
            return bool(found)

        self.until(look)
        return found

    def kill(self, everything: bool = False) -> None:
        """kill -9 of the driver, or of it and all that it started."""
        below = list(descendants(self.running().pid)) if everything else []
        send([self.running().pid, *below])
        self.running().wait()

    def wait(self, want: int, words: str = "", seconds: float = PATIENCE) -> float:
        """Waits for the process to end by itself, with this exit code and these words printed. Returns the seconds that took."""
        begun = time.monotonic()
        try:
            code = self.running().wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill(everything=True)
            raise Violated(f"the study did not end within {seconds:.0f} s; it printed: {self.printed()}") from None
        said = self.printed()
        if code != want or words not in said or "Traceback" in said:
            raise Violated(f"the study ended with code {code}, not {want} and {words!r}; it printed: {said}")
        return time.monotonic() - begun

    def finish(self) -> str:
        """Brings the study to its end: what runs must end well by itself, and so must the same command, whose words are returned."""
        if self.process and self.process.poll() is None:
            self.wait(0)
        self.start()
        self.wait(0)
        return self.printed()

    def close(self) -> None:
        """Leaves nothing running."""
        if self.process and self.process.poll() is None:
            self.kill(everything=True)
        self.cleanup.close()


# --------------------------------------------------------------------------------------------------- what must hold


def outcome(study: Path) -> dict[str, Any]:
    """Per cell what was tried, decided and measured, without the clock. Raises InputError where there is no study."""
    found = {}
    for path in cells(study):
        found[path.stem] = sorted(
            (
                t.number,
                t.origin,
                sorted(t.point.items()),
                t.seed,
                t.state,
                t.reason,
                {k: str(list(v)) for k, v in sorted(t.curves.items()) if k != "cost/seconds"},
            )
            for t in replay(path).trials.values()
        )
    if not found:
        raise InputError(f"there is no study in {study}")
    return found


def leaderboard(study: Path) -> list[list[str]]:
    """The columns of the leaderboard as it is printed, without the clock's."""
    from analysis import load, tables

    columns = tables.leaderboard(*load.study(study)).columns
    return [[str(c.header), *map(str, c.cells)] for c in columns if c.header != "s/run"]


def lost_or_repeated(bout: Bout) -> list[str]:
    """What is wrong with the ledger itself."""
    told = Counter((e["event"], e.get("key"), e.get("epoch")) for e in bout.events() if e["event"] != "cell")
    wrong = [f"{n} times in the ledger: {what}" for what, n in told.items() if n > 1]
    now = bout.ends()
    wrong += [
        f"trial {k} had ended ({state}) and is now {now.get(k)}"
        for k, state in bout.ended.items()
        if now.get(k) != state
    ]
    started = {key for what, key, _ in told if what == "trial"}
    return wrong + [f"trial {key} never ended" for key in started - set(now)]


def amiss_in_mlflow(study: Path, uri: str) -> list[str]:
    """How MLflow differs from the ledger."""
    from raystudy.tracking import projection, store

    client = store.connect(uri)
    experiment = client.get_experiment_by_name(study.name)
    if experiment is None:
        return ["MLflow has no experiment of the study"]
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    trials = {t.key: t for path in cells(study) for t in replay(path).trials.values()}
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    wrong = []
    have = Counter(r.data.tags["raystudy.key"] for r in children)
    if have != Counter(list(trials)):
        wrong.append(f"MLflow has {sum(have.values())} runs of {len(have)} trials, the ledger {len(trials)}")
    if len(runs) - len(children) != len(cells(study)):
        wrong.append(f"MLflow has {len(runs) - len(children)} runs for {len(cells(study))} cells")
    if open_ := [r.info.run_name for r in runs if r.info.status not in projection.ENDS]:
        wrong.append(f"not ended in MLflow: {', '.join(open_)}")
    for run in children:
        curve = client.get_metric_history(run.info.run_id, "val/acc")
        want = list(trials[run.data.tags["raystudy.key"]].curves.get("val/acc", ()))
        if [m.value for m in sorted(curve, key=lambda m: m.step)] != want:
            wrong.append(f"the curve of {run.info.run_name} in MLflow is not the ledger's")
    return wrong


def violations(bout: Bout) -> list[str]:
    """All that does not hold of a study that has come to its end."""
    wrong = lost_or_repeated(bout)
    failed = [(e["state"], e["reason"]) for e in bout.events() if e["event"] == "end" and e["state"] in BAD]
    if bout.failing:
        state, words = bout.failing
        if len(failed) != 1 or failed[0][0] != state or words not in failed[0][1]:
            wrong.append(f"wanted one trial {state} for {words!r}, found {failed}")
    elif bout.undisturbed:
        found, want = outcome(bout.study), outcome(bout.undisturbed.study)
        differ = [name for name in sorted({*found, *want}) if found.get(name) != want.get(name)]
        differ += ["the leaderboard"] * (leaderboard(bout.study) != leaderboard(bout.undisturbed.study))
        wrong += [f"not what an undisturbed run has: {', '.join(differ)}"] * bool(differ)
    return wrong + amiss_in_mlflow(bout.study, bout.store)


def silence(bout: Bout) -> float:
    """The longest time in seconds between two events of one trial."""
    times: dict[str, list[int]] = {}
    for e in bout.events():
        times.setdefault(e.get("key", ""), []).append(e["time"])
    return max(b - a for key, told in times.items() if key for a, b in pairwise(told)) / 1000


# --------------------------------------------------------------------------------------------------------- MLflow


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real MLflow server on loopback, on a SQLite file in ``folder``, that is killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.txt"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise Violated(
                        f"MLflow did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Proxy:
    """Stands in front of a server on loopback and hands on what is asked, in a ``mood``: as it is, slow, or answering 500."""

    def __init__(self, target: int) -> None:
        self.mood, self.asked = "", 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy.asked += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.mood == "500":
                    return self.answer(500, b"{}", "application/json")
                if proxy.mood == "slow":
                    time.sleep(1)
                keep = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "authorization")}
                url = f"http://127.0.0.1:{target}{self.path}"
                asked = urllib.request.Request(url, body or None, keep, method=self.command)
                try:
                    with urllib.request.urlopen(asked, timeout=60) as told:
                        self.answer(told.status, told.read(), told.headers.get("Content-Type", ""))
                except urllib.error.HTTPError as e:
                    self.answer(e.code, e.read(), e.headers.get("Content-Type", ""))
                except OSError:
                    self.answer(502, b"{}", "application/json")

            def answer(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = handle_any  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


# --------------------------------------------------------------------------------------------------------- faults
#
# A fault is given a study that is not running yet, and random numbers. It does its worst, returns what it did in a few words, and raises
# Violated (or Skip) where it must. Whoever called it brings the study to its end, and checks what must hold of every study.


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


def strike(fault: Fault, bout: Bout, random: Random) -> str:
    """A fault, the end of the study, and the check. Returns what the fault did."""
    with contextlib.closing(bout):
        try:
            did = fault(bout, random)
            bout.finish()
        except Violated:
            if "cannot start or reach Ray" in bout.printed():
                raise Skip(f"this machine has too much to do: {bout.printed().strip().splitlines()[-1]}") from None
            raise
        if wrong := violations(bout):
            raise Violated("; ".join(wrong))
    return did


# ------------------------------------------------------------------------------------------------------- the command


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of chaos."""
    p.add_argument("--minutes", type=float, default=10.0, metavar="N", help="begin faults for so long (default: 10)")
    p.add_argument("--seed", type=int, default=0, metavar="N", help="seed of what is done when (default: 0)")
    p.add_argument(
        "--kinds",
        metavar="KIND,...",
        help=f"only these faults, each once if they take less time: {', '.join(FAULTS)} (default: all, again and again)",
    )
    p.add_argument("--kills", type=int, metavar="N", help="instead: one study, killed so many times in a row")
    p.add_argument("--folder", type=Path, metavar="DIR", help="work in DIR and leave it (default: a temporary folder)")


def chaos(args: argparse.Namespace) -> int:
    """Runs a parsed command line. Returns 0 if everything held, 1 if not."""
    if not 0 < args.minutes < 1e6:
        raise InputError(f"--minutes is {args.minutes:g}; it must be above 0")
    if args.kills is not None and not 1 <= args.kills <= 10_000:
        raise InputError(f"--kills is {args.kills}; it must be from 1 to 10000")
    kinds = [k for k in args.kinds.split(",") if k] if args.kinds is not None else list(FAULTS)
    for kind in kinds:
        if kind not in FAULTS:
            raise unknown("fault", kind, FAULTS)
    if not kinds:
        raise InputError(f"--kinds names no fault; choose from: {', '.join(FAULTS)}")
    if not Path("/proc/self").exists():
        raise InputError("chaos finds its victims in /proc, which this machine has not")
    folder = Path(args.folder or tempfile.mkdtemp(prefix="raystudy-chaos-")).absolute()
    try:
        return _rounds(folder, kinds, args, terminal())
    finally:
        if args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def _rounds(folder: Path, kinds: list[str], args: argparse.Namespace, console: Console) -> int:
    begun, counts = time.monotonic(), Counter[str]()

    def tell(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    def attempt(name: str, fault: Fault, bout: Bout) -> str:
        since = time.monotonic()
        try:
            did, verdict = strike(fault, bout, Random(f"{args.seed}-{name}")), "held"
        except Skip as e:
            did, verdict = str(e), "skipped"
        except Violated as e:
            did, verdict = str(e), "VIOLATED"
        tell(f"{name:<15} {verdict} in {time.monotonic() - since:.0f} s: {did}")
        counts[verdict] += 1
        return verdict

    tell(f"chaos in {folder}, seed {args.seed}; first the study undisturbed")
    undisturbed = Bout(folder / "undisturbed")
    if attempt("undisturbed", lambda bout, random: "all that must hold does", undisturbed) != "held":
        return 1
    for number, (kind, fault) in enumerate(_tasks(kinds, args, tell), 1):
        name = f"{number:03}-{kind}"
        if attempt(name, fault, Bout(folder / name, undisturbed)) == "held":
            shutil.rmtree(folder / name, ignore_errors=True)
        if time.monotonic() - begun > 60 * args.minutes:
            break
    told = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items()))
    tell(f"verdict: {told}" + (f"; see {folder}" if counts["VIOLATED"] and args.folder else ""))
    return int(counts["VIOLATED"] > 0)


def _tasks(kinds: list[str], args: argparse.Namespace, tell: Callable[[str], None]) -> Iterator[tuple[str, Fault]]:
    """What is done, one after the other; without an end where no kinds were named."""
    if args.kills is not None:
        yield "kills", partial(kills, times=args.kills, tell=tell)
    elif args.kinds is not None:
        yield from ((kind, FAULTS[kind]) for kind in kinds)
    else:
        random = Random(args.seed)
        while True:
            yield from ((kind, FAULTS[kind]) for kind in random.sample(kinds, len(kinds)))
