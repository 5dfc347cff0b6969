"""Human labels of CIFAR-N: files of the published formats, their order, and that nothing in them is run."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from raystudy.data import datasets, human
from raystudy.data.dataset import build
from raystudy.data.published import with_human
from raystudy.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
KEYS = ("aggre_label", "worse_label", "random_label1", "random_label2", "random_label3")


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 10, 500)
    return {"clean_label": clean} | {k: np.where(rng.random(500) < 0.3, (clean + 1) % 10, clean) for k in KEYS}


def as_pt(path: Path, held: object, protocol: int = 2) -> Path:
    """As ``torch.save`` of numpy arrays writes it."""
    torch.save(held, path, pickle_protocol=protocol)
    return path


def as_npy(path: Path, held: object) -> Path:
    np.save(path, np.array(held, dtype=object), allow_pickle=True)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pt_and_npy_and_npz_are_read(tmp_path, labels, protocol):
    np.savez(tmp_path / "cifar10n.npz", **labels, extra=np.zeros((3, 3)))
    for path in (
        as_pt(tmp_path / "CIFAR-10_human.pt", labels, protocol),
        as_npy(tmp_path / "CIFAR-10_human.npy", labels),
        tmp_path / "cifar10n.npz",
    ):
        found = human.label_sets(path, labels["clean_label"], 10)
        assert set(found) == {"aggre", "worse", "random1", "random2", "random3"}
        assert all(
            np.array_equal(found[human.KEYS[k]], labels[k]) and found[human.KEYS[k]].dtype == np.int64 for k in KEYS
        )


def test_lists_of_numpy_numbers_as_in_the_ordered_file_of_cifar100(tmp_path):
    clean = np.arange(100)
    path = as_npy(
        tmp_path / "x.npy", {"clean_label": clean, "noise_label": [np.int64((i + 1) % 100) for i in range(100)]}
    )
    assert human.label_sets(path, clean, 100)["noisy"].tolist() == [*range(1, 100), 0]


@pytest.mark.parametrize("inverse", [False, True])
def test_tensorflows_order_is_led_back(tmp_path, labels, inverse):
    order = np.random.default_rng(1).permutation(500)
    path = as_npy(tmp_path / "CIFAR-10_human_ordered.npy", {k: y[order] for k, y in labels.items()})
    with pytest.raises(InputError, match=r"not those of the images in this order; take the \.pt file"):
        human.label_sets(path, labels["clean_label"], 10, "image_order_c10.npy")
    np.save(tmp_path / "image_order_c10.npy", order if inverse else np.argsort(order))
    found = human.label_sets(path, labels["clean_label"], 10, "image_order_c10.npy")
    assert np.array_equal(found["worse"], labels["worse_label"])
    np.save(tmp_path / "image_order_c10.npy", np.roll(order, 1))
    with pytest.raises(InputError, match="nor does image_order_c10"):
        human.label_sets(path, labels["clean_label"], 10, "image_order_c10.npy")


class Harm:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pt", ".npy"])
@pytest.mark.parametrize("place", ["alone", "among the labels"])
def test_code_in_a_file_is_not_run(tmp_path, labels, suffix, place):
    harm = Harm(tmp_path / "harm")
    held = harm if place == "alone" else labels | {"worse_label": harm}
    path = (as_pt if suffix == ".pt" else as_npy)(tmp_path / f"CIFAR-10_human{suffix}", held)
    with pytest.raises(InputError, match=r"it names (posix|nt)\.mkdir, which is no numpy array") as caught:
        human.read(path)
    assert "\n" not in str(caught.value)
    assert not harm.path.exists()


@pytest.mark.parametrize(
    "name", ["numpy.load", "numpy.ndarray.tofile", "builtins.eval", "_codecs.lookup", "numpy.memmap", "torch.load"]
)
def test_only_arrays_can_be_named(tmp_path, name):
    module, _, attribute = name.partition(".")
    content = f"c{module}\n{attribute}\n(S'x'\ntR.".encode()
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as z:
        z.writestr("archive/data.pkl", content)
    with pytest.raises(InputError, match=f"it names {name}"):
        human.read(tmp_path / "x.pt")


def test_damaged_and_foreign_files(tmp_path, labels):
    good = as_pt(tmp_path / "good.pt", labels).read_bytes()
    npy = as_npy(tmp_path / "good.npy", labels).read_bytes()
    with zipfile.ZipFile(tmp_path / "empty.pt", "w") as z:
        z.writestr("archive/version", "3")
    np.save(tmp_path / "array.npy", np.arange(5))
    for name, content in {
        "a.pt": b"", "b.pt": b"text", "c.pt": good[: len(good) // 2], "d.npy": npy[: len(npy) // 2], "e.npy": b"\x93NUMPY\x09\x00",
        "f.pt": pickle.dumps(labels), "empty.pt": None, "array.npy": None, "g.npz": good,
    }.items():  # fmt: skip
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError) as caught:
            human.read(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    for held, words in (
        ([1, 2], "a list, not a dict"),
        ({"worse_label": torch.zeros(3)}, "it names torch"),
        (labels | {"worse_label": np.zeros(500)}, "worse_label is float64"),
        (labels | {"worse_label": np.zeros((2, 2), int)}, r"of shape \[2, 2\]"),
    ):
        with pytest.raises(InputError, match=words):
            human.read(as_pt(tmp_path / "h.pt", held))


def test_labels_that_do_not_fit_the_images(tmp_path, labels):
    clean = labels["clean_label"]
    for held, words in (
        (labels | {"worse_label": clean[:-1]}, "worse has 499 labels for 500 images"),
        (labels | {"worse_label": clean + 9}, r"worse\[\d+\] is 1\d, out of range: the classes are 0 to 9"),
        ({"worse_label": clean}, "has no clean_label"),
        ({"clean_label": clean}, "or no noisy labels; it holds: clean_label"),
        (labels | {"clean_label": (clean + 1) % 10}, "not those of the images in this order"),
    ):
        with pytest.raises(InputError, match=words):
            human.label_sets(as_pt(tmp_path / "x.pt", held), clean, 10, "none.npy")


def test_a_cifar_set_has_them_as_label_sets(tmp_path, labels):
    x = np.zeros((500, 3, 8, 8), np.uint8)
    data = build("cifar10n", (x, labels["clean_label"]), (x[:10], np.arange(10)), tuple("0123456789"), pad=4, flip=True)
    found = with_human(data, "cifar10", as_pt(tmp_path / "CIFAR-10_human.pt", labels))
    assert set(found.label_sets) == {"aggre", "worse", "random1", "random2", "random3"}
    assert found.digest == data.digest
    assert human.find("cifar10", tmp_path) == tmp_path / "CIFAR-10_human.pt"
    (tmp_path / "cifar-n").mkdir()
    (tmp_path / "CIFAR-10_human.pt").rename(tmp_path / "cifar-n" / "CIFAR-10_human.pt")
    assert human.find("cifar10", tmp_path) == tmp_path / "cifar-n" / "CIFAR-10_human.pt"
    assert human.find("cifar100", tmp_path) is None


@pytest.mark.parametrize("name", ["cifar10n", "cifar100n"])
def test_without_them_one_line_says_where_they_come_from(tmp_path, name):
    with pytest.raises(
        InputError, match=r"needs the human labels: fetch CIFAR-\d+_human\.pt from .*not for commercial use"
    ):
        datasets.load(name, tmp_path)


def test_the_rates_of_the_real_labels(tmp_path):
    rates = {"aggre": 0.0901, "worse": 0.4021, "random1": 0.1723, "random2": 0.1812, "random3": 0.1764}
    for n, told in ((10, rates), (100, {"noisy": 0.4020})):
        file = SHARED / f"cifar{n}n.npz"
        if not file.is_file():
            pytest.skip("needs the labels of CIFAR-N in ../shared/data")
        with np.load(file) as z:
            arrays = {k: z[k].astype(np.int64) for k in z.files if "worker" not in k}
        for path in (file, as_pt(tmp_path / f"CIFAR-{n}_human.pt", arrays)):
            found = human.label_sets(path, arrays["clean_label"], n)
            assert {k: round(float((y != arrays["clean_label"]).mean()), 4) for k, y in found.items()} == told
