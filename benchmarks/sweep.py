"""What the platform costs: a sweep on two cores against the same trainings divided over two plain processes, measured in one run.

    python benchmarks/sweep.py [--epochs N] [--trials N] [--repeats N]

The sweep is the real command, ``python -m raystudy.sweep mixup`` with plain cross-entropy beside it, on digits at three noise
rates: Ray Tune, Optuna, early stopping, the ledger; nothing goes to MLflow, which has a benchmark of its own. Then two spawned
processes, as nice as Ray's workers, take the same trials from a queue and train each for as many epochs as the ledger holds.
They propose nothing, record nothing and wait for nothing.

Start-up is apart for both. The sweep's clock runs from the start of its first training (its first records' time less the seconds
they took) to its last ``end``; a worker that is up later than the first counts against it. The plain clock runs from the moment at
which both processes have imported everything and hold the data. Sweep and plain alternate; the medians are compared.
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

from raystudy.ledger import cells, replay
from raystudy.study import Cell, Study, TrialSpec

TARGET = 1.25
WORKERS = 2


def sweep(storage: Path, options: list[str]) -> tuple[float, float, Path]:
    """Runs the command. Returns seconds from the first training to the last end, those of the whole command, and the study."""
    command = [sys.executable, "-m", "raystudy.sweep", "mixup", "--name", "bench", "--tracking-uri", "none", *options]
    began = time.perf_counter()
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([*command, "--storage", str(storage)], cwd=storage, env=env, capture_output=True, text=True)
    whole = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"the sweep failed:\n{done.stdout}\n{done.stderr}")
    starts, ends = [], []
    for file in cells(storage / "bench"):
        for trial in replay(file).trials.values():
            first = [s for s, t in zip(trial.curves["cost/seconds"], trial.times, strict=True) if t == trial.times[0]]
            starts.append(trial.times[0] / 1000 - sum(first))
            ends.append(trial.ended / 1000)
    return max(ends) - min(starts), whole, storage / "bench"


def trainings(study_dir: Path) -> list[tuple[TrialSpec, int]]:
    """The trials of a study and how many epochs each was trained."""
    from raystudy.build import Builder

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


def worker(todo: Any, everyone: Any, noises: list[dict[str, Any]], done: Any) -> None:
    """Takes trials from a queue until it is empty."""
    os.nice(15)  # as Ray's workers are
    import torch

    from raystudy.data.noise import Noise
    from raystudy.training import Run, prepare

    torch.set_num_threads(1)
    for noise in noises:
        prepare("digits", Path("data"), Noise(**noise), 0.1)
    everyone.wait()
    while (work := todo.get()) is not None:
        spec, epochs = work
        run = Run(spec, prepare(spec.dataset, Path("data"), Noise(**spec.noise), spec.val_fraction))
        for _ in range(epochs):
            run.epoch()
    done.put(time.perf_counter())  # one clock for all processes of a machine


def plain(work: list[tuple[TrialSpec, int]]) -> float:
    """Seconds in which two processes train all of it."""
    context = mp.get_context("spawn")
    todo, done, everyone = context.Queue(), context.Queue(), context.Barrier(WORKERS + 1)
    for item in [*work, *[None] * WORKERS]:
        todo.put(item)
    noises = list({str(s.noise): s.noise for s, _ in work}.values())
    processes = [context.Process(target=worker, args=(todo, everyone, noises, done)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    everyone.wait()
    began = time.perf_counter()
    ended = max(done.get() for _ in processes)
    for process in processes:
        process.join()
    return ended - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, metavar="N", help="of each trial (default: 20)")
    parser.add_argument("--trials", type=int, default=10, metavar="N", help="points per mixup cell (default: 10)")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="how often both are run (default: 3)")
    args = parser.parse_args()
    if (os.cpu_count() or 1) != WORKERS:
        print(f"note: this machine has {os.cpu_count()} cores; the target is for {WORKERS}")
    options = ["--epochs", str(args.epochs), "--trials", str(args.trials), "--replicates", "0"]
    options += ["--max-concurrent", str(WORKERS)]
    ours, theirs = [], []
    for repeat in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            seconds, whole, study_dir = sweep(Path(folder), options)
            work = trainings(study_dir)
        ours.append(seconds)
        theirs.append(plain(work))
        print(
            f"run {repeat + 1}: sweep {seconds:6.2f} s (the whole command {whole:.1f} s), plain processes {theirs[-1]:6.2f} s, "
            f"ratio {seconds / theirs[-1]:.2f}; {len(work)} trials, {sum(n for _, n in work)} epochs",
            flush=True,
        )
    ratio = median(ours) / median(theirs)
    print(f"medians: {median(ours):.2f} s and {median(theirs):.2f} s, ratio {ratio:.2f}")
    print(f"target: at most {TARGET}:", "yes" if ratio <= TARGET else "NO")


if __name__ == "__main__":
    main()
