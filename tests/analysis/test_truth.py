"""Truth that nobody knows is never shown as truth: in tables, figures, CSV, LaTeX and page."""

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recorded

from analysis import report, truth
from analysis.figures import training as figures
from analysis.grid import grouped
from analysis.leaderboard import frame
from analysis.load import study as load
from analysis.material import Plot, gathered
from analysis.sections import results, selection, statistics, training
from analysis.sheets import Sheet
from analysis.tables import leaderboard
from raystudy.data.noise import Noise
from raystudy.record.checkpoints import arrays_path
from raystudy.record.ledger import TrialHistory


def header(dataset: str, wrong: float | None) -> dict[str, Any]:
    return {"cell": {"dataset": dataset}, "effective_rate": wrong}


OWN = "folder:/far/down/images?labels=/far/down/labels.csv"


@pytest.mark.parametrize(
    ("told", "known", "clean"),
    [
        (header("digits", 0.18), True, True),
        (header("digits", 0.0), True, True),  # no label is wrong, and that is known
        (header(OWN, 0.2), True, True),
        (header(OWN, None), False, False),
        (header("npz:x.npz", None), False, False),
        (header("clothing1m", None), False, True),  # its test labels were checked by people
        (header("webvision_mini?size=64", None), False, True),
        (header(OWN, 0.2) | {"assumed": True}, True, False),  # noise was drawn on labels that may be wrong themselves
        (header("blobs", None), False, False),  # of a package
        ({}, True, True),  # not begun
    ],
)
def test_what_is_known_of_a_cell(told: dict[str, Any], known: bool, clean: bool) -> None:
    assert truth.known(told) == known
    assert truth.tested_clean(told) == clean
    assert truth.measured([told]) == ("test accuracy" if clean else "accuracy against given labels")


def test_a_study_of_both_says_so() -> None:
    assert truth.measured([header("digits", 0.1), header(OWN, None)]) == truth.MIXED
    assert truth.measured([]) == "test accuracy"


@pytest.mark.parametrize(
    ("noise", "wrong", "rate"),
    [
        (Noise("symmetric", 0.2), 0.18, 0.2),
        (Noise("given", 0.0), 0.3, 0.3),  # as they came, and known to be 30 % wrong: not a rate of 0
        (Noise("given", 0.1), 0.1, 0.1),
        (Noise("human", 0.0, "worse"), 0.4021, 0.4021),
        (Noise("given", 0.0), None, np.nan),
        (Noise("symmetric", 0.0), 0.0, 0.0),
    ],
)
def test_labels_as_they_came_have_no_nominal_rate(noise: Noise, wrong: float | None, rate: float) -> None:
    assert truth.rate(noise, header("digits", wrong)) == pytest.approx(rate, nan_ok=True)


def test_no_point_is_read_off_a_truth_that_nobody_knows() -> None:
    trial = TrialHistory("k", 0, "paper", {"forget_rate": 0.2}, 0, ("forget_rate",))
    assert truth.oracle(trial, header(OWN, 0.2))
    assert not truth.oracle(trial, header(OWN, None))
    assert not truth.oracle(None, header(OWN, 0.2))
    assert truth.read_off(("forget_rate",), header(OWN, None)) == ()


def given(folder: Path, dataset: str = OWN, arrays: str = "old") -> Path:
    """A recorded study turned into one of labels as they came: what the ledger of such a study holds."""
    told = recorded.write(folder, rates=(0.2,), trials=2, dataset=dataset)
    (folder / "study.toml").write_text(replace(told, noises=(Noise("given", 0.0),)).to_toml())
    cells = {c.method: c for c in load(folder)[0].cells()}
    for file in list((folder / "cells").iterdir()):
        events = [json.loads(line) for line in file.read_text().splitlines()]
        cell = cells[events[0]["cell"]["method"]]
        events[0] |= {"cell": cell.to_dict(), "effective_rate": None}
        for event in events:
            if event["event"] == "trial" and event["origin"] != "search" and cell.method != "ce":
                event["oracle"] = ["tau"]
            if event["event"] == "record":
                for name in [n for n in event["metrics"] if n.startswith(("label/", "select/"))]:
                    del event["metrics"][name]
        file.unlink()
        (folder / "cells" / f"{cell.key}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if arrays == "new":
        for file in (folder / "arrays").iterdir():
            held = dict(np.load(file))
            held["all"] = held.pop("clean") + held.pop("wrong")
            del held["transition"]
            np.savez(file, **held)
    return folder


@pytest.mark.parametrize("arrays", ["old", "new"])
def test_sections_leave_out_what_needs_the_truth_and_say_why(tmp_path: Path, arrays: str) -> None:
    material = gathered(given(tmp_path / "s", arrays=arrays))
    items = [i for s in (results, selection, statistics, training) for i in s.items(material)]
    plots = {i.name.partition("-")[0]: i for i in items if isinstance(i, Plot)}
    for left_out in ("transition", "sieve"):
        assert plots[left_out].figure is None
        assert plots[left_out].absent == truth.UNKNOWN
    assert "emorisation" not in plots["curves"].title
    assert "nobody knows" in plots["curves"].text
    assert "right" not in plots["losses"].title
    for name in ("rates", "gap", "curves"):
        figure = plots[name].figure
        assert figure is not None
        labels = [text for ax in figure.axes for text in (ax.get_xlabel(), ax.get_ylabel())]
        assert any("accuracy against given labels in %" in text.replace("\n", " ") for text in labels)
        assert not [text for text in labels if "nominal" in text or "test accuracy" in text]
    figure = plots["losses"].figure
    assert figure is not None
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["all labels", "fitted Gaussians"]
    for sheet in [i for i in items if isinstance(i, Sheet)]:
        text = sheet.to_csv() + sheet.to_markdown() + sheet.to_latex() + sheet.to_html()
        assert "*" not in sheet.note
        assert "read off" not in text
        assert not [v for row in sheet.values() for v in row if v.text.endswith("*")]
    sheet = next(i for i in items if isinstance(i, Sheet) and i.name.startswith("leaderboard-last10"))
    assert sheet.title.startswith("Accuracy against given labels in %")
    rows = list(csv.DictReader(sheet.to_csv().splitlines()))
    assert {(row["rate"], row["test_labels"], row["oracle_point"]) for row in rows} == {("", "given", "False")}


def test_the_leaderboard_says_what_is_measured(tmp_path: Path) -> None:
    own = leaderboard(*load(given(tmp_path / "own")))
    assert "accuracy against given labels in %" in str(own.title)
    assert "clean" not in str(own.title)
    assert "read off" not in str(own.caption)
    checked = leaderboard(*load(given(tmp_path / "checked", "clothing1m")))
    assert "clean test accuracy in %" in str(checked.title)
    assert "read off" not in str(checked.caption)


def test_noise_on_labels_as_they_came_is_relative_to_them(tmp_path: Path) -> None:
    recorded.write(tmp_path / "s", rates=(0.2,), trials=2, dataset=OWN)
    before = leaderboard(*load(tmp_path / "s"))
    assert "clean test accuracy" in str(before.title)
    for file in (tmp_path / "s" / "cells").iterdir():
        first, rest = file.read_text().split("\n", 1)
        file.write_text(json.dumps(json.loads(first) | {"assumed": True}) + "\n" + rest)
    told = leaderboard(*load(tmp_path / "s"))
    assert "accuracy against given labels in %" in str(told.title)
    assert "Noise was drawn on labels as they came" in str(told.caption)
    material = gathered(tmp_path / "s")
    (sheet, *_) = (
        i for i in results.items(material) if isinstance(i, Sheet) and i.name.startswith("leaderboard-last10")
    )
    assert sheet.title.startswith("Accuracy against given labels")
    assert sheet.note.endswith(truth.RELATIVE)


def test_the_leaderboard_as_records_knows_no_more(tmp_path: Path) -> None:
    rows = frame(*load(given(tmp_path / "s")))
    assert {(row["noise"], row["test_labels"], row["point_from_truth"]) for row in rows} == {("given", "given", False)}
    assert all(math.isnan(row["rate"]) and math.isnan(row["wrong"]) for row in rows)


def test_of_known_labels_right_and_wrong_ones_are_drawn_apart(tmp_path: Path) -> None:
    recorded.write(tmp_path / "s", rates=(0.2,), trials=2)
    material = gathered(tmp_path / "s")
    items = {i.name.partition("-")[0]: i for i in training.items(material) if isinstance(i, Plot)}
    assert items["transition"].figure is not None
    losses = items["losses"].figure
    assert losses is not None
    assert [t.get_text() for t in losses.legends[0].get_texts()][:2] == ["right label", "wrong label"]
    (outcome,) = [o for o in material.outcomes if o.cell.method == "elr"]
    held = dict(np.load(arrays_path(tmp_path / "s", outcome.tuned[0].key)))
    held["all"] = held.pop("clean") + held.pop("wrong")
    assert figures.losses({"elr": held}, known=True) is not None  # arrays of a time when nobody knew


def test_levels_stand_in_the_order_of_their_wrong_labels(tmp_path: Path) -> None:
    """Labels as they came, 40 % of them wrong, are harder than those diluted to 20 %, though their nominal rate is 0."""
    recorded.write(tmp_path / "s", ("ce",), rates=(0.2, 0.5), trials=1, replicates=0)
    told, histories = load(tmp_path / "s")
    cells = [
        type(c)(c.method, c.dataset, Noise("human", r, "worse")) for c, r in zip(told.cells(), (0.2, 0.0), strict=True)
    ]
    for history, wrong in zip(histories.values(), (0.2, 0.4021), strict=True):
        history.header["effective_rate"] = wrong
    (group,) = grouped(told, dict(zip(cells[::-1], list(histories.values())[::-1], strict=True)))
    assert group.rates() == {"0.2": 0.2, "human": 0.4021}


@pytest.mark.slow
def test_a_whole_report_of_given_labels(tmp_path: Path) -> None:
    page = report.build(given(tmp_path / "s"), tmp_path / "out")[0].read_text()
    assert "Accuracy against given labels of every method" in page
    text = re.sub(r"data:image/png;base64,[^\"]*", "", re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL))
    for claim in ("lean test accuracy", "nominal noise rate", "as counted", "read off the truth", "right label"):
        assert claim not in text
