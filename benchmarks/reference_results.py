"""The reference results that ``raystudy recommend`` looks up: ``analysis/reference/results.parquet``, from what was measured.

    python benchmarks/reference_results.py [--studies FOLDER ...] [--data FOLDER] [--time-budget MINUTES]

Rows are those of ``docs/results.jsonl`` (published points) and of the ledgers of the studies named (published and chosen points),
``analysis.conditions`` says what the columns are. ``--data``: a folder with ``cifar10_features.npz``, ``cifar10n.npz`` and, for the images,
``cifar10.npz``, as ``benchmarks/results.py`` takes them.

How the noise of each condition looks to a user is estimated by ``raystudy recommend``'s own means, once (some seconds of CPU each): what
an earlier parquet has is kept, and so are the rows of studies that are not named this time. The same command goes on where it was
stopped. For colour images, where that would train networks for hours, it is left out. One torch thread.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from results import with_human_labels

from analysis import conditions
from analysis.conditions import COLUMNS, PUBLISHED, concentration
from analysis.reference import RESULTS
from raystudy.data import datasets
from raystudy.data.noise import Noise, realised_matrix, transition_matrix
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.tools.recommend import noise_seen

LINES = Path(__file__).resolve().parent.parent / "docs" / "results.jsonl"
ROOT = Path("data")
NAMES = {"vectors": "cifar10-vectors"}  # of results.jsonl, as the studies call them
KIND_OF = {"vectors": "vectors", "digits": "small images", "cifar10": "colour images"}
MAPS = {"digits": "mnist", "vectors": "cifar10", "cifar10": "cifar10"}
SAME = ("source", "dataset", "noise", "rate", "n")  # what a condition's noise hangs on
Row = dict[str, Any]


def kind(noise: Noise) -> str:
    """Kind and variant, as rows have it."""
    return ":".join(filter(None, (noise.kind, noise.variant)))


def noise_of(dataset: str, condition: str) -> Noise:
    """The noise of a condition of ``benchmarks/results.py``."""
    if condition == "human":
        return Noise("given", 0.0)
    if condition.startswith("asymmetric"):
        return Noise("asymmetric", float(condition.split()[1]), MAPS[dataset])
    return Noise("symmetric", 0.0 if condition == "clean" else float(condition))


def published(lines: list[Row], human: dict[str, float]) -> list[Row]:
    """The rows of results.jsonl. ``human``: how concentrated the mistakes of human labels are, by data set."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for line in lines:
        groups.setdefault((line["dataset"], line["condition"], line["method"]), []).append(line)
    out = []
    for (dataset, condition, method), group in groups.items():
        latest = {line["seed"]: line for line in group if line["version"] == max(x["version"] for x in group)}
        first, values = group[0], [latest[s]["test"] for s in sorted(latest) if latest[s]["test"] is not None]
        noise = noise_of(dataset, condition)
        if not values or (condition == "human" and dataset not in human):
            continue
        spread = (
            human[dataset]
            if condition == "human"
            else concentration(transition_matrix(noise, 10))
            if noise.rate
            else 0.0
        )
        point = latest[min(latest)]
        out.append(
            {
                "source": "results.jsonl",
                "dataset": NAMES.get(dataset, dataset),
                "kind": KIND_OF[dataset],
                "n": round(first["images"] / 0.9),
                "classes": 10,
                "network": first["network"],
                "epochs": first["epochs"],
                "noise": kind(noise),
                "rate": noise.rate,
                "effective": first["wrong"],
                "concentration": spread,
                "seen_rate": None,
                "seen_concentration": None,
                "method": method,
                "selection": PUBLISHED,
                "point": json.dumps(point["point"], sort_keys=True),
                "oracle": " ".join(point["oracle"]),
                **conditions.measured(values),
                "seconds": float(np.mean([latest[s]["seconds"] for s in latest])),
            }
        )
    return out


def condition(row: Row) -> tuple[Any, ...]:
    """What the noise of a row's condition hangs on."""
    return tuple(row[name] for name in SAME)


def files(data: Path | None, into: Path) -> dict[str, str]:
    """Where the data sets of results.jsonl are that are here, as the loader takes them."""
    found = {"digits": "digits"}
    for dataset, name, most in (("vectors", "cifar10_features.npz", 10_000), ("cifar10", "cifar10.npz", None)):
        if data and (data / name).is_file():
            found[dataset] = f"npz:{with_human_labels('--data', data, name, into, most)}"
    return found


def human_concentration(where: str) -> float:
    """Of the human labels that came with a data set."""
    held = datasets.load(where, ROOT)
    return concentration(realised_matrix(held.y_train.numpy(), held.label_sets["given"].numpy(), len(held.classes)))


def main(args: argparse.Namespace) -> int:
    before: list[Row] = pd.read_parquet(RESULTS).to_dict("records") if RESULTS.is_file() else []
    seen = {condition(r): (r["seen_rate"], r["seen_concentration"]) for r in before if not math.isnan(r["seen_rate"])}
    lines = [json.loads(text) for text in LINES.read_text().splitlines()]
    look: dict[tuple[Any, ...], Callable[[], tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        here = files(args.data, Path(folder))
        human = {
            dataset: r["concentration"]
            for r in before
            for dataset in MAPS
            if (r["source"], r["noise"], r["dataset"]) == (LINES.name, "given", NAMES.get(dataset, dataset))
        }
        human |= {d: human_concentration(where) for d, where in here.items() if d not in ("digits", *human)}
        rows = published(lines, human)
        for dataset, text in {(line["dataset"], line["condition"]) for line in lines}:
            noise = noise_of(dataset, text)
            for row in rows:
                same = (row["dataset"], row["noise"], row["rate"]) == (
                    NAMES.get(dataset, dataset),
                    kind(noise),
                    noise.rate,
                )
                if same and row["kind"] != KIND_OF["cifar10"] and dataset in here:
                    look[condition(row)] = partial(noise_seen, here[dataset], ROOT, noise)
        done = {LINES.name}
        for study in args.studies or ():
            told = Study.from_toml(study / "study.toml")
            fresh = conditions.of_study(study, conditions.kind_of(datasets.shape(told.datasets[0], ROOT)))
            rows, done = rows + fresh, done | {told.name}
            for cell, row in itertools.product(told.cells(), fresh):
                if (row["method"], row["noise"], row["rate"]) == (cell.method, kind(cell.noise), cell.noise.level):
                    look[condition(row)] = partial(noise_seen, cell.dataset, ROOT, cell.noise)
        rows += [r for r in before if r["source"] not in done]
        began, todo = time.monotonic(), [c for c in dict.fromkeys(map(condition, rows)) if c not in seen and c in look]
        for at, what in enumerate(todo):
            if time.monotonic() - began > 60 * args.time_budget:
                print(f"the time is up; {len(todo) - at} conditions are left for the same command", file=sys.stderr)
                break
            seen[what] = look[what]()
            print(f"{at + 1}/{len(todo)} {what}: rate {seen[what][0]:.3f}, {seen[what][1]:.3f}", file=sys.stderr)
            write(rows, seen)
        write(rows, seen)
    return 0


def write(rows: list[Row], seen: dict[tuple[Any, ...], tuple[float, float]]) -> None:
    """Writes the table in one step."""
    for row in rows:
        row["seen_rate"], row["seen_concentration"] = seen.get(condition(row), (math.nan, math.nan))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    new = RESULTS.with_name(f".{RESULTS.name}.new")
    table.to_parquet(new, compression="zstd", index=False)
    os.replace(new, RESULTS)
    print(f"{RESULTS.name}: {len(table)} rows, {RESULTS.stat().st_size / 1024:.0f} KiB", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--studies", type=Path, nargs="+", metavar="FOLDER", help="folders of studies")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="folder with the data sets of results.jsonl")
    p.add_argument(
        "--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="estimate no noise after these"
    )
    return p


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except InputError as e:
        sys.exit(f"{e}")
