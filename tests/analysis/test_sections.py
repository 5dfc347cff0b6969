"""What the sections of a report say: who is bold, who is starred, and which tests are left out."""

from array import array
from pathlib import Path

import recorded

from analysis.material import Material, Plot, gathered
from analysis.sections import cost, results, statistics, training
from analysis.sheets import Sheet, Value
from raystudy.record import usage


def material(
    folder: Path, rates: tuple[float, ...] = (0.2, 0.5, 0.8), methods: tuple[str, ...] = ("ce", "dividemix", "elr")
) -> Material:
    """A study in which methods named later are clearly better; of the best, the point at the first rate was read off the truth."""
    recorded.write(folder, methods, rates=rates, trials=2, replicates=4, arrays=False)
    told = gathered(folder)
    for o in told.outcomes:
        place = methods.index(o.cell.method)
        for t in o.history.trials.values():
            accuracy = 0.5 + 0.1 * place - o.cell.noise.rate / 5 + 0.001 * t.seed * (place + 1)
            t.curves["test/acc"] = array("d", [accuracy] * t.epochs)
            t.oracle = ("tau",) if place == len(methods) - 1 and o.cell.noise.rate == rates[0] else ()
    return told


def sheet(items: list[object], name: str) -> Sheet:
    return next(i for i in items if isinstance(i, Sheet) and i.name.startswith(name))


def test_stars_are_of_a_level_and_bold_goes_to_the_best_that_is_a_result(tmp_path: Path) -> None:
    told = sheet(list(results.items(material(tmp_path / "s"))), "leaderboard-last10")
    rows = {str(row[0]): [v for v in row[1:] if isinstance(v, Value)] for row in told.rows}
    assert set(rows) == {"ce", "dividemix", "elr"}  # no method is starred as a whole
    assert [v.text.endswith("*") for v in rows["elr"]] == [True, False, False]
    assert not [v for m in ("ce", "dividemix") for v in rows[m] if "*" in v.text]
    assert [v.bold for v in rows["elr"]] == [False, True, True]
    assert [v.bold for v in rows["dividemix"]] == [True, False, False]  # at 0.2 the best without a star
    assert float(rows["elr"][0].number) > float(rows["dividemix"][0].number)
    assert "read off the truth" in told.note
    assert {(r["method"], r["rate"]) for r in told.long if r["oracle_point"]} == {("elr", 0.2)}


def test_an_oracle_number_is_not_compared(tmp_path: Path) -> None:
    told = sheet(list(statistics.items(material(tmp_path / "s"))), "intervals")
    at = {(str(row[0]), str(row[1])): row for row in told.rows}
    starred, best = at["digits symmetric:0.2", "elr*"], at["digits symmetric:0.2", "dividemix"]
    assert starred[-1] == Value("–", "")
    assert isinstance(best[2], Value)
    assert best[2].bold
    assert best[-1] == Value("best")


def test_figures_say_which_of_their_numbers_are_oracle(tmp_path: Path) -> None:
    items = list(results.items(material(tmp_path / "s")))
    plot = next(i for i in items if isinstance(i, Plot))
    assert "ORACLE, points read off the truth: elr at 0.2." in plot.text


def test_a_test_that_cannot_find_anything_is_left_out_and_says_why(tmp_path: Path) -> None:
    items = list(statistics.items(material(tmp_path / "s")))
    pairs = next(i for i in items if getattr(i, "name", "") == "pairs")
    assert isinstance(pairs, Plot)
    assert pairs.figure is None
    assert (
        "the smallest p that 3 conditions can reach is 0.25, 0.75 after Holm's correction over 3 pairs" in pairs.absent
    )
    ranks = next(i for i in items if getattr(i, "name", "") == "ranks")
    assert isinstance(ranks, Plot)
    assert "p = 0.028" in ranks.text  # of one order in all three conditions: 1/36, and no less


def test_two_methods_over_few_conditions_have_no_test_at_all(tmp_path: Path) -> None:
    items = list(statistics.items(material(tmp_path / "s", methods=("ce", "elr"))))
    ranks = next(i for i in items if isinstance(i, Plot) and i.name == "ranks")
    assert "p =" not in ranks.text
    assert "Wilcoxon" not in ranks.text


def test_pairs_are_tested_where_a_difference_can_show(tmp_path: Path) -> None:
    rates = tuple(r / 20 for r in range(1, 9))
    told = material(tmp_path / "s", rates, ("ce", "elr"))
    pairs = sheet(list(statistics.items(told)), "pairs")
    assert isinstance(pairs.rows[0][-1], Value)
    assert pairs.rows[0][-1].number == 2 / 2**8  # all eight of one sign


def test_trials_that_failed_early_are_named(tmp_path: Path) -> None:
    told = material(tmp_path / "s")
    assert not [i for i in training.items(told) if isinstance(i, Sheet)]
    fallen = next(o for o in told.outcomes if o.cell.method == "elr" and o.cell.noise.rate == 0.5)
    for trial, first in zip(fallen.tuned[:2], (2, 3), strict=True):
        trial.curves["method/collapsed"] = array("d", [float("nan")] * first + [2.0] * (trial.epochs - first))
    (row,) = sheet(list(training.items(told)), "collapsed").rows
    assert [v.text if isinstance(v, Value) else v for v in row] == [
        "digits symmetric:0.5",
        "elr",
        "all weights equal (as if nothing were weighed)",
        f"2 of {len(fallen.history.trials)}",
        f"2 of {len(fallen.tuned)}",
        "3",
    ]


def test_places_are_told_where_a_driver_told_of_them(tmp_path: Path) -> None:
    """Without that, what trained is known by the records, and how many places there were is not."""
    told = material(tmp_path / "s", rates=(0.2,), methods=("ce",))
    assert not [i for i in cost.items(told) if isinstance(i, Sheet) and i.name == "places"]
    (plot,) = (i for i in cost.items(told) if isinstance(i, Plot) and i.name == "places")
    assert plot.figure is not None
    assert "no driver of this study told" in plot.text
    usage.append(usage.file_of(told.folder, 0), usage.Span(10_000, 10, places=7200, busy=3600, waiting=3600, died=360))
    rows = {
        str(row[0]): [v.text for v in row[1:] if isinstance(v, Value)]
        for row in sheet(list(cost.items(told)), "places").rows
    }
    assert rows["there were"] == ["2.000", "100.0"]
    assert rows["idle: proposals wait for results"] == ["1.000", "50.0"]
    assert rows["lost: since the last record of a worker that died"] == ["0.100", "5.0"]
