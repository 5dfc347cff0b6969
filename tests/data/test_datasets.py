"""Data sets: the embedded one, torchvision's files, a user's .npz in every accepted form and with every fault."""

import gzip
import hashlib
import pickle
import zipfile

import numpy as np
import pytest
import torch

from raystudy.data import datasets, spec
from raystudy.data.corruption import corrupted
from raystudy.data.dataset import channel_stats
from raystudy.data.datasets import DATASETS, load, present
from raystudy.data.noise import Noise, effective_rate
from raystudy.errors import InputError


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.integers(0, 256, (12, 6, 6), dtype=np.uint8),
        "y_train": np.arange(12) % 3,
        "x_test": rng.integers(0, 256, (5, 6, 6), dtype=np.uint8),
        "y_test": np.array([0, 1, 2, 0, 1]),
    }


@pytest.fixture
def save(tmp_path):
    def write(arrays, name="mine.npz"):
        np.savez(tmp_path / name, **arrays)
        return f"npz:{tmp_path / name}"

    return write


@pytest.fixture
def no_network(monkeypatch):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there: refused at once
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


# --- digits -------------------------------------------------------------------------------------------------------


def test_digits():
    d = load("digits")
    assert (d.name, d.n_classes, d.channels, d.size, d.pad, d.flip) == ("digits", 10, 1, 8, 1, False)
    assert (d.x_train.shape, d.x_test.shape) == ((1347, 1, 8, 8), (450, 1, 8, 8))
    assert d.x_train.dtype == torch.uint8
    assert d.y_train.dtype == torch.int64
    assert (int(d.x_train.min()), int(d.x_train.max())) == (0, 255)
    assert d.classes == tuple("0123456789")
    both = d.y_train.bincount() + d.y_test.bincount()
    share = d.y_test.bincount() / both
    assert ((share - 450 / 1797).abs() < 1 / both).all()  # stratified to within one image
    assert d.digest == "86398000c089c31e"  # pinned: the split never changes
    assert d.label_sets == {}
    assert load("digits") is d
    assert present("digits")
    flat = d.x_train.double() / 255
    assert d.mean[0] == pytest.approx(float(flat.mean()), abs=1e-6)
    assert d.std[0] == pytest.approx(float(flat.std(correction=0)), abs=1e-6)


def test_digits_holds_every_image_of_scikit_learn_once():
    from sklearn.datasets import load_digits

    d = load("digits")
    theirs = np.rint(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    ours = torch.cat([d.x_train, d.x_test]).reshape(1797, -1).numpy()
    assert sorted(map(bytes, theirs)) == sorted(map(bytes, ours))


# --- torchvision's ------------------------------------------------------------------------------------------------


def write_idx(folder, images, labels, prefix):
    folder.mkdir(parents=True, exist_ok=True)
    head = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in images.shape)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(
        b"\x00\x00\x08\x01" + len(labels).to_bytes(4, "big") + labels.tobytes()
    )


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files_in_place_are_read_without_a_network(tmp_path, no_network, name, folder):
    images = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    labels = np.array([3, 1, 0, 9], dtype=np.uint8)
    assert not present(name, tmp_path)
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / folder / "raw", images, labels, prefix)
    assert present(name, tmp_path)
    d = load(name, tmp_path)
    assert d.x_train.shape == (4, 1, 28, 28)
    assert (d.x_train[:, 0].numpy() == images).all()
    assert d.y_test.tolist() == [3, 1, 0, 9]
    assert (d.n_classes, d.pad, d.flip, len(d.mean)) == (10, 2, False, 1)
    assert d.classes[0] == ("0" if name == "mnist" else "T-shirt/top")


def test_a_damaged_download_is_told(tmp_path, no_network):
    for prefix in ("train", "t10k"):
        write_idx(tmp_path / "MNIST" / "raw", np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8), prefix)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="cannot be read"):
        load("mnist", tmp_path)


@pytest.mark.parametrize("name", sorted(n for n, info in DATASETS.items() if info.archives))
def test_without_network_one_line_says_what_to_put_where(tmp_path, no_network, name):
    with pytest.raises(InputError) as caught:
        load(name, tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert "--data-root" in text
    assert str(tmp_path) in text
    assert DATASETS[name].archives[0].rsplit("/")[-1] in text


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_files_that_are_not_the_published_ones_are_refused(tmp_path, no_network, name):
    for file in DATASETS[name].files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(pickle.dumps(Bomb()))  # torchvision unpickles, after checking the sums
    assert present(name, tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load(name, tmp_path)


def test_unknown_names():
    with pytest.raises(InputError, match="did you mean 'cifar10'") as caught:
        load("cifar-10")
    assert "npz:PATH" in str(caught.value)
    with pytest.raises(InputError, match="unknown data set 'imagenet'"):
        present("imagenet")


# --- a user's file ------------------------------------------------------------------------------------------------


def test_a_users_file(arrays, save):
    spec = save(arrays)
    d = load(spec)
    assert (d.name, d.n_classes, d.classes, d.pad, d.flip) == ("mine.npz", 3, ("0", "1", "2"), 1, False)
    assert (d.x_train[:, 0].numpy() == arrays["x_train"]).all()
    assert (d.y_train.numpy() == arrays["y_train"]).all()
    assert d.label_sets == {}
    assert present(spec)
    assert not present(spec + "x")


def test_every_accepted_layout_and_type_gives_the_same_images(arrays, save):
    rng = np.random.default_rng(1)
    colour = {
        "x_train": rng.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8),
        "x_test": np.zeros((5, 6, 6, 3), np.uint8),
    }
    grey, last = load(save(arrays)), load(save(arrays | colour, "nhwc.npz"))
    assert last.x_train.shape == (12, 3, 6, 6)
    assert last.flip
    assert torch.equal(last.x_train[3, 1], torch.from_numpy(colour["x_train"][3, :, :, 1]))
    forms = {
        "nchw": {k: v.transpose(0, 3, 1, 2) for k, v in colour.items()},
        "floats": {k: (v / 255).astype(np.float32) for k, v in colour.items()},
        "doubles": {k: v / 255 for k, v in colour.items()},
    }
    for name, images in forms.items():
        assert torch.equal(load(save(arrays | images, f"{name}.npz")).x_train, last.x_train)
    for name, axis in (("n1hw", 1), ("nhw1", 3)):
        images = {k: np.expand_dims(arrays[k], axis) for k in ("x_train", "x_test")}
        other = load(save(arrays | images, f"{name}.npz"))
        assert torch.equal(other.x_train, grey.x_train)
        assert other.digest == grey.digest


@pytest.mark.parametrize(("size", "pad"), [(15, 1), (16, 2), (31, 2), (32, 4)])
def test_padding_grows_with_the_image(arrays, save, size, pad):
    images = {"x_train": np.zeros((12, size, size), np.uint8), "x_test": np.zeros((5, size, size), np.uint8)}
    assert load(save(arrays | images)).pad == pad


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64, np.uint64])
def test_labels_of_any_whole_numbers(arrays, save, dtype):
    d = load(save(arrays | {"y_train": arrays["y_train"].astype(dtype)}))
    assert d.y_train.dtype == torch.int64
    assert d.y_train.tolist() == arrays["y_train"].tolist()


def test_noisy_labels_that_came_with_the_data(arrays, save):
    noisy = arrays["y_train"].copy()
    noisy[[0, 5, 7]] = (noisy[[0, 5, 7]] + 1) % 3
    with_labels, without = load(save(arrays | {"y_noisy": noisy})), load(save(arrays, "b.npz"))
    given = corrupted(with_labels, Noise("given", 0)).given
    assert (given == noisy).all()
    assert effective_rate(with_labels.y_train, given) == 0.25
    assert with_labels.digest == without.digest  # the images and the clean labels
    assert (
        corrupted(without, Noise("given", 0)).given.tolist() == arrays["y_train"].tolist()
    )  # the only labels, as they came
    assert (with_labels.truth, without.truth) == (True, False)
    with pytest.raises(InputError, match="nobody knows which labels"):
        corrupted(without, Noise("given", 0.1))
    with pytest.raises(InputError, match="came with no noisy labels"):
        corrupted(load("digits"), Noise("given", 0))
    with pytest.raises(InputError, match="came with no noisy labels 'other'"):
        corrupted(with_labels, Noise("given", 0, "other"))
    named = load(save(arrays | {"y_noisy": noisy, "y_noisy_worse": np.roll(noisy, 1)}, "named.npz"))
    assert {name: set_.tolist() for name, set_ in named.label_sets.items()} == {
        "given": noisy.tolist(),
        "worse": np.roll(noisy, 1).tolist(),
    }
    drawn = corrupted(without, Noise("pair", 0.5, seed=1)).given
    assert (drawn != without.y_train.numpy()).sum() == 6


def test_a_file_written_again_is_read_again(arrays, save):
    first = load(save(arrays))
    assert load(save(arrays | {"x_train": arrays["x_train"][:9], "y_train": arrays["y_train"][:9]})) is not first
    assert len(first.y_train) == 12


def test_the_digest_follows_images_and_labels(arrays, save):
    first = load(save(arrays)).digest
    arrays["x_test"][4, 5, 5] ^= 1
    second = load(save(arrays, "b.npz")).digest
    arrays["y_test"][4] = 0
    assert len({first, second, load(save(arrays, "c.npz")).digest}) == 3


def change(arrays, name, index=None, value=None):
    a = arrays[name].copy()
    a[index] = value
    return {name: a}


FAULTS = {
    "labels short": (lambda a: {"y_train": a["y_train"][:-1]}, "y_train has 11 labels for 12 images"),
    "noisy short": (lambda a: {"y_noisy": a["y_train"][:-1]}, "y_noisy has 11 labels for 12 images"),
    "test labels long": (lambda a: {"y_test": np.zeros(6, int)}, "y_test has 6 labels for 5 images"),
    "negative": (lambda a: change(a, "y_train", 4, -1), "y_train[4] is -1, negative"),
    "fraction": (lambda a: {"y_test": np.array([0, 1, 1.5, 0, 0.5])}, "y_test[2] is 1.5, not a whole number"),
    "label nan": (lambda a: {"y_test": np.array([0, 1, 1, np.nan, 0])}, "y_test[3] is nan, not a whole number"),
    "test out of range": (
        lambda a: change(a, "y_test", 1, 3),
        "y_test[1] is 3, out of range: y_train has the classes 0 to 2",
    ),
    "noisy out of range": (lambda a: {"y_noisy": a["y_train"] + 1}, "y_noisy[2] is 3, out of range"),
    "train out of range": (lambda a: change(a, "y_train", 7, 1000), "y_train[7] is 1000, out of range for 12 images"),
    "from one": (lambda a: {"y_train": a["y_train"] + 1}, "runs from 1 to 3; labels start at 0"),
    "one class": (lambda a: {"y_train": a["y_train"] * 0}, "one class only"),
    "label words": (lambda a: {"y_train": np.array(["cat"] * 12)}, "y_train[0] is cat"),
    "one-hot": (lambda a: {"y_train": np.eye(3)[a["y_train"]]}, "y_train has shape [12, 3]"),
    "empty": (
        lambda a: {"x_train": a["x_train"][:0], "y_train": a["y_train"][:0]},
        "x_train is 0x6x6: it holds no images",
    ),
    "empty test": (
        lambda a: {"x_test": a["x_test"][:0], "y_test": a["y_test"][:0]},
        "x_test is 0x6x6: it holds no images",
    ),
    "sizes": (
        lambda a: {"x_test": np.zeros((5, 7, 7), np.uint8)},
        "differ in image shape (channels x height x width): 1x6x6 and 1x7x7",
    ),
    "colours": (lambda a: {"x_test": np.zeros((5, 6, 6, 3), np.uint8)}, "1x6x6 and 3x6x6"),
    "oblong": (lambda a: {"x_train": np.zeros((12, 6, 5), np.uint8)}, "6x5 pixels; they must be square"),
    "flat": (lambda a: {"x_train": np.zeros((12, 36), np.uint8)}, "x_train is 12x36; images are [N, H, W]"),
    "channels": (lambda a: {"x_train": np.zeros((12, 6, 6, 4), np.uint8)}, "with C 1 or 3"),
    "scalar": (lambda a: {"x_train": np.uint8(3)}, "x_train is a single number"),
    "int images": (lambda a: {"x_train": a["x_train"].astype(int)}, "x_train is int64; images are uint8"),
    "nan": (
        lambda a: change({"x_train": a["x_train"] / 255}, "x_train", (3, 0, 0), np.nan),
        "x_train[3] has pixels that are NaN",
    ),
    "floats": (lambda a: {"x_train": a["x_train"].astype(np.float32)}, "float images lie in [0, 1], or store uint8"),
    "objects": (lambda a: {"x_train": np.array([None] * 12, dtype=object)}, "x_train is an object array (pickled)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_file_is_one_line_that_names_it(arrays, save, fault):
    changed, told = FAULTS[fault]
    with pytest.raises(InputError) as caught:
        load(save(arrays | changed(arrays)))
    assert told in str(caught.value)
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_arrays(arrays, save):
    del arrays["y_train"], arrays["x_test"]
    with pytest.raises(
        InputError, match=r"no array y_train, x_test; needed are x_train, y_train \(and x_test with y_test"
    ):
        load(save(arrays))


# --- a file without a test set ------------------------------------------------------------------------------------


def untested(n=400):
    """Pairs of equal images of six classes."""
    x = np.random.default_rng(5).integers(0, 256, (n // 2, 6, 6), dtype=np.uint8).repeat(2, 0)
    y = np.arange(n) // 2 % 6
    return {"x_train": x, "y_train": y, "y_noisy": (y + (np.arange(n) % 5 == 0)) % 6}


def test_without_a_test_set_a_fifth_is_held_out_by_what_it_holds(save):
    told = untested()
    data = load(save(told))
    chosen = [hashlib.sha256(x.tobytes()).digest()[0] < 51 for x in told["x_train"]]  # 51 of 256: near enough a fifth
    assert abs(len(data.y_test) - sum(chosen)) <= 4
    assert 40 < len(data.y_test) < 120
    assert len(data.y_train) + len(data.y_test) == 400
    train, test = ({x.numpy().tobytes() for x in images} for images in (data.x_train, data.x_test))
    assert not train & test  # equal images are on one side
    place = {x.tobytes(): i for i, x in enumerate(told["x_train"])}
    assert [told["y_train"][place[x.numpy().tobytes()]] for x in data.x_test] == data.y_test.tolist()
    of = [told["y_train"][place[x.numpy().tobytes()]] for x in data.x_train]
    assert (of == data.y_train.tolist(), data.truth) == (True, True)
    assert 0 < int((data.label_sets["given"] != data.y_train).sum()) <= 80  # the noisy labels went along
    assert data.notes[0].startswith(f"no x_test: the test set is {len(data.y_test)} of 400 images")


def test_the_split_is_that_of_the_sample_whatever_else_is_there(save):
    told = untested()
    whole, part = load(save(told)), load(save({name: a[:200] for name, a in told.items()}, "part.npz"))
    test = {x.numpy().tobytes() for x in whole.x_test}
    assert {x.numpy().tobytes() for x in part.x_test} == test & {x.tobytes() for x in told["x_train"][:200]}
    del told["y_noisy"]
    known = load(save(told, "bare.npz"))
    assert (known.truth, known.y_test.tolist()) == (False, whole.y_test.tolist())


def test_vectors_without_a_test_set_are_split_by_their_plain_view(save):
    x = np.random.default_rng(2).normal(size=(200, 3, 4)).astype(np.float32)
    x[100:, 0] = x[:100, 0]  # the same samples, other views
    x[0, 0, 0], x[100, 0, 0] = 0.0, -0.0
    data = load(save({"x_train": x, "y_train": np.arange(200) % 2, "kind": np.array("vectors")}))
    assert data.x_test.shape[1:] == (4,)
    assert data.x_train.shape[1:] == (3, 4)
    rows = [{tuple(v.tolist()) for v in part} for part in (data.x_train[:, 0], data.x_test)]
    assert not rows[0] & rows[1]


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (lambda a: a | {"x_test": a["x_train"][:5]}, "no array y_test"),
        (lambda a: a | {"y_test": a["y_train"][:5]}, "no array x_test"),
        (lambda a: {n: v[:2] for n, v in a.items()} | {"y_train": np.array([0, 1])}, "no x_test, and"),
        (lambda a: a | {"y_train": np.arange(400) // 2}, "there is no training image of class"),
        (lambda a: a | {"y_noisy": a["y_noisy"][:-1]}, "y_noisy has 399 labels for 400 images"),
    ],
)
def test_a_split_that_cannot_be_is_refused(save, told, why):
    with pytest.raises(InputError) as caught:
        load(save(told(untested())))
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def test_files_that_are_no_npz(arrays, save, tmp_path):
    good = (tmp_path / "good.npz", save(arrays, "good.npz"))[0].read_bytes()
    np.save(tmp_path / "single.npy", arrays["x_train"])
    with zipfile.ZipFile(tmp_path / "members.npz", "w") as z:
        for name in arrays:
            z.writestr(name, b"text")
    contents = {
        "empty": b"",
        "text": b"label,pixel\n1,2\n",
        "cut": good[: len(good) // 2],
        "gzip": gzip.compress(good),
        "pickle": pickle.dumps(Bomb()),
        "single": (tmp_path / "single.npy").read_bytes(),
        "members": (tmp_path / "members.npz").read_bytes(),
        "flipped": good[:400] + bytes(b ^ 255 for b in good[400:500]) + good[500:],
    }
    for name, content in contents.items():
        file = tmp_path / f"{name}.npz"
        file.write_bytes(content)
        with pytest.raises(InputError) as caught:
            load(f"npz:{file}")
        assert f"{name}.npz" in str(caught.value)
        assert "\n" not in str(caught.value)
    for missing in ("npz:", f"npz:{tmp_path}", f"npz:{tmp_path}/absent.npz"):
        with pytest.raises(InputError):
            load(missing)


def test_channel_stats():
    x = np.zeros((2, 2, 1, 2), np.uint8)
    x[:, 0] = [[[0, 255]], [[0, 255]]]
    x[:, 1] = 51
    assert channel_stats(x) == ((0.5, 0.2), (0.5, 1.0))  # a constant channel is not divided by zero


def test_the_published_names_are_those_of_the_table():
    assert tuple(datasets.DATASETS) == spec.PUBLISHED
