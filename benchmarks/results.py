"""Every method at its published point on real images, beside plain cross-entropy: what ``docs/published-points.md`` shows.

    python benchmarks/results.py --out results.jsonl [--vectors FOLDER] [--cifar10 FOLDER] [--only METHOD ...] [--jobs N]
    python benchmarks/results.py --out results.jsonl --table

Nothing is searched and nothing is tuned to this: the point is trial 0 of a sweep (``space.paper``), the recipe the shared one,
a tenth of the noisy training set is held out. Digits: the default network and epochs, three seeds, clean labels, symmetric and
asymmetric noise. Vectors, where ``--vectors`` names a folder with ``cifar10_features.npz`` and ``cifar10n.npz`` (human labels,
``worse_label``, of the same images by index): the first 10,000 images, an MLP, the human labels as well. Images, where ``--cifar10``
names one with ``cifar10.npz`` (x_train, y_train, x_test, y_test) and ``cifar10n.npz``: a small conv net, one seed.

Every finished training is one JSON line of ``--out``, found again by the key of its trial: the same command goes on where it was
stopped, and a method whose ``version`` or published point has changed is trained again. One torch thread a process.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import argparse
import datetime
import itertools
import json
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from raystudy.data.noise import Noise
from raystudy.design import compose, space
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.point import method_class
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run

LAST = 10  # epochs whose mean is told
WORSE = 0.02  # below cross-entropy by more than this is marked
ROOT = Path("data")


class Job(NamedTuple):
    """One training: what it is called in the table, and what it is."""

    dataset: str
    condition: str
    method: str
    seed: int
    spec: TrialSpec
    source: str
    oracle: tuple[str, ...]


def job(
    dataset: str, where: str, network: str, epochs: int, condition: str, noise: Noise, method: str, seed: int
) -> Job:
    """The published point of ``method`` for ``dataset`` under ``noise``; ``where`` is what the loader calls the data."""
    data = prepare(where, ROOT, noise, 0.1)
    point, oracle, source = space.load(method).paper(dataset, noise)
    spec = TrialSpec(
        method=method,
        version=method_class(method).version,
        point=point,
        dataset=where,
        data_digest=data.data_digest,
        noise=noise.to_dict(),
        noise_digest=data.noise_digest,
        network=network,
        recipe=space.recipe_for("shared", method, dataset, network).to_dict(),
        epochs=epochs,
        seed=seed,
        val_fraction=0.1,
        clean_val=0,
    )
    return Job(dataset, condition, method, seed, spec, source, oracle)


def jobs(args: argparse.Namespace, vectors: Path | None, images: Path | None) -> list[Job]:
    """All trainings, in the order in which a part of them tells most: a whole seed of everything first, images last."""
    methods = args.only or list(METHODS)
    levels = {"clean": Noise("symmetric", 0.0)} | {f"{r:g}": Noise("symmetric", r) for r in (0.2, 0.5, 0.8)}
    human = {"human": Noise("given", 0.0)}

    def all_of(name: str, where: str, net: str, epochs: int, noises: dict[str, Noise], seed: int) -> list[Job]:
        return [
            job(name, where, net, epochs, condition, noise, method, seed)
            for (condition, noise), method in itertools.product(noises.items(), methods)
        ]

    network, epochs = compose.default_setting("digits", ROOT)
    found = []
    for seed in range(args.seeds):
        asymmetric = {"asymmetric 0.4": Noise("asymmetric", 0.4, "mnist")}
        found += all_of("digits", "digits", network, args.digits_epochs or epochs, levels | asymmetric, seed)
        if vectors is not None:
            asymmetric = {"asymmetric 0.4": Noise("asymmetric", 0.4, "cifar10")}
            found += all_of("vectors", f"npz:{vectors}", "mlp", args.vectors_epochs, levels | asymmetric | human, seed)
    if images is not None:
        found += all_of("cifar10", f"npz:{images}", args.network, args.cifar10_epochs, levels | human, 0)
    return found


def with_human_labels(option: str, folder: Path, name: str, into: Path, most: int | None = None) -> Path:
    """``name`` and the human labels of its images as one file that the loader takes; outside the project."""
    for file in (name, "cifar10n.npz"):
        if not (folder / file).is_file():
            raise InputError(f"{option} {folder}: there is no {file} in it")
    with np.load(folder / name, allow_pickle=False) as data, np.load(folder / "cifar10n.npz", allow_pickle=False) as n:
        arrays = {k: data[k] for k in ("x_train", "y_train", "x_test", "y_test")}
        if arrays["x_train"].ndim == 2:
            arrays |= {k: arrays[k].astype(np.float32) for k in ("x_train", "x_test")}
        arrays |= {k: arrays[k][:most] for k in ("x_train", "y_train")}
        human = n["worse_label"][: len(arrays["y_train"])]
    np.savez(into / name, y_noisy=human, **arrays)
    return into / name


def measure(job: Job) -> dict[str, Any]:
    """Trains one job in this process. Returns its line."""
    torch.set_num_threads(1)
    data = prepare(job.spec.dataset, ROOT, Noise(**job.spec.noise), job.spec.val_fraction)
    run = Run(job.spec, data)
    began = time.process_time()
    while len(run.records) < job.spec.epochs and not run.diverged:
        run.epoch()
    last = run.records[-LAST:]

    def told(name: str) -> float | None:
        values = [float(v) for r in last if (v := r.get(name)) is not None]
        return round(mean(values), 5) if values else None

    return {
        "key": job.spec.key,
        "dataset": job.dataset,
        "condition": job.condition,
        "method": job.method,
        "version": job.spec.version,
        "seed": job.seed,
        "test": None if run.diverged else told("test/acc"),
        "auroc": told("select/auroc"),
        "memorised": told("label/memorised"),
        "seconds": round(time.process_time() - began, 1),
        "images": len(data.y),
        "tested": len(data.y_test),
        "network": job.spec.network,
        "epochs": job.spec.epochs,
        "wrong": round(float(data.truth.wrong.float().mean()), 4),
        "point": job.spec.point,
        "source": job.source,
        "oracle": list(job.oracle),
        "date": datetime.date.today().isoformat(),
    }


def read(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a results file by key; a torn last line is dropped."""
    lines = {}
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        lines[line["key"]] = line
    return lines


def run(todo: list[Job], out: Path, n_jobs: int, minutes: float) -> None:
    """Trains ``todo``, a line of ``out`` for each as it ends; begins none after ``minutes``."""
    began, waiting, done = time.monotonic(), list(reversed(todo)), 0
    with (
        ProcessPoolExecutor(n_jobs, mp_context=multiprocessing.get_context("spawn")) as pool,
        out.open("a", encoding="utf-8") as file,
    ):
        running: set[Any] = set()
        while waiting or running:
            while waiting and len(running) < n_jobs and time.monotonic() - began < 60 * minutes:
                running.add(pool.submit(measure, waiting.pop()))
            if not running:
                print(f"the time is up; {len(waiting)} trainings are left for the same command", file=sys.stderr)
                return
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                line = future.result()
                file.write(json.dumps(line) + "\n")
                file.flush()
                done += 1
                what = f"{line['dataset']} {line['condition']:>14} {line['method']:26} seed {line['seed']}"
                print(
                    f"{done:4}/{len(todo)} {what}: {line['test']} in {line['seconds']} s", file=sys.stderr, flush=True
                )


def table(wanted: list[Job], lines: dict[str, dict[str, Any]]) -> str:
    """The Markdown tables of what is there of ``wanted``, one a data set."""
    blocks = []
    for dataset in dict.fromkeys(j.dataset for j in wanted):
        here = [lines[j.spec.key] for j in wanted if j.dataset == dataset and j.spec.key in lines]
        if not here:
            continue
        asked = sum(j.dataset == dataset for j in wanted)
        measured = {line["condition"] for line in here}
        conditions = [c for c in dict.fromkeys(j.condition for j in wanted if j.dataset == dataset) if c in measured]
        groups = defaultdict(list)
        for line in here:
            groups[line["method"], line["condition"]].append(line)
        seeds, dates = {line["seed"] for line in here}, sorted({line["date"] for line in here})
        first = here[0]
        wrong = {c: next((f" ({x['wrong']:.0%} wrong)" for x in here if x["condition"] == c), "") for c in conditions}
        text = (
            f"**{dataset}**: {first['images']:,} training images after hold-out, {first['tested']:,} test images, network "
            f"`{first['network']}`, {first['epochs']} epochs, n = {len(seeds)} seed{'s' * (len(seeds) > 1)}, "
            f"{dates[0]}{f' to {dates[-1]}' if dates[-1] != dates[0] else ''}, {len(here)} of {asked} trainings.\n\n"
        )
        head = [
            "method",
            *(c + wrong[c] for c in conditions),
            *(f"AUROC {c}" for c in conditions if c != "clean"),
            "seconds",
        ]
        rows = [head, ["---"] * len(head)]
        for method in dict.fromkeys(j.method for j in wanted):
            row = [f"`{method}`"]
            for c in conditions:
                row.append(_accuracy(groups[method, c], groups["ce", c], method))
            for c in conditions:
                if c != "clean":
                    scores = [x["auroc"] for x in groups[method, c] if x["auroc"] is not None]
                    row.append(f"{mean(scores):.2f}".lstrip("0") if scores else "")
            seconds = [x["seconds"] for c in conditions for x in groups[method, c]]
            rows.append([*row, f"{mean(seconds):.0f}" if seconds else ""])
        blocks.append(text + "\n".join("| " + " | ".join(row) + " |" for row in rows))
    return "\n\n".join(blocks)


def _accuracy(lines: list[dict[str, Any]], ce: list[dict[str, Any]], method: str) -> str:
    """Percent, mean and standard deviation over seeds; * the point was filled from the truth, (down) worse than ``ce``."""
    values = [x["test"] for x in lines if x["test"] is not None]
    if len(values) < len(lines):
        return "diverged"
    if not values:
        return ""
    told = f"{100 * mean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")
    plain = [x["test"] for x in ce if x["test"] is not None]
    below = bool(plain) and mean(values) < mean(plain) - WORSE
    return told + "\\*" * bool(lines[0]["oracle"]) + " ↓" * below


def main(args: argparse.Namespace) -> int:
    for name in args.only or []:
        method_class(name)
    with tempfile.TemporaryDirectory() as folder:
        into, images, vectors = Path(folder), None, None
        if args.vectors is not None:
            vectors = with_human_labels("--vectors", args.vectors, "cifar10_features.npz", into, 10_000)
        if args.cifar10 is not None:
            images = with_human_labels("--cifar10", args.cifar10, "cifar10.npz", into)
        wanted, lines = jobs(args, vectors, images), read(args.out)
        if not args.table:
            asked = [j for j in wanted if not args.conditions or j.condition in args.conditions]
            run([j for j in asked if j.spec.key not in lines], args.out, args.jobs, args.time_budget)
            lines = read(args.out)
        print(table(wanted, lines))
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="results, one JSON line a training; resumed from"
    )
    p.add_argument("--cifar10", type=Path, metavar="FOLDER", help="folder with cifar10.npz and cifar10n.npz")
    p.add_argument("--vectors", type=Path, metavar="FOLDER", help="folder with cifar10_features.npz and cifar10n.npz")
    p.add_argument("--only", nargs="+", metavar="METHOD", help="these methods (default: all)")
    p.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="seeds 0 to N - 1 on digits and vectors (default: 3)"
    )
    p.add_argument("--conditions", nargs="+", metavar="NAME", help="train these only, as the table calls them")
    p.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    p.add_argument(
        "--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="begin no training after these"
    )
    p.add_argument("--digits-epochs", type=int, metavar="N", help="epochs on digits (default: the sweep's)")
    p.add_argument("--vectors-epochs", type=int, default=30, metavar="N", help="epochs on vectors (default: 30)")
    p.add_argument("--cifar10-epochs", type=int, default=12, metavar="N", help="epochs on CIFAR-10 (default: 12)")
    p.add_argument(
        "--network", default="convnet_small", metavar="NAME", help="network on CIFAR-10 (default: convnet_small)"
    )
    p.add_argument("--table", action="store_true", help="train nothing, print the table of what is there")
    return p


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except InputError as e:
        sys.exit(f"{e}")
