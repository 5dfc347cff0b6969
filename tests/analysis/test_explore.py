"""The first tab of a report: its sentences, its data, and the page in a real browser."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recorded
from browser import chromium, missing

from analysis import page, report, tables, words
from analysis.explore import headlines, tab
from analysis.explore.data import curves, explored, kept, rounded
from analysis.grid import Outcome
from analysis.material import gathered
from analysis.select import MAIN, score
from analysis.stats import Winner
from raystudy.data.noise import Noise
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory, TrialHistory


def outcome(method: str, values: dict[int, float], oracle: bool = False, passes: float = 10.0) -> Outcome:
    """A cell of one-epoch replicates with these accuracies by seed."""
    cell = Cell(method, "digits", Noise("symmetric", 0.5))
    history = CellHistory(cell.key)
    history.header = {"effective_rate": 0.45}
    trials = []
    for seed, v in values.items():
        t = TrialHistory(f"{method}{seed}", seed, "replicate", {}, seed, ("rate",) if oracle else (), "complete")
        t.add([{"test/acc": v, "val/acc": v, "cost/passes": passes}], [0])
        trials.append(t)
    return Outcome(cell, history, trials[0] if trials else None, None, trials, [], "digits symmetric:0.5")


def rows(**named: Outcome) -> dict[str, Outcome]:
    return named


def test_a_method_that_beats_every_other_one_is_said_to_with_the_largest_p() -> None:
    told = headlines.sentence(
        rows(
            ce=outcome("ce", {1: 0.50, 2: 0.51, 3: 0.52}),
            elr=outcome("elr", {1: 0.80, 2: 0.812, 3: 0.819}, passes=20.0),
        )
    )
    # Differences .30, .302, .299: t = .30033 / (.001528 / sqrt 3) = 340, two-sided p of 2 degrees 8.6e-6
    assert told == (
        "elr is first with 81.0 ± 1.0 % (n = 3): more than chance against ce (p at most 8.6e-06, Holm). "
        "+30.0 points beside ce, at 2 times its passes."
    )


def test_methods_that_cannot_be_told_apart_are_named() -> None:
    told = headlines.sentence(
        rows(
            ce=outcome("ce", {1: 0.50, 2: 0.51, 3: 0.52}),
            elr=outcome("elr", {1: 0.80, 2: 0.812, 3: 0.819}),
            gce=outcome("gce", {1: 0.82, 2: 0.79, 3: 0.80}),
            sop=outcome("sop", {9: 0.70}),
        )
    )
    assert "elr is first" in told
    assert "but gce cannot be told from it" in told
    assert "ce is behind by more than chance" in told
    assert "too few common seeds to compare it with sop" in told


def test_points_read_off_the_truth_win_nothing_and_are_named() -> None:
    told = headlines.sentence(
        rows(ce=outcome("ce", {1: 0.5, 2: 0.6}), coteaching=outcome("coteaching", {1: 0.9, 2: 0.91}, oracle=True))
    )
    assert told.startswith("ce, alone, has 55.0")
    assert told.endswith("Not compared, points read off the truth: coteaching.")


def test_nothing_measured_is_said() -> None:
    assert headlines.sentence(rows(ce=outcome("ce", {}))) == "Nothing has been measured yet."


def test_a_summary_counts_who_is_first_and_how_often_by_more_than_chance() -> None:
    clear, tie = Winner("elr", {"ce": 0.01, "sop": 0.04}), Winner("elr", {"ce": 0.01, "sop": 0.2})
    other = Winner("sop", {"ce": 0.01, "elr": 0.03})
    assert headlines.summary([tie, other, clear, Winner("ce", {})]) == (
        "First in 4 conditions (in brackets: in how many by more than chance against each other one): "
        "elr in 2 (1), sop in 1 (1) and ce in 1 (0)."
    )
    assert headlines.summary([other, None]).endswith("sop in 1 (1). 1 more has not been measured.")
    assert headlines.summary([None, None]) == "2 conditions, nothing has been measured yet."


def test_the_sentences_of_many_conditions_are_folded_behind_their_summary(folders: list[Path]) -> None:
    data = explored([gathered(folders[0])])
    assert "<details>" not in tab.section(data)
    (group,) = data["groups"]
    group["said"] *= 3  # nine conditions
    text = tab.section(data)
    assert text.count("<details>") == 1
    assert f"<summary>{group['summary']}</summary><ul>" in text
    assert text.count("<li>") == 9  # all of them are there, without a script, too
    assert data["summary"] == group["summary"].replace("9", "3")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a"], "a"),
        (["a", "b"], "a and b"),
        (list("abcde"), "a, b, c, d and e"),
        (list("abcdefg"), "a, b, c, d and 3 more"),
    ],
)
def test_lists_for_people(names: list[str], told: str) -> None:
    assert headlines.listed(names) == told


def test_a_curve_has_the_epochs_that_were_measured_and_the_range_of_the_trials() -> None:
    trials = []
    for shift in (0.0, 0.2):
        t = TrialHistory("k", 0, "replicate", {}, 0)
        t.add(
            [{"test/acc": 0.5 + shift, "label/memorised": 0.1}, {"val/acc": 0.1}, {"test/acc": 0.6 + shift}], [0, 0, 0]
        )
        trials.append(t)
    found = curves(trials, known=False)
    assert found["test/acc"] == [[1, 60.0, 50.0, 70.0], [3, 70.0, 60.0, 80.0]]
    assert "label/memorised" not in found  # nobody knows which labels are wrong
    assert curves(trials, known=True)["label/memorised"] == [[1, 10.0, 10.0, 10.0]]


def test_numbers_of_the_page() -> None:
    assert rounded(math.nan) is None
    assert rounded(0.123456) == 0.1235
    assert rounded(1234567.0) == 1234567.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("studies")
    recorded.write(root / "one", ("ce", "elr", "dividemix"), trials=9, epochs=12)
    recorded.write(root / "two", ("ce", "sop"), trials=3, epochs=12)
    return [root / "one", root / "two"]


def test_the_data_are_what_the_leaderboard_says(folders: list[Path]) -> None:
    material = gathered(folders[0])
    data = explored([material])
    assert len(data["cells"]) == 9
    assert len(data["trials"]) == sum(len(h.trials) for h in material.histories.values())
    for o in material.outcomes:
        (cell,) = [c for c in data["cells"] if (c["method"], c["level"]) == (o.cell.method, f"{o.cell.noise.rate:g}")]
        assert cell["scores"]["acc"][MAIN][0] == rounded(100 * score(o.tuned, MAIN).mean)
        assert cell["point"] == (tables.point(o.best.point) if o.best else "")
        assert ("beside" in cell["scores"]) == (o.cell.method != "ce")
    json.dumps(data, allow_nan=False)


def test_a_point_in_the_page_is_the_values_in_the_order_of_its_cells_names(folders: list[Path]) -> None:
    material = gathered(folders[0])
    data = explored([material])
    trials = [t for o in material.outcomes for t in o.history.trials.values()]
    cells = {c["id"]: c["names"] for c in data["cells"]}
    told = [{k: v for k, v in zip(cells[t[0]], t[10], strict=True) if v is not None} for t in data["trials"]]
    assert sorted(map(str, told)) == sorted(
        str({k: rounded(v) if isinstance(v, float) else v for k, v in t.point.items()}) for t in trials
    )


def test_of_too_many_trials_the_chosen_and_the_longest_are_in_the_page() -> None:
    def trial(n: int, origin: str, epochs: int, chosen: int = 0) -> list[object]:
        return [0, n, origin, "pruned", 0, 0.5, 0.5, epochs, 1.0, "", [], chosen]

    trials = [trial(0, "paper", 1), trial(1, "search", 3), trial(2, "search", 9), trial(3, "search", 2, 1)]
    trials += [trial(4, "replicate", 1), trial(5, "search", 8)]
    assert [t[1] for t in kept(trials, 6)] == [0, 1, 2, 3, 4, 5]
    assert [t[1] for t in kept(trials, 4)] == [0, 2, 3, 4]


@pytest.mark.slow
def test_the_page_of_a_large_study_is_under_6_mb(tmp_path: Path) -> None:
    recorded.write(tmp_path / "s", ("ce", "elr"), (0.5,), trials=3000, replicates=2, epochs=1, arrays=False)
    section = report._overview([gathered(tmp_path / "s")], "lead")
    pictures = [page.Picture(f"curves-{i}", "title", "text", bytes(50_000)) for i in range(100)]
    sections = [section, page.Section("training", "Training", "lead", pictures)]
    assert len(page.document("s", sections).encode()) > 7e6
    text = page.within("s", sections)
    assert 5.8e6 < len(text.encode()) < 6e6
    assert '"recorded":3005' in text


def test_a_study_of_labels_that_nobody_checked_has_a_whole_report(tmp_path: Path) -> None:
    """Its trainings leave the losses of all labels together (``all``), and no transition matrix."""
    recorded.write(tmp_path / "s", ("ce", "elr"), (0.5,))
    for ledger in (tmp_path / "s" / "cells").iterdir():
        ledger.write_text(ledger.read_text().replace('"effective_rate": 0.45', '"effective_rate": null'))
    for left in (tmp_path / "s" / "arrays").iterdir():
        with np.load(left) as held:
            arrays = {name: held[name] for name in held.files if name != "transition"}
        arrays["all"] = arrays.pop("clean") + arrays.pop("wrong")
        np.savez(left, **arrays)
    data = explored([gathered(tmp_path / "s")])
    told = [c["losses"] for c in data["cells"]]
    assert [set(losses) for losses in told] == [{"edges", "all"}] * 2
    assert all(sum(losses["all"]) == 1200 for losses in told)
    report.build(tmp_path / "s", tmp_path / "report")
    assert (tmp_path / "report" / "index.html").stat().st_size > 100_000


def test_levels_are_in_the_order_of_their_rates(folders: list[Path]) -> None:
    material = gathered(folders[0])
    for group in material.groups:  # as of a study that began with the highest
        turned = dict(reversed(group.levels.items()))
        group.levels.clear()
        group.levels.update(turned)
    for group in explored([material])["groups"]:
        rates = dict(group["levels"])
        assert len(rates) > 1
        assert list(rates.values()) == sorted(rates.values())
        assert [level for _, level, _ in group["said"]] == list(rates)


def test_what_a_study_says_cannot_end_the_script_that_holds_it(folders: list[Path]) -> None:
    data = explored([gathered(folders[0])])
    data["trials"][0][9] = "</script><script>alert(1)</script><!--"
    text = tab.section(data)
    assert text.count("</script>") == 1
    held = re.search(r'<script type="application/json" id="explored">(.*?)</script>', text, re.S)
    assert held is not None
    assert json.loads(held[1]) == data


def test_several_studies_stand_in_one_page(folders: list[Path], tmp_path: Path) -> None:
    files = report.build(folders[0], tmp_path / "both", folders[1:])
    assert files[0] == tmp_path / "both" / "index.html"
    text = (tmp_path / "both" / "report.md").read_text()
    assert "## one" in text
    assert "## two" in text
    assert "(two): " in text
    names = [f.name for f in files if f.suffix == ".csv"]
    assert len(names) == len(set(names))
    with pytest.raises(InputError, match="there is no study"):
        report.build(folders[0], tmp_path / "none", [tmp_path / "nothing"])
    assert not (tmp_path / "none").exists()


def test_the_first_tab_names_the_filter_of_each_study(folders: list[Path], tmp_path: Path) -> None:
    plain, filtered = tmp_path / "two", tmp_path / "filtered"
    for folder in (plain, filtered):
        shutil.copytree(folders[1], folder)
    told = Study.from_toml(plain / "study.toml")
    (filtered / "study.toml").write_text(replace(told, name="filtered", filter="simifeat").to_toml())
    data = explored([gathered(plain), gathered(filtered)])
    assert data["studies"] == ["two", "filtered (filter simifeat)"]
    assert "<em>filtered (filter simifeat)</em>" in tab.section(data)
    material = gathered(filtered)
    assert "Before every method: simifeat." in words.begun(
        material.study, material.histories
    )  # the head of a single one


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_page_is_explored_by_mouse_and_keyboard(folders: list[Path], tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    path = tmp_path / "page.html"
    path.write_text(page.document("both", [report._overview([gathered(f) for f in folders], "lead")]))
    assert path.stat().st_size < 6e6
    with chromium(tmp_path / "profile") as driver:
        wait = WebDriverWait(driver, 60)
        driver.get(path.as_uri())
        wait.until(lambda d: d.find_elements("css selector", "#ex-rates svg"))
        buttons = driver.find_elements("css selector", "#ex-map td button")
        assert len(buttons) == 15  # three methods and two, at three levels
        assert all("n 3" in b.get_attribute("aria-label") or "n 1" in b.get_attribute("aria-label") for b in buttons)
        buttons[0].send_keys(Keys.ENTER)  # a cell by keyboard
        wait.until(lambda d: len(d.find_elements("css selector", "#ex-cell svg")) >= 3)
        assert driver.find_elements("css selector", "#ex-map button[aria-pressed=true]")
        assert driver.switch_to.active_element.get_attribute("id") == "ex-cell-title"
        Select(driver.find_element("id", "ex-metric")).select_by_visible_text("seconds of a training")
        assert "Seconds" in driver.find_element("id", "ex-map-title").text
        assert not driver.find_element("id", "ex-rule").is_enabled()
        Select(driver.find_element("id", "ex-study")).select_by_visible_text("two")
        assert len(driver.find_elements("css selector", "#ex-map td button")) == 6
        box = driver.find_element("id", "ex-filter")
        box.send_keys("sop paper")
        assert driver.find_element("id", "ex-count").text.startswith("3 of ")
        box.clear()
        box.send_keys("elr search")
        head = next(h for h in driver.find_elements("css selector", "#ex-trials th") if h.text.startswith("objective"))
        head.find_element("tag name", "button").click()
        head = next(h for h in driver.find_elements("css selector", "#ex-trials th") if h.text.startswith("objective"))
        assert head.get_attribute("aria-sort") == "ascending"
        place = driver.execute_script("return arguments[0].cellIndex", head)
        told = [
            float(r.find_elements("tag name", "td")[place].text)
            for r in driver.find_elements("css selector", "#ex-trials tbody tr")
        ]
        assert len(told) == 24  # trial 0 is the published point
        assert told == sorted(told)
        point = driver.find_element("css selector", "#ex-rates svg path[aria-roledescription=point]")
        assert "sop" in point.get_attribute("aria-label") or "ce" in point.get_attribute("aria-label")
        assert [e for e in driver.get_log("browser") if e["level"] == "SEVERE"] == []
