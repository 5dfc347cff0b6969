"""What holds for every row of DATASETS. Files that cannot be had here are small ones of the real format."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_datasets import write_idx
from test_human import KEYS, as_pt
from test_lists import clothing, web, webvision
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.io import decode_jpeg

from raystudy import cli
from raystudy.data import datasets, human
from raystudy.data.datasets import DATASETS
from raystudy.data.noise import Noise
from raystudy.learn.celldata import _prepared, prepare

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
N, M = 500, 100  # training and test images of a CIFAR made here


def cifar_arrays(k: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Images [N + M, 3, 32, 32], labels and human labels: real ones (JPEG copies) where they are there."""
    rng = np.random.default_rng(k)
    y = rng.integers(0, k, N + M)
    x = rng.integers(0, 256, (N + M, 3, 32, 32), dtype=np.uint8)
    if k == 10 and (SHARED / "cifar10_jpeg.npz").is_file() and (SHARED / "cifar10n.npz").is_file():
        with np.load(SHARED / "cifar10_jpeg.npz") as z:
            jpeg, offsets, every = z["jpeg"], z["offsets"], z["labels"]
        rows = [*range(N), *range(50000, 50000 + M)]
        x = np.stack([decode_jpeg(torch.from_numpy(jpeg[offsets[i] : offsets[i + 1]].copy())).numpy() for i in rows])
        with np.load(SHARED / "cifar10n.npz") as z:
            return x, every[rows].astype(np.int64), {key: z[key][:N].astype(np.int64) for key in ("clean_label", *KEYS)}
    given = np.where(rng.random(N) < 0.4, (y[:N] + 1) % k, y[:N])
    return x, y, {"clean_label": y[:N]} | dict.fromkeys(KEYS if k == 10 else ("noisy_label",), given)


def cifar(root: Path, k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The python version of CIFAR with fewer images, read by torchvision, which is told the sums of these files."""
    x, y, labels = cifar_arrays(k)
    cls, key = (CIFAR10, "labels") if k == 10 else (CIFAR100, "fine_labels")
    folder = root / cls.base_folder
    folder.mkdir(parents=True)
    parts = [*np.array_split(np.arange(N), len(cls.train_list)), np.arange(N, N + M)]
    sums = {}
    for (name, _), rows in zip([*cls.train_list, *cls.test_list], parts, strict=True):
        content = pickle.dumps({"data": x[rows].reshape(len(rows), -1), key: y[rows].tolist()})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    content = pickle.dumps({cls.meta["key"]: [f"class {i}" for i in range(k)]})
    (folder / cls.meta["filename"]).write_bytes(content)
    monkeypatch.setattr(cls, "train_list", [[name, sums[name]] for name, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[name, sums[name]] for name, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", cls.meta | {"md5": hashlib.md5(content).hexdigest()})
    as_pt(root / human.FILES[f"cifar{k}"][0], labels)


def idx(root: Path, folder: str) -> None:
    rng = np.random.default_rng(len(folder))
    x, y = rng.integers(0, 256, (300, 28, 28), dtype=np.uint8), (np.arange(300) % 10).astype(np.uint8)
    if folder == "MNIST" and (SHARED / "mnist.npz").is_file():
        with np.load(SHARED / "mnist.npz") as z:
            x, y = z["x_train"][:300], z["y_train"][:300]
    for prefix, rows in (("train", slice(200)), ("t10k", slice(200, 300))):
        write_idx(root / folder / "raw", x[rows], y[rows], prefix)


MAKE: dict[str, Callable[[Path, pytest.MonkeyPatch], object]] = {
    "digits": lambda root, _: None,
    "mnist": lambda root, _: idx(root, "MNIST"),
    "fashion_mnist": lambda root, _: idx(root, "FashionMNIST"),
    "cifar10": lambda root, m: cifar(root, 10, m),
    "cifar100": lambda root, m: cifar(root, 100, m),
    "cifar10n": lambda root, m: cifar(root, 10, m),
    "cifar100n": lambda root, m: cifar(root, 100, m),
    "cnwl_mini_imagenet": lambda root, _: web(root),
    "cnwl_stanford_cars": lambda root, _: web(root, "stanford_cars"),
    "webvision_mini": lambda root, _: webvision(root),
    "clothing1m": lambda root, _: clothing(root),
}
SMALL = {
    "webvision_mini": 50,
    "clothing1m": 14,
    "cnwl_mini_imagenet": 3,
    "cnwl_stanford_cars": 3,
}  # classes of the trees made here
every_row = pytest.mark.parametrize("name", sorted(DATASETS))


@every_row
def test_what_every_data_set_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = DATASETS[name]
    assert name == "digits" or not datasets.present(name, tmp_path)
    MAKE[name](tmp_path, monkeypatch)
    assert datasets.present(name, tmp_path)
    spec = f"{name}?size=16" if info.listed else name
    data = datasets.load(spec, tmp_path)
    assert data.name in (name, name.removeprefix("cnwl_"))
    k = SMALL.get(name, info.n_classes)
    assert (data.n_classes, len(data.classes), len(set(data.classes))) == (k, k, k)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test), *data.extra.values()):
        assert x.dtype == torch.uint8
        assert y.dtype == torch.int64
        assert len(x) == len(y) > 0
        assert tuple(x.shape[1:]) == ((info.shape[0], 16, 16) if info.listed else info.shape)
        assert x.float().std() > 0
        assert 0 <= int(y.min()) <= int(y.max()) < k
    for y in data.label_sets.values():
        assert y.dtype == torch.int64
        assert y.shape == data.y_train.shape
        assert 0 <= int(y.min()) <= int(y.max()) < k
    assert len(data.mean) == len(data.std) == data.channels
    assert all(0 < m < 1 and 0 < s < 1 for m, s in zip(data.mean, data.std, strict=True))
    assert 0 <= data.pad < data.size
    assert "given" in data.label_sets or not info.noises
    assert info.source
    assert info.licence
    datasets._cached.cache_clear()
    again = datasets.load(spec, tmp_path)
    assert again is not data
    assert again.digest == data.digest
    assert torch.equal(again.x_train, data.x_train)


@every_row
def test_every_data_set_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_folder import run_for

    MAKE[name](tmp_path, monkeypatch)
    spec = f"{name}?size=16" if DATASETS[name].listed else name
    noise = Noise(DATASETS[name].noises[0] if DATASETS[name].noises else "given", 0.0)
    if not DATASETS[name].noises:
        noise = Noise("symmetric", 0.2)
    data = prepare(spec, tmp_path, noise, 0.1)
    run = run_for("ce", spec, data, epochs=1)
    assert run.epoch()["test/acc"] is not None


def test_digests_are_distinct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    for name in DATASETS:
        root = tmp_path / name
        MAKE[name](root, monkeypatch)
        seen[name] = datasets.load(f"{name}?size=16" if DATASETS[name].listed else name, root).digest
    assert seen["cifar10n"] == seen["cifar10"]  # the same images and clean labels; trials are shared
    assert seen["cifar100n"] == seen["cifar100"]
    assert len(set(seen.values())) == len(DATASETS) - 2


@pytest.mark.parametrize("name", ["cifar10", "cifar10n", "cifar100n"])
def test_cifar_comes_with_its_human_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MAKE[name](tmp_path, monkeypatch)
    data = datasets.load(name, tmp_path)
    _, y, labels = cifar_arrays(data.n_classes)
    assert data.y_train.tolist() == y[:N].tolist()
    assert {k: v.tolist() for k, v in data.label_sets.items()} == {
        human.KEYS[k]: v.tolist() for k, v in labels.items() if k in human.KEYS
    }
    if data.n_classes == 10 and (SHARED / "cifar10n.npz").is_file():
        wrong = {k: float((v != data.y_train).float().mean()) for k, v in data.label_sets.items()}
        assert wrong["worse"] == pytest.approx(0.4021, abs=0.06)  # of 500 images
        assert wrong["aggre"] == pytest.approx(0.0901, abs=0.04)


@pytest.mark.parametrize(("name", "label_set"), [("cifar10n", "worse"), ("cifar10", "aggre"), ("cifar100n", "noisy")])
def test_the_command_trains_on_human_labels(
    name: str, label_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    MAKE[name](tmp_path, monkeypatch)
    _prepared.cache_clear()
    command = ["train", "ce", "--dataset", name, "--data-root", str(tmp_path), "--noise", f"human:{label_set}"]
    assert cli.main([*command, "--network", "mlp", "--epochs", "1"]) == 0
    data = datasets.load(name, tmp_path)
    wrong = float((data.label_sets[label_set] != data.y_train).float().mean())
    assert f"({wrong:.1%} wrong)" in capsys.readouterr().out


@every_row
def test_a_row_names_what_it_needs(name: str) -> None:
    info = DATASETS[name]
    assert bool(info.files) == bool(info.archives) == (name != "digits")
    assert min(info.train, info.test, info.n_classes) > 1
