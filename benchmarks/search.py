"""How good a search is, on recorded pools: trials and epochs until it is within half a point of the best of 64 random trials.

    python benchmarks/search.py --out FILE [--searches tpe+asha,tpe+asha+levels,...] [--seeds 20] [--time-budget MINUTES]
    python benchmarks/search.py --out FILE --table [--seeds 20]
    python benchmarks/search.py --pasha | --fractions

Trains nothing: the pools (``analysis/reference/pools.parquet``, made by ``benchmarks/pools.py``) are replayed by the real ``CellSearch``,
as ``raystudy simulate`` does. A search is SAMPLER+SCHEDULER, with what it starts from: ``+levels`` (the other noise levels of the same
data set), ``+datasets`` (the other data set, the same and other levels) or nothing. Its objective is the noisy validation accuracy; the
test set is not looked at. A line of FILE a search; the same command goes on where it was stopped.

The samplers tpe:SETTING are Optuna's TPE with one setting changed. ``--pasha``: what PASHA would save. ``--fractions``: whether
rankings survive training on parts of the data. docs/search.md has the tables.
"""

import os

os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}

import argparse
import itertools
import json
import math
import statistics
import sys
import time
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pools import EPOCHS, FIRST, FRACTIONS, METHODS, NETWORK, space_of

from analysis.reference import pools
from analysis.select import objective
from raystudy.data.noise import Noise
from raystudy.design.names import SAMPLERS, SCHEDULERS
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError, unknown
from raystudy.learn.point import Point
from raystudy.record.ledger import TrialHistory
from raystudy.running import samplers
from raystudy.running.transfer import Found, Place, starts
from raystudy.tools.simulate import replay

EPSILON = 0.005
FEW = 8  # trials on a part of the data below which a cell says nothing of rankings
AIM, AIM_STARTED = 16, 5  # trials that a search may need, alone and started from other levels
MOST = FIRST  # trials after which a search is given up
SOURCES = ("", "levels", "datasets")
SEARCHES = (
    "tpe+asha,tpe+asha+levels,tpe+asha+datasets,random+asha,qmc+asha,cmaes+asha,"
    "tpe+none,tpe+none+levels,tpe+none+datasets,gp+none,gp+none+levels,random+none,qmc+none,cmaes+none"
)
PLACES = (  # searches that are shown cell by cell
    *("random+none", "tpe+none", "tpe+none+levels", "gp+none", "gp+none+levels", "tpe+asha", "tpe+asha+levels"),
)
VARIANTS: dict[str, dict[str, Any]] = {  # of Optuna's TPE beside ours
    "tpe:startup1": {"n_startup_trials": 1},
    "tpe:startup10": {"n_startup_trials": 10},
    "tpe:nogroup": {"group": False},
    "tpe:univariate": {"group": False, "multivariate": False},
    "tpe:noliar": {"constant_liar": False},
}


class Search(NamedTuple):
    """What is compared."""

    sampler: str
    scheduler: str
    source: str

    @property
    def name(self) -> str:
        return "+".join(filter(None, self))


def searches(text: str) -> list[Search]:
    """Of a command line. Raises InputError for one that is none."""
    found = []
    for name in text.split(","):
        sampler, _, rest = name.strip().partition("+")
        scheduler, _, source = rest.partition("+")
        for what, word, choices in (
            ("sampler", sampler, [*SAMPLERS, *VARIANTS]),
            ("scheduler", scheduler, SCHEDULERS),
            ("source", source, SOURCES),
        ):
            if word not in choices:
                raise unknown(what, word, choices)
        found.append(Search(sampler, scheduler, source))
    return found


class Recorded(NamedTuple):
    """A cell and its pool, the published point first."""

    cell: Cell
    trials: list[TrialHistory]

    @property
    def goal(self) -> float:
        """The best of 64 random trials."""
        return max(objective(t.curves["val/acc"]) for t in self.trials[1:FIRST] if t.state == "complete")


def recorded(table: pd.DataFrame) -> list[Recorded]:
    """All cells."""
    found = []
    for (dataset, method, rate), rows in table.sort_values("number").groupby(["dataset", "method", "rate"]):
        trials = [history(row) for row in rows.to_dict("records")]
        if trials[0].number == 0 and len(trials) > 1:
            found.append(Recorded(Cell(str(method), str(dataset), Noise("symmetric", float(rate))), trials))
    return sorted(found, key=lambda r: (r.cell.dataset, METHODS.index(r.cell.method), r.cell.noise.rate))


def history(row: dict[str, Any]) -> TrialHistory:
    n = len(row["val/acc"])
    trial = TrialHistory(f"{row['number']:016x}", int(row["number"]), "search", json.loads(row["point"]), 0)
    trial.state = "diverged" if row["diverged"] else "complete"
    trial.times = array("q", [0] * n)
    trial.curves = {name: array("d", np.asarray(row[name], dtype=float)) for name in ("val/acc", "test/acc")}
    return trial


def place(cell: Cell) -> Place:
    return Place(cell.method, cell.dataset, cell.noise, 10, True)


def sources(target: Cell, cells: Iterable[Recorded], kind: str) -> list[Found]:
    """What other cells of the method have found in their published point and 64 random trials."""
    out = []
    for cell, trials in cells:
        same = cell.dataset == target.dataset
        if cell.method == target.method and cell != target and same == (kind == "levels"):
            whole = [t for t in trials[:FIRST] if t.state == "complete"]
            values = tuple(objective(t.curves["val/acc"]) for t in whole)
            out.append(Found("pools", place(cell), tuple(t.point for t in whole), values))
    return out


def study(cell: Cell) -> Study:
    return Study(
        "pools", (cell.method,), (cell.dataset,), (cell.noise,), trials=1, replicates=0, epochs=EPOCHS, network=NETWORK
    )


def run(
    cells: list[Recorded], chosen: list[Recorded], wanted: list[Search], seeds: int, out: Path, minutes: float
) -> None:
    """Every search of every chosen cell, a line each; whole seeds first. Those that start from others may start from all ``cells``."""
    done = {(x["cell"], x["search"], x["seed"]) for x in read(out)}
    began = time.monotonic()
    usual = dict(samplers.TPE)
    with out.open("a", encoding="utf-8") as file:
        for seed, where, search in itertools.product(range(seeds), chosen, wanted):
            if (where.cell.key, search.name, seed) in done:
                continue
            if time.monotonic() - began > 60 * minutes:
                print("the time is up; the same command goes on from here", file=sys.stderr)
                return
            within = space_of(where.cell.method)
            first: list[Point] = []
            if search.source:
                found = sources(where.cell, cells, search.source)
                first = [p for p, _ in starts(place(where.cell), found, within, where.trials[0].point)]
            samplers.TPE.clear()
            samplers.TPE.update(usual | VARIANTS.get(search.sampler, {}))
            spent = time.process_time()
            r = replay(
                study(where.cell),
                where.cell,
                where.trials,
                search.sampler.partition(":")[0],
                search.scheduler,
                seed,
                EPSILON,
                within=within,
                starts=first,
                goal=where.goal,
                most=MOST,
            )
            line = {"cell": where.cell.key, "search": search.name, "seed": seed, "found": r.found, "trials": r.trials}
            line |= {"epochs": r.epochs, "pool": len(where.trials), "cpu": round(time.process_time() - spent, 3)}
            file.write(json.dumps(line) + "\n")
            file.flush()


def read(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def markdown(rows: Sequence[Sequence[object]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(map(str, r)) + " |" for r in (head, ["---"] * len(head), *rest))


def tables(lines: list[dict[str, Any]], cells: list[Recorded]) -> Iterator[str]:
    """All searches over all cells, and those of ``PLACES`` cell by cell."""
    at: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for x in lines:
        at[x["search"], x["cell"]].append(x)
    keys = [c.cell.key for c in cells if len(space_of(c.cell.method).dimensions)]
    rows: list[list[object]] = [
        [
            *("search", "seeds", "trials: median", "cells at most 5", "cells above 16", "worst cell's median", "worst"),
            *("not found", "epochs: median", "worst", "cells over 2 later than without", "trials against TPE (95 %)"),
        ]
    ]
    medians: dict[str, dict[str, float]] = {}  # of trials, by search and cell
    logs: dict[str, dict[str, float]] = {}  # mean logarithm of trials
    for name in dict.fromkeys(x["search"] for x in lines):
        own = {k: at[name, k] for k in keys if at[name, k]}
        mine = medians[name] = {k: statistics.median(_trials(x) for x in v) for k, v in own.items()}
        every = [x for v in own.values() for x in v]
        epochs = {k: statistics.median(x["epochs"] for x in v) for k, v in own.items()}
        seeds = sorted({len(v) for v in own.values()})
        shown = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]}-{seeds[-1]}"
        missed = f"{sum(not x['found'] for x in every)} of {len(every)}"
        logs[name] = {k: statistics.fmean(math.log(_trials(x)) for x in v) for k, v in own.items()}
        without = medians.get(name.rpartition("+")[0], {})
        later = sorted((d for k in mine if (d := mine[k] - without.get(k, math.inf)) > 2), reverse=True)
        rows.append(
            [
                f"`{name}`",
                shown,
                f"{statistics.median(mine.values()):g}",
                sum(m <= AIM_STARTED for m in mine.values()),
                sum(m > AIM for m in mine.values()),
                f"{max(mine.values()):g}",
                max(_trials(x) for x in every),
                missed,
                f"{statistics.median(epochs.values()):g}",
                max(x["epochs"] for x in every),
                f"{len(later)}{' (' + ', '.join(f'+{d:g}' for d in later) + ')' if later else ''}" if without else "",
                against(logs[name], logs.get(rival(name), {})),
            ]
        )
    yield markdown(rows)
    names = [n for n in PLACES if any(x["search"] == n for x in lines)]
    rows = [["data", "method", "rate", "best of random", "published", *(f"`{n}`" for n in names)]]
    for c in cells:
        n = c.cell
        published = objective(c.trials[0].curves["val/acc"])
        told = [at[name, n.key] for name in names]
        shown_ = [f"{statistics.median(map(_trials, t)):g} ({max(map(_trials, t))})" if t else "" for t in told]
        rows.append([n.dataset, n.method, n.noise.rate, f"{100 * c.goal:.1f}", f"{100 * published:.1f}", *shown_])
    yield "Trials, median (worst) over the seeds:\n\n" + markdown(rows)


def rival(name: str) -> str:
    """What a search is compared with: TPE in its place; of TPE itself the search without what it starts from."""
    sampler, rest = name.split("+", 1)
    return f"tpe+{rest}" if sampler != "tpe" else name.rpartition("+")[0]


def against(mine: dict[str, float], other: dict[str, float]) -> str:
    """Trials as a ratio of geometric means over the cells both have (of each cell its mean logarithm), with a 95 % interval (bootstrap of
    cells)."""
    differences = np.array([mine[k] - other[k] for k in mine if k in other])
    if not len(differences):
        return ""
    drawn = np.random.default_rng(0).choice(differences, (4000, len(differences))).mean(1)
    low, high = np.quantile(np.exp(drawn), [0.025, 0.975])
    return f"{np.exp(differences.mean()):.2f} ({low:.2f} to {high:.2f})"


def _trials(x: dict[str, Any]) -> int:
    """Trials until found; one more than there were where it was not."""
    return int(x["trials"]) + (not x["found"])


# ------------------------------------------------------------------------------------------------- PASHA


def values(cell: Recorded) -> np.ndarray:
    """The objective of every trial after every epoch [n, epochs]; diverged trials are worth nothing from there on."""
    out = np.full((len(cell.trials), EPOCHS), -1.0)
    for i, t in enumerate(cell.trials):
        curve = t.curves["val/acc"]
        for e in range(len(curve)):
            v = objective(curve[: e + 1])
            out[i, e] = -1.0 if math.isnan(v) else v
    return out


def halving(v: np.ndarray, rungs: Sequence[int], soft: bool) -> tuple[int, int]:
    """Asynchronous halving of trials in their order, one after another. Returns the trial it chooses and the epochs it took.

    ``v`` [n, epochs]; ``soft``: PASHA (Bohdal et al. 2023): nobody goes beyond the second rung until the order at the two highest rungs in
    use disagrees by more than the noise of the values there; then one rung more. What it chooses is trained to its end.
    """
    stages = [*rungs, v.shape[1]]
    top = 1 if soft else len(stages) - 1
    came = np.zeros(len(v), dtype=int)  # epochs of each trial
    reached: list[list[int]] = [[] for _ in stages]
    for i in range(len(v)):
        for k, epoch in enumerate(stages):
            if k > top:
                break
            came[i] = epoch
            mine = v[i, epoch - 1]
            others = [v[j, epoch - 1] for j in reached[k]]
            reached[k].append(i)
            if k < len(stages) - 1 and len(others) >= 2 and mine < np.quantile(others, 2 / 3):
                break
        if (
            soft
            and top < len(stages) - 1
            and len(reached[top]) > 1
            and _disagree(v, reached[top], stages[top - 1], stages[top])
        ):
            top += 1
    highest = max(k for k, r in enumerate(reached) if r)
    best = max(reached[highest], key=lambda i: v[i, stages[highest] - 1])
    return best, int(came.sum()) + v.shape[1] - int(came[best])


def _disagree(v: np.ndarray, who: Sequence[int], early: int, late: int) -> bool:
    """Whether two trials change places by more than the values waver (the 90th percentile of an epoch's change, as in Syne Tune)."""
    waver = float(np.quantile(np.abs(np.diff(v[list(who), early - 1 : late], axis=1)), 0.9))
    a, b = v[list(who), early - 1], v[list(who), late - 1]
    return any(
        (a[i] - a[j]) * (b[i] - b[j]) < 0 and abs(b[i] - b[j]) > waver
        for i, j in itertools.combinations(range(len(a)), 2)
    )


def pasha(cells: list[Recorded], seeds: int) -> str:
    """Epochs and choice of ASHA and PASHA on random trials in random orders."""
    rows: list[list[object]] = [
        ["data", "method", "trials", "ASHA: epochs", "below the best", "PASHA: epochs", "below the best"]
    ]
    for (dataset, method), group in itertools.groupby(cells, key=lambda c: (c.cell.dataset, c.cell.method)):
        told: dict[bool, list[tuple[int, float]]] = {False: [], True: []}
        n = 0
        for cell in group:
            v = values(cell)
            n = len(v)
            for seed, soft in itertools.product(range(seeds), (False, True)):
                order = np.random.default_rng(seed).permutation(n)
                best, epochs = halving(v[order], (2, 6), soft)
                told[soft].append((epochs, float(v[:, -1].max() - v[order][best, -1])))
        row: list[object] = [dataset, method, n]
        for soft in (False, True):
            row += [
                f"{statistics.mean(e for e, _ in told[soft]):.0f}",
                f"{100 * statistics.mean(r for _, r in told[soft]):.2f}",
            ]
        rows.append(row)
    return markdown(rows)


# ------------------------------------------------------------------------------------------------- fractions


def fractions(cells: list[Recorded]) -> str:
    """Spearman's correlation with the whole training, and what the best third by it loses, for parts of the data and for early epochs."""
    parts = {f: {c.cell: c for c in recorded(pools(f))} for f in FRACTIONS}
    rows: list[list[object]] = [["method", "rate", "cells", "trials"]]
    for f in FRACTIONS:
        rows[0] += [f"{f:g} of the data", f"{max(1, round(f * EPOCHS))} of {EPOCHS} epochs"]
    groups = defaultdict(list)
    for c in cells:
        groups[c.cell.method, c.cell.noise.rate].append(c)
    for (method, rate), group in groups.items():
        told: list[list[tuple[float, float]]] = [[] for _ in range(2 * len(FRACTIONS))]
        n = 0
        for c in group:
            whole = values(c)
            for i, f in enumerate(FRACTIONS):
                if c.cell not in parts[f] or len(parts[f][c.cell].trials) < FEW:
                    continue
                small = parts[f][c.cell]
                n = len(small.trials)
                full = whole[:n, -1]
                told[2 * i].append(_kept(values(small)[:, -1], full))
                told[2 * i + 1].append(_kept(whole[:n, max(1, round(f * EPOCHS)) - 1], full))
        if all(told):
            shown = [f"{np.mean([r for r, _ in t]):.2f} ({100 * np.mean([g for _, g in t]):.1f})" for t in told]
            rows.append([method, rate, len(told[0]), n, *shown])
    return markdown(rows)


def _kept(early: np.ndarray, full: np.ndarray) -> tuple[float, float]:
    """Spearman's correlation, and by how much the best of the best third by ``early`` is below the best."""
    third = np.argsort(-early, kind="stable")[: max(1, len(full) // 3)]
    return float(spearmanr(early, full).statistic), float(full.max() - full[third].max())


def main(args: argparse.Namespace) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    cells = recorded(pools())
    if args.pasha:
        print(pasha(cells, args.seeds))
    elif args.fractions:
        print(fractions(cells))
    else:
        if args.out is None:
            raise InputError("name a file with --out")
        if not args.table:
            chosen = [c for c in cells if args.only in (None, c.cell.dataset)]
            run(cells, chosen, searches(args.searches), args.seeds, args.out[0], args.time_budget)
        lines = [line for file in args.out for line in read(file) if line["seed"] < args.seeds]
        print("\n\n".join(tables(lines, cells)))
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--out", type=Path, nargs="+", metavar="FILE", help="a JSON line a search; resumed from")
    p.add_argument(
        "--only", choices=("digits", "vectors"), help="the cells of this data set (several processes, a file each)"
    )
    p.add_argument("--searches", default=SEARCHES, help=f"SAMPLER+SCHEDULER[+SOURCE],... (default: {SEARCHES})")
    p.add_argument("--seeds", type=int, default=20, metavar="N", help="seeds 0 to N - 1 (default: 20)")
    p.add_argument(
        "--time-budget", type=float, default=float("inf"), metavar="MINUTES", help="begin no search after these"
    )
    p.add_argument("--table", action="store_true", help="search nothing, print the tables of what is there")
    p.add_argument("--pasha", action="store_true", help="what PASHA would save, and what its choice costs")
    p.add_argument("--fractions", action="store_true", help="whether rankings survive on parts of the data")
    return p


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except InputError as e:
        sys.exit(f"{e}")
