"""Tables of labels: read as they are meant, or refused with the line; classes are the names that images have."""

import csv
import io
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raystudy.data import datasets, folder, tables
from raystudy.data.corruption import corrupted
from raystudy.data.noise import Noise
from raystudy.errors import InputError


def written(path: Path, text: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path


@pytest.fixture
def listing(tmp_path):
    """The listing that a table gives; its images are never opened."""

    def read(rows: list[tuple[str, ...]], header: tuple[str, ...] = ("path", "label", "split")):
        out = io.StringIO()
        csv.writer(out).writerows([header, *rows])
        return folder.read(tmp_path / "photos", written(tmp_path / "t.csv", out.getvalue()))

    return read


def rows(names: list[str], n: int = 30) -> list[tuple[str, ...]]:
    return [(f"{i}.png", names[i % len(names)], "test" if i >= n * 2 // 3 else "train") for i in range(n)]


PLAIN = "path,label\na.png,cat\nb.png,dog\n"
SAME = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "BOM": "\ufeff" + PLAIN,
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "CR": PLAIN.replace("\n", "\r"),
    "empty lines": "\n" + PLAIN.replace("\n", "\n\n") + "\n  \n",
    "no newline at the end": PLAIN.rstrip(),
    "quotes": '"path","label"\n"a.png","cat"\n"b.png","dog"\n',
    "space": "path, label\na.png ,  cat\n b.png, dog\n",
    "further columns": "id,path,who,label\n1,a.png,,cat\n2,b.png,me,dog\n",
    "separator at every end": "path,label,\na.png,cat,\nb.png,dog,\n",
    "UTF-16": b"\xff\xfe" + PLAIN.encode("utf-16-le"),
    "UTF-16, big end first": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_table_is_read_as_it_is_meant(tmp_path, kind):
    assert tables.read(written(tmp_path / "t.csv", SAME[kind])).columns == {
        "path": ["a.png", "b.png"],
        "label": ["cat", "dog"],
    }


def test_fields_keep_what_is_quoted(tmp_path):
    told = tables.read(written(tmp_path / "t.csv", 'path,label\n"a,b.png","big\ncat"\nc.png,"a ""dog"""\nd.png,NA\n'))
    assert told.columns == {"path": ["a,b.png", "c.png", "d.png"], "label": ["big\ncat", 'a "dog"', "NA"]}
    assert told.places == ["line 2", "line 4", "line 5"]


REFUSED = {
    "a field too many": ("path,label\na.png,cat\nx,b.png,dog\n", "line 3: has 3 fields, the header has 2"),
    "a field too few": ("path,label,split\na.png,cat,train\nb.png,dog\n", "line 3: has 2 fields, the header has 3"),
    "many in the first row": ("path,label\nx/a.tif,a.png,cat\n", "line 2: has 3 fields"),
    "two columns of a name": ("path,label,label\na.png,cat,dog\n", "has 2 columns label"),
    "Latin-1": ("path,label\na.png,Bär\n".encode("latin-1"), "line 2: is not UTF-8"),
    "cut UTF-16": (b"\xff\xfea", "t.csv"),
    "open quote": ('path,label\na.png,"cat\nb.png,dog\n', "line 2: cannot be read as a table"),
    "blank label": ("path,label\na.png, \n", "line 2: label is empty"),
    "blank path": ("path,label\n\n,cat\n", "line 3: path is empty"),
    "zero byte": ("path,label\na\0.png,cat\n", "line 2: path has a zero byte"),
    "other separator": ("path|label\na.png|cat\n", "no column path, label"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_clear_is_refused_with_its_line(tmp_path, kind):
    text, words = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        tables.read(written(tmp_path / "t.csv", text))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parquet_of_numbers_texts_and_gaps(tmp_path):
    import pandas as pd

    for values, told in (
        ([0, 2], ["0", "2"]),
        ([0.0, 2.0], ["0.0", "2.0"]),
        ([b"cat", b"dog"], ["cat", "dog"]),
        (["nan", "None"], ["nan", "None"]),
        ([True, False], ["True", "False"]),
    ):
        pd.DataFrame({"path": ["a", "b"], "label": values}).to_parquet(tmp_path / "t.parquet")
        assert tables.read(tmp_path / "t.parquet").columns["label"] == told
    for values, words in (
        (["cat", None], "row 2: label is empty"),
        ([1.0, float("nan")], "row 2: label is empty"),
        ([["a"], ["b"]], "row 1: label is a list"),
        ([b"\xff", b"a"], "row 1: label is bytes"),
    ):
        pd.DataFrame({"path": ["a", "b"], "label": values}).to_parquet(tmp_path / "t.parquet")
        with pytest.raises(InputError, match=words):
            tables.read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (["0", "1", "2"], ("0", "1", "2")),
        (["001", "002", "003"], ("001", "002", "003")),
        (["50", "9", "100"], ("9", "50", "100")),
        (["0", "4", "9"], ("0", "4", "9")),
        (["1.0", "2.0"], ("1", "2")),
        (["1990", "2000"], ("1990", "2000")),
        (["007", "cat"], ("007", "cat")),
        (["NA", "null", "nan"], ("NA", "nan", "null")),
        ([" café ", unicodedata.normalize("NFD", "café"), "the"], ("café", "the")),
    ],
)
def test_a_class_is_a_name_that_images_have(listing, given, classes):
    told = listing(rows(given))
    assert told.classes == classes
    assert set(told.y_train.tolist()) == set(range(len(classes)))


def test_a_number_is_written_one_way(listing):
    with pytest.raises(InputError, match="line 3: label is 01, in line 2 1; write it one way"):
        listing(rows(["1", "01", "2"]))


def test_classes_of_one_split(listing):
    only_test = [*rows(["cat", "dog"]), ("x.png", "emu", "test")]
    with pytest.raises(InputError, match="line 32: 'emu' is a class of test images and of no training image"):
        listing(only_test)
    told = listing([*rows(["cat", "dog"]), ("x.png", "emu", "train")])
    assert told.notes == ("classes without a test image: 1 (emu)",)


def test_rows_that_repeat_an_image(listing):
    twice = [*rows(["cat", "dog"]), ("./0.png", "cat", "train")]
    assert listing(twice).notes == ("rows that list an image again, which then counts twice: 1 (the first is ./0.png)",)
    for row, words in (
        (("0.png", "dog", "train"), "line 32: 0.png has the label 'dog', and 'cat' in line 2"),
        (("a/../0.png", "cat", "test"), "leads out"),
        (("./0.png", "cat", "test"), "line 32: ./0.png has the split 'test', and 'train' in line 2"),
    ):
        with pytest.raises(InputError, match=words):
            listing([*rows(["cat", "dog"]), row])


def test_classes_of_an_npz_are_those_of_its_images(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (30, 6, 6), dtype=np.uint8)
    y = np.array([0, 4, 9])[np.arange(30) % 3]
    held = {"x_train": x[:20], "y_train": y[:20], "x_test": x[20:], "y_test": y[20:]}
    np.savez(tmp_path / "a.npz", **held)
    data = datasets.load(f"npz:{tmp_path / 'a.npz'}")
    assert (data.classes, data.n_classes) == (("0", "4", "9"), 3)
    assert data.y_train[:3].tolist() == [0, 1, 2]
    assert set(corrupted(data, Noise("symmetric", 0.9)).given.tolist()) == {0, 1, 2}
    np.savez(tmp_path / "b.npz", **(held | {"y_test": np.where(y[20:] == 4, 5, y[20:])}))
    with pytest.raises(InputError, match=r"y_test\[2\] is 5, a class of which there is no training image"):
        datasets.load(f"npz:{tmp_path / 'b.npz'}")


# --- what a person should hear --------------------------------------------------------------------------------------


def photos(tmp_path: Path, contents: list[int], splits: list[str], labels: list[str], **more: str) -> str:
    """Pictures by the seed of what is on them."""
    (tmp_path / "photos").mkdir(exist_ok=True)
    told = []
    for i, (content, split, label) in enumerate(zip(contents, splits, labels, strict=True)):
        picture = np.random.default_rng(content).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{i}.png")
        told.append(f"{i}.png,{label},{split}")
    written(tmp_path / "t.csv", "\n".join(["path,label,split", *told]))
    options = "".join(f"&{k}={v}" for k, v in more.items())
    return f"folder:{tmp_path / 'photos'}?labels={tmp_path / 't.csv'}&size=8{options}"


@pytest.mark.parametrize("stream", ["always", "never"])
def test_images_in_two_splits_are_told(tmp_path, stream):
    splits = ["train"] * 4 + ["test"] * 3 + ["val"] * 2
    labels = ["cat", "dog", "dog", "cat", "cat", "dog", "cat", "cat", "dog"]
    spec = photos(tmp_path, [0, 1, 2, 0, 0, 1, 9, 7, 1], splits, labels, stream=stream)
    assert datasets.load(spec).remarks == (
        "2 of the 3 test images are training images, too: 4.png is 0.png, 5.png is 1.png",
        "1 of the 2 validation images are training images, too: 8.png is 1.png",
        "1 of the 2 validation images are test images, too: 8.png is 5.png",
        "1 of the 4 training images are copies of others, 0 of them with another label",
    )
    spec = photos(tmp_path, list(range(9)), splits, labels, stream=stream)
    assert datasets.load(spec).remarks == ()


def test_images_in_two_splits_of_an_npz_are_told(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (9, 6, 6), dtype=np.uint8)
    y = np.arange(9) % 2
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x[2:5], y_test=y[2:5])
    told = "3 of the 3 test images are training images, too: test image 0 is training image 2, test image 1 is training image 3, "
    assert datasets.load(f"npz:{tmp_path / 'a.npz'}").remarks == (told + "test image 2 is training image 4",)


def test_what_is_kept_is_read_again_where_files_are_others(tmp_path):
    """An archive that is replaced, images of a folder, and noise from a file: none is taken from before."""
    import shutil

    from raystudy.learn.celldata import prepare

    splits, labels = ["train"] * 6 + ["test"] * 2, ["cat", "dog"] * 4
    spec = photos(tmp_path, list(range(8)), splits, labels)
    before = prepare(spec, tmp_path, Noise("given", 0), 0.3).data_digest
    photos(tmp_path, [50, *range(1, 8)], splits, labels)
    after = prepare(spec, tmp_path, Noise("given", 0), 0.3).data_digest
    assert after != before
    digests = []
    for content in (0, 60):
        photos(tmp_path, [content, *range(1, 8)], splits, labels)
        shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "photos")
        digests.append(datasets.load(spec.replace("/photos?", "/a.zip?")).digest)
    assert digests[0] == before != digests[1]
    assert [p.name for p in tmp_path.iterdir() if "unpack" in p.name] == ["a.zip.unpacked"]
    wrong = []
    for rate in (0.0, 1.0):
        np.savetxt(tmp_path / "t.csv.matrix.csv", [[1 - rate, rate], [rate, 1 - rate]], delimiter=",")
        setting = Noise("matrix", 1.0, str(tmp_path / "t.csv.matrix.csv"))
        wrong.append(prepare(spec, tmp_path, setting, 0.3).effective_rate)
    assert wrong == [0.0, 1.0]


def test_pictures_streamed_and_in_memory_are_the_same(tmp_path):
    splits, labels = ["train"] * 6 + ["test"] * 2, ["cat", "dog"] * 4
    spec = photos(tmp_path, list(range(8)), splits, labels)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(tmp_path / "photos" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(tmp_path / "photos" / "1.png").save(tmp_path / "photos" / "1.png", exif=exif)
    held, streamed = (datasets.load(f"{spec}&stream={how}") for how in ("never", "always"))
    assert torch.equal(held.x_train, streamed.x_train.read())
    assert held.digest == streamed.digest
