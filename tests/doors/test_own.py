"""What users bring: methods and networks from files, modules and installed packages, found, checked, kept apart by their source."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import raystudy as rs
from raystudy import own
from raystudy.data import datasets, spec
from raystudy.data.noise import Noise
from raystudy.design import space, studyfile
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn import networks, point
from raystudy.learn.celldata import prepare
from raystudy.learn.training import Run
from raystudy.tools.check import CHECKS, check

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "my_method.py"
NAME = "my_method.py:SmallLoss"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the example's method in it, and nothing remembered of other files."""
    shutil.copy(EXAMPLE, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(own, "_texts", {})
    monkeypatch.setattr(own, "_folders", {})
    return tmp_path


def spec_of(name: str):
    noise = Noise("symmetric", 0.3)
    data = prepare("digits", Path("data"), noise, 0.1)
    return single(own.located(name), data, "digits", noise, "mlp", 2, val_fraction=0.1), data


def test_a_file_is_known_by_its_own_name(folder: Path) -> None:
    assert own.located("./my_method.py:SmallLoss") == NAME
    assert own.located(str(folder / NAME)) == NAME
    assert issubclass(point.method_class(NAME), rs.Method)
    assert [d.name for d in space.load(NAME).dimensions] == ["keep"]
    assert point.card(NAME).startswith("Small-loss training")
    assert rs.Study(NAME).name == "SmallLoss-digits"


def test_its_source_is_part_of_the_key(folder: Path) -> None:
    before, _ = spec_of(NAME)
    (folder / "my_method.py").write_text(EXAMPLE.read_text() + "\n# another\n")
    after, _ = spec_of(NAME)
    assert before.code != after.code
    assert before.key != after.key
    ours, _ = spec_of("ce")
    assert ours.code == ""
    assert len(ours.key) == 16


def test_a_training_whose_code_is_another_is_refused(folder: Path) -> None:
    spec, data = spec_of(NAME)
    Run(spec, data)
    own.provide({"my_method.py": EXAMPLE.read_text() + "\n# another\n"})
    with pytest.raises(InputError, match=r"my_method.py:SmallLoss with mlp is not here what the study was begun with"):
        Run(spec, data)


def test_a_space_lies_beside_a_file_or_in_its_class(folder: Path) -> None:
    text = EXAMPLE.read_text().replace("    SPACE: ClassVar", "    OTHER: ClassVar")
    (folder / "mine.py").write_text(text)
    name = own.located("mine.py:SmallLoss")
    assert space.load(name).dimensions == ()
    (folder / "mine.toml").write_text("[space]\nwarmup = { low = 0.1, high = 0.5 }\n[recipe]\nlr = 0.1\n")
    assert [d.name for d in space.load(name).dimensions] == ["warmup"]
    assert space.recipe_for("paper", name, "digits", "mlp").lr == 0.1
    (folder / "mine.toml").write_text("[space]\nwarm = { low = 0.1, high = 0.5 }\n")
    with pytest.raises(
        InputError, match=r"unknown hyperparameter of mine.py:SmallLoss in mine.toml 'warm'; did you mean 'warmup'"
    ):
        space.load(name)


MADE = """
from raystudy import Method
class Mine(Method):
    def __init__(self, task, {}):
        super().__init__(task)
    def step(self, batch, t):
        return {{}}
"""


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("x = (", "a.py:X", r"a.py cannot be run: SyntaxError: .* line 1"),
        ("\nraise ValueError('so')", "a.py:X", r"a.py cannot be run: ValueError: so, line 2"),
        ("import nothing_of_the_kind", "a.py:X", r"a.py cannot be run: ModuleNotFoundError"),
        ("class Mine: pass", "a.py:Mime", r"unknown name in a.py 'Mime'; did you mean 'Mine'"),
        ("import torch\nfrom raystudy import Method\nclass Mine: pass", "a.py:X", r"choose from: Mine$"),
        ("raise SystemExit(3)", "a.py:X", r"a.py cannot be run: SystemExit: 3, line 1"),
        ("def f():\n    from my_method import SmallLoss", "a.py:f", r"a.py imports my_method, the file beside it"),
        ("", "a.py", r"a.py names no class: write a.py:CLASS"),
        (
            "from raystudy import Method\nclass Mine(Method): pass",
            "a.py:Mine",
            r"has neither step\(batch, t\) nor epoch",
        ),
        (
            MADE.format("*, keep: float, rate=1.0"),
            "a.py:Mine",
            r"a.py:Mine: keep: every .* keyword-only, after a \*, and",
        ),
        (MADE.format("keep=0.5"), "a.py:Mine", r"a.py:Mine: keep: every hyperparameter is keyword-only"),
        ("class Mine: pass", "a.py:Mine", r"a.py:Mine is no method: it must be a class made from"),
        ("", "b.py:Mine", r"b.py:Mine: there is no file .*b.py that can be read"),
        ("", "no.such.module:Mine", r"module 'no.such.module' cannot be imported|there is no module"),
    ],
)
def test_what_cannot_be_had_is_said_in_a_line(text: str, name: str, words: str, folder: Path) -> None:
    (folder / "a.py").write_text(text)
    with pytest.raises(InputError, match=words) as told:
        point.method_class(own.located(name))
    assert "\n" not in str(told.value)


NETWORKS = """
from torch import nn


def head(shape, n_classes):
    pixels = shape[0] * shape[1] * shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, n_classes))


def dropped(shape, n_classes, dropout):
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.LazyLinear(n_classes))


def wrong(shape, n_classes):
    return nn.Flatten()


def broken(shape, n_classes):
    return shape[7]
"""


def test_a_network_of_ones_own(folder: Path) -> None:
    (folder / "nets.py").write_text(NETWORKS)
    name = own.located("nets.py:head")
    net = networks.build(name, (1, 8, 8), 10)
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 10)  # in training, too
    assert networks.build(own.located("nets.py:dropped"), (1, 8, 8), 10, 0.3)[1].p == 0.3
    for wrong, words in (
        (("nets.py:head", (1, 8, 8), 10, 0.5), "has no place for dropout"),
        (("nets.py:head", (256,), 10), r"cannot be made for 256 and 10 classes: IndexError"),
        (("nets.py:wrong", (1, 8, 8), 10), r"gives \[2, 64\] for two samples; it gives logits \[2, 10\]"),
        (("nets.py:broken", (1, 8, 8), 10), "cannot be made for 1x8x8 and 10 classes: IndexError"),
        (("nets.py:non", (1, 8, 8), 10), "unknown name in nets.py 'non'"),
    ):
        with pytest.raises(InputError, match=words):
            networks.build(*wrong)
    assert point.code("ce", name)
    assert point.code("ce", "resnet18:pretrained") == ""
    assert rs.Study("ce", network="nets.py:head", epochs=2).design.brought == (name,)


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    (folder / "other").mkdir()
    (folder / "other" / "my_method.py").write_text("# another\n")
    own.located(NAME)
    with pytest.raises(InputError, match=r"two files are called my_method.py"):
        own.located("other/my_method.py:SmallLoss")


def test_a_study_file_names_code_only_where_it_is_trusted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs" / "evil.py").write_text(
        f"open({str(folder / 'ran')!r}, 'w')\n" + EXAMPLE.read_text().partition('"""\n')[2]
    )
    file = folder / "theirs" / "s.toml"
    file.write_text('methods = ["evil.py:SmallLoss"]\ndatasets = ["digits"]\nnoise = ["symmetric:0.5"]\n')
    with pytest.raises(InputError, match=r"s.toml names evil.py:SmallLoss, which would run as you: .* --trust"):
        studyfile.load(str(file), Path("data"))
    assert not (folder / "ran").exists()
    assert studyfile.load(str(file), Path("data"), trust=True).methods == (
        "evil.py:SmallLoss",
    )  # found beside the file
    assert (folder / "ran").exists()


OWN_DATA = """
import numpy as np


def blobs(root):
    x = np.random.default_rng(0).normal(size=(300, 6)).astype("f4")
    y = np.arange(300) % 3
    return {"x_train": x + 2 * y[:, None], "y_train": y, "class_names": ["ash", "elm", "oak"], "truth": True}


def next_one(n_classes):
    return np.roll(np.eye(n_classes), 1, 1)


def swapped(labels, n_classes, rate, seed):
    chosen = np.random.default_rng(seed).random(len(labels)) < rate
    return np.where(chosen, n_classes - 1 - labels, labels)
"""


def broken(**changed: str) -> str:
    text = OWN_DATA
    for old, new in changed.items():
        text = text.replace({"array": "x_train", "end": '"truth": True'}[old], new)
    return text


def test_a_function_brings_a_data_set(folder: Path) -> None:
    (folder / "mine.py").write_text(OWN_DATA)
    name = spec.located(str(folder / "mine.py:blobs"), imbalance="step:2")
    assert name == "mine.py:blobs?imbalance=step:2"
    data = datasets.load("mine.py:blobs")
    assert (data.kind, data.classes, data.truth, data.title) == ("vectors", ("ash", "elm", "oak"), True, "blobs")
    assert data.notes[0].startswith("no x_test: the test set is ")
    assert len(datasets.load(name).y_train) < len(data.y_train)
    study = rs.Study("ce", dataset="mine.py:blobs", noise="symmetric:0.2", epochs=2)
    assert study.design.brought == ("mine.py:blobs",)
    (folder / "mine.py").write_text(OWN_DATA + "\n# a comment\n")
    own.located("mine.py:blobs")
    assert datasets.load("mine.py:blobs").digest == data.digest  # what it holds names it, not how it is written
    (folder / "mine.py").write_text(OWN_DATA.replace("default_rng(0)", "default_rng(1)"))
    own.located("mine.py:blobs")
    assert datasets.load("mine.py:blobs").digest != data.digest


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("blobs = 3", r"mine.py:blobs is no data set: it must be a function of the data root"),
        ("def blobs(root): return 1 / 0", r"mine.py:blobs fails: ZeroDivisionError: division by zero"),
        ("def blobs(root): return [1]", r"mine.py:blobs returns list, not a dictionary of arrays"),
        (broken(array="x_trian"), r"unknown array of mine.py:blobs 'x_trian'; did you mean 'x_train'"),
        (broken(end='"y_test": y'), r"mine.py:blobs returns no x_test"),
        (broken(end='"y_noisy": y + 1'), r"mine.py:blobs: y_noisy\[2\] is 3, out of range"),
    ],
)
def test_what_is_no_data_set(folder: Path, text: str, why: str) -> None:
    (folder / "mine.py").write_text(text)
    own.located("mine.py:blobs")
    with pytest.raises(InputError, match=why):
        datasets.load("mine.py:blobs")


def test_a_study_file_names_data_only_where_it_is_trusted(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs" / "data.py").write_text(OWN_DATA)
    file = folder / "theirs" / "s.toml"
    file.write_text('methods = ["ce"]\ndatasets = ["data.py:blobs"]\nnoise = ["symmetric:0.5"]\n')
    with pytest.raises(InputError, match=r"s.toml names data.py:blobs, which would run as you: .* --trust"):
        studyfile.load(str(file), Path("data"))
    assert studyfile.load(str(file), Path("data"), trust=True).datasets == ("data.py:blobs",)


@pytest.mark.slow
def test_an_installed_package_brings_methods_data_and_noise(tmp_path: Path) -> None:
    (tmp_path / "brought.py").write_text(EXAMPLE.read_text() + OWN_DATA)
    (tmp_path / "brought-1.dist-info").mkdir()
    (tmp_path / "brought-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1\n")
    (tmp_path / "brought-1.dist-info" / "entry_points.txt").write_text(
        "[raystudy.methods]\nsmall_loss = brought:SmallLoss\nnone_such = brought:Other\n"
        "[raystudy.datasets]\nblobs = brought:blobs\n[raystudy.noise]\nnext = brought:next_one\nswap = brought:swapped\n"
        "bad = brought:blobs\n"
    )

    def said(*words: str) -> str:
        told = subprocess.run(
            [sys.executable, *([] if words[0].endswith(".py") else ["-m", "raystudy"]), *words],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "COLUMNS": "200"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        return told.stdout

    told = said("train", "small_loss", "--dataset", "blobs", "--noise", "next:0.3", "--epochs", "1")
    assert "small_loss on blobs next:0.3 (" in told
    (tmp_path / "ask.py").write_text(
        "import raystudy as rs\n"
        "print(rs.datasets().loc['blobs', 'source'], rs.noise().loc['swap', 'about'])\n"
        "print(rs.corrupt([0, 1, 2] * 100, 'swap:0.5').mean())\n"
        "for text in ('bad:0.2', 'swop:0.2'):\n"
        "    try: rs.corrupt([0, 1, 2], text)\n"
        "    except rs.InputError as e: print(e)\n"
    )
    lines = said("ask.py").splitlines()
    assert lines[0] == "of the package brought of the package brought"
    assert 0.9 < float(lines[1]) < 1.1
    assert lines[2].startswith("noise 'bad' must be a function of (n_classes) or of (labels, n_classes, rate, seed)")
    assert "did you mean 'swap'?" in lines[3]
    assert "of the package brought" in said("datasets")
    listed = said("methods")  # one that cannot be had does not hide the others
    assert "Small-loss training" in listed
    assert "unknown name in brought 'Other'; choose from: SmallLoss" in listed


def test_the_contract_holds_for_the_example_and_tells_what_does_not(folder: Path) -> None:
    text = EXAMPLE.read_text().replace("kept / kept", "kept").replace('"loss": loss.detach()', '"loss": loss')
    (folder / "bad.py").write_text(
        text.replace("self.keep, self.warmup = keep, warmup", "self.keep, self.warmup = keep, 3 / task.epochs")
    )
    asked = ("logs what it should", "repeats itself", "scales its durations")
    seen = {c.name: c for c in check(own.located("bad.py:SmallLoss"), names=asked)}
    assert tuple(seen) == tuple(name for name in CHECKS if name in asked)
    assert not seen["logs what it should"].holds
    assert "loss.detach()" in seen["logs what it should"].seen
    assert not seen["scales its durations"].holds
    assert seen["repeats itself"].holds


@pytest.mark.slow
@pytest.mark.parametrize("name", [NAME, "ce", "dividemix"])
def test_every_check_holds(name: str, folder: Path) -> None:
    assert [c for c in check(own.located(name)) if not c.holds] == []


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_of_ones_own_is_run_goes_on_and_knows_a_changed_file(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    (folder / "mine.py").write_text(OWN_DATA)

    def sweep(*words: str) -> tuple[int, str]:
        told = [
            "--dataset",
            "mine.py:blobs",
            "--noise",
            "symmetric:0.5",
            "--epochs",
            "3",
            "--trials",
            "2",
            "--replicates",
            "1",
            "--tracking-uri",
            "none",
        ]
        done = subprocess.run(
            [sys.executable, "-m", "raystudy.sweep", *words, *told],
            cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout
        return done.returncode, done.stdout

    code, printed = sweep(NAME)
    assert code == 0, printed
    assert NAME in printed
    study = folder / "studies" / "SmallLoss-blobs"
    assert (study / "own" / "mine.py").read_text() == OWN_DATA
    assert (study / "own" / "my_method.py").read_text() == EXAMPLE.read_text()
    ledger = {p.name: p.read_bytes() for p in (study / "cells").iterdir()}
    assert sweep(NAME)[0] == 0
    assert {p.name: p.read_bytes() for p in (study / "cells").iterdir()} == ledger
    code, printed = sweep("elr", "--name", "SmallLoss-blobs")
    assert code == 2
    assert "name it in the command" in printed
    (folder / "my_method.py").write_text(EXAMPLE.read_text() + "\n# changed\n")
    code, printed = sweep(NAME)
    assert code == 2
    assert "my_method.py:SmallLoss has changed since study 'SmallLoss-blobs' was begun" in printed
    assert {p.name: p.read_bytes() for p in (study / "cells").iterdir()} == ledger
