"""A sweep that is refused: code 2, one line, and every file is byte for byte as it was, whether its study was begun before or is new.

Nothing here needs Ray: all of it is refused before.
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import request
from PIL import Image

from raystudy import cli
from raystudy.data import corruption, datasets, masks
from raystudy.data.noise import Noise
from raystudy.record.ledger import Ledger, cells
from raystudy.running.build import Builder

SWEEP = ("sweep", "ce", "--dataset", "npz:images.npz", "--epochs", "3", "--trials", "1")
DRAWN = ("--noise", "symmetric:0.3")
READ = ("--noise", "file:mask.npz")
FOLDER = ("sweep", "ce", "--dataset", "folder:photos", "--noise", "given", "--epochs", "3", "--trials", "1")
DRIVER = "4194305"  # the process that ran the study before, as its lock tells


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with images, a mask of them, an MLflow store that is never opened, and a file where no folder can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_images()
    write_mask()
    Path("mlflow.db").write_bytes(b"SQLite format 3\0 and all else")
    Path("plain").write_text("a file")


@pytest.fixture
def dead() -> Iterator[int]:
    """A port at which nothing listens, as long as the test runs: it is bound."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


def write_images(seed: int = 0) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    y = np.arange(60) % 3
    np.savez("images.npz", x_train=x, y_train=y, x_test=x, y_test=y)


def write_mask(seed: int = 0) -> None:
    noise = Noise("symmetric", 0.4, seed=seed)
    data = datasets.load(f"npz:{Path('images.npz').absolute()}", Path("data"), noise)
    masks.save(corruption.mask(data, noise, Path("data")), Path("mask.npz"))


def begin(*argv: str) -> Path:
    """Writes a study as a sweep writes it that was killed when its first trial was to begin."""
    study, resources = request(*argv[1:])
    study = replace(study, batch=1)
    folder = Path("studies") / study.name
    builder, ledger = Builder(study, resources.data_root), Ledger(folder)
    for search in builder.searches(study, ledger):
        next(search.waiting())
    builder.store_masks(folder)
    ledger.close()
    (folder / "study.toml").write_text(study.to_toml())
    (folder / "lock").write_text(DRIVER)
    return folder


def tree() -> dict[str, bytes | None]:
    """Every file and folder here, hidden ones too."""
    return {str(p): p.read_bytes() if p.is_file() else None for p in Path().rglob("*")}


def refused(capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], *words: str) -> None:
    before = tree()
    capsys.readouterr()
    code = cli.main(argv)
    said = capsys.readouterr().err
    assert code == 2, said
    assert len(said.splitlines()) == 1
    assert said.startswith("raystudy: ")
    for word in words:
        assert word in said
    after = tree()
    assert {name for name in before | after if before.get(name, 0) != after.get(name, 0)} == set()


def other_data_in_the_mask(folder: Path) -> None:
    """What a mask says it was made for; with a ledger that says nothing, it is all that is known of the study's data."""
    for path in cells(folder):
        path.unlink()
    (path,) = (p for p in (folder / "masks").iterdir() if "symmetric" in p.name)
    masks.save(replace(masks.load(path), data="0" * 16), path)


@pytest.mark.parametrize(
    ("noise", "change"),
    [
        pytest.param(DRAWN, lambda _: write_images(1), id="other images in the same file"),
        pytest.param(DRAWN, other_data_in_the_mask, id="a mask of other data"),
        pytest.param(READ, lambda _: write_mask(1), id="another mask in the file of the noise"),
    ],
)
def test_data_that_changed(
    noise: tuple[str, ...], change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = begin(*SWEEP, *noise)
    change(folder)
    refused(capsys, (*SWEEP, *noise), "is not what study 'ce-images' was begun with", "choose another --name")


def test_data_that_changed_since_a_study_that_grows(capsys: pytest.CaptureFixture[str]) -> None:
    """The cells that are asked for now are new; those that the study has are checked none the less."""
    begin(*SWEEP, *DRAWN)
    write_images(1)
    refused(
        capsys, (*SWEEP, "--noise", "pair:0.2"), "symmetric:inclusive:0.3", "was begun with", "choose another --name"
    )


OPTIONS: list[Any] = [
    pytest.param(("--tracking-uri", "runs"), ("'runs' is a folder",), id="a folder for MLflow"),
    pytest.param(("--tracking-uri", "sqlite:///studies"), ("studies",), id="a folder for a database"),
    pytest.param(("--tracking-uri", "sqlite:///plain"), ("not a SQLite database",), id="another file for MLflow"),
    pytest.param(("--tracking-uri", "sqlite:///plain/m.db"), ("is not a folder",), id="a store within a file"),
    pytest.param(("--tracking-uri", "http://127.0.0.1:PORT"), ("does not answer",), id="a dead MLflow server"),
    pytest.param(("--address", "127.0.0.1:PORT"), ("cannot start or reach Ray on 127.0.0.1",), id="no Ray there"),
    pytest.param(("--storage", "plain"), ("cannot write to the storage", "plain"), id="a file for the storage"),
    pytest.param(("--storage", "plain/in/it"), ("cannot write to the storage", "plain"), id="a storage in a file"),
    pytest.param(("--storage", "/proc/none"), ("cannot write to the storage", "/proc"), id="a storage in /proc"),
    pytest.param(("--storage", "deep/er", "--address", "127.0.0.1:PORT"), ("reach Ray",), id="a storage that was made"),
    pytest.param(("--network", "resnet1", "--name", "x"), ("unknown network 'resnet1'",), id="network"),
    pytest.param(("--sampler", "tpo"), ("unknown sampler 'tpo'", "tpe"), id="sampler"),
    pytest.param(("--scheduler", "ashe"), ("unknown scheduler 'ashe'", "asha"), id="scheduler"),
    pytest.param(("--objective", "val/ac"), ("unknown objective 'val/ac'", "val/acc"), id="objective"),
    pytest.param(("--recipe", "shard"), ("'shard'", "did you mean 'shared'"), id="recipe"),
    pytest.param(("--noise", "symetric:0.3"), ("'symetric'", "symmetric"), id="noise"),
    pytest.param(("--noise", "file:none.npz"), ("there is no mask", "none.npz"), id="a mask"),
    pytest.param(("--dataset", "npz:none.npz"), ("none.npz",), id="images"),
    pytest.param(("--dataset", "digit"), ("unknown data set 'digit'", "digits"), id="data set"),
    pytest.param(("--name", "../mine"), ("'../mine'", "not usable"), id="name"),
    pytest.param(("--epoch", "3"), ("unknown option '--epoch'", "--epochs"), id="option"),
    pytest.param(("dividemx",), ("unknown method 'dividemx'", "dividemix"), id="method"),
    pytest.param(("--clean-val", "50", "--name", "x"), ("--clean-val is 50", "choose 0 to"), id="clean images"),
]


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
@pytest.mark.parametrize(("options", "words"), OPTIONS)
def test_an_option_that_cannot_be(
    begun: bool, options: tuple[str, ...], words: tuple[str, ...], dead: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last of an option counts, so these stand in place of what is said before."""
    if begun:
        begin(*SWEEP, *DRAWN)
    else:
        Path("studies").mkdir()
    noise = () if "--noise" in options else DRAWN
    told = tuple(o.replace("PORT", str(dead)) for o in options)
    base = SWEEP[:2] + SWEEP[4:] if "--dataset" in options else SWEEP
    refused(capsys, (*base, *noise, *told), *words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--epochs", "2"), ("begun with epochs=3, now 2",)),
        (("--epochs", "2", "--noise", "pair:0.2"), ("begun with epochs=3, now 2",)),
        (("--network", "convnet"), ("begun with network=", "now 'convnet'")),
        (("--seed", "1"), ("begun with seed=0, now 1",)),
    ],
)
def test_a_study_that_grows_into_another(
    options: tuple[str, ...], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    begin(*SWEEP, *DRAWN)
    refused(capsys, (*SWEEP, *DRAWN, *options), *words, "choose another --name")


def test_a_study_that_another_process_runs(capsys: pytest.CaptureFixture[str]) -> None:
    folder = begin(*SWEEP, *DRAWN)
    ledger = Ledger(folder)
    try:
        refused(capsys, (*SWEEP, *DRAWN), f"is being run by process {os.getpid()}")
    finally:
        ledger.close()


@pytest.mark.parametrize("damage", ["torn", "broken"])
def test_a_ledger_that_is_damaged_is_left_as_it_is(damage: str, dead: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A torn last line is cut off once the study goes on, not before; a broken one in the middle is told."""
    path = cells(begin(*SWEEP, *DRAWN))[0]
    content = path.read_bytes()
    path.write_bytes(content + b'{"event": "rec' if damage == "torn" else b"{\n" + content)
    words = "reach Ray" if damage == "torn" else "broken ledger line"
    refused(capsys, (*SWEEP, *DRAWN, "--address", f"127.0.0.1:{dead}"), words)


def test_other_labels_of_the_same_folder(capsys: pytest.CaptureFixture[str]) -> None:
    """The study's name says nothing of its labels: it is the same, so the second must be given one."""
    Path("photos").mkdir()
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(f"photos/{i}.png")
    for table, shift in (("a.csv", 0), ("b.csv", 1)):
        rows = [f"{i}.png,{(i + shift) % 2},{i % 2},{'test' if i < 2 else 'train'}" for i in range(12)]
        Path(table).write_text("\n".join(["path,label,clean_label,split", *rows]))
    begin(*FOLDER, "--labels", "a.csv")
    refused(capsys, (*FOLDER, "--labels", "b.csv"), "was begun with other data", "a.csv", "b.csv", "--name")


def write_own(kind: str, shift: int, place: str = ".") -> str:
    """The same samples of a user's own with labels that are moved by ``shift``; the text that names them."""
    base = Path(place)
    base.mkdir(exist_ok=True)
    n = 60
    x, y = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32), (np.arange(n) + shift) % 3
    split = np.where(np.arange(n) < 20, "test", "train")
    if kind == "npz":
        np.savez(base / "mine.npz", x_train=x, y_train=y)
        return f"npz:{base / 'mine.npz'}"
    if kind == "csv":
        rows = [f"{a:.4f},{b:.4f},{label},{s}" for (a, b, *_), label, s in zip(x, y, split, strict=True)]
        (base / "mine.csv").write_text("\n".join(["a,b,label,split", *rows]))
        return f"csv:{base / 'mine.csv'}"
    if kind == "folder":
        (base / "mine").mkdir(exist_ok=True)
        for i in range(n):
            if not (file := base / "mine" / f"{i}.png").exists():
                Image.fromarray(np.full((8, 8, 3), 4 * i, np.uint8)).save(file)
        rows = [f"{i}.png,{label},{s}" for i, (label, s) in enumerate(zip(y, split, strict=True))]
        (base / "mine.csv").write_text("\n".join(["path,label,split", *rows]))
        return f"folder:{base / 'mine'}?labels={base / 'mine.csv'}"
    hf = pytest.importorskip("datasets", reason="the extra hf")
    hf.disable_progress_bars()
    shutil.rmtree(base / "mine", ignore_errors=True)
    hf.Dataset.from_dict({"x": x.tolist(), "label": y}).save_to_disk(base / "mine")
    return f"hf:{base / 'mine'}"


@pytest.mark.parametrize("kind", ["npz", "csv", "folder", "hf"])
def test_labels_that_changed_are_never_the_same_study(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the same place, in another, and, where a person gives the other one the same study on purpose, as cells of their own."""

    def sweep(dataset: str) -> tuple[str, ...]:
        return ("sweep", "ce", "--dataset", dataset, "--noise", "given", "--epochs", "3", "--trials", "1")

    told = write_own(kind, 0)
    folder = begin(*sweep(told))
    (first,) = cells(folder)
    other = write_own(kind, 1, "other")
    refused(capsys, sweep(other), "study 'ce-mine' was begun with other data", "--name")
    study, resources = request(*sweep(other)[1:], "--name", "ce-mine")
    (cell,) = study.cells()
    assert f"{cell.key}.jsonl" != first.name
    moved = write_own(kind, 0, "moved")
    specs = [
        Builder(request(*sweep(d)[1:])[0], resources.data_root).spec(request(*sweep(d)[1:])[0].cells()[0], {}, 0)
        for d in (told, other, moved)
    ]
    assert specs[0].key == specs[2].key  # the same work, wherever it lies
    assert specs[0].key != specs[1].key
    write_own(kind, 1)
    refused(capsys, sweep(told), "is not what study 'ce-mine' was begun with", "choose another --name")
