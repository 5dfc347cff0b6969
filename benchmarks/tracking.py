"""What it takes to get a study into MLflow: ours against one ``log_batch`` an epoch, measured in one run.

    python benchmarks/tracking.py

50 trials x 20 epochs x 10 metrics into a fresh SQLite store. Every way runs in a process of its own, and its clock
starts when MLflow is imported and its tables are there, which takes all ways the same; "whole process" includes that.
Processor seconds are told beside it, because the live follower is nice and others may be using the machine.

    each epoch   plain MlflowClient: create_run, log_batch for every epoch, set_terminated
    sync         ``sync`` of a ledger that is already written
    live         ``follower.start`` .. ``finish`` while the ledger is being written as fast as it can be
    live, paced  the same while it is being written over 4 s: how far behind is MLflow when the study ends?
"""

import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raystudy.record.ledger import Ledger
from raystudy.tracking import follower, store
from raystudy.tracking.sync import sync

TRIALS, EPOCHS = 50, 20
NAMES = [
    "train/loss",
    "val/acc",
    "val/loss",
    "test/acc",
    "test/loss",
    "select/auroc",
    "cost/seconds",
    "lr",
    "kept",
    "wd",
]
CELL = "elr_digits_symmetric-inclusive-0.5"
HEADER = {
    "cell": {
        "method": "elr",
        "dataset": "digits",
        "noise": {"kind": "symmetric", "rate": 0.5, "variant": "inclusive", "seed": 0, "count": "exact_global"},
    },
    "digests": {"data": "d" * 16, "noise": "n" * 16},
    "effective_rate": 0.45,
    "network": "mlp",
    "recipe": {"lr": 0.05, "momentum": 0.9, "batch": 64},
    "epochs": EPOCHS,
    "versions": {"torch": "2", "ray": "2"},
}


def trial(number: int) -> dict:
    point = {"lam": 1.0 + number, "beta": 0.7}
    key = f"{number:016x}"
    return {"event": "trial", "key": key, "number": number, "origin": "search", "point": point, "seed": number}


def record(number: int, epoch: int) -> dict:
    metrics = {name: 0.1 * i + 0.001 * number + 0.01 * epoch for i, name in enumerate(NAMES)}
    return {"event": "record", "key": f"{number:016x}", "epoch": epoch, "metrics": metrics}


def write(study: Path, seconds: float = 0.0) -> float:
    """Writes the ledger, one epoch of all trials after the other. Returns the seconds spent in ``append``."""
    ledger, held = Ledger(study), 0.0
    ledger.open(CELL, HEADER)
    for number in range(TRIALS):
        ledger.append(CELL, trial(number))
    for epoch in range(EPOCHS):
        began = time.perf_counter()
        for number in range(TRIALS):
            ledger.append(CELL, record(number, epoch))
        held += time.perf_counter() - began
        time.sleep(seconds / EPOCHS)
    for number in range(TRIALS):
        ledger.append(CELL, {"event": "end", "key": f"{number:016x}", "state": "complete"})
    ledger.close()
    return held


def each_epoch(uri: str) -> None:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    experiment = client.create_experiment("plain")
    for number in range(TRIALS):
        run = client.create_run(experiment).info.run_id
        for epoch in range(EPOCHS):
            now = time.time_ns() // 1_000_000
            client.log_batch(run, [Metric(k, v, now, epoch) for k, v in record(number, epoch)["metrics"].items()])
        client.set_terminated(run)


def live(study: Path, uri: str, seconds: float) -> dict[str, float]:
    began = time.perf_counter()
    process = follower.start(study, uri)
    held = time.perf_counter() - began
    ledger = Ledger(study)  # the follower is ready when the cell's run is there
    ledger.open(CELL, HEADER)
    ledger.close()
    while not list((study / "tracking").glob("*.json")):
        time.sleep(0.01)
    cpu = sum(int(n) for n in Path(f"/proc/{process.pid}/stat").read_text().rsplit(")")[1].split()[11:13])
    cpu_began = cpu / os.sysconf("SC_CLK_TCK") + _children()
    began = time.perf_counter()
    held += write(study, seconds)
    written = time.perf_counter()
    assert follower.finish(process, 120) is None, (study / "tracking" / "log.txt").read_text()
    ended = time.perf_counter()
    return {"seconds": ended - began, "behind": ended - written, "held": held, "cpu": _children() - cpu_began}


def _children() -> float:
    """Processor seconds of the child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def count(uri: str) -> int:
    """The values in the store, as a reader of its own sees them."""
    with sqlite3.connect(str(store.sqlite_file(uri))) as db:
        return db.execute(
            "SELECT count(*) FROM metrics WHERE key NOT LIKE 'tuned/%' AND key NOT LIKE 'trials/%'"
        ).fetchone()[0]


def child(way: str, study: Path, uri: str) -> tuple[float, float, float]:
    """Runs a way in a new process. Returns its own seconds, its processor seconds and the whole process's seconds."""
    began = time.perf_counter()
    out = subprocess.run([sys.executable, __file__, way, study, uri], check=True, capture_output=True, text=True).stdout
    return *json.loads(out), time.perf_counter() - began


def timed(way: str, study: Path, uri: str) -> list[float]:
    os.environ.update(store.SETTINGS)
    if way == "each_epoch":
        from mlflow.tracking import MlflowClient

        MlflowClient(uri)  # imports and tables
    else:
        store.connect(uri)
    began, cpu = time.perf_counter(), time.process_time()
    each_epoch(uri) if way == "each_epoch" else sync(study, uri)
    return [time.perf_counter() - began, time.process_time() - cpu]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        uri = {name: f"sqlite:///{place / name}.db" for name in ("plain", "sync", "live", "paced")}
        plain, plain_cpu, plain_all = child("each_epoch", place / "none", uri["plain"])
        held = write(place / "sync")
        ours, ours_cpu, ours_all = child("sync", place / "sync", uri["sync"])
        fast = live(place / "live", uri["live"], 0.0)
        paced = live(place / "paced", uri["paced"], 4.0)
        values = {name: count(u) for name, u in uri.items()}
    print(f"{TRIALS} trials x {EPOCHS} epochs x {len(NAMES)} metrics into a fresh SQLite store; values in it: {values}")
    for name, seconds, cpu, note in (
        ("each epoch", plain, plain_cpu, f"whole process {plain_all:.2f} s"),
        ("sync", ours, ours_cpu, f"whole process {ours_all:.2f} s"),
        ("live", fast["seconds"], fast["cpu"], ""),
        ("live, paced", paced["seconds"], paced["cpu"], f"{paced['behind']:.2f} s behind when the study ended"),
    ):
        print(f"{name:12} {seconds:6.2f} s, {seconds / plain:.2f}   cpu {cpu:5.2f} s, {cpu / plain_cpu:.2f}   {note}")
    print(f"driver held up: {held:.3f} s (append); {fast['held']:.3f} and {paced['held']:.3f} s (start and append)")
    good = max(ours, fast["seconds"]) <= plain / 3 and max(fast["held"], paced["held"]) < 0.2
    print("sync and live take at most a third, the driver is held up less than 0.2 s:", "yes" if good else "NO")
    sys.exit(not good)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(timed(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
    else:
        main()
