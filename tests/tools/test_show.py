"""Pictures of a condition: what they are made from is right, files appear whole, nothing overlaps, and a study draws its own."""

import csv
import json
import threading
import time
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from raystudy import cli
from raystudy.data import datasets, fonts, pictures
from raystudy.data.noise import Noise, pair_matrix, parse, transition_matrix
from raystudy.data.pictures import Condition
from raystudy.learn.celldata import prepare
from raystudy.learn.condition import condition
from raystudy.running import pictures as beside

PNGS = ("sheet.png", "counts.png", "matrix.png", "rates.png")


def made(k: int = 3, channels: int = 3, **changes) -> Condition:
    """Twelve images of three classes (or of k); the labels of images 0 and 1 are wrong, image 2 shows no class."""
    clean = np.arange(12) % k
    given = clean.copy()
    given[:2] = (clean[:2] + 1) % k
    clean[2] = -1
    told = {
        "title": "made, pair:0.2",
        "chosen": np.arange(12),
        "x": np.random.default_rng(0).integers(0, 256, (12, channels, 8, 8), dtype=np.uint8),
        "given": given,
        "clean": clean,
        "classes": tuple(f"name_of_class_{i}" for i in range(k)),
        "nominal": 0.2,
        "expected": pair_matrix(k, 0.2),
    }
    return Condition(**told | changes)


def test_what_is_counted():
    shown = made()
    assert shown.effective == pytest.approx(3 / 12)  # the image of no class has no right label
    # true 0: images 0 (given 1), 3, 6, 9; true 1: 1 (given 2), 4, 7, 10; true 2: 5, 8, 11
    assert shown.realised == pytest.approx(np.array([[3 / 4, 1 / 4, 0], [0, 3 / 4, 1 / 4], [0, 0, 1]]))
    assert [(r["given"], r["true"], r["wrong"], r["rate"]) for r in pictures.by_class(shown)] == [
        (3, 4, 1, 0.25),
        (4, 4, 1, 0.25),
        (5, 3, 0, 0.0),
    ]


def test_the_sheet_marks_wrong_labels_and_names_the_true_one():
    texts = [t.get_text() for t in pictures.sheet(made(classes=("ant", "bee", "cat"))).axes[0].texts]
    assert texts[:7] == ["bee", "true ant", "cat", "true bee", "cat", "true no class", "ant"]
    assert texts[-1] == "made, pair:0.2: 3 of these 12 wrong (red, the true label below)"
    frames = [p.get_linewidth() for p in pictures.sheet(made()).axes[0].patches]
    assert [w > 1 for w in frames] == [True] * 3 + [False] * 9
    unknown = pictures.sheet(made(clean=None))
    assert not any("true " in t.get_text() for t in unknown.axes[0].texts)
    assert "truth unknown" in unknown.axes[0].texts[-1].get_text()


@pytest.mark.parametrize(("k", "channels"), [(10, 1), (100, 3)])
def test_labels_do_not_overlap(k, channels):
    """Text against text of the same axes, as drawn: labels of the sheet, of both axes of the matrix, of the bars."""
    shown = made(k, channels)
    for draw in (pictures.sheet, pictures.matrices, pictures.rates, pictures.counts):
        figure = draw(shown)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer = canvas.get_renderer()
        for axes in figure.axes:
            for texts in (axes.get_xticklabels(), axes.get_yticklabels(), axes.texts):
                boxes = [t.get_window_extent(renderer) for t in texts if t.get_text()]
                for i, a in enumerate(boxes):
                    for b in boxes[:i]:
                        wide = min(a.x1, b.x1) - max(a.x0, b.x0)
                        high = min(a.y1, b.y1) - max(a.y0, b.y0)
                        assert wide <= 0.5 or high <= 0.5, draw.__name__


def test_unknown_truth_and_noise_without_a_matrix(tmp_path):
    assert {f.name for f in pictures.pictures(made(clean=None, expected=None, nominal=None), tmp_path / "a")} == {
        "sheet.png",
        "counts.png",
        "summary.json",
        "classes.csv",
    }
    files = pictures.pictures(made(expected=None, nominal=None), tmp_path / "b")
    assert {f.name for f in files} >= set(PNGS)
    told = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert (told["nominal_rate"], told["expected_rate"], told["effective_rate"]) == (None, None, 0.25)
    assert told["outside_all_classes"] == 1


def test_data_show(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "show", "digits", "--noise", "symmetric:0.5", "--images", "7", "--out", "pictures"]) == 0
    out = tmp_path / "pictures"
    assert {f.name for f in out.iterdir()} == {*PNGS, "summary.json", "classes.csv"}
    for name in PNGS:
        with Image.open(out / name) as picture:
            assert min(picture.size) > 150
            assert len(set(picture.convert("L").resize((50, 50)).tobytes())) > 10  # not blank
    told = json.loads((out / "summary.json").read_text())
    assert (told["images"], told["classes"], told["nominal_rate"]) == (1347, 10, 0.5)
    assert told["expected_rate"] == pytest.approx(0.45)
    assert told["effective_rate"] == pytest.approx(0.45, abs=0.03)
    rows = list(csv.DictReader((out / "classes.csv").open()))
    assert sum(int(r["given"]) for r in rows) == sum(int(r["true"]) for r in rows) == 1347
    assert sum(int(r["wrong"]) for r in rows) == round(told["effective_rate"] * 1347)
    assert "45." in capsys.readouterr().out


@pytest.mark.slow
def test_a_truth_that_nobody_knows_is_not_drawn(tmp_path):
    """Labels as they came: no rate, no matrix, whatever is said to have been drawn on them; and noise on top says what it rests on."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9])
    spec = f"npz:{tmp_path / 'mine.npz'}"
    for text in ("given", "symmetric:0", "pair:0"):
        setting = parse(text)[0]
        shown = condition(prepare(spec, Path("data"), setting, 0.1), setting, ("a", "b", "c"))
        files = pictures.pictures(shown, tmp_path / text)
        assert {f.name for f in files} == {"sheet.png", "counts.png", "summary.json", "classes.csv"}
        told = json.loads((tmp_path / text / "summary.json").read_text())
        assert (told["nominal_rate"], told["expected_rate"], told["effective_rate"]) == (None, None, None)
    setting = parse("pair:0.5")[0]
    shown = condition(prepare(spec, Path("data"), setting, 0.1), setting, ("a", "b", "c"))
    assert (shown.nominal, shown.effective) == (0.5, 0.5)
    assert any("nobody knows which labels were wrong before" in note for note in shown.remarks)
    assert shown.title.startswith("mine, pair:0.5")


def test_names_in_other_scripts_find_a_font_or_are_told(tmp_path):
    from matplotlib import font_manager

    base = {chr(c) for c in font_manager.get_font(font_manager.findfont(fonts.BASE)).get_charmap()}
    other = {chr(c) for c in font_manager.get_font(font_manager.findfont("STIXGeneral")).get_charmap()}
    letter = next(c for c in sorted(other - base) if c.isprintable() and unicodedata.category(c) != "Co")
    found, missing = fonts.families(f"cat {letter}")
    assert (found[0], len(found), missing) == (fonts.BASE, 2, "")
    nobody = next(chr(c) for c in range(0x1F000, 0x3FFFF) if chr(c).isprintable() and fonts.families(chr(c))[1])
    shown = made(classes=("ant", letter, nobody))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pictures.pictures(shown, tmp_path)
    (note,) = json.loads((tmp_path / "summary.json").read_text())["notes"]
    assert nobody in note
    assert "drawn as boxes" in note
    assert made(classes=("ant", letter, "bee")).remarks == ()


def test_a_condition_is_what_a_study_trains_on():
    """The same labels as in the trials of a cell, both sides of the split, in whichever order."""
    setting = parse("pair:0.45", seed=3)[0]
    cell = prepare("digits", Path("data"), setting, 0.1)
    shown = condition(cell, setting, datasets.load("digits").classes, 2000)
    assert len(shown.given) == len(shown.chosen) == len(shown.x) == 1347
    assert shown.effective == pytest.approx(cell.effective_rate)
    assert np.array_equal(shown.x[: len(cell.x)], cell.x.numpy())
    assert shown.expected == pytest.approx(transition_matrix(setting, 10))


def test_every_kind_of_noise(tmp_path):
    """Nominal, expected and effective rate of kinds with a matrix, of matrices from a file, and of kinds that have none."""
    np.save(tmp_path / "t.npy", pair_matrix(10, 0.5))
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8), np.arange(200) % 10
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for text, nominal, expected in (
        ("symmetric:0.4", 0.4, 0.36),
        ("asymmetric:0.4", 0.4, 0.2),
        ("asym_block5:0.4", 0.4, 0.4),
        (f"matrix:{tmp_path / 't.npy'}", None, 0.5),
        (f"matrix:{tmp_path / 't.npy'}:0.5", 0.5, 0.25),
        ("random_labels", None, 0.9),
        ("instance:features:0.4", 0.4, None),
        ("random_pixels", None, None),
        (f"openset:npz:{tmp_path / 'other.npz'}:0.1", 0.1, None),
    ):
        setting = parse(text)[0]
        shown = condition(prepare("digits", Path("data"), setting, 0.1), setting, tuple("0123456789"), 5)
        told = pictures._expected_rate(shown)
        assert shown.nominal == nominal, text
        assert told == (None if expected is None else pytest.approx(expected, abs=0.01)), text
        rate = (nominal or 0) if expected is None else expected
        assert shown.effective == pytest.approx(rate, abs=0.03), text


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("digit",), ("unknown data set 'digit'", "digits")),
        (("digits", "--noise", "pair:0.2,0.3"), ("one noise level, not 2",)),
        (("digits", "--noise", "pear:0.2"), ("unknown noise kind 'pear'", "pair")),
        (("digits", "--noise", "given"), ("came with no noisy labels",)),
        (("digits", "--images", "0"), ("--images is 0",)),
        (("digits", "--out", "file"), ("--out file is a file",)),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main(["data", "show", *argv]) == 2
    told = capsys.readouterr()
    assert all(word in told.err for word in words)
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def there(*files: Path) -> None:
    """Waits until another thread has written the files."""
    for _ in range(600):
        if all(f.exists() for f in files):
            return
        time.sleep(0.1)
    raise AssertionError(f"not there after a minute: {files}")


@pytest.mark.slow
def test_a_study_draws_its_conditions_once(tmp_path):
    noises = [Noise("pair", 0.2), Noise("symmetric", 0.5, seed=1)]
    conditions = [("digits", n) for n in noises]
    folders = [beside.folder(tmp_path, d, n) for d, n in conditions]
    with beside.beside(tmp_path, conditions, Path("data"), 0.1):
        there(*(f / "summary.json" for f in folders))
    assert [f.name for f in folders] == ["digits_pair-0.2", "digits_symmetric-inclusive-0.5_seed1"]
    for f in folders:
        assert {p.name for p in f.iterdir()} == {*PNGS, "summary.json", "classes.csv"}
    before = (folders[0] / "sheet.png").stat().st_mtime_ns
    with beside.beside(tmp_path, conditions, Path("data"), 0.1):
        pass
    assert (folders[0] / "sheet.png").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_study_that_ends_waits_for_the_pictures_at_hand_and_for_no_other(tmp_path):
    conditions = [("digits", Noise("pair", rate)) for rate in (0.1, 0.2, 0.3)]
    with beside.beside(tmp_path, conditions, Path("data"), 0.1):
        there(beside.folder(tmp_path, *conditions[0]))
    drawn = [(beside.folder(tmp_path, *c) / "summary.json").exists() for c in conditions]
    assert drawn in ([True, False, False], [True, True, False])
    assert not [t for t in threading.enumerate() if t.name == "pictures"]  # none is left for the interpreter to break


def test_a_picture_that_cannot_be_drawn_stops_nothing(tmp_path):
    error = beside.folder(tmp_path, "nothing", Noise("pair", 0.2)) / "error.txt"
    with beside.beside(tmp_path, [("nothing", Noise("pair", 0.2))], Path("data"), 0.1) as undrawn:
        there(error)
    assert "unknown data set" in error.read_text()
    (line,) = undrawn
    assert line.startswith("no pictures of nothing pair:0.2: InputError: unknown data set")


def test_the_stand_in_of_a_data_set_has_its_class_map(tmp_path):
    """A study in miniature: smoke:cifar10 under CIFAR-10's own asymmetric noise."""
    setting = parse("asymmetric:0.4")[0]
    cell = prepare("smoke:cifar10", tmp_path, setting, 0.1)
    shown = condition(cell, setting, tuple("0123456789"), 5)
    assert shown.expected is not None
    assert shown.expected[9, 1] == pytest.approx(0.4)  # truck -> automobile
