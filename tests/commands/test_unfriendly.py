"""Input from unfriendly hands, made by hypothesis: whatever it is, it is taken or refused in one line, and nothing is half-written.

Also: nothing that is read runs code that is in it, names stay in their folder, and servers listen on loopback.

A few examples each, always the same ones (the profile "few" of conftest.py); the slow test looks at more of them, and
`pytest tests/test_unfriendly.py -m "not slow" --hypothesis-profile=many` at thousands of new ones.
"""

import contextlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raystudy import cli
from raystudy.commands import app, texts
from raystudy.data import datasets, masks
from raystudy.data.noise import NOISES, Noise, parse
from raystudy.design import space
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.learn import training
from raystudy.learn.celldata import prepare
from raystudy.learn.methods.mentornet_dd import SHAPES, read_mentor
from raystudy.learn.spec import TrialSpec
from raystudy.record import ledger

ODD = "0 -1 1e400 nan inf 0.2 1 7 .. . / a/b ../../x é -- - = : , [] {} 🙂 ~ ~nobody-of-that-name/x %s [red] <b> x.npz s none auto"
WORDS = st.sampled_from([*ODD.split(), "", "x" * 300, "\n", "\udcff"])
TEXT = st.one_of(WORDS, st.text(st.characters(exclude_characters="\0"), max_size=12))
STORED = st.one_of(
    WORDS.filter(lambda t: t != "\udcff"), st.text(max_size=12), st.just("a\0b")
)  # what a file in UTF-8 can hold
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), STORED),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STORED, inner, max_size=3)),
    max_leaves=6,
)
TOML = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(), STORED),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STORED, inner, max_size=3)),
    max_leaves=6,
)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of its own for each example."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def taken_or_refused(read: Callable[[], Any], *words: str) -> bool:
    """Runs ``read``: True if it went well, False if it was refused in one line with these words."""
    said = None
    try:
        read()
    except InputError as e:
        said = str(e)
    assert said is None or (said and all(word in said for word in words)), said
    return said is None


def command(argv: Sequence[str], inside: Path) -> tuple[int, str]:
    """Runs ``raystudy`` in this process and in a folder. Returns its exit code and what it said on standard error."""
    said = io.StringIO()
    with contextlib.chdir(inside), contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            code = cli.main(argv)
        except SystemExit as e:  # argparse
            code = int(e.code or 0)
    return code, said.getvalue()


def polite(argv: Sequence[str], inside: Path, codes: Sequence[int] = (0, 2)) -> int:
    """The command ended with 0, or with 2 and one line; where refused, it left every file and folder as it was."""
    before = contents(inside)
    code, said = command(argv, inside)
    assert code in codes, (argv, code, said)
    if code == 2:
        *usage, line = said.splitlines() or [""]
        assert line.startswith("raystudy"), said
        assert all(u.startswith(("usage:", " ")) for u in usage), said
        assert contents(inside) == before
    return code


def contents(inside: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in inside.rglob("*")}


# -- command lines


def arguments() -> dict[str, list[Any]]:
    """Every command there is, by its words, with its arguments and options."""
    found = {}
    for name in texts.COMMANDS:
        command = app.build()
        for word in name.split():
            command = command[word]
        found[name] = [a for a in command.assemble_argument_collection() if a.names != ("*",)]
    return found


COMMANDS = arguments()
USUAL = {  # what an argument or option may well be
    "dataset": ["npz:x.npz", "digits", "npz:x.npz?flip=yes", "folder:."],
    "noise": ["symmetric:0.3", "given", "pair:0.2", "symmetric:0.1,0.2", "mask:x.npz", "matrix:x.npz"],
    "method": ["ce", "mixup", "s"],
    "methods": ["ce", "mixup", "s"],
    "study": ["s", "dividemix-table1", "x.toml", "x.npz"],
    "first": ["s", "studies/s"],
    "second": ["s", "t"],
    "storage": ["studies", "x.npz", "nowhere"],
    "set": ["lr=0.1", "alpha=0.5", "batch_size=8", "lr=1e30"],
    "network": ["mlp", "convnet", "resnet18", "timm:x"],
    "tracking_uri": ["none", "sqlite:///x.npz", "http://127.0.0.1:9", "sqlite://"],
    "checkpoint": ["x.pt", "x.npz", "studies"],
    "out": ["x.npz", "out", "studies"],
    "prices": ["x.npz", "studies"],
    "labels": ["x.npz", "x.csv"],
    "samplers": ["random", "tpe,qmc"],
    "kinds": ["disk"],
}
WRITTEN = ("out", "checkpoint", "folder", "into")  # examples of these stay inside the folder of the example
ENDS = {  # how each command comes to an end soon: these come last, so they count
    "sweep": ["--dry-run"],
    "plan": ["--probe-seconds=0"],
    "train": ["--epochs=1"],
    "train-mentor": ["--steps=2", "--students=1", "--epochs=1", "--no-tracking"],
    "data show": ["--images=0"],
    "noise estimate": ["--folds=2", "--epochs=1", "--bootstrap=2"],
    "clean": ["--out=x", "--folds=1"],
    "simulate": ["--repeats=1"],
    "report": ["--out=x.npz"],
    "sync": ["--tracking-uri=nonsense://"],
    "ui": ["--tracking-uri=nonsense://"],
    "chaos": ["--kinds=nothing"],
    "slurm": ["--time=1h"],
    "kube": ["--image=x", "--storage=s3://bucket/studies"],
}
REMOVED = ("--open", "--submit")  # no browsers here, and no jobs


def value(argument: Any) -> st.SearchStrategy[str]:
    """What a person may give an argument or option."""
    name = argument.names[0].strip("-").replace("-", "_").lower()
    likely = USUAL.get(name, [])
    values = st.one_of(st.sampled_from(likely), TEXT) if likely else TEXT
    if name in WRITTEN:
        values = values.filter(lambda t: not t.startswith(("/", "~")) and ".." not in t)
    return values


@st.composite
def command_line(draw: st.DrawFn, name: str) -> list[str]:
    flags = [a for a in COMMANDS[name] if a.names[0].startswith("--") and a.names[0] not in REMOVED]
    words = []
    for argument in (a for a in COMMANDS[name] if not a.names[0].startswith("--")):
        n = draw(st.sampled_from([1, 1, 1, 0])) if argument.required else draw(st.integers(0, 2))
        words += [draw(value(argument)) for _ in range(n)]
    for argument in draw(st.lists(st.sampled_from(flags), max_size=3)) if flags else []:
        option = argument.names[0]
        words += [option] if argument.hint is bool else [f"{option}={draw(value(argument))}"]
    return [*name.split(), *words, *ENDS.get(name, [])]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study in it, and 40 images."""
    here = tmp_path_factory.mktemp("place")
    images_file(here / "x.npz", 40)
    study = here / "studies" / "s"
    grid = Study("s", ("ce",), ("digits",), (Noise("symmetric", 0.2),), 3, 0, 3, "mlp")
    study.mkdir(parents=True)
    (study / "study.toml").write_text(grid.to_toml())
    book, cell = ledger.Ledger(study), grid.cells()[0]
    told = {"cell": cell.to_dict(), "network": "mlp", "epochs": 3, "objective": "val/acc", "effective_rate": 0.18}
    book.open(cell.key, told | {"digests": {"data": "d", "noise": "n"}, "images": 1600})
    for number, key in enumerate("klm"):
        origin = "search" if number else "paper"
        trial = {"event": "trial", "key": key, "number": number, "origin": origin, "point": {}, "seed": 0}
        book.append(cell.key, trial)
        for epoch in range(3):
            metrics = {"val/acc": 0.5 + number / 10, "test/acc": None if number else 0.6, "cost/seconds": 0.1}
            book.append(cell.key, {"event": "record", "key": key, "epoch": epoch, "metrics": metrics})
        if number < 2:
            book.append(cell.key, {"event": "end", "key": key, "state": "complete", "reason": ""})
    book.close()
    return here


@contextlib.contextmanager
def copy(place: Path) -> Iterator[Path]:
    with folder() as here:
        yield Path(shutil.copytree(place, here / "w"))


@pytest.mark.parametrize(
    "name", sorted(set(COMMANDS) - {"check"})
)  # which trains for a minute: tests/doors/test_own.py
@given(data=st.data())
def test_any_command_line(place: Path, name: str, data: st.DataObject) -> None:
    argv = data.draw(command_line(name))
    with copy(place) as here:
        polite(argv, here, (0, 1, 2) if name == "train" else (0, 2))  # 1: the training diverged


@given(kind=st.one_of(st.sampled_from(sorted(NOISES)), TEXT), rest=st.lists(TEXT, max_size=3))
def test_any_noise(kind: str, rest: list[str]) -> None:
    taken_or_refused(lambda: parse(":".join([kind, *rest])))


# -- names


@given(name=st.text(min_size=1, max_size=20).filter(lambda t: "/" in t or ".." in t or t.startswith((".", "-", "_"))))
@example("../x")
@example("a/../../x")
@example("..")
@example("/tmp/x")
@example("x\0")
def test_a_name_cannot_leave_its_folder(name: str) -> None:
    with folder() as here:
        (here / "in").mkdir()
        for argv in (["sweep", "ce", f"--name={name}"], ["status", "--", name], ["sync", "--", name]):
            code, said = command([*argv[:1], "--storage", str(here / "in"), *argv[1:]], here)
            assert code == 2, said
        assert list((here / "in").iterdir()) == []
        assert [p.name for p in here.iterdir()] == ["in"]


# -- study files

GRID = {"methods": ["ce"], "datasets": ["npz:x.npz"], "noise": ["symmetric:0.2"], "network": "mlp", "epochs": 3}
PARTS = {
    "methods": st.lists(st.one_of(st.sampled_from(["ce", "mixup", "all"]), STORED), max_size=3),
    "datasets": st.lists(
        st.one_of(st.sampled_from(["npz:x.npz", "digits"]), STORED.map(lambda t: f"npz:{t}"), STORED), max_size=2
    ),
    "noise": st.lists(st.one_of(st.sampled_from(["given", "pair:0.2", "symmetric:nan"]), STORED), max_size=2),
    "name": STORED,
    "recipe": st.one_of(st.sampled_from(["paper", "ce", "dividemix"]), STORED),
    "network": st.one_of(st.sampled_from(["convnet", "timm:x"]), STORED),
}
KEYS = [
    "epochs",
    "trials",
    "replicates",
    "sampler",
    "scheduler",
    "objective",
    "seed",
    "val_fraction",
    "clean_val",
    "noise_seed",
    "grid",
    "x",
]
KNOWN = st.fixed_dictionaries({}, optional=PARTS)
CHANGES = st.one_of(KNOWN, st.dictionaries(st.sampled_from([*PARTS, *KEYS]), TOML, max_size=2))


@pytest.mark.slow
@given(changes=CHANGES, blocks=st.lists(CHANGES, max_size=2), text=st.one_of(st.none(), st.binary(max_size=30)))
def test_any_study_file(place: Path, changes: dict[str, Any], blocks: list[dict[str, Any]], text: bytes | None) -> None:
    """What a dry run takes is not run here; what it refuses the sweep refuses, too, and leaves nothing behind."""
    told = GRID | changes | ({"grid": blocks} if blocks else {})
    with copy(place) as here:
        (here / "x.toml").write_bytes(text if text is not None else tomli_w.dumps(told).encode())
        argv = ["--study=x.toml", "--storage=new", "--tracking-uri=none"]
        if polite(["sweep", *argv, "--dry-run"], here) == 2:
            assert polite(["sweep", *argv], here) == 2
        polite(["plan", "x.toml", "--probe-seconds=0"], here)


@given(
    changes=st.dictionaries(st.sampled_from([*Study.__dataclass_fields__, "x"]), TOML, min_size=1, max_size=2),
    block=st.one_of(st.none(), CHANGES),
)
def test_any_folder_of_a_study(place: Path, changes: dict[str, Any], block: dict[str, Any] | None) -> None:
    with copy(place) as here:
        path = here / "studies" / "s" / "study.toml"
        told = tomllib.loads(path.read_text()) | changes
        if block is not None:
            told["grid"] = [{"methods": ["ce"], "datasets": ["digits"], "noises": told["noises"]} | block]
        path.write_text(tomli_w.dumps(told), encoding="utf-8")
        polite(["status", "s"], here)
        polite(["plan", "studies/s/study.toml", "--probe-seconds=0"], here)


# -- ledgers


def altered(data: st.DataObject, lines: list[bytes]) -> tuple[str, bytes]:
    """The lines of a ledger after something was done to them, and what."""
    how = data.draw(st.sampled_from(["cut", "doubled", "shuffled", "dropped", "foreign", "garbage", "field", "deep"]))
    i = data.draw(st.integers(0, len(lines) - 1))
    if how == "cut":
        return how, b"".join(lines[:i]) + lines[i][: data.draw(st.integers(0, len(lines[i])))]
    if how == "doubled":
        return how, b"".join(lines[: i + 1] + lines[i:])
    if how == "shuffled":
        return how, b"".join(data.draw(st.permutations(lines)))
    if how == "dropped":
        return how, b"".join(lines[:i] + lines[i + 1 :])
    if how == "foreign":
        return how, b"".join([*lines[:i], json.dumps(data.draw(JSON)).encode() + b"\n", *lines[i:]])
    if how == "garbage":
        return how, b"".join([*lines[:i], data.draw(st.binary(max_size=30)), *lines[i:]])
    event = json.loads(lines[i])  # an event of ours with another value in one place, or without it
    inner = [event, *(v for v in event.values() if isinstance(v, dict) and v)] if how == "deep" else [event]
    told = data.draw(st.sampled_from(inner))
    key, new = data.draw(st.sampled_from(sorted(told))), data.draw(st.one_of(st.just("removed"), JSON))
    told[key] = new
    if new == "removed":
        del told[key]
    return how, b"".join([*lines[:i], json.dumps(event).encode() + b"\n", *lines[i + 1 :]])


@pytest.mark.slow
@given(data=st.data())
def test_any_ledger(place: Path, data: st.DataObject) -> None:
    """Shown, or refused in one line that names the file; never changed by a look."""
    with copy(place) as here:
        path = next((here / "studies" / "s" / "cells").iterdir())
        how, new = altered(data, path.read_bytes().splitlines(keepends=True))
        path.write_bytes(new)
        read = taken_or_refused(lambda: ledger.replay(path), str(path))
        for argv in (
            ["status", "s"],
            ["plan", "s", "--probe-seconds=0"],
            ["export", "s", "--out=e"],
            ["simulate", "s", "--repeats=1", "--samplers=random", "--out=x.csv"],
        ):
            polite(argv, here)
        shutil.copytree(place / "studies" / "s", here / "studies" / "t")
        for argv in (["merge", "s", "t", "--into=u"], ["merge", "t", "s"]):
            polite(argv, here)
        assert path.read_bytes() == new
        if how in ("cut", "doubled"):
            assert read

            def opened() -> None:
                book = ledger.Ledger(here / "studies" / "s")
                try:
                    book.open(path.stem, {"cell": {}})
                finally:
                    book.close()

            assert taken_or_refused(opened)
            assert path.read_bytes().endswith(b"\n")


@pytest.mark.slow
@settings(max_examples=10)
@given(data=st.data())
def test_any_ledger_in_a_report_and_in_mlflow(
    place: Path, empty_store: Callable[[Path], str], data: st.DataObject
) -> None:
    """Drawn and logged, or refused in one line; the ledger stays as it was, and MLflow takes the whole one after it."""
    with copy(place) as here:
        path, uri = next((here / "studies" / "s" / "cells").iterdir()), f"--tracking-uri={empty_store(here)}"
        whole = path.read_bytes()
        _, new = altered(data, whole.splitlines(keepends=True))
        path.write_bytes(new)
        polite(["report", "s"], here)
        code, said = command(["sync", "s", uri], here)
        assert code in (0, 2)
        assert len(said.splitlines()) <= 1, said
        assert path.read_bytes() == new
        path.write_bytes(whole)
        code, said = command(["sync", "s", uri], here)
        assert code == 0, said


# -- search spaces and files of arrays


@given(told=st.dictionaries(st.one_of(st.sampled_from(["space", "recipe", "paper"]), STORED), TOML, max_size=3))
def test_any_space(told: dict[str, Any]) -> None:
    with folder() as here:
        (here / "ce.toml").write_text(tomli_w.dumps(told), encoding="utf-8")
        taken_or_refused(lambda: space.load("ce", here), "ce.toml")


@given(
    name=STORED,
    told=st.dictionaries(
        st.sampled_from(["low", "high", "log", "choices", "step", "or_zero", "int", "x"]), TOML, max_size=5
    ),
    row=st.dictionaries(
        st.sampled_from(["dataset", "noise", "rate", "point", "source", "variant", "oracle"]), TOML, max_size=7
    ),
)
def test_any_dimension_and_published_row(name: str, told: dict[str, Any], row: dict[str, Any]) -> None:
    with folder() as here:
        for text in ({"space": {name: told}}, {"space": {"alpha": told}}, {"paper": [row]}, {"recipe": told}):
            (here / "mixup.toml").write_text(tomli_w.dumps(text), encoding="utf-8")
            taken_or_refused(lambda: space.load("mixup", here), "mixup.toml")


DTYPES = st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.bool_, np.complex64, "U3", "S3", "M8[s]"])


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    """An array that may be images, labels, or nothing of the kind."""
    shape = draw(st.one_of(st.just((12, 8, 8)), st.just((12,)), st.lists(st.integers(0, 4), max_size=5).map(tuple)))
    dtype = draw(DTYPES)
    values = np.random.default_rng(draw(st.integers(0, 9))).integers(
        draw(st.integers(-2, 0)), draw(st.integers(1, 300)), shape
    )
    return values.astype(dtype)


@given(
    changes=st.dictionaries(
        st.sampled_from(["x_train", "y_train", "x_test", "y_test", "y_noisy"]), arrays(), max_size=2
    )
)
def test_any_images(changes: dict[str, Any]) -> None:
    x, y = np.zeros((12, 8, 8), np.uint8), np.arange(12) % 3
    with folder() as here, np.errstate(all="ignore"):
        path = here / "x.npz"
        np.savez(path, **({"x_train": x, "y_train": y, "x_test": x, "y_test": y} | changes))
        taken_or_refused(lambda: datasets.load(f"npz:{path}"), str(path))


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """A file cut, with a byte changed, or with other bytes in it."""
    i = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(st.one_of(st.just(b""), st.binary(min_size=1, max_size=8)))
    return content[:i] if not new else content[:i] + new + content[i + len(new) :]


def mask_file(path: Path) -> None:
    clean = np.arange(12) % 3
    given_ = clean.copy()
    given_[0] = 2
    told = masks.Mask(Noise("symmetric", 0.1), "digits", "d", "", given_, clean, np.eye(3), 0)
    masks.save(told, path)


def mentor_file(path: Path) -> None:
    np.savez(path, trained_at=np.int64(18), **{name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})


def images_file(path: Path, n: int = 12) -> None:
    x, y = np.zeros((n, 8, 8), np.uint8), np.arange(n) % 3
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)


READERS: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "mask": (mask_file, masks.load),
    "mentor": (mentor_file, read_mentor),
    "images": (images_file, lambda path: datasets.load(f"npz:{path}")),
}


@pytest.mark.parametrize("kind", sorted(READERS))
@given(data=st.data())
def test_any_damage_to_a_file_of_arrays(kind: str, data: st.DataObject) -> None:
    write, read = READERS[kind]
    with folder() as here:
        path = here / "x.npz"
        write(path)
        assert taken_or_refused(lambda: read(path))
        path.write_bytes(damaged(data, path.read_bytes()))
        taken_or_refused(lambda: read(path), str(path))


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("kind", sorted(READERS))
def test_code_in_a_file_of_arrays_is_not_run(kind: str, tmp_path: Path) -> None:
    write, read = READERS[kind]
    path, harm = tmp_path / "x.npz", tmp_path / "harm"
    write(path)
    with np.load(path) as stored:
        told = dict(stored)
    for name in told:
        with path.open("wb") as file:
            np.savez(file, allow_pickle=True, **(told | {name: np.array([Harm(harm)], dtype=object)}))
        assert not taken_or_refused(lambda: read(path), str(path))
    path.write_bytes(pickle.dumps(Harm(harm)))
    assert not taken_or_refused(lambda: read(path), str(path))
    assert not harm.exists()
    with np.load(path, allow_pickle=True) as _:  # the file would do it, where unpickling is allowed
        pass
    assert harm.exists()


# -- checkpoints (code in them: tests/test_training.py)


@pytest.fixture(scope="module", params=["ce", "coteaching"])  # an optimizer, and two of them
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[training.Run, bytes]:
    """A training after its first epoch, and its checkpoint."""
    noise, images = Noise("symmetric", 0.2), tmp_path_factory.mktemp("images") / "x.npz"
    images_file(images, 40)
    data = prepare(f"npz:{images}", Path("data"), noise, 0.1)
    adam = {"optimizer": "adam"} if request.param == "coteaching" else {}
    spec = TrialSpec(
        *(request.param, 1, {}, "x", data.data_digest, noise.to_dict(), data.noise_digest, "mlp"),
        recipe=space.recipe_for("shared", "ce", "digits", "mlp").to_dict() | adam,
        epochs=3,
        seed=0,
        val_fraction=0.1,
        clean_val=0,
    )
    begun, path = training.Run(spec, data), images.with_suffix(".pt")
    begun.epoch()
    begun.save(path)
    return begun, path.read_bytes()


@pytest.mark.slow
@given(data=st.data())
def test_any_checkpoint(run: tuple[training.Run, bytes], data: st.DataObject) -> None:
    """Damaged bytes, or a dictionary of ours with something else in one place: refused with nothing changed, or training goes on."""
    begun, content = run
    with folder() as here:
        path = here / "x.pt"
        path.write_bytes(content)
        begun.load(path)
        if data.draw(st.booleans()):
            path.write_bytes(damaged(data, content))
        else:
            state = torch.load(path, weights_only=True)
            within: Any = state
            while isinstance(within, dict | list) and within:
                inside, keys = within, sorted(within) if isinstance(within, dict) else range(len(within))
                key = data.draw(st.sampled_from(keys))
                within = inside[key]
                if data.draw(st.sampled_from([False, False, True])):
                    break
            if data.draw(st.booleans()):
                del inside[key]
            else:
                inside[key] = data.draw(st.one_of(JSON, st.just(torch.zeros(2))))
            torch.save(state, path)
        with np.errstate(all="ignore"):
            if taken_or_refused(lambda: begun.load(path), str(path)):
                begun.epoch()
            else:
                begun.save(here / "same.pt")
                new, old = (torch.load(f, weights_only=True) for f in (here / "same.pt", io.BytesIO(content)))
                assert str(new) == str(old)


@pytest.mark.slow
def test_more_of_all_this() -> None:
    """The tests above with three times the examples, in a process of their own."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-m",
        "not slow",
        "--hypothesis-profile=more",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-10_000:]
