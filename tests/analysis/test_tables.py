"""The tables of the terminal, on hand-made histories."""

import io
import math
import re
from array import array
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from analysis import leaderboard as board
from analysis.leaderboard import gain
from analysis.select import Score
from analysis.tables import leaderboard, percent, point, status
from raystudy.data.noise import Noise
from raystudy.design.study import Cell, Study
from raystudy.record.ledger import CellHistory, TrialHistory

LOW, HIGH = Noise("symmetric", 0.2), Noise("symmetric", 0.8)


def trial(
    number: int,
    origin: str,
    test: list[float],
    point: dict[str, Any],
    state: str = "complete",
    oracle: tuple[str, ...] = (),
) -> TrialHistory:
    """A trial whose noisy validation accuracy is half its test accuracy, at two seconds an epoch."""
    curves = {"test/acc": test, "val/acc": [v / 2 for v in test], "cost/seconds": [2.0] * len(test)}
    columns = {k: array("d", v) for k, v in curves.items()}
    times = array("q", range(len(test)))
    seed = number if origin == "replicate" else 0
    return TrialHistory(f"k{number}", number, origin, point, seed, oracle, state, times=times, curves=columns)


def history(cell: Cell, *trials: TrialHistory, rate: float = 0.18) -> CellHistory:
    return CellHistory(cell.key, {"effective_rate": rate}, {t.key: t for t in trials})


def study(**changes: Any) -> Study:
    told: dict[str, Any] = {"methods": ("ce", "dividemix", "coteaching"), "noises": (LOW, HIGH)}
    told |= {"name": "s", "datasets": ("digits",), "trials": 3, "replicates": 2, "epochs": 2, "network": "mlp"}
    return Study(**(told | changes))


def histories() -> dict[Cell, CellHistory]:
    """Three methods at a low rate, two at a high one of which one has only begun."""
    ce, dividemix, coteaching = (Cell(m, "digits", LOW) for m in ("ce", "dividemix", "coteaching"))
    ce_high, dividemix_high = (Cell(m, "digits", HIGH) for m in ("ce", "dividemix"))
    a, b, f = {"alpha": 4.0}, {"alpha": 8.0}, {"forget_rate": 0.2}
    return {
        ce: history(ce, trial(0, "paper", [0.5, 0.7], {})),
        dividemix: history(
            dividemix,
            trial(0, "paper", [0.6, 0.6], a),
            trial(1, "search", [0.9, 0.9], b),
            trial(2, "replicate", [0.96, 0.94], b),
            trial(3, "replicate", [0.90, 0.88], b),
            trial(4, "replicate", [0.70, 0.70], a),
            trial(5, "search", [0.2], a, "pruned"),
            trial(6, "search", [], a, "diverged"),
            trial(7, "search", [], a, "failed"),
            trial(8, "search", [0.1], a, "running"),
        ),
        coteaching: history(coteaching, trial(0, "paper", [0.7, 0.9], f, oracle=("forget_rate",))),
        ce_high: history(ce_high, trial(0, "paper", [0.2, 0.3], {}, "running"), rate=0.72),
        dividemix_high: history(dividemix_high, trial(0, "paper", [0.4, 0.5], a), rate=0.72),
    }


def lines(table: Table) -> list[str]:
    console = Console(width=200, no_color=True)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def row(table: Table, method: str, nth: int = 0) -> list[str]:
    """The cells of a method's row after its name."""
    line = [line for line in lines(table) if re.search(rf"(^|  ){re.escape(method)}  ", line)][nth]
    return re.split(r" {2,}", line.split(f"{method}  ", 1)[1].strip())


def test_leaderboard() -> None:
    table = leaderboard(study(), histories())
    header = next(line for line in lines(table) if "method" in line and "noisy_val" in line)
    assert header.split() == [
        "noise",
        "wrong",
        "method",
        "noisy_val",
        "last",
        "last10",
        "ORACLE",
        "gap",
        "n",
        "gain",
        "s/run",
    ]
    # DivideMix: replicates pick 0.96 and 0.90 (best), end at 0.94 and 0.88, mean 0.95 and 0.89; the paper point's replicate has 0.70.
    assert row(table, "dividemix") == ["93.0 ± 4.2", "91.0 ± 4.2", "92.0 ± 4.2", "93.0 ± 4.2", "0.0", "2", "+22.0", "4"]
    assert row(table, "coteaching*") == ["90.0", "90.0", "80.0", "90.0", "0.0", "1", "+0.0*", "4"]
    assert row(table, "ce") == ["70.0", "70.0", "60.0", "70.0", "0.0", "1", "+0.0", "4"]


def test_the_best_method_comes_first_and_the_unfinished_last() -> None:
    told = [line for line in lines(leaderboard(study(), histories())) if " % " in line]
    assert [re.search(r"\d+ % +(\S+)", line)[1] for line in told] == [
        "dividemix",
        "coteaching*",
        "ce",
        "dividemix",
        "ce",
    ]  # type: ignore[index]
    assert [re.search(r"(\d+) %", line)[1] for line in told] == ["18", "18", "18", "72", "72"]  # type: ignore[index]
    assert [line[:18].strip() for line in told] == ["symmetric 0.2", "", "", "symmetric 0.8", ""]
    assert row(leaderboard(study(), histories()), "ce", 1) == ["–", "–", "–", "–", "–", "0", "–", "–"]


def test_the_oracle_is_named_and_explained() -> None:
    text = " ".join(lines(leaderboard(study(), histories())))
    assert "oracle_test" not in text
    assert "ORACLE picks the epoch on the test set and is no result" in text
    assert "*: a point read off the truth" in text
    assert "dividemix*" not in text


def test_clean_validation_is_shown_with_its_size() -> None:
    told = histories()
    for h in told.values():
        for t in h.trials.values():
            t.curves["val/clean_acc"] = array("d", [-v for v in t.curves["test/acc"]])  # best where the test is worst
    assert "clean_val" not in " ".join(lines(leaderboard(study(), told)))
    table = leaderboard(study(clean_val=50), told)
    assert "clean_val(50)" in " ".join(lines(table))
    assert row(table, "dividemix")[3] == "91.0 ± 4.2"


def test_leaderboard_of_nothing() -> None:
    assert "s (digits): clean test accuracy" in lines(leaderboard(study(), {}))[0]


def test_status() -> None:
    table = status(study(), histories())
    assert "s: 3 trials a cell, 2 replicates" in lines(table)[0]

    def told(method: str, noise: Noise) -> list[str]:
        line = next(x for x in lines(table) if re.match(rf" *{method} +symmetric {noise.rate} ", x))
        return re.split(r" {2,}", line.strip())[2:]

    #        complete, pruned, diverged, failed, unfinished, epochs, best noisy val, chosen point
    assert told("dividemix", LOW) == ["5", "1", "1", "1", "1", "12", "45.0", "alpha=8"]
    assert told("ce", LOW) == ["1", "0", "0", "0", "0", "2", "35.0", "(no hyperparameters)"]
    assert told("ce", HIGH) == ["0", "0", "0", "0", "1", "2", "–", "–"]
    assert told("coteaching", HIGH) == ["0", "0", "0", "0", "0", "0", "–", "–"]  # not begun


def test_status_names_the_cells_whose_trainings_failed_early() -> None:
    assert "Collapsed" not in "\n".join(lines(status(study(), histories())))
    found = histories()
    cell = next(c for c in found if c.method == "dividemix" and c.noise == LOW)
    fallen = next(iter(found[cell].trials.values()))
    fallen.curves["method/collapsed"] = array("d", [math.nan, 1.0])
    text = " ".join(" ".join(lines(status(study(), found))).split())
    assert "Collapsed trials (one class predicted or all weights equal" in text
    assert f"dividemix symmetric {LOW.rate} (1 of {len(found[cell].trials)}: one class predicted)" in text
    told, cells = grid(5, 60)
    for c, h in cells.items():
        if c.method == "m01":
            next(iter(h.trials.values())).curves["method/collapsed"] = array("d", [math.nan, 1.0])
    assert "m01 (60 cells)" in " ".join(" ".join(printed(status(told, cells, 120, 40), 120)).split())


def test_a_share_near_1_is_not_written_as_1() -> None:
    told = {"m": 0.9999, "n": 1.0, "o": 0.99999, "p": 0.123456, "q": 123456.0, "r": 5e-4, "s": "soft"}
    assert point(told) == "m=0.9999, n=1, o=0.99999, p=0.123, q=1.23e+05, r=0.0005, s=soft"


def test_status_follows_the_objective() -> None:
    cell = Cell("ce", "digits", LOW)
    worse, better = trial(0, "paper", [0.9, 0.9], {"a": 1.0}), trial(1, "search", [0.5, 0.5], {"a": 2.0})
    for t, loss in ((worse, 0.7), (better, 0.3)):
        t.curves["val/loss"] = array("d", [loss, loss])
    told = study(methods=("ce",), noises=(LOW,), objective="val/loss")
    assert "a=2" in " ".join(lines(status(told, {cell: history(cell, worse, better)})))


def test_an_oracle_point_is_marked_where_it_is_shown() -> None:
    """After the method where the shown accuracies are its, after the gain where they are compared with it."""
    cell, f = Cell("coteaching", "digits", LOW), {"forget_rate": 0.2}
    first = trial(0, "paper", [0.6, 0.6], f, oracle=("forget_rate",))
    tuned = trial(1, "search", [0.8, 0.8], {"forget_rate": 0.3})
    table = leaderboard(study(), {cell: history(cell, first, tuned)})
    assert row(table, "coteaching")[-2] == "+20.0*"


def test_noise_is_told_apart() -> None:
    cells = [
        Cell("ce", "digits", Noise("symmetric", 0.2, v, seed=s)) for v in ("inclusive", "exclusive") for s in (0, 1)
    ]
    told = study(methods=("ce",), noises=tuple(c.noise for c in cells))
    h = {c: history(c, trial(0, "paper", [0.5, 0.7], {})) for c in cells}
    want = ["symmetric 0.2", "symmetric 0.2 seed 1", "symmetric exclusive 0.2", "symmetric exclusive 0.2 seed 1"]
    assert [re.split(" {2,}", x.strip())[0] for x in lines(leaderboard(told, h)) if " % " in x] == want
    assert [re.split(" {2,}", x.strip())[1] for x in lines(status(told, h)) if x.strip().startswith("ce ")] == want


def test_paths_are_not_markup() -> None:
    paths = ("npz:/data[/red]/[bold]x.npz", "digits")
    cell = Cell("ce", paths[0], LOW)
    h = {cell: history(cell, trial(0, "paper", [0.5, 0.7], {}))}
    for datasets in (paths[:1], paths):
        told = study(methods=("ce",), datasets=datasets, noises=(LOW,))
        assert paths[0] in " ".join(lines(leaderboard(told, h)))
    assert "npz:[bold]x.npz symmetric 0.2" in " ".join(lines(status(told, h)))


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (Score(0.9512, 0.00349, 3), "95.1 ± 0.3"),
        (Score(0.9512, math.nan, 1), "95.1"),
        (Score(math.nan, math.nan, 0), "–"),
        (Score(1.0, 0.0, 2), "100.0 ± 0.0"),
    ],
)
def test_percent(score: Score, text: str) -> None:
    assert percent(score) == text


def test_point() -> None:
    assert point({}) == "(no hyperparameters)"
    assert point({"lambda_u": 25.0, "alpha": 0.123456, "guess": "train", "loss_history": 5}) == (
        "lambda_u=25, alpha=0.123, guess=train, loss_history=5"
    )


@pytest.mark.parametrize("table", [leaderboard, status])
def test_a_long_name_of_a_data_set_leaves_room_for_the_numbers(table: Any) -> None:
    names = ("smoke:cnwl_mini_imagenet?size=299&root=somewhere/far/down", "digits")
    cell = Cell("dividemix", names[0], LOW)
    told = {cell: history(cell, trial(0, "paper", [0.6, 0.625], {"alpha": 4.0}))}
    console = Console(width=130, record=True, file=io.StringIO())
    console.print(table(study(datasets=names), told))
    text = console.export_text()
    assert "dividemix" in text
    assert "…" not in text
    assert ("62.5" if table is leaderboard else "31.2") in text


# -- what fits


WIDE = ("npz:/a/long/way/down/to/images.npz", "digits")


def printed(table: Table, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("table", [leaderboard, status])
def test_noise_and_method_are_whole_at_any_width(table: Any, width: int) -> None:
    methods = ("ce", "meta_learning", "mentornet_dd")
    told = study(methods=methods, datasets=WIDE, noises=(LOW, HIGH), clean_val=50)
    f = {"forget_rate": 0.2, "another": 1.23456, "one_more": 0.1}
    cells = {
        c: history(
            c,
            trial(0, "paper", [0.6, 0.625], f),
            trial(1, "replicate", [0.612, 0.644], f),
            trial(2, "replicate", [0.5, 0.5], f),
        )
        for c in told.cells()
    }
    text = printed(table(told, cells, width), width)
    assert max(map(len, text)) <= width
    rows = [line for line in text if re.search(r" (ce|meta_learning|mentornet_dd) ", line)]
    assert len(rows) == len(cells)
    for name in WIDE:
        for rate in ("0.2", "0.8"):
            assert [line for line in text if f"{name.replace('/a/long/way/down/to/', '')} symmetric {rate} " in line]
    assert not [line for line in text if "…" in line]
    if width == 160:  # what there is room for is shown
        assert re.search(
            "last.*last10.*ORACLE.*gap.*n.*gain" if table is leaderboard else "complete.*epochs.*chosen point",
            " ".join(text),
        )


def test_what_is_left_out_is_named() -> None:
    text = " ".join(printed(leaderboard(study(), histories(), 60), 60))
    assert re.search(r"Left out for want of room: wrong, .*s/run", text)
    assert "wrong: share" not in text  # no legend of a column that is not there
    assert "Left out" not in " ".join(printed(leaderboard(study(), histories(), 160), 160))


def test_full_paths_stand_once() -> None:
    told = study(methods=("ce",), datasets=WIDE, noises=(LOW, HIGH))
    cells = {c: history(c, trial(0, "paper", [0.6, 0.7], {})) for c in told.cells()}
    text = "".join(
        line.strip() for line in [*printed(status(told, cells), 160), *printed(leaderboard(told, cells), 160)]
    )
    assert text.count(WIDE[0]) == 1
    assert "npz:images.npz is npz:/a/long/way/down/to/images.npz" in text


# -- the short form


def grid(methods: int, rates: int) -> tuple[Study, dict[Cell, CellHistory]]:
    """A finished study of so many cells, in which a method is the better the later it comes; ce is the worst."""
    names = ("ce", *(f"m{i:02}" for i in range(1, methods)))
    told = study(methods=names, noises=tuple(Noise("symmetric", (r + 1) / 100) for r in range(rates)))
    return told, {
        c: history(c, trial(0, "paper", [0.3 + 0.01 * names.index(c.method) - c.noise.rate / 4] * 2, {}))
        for c in told.cells()
    }


def test_many_cells_are_told_on_a_screen() -> None:
    told, cells = grid(30, 20)
    text = printed(leaderboard(told, cells, 120, 40), 120)
    rows = [line for line in text if re.search(r" (ce|m\d\d)\*? ", line)]
    assert len(rows) == 40
    assert len(text) < 80
    assert [re.search(r" (ce|m\d\d) ", line)[1] for line in rows] == ["m29", "ce"] * 20  # type: ignore[index]
    assert "40 of 600 rows" in " ".join(text)
    assert "raystudy status s --all" in " ".join(text)
    assert "raystudy report s" in " ".join(text)
    assert (
        len([line for line in printed(leaderboard(told, cells, 120), 120) if re.search(r" (ce|m\d\d) ", line)]) == 600
    )


def test_very_many_conditions_are_told_by_their_means() -> None:
    told, cells = grid(5, 60)
    table = leaderboard(told, cells, 120, 40)
    rows = [line for line in printed(table, 120) if re.search(r" (ce|m\d\d) ", line)]
    assert [re.search(r" (ce|m\d\d) ", line)[1] for line in rows] == ["m04", "m03", "m02", "m01", "ce"]  # type: ignore[index]
    assert all("60 conditions" in line for line in rows)
    # 0.34 less a quarter of the mean rate, 0.305
    assert row(table, "m04")[0] == "26.4"


def test_a_mean_is_not_starred_for_one_of_its_levels() -> None:
    """Two of m01's sixty points were read off the truth, all of m02's."""
    told, cells = grid(3, 60)
    for cell, found in cells.items():
        if cell.method == "m02" or (cell.method == "m01" and cell.noise.rate < 0.025):
            found.trials["k0"] = trial(0, "paper", [0.3, 0.3], {"x": 1}, oracle=("x",))
    text = printed(leaderboard(told, cells, 120, 40), 120)
    assert [re.search(r" (ce|m\d\d\*?) ", line)[1] for line in text if "60 conditions" in line] == ["m02*", "m01", "ce"]  # type: ignore[index]
    assert "Points read off the truth are in the means of m01 (2), in so many conditions." in " ".join(
        line.strip() for line in text
    )


def test_status_of_many_cells_is_summed() -> None:
    told, cells = grid(30, 20)
    by_condition = [line for line in printed(status(told, cells, 120, 40), 120) if "30 methods" in line]
    assert len(by_condition) == 20
    assert re.split(" {2,}", by_condition[0].strip())[:3] == ["30 methods", "symmetric 0.01", "30"]
    told, cells = grid(5, 60)
    text = printed(status(told, cells, 120, 40), 120)
    assert [line.split()[0] for line in text if "60 conditions" in line] == ["ce", "m01", "m02", "m03", "m04"]
    assert "raystudy status s --all" in " ".join(text)


def test_a_study_that_fits_is_shown_whole() -> None:
    assert printed(leaderboard(study(), histories(), most=40), 160) == printed(leaderboard(study(), histories()), 160)
    assert printed(status(study(), histories(), most=40), 160) == printed(status(study(), histories()), 160)


# -- as data


def test_gain_is_the_chosen_point_less_the_published_one() -> None:
    cell = Cell("ce", "digits", LOW)
    tuned, published = (
        [trial(1, "replicate", [0.8, 0.9], {}), trial(2, "replicate", [0.8, 0.7], {})],
        [trial(3, "replicate", [0.5, 0.7], {})],
    )
    assert gain(tuned, published) == pytest.approx(0.8 - 0.6)
    assert math.isnan(gain([], published))
    (line,) = board.lines(study(), {cell: history(cell, trial(0, "paper", [0.5, 0.7], {}))})[0]
    assert (line.cell, line.wrong, line.n, line.gain, line.seconds) == (cell, 0.18, 1, 0.0, 4.0)
