"""The recommendation for real data: what is told, where a study begins with it, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import recorded

import raystudy as rs
from analysis import recommend as rule
from analysis.conditions import KINDS, Condition
from raystudy import cli
from raystudy.data import masks
from raystudy.data.noise import corrupt
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.running import transfer
from raystudy.tools import recommend as tool
from raystudy.tools.clean.examine import chosen_method


@pytest.fixture(scope="module")
def digits():
    return rs.recommend("digits", "symmetric:0.5")


@pytest.mark.slow
def test_digits(digits):
    """1,347 small images, 45 % wrong; digits under that noise are known, so it is near, and much is gained."""
    assert digits.where.kind == "small images"
    assert (digits.where.n, digits.where.classes, sum(digits.counts)) == (1347, 10, 1347)
    low, high = digits.rate_interval
    assert low <= digits.where.rate <= high
    assert abs(digits.where.rate - 0.45) < 0.06
    assert digits.where.concentration < tool.EVENLY
    assert not digits.far
    assert digits.nearest[0][1].dataset == "digits"
    assert len(digits.methods) == 3
    gains = [n.expected.gain for n in digits.methods]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0.03
    assert all(n.seconds > 0 for n in digits.methods)


@pytest.mark.slow
def test_what_is_written_is_where_a_study_begins(digits, tmp_path: Path):
    file = tool.write(digits, tmp_path / "told.json")
    told = json.loads(file.read_text())
    assert [m["method"] for m in told["methods"]] == [n.method for n in digits.methods]
    found = transfer.gather([str(file)], tmp_path, tmp_path)
    assert found == digits.found()
    assert {f.place.method for f in found} <= {n.method for n in digits.methods}
    assert str(file) in digits.command(file)


@pytest.mark.slow
def test_dry_run_begins_with_the_points(digits, tmp_path: Path, monkeypatch, capsys):
    """The command that is printed, word by word, with --dry-run: its second trial is a point from here."""
    monkeypatch.chdir(tmp_path)
    tool.write(digits, Path("recommended.json"))
    words = digits.command(Path("recommended.json")).split()
    assert words[:2] == ["raystudy", "sweep"]
    assert cli.main([*words[1:], "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "trial 1: " in told
    assert "[recommend: digits symmetric:inclusive:0.5]" in told


def test_a_told_rate_estimates_nothing_and_far_data_are_told(tmp_path: Path, monkeypatch, capsys):
    """A hundred classes of vectors: nothing like that is known, which is said in a line."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 100
    np.savez(tmp_path / "mine.npz", x_train=rng.normal(size=(600, 8)).astype(np.float32), y_train=y)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recommend", "npz:mine.npz", "--noise-rate", "0.3"]) == 0
    told = capsys.readouterr().out
    assert "600 vectors, 100 classes" in told
    assert "30.0% wrong labels, as you said; where they go is not known" in told
    assert "nothing near is known" in told
    assert "--noise given" in told
    assert json.loads(Path("recommended.json").read_text())["near"] is False


def test_mistakes_are_one_line(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, line in (
        (["--noise-rate", "1.5"], "--noise-rate is 1.5; it is a share of the labels"),
        (["--from", "nothing"], "unknown study for --from 'nothing'"),
        (["--out", "advice.txt"], "--out advice.txt is no file that ends in .json"),
        (["--noise", "symetric:0.2"], "unknown noise kind 'symetric'"),
    ):
        assert cli.main(["recommend", "digits", *words]) == 2
        told = capsys.readouterr()
        assert line in told.err
        assert told.err.count("\n") == 1
        assert not list(tmp_path.iterdir())
    (tmp_path / "foreign.json").write_text('{"cells": [1]}')
    with pytest.raises(InputError, match=r"foreign\.json is no file that `raystudy recommend` has written"):
        transfer.gather(["foreign.json"], tmp_path, tmp_path)
    with pytest.raises(InputError, match="there is no such file"):
        transfer.gather(["none.json"], tmp_path, tmp_path)


def test_studies_of_ones_own_are_looked_up(tmp_path: Path):
    """A recorded study with masks is nearest to its own condition; one of which no mask tells the noise says nothing, in a line."""
    recorded.write(tmp_path / "mine", methods=("ce", "elr"), rates=(0.3,))
    with pytest.raises(InputError, match="--from mine: it has no masks"):
        tool.known(["mine"], tmp_path, tmp_path)
    study = Study.from_toml(tmp_path / "mine" / "study.toml")
    clean = np.arange(1347) % 10
    mask = masks.Mask(study.noises[0], "digits", "", "", corrupt(clean, study.noises[0], 10), clean, np.eye(10), 0)
    masks.save(mask, tmp_path / "mine" / "masks" / f"{study.cells()[0].data_key}.npz")
    found = rs.recommend("digits", "symmetric:0.3", studies="mine", storage=tmp_path, noise_rate=0.3)
    distance, nearest = found.nearest[0]
    assert (nearest.source, nearest.where.kind) == ("mine", "small images")
    assert distance < rule.FAR


def test_clean_asks_networks_of_what_is_recommended_for_colour_images():
    """``clean --method auto`` trains cross-entropy there; as long as nothing is expected to beat it by a point, that is the same."""
    results = tool.known((), Path("studies"), Path("data"))
    for rate in (0.1, 0.2, 0.4):
        best = rule.ranked(results, Condition(KINDS[2], 5000, 10, rate, 0.2))[0]
        assert best.gain < 0.01
    assert chosen_method("auto", (3, 32, 32)) == "ce"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--method", "nosuch", "--noise-rate", "0.2"), "unknown method 'nosuch'"),
        (("--out", "nowhere/a.json"), "there is no folder"),
        (("--gpus-per-trial", "2"), "--gpus-per-trial is 2"),
    ],
)
def test_mistakes_are_told_before_anything_is_computed(argv, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recommend", "digits", *argv]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert len(err.splitlines()) == 1
    assert out == ""
    assert not list(tmp_path.rglob("*.json"))
