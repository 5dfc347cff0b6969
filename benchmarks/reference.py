"""The reference studies: makes their data, runs them, keeps them in ``analysis/reference``; prints the tables of docs/results.md.

    python benchmarks/reference.py [NAME ...] --data FOLDER --storage DIR [--jobs N] [--time-budget 2h] [--trials N]
    python benchmarks/reference.py --tables [--figures DIR]
    python benchmarks/reference.py [NAME ...] --restore DIR       # then: raystudy report NAME --storage DIR

NAME is a file of ``search_spaces/studies/reference``: noise-dial, memorisation, mnist-dial (default: all). FOLDER holds
``cifar10_features.npz`` and ``cifar10n.npz``, and ``mnist.npz`` (x_train, y_train, x_test, y_test). A study is an ordinary one in DIR: the
same command goes on where it was stopped, on another machine from what is kept, and keeps what has ended so far. Of the data nothing is
kept.
"""

import argparse
import math
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import literature, stats
from analysis.figures import look
from analysis.figures import results as figures
from analysis.findings import agreement, fitted, peeking
from analysis.grid import Group, Outcome, grouped
from analysis.palette import BASELINE
from analysis.reference import ledgers
from analysis.rendering import RC, render
from analysis.select import MAIN, score
from raystudy.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
STUDIES = ROOT / "search_spaces" / "studies" / "reference"
KEPT = ROOT / "analysis" / "reference"
VECTORS, MNIST = 5000, {"mnist-2000.npz": (2000, 1000), "mnist-2500.npz": (2500, 2500)}
KINDS = {  # how the pictures call them
    "symmetric inclusive": "symmetric",
    "given": "human labels, diluted",
    "asymmetric cifar10": "asymmetric",
    "instance features": "instance-dependent",
}
TABLES = {  # how their sources begin in analysis/published
    "MentorNet, Table 2": "Jiang et al. ICML 2018 (MentorNet) Table 2",
    "DivideMix, Table 1": "Li et al. ICLR 2020 (DivideMix) Table 1",
}


# ------------------------------------------------------------------------------------------------------------ run


def prepared(data: Path, into: Path) -> None:
    """The files that the studies read, in the folder ``into``; those that are there stay."""
    into.mkdir(parents=True, exist_ok=True)
    for file in ("cifar10_features.npz", "cifar10n.npz", "mnist.npz"):
        if not (data / file).is_file():
            raise InputError(f"--data {data}: there is no {file} in it")
    vectors = into / "cifar10-vectors.npz"
    if not vectors.exists():
        with np.load(data / "cifar10_features.npz") as d, np.load(data / "cifar10n.npz") as human:
            arrays = {f"{k}_{part}": d[f"{k}_{part}"][:VECTORS] for k in "xy" for part in ("train", "test")}
            arrays |= {k: arrays[k].astype(np.float32) for k in ("x_train", "x_test")}
            np.savez(vectors, y_noisy=human["worse_label"][:VECTORS], **arrays)
    with np.load(data / "mnist.npz") as d:
        for name, (n_train, n_test) in MNIST.items():
            if not (into / name).exists():
                take = {"train": n_train, "test": n_test}
                np.savez(into / name, **{f"{k}_{p}": d[f"{k}_{p}"][:n] for k in "xy" for p, n in take.items()})


def run(name: str, args: argparse.Namespace) -> int:
    """Runs or goes on with one study, and keeps what has ended. Returns the exit code of the sweep."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # at Ray's own 15 trials starve beside other work
    from raystudy import sweep

    storage = args.storage.resolve()
    options = {"storage": storage, "tracking-uri": "none", "keep-models": "none", "max-concurrent": args.jobs}
    options |= {"time-budget": args.time_budget, "trials": args.trials}
    words = [word for k, v in options.items() if v is not None for word in (f"--{k}", str(v))]
    prepared(args.data, storage / "data")
    kept = KEPT / f"{name}.parquet"
    if kept.exists() and not (storage / name).exists():
        ledgers.restore(kept, storage, storage / "data")
    os.chdir(storage / "data")  # a study file names its data by their file alone
    code = sweep.main(["--study", str(STUDIES / f"{name}.toml"), *words])
    if code in (0, 130):
        print(f"{ledgers.write(storage / name, kept)} trials in {kept}, {kept.stat().st_size / 1e6:.2f} MB")
    return code


# --------------------------------------------------------------------------------------------------------- tables


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def number(value: float, digits: int = 1) -> str:
    return "" if math.isnan(value) else f"{100 * value:.{digits}f}"


def over(values: Sequence[float], digits: int = 1) -> str:
    """Mean and 95 % interval over conditions, in points."""
    known = [v for v in values if not math.isnan(v)]
    low, high = stats.interval(known)
    return f"{number(fmean(known), digits)} ({number(low, digits)} to {number(high, digits)})" if known else ""


def accuracy(group: Group) -> str:
    """Test accuracy of the chosen points, methods best first; bold the first where it is first by more than chance."""
    levels = group.levels
    first = {
        level: stats.winner({m: o.by_seed(MAIN) for m, o in row.items() if not o.oracle})
        for level, row in levels.items()
    }
    rows = []
    for method in group.methods():
        row = [f"`{method}`"]
        for level, outcomes in levels.items():
            o, best = outcomes.get(method), first[level]
            told = number(score(o.tuned, MAIN).mean) + "\\*" * o.oracle if o else ""
            row.append(f"**{told}**" if best and best.clear and best.method == method else told)
        rows.append(row)
    return markdown([group.title, *levels], rows)


def peeked(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """What picking by the test set adds to each method, over conditions."""
    rows = []
    for method, of in outcomes.items():
        told = [p for o in of if not math.isnan((p := peeking(o.history)).honest)]
        gains = [[p.gains[i] for p in told] for i in range(3)]
        rows.append((fmean(gains[2]) if told else 0, [f"`{method}`", *map(over, gains), str(len(told))]))
    order = [row for _, row in sorted(rows, key=lambda r: -r[0])]
    return markdown(["method", "the epoch", "the point", "both", "conditions"], order)


def tuned(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """What the search gains over the published point, both on fresh seeds."""
    rows = []
    for method, of in outcomes.items():
        gains = [score(o.tuned, MAIN).mean - score(o.published, MAIN).mean for o in of if o.tuned and o.published]
        if gains and method != BASELINE:
            rows.append((fmean(gains), f"`{method}` {over(gains)}"))
    return ", ".join(row for _, row in sorted(rows, key=lambda r: -r[0])) + "."


def orders(group: Group) -> str:
    """Kendall's tau with interval between published columns and ours, a column a level."""
    told: dict[tuple[str, str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for title, source in TABLES.items():
        for p in literature.published():
            if p.source.startswith(source) and p.dataset == "cifar10" and p.rate is not None and p.method:
                told[title, p.architecture, p.statistic][f"{p.rate:g}"][p.method] = p.accuracy
    levels = [level for level in group.levels if any(level in columns for columns in told.values())]
    rows = []
    for (title, network, statistic), columns in told.items():
        rule, row, n = literature.RULE_OF[statistic], [], 0
        for level in levels:
            ours = {m: score(o.tuned, rule).mean for m, o in group.levels[level].items()}
            a = agreement(ours, columns[level]) if level in columns else None
            row.append(f"{a.tau:.2f} ({a.low:.2f} to {a.high:.2f})" if a else "")
            n = a.n if a else n
        named = "ORACLE" if rule == "oracle_test" else rule
        rows.append([f"{title}, {network}", statistic, named, *row, str(n)])
    return markdown(["published", "statistic", "our rule", *levels, "methods"], rows)


def convergence(groups: Sequence[Group]) -> str:
    """Epochs until the training set is fitted, and test accuracy, over seeds."""
    rows = []
    for g in groups:
        for level, row in g.levels.items():
            trials = row["ce"].tuned
            times = [fitted(t.curves["train/loss"], 10) for t in trials]
            tested = score(trials, "last")
            rows.append(
                [
                    g.title.partition(", ")[2],
                    level,
                    f"{fmean(times):.1f} ({min(times):.1f} to {max(times):.1f})",
                    number(tested.mean),
                ]
            )
    return markdown(["labels or pixels", "level", "epochs to fit (least to most of the seeds)", "test accuracy"], rows)


def read() -> tuple[list[Group], dict[str, list[Outcome]]]:
    """The conditions of noise-dial, and each method's cells."""
    groups = grouped(*ledgers.read(KEPT / "noise-dial.parquet"))
    by_method: dict[str, list[Outcome]] = defaultdict(list)
    for g in groups:
        for row in g.levels.values():
            for m, o in row.items():
                by_method[m].append(o)
    return groups, by_method


def ranking(outcomes: Mapping[str, Sequence[Outcome]]) -> stats.Ranking:
    found = stats.ranking({m: [score(o.tuned, MAIN).mean for o in of] for m, of in outcomes.items()})
    assert found is not None
    return found


def blocks() -> dict[str, str]:
    """What docs/results.md shows, by the name of the place where it stands."""
    groups, by_method = read()
    ranked = ranking(by_method)
    ranks = ", ".join(f"`{m}` {r:.1f}" for m, r in zip(ranked.methods, ranked.ranks, strict=True))
    symmetric = next(g for g in groups if g.title.endswith("symmetric inclusive"))
    return {
        **{g.title.rpartition(", ")[2]: accuracy(g) for g in groups},
        "ranks": f"Mean ranks over {ranked.n} conditions (critical difference {ranked.cd:.1f}, Friedman's p {ranked.p:.1g}): {ranks}.",
        "peeking": peeked(by_method),
        "tuning": tuned(by_method),
        "orders": orders(symmetric),
        "memorisation": convergence(grouped(*ledgers.read(KEPT / "memorisation.parquet"))),
    }


def filled(text: str, told: Mapping[str, str]) -> str:
    """A page with what stands between ``<!-- NAME -->`` and ``<!-- end -->`` made new."""
    for name, block in told.items():
        begin, rest = text.partition(f"<!-- {name} -->\n")[::2]
        if rest:
            text = f"{begin}<!-- {name} -->\n{block}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text


def tables(into: Path | None) -> None:
    """Prints everything, and draws the pictures into a folder where one is named; the page there is to be is filled, too."""
    told = blocks()
    for name, block in told.items():
        print(f"{name}\n\n{block}\n")
    if into is not None:
        into.mkdir(parents=True, exist_ok=True)
        groups, by_method = read()
        ranked = ranking(by_method)
        with rc_context(RC):
            pictures = {"dial": dial(groups, ranked.methods), "selection": peeks(by_method)}
            pictures["ranks"] = figures.ranks(ranked)
        for name, figure in pictures.items():
            (into / f"{name}.png").write_bytes(render(figure)[0])
        page = into.with_suffix(".md")
        if page.exists():
            page.write_text(filled(page.read_text(encoding="utf-8"), told), encoding="utf-8")


# -------------------------------------------------------------------------------------------------------- pictures


def dial(groups: Sequence[Group], best: Sequence[str], most: int = 9) -> Figure:
    """Accuracy over the noise rate, a panel a kind of noise: the best methods by mean rank, and cross-entropy."""
    shown = [*[m for m in best if m != BASELINE][:most], BASELINE]
    figure, axes = look.grid(len(groups), columns=len(groups), height=2.4, sharey=True)
    for ax, g in zip(axes, groups, strict=True):
        x = list(g.rates().values())
        for method in shown:
            scores = [score(row[method].tuned, MAIN) if method in row else None for row in g.levels.values()]
            mean, std = ([100 * getattr(s, part) if s else math.nan for s in scores] for part in ("mean", "std"))
            ax.errorbar(x, mean, np.nan_to_num(std), **look.style(method), linewidth=1.1, markersize=3, elinewidth=0.7)
        ax.set_title(KINDS.get(g.title.partition(", ")[2], g.title))
        ax.set_xlabel("nominal noise rate")
    axes[0].set_ylabel("test accuracy in %")
    look.legend(figure, shown)
    return figure


def peeks(outcomes: Mapping[str, Sequence[Outcome]]) -> Figure:
    """What picking the epoch, the point or both on the test set adds to each method: mean and 95 % interval over conditions."""
    told = {m: [p.gains for o in of if not math.isnan((p := peeking(o.history)).honest)] for m, of in outcomes.items()}
    order = sorted(told, key=lambda m: fmean(g[2] for g in told[m]))
    figure, axes = look.grid(3, columns=3, height=0.5 + 0.15 * len(order), sharey=True, sharex=True)
    for i, (ax, what) in enumerate(zip(axes, ("the epoch", "the point", "both"), strict=True)):
        for y, method in enumerate(order):
            values = [100 * g[i] for g in told[method]]
            style = look.style(method)
            ax.plot(stats.interval(values), [y, y], color=style["color"], linewidth=1.2)
            ax.plot([fmean(values)], [y], color=style["color"], marker=style["marker"], markersize=4)
        ax.set_title(what)
        ax.set_xlabel("points gained")
    axes[0].set_yticks(range(len(order)), order)
    return figure


def main(args: argparse.Namespace) -> int:
    if args.tables:
        tables(args.figures)
        return 0
    known = sorted(p.stem for p in STUDIES.glob("*.toml"))
    for name in args.names:
        if name not in known:
            raise InputError(f"unknown reference study {name!r}; choose from: {', '.join(known)}")
    if args.restore is not None:
        for name in args.names or known:
            print(ledgers.restore(KEPT / f"{name}.parquet", args.restore))
        return 0
    if args.data is None or args.storage is None:
        raise InputError("--data and --storage are needed to run a study; --tables and --restore need neither")
    return max([run(name, args) for name in args.names or known], default=0)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", metavar="NAME", help="reference studies (default: all)")
    p.add_argument("--data", type=Path, metavar="FOLDER", help="folder with the .npz files of the real data")
    p.add_argument("--storage", type=Path, metavar="DIR", help="folder that holds the running studies")
    p.add_argument("--jobs", type=int, default=2, metavar="N", help="trainings at once (default: 2)")
    p.add_argument(
        "--trials", type=int, metavar="N", help="points a cell (default: the study file's, or what it has grown to)"
    )
    p.add_argument("--time-budget", metavar="TIME", help="stop each study cleanly after this long, as a sweep does")
    p.add_argument(
        "--restore",
        type=Path,
        metavar="DIR",
        help="run nothing, make folders of what is kept, which every command reads",
    )
    p.add_argument("--tables", action="store_true", help="run nothing, print the tables of docs/results.md")
    p.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="with --tables: draw the pictures into this folder, and fill the page FOLDER.md",
    )
    return p


if __name__ == "__main__":
    try:
        sys.exit(main(parser().parse_args()))
    except (InputError, OSError) as e:
        print(e, file=sys.stderr)
        sys.exit(2)
