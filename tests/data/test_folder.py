"""A user's folder of images: what is read and how, each fault in one line, and that no method sees where images are kept."""

import csv
import io
import json
import math
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torchvision.io import decode_jpeg, write_jpeg, write_png

from raystudy import cli
from raystudy.data import datasets, files, listed
from raystudy.data.dataset import channel_stats
from raystudy.data.files import Files, fitted
from raystudy.data.noise import Noise
from raystudy.data.spec import Options, base, family, located, parse, text
from raystudy.errors import InputError
from raystudy.learn import training
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.spec import TrialSpec

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
GIVEN = Noise("given", 0.0)


def picture(i: int, height: int = 12, width: int = 12, channels: int = 3) -> torch.Tensor:
    rng = torch.Generator().manual_seed(i)
    coarse = torch.randint(256, (1, channels, 3, 3), generator=rng).float()
    return F.interpolate(coarse, (height, width), mode="bilinear").round().to(torch.uint8)[0]


@pytest.fixture
def photos(tmp_path):
    """Twenty JPEG files in two folders, and their rows."""
    rows = []
    for i in range(20):
        path = f"{'cats' if i % 2 else 'dogs'}/{i}.jpg"
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        write_jpeg(picture(i), str(tmp_path / "photos" / path))
        rows.append({"path": path, "label": ["dog", "cat"][i % 2], "split": "test" if i >= 15 else "train"})
    return rows


@pytest.fixture
def table(tmp_path):
    def write(rows: list[dict[str, Any]], name: str = "labels.csv", **more: Any) -> str:
        if name.endswith(".csv"):
            with (tmp_path / name).open("w", newline="") as file:
                out = csv.DictWriter(file, rows[0])
                out.writeheader()
                out.writerows(rows)
        else:
            import pandas as pd

            pd.DataFrame(rows).to_parquet(tmp_path / name)
        return located(f"folder:{tmp_path / 'photos'}", labels=str(tmp_path / name), **{"size": 12} | more)

    return write


def refused(spec: str, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        datasets.load(spec)
    told = str(caught.value)
    assert "\n" not in told
    for word in words:
        assert word in told


# --- how a data set is written --------------------------------------------------------------------------------------


def test_a_data_set_and_its_options_are_one_text():
    told = (
        "folder:/a/b?labels=/a/l.csv&size=64&flip=no&mean=0.5,0.4,0.3&std=0.2,0.2,0.25&skip_corrupt=yes&stream=always"
    )
    name, options = parse(told)
    assert (name, options.size, options.flip, options.skip_corrupt) == ("folder:/a/b", 64, False, True)
    assert options.mean == (0.5, 0.4, 0.3)
    assert text(name, options) == told
    assert parse("cifar10") == ("cifar10", Options())
    assert parse("npz:/why?/x.npz") == ("npz:/why?/x.npz", Options())
    assert (base(told), family("webvision_mini?size=64"), family("cifar10n")) == ("folder:/a/b", "webvision", "cifar10")
    assert located("folder:x", labels="y.csv") == f"folder:{Path.cwd() / 'x'}?labels={Path.cwd() / 'y.csv'}"
    assert located("digits?pad=2", size=None) == "digits?pad=2"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sise=3", "did you mean 'size'"),
        ("size=big", "'big'; it is a whole number"),
        ("size=1", "from 4 to 4096"),
        ("pad=-1", "from 0 to 512"),
        ("flip=maybe", "it is yes or no"),
        ("channels=2", "it is 1 or 3"),
        ("stream=often", "unknown value of stream"),
        ("mean=0.5", "go together"),
        ("mean=0.5&std=0", "above 0"),
        ("mean=a&std=b", "one number per channel"),
    ],
)
def test_options_that_cannot_be(options, words):
    with pytest.raises(InputError, match=words):
        parse(f"digits?{options}")


def test_options_of_sets_that_are_no_files():
    plain, other = datasets.load("digits"), datasets.load("digits?pad=2&flip=yes&mean=0.5&std=0.25")
    assert (other.pad, other.flip, other.mean, other.std) == (2, True, (0.5,), (0.25,))
    assert plain.digest != other.digest != datasets.load("digits?pad=2").digest
    assert torch.equal(plain.x_train, other.x_train)
    refused("digits?size=32", "has no option size")
    refused("digits?mean=0.5,0.5,0.5&std=0.5,0.5,0.5", "has 1 channels")


# --- images ---------------------------------------------------------------------------------------------------------


def test_resize_and_centre_crop():
    x = picture(0, 12, 12)
    assert fitted(x, 12) is x
    wide = torch.cat([torch.zeros(3, 12, 4, dtype=torch.uint8), x, torch.full((3, 12, 6), 255, dtype=torch.uint8)], 2)
    assert torch.equal(fitted(wide, 12), wide[:, :, 5:17])  # (22 - 12) // 2 from the left
    assert torch.equal(fitted(wide.mT, 12), wide.mT[:, 5:17])
    whole = F.interpolate(wide[None].float(), (6, 11), mode="bilinear", antialias=True)[0]
    assert (fitted(wide, 6).float() - whole[:, :, 2:8]).abs().max() <= 1
    for height, width in ((1, 500), (7, 5), (1000, 3)):
        assert fitted(picture(1, height, width), 8).shape == (3, 8, 8)


@pytest.mark.parametrize(("kind", "channels"), [("jpg", 3), ("png", 3), ("jpg", 1), ("png", 1)])
def test_files_are_decoded_as_colour_or_grey(tmp_path, kind, channels):
    x = picture(3, channels=channels)
    (write_jpeg if kind == "jpg" else write_png)(x, str(tmp_path / f"a.{kind}"))
    colour, grey = (Files(tmp_path, [f"a.{kind}"], 12, c).decode(0) for c in (3, 1))
    assert (colour.shape, grey.shape) == ((3, 12, 12), (1, 12, 12))
    if kind == "png":
        assert torch.equal(colour if channels == 3 else grey, x)
    else:
        stored = decode_jpeg(torch.from_numpy(np.fromfile(tmp_path / "a.jpg", np.uint8)))
        assert torch.equal(colour if channels == 3 else grey, stored)


# --- what is read ---------------------------------------------------------------------------------------------------


def test_names_ids_and_parquet_give_the_same_set(photos, table):
    named = datasets.load(table(photos))
    assert (named.classes, named.n_classes, named.x_train.shape) == (("cat", "dog"), 2, (15, 3, 12, 12))
    assert named.y_train.tolist() == [1 - i % 2 for i in range(15)]
    assert not named.truth
    ids = [{**row, "label": int(row["label"] == "dog")} for row in photos]
    for name in ("ids.csv", "ids.parquet"):
        other = datasets.load(table(ids, name))
        assert (other.classes, other.digest) == (("0", "1"), named.digest)
        assert torch.equal(other.x_train, named.x_train)
    assert datasets.load(table(photos, "names.parquet")).classes == named.classes


def test_clean_labels_make_the_truth_known(photos, table):
    rows = [row | {"clean_label": row["label"]} for row in photos]
    rows[3]["label"], rows[4]["label"], rows[17]["label"] = "dog", "bird", "dog"  # 17 is a test image
    data = datasets.load(table(rows))
    assert data.classes == ("bird", "cat", "dog")
    assert data.truth
    assert (data.label_sets["given"] != data.y_train).nonzero().flatten().tolist() == [3, 4]
    assert data.y_test.tolist() == [1 if i % 2 else 2 for i in range(15, 20)]  # scored by the clean label
    cell = prepare(table(rows), Path("data"), GIVEN, 0.2)
    assert cell.effective_rate == 2 / 15
    assert cell.truth.known


def test_unknown_truth_is_not_measured(photos, table):
    cell = prepare(table(photos), Path("data"), GIVEN, 0.2)
    assert (cell.effective_rate, cell.truth.known, cell.clean_validation) == (None, False, 0)
    drawn = prepare(table(photos), Path("data"), Noise("symmetric", 0.5, "exclusive"), 0.2)
    assert (drawn.effective_rate, drawn.truth.known) == (7 / 15, True)  # labels are taken to be clean


def test_published_validation_images(photos, table):
    rows = [row | {"split": "val"} if i in (1, 2, 3) else row for i, row in enumerate(photos)]
    cell = prepare(table(rows), Path("data"), GIVEN, 0.2)
    assert (len(cell.x), len(cell.y_val), cell.clean_validation) == (10, 2, 3)
    for n, keys in ((0, set()), (2, {"val/clean_acc"})):
        run = run_for("ce", table(rows), cell, clean_val=n)
        record = run.epoch()
        assert {k for k in record if k in ("val/clean_acc", "test/acc_val")} == keys
    p = run.method.probs(run.train_set.normalised(cell.extra["val"][0][:2])).argmax(1)
    assert record["val/clean_acc"] == pytest.approx(float((p == cell.extra["val"][1][:2]).float().mean()))


def test_without_a_split_column_paths_decide(photos, table):
    rows = [{k: v for k, v in row.items() if k != "split"} for row in photos]
    data = datasets.load(table(rows))
    assert (len(data.x_train), len(data.x_test)) == (14, 6)  # pinned: the split never changes
    fewer = datasets.load(table(rows[:-1], "fewer.csv"))
    assert abs(len(fewer.x_train) - 14) + abs(len(fewer.x_test) - 6) == 1
    assert torch.equal(fewer.x_test, data.x_test) or torch.equal(fewer.x_test, data.x_test[:-1])


def test_statistics_come_from_the_training_images(photos, table):
    data = datasets.load(table(photos))
    assert (data.mean, data.std) == channel_stats(data.x_train)
    told = datasets.load(table(photos, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), pad=0, flip=False))
    assert (told.mean, told.pad, told.flip) == ((0.5, 0.5, 0.5), 0, False)
    assert told.digest != data.digest


def test_the_digest_follows_files_labels_and_size(photos, table, tmp_path):
    seen = {datasets.load(table(photos)).digest}
    seen.add(datasets.load(table(photos, size=10)).digest)
    seen.add(datasets.load(table([photos[0] | {"label": "cat"}, *photos[1:]], "b.csv")).digest)
    seen.add(datasets.load(table(photos[:-1], "c.csv")).digest)
    write_jpeg(picture(77), str(tmp_path / "photos" / photos[4]["path"]))
    seen.add(datasets.load(table(photos, "d.csv")).digest)
    assert len(seen) == 5
    streamed = datasets.load(table(photos, "d.csv", stream="always"))
    assert isinstance(streamed.x_train, Files)
    assert streamed.digest in seen


def test_large_sets_stay_in_their_files(photos, table, monkeypatch):
    monkeypatch.setattr(listed, "IN_MEMORY_BYTES", 20 * 3 * 12 * 12)
    assert isinstance(datasets.load(table(photos, "a.csv")).x_train, torch.Tensor)
    monkeypatch.setattr(listed, "IN_MEMORY_BYTES", 20 * 3 * 12 * 12 - 1)
    for stream, kind in (("auto", Files), ("always", Files), ("never", torch.Tensor)):
        assert isinstance(datasets.load(table(photos, "b.csv", stream=stream)).x_train, kind)


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_tables_that_cannot_be_used(photos, table, tmp_path):
    spec = table(photos)
    without = [{k: v for k, v in row.items() if k != "label"} for row in photos]
    refused(table(without, "a.csv"), "a.csv: no column label", "the file has: path, split")
    refused(table([photos[0], photos[1] | {"label": ""}], "b.csv"), "b.csv, line 3: label is empty")
    refused(
        table([photos[0], photos[1] | {"split": "dev"}], "c.csv"),
        "line 3: split is 'dev'; choose from: train, test, val",
    )
    refused(table([row | {"label": "cat"} for row in photos], "d.csv"), "one class only (cat)")
    refused(table([row | {"split": "train"} for row in photos], "e.csv"), "no test images")
    refused(table([photos[0] | {"label": -1}, photos[1] | {"label": 1}], "g.csv"), "line 2: label is -1, out of range")
    refused(
        table([photos[0] | {"path": "../../etc/passwd"}, *photos], "h.csv"),
        "line 2: '../../etc/passwd' leads out of the folder",
    )
    refused(table([photos[0] | {"path": "/etc/passwd"}, *photos], "i.csv"), "leads out of the folder")
    for name, content in (
        ("j.csv", b""),
        ("k.parquet", b"PAR1 no"),
        ("l.csv", b"\xff\xfe\x00"),
        ("m.csv", b"path,label\n"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(located(spec, labels=str(tmp_path / name)), name)
    refused(located(spec, labels=str(tmp_path / "labels.txt")), "no such file")
    (tmp_path / "labels.txt").write_text("x")
    refused(located(spec, labels=str(tmp_path / "labels.txt")), ".csv or a .parquet")
    refused(base(spec) + "x", "no such file; folder: takes a folder of images")
    refused(f"folder:{tmp_path / 'labels.txt'}?labels={tmp_path / 'labels.csv'}", "not a folder of images")


def test_a_folder_of_classes(photos, tmp_path):
    """Folders are classes; with train/ and test/ above them the split is theirs."""
    data = datasets.load(f"folder:{tmp_path / 'photos'}?size=12")
    assert data.classes == ("cats", "dogs")
    paths = [*data.paths["training"], *data.paths["test"]]
    assert sorted(paths) == sorted(row["path"] for row in photos)
    labels = torch.cat([data.y_train, data.y_test]).tolist()
    assert [data.classes[y] for y in labels] == [path.partition("/")[0] for path in paths]
    assert not data.truth
    for row in photos:
        new = tmp_path / "split" / row["split"] / row["path"]
        new.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / row["path"]).rename(new)
    told = datasets.load(f"folder:{tmp_path / 'split'}?size=12")
    assert len(told.y_test) == sum(row["split"] == "test" for row in photos)
    assert told.classes == ("cats", "dogs")
    (tmp_path / "split" / "train" / "new.jpg").write_bytes(new.read_bytes())
    refused(
        f"folder:{tmp_path / 'split'}?size=12",
        "train/new.jpg lies in no folder of a class",
    )
    (tmp_path / "empty").mkdir()
    refused(f"folder:{tmp_path / 'empty'}", "holds no images in folders of their classes")


FAULTS = {
    "cut": lambda good: good[: len(good) // 2],
    "empty": lambda good: b"",
    "text": lambda good: b"<html>404</html>",
    "gone": lambda good: None,
}


@pytest.mark.parametrize("stream", ["always", "never"])
def test_corrupt_images_are_counted_and_can_be_left_out(photos, table, tmp_path, stream, capsys):
    for row, fault in zip((photos[2], photos[5], photos[16]), ("cut", "text", "gone"), strict=True):
        file = tmp_path / "photos" / row["path"]
        content = FAULTS[fault](file.read_bytes())
        file.unlink() if content is None else file.write_bytes(content)
    for _ in range(2):  # the second time from the note that the first look left
        refused(
            table(photos, stream=stream), "labels.csv, training images: 2 of 15 images are missing or cannot be decoded",
            "the first is ", "photos/dogs/2.jpg (Image is incomplete or truncated)", "--skip-corrupt",
        )  # fmt: skip
    data = datasets.load(table(photos, stream=stream, skip_corrupt=True))
    assert (len(data.x_train), len(data.y_train), len(data.x_test)) == (13, 13, 4)
    assert len(data.label_sets["given"]) == 13
    told = capsys.readouterr().err
    assert "training images: 2 of 15 images are missing or cannot be decoded and are left out" in told
    assert "test images: 1 of 5" in told
    good = [row for i, row in enumerate(photos) if i not in (2, 5, 16)]
    assert datasets.load(table(good, "good.csv")).digest == data.digest


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_an_image(photos, table, tmp_path, fault):
    file = tmp_path / "photos" / photos[0]["path"]
    content = FAULTS[fault](file.read_bytes())
    file.unlink() if content is None else file.write_bytes(content)
    why = {"cut": "truncated", "empty": "it is empty", "text": "Unsupported image", "gone": "it is not there"}[fault]
    refused(table(photos), "1 of 15 images", "dogs/0.jpg", why)


def test_nothing_but_corrupt_images(photos, table, tmp_path):
    for row in photos[15:]:
        (tmp_path / "photos" / row["path"]).write_bytes(b"")
    refused(table(photos, skip_corrupt=True), "test images: 5 of 5")


def test_a_read_only_folder_is_looked_at_every_time(photos, table, monkeypatch):
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    assert len(datasets.load(table(photos)).x_train) == 15


def test_an_image_that_goes_while_training_is_one_line_too(photos, table, tmp_path):
    spec = table(photos, stream="always")
    run = run_for("ce", spec, prepare(spec, Path("data"), GIVEN, 0.2))
    run.epoch()
    (tmp_path / "photos" / photos[4]["path"]).unlink()
    with pytest.raises(InputError, match=r"4\.jpg: not an image that can be decoded \(.*No such file") as caught:
        run.epoch()
    assert "\n" not in str(caught.value)


# --- archives -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_an_archive_of_images(photos, table, tmp_path, kind):
    spec = table(photos)
    plain = datasets.load(spec)
    shutil.make_archive(
        str(tmp_path / "a"), {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar"}[kind], tmp_path / "photos"
    )
    packed = spec.replace("/photos?", f"/a{kind}?")
    assert datasets.present(packed)
    assert datasets.load(packed).digest == plain.digest
    assert datasets.load(located(packed, pad=1)).pad == 1  # unpacked once
    assert sorted(p.name for p in tmp_path.iterdir() if "unpack" in p.name) == [f"a{kind}.unpacked"]


def member(name: str, **told: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in told.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize("kind", ["zip ..", "zip /", "tar ..", "tar link", "zip cut", "tar cut"])
def test_an_archive_that_leaves_its_folder_or_is_damaged_writes_nothing(photos, table, tmp_path, kind):
    spec, made, inner = table(photos), kind.split()[0], tmp_path / "inner"
    inner.mkdir()
    file, escaped = inner / f"bad.{made}", inner / "escaped.txt"
    name = str(escaped) if kind.endswith("/") else "../escaped.txt"
    if kind.endswith("cut"):
        shutil.make_archive(str(inner / "bad"), made, tmp_path / "photos")
        file.write_bytes(file.read_bytes()[:3000])
    elif made == "zip":
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("good.jpg", "x")
            z.writestr(name, "x")
    else:
        with tarfile.open(file, "w") as t:
            t.addfile(member("good.jpg", size=1), io.BytesIO(b"x"))
            if kind == "tar link":
                t.addfile(member("out", type=tarfile.SYMTYPE, linkname="../.."))
            else:
                t.addfile(member(name, size=1), io.BytesIO(b"x"))
    refused(
        spec.replace(f"{tmp_path / 'photos'}?", f"{file}?"),
        f"bad.{made}",
        "cannot be unpacked" if kind.endswith("cut") else "leads out of the folder",
    )
    assert sorted(p.name for p in inner.iterdir()) == [f"bad.{made}"]


# --- the same for every method ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """scikit-learn's digits as PNG files, 150 of them, with a third of the training labels wrong."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = load_digits(return_X_y=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["path", "label", "clean_label", "split"])
        for i in range(150):
            write_png(torch.from_numpy((images[i] * 15).astype(np.uint8)).view(1, 8, 8), str(folder / f"{i}.png"))
            wrong = i % 3 == 0 and i < 110
            out.writerow([f"{i}.png", (labels[i] + wrong) % 10, labels[i], "train" if i < 110 else "test"])
    return located(f"folder:{folder}", labels=str(folder / "labels.csv"), size=8, channels=1, pad=1, flip=False)


def run_for(method: str, dataset: str, data: training.CellData, epochs: int = 3, clean_val: int = 0) -> training.Run:
    from raystudy.learn.point import method_class
    from raystudy.learn.recipe import Recipe

    spec = TrialSpec(
        method=method,
        version=method_class(method).version,
        point={},
        dataset=dataset,
        data_digest=data.data_digest,
        noise=GIVEN.to_dict(),
        noise_digest=data.noise_digest,
        network="mlp",
        recipe=Recipe(lr=0.05, batch_size=16).to_dict(),
        epochs=epochs,
        seed=1,
        val_fraction=0.1,
        clean_val=clean_val,
    )
    return training.Run(spec, data)


def records(method: str, dataset: str, epochs: int) -> list[dict[str, float | None]]:
    run = run_for(method, dataset, prepare(dataset, Path("data"), GIVEN, 0.1), epochs)
    for _ in range(epochs):
        run.epoch()
    return [{k: v for k, v in record.items() if k != "cost/seconds"} for record in run.records]


def check_that_records_agree(method: str, digits: str, epochs: int) -> None:
    memory, streamed = (records(method, located(digits, stream=how), epochs) for how in ("never", "always"))
    assert memory == streamed
    assert not math.isnan(memory[-1]["test/acc"] or math.nan)


@pytest.mark.parametrize("method", ["ce", "dividemix"])
def test_streaming_changes_no_record(method, digits):
    assert isinstance(datasets.load(located(digits, stream="always")).x_train, Files)
    check_that_records_agree(method, digits, 3)


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(METHODS))
def test_streaming_changes_no_record_of_any_method(method, digits):
    check_that_records_agree(method, digits, 6)


def test_a_resumed_run_streams_on_as_before(digits, tmp_path):
    dataset = located(digits, stream="always")
    data = prepare(dataset, Path("data"), GIVEN, 0.1)
    run = run_for("coteaching", dataset, data)
    run.epoch()
    run.save(tmp_path / "x.pt")
    other = run_for("coteaching", dataset, data)
    other.load(tmp_path / "x.pt")
    for _ in range(2):
        run.epoch(), other.epoch()
    assert [{k: v for k, v in r.items() if k != "cost/seconds"} for r in run.records] == [
        {k: v for k, v in r.items() if k != "cost/seconds"} for r in other.records
    ]


# --- the commands ---------------------------------------------------------------------------------------------------


def test_the_command_trains_on_a_folder(photos, table, tmp_path, capsys, monkeypatch):
    table(photos)
    monkeypatch.chdir(tmp_path)
    command = [
        "train",
        "ce",
        "--dataset",
        "folder:photos",
        "--labels",
        "labels.csv",
        "--size",
        "12",
        "--noise",
        "given",
        "--epochs",
        "1",
    ]
    (tmp_path / "photos" / photos[0]["path"]).write_bytes(b"")
    assert cli.main(command) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "1 of 15 images are missing or cannot be decoded" in told
    assert cli.main([*command, "--skip-corrupt", "--stream", "always"]) == 0
    told = capsys.readouterr()
    assert "wrong labels unknown" in told.out
    assert "test accuracy" in told.out
    assert "left out" in told.err
    assert cli.main([*command[:3], "digits", *command[4:]]) == 2
    assert "has no option labels" in capsys.readouterr().err


@pytest.mark.slow
def test_real_photographs_train(tmp_path, capsys):
    """CIFAR-10's images as JPEG files, two classes, with the human labels of CIFAR-10N."""
    if not (SHARED / "cifar10_jpeg.npz").is_file() or not (SHARED / "cifar10n.npz").is_file():
        pytest.skip("needs the JPEG copies of CIFAR-10 and the human labels in ../shared/data")
    with np.load(SHARED / "cifar10_jpeg.npz") as z:
        jpeg, offsets, labels = z["jpeg"], z["offsets"], z["labels"]
    with np.load(SHARED / "cifar10n.npz") as z:
        given = z["worse_label"]
    kept = [i for i in range(6000) if labels[i] in (0, 3) and given[i] in (0, 3)]  # aeroplanes and cats
    tests = [i for i in range(50000, 51500) if labels[i] in (0, 3)]
    rows = []
    for i in [*kept[:600], *tests]:
        (tmp_path / f"{i}.jpg").write_bytes(jpeg[offsets[i] : offsets[i + 1]].tobytes())
        shown = given[i] if i < 50000 else labels[i]
        rows.append([f"{i}.jpg", shown, labels[i], "train" if i < 50000 else "test"])
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "clean_label", "split"], *rows])
    command = [
        "train",
        "ce",
        "--dataset",
        f"folder:{tmp_path}",
        "--labels",
        str(tmp_path / "labels.csv"),
        "--noise",
        "given",
    ]
    assert cli.main([*command, "--network", "convnet", "--epochs", "6", "--stream", "always"]) == 0
    accuracy = float(capsys.readouterr().out.rsplit(" ", 1)[-1])
    assert accuracy > 0.75  # chance is 0.5


def test_the_list_of_data_sets(capsys, tmp_path):
    assert cli.main(["datasets", "--data-root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for name, info in datasets.DATASETS.items():
        assert name in told
        assert f"{info.train:,}" in told
    assert "folder:PATH" in told


def test_the_note_on_corrupt_images_is_json(photos, table, tmp_path):
    (tmp_path / "photos" / photos[0]["path"]).write_bytes(b"")
    datasets.load(table(photos, skip_corrupt=True))
    notes = [json.loads(p.read_text()) for p in (tmp_path / "photos").glob(".raystudy-corrupt-*.json")]
    assert {"0": "it is empty"} in notes
