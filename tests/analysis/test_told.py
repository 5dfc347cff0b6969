"""docs/results.md says what the reference studies say: its tables are those of the command, and each sentence with a number is here."""

import importlib.util
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from analysis import stats
from analysis.findings import peeking
from analysis.select import MAIN, score, spent

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> Any:
    """benchmarks/reference.py."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "benchmarks" / "reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def study(reference: Any) -> Any:
    return reference.read()


@pytest.fixture(scope="module")
def rows(study: Any) -> dict[tuple[str, str], Any]:
    """The methods' outcomes under each condition, by kind of noise and level."""
    return {(g.title.rpartition(", ")[2], level): row for g in study[0] for level, row in g.levels.items()}


SYMMETRIC, HUMAN, ASYMMETRIC = "symmetric inclusive", "given", "asymmetric cifar10"


def percent(rows: Any, kind: str, level: str, method: str, rule: str = MAIN) -> float:
    return round(100 * score(rows[kind, level][method].tuned, rule).mean, 1)


def test_the_tables_are_those_of_the_command(reference: Any) -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert reference.filled(page, reference.blocks()) == page


def test_dividemix_is_first_but_for_two(reference: Any, study: Any, rows: Any) -> None:
    found = reference.ranking(study[1])
    assert found.methods[:2] == ["dividemix", "dropout"]
    assert round(found.ranks[0], 1) == 3.0
    assert (len(found.methods), found.n) == (18, 21)
    against = {b: p for (a, b), p in found.pairs.items() if a == "dividemix"}
    assert {m for m, p in against.items() if p >= 0.05} == {"dropout", "coteaching"}
    assert round(against["dropout"], 2) == 0.78
    assert round(against["coteaching"], 3) == 0.062
    assert max(p for p in against.values() if p < 0.05) < 0.0235
    best = [stats.winner({m: o.by_seed(MAIN) for m, o in row.items() if not o.oracle}) for row in rows.values()]
    assert [w.method for w in best if w].count("dividemix") == 11
    assert [where for where, w in zip(rows, best, strict=True) if w and w.clear] == [(SYMMETRIC, "0.4")]


def test_dropout_until_it_breaks_down(rows: Any) -> None:
    for level in ("0", "0.1", "0.2"):
        best = max(percent(rows, SYMMETRIC, level, m) for m in rows[SYMMETRIC, level])
        assert percent(rows, SYMMETRIC, level, "dropout") >= best - 0.4
    passes = {
        m: fmean(spent(t, "passes") for row in rows.values() for t in row[m].tuned) for m in ("dropout", "dividemix")
    }
    assert round(passes["dividemix"] / passes["dropout"]) == 7
    assert [percent(rows, SYMMETRIC, "0.8", m) for m in ("dropout", "dividemix")] == [34.5, 61.1]


def test_single_numbers(rows: Any) -> None:
    told = {
        (SYMMETRIC, "0"): {"ce": 71.6, "dividemix": 71.6, "dropout": 73.4},
        (SYMMETRIC, "0.8"): {"m_correction": 58.3, "elr": 56.4, "coteaching": 54.2, "ce": 27.3},
        (HUMAN, "0.05"): {"ce": 70.3, "coteaching": 72.8},
        (HUMAN, "0.4"): {"ce": 56.8, "dividemix": 68.4},
        (ASYMMETRIC, "0.2"): {"ce": 67.5, "mentornet_dd": 70.7},
    }
    for (kind, level), numbers in told.items():
        assert {m: percent(rows, kind, level, m) for m in numbers} == numbers
    best = {
        where: max(percent(rows, *where, m) for m in row) - percent(rows, *where, "ce") for where, row in rows.items()
    }
    assert [round(best[HUMAN, level], 1) for level in ("0.05", "0.1", "0.2", "0.4")] == [2.5, 3.9, 6.4, 11.6]
    assert [round(best[ASYMMETRIC, level], 1) for level in ("0.2", "0.4")] == [3.2, 5.1]
    order = sorted(rows[SYMMETRIC, "0.8"], key=lambda m: -percent(rows, SYMMETRIC, "0.8", m))
    assert order[:4] == ["dividemix", "m_correction", "elr", "coteaching"]
    assert round(100 * score(rows[SYMMETRIC, "0.9"]["dividemix"].tuned, MAIN).std) == 5


def test_peeking(study: Any, rows: Any) -> None:
    gains = {
        m: [fmean(g) for g in zip(*(peeking(o.history).gains for o in of), strict=True)] for m, of in study[1].items()
    }
    searched = {m: [round(100 * v, 1) for v in g] for m, g in gains.items() if m != "ce"}
    for i, (low, high) in enumerate(((0.4, 1.4), (0.3, 1.1), (0.6, 1.8))):
        assert (min(g[i] for g in searched.values()), max(g[i] for g in searched.values())) == (low, high)
    order = sorted(gains, key=lambda m: gains[m][2])
    assert set(order[:2]) == {"dividemix", "m_correction"}
    assert set(order[-2:]) == {"bootstrap", "dropout"}
    ranks = {}
    for which in ("honest", "both"):
        found = stats.ranking({m: [getattr(peeking(o.history), which) for o in of] for m, of in study[1].items()})
        assert found
        ranks[which] = [(m, round(r, 1)) for m, r in zip(found.methods, found.ranks, strict=True)]
    assert ranks["honest"][0] == ("dividemix", 4.4)
    assert ("dropout", 5.2) in ranks["honest"]
    assert ranks["both"][:2] == [("dropout", 4.0), ("dividemix", 4.4)]
    assert [percent(rows, SYMMETRIC, "0.5", "ce", rule) for rule in ("last", "oracle_test")] == [48.8, 62.3]


def test_tuning(reference: Any, study: Any) -> None:
    gains = {m: [score(o.tuned, MAIN).mean - score(o.published, MAIN).mean for o in of] for m, of in study[1].items()}
    assert {m for m, g in gains.items() if m != "ce" and stats.interval(g)[1] < 0} == {"mixup", "focal"}
    tuned = reference.ranking(study[1])
    published = stats.ranking({m: [score(o.published, MAIN).mean for o in of] for m, of in study[1].items()})
    assert published
    ranks = [dict(zip(r.methods, r.ranks, strict=True)) for r in (tuned, published)]
    assert round(reference.agreement(*ranks).tau, 2) == 0.67


def test_published_orders(reference: Any, study: Any) -> None:
    symmetric = next(g for g in study[0] if g.title.endswith(SYMMETRIC))
    lines = [line.strip("| ").split(" | ") for line in reference.orders(symmetric).splitlines()[2:]]
    holds = {}
    for published, statistic, _, *cells, _ in lines:
        low = [float(c.partition("(")[2].partition(" to")[0]) if c.strip() else math.nan for c in cells]
        holds[published, statistic] = [
            level for level, v in zip(("0.2", "0.4", "0.5", "0.8", "0.9"), low, strict=True) if v > 0
        ]
    assert holds["DivideMix, Table 1, preact-resnet-18", "last"] == ["0.2", "0.5", "0.8", "0.9"]
    assert holds["DivideMix, Table 1, preact-resnet-18", "best"] == ["0.5", "0.8"]
    assert holds["MentorNet, Table 2, inception", "reported"] == ["0.2", "0.4"]
    assert holds["MentorNet, Table 2, resnet-101", "reported"] == []


def test_memorisation(reference: Any) -> None:
    groups = reference.grouped(*reference.ledgers.read(reference.KEPT / "memorisation.parquet"))
    times = {
        (g.title.rpartition(", ")[2], level): [reference.fitted(t.curves["train/loss"], 10) for t in row["ce"].tuned]
        for g in groups
        for level, row in g.levels.items()
    }
    assert all(len(t) == 3 and max(t) < 60 for t in times.values())
    mean = {name: fmean(t) for name, t in times.items()}
    corrupted = [mean[SYMMETRIC, level] for level in ("0", "0.2", "0.4", "0.6", "0.8")]
    assert corrupted == sorted(corrupted)
    labels, pixels, normal, order = (
        next(v for (kind, _), v in mean.items() if kind == name)
        for name in ("random_labels", "random_pixels", "gaussian_pixels", "shuffled_pixels")
    )
    assert round(labels / mean[SYMMETRIC, "0"], 1) == 2.6
    assert [round(v) for v in (normal, pixels, labels)] == [18, 21, 34]
    assert [round(order), round(mean[SYMMETRIC, "0"])] == [8, 13]
