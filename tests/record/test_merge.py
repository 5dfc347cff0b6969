"""Two ledgers become one: every trial is there, once, as far as the one further along; whatever the order, however often."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from searched import CELL, accuracy, opened, train
from searched import study as told

from raystudy import cli
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.record import usage
from raystudy.record.ledger import Ledger, cells, replay
from raystudy.record.merge import merge

KEYS = [f"{i:016x}" for i in range(6)]
HEADER = {"event": "cell", "cell": CELL.to_dict(), "digests": {"data": "d", "noise": "n"}, "epochs": 4}


def trial(i: int, number: int, time: int, epochs: int, end: str = "") -> list[dict[str, Any]]:
    """A trial's events; what it measures depends on the trial and the epoch alone."""
    origin = "paper" if i == 0 else "replicate" if i == 5 else "search"
    told = {"number": number, "origin": origin, "point": {"p_threshold": 0.3 + i / 10}, "seed": int(i == 5)}
    metrics = [{"val/acc": i / 10 + e / 100, "cost/seconds": float(time)} for e in range(epochs)]
    events = [{"event": "trial", "key": KEYS[i], **told, "time": time}]
    events += [
        {"event": "record", "key": KEYS[i], "epoch": e, "metrics": m, "time": time} for e, m in enumerate(metrics)
    ]
    return events + ([{"event": "end", "key": KEYS[i], "state": end, "reason": "", "time": time}] if end else [])


def written(folder: Path, *trials: list[dict[str, Any]], begun: int = 1, study: Study | None = None) -> Path:
    (folder / "cells").mkdir(parents=True)
    (folder / "study.toml").write_text((study or told(name=folder.name, epochs=4)).to_toml())
    events = [HEADER | {"time": begun}, *(e for events in trials for e in events)]
    (folder / "cells" / f"{CELL.key}.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    return folder


def ledger_of(folder: Path) -> bytes:
    return (folder / "cells" / f"{CELL.key}.jsonl").read_bytes()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def settings_of(folder: Path) -> Study:
    return replace(Study.from_toml(folder / "study.toml"), name="x")


@st.composite
def machine(draw: Callable[..., Any]) -> list[Any]:
    """What one machine has: some of the trials, each so far, numbered as they came."""
    which = [0, *sorted(draw(st.sets(st.integers(1, 5))))]
    times = sorted(draw(st.lists(st.integers(2, 60), min_size=len(which), max_size=len(which))))
    out = []
    for number, (i, time) in enumerate(zip(which, times, strict=True)):
        epochs = draw(st.integers(0, 4))
        end = "complete" if epochs == 4 else draw(st.sampled_from(["", "pruned", "failed"]))
        out.append((i, number, time, epochs, end))
    return out


@given(a=machine(), b=machine(), c=machine())
@settings(max_examples=15, deadline=None)
def test_neither_order_nor_repetition_matters_and_nothing_is_lost(a: list[Any], b: list[Any], c: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        folders = [
            written(here / name, *(trial(*t) for t in m), begun=begun)
            for name, m, begun in (("a", a, 1), ("b", b, 0), ("c", c, 1))
        ]
        before = [tree(f) for f in folders]
        for x, y in ((0, 1), (1, 0)):
            merge(folders[x], folders[y], here / f"m{x}{y}")
        assert [tree(f) for f in folders] == before  # only read
        assert ledger_of(here / "m01") == ledger_of(here / "m10")
        assert settings_of(here / "m01") == settings_of(here / "m10")

        once = ledger_of(here / "m01")
        for again in folders[:2]:
            done = merge(here / "m01", again)
            assert (done.new, done.further) == (0, 0)
            assert ledger_of(here / "m01") == once

        (path,) = cells(here / "m01")
        found = replay(path).trials
        best = {i: max((t for t in a + b if t[0] == i), key=lambda t: (t[4] == "complete", t[3])) for i, *_ in a + b}
        assert found.keys() == {KEYS[i] for i in best}
        for i, (*_, epochs, end) in best.items():
            assert found[KEYS[i]].epochs == epochs
            assert (found[KEYS[i]].state == "complete") == (end == "complete")
        searched = [t for t in found.values() if t.origin != "replicate"]
        assert [t.number for t in searched] == list(range(len(searched)))
        assert searched[0].origin == "paper"
        assert len({t.number for t in found.values()}) == len(found)

        merge(here / "m01", folders[2])
        merge(folders[1], folders[2], here / "m12")
        merge(folders[0], here / "m12", here / "m012")
        assert replay(path).trials.keys() == replay(here / "m012" / "cells" / path.name).trials.keys()


@pytest.mark.slow
def test_the_search_goes_on_from_both(tmp_path: Path) -> None:
    """Two machines ran the same study; one got further, one was started with another batch and so tried other points."""
    for name, batch, trials in (("a", 1, 8), ("b", 3, 9)):
        study = told(name=name, batch=batch, trials=trials, replicates=0)
        search = opened(tmp_path / name, study)
        (tmp_path / name / "study.toml").write_text(study.to_toml())
        train(search)
        search.ledger.close()
    had = {n: {k: t.state for k, t in replay(cells(tmp_path / n)[0]).trials.items()} for n in "ab"}
    assert 0 < len(had["a"].keys() & had["b"].keys()) < 8
    merge(tmp_path / "a", tmp_path / "b")
    grown = Study.from_toml(tmp_path / "a" / "study.toml")
    assert grown.trials == 9
    search = opened(tmp_path / "a", replace(grown, trials=15, replicates=1))
    assert {k: t.state for k, t in search.history.trials.items() if t.state != "running"} == {
        k: "complete" if "complete" in (had["a"].get(k), had["b"].get(k)) else "pruned" for k in had["a"] | had["b"]
    }
    train(search, accuracy)
    assert search.finished()
    assert [t.number for t in search.searched()] == list(range(15))
    assert {t.seed for t in search.history.trials.values() if t.origin == "replicate"} == {1}


def test_what_is_unfinished_comes_with_its_checkpoint_and_files_come_along(tmp_path: Path) -> None:
    a = written(tmp_path / "a", trial(0, 0, 2, 1))
    b = written(tmp_path / "b", trial(0, 0, 3, 3), trial(1, 1, 4, 4, "complete"))
    for folder, what in ((a, "old"), (b, "new")):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / f"{KEYS[0]}.pt").write_text(what)
    (b / "artifacts" / CELL.key).mkdir(parents=True)
    (b / "artifacts" / CELL.key / "x.png").write_text("picture")
    for folder, now in ((a, 1), (b, 2)):
        usage.append(usage.file_of(folder, now), usage.Span(1000 * now, 1, places=now))
    done = merge(a, b)
    assert (done.new, done.further) == (1, 1)
    assert [s.places for s in usage.read(a)] == [1, 2]
    assert (a / "checkpoints" / f"{KEYS[0]}.pt").read_text() == "new"
    assert (a / "artifacts" / CELL.key / "x.png").read_text() == "picture"
    assert not list(tmp_path.glob(".a-*"))


def test_a_cell_that_one_machine_has_alone(tmp_path: Path) -> None:
    a = written(tmp_path / "a", trial(0, 0, 2, 4, "complete"))
    other = replace(CELL, noise=replace(CELL.noise, rate=0.8))
    b = written(tmp_path / "b", trial(0, 0, 2, 1), study=told(name="b", epochs=4, noises=(other.noise,), replicates=5))
    (b / "cells" / f"{CELL.key}.jsonl").rename(b / "cells" / f"{other.key}.jsonl")
    merge(a, b)
    study = Study.from_toml(a / "study.toml")
    assert {c.key for c in study.cells()} == {CELL.key, other.key} == {p.stem for p in cells(a)}
    assert study.replicates == 5


def broken(folder: Path, change: str) -> None:
    path = folder / "cells" / f"{CELL.key}.jsonl"
    old, _, new = change.partition(" -> ")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ('"val/acc": 0.01 -> "val/acc": 0.5', "val/acc of epoch 1 is 0.01 in"),
        ('"p_threshold": 0.3 -> "p_threshold": 0.4', "another point"),
        ('"data": "d" -> "data": "other"', "differs in its digests"),
        ('"key" -> "yek"', "broken ledger line"),
    ],
)
def test_a_contradiction_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, words: str
) -> None:
    written(tmp_path / "a", trial(0, 0, 2, 2), trial(1, 1, 2, 2))
    b = written(tmp_path / "b", trial(0, 0, 2, 3))
    broken(b, change)
    before = tree(tmp_path)
    for into in ([], ["--into", "c"]):
        assert cli.main(["merge", "a", "b", "--storage", str(tmp_path), *into]) == 2
        _, err = capsys.readouterr()
        assert words in err
        assert err.count("\n") == 1
        assert {k: v for k, v in tree(tmp_path).items() if not k.endswith("/lock")} == before
        assert not (tmp_path / "c").exists()


def test_a_contradiction_may_be_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = written(tmp_path / "a", trial(0, 0, 2, 2)), written(tmp_path / "b", trial(0, 0, 2, 3))
    broken(b, '"val/acc": 0.01 -> "val/acc": 0.5')
    assert cli.main(["merge", str(a), str(b), "--storage", str(tmp_path), "--on-conflict", "keep"]) == 0
    assert "note: trial 0" in capsys.readouterr().out
    assert list(replay(cells(a)[0]).trials[KEYS[0]].curves["val/acc"]) == [0.0, 0.5, 0.02]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a", "c"], "'c'; choose from: a, b"),
        (["a", "a"], "with itself"),
        (["a", "b", "--into", "b"], "there already"),
        (["a", "b", "--into", "../b"], "not usable"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str) -> None:
    for name in "ab":
        written(tmp_path / name, trial(0, 0, 2, 2))
    before = tree(tmp_path)
    assert cli.main(["merge", *argv, "--storage", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert tree(tmp_path) == before


def test_different_studies_are_refused(tmp_path: Path) -> None:
    a = written(tmp_path / "a", trial(0, 0, 2, 2))
    b = written(tmp_path / "b", trial(0, 0, 2, 2), study=told(name="b", epochs=4, sampler="gp"))
    with pytest.raises(
        InputError, match=r"different studies.*sampler='gp', now 'tpe'|different studies.*sampler='tpe', now 'gp'"
    ):
        merge(a, b)


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_study_that_is_running_is_refused(tmp_path: Path, which: str) -> None:
    a, b = (written(tmp_path / name, trial(0, 0, 2, 2)) for name in "ab")
    holder = Ledger(tmp_path / which)
    try:
        with pytest.raises(InputError, match=f"study {which} .*being run"):
            merge(a, b)
    finally:
        holder.close()
    shutil.rmtree(b / "cells")
    assert merge(a, b).new == 0
