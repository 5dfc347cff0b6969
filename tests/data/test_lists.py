"""Published lists of image files, on small trees of the real formats with real JPEG files: controlled web labels, WebVision, Clothing1M."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from test_folder import picture, run_for
from torchvision.io import write_jpeg

from raystudy import cli
from raystudy.data import datasets
from raystudy.data.files import Files
from raystudy.data.noise import Noise
from raystudy.errors import InputError
from raystudy.learn.celldata import _prepared, prepare

SAMPLES = Path(__file__).resolve().parents[3] / "shared" / "data" / "format_samples"
LEVELS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)


def write(folder: Path, path: str, seed: int, height: int = 20, width: int = 30) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    write_jpeg(picture(seed, height, width), str(folder / path))


def refused(spec: str, root: Path, noise: Noise | None, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        datasets.load(spec, root, noise)
    told = str(caught.value)
    assert "\n" not in told
    for word in words:
        assert word in told


# --- controlled noisy web labels ------------------------------------------------------------------------------------

SYNSETS = ("n01440764", "n01532829", "n02116738")


def web(root: Path, place: str = "mini-imagenet", flat: bool = False) -> Path:
    """Three classes of ten images; at each level that share is replaced by web images (red) or given the next class (blue)."""
    folder = root / "cnwl" / place
    images, validation = ("", "") if flat else ("all_images/", "validation/")
    clean = [(f"{s}{i:08d}.jpg", k) for k, s in enumerate(SYNSETS) for i in range(1, 11)]
    if place == "stanford_cars":
        clean = [(f"{10 * k + i:05d}.jpg", k) for k in range(3) for i in range(1, 11)]
    foreign = [(f"{0x5922767E5677AEF4 + j:x}.jpg", j // 10) for j in range(30)]
    held = [(f"ILSVRC2012_val_{j:08d}.jpg", j % 3) for j in range(1, 7)]
    for seed, (name, _) in enumerate(clean + foreign):
        write(folder, images + name, seed)
    for seed, (name, k) in enumerate(held):
        write(folder, name if flat else f"{validation}{k}/{name}", 100 + seed)
    (folder / "split").mkdir()
    for level in LEVELS:
        n = round(10 * level)
        red = [(foreign if j % 10 < n else clean)[j] for j in range(30)]
        blue = [(name, (k + (j % 10 < n)) % 3) for j, (name, k) in enumerate(clean)]
        for colour, rows in (("red", red), ("blue", blue)):
            text = "\n".join(f"{name} {k}" for name, k in rows)  # the last line without a newline
            (folder / "split" / f"{colour}_noise_nl_{level}").write_text(text)
    (folder / "split" / "clean_validation").write_text("".join(f"{name} {k}\n" for name, k in held))
    (folder / ("class_names.txt" if flat else "class_name.txt")).write_text("tench\nrobin\nhusky\n")
    told = [
        [
            {
                "image/uri": "u",
                "image/id": name[:-4],
                "image/class/label": k,
                "image/class/label/is_clean": int(j % 10 == 1),
            }
        ]
        for j, (name, k) in enumerate(foreign)
    ]
    (root / "cnwl" / f"{place.replace('_', '-')}-annotations.json").write_text(json.dumps({"data": told}))
    return folder


@pytest.mark.parametrize(
    ("name", "place"), [("cnwl_mini_imagenet", "mini-imagenet"), ("cnwl_stanford_cars", "stanford_cars")]
)
def test_each_level_of_each_colour(tmp_path, name, place):
    web(tmp_path, place)
    spec = f"{name}?size=16"
    clean = datasets.load(spec, tmp_path)
    assert (clean.n_classes, clean.classes, clean.x_train.shape) == (3, ("tench", "robin", "husky"), (30, 3, 16, 16))
    assert clean.y_train.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    assert len(clean.x_test) == 6
    seen = {clean.digest}
    for level in LEVELS[1:]:
        red, blue = (datasets.load(spec, tmp_path, Noise("web", level, c)) for c in ("red", "blue"))
        n = round(10 * level)
        truth = [
            [k if j >= n else k if j == 1 else -1 for j in range(10)] for k in range(3)
        ]  # one web image in ten is of its class
        assert red.y_train.tolist() == [y for row in truth for y in row]
        assert red.label_sets["web"].tolist() == clean.y_train.tolist()
        assert torch.equal(blue.y_train, clean.y_train)
        assert int((blue.label_sets["web"] != blue.y_train).sum()) == 3 * n
        assert torch.equal(blue.x_train, clean.x_train)
        assert torch.equal(red.x_train[n:10], clean.x_train[n:10])
        assert n == 0 or not torch.equal(red.x_train[0], clean.x_train[0])
        seen.add(red.digest)
    assert len(seen) == len({round(10 * level) for level in LEVELS})


def test_the_rate_is_that_of_the_annotations(tmp_path):
    web(tmp_path)
    cell = prepare("cnwl_mini_imagenet?size=16", tmp_path, Noise("web", 0.4, "red"), 0.1)
    assert cell.effective_rate == pytest.approx(9 / 30)  # of four web images in ten, one is of its class
    drawn = prepare("cnwl_mini_imagenet?size=16", tmp_path, Noise("symmetric", 0.5, "exclusive"), 0.1)
    assert drawn.effective_rate == 0.5  # on the noise-free images
    (tmp_path / "cnwl" / "mini-imagenet-annotations.json").unlink()
    datasets._cached.cache_clear()
    _prepared.cache_clear()
    cell = prepare("cnwl_mini_imagenet?size=16", tmp_path, Noise("web", 0.4, "red"), 0.1)
    assert cell.effective_rate == pytest.approx(12 / 30)  # nobody says that a web image is of its class
    run = run_for("ce", "cnwl_mini_imagenet?size=16", cell)
    assert run.epoch()["label/corrected"] is not None


def test_flat_copies(tmp_path):
    web(tmp_path / "a")
    web(tmp_path / "b", flat=True)
    one, other = (datasets.load("cnwl_mini_imagenet?size=16", tmp_path / r, Noise("web", 0.2, "red")) for r in "ab")
    assert torch.equal(one.x_train, other.x_train)
    assert torch.equal(one.x_test, other.x_test)
    assert torch.equal(one.y_train, other.y_train)


def test_what_is_wrong_with_controlled_sets(tmp_path):
    folder, level = web(tmp_path), Noise("web", 0.2, "red")
    name = "cnwl_mini_imagenet?size=16"
    with pytest.raises(InputError, match=r"no level 0\.25; it was published at 0, 0\.05, 0\.1"):
        Noise("web", 0.25, "red")
    with pytest.raises(InputError, match="came with no noisy labels"):
        prepare("digits", tmp_path, Noise("web", 0.2, "red"), 0.1)
    split = folder / "split" / "red_noise_nl_0.2"
    good = split.read_text()
    for content, words in (
        (good.replace("tench", ""), ()),
        ("a.jpg\n", ("red_noise_nl_0.2, line 1: 'a.jpg' is not PATH LABEL",)),
        (good + "\nb.jpg 3", ("line 31: label 3 is out of range: the classes are 0 to 2",)),
        ("../b.jpg 1\n" + good, ("line 1: '../b.jpg' leads out of the folder",)),
        ("b.jpg 1\n" + good, ("1 of 31 images are missing", "b.jpg (it is not there)", "--skip-corrupt")),
        ("", ("lists no images",)),
    ):
        split.write_text(content)
        datasets._cached.cache_clear()
        if words:
            refused(name, tmp_path, level, *words)
    split.unlink()
    datasets._cached.cache_clear()
    refused(name, tmp_path, level, "red_noise_nl_0.2: no such list")
    (tmp_path / "cnwl" / "mini-imagenet-annotations.json").write_text('{"data": [[{"image/id": 3}]]}')
    refused(name, tmp_path, Noise("web", 0.3, "red"), "not the published annotations (KeyError")
    for colour in ("red", "blue"):
        (folder / "split" / f"{colour}_noise_nl_0.0").unlink()
    refused(name, tmp_path, Noise("web", 0.3, "red"), "has no red_noise_nl_0.0, from which the true labels are read")


def test_web_images_that_are_gone_can_be_left_out(tmp_path):
    folder = web(tmp_path)
    gone = next((folder / "all_images").glob("5922*"))
    gone.unlink()
    data = datasets.load("cnwl_mini_imagenet?size=16&skip_corrupt=yes", tmp_path, Noise("web", 0.8, "red"))
    assert len(data.x_train) == len(data.y_train) == len(data.label_sets["web"]) == 29


def test_the_samples_of_the_published_format(tmp_path):
    if not SAMPLES.is_dir():
        pytest.skip("needs ../shared/data/format_samples")
    shutil.copytree(SAMPLES / "cnwl", tmp_path / "cnwl", copy_function=shutil.copyfile)
    folder = tmp_path / "cnwl" / "mini-imagenet"
    for path in (tmp_path / "cnwl").rglob("*"):
        path.chmod(0o755)
    split = folder / "split"
    (split / "blue_noise_nl_0.0").write_text(
        "n0144076400000001.jpg 0\nn0144076400000009.jpg 0\nn0144076400000010.jpg 1\n"
    )
    for line in (split / "blue_noise_nl_0.4").read_text().splitlines() + (
        split / "clean_validation"
    ).read_text().splitlines():
        name, label = line.split(" ")
        write(folder, f"validation/{label}/{name}" if "val" in name else f"all_images/{name}", int(label))
    (folder / "class_name.txt").write_text("a\nb\nc\n")
    data = datasets.load("cnwl_mini_imagenet?size=16", tmp_path, Noise("web", 0.4, "blue"))
    assert data.label_sets["web"].tolist() == [0, 0, 0, 0, 1, 2]
    assert data.y_train.tolist() == [0, 0, 1, -1, -1, -1]  # the dummy annotations say that no web image is of its class
    assert data.y_test.tolist() == [0, 1, 2]


# --- WebVision ------------------------------------------------------------------------------------------------------


def webvision(root: Path) -> Path:
    folder = root / "webvision"
    train = [(f"google/q{k:04d}/{j}.jpg", k) for k in (0, 1, 49) for j in range(8)] + [("google/q0900/0.jpg", 600)]
    held = [(f"val{j:06d}.jpg", k) for j, k in enumerate((0, 1, 49, 49, 700))]
    for seed, (path, _) in enumerate(train):
        write(folder, path, seed)
    for seed, (path, _) in enumerate(held):
        write(folder, f"val_images_256/{path}", 50 + seed)
    (folder / "info").mkdir()
    for name, rows in (("train_filelist_google.txt", train), ("val_filelist.txt", held)):
        (folder / "info" / name).write_text("".join(f"{path} {k}\n" for path, k in rows))
    return folder


WEBVISION = "webvision_mini?size=16"


def test_webvision_keeps_its_first_fifty_classes(tmp_path):
    folder = webvision(tmp_path)
    data = datasets.load(WEBVISION, tmp_path, Noise("given", 0.0))
    assert (data.n_classes, len(data.classes), len(data.x_train), len(data.x_test)) == (50, 50, 24, 4)
    assert data.y_test.tolist() == [0, 1, 49, 49]
    assert not data.truth
    assert not data.extra
    (folder / "info" / "synsets.txt").write_text("".join(f"n{k:08d} name {k}, other\n" for k in range(1000)))
    datasets._cached.cache_clear()
    assert datasets.load(WEBVISION, tmp_path).classes[49] == "name 49"


@pytest.mark.parametrize("layout", ["numbers", "synsets", "list"])
def test_the_second_test_set_of_webvision(tmp_path, layout):
    place = webvision(tmp_path) / "imagenet"
    if layout == "list":
        for k in (0, 49):
            write(place, f"{k}.JPEG", k)
        (place / "imagenet_val.txt").write_text("0.JPEG 0\n49.JPEG 49\nx.JPEG 70\n")
    else:
        for k in range(1000 if layout == "synsets" else 50):
            (place / "val" / (f"n{k:08d}" if layout == "synsets" else str(k))).mkdir(parents=True)
        for k in (0, 49):
            write(place, f"val/{f'n{k:08d}' if layout == 'synsets' else k}/ILSVRC2012_val_{k:08d}.JPEG", k)
    cell = prepare(WEBVISION, tmp_path, Noise("given", 0.0), 0.1)
    assert cell.extra["ilsvrc12"][1].tolist() == [0, 49]
    record = run_for("ce", WEBVISION, cell).epoch()
    assert {"test/acc", "test/acc_ilsvrc12"} <= set(record)
    assert "select/auroc" not in record


def test_what_is_wrong_with_webvision(tmp_path):
    folder = webvision(tmp_path)
    refused(
        WEBVISION,
        tmp_path,
        Noise("symmetric", 0.2),
        "labels of 'webvision_mini' are noisy as they came",
        "choose from: given",
    )
    (folder / "imagenet" / "val" / "n00000001").mkdir(parents=True)
    refused(WEBVISION, tmp_path, None, "has 1 folders; it should have 0 to 49, or the 1000 synsets")
    shutil.rmtree(folder / "imagenet")
    (folder / "val_images_256" / "val000001.jpg").write_bytes(b"")
    refused(WEBVISION, tmp_path, None, "webvision_mini, test images: 1 of 4 images", "it is empty")
    (folder / "info" / "train_filelist_google.txt").write_text("google/q0001/0.jpg 1000\n")
    refused(WEBVISION, tmp_path, None, "label 1000 is out of range")


# --- Clothing1M -----------------------------------------------------------------------------------------------------


def clothing(root: Path, lists: str = "") -> Path:
    folder, kv, keys = root / "clothing1m", {"noisy": [], "clean": []}, {}
    for n, (part, kind, count) in enumerate(
        (
            ("noisy_train", "noisy", 28),
            ("clean_train", "clean", 5),
            ("clean_val", "clean", 6),
            ("clean_test", "clean", 7),
        )
    ):
        keys[part] = [f"images/{j % 10}/{n}/{j},{n}.jpg" for j in range(count)]
        for j, path in enumerate(keys[part]):
            write(folder, path, 100 * n + j, 30, 24)
            kv[kind].append(f"{path} {j % 14}")
    (folder / lists).mkdir(exist_ok=True)
    for kind, rows in kv.items():
        (folder / lists / f"{kind}_label_kv.txt").write_text("\n".join(rows) + "\n")
    for part, rows in keys.items():
        (folder / lists / f"{part}_key_list.txt").write_text("\n".join(rows) + "\n")
    return folder


CLOTHING = "clothing1m?size=16"


def test_clothing1m(tmp_path):
    clothing(tmp_path)
    data = datasets.load(CLOTHING, tmp_path)
    assert (data.n_classes, data.classes[13], len(data.x_train), len(data.x_test)) == (14, "Underwear", 28, 7)
    assert data.y_train.tolist() == [j % 14 for j in range(28)]
    assert data.y_test.tolist() == list(range(7))
    assert (data.truth, data.extra["val"][1].tolist()) == (False, list(range(6)))
    cell = prepare(f"{CLOTHING}&stream=always", tmp_path, Noise("given", 0.0), 0.1)
    assert isinstance(cell.x, Files)
    assert (cell.effective_rate, cell.clean_validation, cell.data_digest) == (None, 6, data.digest)
    record = run_for("ce", CLOTHING, cell, clean_val=6).epoch()
    assert record["val/clean_acc"] is not None


def test_what_is_wrong_with_clothing1m(tmp_path):
    folder = clothing(tmp_path)
    keys = folder / "clean_val_key_list.txt"
    keys.write_text(keys.read_text() + "images/1/none.jpg\n")
    refused(
        CLOTHING,
        tmp_path,
        None,
        "clean_val_key_list.txt, line 7: images/1/none.jpg has no label in clean_label_kv.txt (1 such lines)",
    )
    (folder / "noisy_label_kv.txt").write_text("images/0/0/0,0.jpg 14\n")
    refused(CLOTHING, tmp_path, None, "noisy_label_kv.txt, line 1: label 14 is out of range: the classes are 0 to 13")
    (folder / "clean_label_kv.txt").write_bytes(b"\xff\xfe")
    refused(CLOTHING, tmp_path, None, "noisy_label_kv.txt")


# --- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "dataset", "make", "noise"),
    [
        ("ce", "cnwl_mini_imagenet", web, "web:red:0.4"),
        ("coteaching", "webvision_mini", webvision, "given"),
        ("ce", "clothing1m", clothing, "given"),
    ],
)
def test_the_command_trains_on_them(tmp_path, capsys, method, dataset, make, noise):
    make(tmp_path)
    command = [
        "train",
        method,
        "--dataset",
        dataset,
        "--data-root",
        str(tmp_path),
        "--noise",
        noise,
        "--size",
        "16",
        "--epochs",
        "1",
    ]
    assert cli.main([*command, "--network", "mlp", "--stream", "always"]) == 0
    told = capsys.readouterr().out
    assert ("30.0% wrong" if noise != "given" else "wrong labels unknown") in told


def test_the_images_are_those_of_the_files(tmp_path):
    """Non-square images: the shorter side is resized, the middle is kept, as torchvision's Resize and CenterCrop do."""
    from torchvision.transforms.v2 import functional as tv

    folder = webvision(tmp_path)
    data = datasets.load(WEBVISION, tmp_path)
    decoded = torch.from_numpy(np.fromfile(folder / "google" / "q0000" / "3.jpg", np.uint8))
    from torchvision.io import decode_jpeg

    expected = tv.center_crop(tv.resize(decode_jpeg(decoded), [16], antialias=True), [16])
    assert (data.x_train[3].int() - expected.int()).abs().max() <= 1
