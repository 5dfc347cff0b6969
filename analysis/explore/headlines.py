"""What a condition says, in a sentence: who is first, whether that is more than chance, and what it costs. Made from the tests alone."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from analysis import stats
from analysis.grid import Outcome, mean
from analysis.select import MAIN, Score, score, spent

BASELINE = "ce"
NAMED = 4  # methods that are named in a list; the others are counted


def first(row: Mapping[str, Outcome]) -> stats.Winner | None:
    """The first method of a condition, by replicates under MAIN; methods whose point was read off the truth aside. None: not measured."""
    return stats.winner({m: o.by_seed(MAIN) for m, o in row.items() if not o.oracle})


def summary(winners: Sequence[stats.Winner | None]) -> str:
    """Which method is first in how many conditions, and how often by more than chance; ``winners``: ``first`` of each condition.

    Most often first, first; of equals the one that is more often clear, then in the order in which they came.
    """
    found = [w for w in winners if w is not None]
    if not found:
        return f"{len(winners)} conditions, nothing has been measured yet."
    times, clear = Counter(w.method for w in found), Counter(w.method for w in found if w.clear)
    order = sorted(times, key=lambda m: (-times[m], -clear[m]))
    told = [f"{m} in {times[m]} ({clear[m]})" for m in order]
    bare = len(winners) - len(found)
    return (
        f"First in {len(found)} conditions (in brackets: in how many by more than chance against each other one): {listed(told)}."
        + (f" {bare} more {'has' if bare == 1 else 'have'} not been measured." if bare else "")
    )


def sentence(row: Mapping[str, Outcome]) -> str:
    """The sentence for one condition; ``row``: its outcomes by method.

    Methods whose point was read off the truth are neither first nor compared. Compared are replicates by seed under MAIN (paired t
    test, Holm); where fewer than two seeds are common to two methods nothing is said of chance.
    """
    honest = {m: o for m, o in row.items() if not o.oracle}
    best = first(row)
    starred = [m for m in row if row[m].oracle]
    aside = f" Not compared, points read off the truth: {listed(starred)}." if starred else ""
    if best is None:
        return "Nothing has been measured yet." + aside
    name = best.method
    told = f"{name} is first with {_percent(score(honest[name].tuned, MAIN))}"
    if not best.p:
        return f"{name}, alone, has {_percent(score(honest[name].tuned, MAIN))}.{aside}"
    equal = [m for m, p in best.p.items() if not math.isnan(p) and p >= stats.ALPHA]
    unsure = [m for m, p in best.p.items() if math.isnan(p)]
    behind = [m for m in best.p if m not in equal and m not in unsure]
    if best.clear:
        among = f"each of the {len(best.p)} others" if len(best.p) > 1 else next(iter(best.p))
        told += f": more than chance against {among} (p at most {max(best.p.values()):.2g}, Holm)"
    else:
        told += f", but {listed(equal)} cannot be told from it" if equal else ""
        told += f"; {listed(behind)} {'is' if len(behind) == 1 else 'are'} behind by more than chance" if behind else ""
        told += f"; too few common seeds to compare it with {listed(unsure)}" if unsure else ""
    return f"{told}.{_beside(honest, name)}{aside}"


def _beside(row: Mapping[str, Outcome], first: str) -> str:
    """Gain and cost of the best method beside plain cross-entropy."""
    if first == BASELINE or BASELINE not in row or not row[BASELINE].tuned:
        return ""
    gain = 100 * (score(row[first].tuned, MAIN).mean - score(row[BASELINE].tuned, MAIN).mean)
    if math.isnan(gain):
        return ""
    ours, plain = (mean(spent(t, "passes") for t in row[m].tuned) for m in (first, BASELINE))
    times = f", at {ours / plain:.2g} times its passes" if plain > 0 and ours > 0 else ""
    return f" {gain:+.1f} points beside {BASELINE}{times}."


def _percent(s: Score) -> str:
    return f"{100 * s.mean:.1f}" + ("" if math.isnan(s.std) else f" ± {100 * s.std:.1f}") + f" % (n = {s.n})"


def listed(names: Sequence[str]) -> str:
    """Names as a list for people: the first few, and how many more."""
    shown = list(names[:NAMED]) if len(names) > NAMED + 1 else list(names)
    more = [f"{len(names) - len(shown)} more"] if len(names) > len(shown) else []
    parts = shown + more
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
