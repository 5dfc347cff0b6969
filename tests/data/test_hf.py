"""Data sets of Hugging Face ``datasets``, saved to disk: what is an image, a vector, a table; splits, labels, and what is refused."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

from raystudy.data import datasets, spec, texts
from raystudy.errors import InputError

hf = pytest.importorskip("datasets", reason="the extra hf")

N = 90
RNG = np.random.default_rng(0)
Y = np.arange(N) % 3
X = RNG.normal(size=(N, 4)).astype(np.float32)
CLASSES = hf.ClassLabel(names=["zebra", "ant", "bee"])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hf.disable_progress_bars()


def saved(columns: dict, name: str = "d", **features) -> str:
    kinds = hf.Features(features) if features else None
    hf.Dataset.from_dict(columns, features=kinds).save_to_disk(name)
    return f"hf:{name}"


def pictures() -> list[dict]:
    from PIL import Image

    found = []
    for i in range(N):
        held = io.BytesIO()
        Image.fromarray(np.full((6, 8, 3), (i, 2 * i, 7), np.uint8)).save(held, "PNG")
        found.append({"bytes": held.getvalue(), "path": None})
    return found


def vectors(name: str = "d", y: np.ndarray = Y, **more) -> str:
    return saved({"emb": X.tolist(), "label": y, **more}, name)


def test_images_and_the_names_of_their_classes() -> None:
    name = saved({"photo": pictures(), "label": Y}, photo=hf.Image(), label=CLASSES)
    data = datasets.load(f"{name}?size=6")
    assert data.kind == "images"
    assert data.shape == (3, 6, 6)
    assert data.classes == ("zebra", "ant", "bee")  # as the data set has them, not by the alphabet
    assert not data.truth
    assert data.notes == (
        f"no split test: the test set is {len(data.y_test)} of {N} images, chosen by what they hold, so the same on every machine",
    )
    for part, x, y in (("training", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        rows = np.array(data.rows[part])
        assert x[:, 0, 0, 0].tolist() == rows.tolist()
        assert y.tolist() == Y[rows].tolist()
    streamed = datasets.load(f"{name}?size=6&stream=always")
    assert streamed.digest == data.digest
    assert streamed.x_train.read().equal(data.x_train)


def test_vectors_and_the_truth_where_the_user_names_it() -> None:
    given = np.where(np.arange(N) % 7 == 0, (Y + 1) % 3, Y)
    name = vectors(y=given, gold=Y)
    data = datasets.load(f"{name}?clean=gold")
    assert data.truth
    rows = np.array(data.rows["training"])
    assert np.array_equal(data.x_train.numpy(), X[rows])
    assert data.y_train.tolist() == Y[rows].tolist()
    assert data.label_sets["given"].tolist() == given[rows].tolist()
    alone = datasets.load(f"{name}?drop=gold")
    assert not alone.truth
    assert alone.y_train.tolist() == given[np.array(alone.rows["training"])].tolist()


def test_a_table_is_what_the_same_table_is_in_a_csv() -> None:
    import pandas as pd

    table = {"size": X[:, 0].astype(float).round(3), "colour": [("red", "blue")[i % 2] for i in range(N)], "label": Y}
    name = saved(table, size=hf.Value("float64"), colour=hf.ClassLabel(names=["red", "blue"]), label=hf.Value("int64"))
    pd.DataFrame(table).to_csv("t.csv", index=False)
    ours, theirs = datasets.load(name), datasets.load("csv:t.csv")
    assert ours.x_train.allclose(theirs.x_train)
    assert ours.y_test.equal(theirs.y_test)
    assert ours.classes == theirs.classes == ("0", "1", "2")
    assert ours.notes[1].startswith("no split test: the test set is")


def test_the_splits_that_are_there_are_used() -> None:
    parts = {
        name: hf.Dataset.from_dict({"emb": X[rows].tolist(), "label": Y[rows]})
        for name, rows in (("train", slice(0, 60)), ("test", slice(60, 80)), ("validation", slice(80, N)))
    }
    hf.DatasetDict(parts).save_to_disk("s")
    data = datasets.load("hf:s")
    assert (len(data.x_train), len(data.x_test), data.ours) == (60, 20, False)
    assert data.notes == ("splits that are not read: validation",)
    other = datasets.load("hf:s?split=validation&test=train")
    assert (len(other.x_train), len(other.x_test)) == (10, 60)
    with pytest.raises(
        InputError, match=r"has no split 'dev'; name another with test=, it has: train, test, validation"
    ):
        datasets.load("hf:s?test=dev")


def test_what_it_holds_tells_it_apart_and_not_where_it_lies() -> None:
    a, moved = datasets.load(vectors("a")).digest, datasets.load(vectors("b")).digest
    assert a == moved
    assert datasets.load(vectors("c", y=(Y + 1) % 3)).digest != a
    assert spec.located("hf:a") == f"hf:{Path.cwd() / 'a'}"
    assert spec.located("hf:owner/name?split=train") == "hf:owner/name?split=train"


def test_arrays_of_whole_numbers_are_images_of_them() -> None:
    x = RNG.integers(0, 255, (N, 8, 8)).astype(np.uint8)
    data = datasets.load(saved({"x": x, "label": Y}, x=hf.Array2D((8, 8), "uint8"), label=hf.Value("int64")))
    assert data.shape == (1, 8, 8)
    assert np.array_equal(data.x_train.numpy()[:, 0], x[np.array(data.rows["training"])])


def test_texts_are_for_embedding() -> None:
    name = saved({"review": [f"number {i} of them" for i in range(N * 3)], "label": np.arange(N * 3) % 2})
    with pytest.raises(InputError, match=r"holds texts \(review\), .*raystudy embed 'hf:.*' --text review"):
        datasets.load(name)
    told = texts.of(datasets.labelled(name), "review")
    assert len(told.train) + len(told.test) == N * 3
    assert told.train[0].startswith("number ")


@pytest.mark.parametrize(
    ("columns", "asked", "why"),
    [
        ({"emb": X.tolist(), "y": Y}, "", "has no column 'label', the labels; name another with target=COLUMN"),
        ({"emb": X.tolist(), "label": Y}, "?size=8", "has no option size: it is for images, and these are vectors"),
        ({"emb": X.tolist(), "label": Y}, "?labels=t.csv", "has no option labels"),
        ({"emb": X.tolist(), "label": Y}, "?clean=gold", "unknown column of clean labels of .* 'gold'"),
        ({"emb": X.tolist(), "label": Y}, "?inputs=emd", "has no column 'emd'"),
        ({"a": X.tolist(), "b": X.tolist(), "label": Y}, "", "2 columns of vectors; name one with inputs=: a, b"),
        ({"emb": [[1.0]] * 4 + [[1.0, 2.0]] * 5, "label": [0, 1] * 4 + [0]}, "", "row 5: emb has 2 numbers, the first"),
        ({"odd": [{"a": 1}] * 4, "label": [0, 1] * 2}, "", "column 'odd' is .*leave it out with drop=odd"),
        ({"label": Y}, "", "has no column beside label"),
    ],
)
def test_what_is_refused(columns: dict, asked: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        datasets.load(saved(columns) + asked)


def test_a_test_set_without_labels_is_named() -> None:
    parts = {
        name: hf.Dataset.from_dict(
            {"a": [1.0, 2.0, 3.0, 4.0], "label": y}, features=hf.Features({"a": hf.Value("float64"), "label": CLASSES})
        )
        for name, y in (("train", [0, 1, 0, 1]), ("test", [-1] * 4))
    }
    hf.DatasetDict(parts).save_to_disk("w")
    with pytest.raises(InputError, match=r"split test, row 1: label is -1, which is no class"):
        datasets.load("hf:w")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = vectors()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'raystudy\[hf\]'"):
        datasets.load(name + "?test=none")


def test_what_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nosuch: no such folder; hf: takes"):
        datasets.load("hf:./nosuch/../nosuch")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(hf.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match=r"hf:nobody/nothing cannot be had \(.*\); on a machine without a network"
    ) as e:
        datasets.load("hf:nobody/nothing")
    assert "\n" not in str(e.value)
