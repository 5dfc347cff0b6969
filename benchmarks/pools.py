"""Recorded pools of random trials, for studying searches without training: what ``pools.parquet`` holds.

    python benchmarks/pools.py --record FILE [--vectors FOLDER] [--trials 256] [--time-budget MINUTES]
    python benchmarks/pools.py --record FILE ... --compact [--trials 256]

A cell is a method (ce, mixup, elr, coteaching, dividemix) on a data set (digits, as 64 numbers each; with ``--vectors``, vectors of
CIFAR-10) at a rate of symmetric noise (0.2, 0.5, 0.8), with a small MLP. Its pool is the published point and then random points of the
method's search space, the same for all cells of the method; plain cross-entropy, which has no space, gets learning rate and weight decay.
Every training runs to its end and keeps its whole curves. Trainings are short and a quarter is held out for validation (a tenth would make
one image more than half a point), so accuracies here are not those of ``docs/published-points.md``.

Trial 0 of every cell is trained first, then trial 1, so that any part of the work is a usable benchmark. The first ``PARTS`` trials are
trained on nested parts of the training set, too (``fraction``). A line of FILE a training; the same command goes on where it
was stopped. One torch thread, no Ray.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from sklearn.datasets import load_digits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis.reference import POOLS
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.space import Dimension, Space
from raystudy.errors import InputError
from raystudy.learn.celldata import CellData, prepare
from raystudy.learn.metrics import Truth
from raystudy.learn.point import Point, method_class
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run
from raystudy.running.samplers import sampler

METHODS = ("ce", "mixup", "elr", "coteaching", "dividemix")
RATES = (0.2, 0.5, 0.8)
EPOCHS = 12  # rungs at 2 and 6
HELD = 0.25  # of the training set, for validation
FIRST = 65  # trials of every cell before anything else: the published point and 64 random ones
PARTS, FRACTIONS = 16, (0.1, 0.3)  # so many trials on parts of the training set as well
VECTORS, TESTED = 2000, 500
NETWORK = "mlp:64x2"
BATCH = {"digits": 64, "vectors": 128}
CURVES = ("val/acc", "val/loss", "test/acc", "cost/seconds", "cost/passes")
# What cross-entropy is searched over here: its recipe.
PLAIN = (Dimension("lr", 0.005, 0.5, log=True), Dimension("weight_decay", 1e-5, 1e-2, log=True))


class Cell(NamedTuple):
    """A method on a data set at a noise rate."""

    dataset: str
    method: str
    rate: float


class Job(NamedTuple):
    """One training."""

    cell: Cell
    number: int
    fraction: float


def space_of(method: str) -> Space:
    """Where the points of a method lie."""
    found = space.load(method)
    return found if found.dimensions else replace(found, dimensions=PLAIN)


def jobs(datasets: list[str], trials: int) -> Iterator[Job]:
    """All trainings, in the order in which a part of them tells most."""
    cells = [Cell(d, m, r) for d in datasets for m in METHODS for r in RATES]
    first = min(trials, FIRST)
    yield from (Job(c, n, 1.0) for n in range(first) for c in cells)
    yield from (Job(c, n, f) for n in range(min(trials, PARTS)) for c in cells for f in FRACTIONS)
    yield from (Job(c, n, 1.0) for n in range(first, trials) for c in cells)


def point(cell: Cell, number: int) -> Point:
    """Trial ``number`` of a cell: 0 the published point, then random ones, the same for all cells of a method."""
    found = space_of(cell.method)
    if number == 0:
        published, _, _ = found.paper(cell.dataset, Noise("symmetric", cell.rate))
        recipe = recipe_of(cell)
        return {d.name: recipe.get(d.name, published[d.name]) for d in found.dimensions}
    study = optuna.create_study(sampler=sampler("random", 0, number, 0))
    return found.suggest(study.ask())


def recipe_of(cell: Cell) -> dict[str, Any]:
    """The shared recipe; vectors in larger batches, for speed."""
    return space.recipe_for("shared", cell.method, cell.dataset, "mlp").to_dict() | {"batch_size": BATCH[cell.dataset]}


def part(data: CellData, fraction: float) -> CellData:
    """The first ``fraction`` of the training set, in its own order, labels as they are; validation and test are whole."""
    n = round(len(data.y) * fraction)
    t = data.truth
    places = torch.cat([data.places[:n], data.places[len(data.y) :]])
    truth = Truth(t.clean[:n], t.wrong[:n], t.val_clean, t.known)
    return replace(data, x=data.x[:n], y=data.y[:n], places=places, truth=truth)


def measure(job: Job, where: str) -> dict[str, Any]:
    """Trains one job in this process. Returns its line; ``where`` is what the loader calls the data."""
    cell, noise = job.cell, Noise("symmetric", job.cell.rate)
    data = prepare(where, Path("data"), noise, HELD)
    told = point(cell, job.number)
    spec = TrialSpec(
        method=cell.method,
        version=method_class(cell.method).version,
        point=told,
        dataset=where,
        data_digest=data.data_digest,
        noise=noise.to_dict(),
        noise_digest=data.noise_digest,
        network=NETWORK,
        recipe=recipe_of(cell),
        epochs=EPOCHS,
        seed=0,
        val_fraction=HELD,
        clean_val=0,
    )
    run = Run(spec, part(data, job.fraction))
    began = time.process_time()
    while len(run.records) < EPOCHS and not run.diverged:
        run.epoch()
    curves = {c: [None if (v := r.get(c)) is None else float(f"{v:.5g}") for r in run.records] for c in CURVES}
    return {
        **{"dataset": cell.dataset, "method": cell.method, "rate": cell.rate, "number": job.number},
        **{"fraction": job.fraction, "point": told, "version": spec.version, "key": spec.key},
        **{"diverged": run.diverged, "cpu": round(time.process_time() - began, 3)},
        **{"images": len(data.y), "validated": len(data.y_val), "tested": len(data.y_test)},
        **curves,
    }


def read(path: Path) -> dict[Job, dict[str, Any]]:
    """The lines of a file of pools by what they are; a torn last line is dropped."""
    lines = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines[Job(Cell(line["dataset"], line["method"], line["rate"]), line["number"], line["fraction"])] = line
    return lines


def digits(into: Path) -> Path:
    """scikit-learn's digits as plain vectors, a file that the loader takes."""
    told = load_digits()
    order = np.random.default_rng(0).permutation(len(told.target))
    x, y = told.data[order].astype(np.float32), told.target[order]
    n = len(y) - TESTED
    np.savez(into / "digits.npz", x_train=x[:n], y_train=y[:n], x_test=x[n:], y_test=y[n:])
    return into / "digits.npz"


def shortened(folder: Path, into: Path) -> Path:
    """The first vectors of CIFAR-10 as a file that the loader takes; outside the project."""
    file = folder / "cifar10_features.npz"
    if not file.is_file():
        raise InputError(f"--vectors {folder}: there is no {file.name} in it")
    with np.load(file, allow_pickle=False) as data:
        most = {"train": VECTORS, "test": TESTED}
        arrays = {f"{a}_{s}": data[f"{a}_{s}"][:n] for s, n in most.items() for a in "xy"}
    arrays |= {k: v.astype(np.float32) for k, v in arrays.items() if k.startswith("x")}
    np.savez(into / file.name, **arrays)
    return into / file.name


def record(todo: list[Job], out: Path, where: dict[str, str], minutes: float) -> None:
    """Trains ``todo``, a line of ``out`` for each as it ends; begins none after ``minutes``."""
    began = time.monotonic()
    with out.open("a", encoding="utf-8") as file:
        for done, job in enumerate(todo):
            if time.monotonic() - began > 60 * minutes:
                print(f"the time is up; {len(todo) - done} trainings are left for the same command", file=sys.stderr)
                return
            line = measure(job, where[job.cell.dataset])
            file.write(json.dumps(line) + "\n")
            file.flush()
            if done % 30 == 0:
                print(f"{done}/{len(todo)} {job}: {line['cpu']} s", file=sys.stderr, flush=True)


def compact(lines: list[dict[str, Any]], out: Path) -> None:
    """Writes the lines as Parquet: a row a training, its point as JSON, its curves as lists of 32-bit floats."""
    plain = ("dataset", "method", "rate", "number", "fraction", "diverged", "cpu", "images", "validated", "tested")
    columns: dict[str, Any] = {name: [line[name] for line in lines] for name in plain}
    columns["point"] = [json.dumps(line["point"], sort_keys=True) for line in lines]
    for name in CURVES:
        columns[name] = pa.array([line[name] for line in lines], pa.list_(pa.float32()))
    pq.write_table(pa.table(columns), out, compression="zstd", compression_level=19)


def main(args: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if args.compact:
        lines = sorted(
            (line for file in args.record for job, line in read(file).items() if job.number < args.trials),
            key=lambda x: (x["dataset"], METHODS.index(x["method"]), x["rate"], x["fraction"], x["number"]),
        )
        compact(lines, args.out)
        print(f"{len(lines)} trainings, {args.out.stat().st_size / 2**20:.1f} MiB: {args.out}")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        where = {"digits": f"npz:{digits(Path(folder))}"} if args.only != "vectors" else {}
        if args.vectors is not None and args.only != "digits":
            where["vectors"] = f"npz:{shortened(args.vectors, Path(folder))}"
        there = read(args.record[0])
        record([j for j in jobs(list(where), args.trials) if j not in there], args.record[0], where, args.time_budget)
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--record", type=Path, required=True, nargs="+", metavar="FILE", help="a JSON line a training; resumed from"
    )
    p.add_argument("--vectors", type=Path, metavar="FOLDER", help="folder with cifar10_features.npz")
    p.add_argument("--only", choices=sorted(BATCH), help="of the two data sets only this (two files, two processes)")
    p.add_argument(
        "--trials", type=int, default=256, metavar="N", help="of a cell, recorded or made compact (default: 256)"
    )
    p.add_argument(
        "--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="begin no training after these"
    )
    p.add_argument("--compact", action="store_true", help="train nothing, write what is there as Parquet")
    p.add_argument("--out", type=Path, default=POOLS, metavar="FILE", help=f"the Parquet file (default: {POOLS.name})")
    return p


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except InputError as e:
        sys.exit(f"{e}")
