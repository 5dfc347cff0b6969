"""How good the recommendation is where nothing of what is asked about was seen: the tables of docs/recommend.md.

    python benchmarks/recommend.py [--results FILE] [--write docs/recommend.md]

Every condition of ``analysis/reference/results.parquet`` is left out in turn, with all that is alike: the same level (data set, kind of
noise and rate, of whatever source), the same kind of noise on all data sets, or the whole data set. The rest is asked for a method, by the
noise as it was estimated from the labels, and the regret is what the best method under that condition reached above the one that was named,
in points of test accuracy. Beside: always DivideMix, always ELR, always what was best on average of the rest, and the best of all
fixed choices in hindsight; and other rules than that of ``analysis.recommend``. Nothing is trained; seconds. ``--write``: puts the tables
between the two marks of that file.

The best of many noisy means is too good by chance, for every choice alike: *of other seeds* is the regret against the method that was best
on the other seeds, measured on the seed that is left (conditions with two seeds or more), which is too small where that is another method.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from analysis import recommend
from analysis.conditions import BASELINE, Condition, Known, known
from analysis.reference import RESULTS

Values = NDArray[np.float64]
Choice = Callable[[Sequence[Known], Known], list[str]]  # of the rest and what is asked about: methods, the best first

BEGIN, END = "<!-- tables of benchmarks/recommend.py -->", "<!-- end -->"
DRAWS = 2000  # of the bootstrap over conditions


def kind(k: Known) -> str:
    """The kind of noise, without its rate; no noise is a kind of its own."""
    return (
        "clean"
        if k.noise.endswith(" 0") and not k.noise.startswith("given")
        else k.noise.partition(" ")[0].partition(":")[0]
    )


LEFT_OUT: dict[str, Callable[[Known], object]] = {
    "level": lambda k: (k.dataset, k.noise),
    "kind of noise": kind,
    "data set": lambda k: k.dataset,
}


def ours(rest: Sequence[Known], asked: Known) -> list[str]:
    return recommend.order(rest, asked.where)


def best_first(methods: list[str], score: Values) -> list[str]:
    """Methods by their scores [M]; cross-entropy has 0."""
    return [m for _, m in sorted([*zip(-score, methods, strict=True), (0.0, BASELINE)])]


def on_average(rest: Sequence[Known], asked: Known) -> list[str]:
    methods, gains = recommend.table(rest)
    return best_first(methods, recommend.average(gains))


def covered(conditions: Sequence[Known], alike: Callable[[Known], object]) -> str:
    """How often the intervals of the three methods that are named first hold what came."""
    inside, off = [], []
    for rest, asked in left_out(conditions, alike):
        named = [p for p in recommend.ranked(rest, asked.where) if p.method in asked.results and p.method != BASELINE]
        inside += [p.low <= asked.gains[p.method] <= p.high for p in named[:3]]
        off += [100 * (asked.gains[p.method] - p.gain) for p in named[:3]]
    return (
        f"Of the three named first the interval held {np.mean(inside):.0%} of {len(inside)} gains; they were {np.mean(off):+.1f} points "
        f"above what was expected, in the mean, and {np.median(np.abs(off)):.1f} off in the median."
    )


def always(method: str) -> Choice:
    return lambda rest, asked: [method]


def taken(choice: list[str], asked: Known) -> str:
    """The first that was measured there; none of them: cross-entropy."""
    return next((m for m in choice if m in asked.results), BASELINE)


def regret(asked: Known, method: str) -> float:
    """Points below the best mean."""
    return 100 * (max(r.mean for r in asked.results.values()) - asked.results[method].mean)


def regret_of_other_seeds(asked: Known, method: str) -> float:
    """Points below the method that was best on the other seeds, mean over seeds; NaN with one seed."""
    seeds = min(len(r.values) for r in asked.results.values())
    if seeds < 2:
        return float("nan")
    names = list(asked.results)
    values = np.array([asked.results[m].values[:seeds] for m in names])
    mine = names.index(method)
    lost = []
    for s in range(seeds):
        best = int(np.argmax(np.delete(values, s, 1).mean(1)))
        lost.append(values[best, s] - values[mine, s])
    return 100 * float(np.mean(lost))


def left_out(conditions: Sequence[Known], alike: Callable[[Known], object]) -> Iterator[tuple[list[Known], Known]]:
    for asked in conditions:
        rest = [k for k in conditions if alike(k) != alike(asked)]
        if rest:
            yield rest, asked


def interval(values: Values) -> tuple[float, float]:
    """95 % of the mean, by a bootstrap over conditions."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(len(values), size=(DRAWS, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def row(name: str, lost: Values, others: Values) -> str:
    low, high = interval(lost)
    fair = others[np.isfinite(others)]
    told = f"{fair.mean():.2f}" if len(fair) else ""
    return f"| {name} | {lost.mean():.2f} ({low:.2f} to {high:.2f}) | {np.quantile(lost, 0.9):.1f} | {lost.max():.1f} | {told} |"


def judged(conditions: Sequence[Known]) -> str:
    """The tables, one for each way of leaving out."""
    blocks = []
    for name, alike in LEFT_OUT.items():
        cases = list(left_out(conditions, alike))
        lines = [
            f"Left out: the {name}; {len(cases)} conditions.\n",
            "| choice | mean regret (95 %) | nine in ten below | worst | of other seeds |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        lost: dict[str, Values] = {}
        for told, choice in CHOICES.items():
            named = [taken(choice(rest, asked), asked) for rest, asked in cases]
            lost[told] = np.array([regret(asked, m) for m, (_, asked) in zip(named, cases, strict=True)])
            fair = np.array([regret_of_other_seeds(asked, m) for m, (_, asked) in zip(named, cases, strict=True)])
            lines.append(row(told, lost[told], fair))
        everywhere = set.intersection(*(set(asked.results) for _, asked in cases))
        fixed = {m: np.array([regret(asked, m) for _, asked in cases]) for m in sorted(everywhere)}
        best = min(fixed, key=lambda m: fixed[m].mean())
        fair = np.array([regret_of_other_seeds(asked, best) for _, asked in cases])
        lines.append(row(f"best fixed choice in hindsight: `{best}`", fixed[best], fair))
        mine = lost[OURS]
        share = f"{mine.mean() / fixed[best].mean():.0%}" if fixed[best].mean() > 0 else "no number"
        parts = (
            (d, np.array([asked.dataset == d for _, asked in cases]))
            for d in dict.fromkeys(a.dataset for _, a in cases)
        )
        each = ", ".join(
            f"{d} {mine[of].mean():.2f} ({of.sum()}; `{best}` {fixed[best][of].mean():.2f})" for d, of in parts
        )
        lines.append(f"\nOurs is {share} of the best fixed choice's. By data set: {each}. {covered(conditions, alike)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def compared(conditions: Sequence[Known]) -> str:
    """Mean regret of other rules, and the worst."""
    head = " | ".join(f"{name} left out" for name in LEFT_OUT)
    lines = [f"| rule | {head} |", f"| --- |{' ---: |' * len(LEFT_OUT)}"]
    for told, choice in RULES.items():
        cells = []
        for alike in LEFT_OUT.values():
            lost = [regret(asked, taken(choice(rest, asked), asked)) for rest, asked in left_out(conditions, alike)]
            cells.append(f"{np.mean(lost):.2f} (worst {max(lost):.1f})")
        lines.append(f"| {told} | {' | '.join(cells)} |")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------- other rules


def by(score: Callable[[Values, Values], Values], seen: Callable[[Condition], Condition] = lambda c: c) -> Choice:
    """A rule that orders methods by ``score(gains [n, M], distances [n])``, of conditions as ``seen``."""

    def choice(rest: Sequence[Known], asked: Known) -> list[str]:
        methods, gains = recommend.table(rest)
        far = recommend.distances([seen(k.where) for k in rest], seen(asked.where))
        return best_first(methods, score(gains, far))

    return choice


def smoothed(values: Values, far: Values) -> Values:
    """The kernel mean of any values [n, M], drawn to their mean as in ``analysis.recommend``."""
    there = np.isfinite(values)
    k = np.exp(-(far**2) / 2)[:, None] * there
    mean = recommend.average(values)
    out: Values = ((k * np.where(there, values, 0)).sum(0) + recommend.PRIOR * mean) / (k.sum(0) + recommend.PRIOR)
    return out


def nearest(many: int) -> Choice:
    return by(lambda gains, far: recommend.average(gains[np.argsort(far, kind="stable")[:many]]))


def ranks(gains: Values, far: Values) -> Values:
    return smoothed(pd.DataFrame(gains).rank(axis=1, pct=True).to_numpy() - 0.5, far)


def blind(where: Condition) -> Condition:
    return where._replace(concentration=0.0)


OURS = "`raystudy recommend`"
CHOICES: dict[str, Choice] = {
    OURS: ours,
    "always `dividemix`": always("dividemix"),
    "always `elr`": always("elr"),
    "always the best on average": on_average,
    "always `ce`": always(BASELINE),
}
RULES: dict[str, Choice] = {
    "as it is: kernel over shares of what there was to gain": ours,
    "kernel over gains": by(smoothed),
    "kernel over ranks": by(ranks),
    "the nearest condition": nearest(1),
    "the nearest 3": nearest(3),
    "the nearest 5": nearest(5),
    "as it is, without the structure of T": by(recommend.expected, blind),
}


def main(args: argparse.Namespace) -> int:
    conditions = known(pd.read_parquet(args.results).to_dict("records"))
    sets = ", ".join(f"{n} of {d}" for d, n in Counter(k.dataset for k in conditions).items())
    told = f"{len(conditions)} conditions: {sets}.\n\n{judged(conditions)}\n\nOther rules, mean regret:\n\n{compared(conditions)}"
    if args.write is None:
        print(told)
        return 0
    before, _, rest = args.write.read_text(encoding="utf-8").partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        sys.exit(f"{args.write} has no {BEGIN} and {END} in it")
    args.write.write_text(f"{before}{BEGIN}\n\n{told}\n\n{END}{after}", encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="another table of results")
    p.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this page")
    return p


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
