"""What the platform costs: a sweep on two cores against the same trainings divided over two plain processes, measured in one run.

    python benchmarks/sweep.py [--epochs N] [--trials N] [--repeats N]

The sweep is the real command, ``python -m raystudy.sweep mixup`` with plain cross-entropy beside it, on digits at three noise
rates: Ray Tune, Optuna, early stopping, the ledger; nothing goes to MLflow, which has a benchmark of its own. Then two spawned
processes, as nice as Ray's workers, take the same trials from a queue and train each for as many epochs as the ledger holds.
They propose nothing, record nothing and wait for nothing.

Start-up is apart for both. The sweep's clock runs from the start of its first training (its first records' time less the seconds
they took) to its last ``end``; a worker that is up later than the first counts against it. The plain clock runs from the moment at
which both processes hold the data and have built a first network and optimizer, which imports another second's worth of torch: the
sweep's first worker has done so, too, before its first record. Sweep and plain alternate; the medians are compared.

``busy`` is the share of the two workers' seconds that lies within epochs, by the records' own clock. Above 1 the clocks are wrong. It
is a check of the clocks, not a result.

Seconds of the wall mean nothing while others use the cores. What they use is sampled before and after each half, when nothing of
ours runs; a pair in which it was more than ``DISTURBED`` cores is shown but not counted, whatever its ratio. Without a pair that
counts there is no verdict.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch.multiprocessing as mp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raystudy.design.study import Cell, Study
from raystudy.learn.spec import TrialSpec
from raystudy.record.ledger import cells, replay

TARGET = 1.25
WORKERS = 2
DISTURBED = 0.2  # cores used by others


def others(seconds: float = 2.0) -> float:
    """Cores in use on this machine while we do nothing (Linux)."""

    def idle() -> float:
        return sum(int(n) for n in Path("/proc/stat").read_text().split("\n")[0].split()[4:6]) / os.sysconf(
            "SC_CLK_TCK"
        )

    began, before = time.perf_counter(), idle()
    time.sleep(seconds)
    return max(0.0, (os.cpu_count() or 1) - (idle() - before) / (time.perf_counter() - began))


def quiet(patience: float) -> float:
    """Waits until others leave the cores alone, at most so many seconds. Returns what they use then."""
    end = time.monotonic() + patience
    while (used := others()) > DISTURBED and time.monotonic() < end:
        time.sleep(3)
    return used


def sweep(storage: Path, options: list[str]) -> tuple[float, float, float, Path]:
    """Runs the command. Returns seconds from the first training to the last end, within epochs, and of the whole command; the study."""
    command = [sys.executable, "-m", "raystudy.sweep", "mixup", "--name", "bench", "--tracking-uri", "none", *options]
    began = time.perf_counter()
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([*command, "--storage", str(storage)], cwd=storage, env=env, capture_output=True, text=True)
    whole = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"the sweep failed:\n{done.stdout}\n{done.stderr}")
    starts, ends, within = [], [], 0.0
    for file in cells(storage / "bench"):
        for trial in replay(file).trials.values():
            first = [s for s, t in zip(trial.curves["cost/seconds"], trial.times, strict=True) if t == trial.times[0]]
            starts.append(trial.times[0] / 1000 - sum(first))
            ends.append(trial.ended / 1000)
            within += sum(trial.curves["cost/seconds"])
    return max(ends) - min(starts), within, whole, storage / "bench"


def trainings(study_dir: Path) -> list[tuple[TrialSpec, int]]:
    """The trials of a study and how many epochs each was trained."""
    from raystudy.running.build import Builder

    builder = Builder(Study.from_toml(study_dir / "study.toml"), Path("data"))
    found = []
    for file in cells(study_dir):
        history = replay(file)
        cell = Cell.from_dict(history.header["cell"])
        for trial in history.trials.values():
            spec = builder.spec(cell, trial.point, trial.seed)
            assert spec.key == trial.key, "the plain processes would not train what the sweep trained"
            found.append((spec, trial.epochs))
    return found


def worker(todo: Any, everyone: Any, noises: list[dict[str, Any]], first: TrialSpec, done: Any) -> None:
    """Takes trials from a queue until it is empty."""
    os.nice(15)  # as Ray's workers are
    import torch

    from raystudy.data.noise import Noise
    from raystudy.learn.celldata import prepare
    from raystudy.learn.training import Run

    torch.set_num_threads(1)
    for noise in noises:
        prepare("digits", Path("data"), Noise(**noise), 0.1)
    Run(first, prepare("digits", Path("data"), Noise(**first.noise), 0.1))
    within = 0.0
    everyone.wait()
    while (work := todo.get()) is not None:
        spec, epochs = work
        run = Run(spec, prepare(spec.dataset, Path("data"), Noise(**spec.noise), spec.val_fraction))
        for _ in range(epochs):
            within += run.epoch()["cost/seconds"] or 0.0
    done.put((time.perf_counter(), within))  # one clock for all processes of a machine


def plain(work: list[tuple[TrialSpec, int]]) -> tuple[float, float]:
    """Seconds in which two processes train all of it, and those within epochs."""
    context = mp.get_context("spawn")
    todo, done, everyone = context.Queue(), context.Queue(), context.Barrier(WORKERS + 1)
    for item in [*work, *[None] * WORKERS]:
        todo.put(item)
    noises = list({str(s.noise): s.noise for s, _ in work}.values())
    processes = [
        context.Process(target=worker, args=(todo, everyone, noises, work[0][0], done)) for _ in range(WORKERS)
    ]
    for process in processes:
        process.start()
    everyone.wait()
    began = time.perf_counter()
    told = [done.get() for _ in processes]
    for process in processes:
        process.join()
    return max(ended for ended, _ in told) - began, sum(within for _, within in told)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of each trial (default: 20)")
    parser.add_argument("--trials", type=int, default=10, metavar="N", help="points per mixup cell (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="how often both are run (default: 3)")
    parser.add_argument(
        "--patience", type=float, default=20, metavar="SECONDS", help="wait for a quiet machine (default: 20)"
    )
    args = parser.parse_args()
    if (os.cpu_count() or 1) != WORKERS:
        print(f"note: this machine has {os.cpu_count()} cores; the target is for {WORKERS}")
    options = ["--epochs", str(args.epochs), "--trials", str(args.trials), "--replicates", "0"]
    options += ["--max-concurrent", str(WORKERS)]
    ours, theirs = [], []
    for repeat in range(args.repeats):
        used = [quiet(args.patience)]
        with tempfile.TemporaryDirectory() as folder:
            seconds, within, whole, study_dir = sweep(Path(folder), options)
            work = trainings(study_dir)
        used.append(others())
        theirs_seconds, theirs_within = plain(work)
        used.append(others())
        counts = max(used) <= DISTURBED
        if counts:
            ours.append(seconds)
            theirs.append(theirs_seconds)
        busy = [within / (WORKERS * seconds), theirs_within / (WORKERS * theirs_seconds)]
        assert max(busy) <= 1.02, f"more seconds within epochs than the workers had: {busy}"
        print(
            f"run {repeat + 1}: sweep {seconds:6.2f} s, busy {busy[0]:.2f} (the whole command {whole:.1f} s); "
            f"plain processes {theirs_seconds:6.2f} s, busy {busy[1]:.2f}; ratio {seconds / theirs_seconds:.2f}; "
            f"{len(work)} trials, {sum(n for _, n in work)} epochs; cores used by others {max(used):.1f}"
            f"{'' if counts else ': not counted'}",
            flush=True,
        )
    if not ours:
        print(f"target: at most {TARGET}: no verdict, others used the machine in every run")
        return
    ratio = median(ours) / median(theirs)
    print(f"medians of {len(ours)} runs: {median(ours):.2f} s and {median(theirs):.2f} s, ratio {ratio:.2f}")
    print(f"target: at most {TARGET}:", "yes" if ratio <= TARGET else "NO")


if __name__ == "__main__":
    main()
