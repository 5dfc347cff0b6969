"""What a kept model says of other data: how inputs are found, what is written, and the model as other programs have it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from modelled import begun, shaken, written
from PIL import Image

from raystudy.cli import main
from raystudy.data import datasets
from raystudy.errors import InputError
from raystudy.learn.model import Model
from raystudy.tools import exportmodel


@pytest.fixture
def grey(tmp_path: Path) -> Path:
    """A model of 8x8 grey images of ten classes."""
    (tmp_path / "models").mkdir()
    return written(shaken(begun("ce")), tmp_path / "models")


def asked(model: Path, data: object, out: Path, *more: str) -> int:
    return main(["predict", str(model), str(data), "--out", str(out), *more])


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def probs(told: list[dict[str, str]]) -> np.ndarray:
    return np.array([[v for k, v in row.items() if k.startswith("p.")] for row in told], dtype=np.float32)


def test_a_data_set_and_its_accuracy(grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked(grey.parent, "digits", tmp_path / "p.csv") == 0  # by the folder that holds one model
    told, data = rows(tmp_path / "p.csv"), datasets.load("digits")
    p = Model(grey).predict_proba(data.x_test)
    assert np.array_equal(probs(told), p)  # all digits of float32
    assert list(told[0]) == ["index", "predicted", *(f"p.{i}" for i in range(10))]
    assert [row["index"] for row in told[:2]] == ["0", "1"]
    assert [int(row["predicted"]) for row in told] == p.argmax(1).tolist()
    right = (p.argmax(1) == data.y_test.numpy()).mean()
    out = capsys.readouterr().out
    assert f"accuracy against the labels there: {right:.6g}" in out
    assert "450 images" in out


def test_arrays_in_files(grey: Path, tmp_path: Path) -> None:
    x = datasets.load("digits").x_test[:5, 0].numpy()
    np.savez(tmp_path / "a.npz", x_test=x, y_test=np.arange(5))
    np.savez(tmp_path / "b.npz", mine=(x / 255).astype(np.float32), other=x[:1])
    np.save(tmp_path / "c.npy", x)
    for data, more in (("a.npz", ()), ("b.npz", ("--array", "mine")), ("c.npy", ())):
        assert asked(grey, tmp_path / data, tmp_path / "p.npz", *more) == 0
        with np.load(tmp_path / "p.npz", allow_pickle=False) as z:
            assert np.array_equal(z["probs"], Model(grey).predict_proba(x))
            assert z["classes"].tolist() == [str(i) for i in range(10)]
            assert z["predicted"].tolist() == z["probs"].argmax(1).tolist()
            assert z["index"].tolist() == list(range(5))


def test_a_folder_of_pictures_and_one_of_them(grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, folder = datasets.load("digits").x_test[:3, 0].numpy(), tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name, image in zip(("b.png", "below/a.PNG", "a.png"), x, strict=True):
        Image.fromarray(image).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    assert asked(grey, folder, tmp_path / "p.csv") == 0
    told = rows(tmp_path / "p.csv")
    assert [row["path"] for row in told] == ["a.png", "b.png", "below/a.PNG"]
    assert np.array_equal(probs(told), Model(grey).predict_proba(x[[2, 0, 1]]))
    assert asked(grey, folder / "b.png", tmp_path / "p.csv") == 0
    assert np.array_equal(probs(rows(tmp_path / "p.csv")), Model(grey).predict_proba(x[:1]))

    (folder / "c.png").write_bytes(b"no picture")
    assert asked(grey, folder, tmp_path / "q.csv") == 2
    assert "1 of 4 images are missing or cannot be decoded" in capsys.readouterr().err
    assert not (tmp_path / "q.csv").exists()
    assert asked(grey, folder, tmp_path / "q.csv", "--skip-corrupt") == 0
    assert [row["path"] for row in rows(tmp_path / "q.csv")] == ["a.png", "b.png", "below/a.PNG"]


def test_large_pictures_are_brought_to_the_size_of_the_model(grey: Path, tmp_path: Path) -> None:
    Image.new("RGB", (50, 31), (200, 10, 10)).save(tmp_path / "large.jpg")
    assert asked(grey, tmp_path / "large.jpg", tmp_path / "p.csv") == 0
    assert probs(rows(tmp_path / "p.csv")).shape == (1, 10)


def test_vectors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)).astype(np.float32), np.arange(60) % 2
    told = {"class_names": np.array(["no", "yes"])}
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:9], y_test=y[:9], **told)
    model = written(shaken(begun("ce", f"npz:{tmp_path}/d.npz")), tmp_path)
    assert asked(model, tmp_path / "d.npz", tmp_path / "p.csv") == 0
    found = rows(tmp_path / "p.csv")
    assert {row["predicted"] for row in found} <= {"no", "yes"}
    assert np.array_equal(probs(found), Model(model).predict_proba(x[:9]))
    assert "accuracy against the labels there" in capsys.readouterr().out
    (tmp_path / "pictures").mkdir()
    assert asked(model, tmp_path / "pictures", tmp_path / "p.csv") == 2
    assert "takes vectors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "want"),
    [
        (None, "no such file; DATA is a data set"),
        (lambda f: f.with_suffix(".npz").write_bytes(b"PK nonsense"), "cannot be read as arrays of numbers"),
        (lambda f: np.savez(f, a=np.zeros(3), b=np.zeros(3)), "name one with --array: a, b"),
        (lambda f: np.savez(f, x=np.array([{}], dtype=object)), "it holds pickled objects"),
        (lambda f: np.savez(f, x=np.zeros((2, 9, 9), np.uint8)), "takes images of 1x8x8"),
        (lambda f: np.savez(f, x=np.zeros((2, 8, 8), np.int64)), "images are uint8"),
    ],
)
def test_data_that_cannot_be_is_one_line(
    make: object, want: str, grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if callable(make):
        make(tmp_path / "d.npz")
    assert asked(grey, tmp_path / "d.npz", tmp_path / "p.csv") == 2
    told = capsys.readouterr().err
    assert want in told
    assert len(told.strip().splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "d.npz") == ["models"]


@pytest.mark.parametrize("x", ["digits", [[1, 2], [3]], None, np.array(["a"] * 80), {"x": 1}])
def test_what_is_no_array_of_numbers_is_one_line(x: object, grey: Path) -> None:
    with pytest.raises(InputError, match="array of numbers") as told:
        Model(grey).predict_proba(x)
    assert len(str(told.value).splitlines()) == 1
    assert len(str(told.value)) < 240


def test_other_mistakes_are_one_line(grey: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = tmp_path / "x.npy"
    np.save(x, np.zeros((1, 8, 8), np.uint8))
    for words, want in (
        ([str(grey), str(x), "--out", str(tmp_path / "p.txt")], "must end in .csv or .npz"),
        ([str(grey), str(x), "--out", str(tmp_path / "no" / "p.csv")], "is not there or cannot be written"),
        ([str(tmp_path), str(x), "--out", str(tmp_path / "p.csv")], "a folder of 0 models"),
        ([str(tmp_path / "m.json"), str(x), "--out", str(tmp_path / "p.csv")], "there is no model"),
        ([str(grey), str(x), "--out", str(tmp_path / "p.csv"), "--device", "tpu"], "unknown device here 'tpu'"),
    ):
        assert main(["predict", *words]) == 2
        told = capsys.readouterr().err
        assert want in told
        assert len(told.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dividemix", "incv", "gce"])
def test_a_torch_program_says_the_same_and_has_no_more_than_it_needs(method: str, tmp_path: Path) -> None:
    run = shaken(begun(method))
    card = written(run, tmp_path).with_suffix(".json")
    file = exportmodel.export(card, tmp_path / "to", "name", "torch")
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == ["name.json", "name.pt2"]
    program = torch.export.load(file)
    assert sum(v.numel() for v in program.state_dict.values()) < 200_000  # two nets at most; nothing a sample
    x = run.data.x_held[:17]
    p = Model(card).predict_proba(x)
    assert np.abs(program.module()(x).detach().numpy() - p).max() < 1e-5
    assert np.abs(program.module()(x[:1]).detach().numpy() - p[:1]).max() < 1e-5


@pytest.mark.slow
def test_onnx(grey: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = exportmodel.export(grey, tmp_path / "to", "name", "onnx")
    x = datasets.load("digits").x_test[:9]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (p,) = session.run(["probabilities"], {"x": x.numpy()})
    assert np.abs(p - Model(grey).predict_proba(x)).max() < 1e-5
    assert session.get_modelmeta().custom_metadata_map["raystudy.classes"].split() == [str(i) for i in range(10)]


def test_without_the_packages_of_onnx_it_says_what_to_install(
    grey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exportmodel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'raystudy\[onnx\]'"):
        exportmodel.export(grey, tmp_path / "to", "name", "onnx")
    assert list((tmp_path / "to").iterdir()) == []
