"""What a search starts from: which points of other cells, in which order, kept with the study, and the same after every restart."""

import json
import math
import random
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from searched import CELL, opened, spec, study, train

from analysis import load as loading
from raystudy import cli
from raystudy.data.noise import Noise
from raystudy.design.space import load
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record.ledger import Ledger, replay
from raystudy.running import transfer
from raystudy.running.build import Builder
from raystudy.running.search import CellSearch
from raystudy.running.transfer import Found, Place, distance, misled, starts

ELR = load("elr")
PUBLISHED = {"beta": 0.7, "lambda_elr": 3.0}


def place(rate: float = 0.5, kind: str = "symmetric", dataset: str = "digits", classes: int = 10) -> Place:
    return Place("elr", dataset, Noise(kind, rate), classes, vectors=dataset != "digits")


def found(where: Place, values: dict[float, float]) -> Found:
    """A cell that tried these values of beta, each a choice of its own and so as far from the others as can be."""
    points = tuple({"beta": beta, "lambda_elr": 3.0} for beta in values)
    return Found("s", where, points, tuple(values.values()))


def tried(here: Place, *cells: Found, most: int = 4) -> list[float]:
    return [point["beta"] for point, _ in starts(here, cells, ELR, PUBLISHED, most)]


def test_distance_is_that_of_the_rates_and_a_step_for_each_other_difference() -> None:
    assert distance(place(0.5), place(0.5)) == 0
    assert distance(place(0.5), place(0.8)) == pytest.approx(0.3)
    assert distance(place(0.5), place(0.5, "pair")) == transfer.KIND
    assert distance(place(0.5), place(0.4, classes=100)) == pytest.approx(0.1 + transfer.CLASSES)
    assert distance(place(0.5), place(0.5, dataset="vectors")) == transfer.DATA + transfer.DATASET
    unknown = replace(place(0.5), vectors=None)
    assert distance(place(0.5), unknown) == transfer.DATA


def test_the_most_promising_first_and_the_nearer_cell_counts_more() -> None:
    near = found(place(0.6), {0.5: 0.4, 0.9: 0.6, 0.99: 0.5})
    far = found(place(0.1), {0.5: 0.9, 0.9: 0.7, 0.99: 0.8})
    assert tried(place(0.5), far, near) == [0.9, 0.99, 0.5]
    assert tried(place(0.2), far, near) == [0.5, 0.99, 0.9]
    assert tried(place(0.5), far, near, most=1) == [0.9]
    assert [f.place.noise.rate for _, f in starts(place(0.5), [far, near], ELR, PUBLISHED)] == [0.6] * 3
    assert tried(place(0.5)) == []
    other = replace(near, place=replace(near.place, method="ce"))
    assert tried(place(0.5), other) == []


def test_one_lucky_value_among_bad_ones_promises_less_than_a_good_region() -> None:
    good = [({"beta": 0.9, "lambda_elr": 2.0 + i / 10}, 0.80) for i in range(4)]
    bad = [({"beta": 0.5, "lambda_elr": 2.0 + i / 10}, 0.60) for i in range(4)]
    lucky = [({"beta": 0.5, "lambda_elr": 2.05}, 0.82)]
    points, values = zip(*good, *bad, *lucky, strict=True)
    told = starts(place(), [Found("s", place(0.6), points, values)], ELR, PUBLISHED)
    assert [p["beta"] for p, _ in told] == [0.9] * 4


# The lucky point lies 0.45 from its bad neighbours (lambda_elr is logarithmic), the good ones lie together.
LUCKY = {
    **{"source": "s", "method": "elr", "dataset": "digits", "noise": Noise("symmetric", 0.6).to_dict(), "classes": 10},
    "vectors": False,
    "points": [{"beta": 0.9, "lambda_elr": 0.5 * 30**at} for at in (0.0, 0.45, 0.45, 0.45, 0.98, 0.98, 1.0)],
    "values": [0.9, 0.5, 0.5, 0.5, 0.8, 0.8, 0.8],
}


def first(found: Found) -> float:
    return round(float(starts(place(), [found], ELR, PUBLISHED)[0][0]["lambda_elr"]), 3)


def test_what_was_kept_before_the_reach_was_kept_leads_to_the_same_points(tmp_path: Path) -> None:
    """Such a file has no reach, was smoothed more widely, and is written again as it is."""
    old = json.dumps({"format": 1, "cells": [LUCKY]}, indent=1, sort_keys=True) + "\n"
    transfer.keep(old, tmp_path)
    kept = transfer.kept(tmp_path, transfer.digest(old))
    assert transfer.text(kept) == old
    assert first(kept[0]) == 15.0  # of the good ones that farthest from the bad
    new = replace(kept[0], reach=transfer.REACH)
    assert first(new) == 0.5
    again = transfer.text([new])
    transfer.keep(again, tmp_path)
    assert transfer.kept(tmp_path, transfer.digest(again)) == [new]
    (tmp_path / "told.json").write_text(
        json.dumps({"cells": [LUCKY]})
    )  # an older `raystudy recommend`, for a study that begins
    assert transfer.recommended(tmp_path / "told.json") == [new]


def test_points_that_are_known_or_cannot_be_are_passed_over() -> None:
    points = (PUBLISHED, {"beta": 0.8, "lambda_elr": 3.0}, {"beta": 0.9, "lambda_elr": 99.0}, {"beta": 0.9, "gone": 1})
    (only,) = starts(place(), [Found("s", place(0.6), points, (1.0, 2.0, 3.0, 0.5))], ELR, PUBLISHED)
    assert only[0] == ELR.complete(
        {"beta": 0.9}
    )  # what the space has no more is dropped, what it has anew is its default


def test_a_source_that_is_worse_twice_is_left() -> None:
    assert not misled(0.5, [])
    assert not misled(0.5, [0.4])
    assert misled(0.5, [0.4, math.nan])
    assert not misled(0.5, [0.4, 0.5])
    assert not misled(math.nan, [0.4, 0.3])
    assert misled(math.nan, [math.nan, math.nan])


FROM = (
    {"p_threshold": 0.61, "lambda_u": 0.0},
    {"p_threshold": 0.33, "lambda_u": 50.0},
    {"p_threshold": 0.44, "lambda_u": 50.0},
)


def begun(folder: Path, told: Study) -> CellSearch:
    space = load("dividemix")
    ledger = Ledger(folder)
    points = [space.complete(p) for p in FROM]
    return CellSearch(told, CELL, space, ledger, ledger.open(CELL.key, {"cell": CELL.to_dict()}), spec, points)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
@pytest.mark.parametrize("batch", [1, 3])
def test_they_are_tried_after_the_published_point_and_the_same_after_every_kill(
    tmp_path: Path, sampler: str, batch: int
) -> None:
    told = study(sampler=sampler, batch=batch)

    def points(folder: Path) -> list[tuple[int, str, str]]:
        trials = replay(folder / "cells" / f"{CELL.key}.jsonl").trials.values()
        return sorted((t.number, str(t.point), t.state) for t in trials)

    whole = begun(tmp_path / "whole", told)
    train(whole)
    first, second, third, fourth, *_ = whole.searched()
    assert first.point == whole.paper_point
    assert (second.point["p_threshold"], third.point["p_threshold"]) == (0.61, 0.33)
    assert (second.point["lambda_u"], second.origin) == (0.0, "search")
    assert fourth.point["p_threshold"] == 0.44  # the first was better than the published point
    want = points(tmp_path / "whole")
    rng = random.Random(0)
    for steps in (3, 40, 90):
        search = begun(tmp_path / "killed", told)
        countdown = iter(range(steps))
        train(search, stop=lambda countdown=countdown: next(countdown, None) is None, shuffle=rng)
        search.ledger.close()
    search = begun(tmp_path / "killed", told)
    train(search, shuffle=rng)
    assert points(tmp_path / "killed") == want


def test_where_the_source_misleads_the_sampler_goes_on_alone(tmp_path: Path) -> None:
    told = study(trials=5, scheduler="none")
    search = begun(tmp_path, told)
    train(search, lambda point, seed, epoch: 0.9 if point == search.paper_point else 0.5)
    assert [t.point["p_threshold"] for t in search.searched()[1:3]] == [0.61, 0.33]
    assert search.searched()[3].point["p_threshold"] != 0.44


def test_a_point_that_was_tried_already_makes_room_for_a_proposal(tmp_path: Path) -> None:
    ledger, space = Ledger(tmp_path), load("dividemix")
    published, _, _ = space.paper("digits", CELL.noise)
    history = ledger.open(CELL.key, {"cell": CELL.to_dict()})
    search = CellSearch(study(trials=3), CELL, space, ledger, history, spec, [published])
    train(search)
    assert len({str(t.point) for t in search.searched()}) == 3


def source(folder: Path, name: str = "old") -> Path:
    """A study of one cell that was run to its end, best near p_threshold 0.6."""
    told = study(name=name, trials=6, scheduler="none", sampler="random")
    search = opened(folder / name, told)
    train(search)
    search.ledger.close()
    (folder / name / "study.toml").write_text(told.to_toml())
    return folder / name


def test_what_studies_have_found_is_read_by_name_and_by_folder(tmp_path: Path) -> None:
    folder = source(tmp_path)
    by_name, by_folder = (transfer.gather([n], tmp_path, Path("data")) for n in ("old", f"{folder}/"))
    assert by_name == by_folder
    (only,) = by_name
    history = loading.study(folder)[1][CELL]
    best = max(
        (t for t in history.trials.values() if t.state == "complete"),
        key=lambda t: sum(t.curves["val/acc"][-3:]),
    )
    assert only.points[only.values.index(max(only.values))] == best.point
    assert len(only.points) == 6
    assert (only.place.vectors, only.place.noise) == (False, CELL.noise)
    text = transfer.text(by_name)
    transfer.keep(text, tmp_path)
    assert transfer.kept(tmp_path, transfer.digest(text)) == by_name


def test_a_study_that_is_none_or_has_nothing_is_refused_in_a_line(tmp_path: Path) -> None:
    folder = source(tmp_path)
    with pytest.raises(InputError, match=r"unknown study for --start-from 'odl'.*old"):
        transfer.gather(["odl"], tmp_path, Path("data"))
    shutil.rmtree(folder / "cells")
    with pytest.raises(InputError, match="--start-from old: no trial of it is complete"):
        transfer.gather(["old"], tmp_path, Path("data"))


def test_a_study_without_it_is_written_as_before() -> None:
    told = tomllib.loads(study().to_toml())
    assert not {"start", "start_from"} & told.keys()
    grown = replace(study(), start_from=("old",), start="0" * 16)
    assert tomllib.loads(grown.to_toml())["start_from"] == ["old"]
    assert study(trials=9).grown_from(grown).start == "0" * 16  # it may be left out when the study goes on
    with pytest.raises(InputError, match="begun with start_from"):
        replace(study(), start_from=("new",)).grown_from(grown)
    with pytest.raises(InputError, match="begun with start_from"):
        replace(study(), start_from=("new",)).grown_from(study())


def test_the_reference_knows_three_levels_of_five_methods() -> None:
    cells = transfer.reference()
    assert {(f.place.method, f.place.noise.rate) for f in cells} == {
        (m, r) for m in ("ce", "mixup", "elr", "coteaching", "dividemix") for r in (0.2, 0.5, 0.8)
    }
    near = starts(place(0.5, dataset="vectors"), cells, ELR, PUBLISHED)
    assert {f.place.noise.rate for _, f in near} == {0.5}


@pytest.mark.slow
def test_the_command_starts_from_a_study_keeps_it_and_goes_on_without_it(tmp_path: Path) -> None:
    old = source(tmp_path / "studies")
    space, noise = load("dividemix"), Noise("symmetric", 0.3)
    here = Place("dividemix", "digits", noise, 10, False)
    known = transfer.gather(["old"], tmp_path / "studies", Path("data"))
    (best, _), *_ = starts(here, known, space, space.paper("digits", noise)[0])

    def sweep(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "raystudy.sweep", *argv]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400)

    small = ("dividemix", "--no-baseline", "--noise", "symmetric:0.3", "--epochs", "1", "--name", "new")
    small += ("--replicates", "0", "--tracking-uri", "none", "--gpus-per-trial", "0")
    done = sweep(*small, "--start-from", "old", "--trials", "2", "--sampler", "auto")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sampler auto: tpe, " in done.stdout
    new = tmp_path / "studies" / "new"
    told = Study.from_toml(new / "study.toml")
    assert (told.start_from, told.sampler) == (("old",), "tpe")
    kept = json.loads((new / "start" / "points.json").read_text())
    assert best in kept["cells"][0]["points"]

    def second() -> dict[str, object]:
        return next(t.point for t in loading.study(new)[1][told.cells()[0]].trials.values() if t.number == 1)

    assert second() == best
    shutil.rmtree(old)  # the study goes on by what it has kept
    done = sweep(*small, "--trials", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert second() == best
    (new / "start" / "points.json").write_text(json.dumps(kept | {"cells": []}))
    done = sweep(*small, "--trials", "4")
    assert done.returncode == 2
    assert "is not what this study was started from" in done.stderr
    assert "Traceback" not in done.stderr


def test_dry_run_says_what_is_tried_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source(tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    argv = ["sweep", "dividemix", "--noise", "symmetric:0.3", "--trials", "3", "--start-from", "old", "--dry-run"]
    assert cli.main(argv) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "trial 1: " in out
    assert "[old: digits symmetric" in out
    assert not (tmp_path / "studies" / "dividemix-digits").exists()
    assert cli.main([*argv[:-3], "--start-from", "nothing", "--dry-run"]) == 2


def test_ce_has_nothing_to_search_and_starts_from_nothing() -> None:
    cell = Cell("ce", "digits", Noise("symmetric", 0.5))
    here = Place(cell.method, cell.dataset, cell.noise, 10, False)
    assert starts(here, transfer.reference(), load("ce"), {}) == []


def test_a_method_of_which_the_source_knows_nothing_is_told(tmp_path: Path) -> None:
    told = Study("s", ("ce", "elr", "sce"), ("digits",), (Noise("symmetric", 0.4),), 4, 1, 4, "mlp")
    assert Builder(replace(told, start_from=("reference",)), tmp_path, transfer.reference()).unstarted() == ["sce"]
    assert Builder(told, tmp_path, []).unstarted() == []
