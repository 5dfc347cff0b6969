"""The commands, in this process: every mistake is one line on standard error and exit code 2, and nothing is written."""

import math
import os
import re
import socket
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import recorded
import torch
from rich.console import Console

from analysis import load
from raystudy import cli, sweep
from raystudy.commands.sweep import finish
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.compose import default_name, of_methods
from raystudy.design.study import Study
from raystudy.learn import training
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.spec import TrialSpec
from raystudy.record.ledger import Ledger

SWEEP = ("sweep", "ce", "--noise", "symmetric:0.2")
TRAIN = ("train", "ce", "--epochs", "1")


class Told(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    """Runs a command as its module's ``main`` would; ``raystudy sweep`` also as ``python -m raystudy.sweep``."""

    def call(*argv: str, main: Callable[[Sequence[str]], int] = cli.main) -> Told:
        try:
            code = main(argv)
        except SystemExit as e:  # argparse
            code = int(e.code or 0)
        return Told(code, *capsys.readouterr())

    return call


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(run: Callable[..., Told], argv: Sequence[str], words: Sequence[str]) -> None:
    """The command ends with code 2 and one line that has these words, and leaves every file as it was."""
    for main, arguments in ((cli.main, argv), (sweep.main, argv[1:])) if argv[0] == "sweep" else ((cli.main, argv),):
        before = tree(Path())
        told = run(*arguments, main=main)
        assert told.code == 2
        assert told.out == ""
        assert tree(Path()) == before
        *usage, line = told.err.splitlines()
        assert all(u.startswith(("usage:", " ")) for u in usage)  # argparse's own; else it is one line
        assert "Traceback" not in told.err
        for word in words:
            assert word in line, line


def images(path: str = "images.npz", **changes: Any) -> str:
    """Writes a small file of images; a change of None leaves an array out."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 8, 8), dtype=np.uint8), np.arange(60) % 3
    told = {"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changes
    np.savez(path, **{k: v for k, v in told.items() if v is not None})
    return f"npz:{path}"


# -- mistakes on the command line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("sweep", "dividmix"), ["unknown method 'dividmix'", "did you mean 'dividemix'", *METHODS]),
        (("train", "dividmix"), ["unknown method 'dividmix'", "did you mean 'dividemix'", *METHODS]),
        (("methods", "dividmix"), ["unknown method 'dividmix'", "did you mean 'dividemix'", *METHODS]),
        ((*SWEEP, "--dataset", "digit"), ["unknown data set 'digit'", "did you mean 'digits'", "cifar10", "npz:PATH"]),
        ((*TRAIN, "--dataset", "digit"), ["unknown data set 'digit'", "did you mean 'digits'", "cifar10", "npz:PATH"]),
        (("sweep", "ce", "--noise", "symetric:0.2"), ["'symetric'", "did you mean 'symmetric'", "pair", "given"]),
        ((*TRAIN, "--noise", "symetric:0.2"), ["'symetric'", "did you mean 'symmetric'", "pair", "given"]),
        (("sweep", "ce", "--noise", "symmetric:inclusiv:0.2"), ["'inclusiv'", "did you mean 'inclusive'", "exclusive"]),
        (
            ("sweep", "ce", "--noise", "pair:inclusive:0.2"),
            ["'pair' has no variants", "'inclusive'", "pair[:COUNT]:RATE"],
        ),
        (("sweep", "ce", "--noise", "symmetric"), ["'symmetric' names no rate", "symmetric:0.2"]),
        (("sweep", "ce", "--noise", "symmetric:1.5"), ["1.5", "outside [0, 1]"]),
        (("sweep", "ce", "--noise", "symmetric:0.2,-0.1"), ["-0.1", "outside [0, 1]"]),
        (("sweep", "ce", "--noise", "symmetric:nan"), ["nan", "outside [0, 1]"]),
        (("sweep", "ce", "--noise", "symmetric:half"), ["'half'", "not a number"]),
        ((*TRAIN, "--noise", "symmetric:half"), ["'half'", "not a number"]),
        ((*TRAIN, "--noise", "symmetric:0.2,0.5"), ["one noise level, not 2"]),
        (("sweep", "ce", "--noise", "given"), ["'digits' came with no noisy labels", "y_noisy"]),
        ((*TRAIN, "--noise", "given"), ["'digits' came with no noisy labels", "y_noisy"]),
        ((*TRAIN, "--noise", "human:worse"), ["'digits' came with no noisy labels", "CIFAR-N", "cifar10"]),
        ((*TRAIN, "--noise", "file:none.npz"), ["there is no mask", "none.npz"]),
        ((*TRAIN, "--noise", "matrix:none.csv:0.2"), ["there is no matrix file", "none.csv"]),
        ((*TRAIN, "--noise", "openset:digits:0.2"), ["must come from another data set", "'digits'"]),
        ((*SWEEP, "--noise", "asym_superclass:0.2"), ["100 classes of CIFAR-100", "has 10"]),
        ((*SWEEP, "--noise-seed", "-1"), ["noise seed -1"]),
        ((*TRAIN, "--noise-seed", "-1"), ["noise seed -1"]),
        ((*SWEEP, "--network", "mlpp"), ["unknown network 'mlpp'", "did you mean 'mlp'", "convnet", "cnn9"]),
        ((*TRAIN, "--network", "mlpp"), ["unknown network 'mlpp'", "did you mean 'mlp'", "convnet", "cnn9"]),
        ((*SWEEP, "--sampler", "tep"), ["unknown sampler 'tep'", "did you mean 'tpe'", "random", "qmc", "gp"]),
        ((*SWEEP, "--scheduler", "ahsa"), ["unknown scheduler 'ahsa'", "did you mean 'asha'", "none"]),
        ((*SWEEP, "--recipe", "sharde"), ["--recipe", "'sharde'", "shared", "paper"]),
        ((*TRAIN, "--recipe", "sharde"), ["--recipe", "'sharde'", "shared", "paper"]),
        ((*SWEEP, "--trails", "3"), ["unknown option '--trails'", "did you mean '--trials'", "--sampler"]),
        ((*TRAIN, "--epoch-s", "3"), ["unknown option '--epoch-s'", "did you mean '--epochs'", "--set"]),
        (("status", "s", "--storge", "x"), ["unknown option '--storge'", "did you mean '--storage'"]),
        (("swep", "ce"), ["'swep'", "sweep", "train", "status"]),
        (("sweep",), ["METHOD"]),
        ((*TRAIN, "--set", "lrr=1"), ["'lrr'", "did you mean 'lr'", "batch_size"]),
        (("train", "dividemix", "--set", "lamda_u=1"), ["'lamda_u'", "did you mean 'lambda_u'", "p_threshold", "lr"]),
        (("train", "dividemix", "--set", "lambda_u"), ["name=value", "'lambda_u'"]),
        (("train", "dividemix", "--set", "lambda_u=much"), ["lambda_u", "float", "'much'"]),
        (("train", "dividemix", "--set", "guess=trian"), ["'trian'", "did you mean 'train'", "eval"]),
        ((*TRAIN, "--set", "lr=-1"), ["--set", "lr=-1", "above 0"]),
        ((*TRAIN, "--set", "schedule=linear", "--set", "milestones=[1]"), ["milestones=[1]", "[0, 1)"]),
        ((*SWEEP, "--objective", "test/acc"), ["'test/acc'", "test set", "choose from: val/acc, val/loss"]),
        ((*SWEEP, "--objective", "acc"), ["'acc'", "val/acc", "val/loss"]),
        ((*SWEEP, "--epochs", "0"), ["--epochs is 0", "from 1"]),
        (("train", "ce", "--epochs", "0"), ["--epochs is 0", "at least 1"]),
        ((*SWEEP, "--epochs", "ten"), ["--epochs", "'ten'"]),
        ((*SWEEP, "--trials", "0"), ["--trials is 0", "from 1"]),
        ((*SWEEP, "--replicates", "-1"), ["--replicates is -1", "from 0"]),
        ((*SWEEP, "--cpus-per-trial", "0"), ["--cpus-per-trial is 0", "above 0"]),
        ((*SWEEP, "--cpus-per-trial", "nan"), ["--cpus-per-trial is nan", "above 0"]),
        ((*SWEEP, "--cpus-per-trial", "100000"), ["--cpus-per-trial is 100000", f"this machine has {os.cpu_count()}"]),
        ((*SWEEP, "--gpus-per-trial", "-1"), ["--gpus-per-trial is -1", "0 or more"]),
        *(
            (
                (*words, "--gpus-per-trial", n),
                [f"--gpus-per-trial is {n}", "a trial trains on one GPU", "choose 1, a fraction or auto"],
            )
            for n in ("1.5", "2")
            for words in (
                SWEEP,
                (*SWEEP, "--dry-run"),
                (*SWEEP, "--address", "auto"),
                ("plan", "ce", "--probe-seconds", "0"),
            )
        ),
        ((*SWEEP, "--checkpoint-every", "0"), ["--checkpoint-every is 0", "above 0"]),
        ((*SWEEP, "--max-concurrent", "0"), ["--max-concurrent is 0", "at least 1"]),
        ((*SWEEP, "--seed", "-1"), ["--seed is -1", "from 0"]),
        ((*TRAIN, "--seed", "-1"), ["--seed is -1", "at least 0"]),
        ((*SWEEP, "--val-fraction", "1.5"), ["--val-fraction is 1.5", "between 0 and 1"]),
        ((*TRAIN, "--val-fraction", "1.5"), ["--val-fraction is 1.5", "between 0 and 1"]),
        ((*TRAIN, "--val-fraction", "nan"), ["--val-fraction is nan", "between 0 and 1"]),
        ((*TRAIN, "--val-fraction", "1e-9"), ["1e-09", "1347"]),
        ((*SWEEP, "--clean-val", "-1"), ["--clean-val is -1", "from 0"]),
        ((*TRAIN, "--threads", "0"), ["--threads is 0", "at least 1"]),
        ((*TRAIN, "--device", "gpu"), ["'gpu'", "cpu"]),
        ((*TRAIN, "--device", "cuda:99"), ["'cuda:99'", "cpu"]),
        ((*TRAIN, "--device", "meta"), ["'meta'", "cpu"]),
        *(((*SWEEP, "--name", n), [repr(n), "not usable as a folder"]) for n in ("../x", "/etc", ".", "", "x" * 101)),
        (("status", "../x"), ["'../x'", "not usable as a folder"]),
        (("sync", "/etc"), ["'/etc'", "not usable as a folder"]),
        ((*SWEEP, "--tracking-uri", "http://127.0.0.1:9"), ["http://127.0.0.1:9", "does not answer", "sqlite:///"]),
        (("ui", "--tracking-uri", "http://127.0.0.1:9"), ["http://127.0.0.1:9", "does not answer", "sqlite:///"]),
        ((*SWEEP, "--tracking-uri", "ftp://x"), ["'ftp'", "sqlite:///", "http"]),
    ],
)
def test_mistake(run: Callable[..., Told], argv: Sequence[str], words: Sequence[str]) -> None:
    refused(run, argv, words)


# -- mistakes in files


def test_train_says_that_a_run_collapsed(run: Callable[..., Told]) -> None:
    """A co-teaching that forgets nothing gives every sample the weight 1."""
    short = ("train", "coteaching", "--epochs", "3", "--set", "gradual=0.0", "--set")
    assert (
        "the run collapsed: all weights equal (as if nothing were weighed) for three"
        in run(*short, "forget_rate=0.0").out
    )
    assert "the run collapsed" not in run(*short, "forget_rate=0.3").out


def test_a_sweep_ends_with_the_trials_that_collapsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded.write(tmp_path / "s", methods=("ce", "elr"), rates=(0.2,))
    study, histories = load.study(tmp_path / "s")
    outcome, console = SimpleNamespace(folder=tmp_path / "s"), Console(width=300)
    assert finish(outcome, "none", console) == 0
    assert "Collapsed" not in capsys.readouterr().out
    fallen = next(h for cell, h in histories.items() if cell.method == "elr")
    next(iter(fallen.trials.values())).curves["method/collapsed"] = array("d", [math.nan, 1.0])
    monkeypatch.setattr(load, "study", lambda *_, **__: (study, histories))
    assert finish(outcome, "none", console) == 0
    said = (
        f"three epochs or more after the warm-up): elr symmetric 0.2 (1 of {len(fallen.trials)}: one class predicted)."
    )
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [SWEEP, TRAIN], ids=["sweep", "train"])
def test_images_that_cannot_be_used(run: Callable[..., Told], command: Sequence[str]) -> None:
    whole = Path(images().removeprefix("npz:")).read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    Path("bytes.npz").write_bytes(bytes(range(256)))
    Path("empty.npz").write_bytes(b"")
    Path("folder.npz").mkdir()
    y = np.arange(60) % 3
    for dataset, words in (
        ("npz:none.npz", ["none.npz", "no such file"]),
        ("npz:cut.npz", ["cut.npz", "not an .npz file"]),
        ("npz:bytes.npz", ["bytes.npz", "not an .npz file"]),
        ("npz:empty.npz", ["empty.npz", "empty"]),
        ("npz:folder.npz", ["folder.npz", "not an .npz file"]),
        (images("a.npz", y_test=None), ["a.npz", "no array y_test", "x_train, y_train (and x_test with y_test"]),
        (images("b.npz", y_train=y - 1), ["b.npz", "y_train[0] is -1", "negative"]),
        (images("c.npz", y_test=y + 5), ["c.npz", "y_test[0] is 5", "classes 0 to 2"]),
        (images("d.npz", y_train=y[:50]), ["d.npz", "50 labels for 60 images"]),
        (images("e.npz", x_train=np.full((60, 8, 8), np.nan)), ["e.npz", "x_train[0]", "NaN"]),
        (images("f.npz", y_train=y.astype(object)), ["f.npz", "y_train", "object"]),
        (images("g.npz", y_noisy=y + 1), ["g.npz", "y_noisy[2] is 3", "classes 0 to 2"]),
    ):
        refused(run, (*command, "--dataset", dataset), words)


def test_a_checkpoint_that_is_not_ours(run: Callable[..., Told]) -> None:
    Path("text.pt").write_text("hello")
    torch.save({"weights": torch.zeros(3)}, "foreign.pt")
    assert run(*TRAIN, "--checkpoint", "ours.pt").code == 0
    Path("cut.pt").write_bytes(Path("ours.pt").read_bytes()[:-100])
    Path("folder.pt").mkdir()
    for file, words in (
        ("text.pt", ["text.pt", "not a checkpoint of raystudy"]),
        ("foreign.pt", ["foreign.pt", "not a checkpoint of raystudy"]),
        ("cut.pt", ["checkpoint cut.pt is "]),
        ("folder.pt", ["checkpoint folder.pt is "]),
        (".", ["checkpoint . is "]),
        ("nowhere/x.pt", ["nowhere", "not there"]),
    ):
        refused(run, (*TRAIN, "--checkpoint", file), words)
    refused(run, (*TRAIN, "--seed", "1", "--checkpoint", "ours.pt"), ["ours.pt belongs to another trial"])


def test_a_storage_that_cannot_be_written(run: Callable[..., Told]) -> None:
    Path("file").write_text("mine")
    refused(
        run, (*SWEEP, "--tracking-uri", "none", "--storage", "file"), ["cannot write to the storage", "file/ce-digits"]
    )
    refused(run, (*SWEEP, "--tracking-uri", "none", "--storage", "file/deeper"), ["cannot write to the storage"])
    refused(run, (*SWEEP, "--tracking-uri", "sqlite:///file/m.db"), ["cannot create the MLflow store"])


def begun(name: str = "mine", **changes: Any) -> Study:
    """A study with one cell that has a finished trial, in the default storage."""
    told: dict[str, Any] = {"trials": 1, "replicates": 0, "epochs": 4, "network": "mlp"} | changes
    study = Study(name, ("ce",), ("digits",), (Noise("symmetric", 0.2),), **told)
    ledger, cell = Ledger(Path("studies") / name), study.cells()[0]
    ledger.open(cell.key, {"cell": cell.to_dict(), "effective_rate": 0.18})
    ledger.append(
        cell.key,
        {"event": "trial", "key": "k", "number": 0, "origin": "paper", "point": {}, "seed": 0},
        *(
            {
                "event": "record",
                "key": "k",
                "epoch": e,
                "metrics": {"val/acc": 0.5, "test/acc": 0.625, "cost/seconds": 1},
            }
            for e in range(4)
        ),
        {"event": "end", "key": "k", "state": "complete"},
    )
    ledger.close()
    (Path("studies") / name / "study.toml").write_text(study.to_toml())
    return study


@pytest.mark.parametrize("command", ["status", "sync"])
def test_a_study_that_is_not_there(run: Callable[..., Told], command: str) -> None:
    refused(run, (command, "mine"), ["unknown study", "'mine'", "(none)"])
    for name in ("mine", "yours"):
        begun(name)
    refused(run, (command, "nine"), ["'nine'", "did you mean 'mine'", "choose from: mine, yours"])
    refused(run, (command, "mine", "--storage", "elsewhere"), ["elsewhere", "(none)"])


def test_ui_where_nothing_can_listen(run: Callable[..., Told]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = run("ui", "--port", str(port))
        assert told.code == 2
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port" in told.err
    told = run("ui", "--port", "70000")
    assert told.code == 2
    assert "--port is 70000; it must be from 1 to 65535" in told.err
    assert len(told.err.splitlines()) == 1


def test_sync_to_a_server_that_is_not_there(run: Callable[..., Told]) -> None:
    begun("mine")
    refused(run, ("sync", "mine", "--tracking-uri", "http://127.0.0.1:9"), ["http://127.0.0.1:9", "does not answer"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (("--epochs", "3"), ["epochs=4", "now 3"]),
        (("--network", "convnet"), ["network='mlp'", "now 'convnet'"]),
        (("--objective", "val/loss"), ["objective='val/acc'", "now 'val/loss'"]),
        (("--seed", "3"), ["seed=0", "now 3"]),
        (("--val-fraction", "0.2"), ["val_fraction=0.1", "now 0.2"]),
    ],
)
def test_growth_into_another_study(run: Callable[..., Told], changes: Sequence[str], words: Sequence[str]) -> None:
    begun("mine")
    refused(run, (*SWEEP, "--name", "mine", "--epochs", "4", *changes), ["'mine'", *words, "--name"])


def test_a_broken_study_is_not_run(run: Callable[..., Told]) -> None:
    begun("mine")
    told = Path("studies/mine/study.toml")
    told.write_text(told.read_text().replace("epochs = 4", "epochs = 4.5"))
    refused(run, (*SWEEP, "--name", "mine"), ["study.toml", "epochs"])


# -- in a process of its own


def python(*argv: str) -> Told:
    """A command in a process of its own."""
    told = subprocess.run([sys.executable, "-m", *argv], capture_output=True, text=True, timeout=120)
    return Told(told.returncode, told.stdout, told.stderr)


def test_a_mistake_ends_the_process_with_code_2() -> None:
    told = python("raystudy.sweep", "dividmix")
    assert told.code == 2
    assert told.out == ""
    assert re.fullmatch(r"raystudy: unknown method 'dividmix'; did you mean 'dividemix'\? [^\n]*\n", told.err)


def test_help_of_the_process() -> None:
    told = python("raystudy", "--help")
    assert told.code == 0
    assert told.err == ""
    assert "examples:" in told.out
    assert "raystudy sweep dividemix" in told.out


# -- what is asked for and given


@pytest.mark.parametrize(
    "command", ["", "sweep", "train", "methods", "datasets", "status", "sync", "export", "simulate", "merge", "ui"]
)
def test_help(run: Callable[..., Told], command: str) -> None:
    told = run(*filter(None, [command]), "--help")
    assert told.code == 0
    assert told.err == ""
    assert "example" in told.out
    assert f"raystudy {command}" in told.out or command == "sweep"


def test_help_of_sweep_and_version(run: Callable[..., Told]) -> None:
    told = run("--help", main=sweep.main)
    assert told.code == 0
    assert "python -m raystudy.sweep dividemix" in told.out
    assert re.fullmatch(r"raystudy \d+\.\d+.*\n", run("--version").out)


def test_methods(run: Callable[..., Told]) -> None:
    told = run("methods")
    assert (told.code, told.err) == (0, "")
    for name in METHODS:
        assert re.search(rf"^ *{name} ", told.out, re.MULTILINE)
    told = run("methods", "dividemix")
    assert (told.code, told.err) == (0, "")
    assert "Paper: " in told.out
    assert re.search(r"lambda_u +25.0 +0 or 5 to 300 \(log\)", told.out)
    assert re.search(r"guess +train +fixed", told.out)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_a_card(run: Callable[..., Told], method: str) -> None:
    assert run("methods", method).code == 0


def test_datasets(run: Callable[..., Told]) -> None:
    told = run("datasets")
    assert (told.code, told.err) == (0, "")
    assert re.search(r"digits +yes +1,347 +450 +10 +1x8x8", told.out)
    assert re.search(r"cifar10 +no +50,000", told.out)
    assert "npz:PATH" in told.out
    assert tree(Path()) == {}


def accuracies(out: str) -> list[str]:
    return re.findall(r"^epoch +\d+ .* test/acc ([\d.]+)", out, re.MULTILINE)


def test_train(run: Callable[..., Told]) -> None:
    told = run("train", "ce", "--epochs", "2")
    assert (told.code, told.err) == (0, "")
    assert "ce on digits symmetric:inclusive:0.5 (" in told.out
    curve = accuracies(told.out)
    assert len(curve) == 2
    mean = re.search(r"mean of the last 2 epochs: ([\d.]+)", told.out)
    assert mean is not None
    assert float(mean[1]) == pytest.approx(sum(map(float, curve)) / 2, abs=1e-4)
    assert tree(Path()) == {}
    assert accuracies(run("train", "ce", "--epochs", "2").out) == curve


def test_train_on_images_of_ones_own(run: Callable[..., Told]) -> None:
    dataset = images("my [blue] images.npz", y_noisy=(np.arange(60) + (np.arange(60) % 5 == 0)) % 3)
    told = run(*TRAIN, "--dataset", dataset, "--noise", "given", "--set", "batch_size=8")
    assert (told.code, told.err) == (0, "")
    assert "my [blue] images.npz given (20.0% wrong)" in told.out


def test_train_names_what_was_read_off_the_truth(run: Callable[..., Told]) -> None:
    argv = ("train", "coteaching", "--noise", "pair:0.45", "--epochs", "1")
    assert "(ORACLE: forget_rate read off the truth)" in run(*argv).out
    assert "ORACLE" not in run(*argv, "--set", "forget_rate=0.4").out


def test_train_goes_on_from_its_checkpoint(run: Callable[..., Told]) -> None:
    whole = accuracies(run("train", "ce", "--epochs", "3").out)
    noise = Noise("symmetric", 0.5)
    data = prepare("digits", Path("data"), noise, 0.1)
    spec = TrialSpec(
        method="ce",
        version=METHODS["ce"].version,
        point=space.load("ce").paper("digits", noise)[0],
        dataset="digits",
        data_digest=data.data_digest,
        noise=noise.to_dict(),
        noise_digest=data.noise_digest,
        network="mlp",
        recipe=space.recipe_for("shared", "ce", "digits", "mlp").to_dict(),
        epochs=3,
        seed=0,
        val_fraction=0.1,
        clean_val=0,
    )
    begun = training.Run(spec, data)
    begun.epoch()
    argv = ("train", "ce", "--epochs", "3", "--checkpoint", "run.pt")
    for name in ("run.pt", "run.pt.prev"):  # killed while training, and killed while saving
        for file in Path().glob("run.pt*"):
            file.unlink()
        begun.save(Path(name))
        told = run(*argv)
        assert (told.code, told.err) == (0, "")
        assert accuracies(told.out) == whole[1:]
        assert "epoch   2" in told.out
        assert "epoch   1" not in told.out
    again = run(*argv)
    assert again.code == 0
    assert accuracies(again.out) == []
    assert "mean of the last 3 epochs" in again.out


def test_train_that_diverges(run: Callable[..., Told]) -> None:
    told = run("train", "ce", "--epochs", "2", "--set", "lr=1e6")
    assert told.code == 1
    assert "diverged" in told.out


def test_dry_run(run: Callable[..., Told]) -> None:
    argv = ("dividemix", "--noise", "symmetric:0.2,0.8", "--noise", "pair:0.45", "--trials", "7", "--dry-run")
    for main, arguments in ((sweep.main, argv), (cli.main, ("sweep", *argv))):
        told = run(*arguments, main=main)
        assert (told.code, told.err) == (0, "")
        assert "study dividemix-digits: mlp, 90 epochs, recipe shared, tpe + asha on val/acc" in told.out
        for method, trials in (("dividemix", "7 trials"), ("ce", "1 trial")):
            for label in ("symmetric:inclusive:0.2", "symmetric:inclusive:0.8", "pair:0.45"):
                line = next(s for s in told.out.splitlines() if re.match(rf" +{method} +digits {label} ", s))
                assert f"{trials}, 2 replicates; trial 0: " in line
                assert "% wrong)" in line
        assert re.search(r"dividemix .*symmetric:inclusive:0.8 .*trial 0: lambda_u=25.* \[.+\]", told.out)
        assert "space of dividemix: lambda_u 0 or 5 to 300 (log), p_threshold 0.2 to 0.9" in told.out
        assert "space of ce: nothing to search" in told.out
        assert tree(Path()) == {}


def test_dry_run_of_a_study_that_was_begun_is_of_what_it_will_be(run: Callable[..., Told]) -> None:
    (folder := Path("studies", "s")).mkdir(parents=True)
    study = of_methods(["elr"], noise=["symmetric:0.2"], epochs=12, budget={"evaluate": "every:5"})
    told = replace(study, name="s", virtual_workers=2).to_toml()
    (folder / "study.toml").write_text(told)
    argv = ("sweep", "elr", "--noise", "symmetric:0.2", "--name", "s", "--evaluate", "every:5", "--dry-run", "--epochs")
    out = " ".join(run(*argv, "24").out.split())
    assert "study s has been begun" in out
    assert "mlp, 12 epochs" in out
    assert "Evaluated every 5 epochs" in out
    assert "Replicates: 24 epochs; the search: 12." in out
    refused = run(*argv, "12", "--start-from", "reference")
    assert (refused.code, refused.out) == (2, "")
    assert "begun with start_from=" in refused.err
    assert (folder / "study.toml").read_text() == told
    (folder / "study.toml").write_text(told.replace("trials = ", 'start_from = ["reference"]\ntrials = ', 1))
    assert run(*argv, "12", "--start-from", "reference").code == 0  # the same command again


def test_dry_run_names_its_oracle(run: Callable[..., Told]) -> None:
    told = run("sweep", "coteaching", "--no-baseline", "--noise", "pair:0.45", "--dry-run")
    assert "(ORACLE: forget_rate read off the truth)" in told.out
    assert "space of ce" not in told.out


def test_a_studys_name_follows_from_what_it_is() -> None:
    assert default_name(("ce", "dividemix"), "digits") == "dividemix-digits"
    assert default_name(("ce",), "digits") == "ce-digits"
    assert default_name(("ce", "mixup"), "npz:/data/images.npz") == "mixup-images"
    names = [default_name(("ce",), f"npz:/data/{stem}.npz") for stem in ("my images", "my-images", "ä" * 200)]
    assert len(set(names)) == 3
    for name in [*names, default_name(tuple("abcdefgh" * 20), "digits")]:
        Study(name, ("ce",), ("digits",), (Noise("pair", 0.2),), 1, 0, 1, "mlp")


def test_status(run: Callable[..., Told]) -> None:
    begun("mine")
    before = tree(Path("studies"))
    told = run("status", "mine")
    assert (told.code, told.err) == (0, "")
    assert re.search(r"ce +symmetric 0.2 +1 +0 +0 +0 +0 +4 +50.0", told.out)
    assert "62.5" in told.out
    assert "ORACLE" in told.out
    assert "no sweep is running" in told.out
    assert tree(Path("studies")) == before


def test_status_of_a_broken_study(run: Callable[..., Told]) -> None:
    study = begun("mine")
    cell = Path("studies/mine/cells") / f"{study.cells()[0].key}.jsonl"
    cell.write_text("no ledger\n")
    refused(run, ("status", "mine"), [cell.name, "broken ledger line"])
    Path("studies/mine/study.toml").write_text("name = 3")
    refused(run, ("status", "mine"), ["study.toml", "name must be str, not 3"])
