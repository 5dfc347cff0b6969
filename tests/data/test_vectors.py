"""Vectors: what a file may hold and each fault in one line; batches, views and jitter by hand; noise on them; what is said of them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from raystudy import cli
from raystudy.data import datasets, vectors
from raystudy.data.corruption import corrupted, mask
from raystudy.data.instance import standardised
from raystudy.data.loader import OnDevice
from raystudy.data.noise import NOISES, digest, parse
from raystudy.data.vectors import JITTER, STRONG_JITTER, Vectors, feature_stats
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare

N, D, K = 240, 12, 4


def arrays(views: int = 0, dtype: type = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    """Four clouds in twelve dimensions, features of different sizes, and with ``views`` so many of each sample."""
    rng = np.random.default_rng(seed)
    y = np.arange(N + 80) % K
    x = 100 + 20 * (rng.normal(size=(K, D))[y] + 0.5 * rng.normal(size=(N + 80, D))) * np.linspace(0.1, 1, D)
    x = x.clip(0, 255).astype(dtype)
    told = {"x_train": x[:N], "y_train": y[:N], "x_test": x[N:], "y_test": y[N:], "y_noisy": (y[:N] + (y[:N] == 1)) % K}
    if views:
        told["x_train"] = (x[:N, None] + np.arange(views)[:, None]).astype(dtype)
        told["kind"] = np.array("vectors")
    return told


@pytest.fixture
def save(tmp_path):
    def write(told: dict[str, np.ndarray], name: str = "mine") -> str:
        path = tmp_path / f"{name}.npz"
        np.savez(path, **told)
        return f"npz:{path}"

    return write


def test_a_file_may_say_that_its_labels_are_right(save):
    told = {k: v for k, v in arrays().items() if k != "y_noisy"}
    assert not datasets.load(save(told, "unsaid")).truth
    assert not datasets.load(save(told | {"truth": np.array(False)}, "no")).truth
    assert datasets.load(save(told | {"truth": np.array(True)}, "yes")).truth
    with pytest.raises(InputError, match=r"truth is <U3 with shape \[\]; it is True or False"):
        datasets.load(save(told | {"truth": np.array("yes")}, "text"))


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(np.uint8, torch.uint8), (np.float16, torch.float16), (np.float32, torch.float32), (np.float64, torch.float32)],
)
def test_two_dimensions_are_vectors_kept_in_their_own_type(save, dtype, kept):
    told = arrays(dtype=dtype)
    data = datasets.load(save(told))
    assert (data.kind, data.shape, data.n_classes) == ("vectors", (D,), K)
    assert (data.x_train.dtype, data.x_test.dtype) == (kept, kept)
    assert np.array_equal(data.x_train.numpy(), told["x_train"].astype(data.x_train.numpy().dtype))
    x = told["x_train"].astype(np.float64)
    assert np.allclose(data.mean, x.mean(0), rtol=1e-5)
    assert np.allclose(data.std, x.std(0), rtol=1e-5)


def test_three_dimensions_are_images_unless_the_file_says_that_they_are_views(save):
    rng = np.random.default_rng(0)
    y = np.arange(20) % 2
    told = {"x_train": rng.random((20, 6, 6)), "y_train": y, "x_test": rng.random((20, 6, 6)), "y_test": y}
    images = datasets.load(save(told))
    assert (images.kind, images.shape) == ("images", (1, 6, 6))
    views = datasets.load(save(told | {"kind": np.array("vectors"), "strong": np.array([4, 5])}, "views"))
    assert (views.kind, views.shape, views.strong) == ("vectors", (6,), (4, 5))
    assert views.x_train.shape == (20, 6, 6)
    assert torch.equal(views.x_test, torch.from_numpy(told["x_test"][:, 0].astype(np.float32)))
    assert np.allclose(views.mean, told["x_train"][:, 0].mean(0), rtol=1e-5)  # of the plain views


def test_a_constant_feature_is_only_centred():
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    x[:, 1] = 0.1
    mean, std = feature_stats(x)
    assert std[1] == 1
    assert std[0] == pytest.approx(x[:, 0].std(), rel=1e-5)
    assert mean[1] == pytest.approx(0.1, rel=1e-5)


def test_names_of_classes_are_those_of_the_labels_that_occur(save):
    told = arrays()
    y = np.where(told["y_train"] == 2, 3, told["y_train"])
    keys = {"y_train": y, "y_test": told["y_test"] * 0, "y_noisy": y}
    data = datasets.load(save(told | keys | {"class_names": np.array(["ant", "bee", "cow", "doe", "emu"])}))
    assert data.classes == ("ant", "bee", "doe")
    assert data.notes == ("classes without a test vector: 2 (bee, doe)",)


def put(name: str, i: int, value: float):
    def change(told: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = told[name].copy()
        x[i] = value
        return {name: x}

    return change


FAULTS = {
    "NaN": (put("x_train", 7, np.nan), "x_train[7] has numbers that are NaN, infinite or beyond 1e+30"),
    "infinite": (put("x_test", 3, -np.inf), "x_test[3] has numbers that are NaN"),
    "large": (put("x_test", 5, 2e30), "x_test[5] has numbers that are NaN, infinite or beyond"),
    "whole numbers": (lambda a: {"x_train": a["x_train"].astype(np.int64)}, "x_train is int64; vectors are floats or uint8"),
    "widths": (lambda a: {"x_test": a["x_test"][:, :5]}, "x_train has 12 features, x_test has 5"),
    "none": (lambda a: {"x_train": a["x_train"][:, :0], "x_test": a["x_test"][:, :0]}, "x_train is 240x0: it holds no vectors"),
    "kind": (lambda a: {"kind": np.array("tables")}, "choose from: images, vectors"),
    "kind of images": (lambda a: {"kind": np.array("images")}, "x_train is 240x12; images are [N, H, W]"),
    "labels": (lambda a: {"y_train": a["y_train"][:5]}, "y_train has 5 labels for 240 vectors"),
    "few names": (lambda a: {"class_names": np.array(["a", "b"])}, "class_names has 2 names; y_train has labels up to 3"),
    "same names": (lambda a: {"class_names": np.array(["a", "b", "a", "c"])}, "class_names[2] is 'a'; each class has a name of its own"),
    "numbers as names": (lambda a: {"class_names": np.arange(4)}, "class_names is int64 with shape [4]; it is one text per class"),
    "strong of one view": (lambda a: {"strong": np.array([1])}, "strong names view 1; x_train has 1"),
    "plain is strong": (lambda a: {"strong": np.array([0])}, "strong is [0]; it is the positions of the strong views"),
    "four dimensions": (
        lambda a: {"kind": np.array("vectors"), "x_train": np.zeros((9, 2, 2, 2))},
        "x_train is 9x2x2x2; vectors are [N, d], or [N, V, d]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_a_file_is_one_line(save, fault):
    told = arrays()
    changed, said = FAULTS[fault]
    with pytest.raises(InputError) as caught:
        datasets.load(save(told | changed(told)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "said"),
    [("pad=2", "pad"), ("flip=yes", "flip"), ("mean=0.5&std=0.5", "mean"), ("stream=always", "stream")],
)
def test_options_of_images_are_refused(save, option, said):
    with pytest.raises(InputError, match=f"has no option {said}: it is for"):
        datasets.load(f"{save(arrays())}?{option}")


def test_vectors_in_two_splits_and_copies_are_told(save):
    told = arrays()
    told["x_test"][3] = told["x_train"][5]
    told["x_train"][9] = told["x_train"][8]
    assert datasets.load(save(told)).leaks == (
        "1 of the 80 test vectors are training vectors, too: test vector 3 is training vector 5",
        "1 of the 240 training vectors are copies of others, 1 of them with another label",
    )
    views = np.stack([told["x_train"], told["x_train"] + 1], axis=1)
    of_views = datasets.load(save(told | {"x_train": views, "kind": np.array("vectors")}, "views"))
    assert of_views.leaks[0] == "1 of the 80 test vectors are training vectors, too: test vector 3 is training vector 5"


# --- batches ------------------------------------------------------------------------------------------------------


def loader(
    views: int = 0, strong: tuple[int, ...] = (), seed: int = 1, batch_size: int = 32, dtype: type = np.float32
) -> Vectors:
    told = arrays(views, dtype)
    plain = told["x_train"][:, 0] if views else told["x_train"]
    mean, std = feature_stats(plain)
    x, y = (torch.from_numpy(told[name]) for name in ("x_train", "y_train"))
    return Vectors(x, y, K, mean=mean, std=std, strong=strong, batch_size=batch_size, seed=seed)


def whole(batches, name: str = "x") -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and vectors of a pass."""
    every = list(batches)
    return torch.cat([b.index for b in every]), torch.cat([getattr(b, name) for b in every])


def plain_of(train: Vectors) -> torch.Tensor:
    told = arrays()["x_train"].astype(np.float64)
    return torch.from_numpy((told - told.mean(0)) / told.std(0)).float()


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32])
def test_without_augmentation_vectors_are_standardised_in_order(dtype):
    train = loader(dtype=dtype)
    index, x = whole(train.batches(augment=False, shuffle=False))
    told = arrays(dtype=dtype)["x_train"].astype(np.float64)
    assert torch.equal(index, torch.arange(N))
    assert x.dtype == torch.float32
    assert np.allclose(x, (told - told.mean(0)) / told.std(0), atol=1e-4)
    assert torch.equal(train.normalised(torch.from_numpy(arrays(dtype=dtype)["x_train"])), x)
    assert np.allclose(x.mean(0), 0, atol=1e-4)
    assert np.allclose(x.std(0, correction=0), 1, atol=1e-4)


def test_a_mean_of_many_deviations_costs_no_digits():
    x = torch.tensor([[1e6], [1e6 + 1], [1e6 + 2]])
    mean, std = feature_stats(x.numpy())
    train = Vectors(x, torch.zeros(3, dtype=torch.int64), 2, mean=mean, std=std)
    assert np.allclose(train.normalised(x)[:, 0], np.array([-1, 0, 1]) * 1.5**0.5, atol=1e-5)


def test_jitter_is_normal_and_of_the_told_size():
    train = loader()
    index, x = whole(train.batches())
    added = (x - plain_of(train)[index]) / JITTER
    assert abs(float(added.mean())) < 5 / (N * D) ** 0.5
    assert abs(float(added.std()) - 1) < 5 / (2 * N * D) ** 0.5
    assert abs(float((added.abs() < 1).float().mean()) - 0.6827) < 0.05
    rows = added.corrcoef().fill_diagonal_(0)  # samples share no draws
    assert float(rows.abs().mean()) < 1.2 * (2 / torch.pi / D) ** 0.5


def test_strong_views_are_jittered_more_and_lose_features():
    train = loader()
    index, x = whole(train.batches(augment="strong"))
    dropped = x == 0
    assert abs(float(dropped.float().mean()) - vectors.DROPPED) < 5 * 0.4 / (N * D) ** 0.5
    added = (x - plain_of(train)[index])[~dropped] / STRONG_JITTER
    assert abs(float(added.std()) - 1) < 0.08


def test_weak_and_strong_of_one_pass_add_the_same_jitter_of_other_sizes():
    weak, strong = whole(loader().batches()), whole(loader().batches(augment="strong"))
    assert torch.equal(weak[0], strong[0])
    kept, plain = strong[1] != 0, plain_of(loader())[weak[0]]
    assert torch.allclose((strong[1] - plain)[kept] / STRONG_JITTER, (weak[1] - plain)[kept] / JITTER, atol=1e-3)


@pytest.mark.parametrize("views", [0, 4])
def test_draws_hang_on_seed_epoch_and_pass_alone(views, monkeypatch):
    def passes(train: Vectors, epoch: int = 0) -> list[torch.Tensor]:
        train.at(epoch)
        return [whole(train.batches(views=2, augment=(True, "strong")), x)[1] for x in ("x", "x2") for _ in range(2)]

    first = passes(loader(views))
    torch.manual_seed(99)  # the global generator must not matter
    monkeypatch.setattr(vectors, "CHUNK_BYTES", (1, 1))  # a batch in a chunk
    again = passes(loader(views))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])  # the passes differ
    assert not torch.equal(first[0], passes(loader(views), epoch=1)[0])
    assert not torch.equal(first[0], passes(loader(views, seed=2))[0])


def test_the_order_and_the_batches_are_those_of_images():
    x, y = torch.zeros(N, 1, 2, 2, dtype=torch.uint8), torch.from_numpy(arrays()["y_train"])
    subset = torch.arange(0, N, 3)
    for told in ({}, {"subset": subset}, {"shuffle": False, "batch_size": 7}):
        images = OnDevice(x, y, K, mean=(0.5,), std=(0.5,), batch_size=32, seed=1)
        pairs = list(zip(images.batches(**told), loader().batches(**told), strict=True))
        assert all(torch.equal(a.index, b.index) and torch.equal(a.y, b.y) for a, b in pairs)
    assert list(loader().batches(subset[:0])) == []


def numbers(train: Vectors, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Which view each vector is: view v was made by adding v."""
    raw = x * torch.tensor(feature_stats(arrays()["x_train"])[1]) + torch.tensor(feature_stats(arrays()["x_train"])[0])
    shift = (raw - torch.from_numpy(arrays()["x_train"])[index]).mean(1)
    assert torch.allclose(shift, shift.round(), atol=1e-2)  # nothing is jittered where there are views
    return shift.round().long()


def test_views_are_drawn_evenly_and_strong_ones_apart():
    train = loader(views=5, strong=(3, 4))
    weak, strong = Counter[int](), Counter[int]()
    for _ in range(10):
        index, x = whole(train.batches())
        weak.update(numbers(train, x, index).tolist())
        index, x = whole(train.batches(augment="strong"))
        strong.update(numbers(train, x, index).tolist())
    assert set(weak) == {0, 1, 2}
    assert set(strong) == {3, 4}
    assert all(abs(n / (10 * N) - 1 / 3) < 5 * (2 / 9 / 10 / N) ** 0.5 for n in weak.values())
    assert all(abs(n / (10 * N) - 1 / 2) < 5 * (1 / 4 / 10 / N) ** 0.5 for n in strong.values())
    index, x = whole(train.batches(augment=False))
    assert not numbers(train, x, index).any()


@pytest.mark.parametrize("augment", [True, "strong", (True, "strong")])
def test_two_views_out_of_the_same_are_two(augment):
    train = loader(views=3)
    every = list(train.batches(views=2, augment=augment))
    pairs = [(numbers(train, b.x, b.index), numbers(train, b.x2, b.index)) for b in every]
    a, b = (torch.cat(part) for part in zip(*pairs, strict=True))
    assert (a != b).all()
    assert {(int(i), int(j)) for i, j in zip(a, b, strict=True)} == {
        (i, j) for i in range(3) for j in range(3) if i != j
    }


def test_a_view_that_is_alone_among_its_like_is_jittered():
    train = loader(views=3, strong=(1, 2))
    index, x = whole(train.batches())
    assert 0.9 < float((x - plain_of(train)[index]).std()) / JITTER < 1.1
    alone = loader(views=3, strong=(2,))
    index, x = whole(alone.batches(augment="strong"))
    shift = 2 / torch.tensor(feature_stats(arrays()["x_train"])[1])
    assert 0.9 < float((x - plain_of(alone)[index] - shift).std()) / JITTER < 1.1


@pytest.mark.parametrize(("views", "augment"), [(3, True), (2, (True,)), (1, "weak")])
def test_calls_that_mean_nothing_are_refused(views, augment):
    with pytest.raises(ValueError, match="views"):
        loader().batches(views=views, augment=augment)


# --- noise --------------------------------------------------------------------------------------------------------

# What is drawn with seed 7 of labels and vectors; another platform must have the same.
PINS = {
    "symmetric:0.3": "86c0bc8414678591",
    "pair:0.3": "c22c2e07a33793c0",
    "random_labels": "64ed1b643595e03a",
    "given": "0d5a1875fdf4e560",
    "given:0.1": "113fbc38e32cbd37",
    "instance:0.3": "3bd284c08f939c3c",
    "instance:features:0.3": "083920266749bc1f",
    "openset:OTHER:0.3": "e0fb7ba0f8502e4f",
    "openset:OTHER+0.2:0.3": "765a40aa81f50bca",
}
NOT_OF_VECTORS = {
    "random_pixels:0.5": "'random_pixels' is of images, and 'mine.npz' holds vectors",
    "shuffled_pixels": "is of images",
    "gaussian_pixels": "is of images",
    "openset:digits:0.3": "'mine.npz' holds vectors of 12 float32, 'digits' images of 1x8x8 uint8",
    "openset:NARROW:0.3": "'mine.npz' holds vectors of 12 float32, 'narrow.npz' vectors of 11 float32",
    "asymmetric:0.3": "has no class map",
    "asymmetric:cifar10:0.3": "maps 10 classes",
    "asym_block5:0.3": "needs blocks of five classes",
    "asym_superclass:0.3": "100 classes",
    "human:worse": "came with no noisy labels",
    "web:red:0.4": "came with no noisy labels",
}


@pytest.fixture
def held(save):
    """A data set of vectors, and how a noise that names another one is written."""
    other, narrow = arrays(seed=1), arrays()
    told = {"OTHER": save(other, "other")}
    told["NARROW"] = save(narrow | {name: narrow[name][:, :11] for name in ("x_train", "x_test")}, "narrow")
    data = datasets.load(save(arrays()))

    def setting(text: str, seed: int = 7):
        for name, spec in told.items():
            text = text.replace(name, spec)
        return parse(text, seed)[0]

    return data, setting


def test_every_kind_of_noise_is_either_of_vectors_or_refused():
    told = {text.partition(":")[0] for text in (*PINS, *NOT_OF_VECTORS)}
    assert told | {"matrix", "file"} == set(NOISES)  # a matrix and a mask are of labels alone


@pytest.mark.parametrize("text", PINS)
def test_noise_on_vectors(held, text):
    data, setting = held
    c = corrupted(data, setting(text))
    again, other = corrupted(data, setting(text)), corrupted(data, setting(text, seed=8))
    mine = digest(c.given, c.clean, c.x_train, c.x_test)
    assert digest(again.given, again.clean, again.x_train, again.x_test) == mine
    assert text == "given" or digest(other.given, other.clean, other.x_train, other.x_test) != mine
    assert torch.equal(c.x_test, data.x_test)
    assert (c.x_train is data.x_train) == (not text.startswith("openset"))
    assert mask(data, setting(text)).given.tolist() == c.given.tolist()
    assert mine == PINS[text]


@pytest.mark.parametrize("text", NOT_OF_VECTORS)
def test_noise_that_needs_images_is_refused_in_one_line(held, text):
    data, setting = held
    with pytest.raises(InputError) as caught:
        corrupted(data, setting(text))
    assert NOT_OF_VECTORS[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_take_no_foreign_vectors(held):
    with pytest.raises(InputError, match=r"holds images of 1x8x8 uint8, 'other.npz' vectors of 12 float32"):
        corrupted(datasets.load("digits"), held[1]("openset:OTHER:0.3"))


def test_standardised_numbers_are_whole_multiples_and_cut():
    x = np.array([[0.0, 5.0], [1.0, 1e9]])
    assert standardised(x, (0.0, 5.0), (3.0, 1.0)).tolist() == [[0.0, 0.0], [85 / 256, 64.0]]


def test_part_dependent_noise_does_not_hang_on_the_units_of_a_feature(save):
    """Standardised: a feature in other units, and vectors in a type of another size, give the same labels but for rounding."""
    told = arrays(dtype=np.float64)
    scaled = {name: told[name] * np.logspace(-3, 3, D) + 1 for name in ("x_train", "x_test")}
    for kind in ("instance:0.4", "instance:features:0.4"):
        (setting,) = parse(kind, 3)
        given = [
            corrupted(datasets.load(save(told | more, n)), setting).given for n, more in (("a", {}), ("b", scaled))
        ]
        assert (given[0] != given[1]).mean() < 0.02
        assert 0.3 < (given[0] != told["y_train"]).mean() < 0.5


# --- what is made of them -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("views", [0, 3])
def test_what_trainings_see(save, views):
    spec = save(arrays(views))
    (setting,) = parse("symmetric:0.3")
    cell = prepare(spec, Path("data"), setting, 0.25)
    m = N // 4
    assert cell.shape == (D,)
    assert cell.x.shape == ((N - m, views, D) if views else (N - m, D))
    assert cell.x_val.shape == ((m, views, D) if views else (m, D))
    assert cell.x_held.shape == (m + 80, D)
    assert torch.equal(cell.x_held[:m], cell.x_val[:, 0] if views else cell.x_val)


def told_by(capsys, *words: str) -> str:
    assert cli.main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_show_tells_the_labels_of_the_nearest(save, tmp_path, capsys):
    x = np.repeat(np.eye(3, dtype=np.float32) * 10, 20, 0)
    x += np.random.default_rng(0).random(x.shape).astype(np.float32)
    y = np.repeat(np.arange(3), 20)
    spec = save({"x_train": x, "y_train": y, "y_noisy": y, "x_test": x[::3] + 0.5, "y_test": y[::3]})
    said = told_by(capsys, "data", "show", spec, "--noise", "given", "--out", str(tmp_path / "out"), "--images", "9")
    assert "60 vectors, 3 classes" in said
    assert "100.0% have the same given label" in said
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (told["vectors"], told["nearest_with_the_same_given_label"]) == (60, 1.0)
    rows = (tmp_path / "out" / "nearest.csv").read_text().splitlines()
    assert len(rows) == 10
    assert rows[0].startswith("vector,given,true,nearest1,given1,distance1")
    position, _, _, nearest, _, distance = rows[1].split(",")[:6]
    z = (x - x.mean(0)) / x.std(0)
    far = np.linalg.norm(z - z[int(position)], axis=1)
    far[int(position)] = np.inf
    assert (int(nearest), float(distance)) == (far.argmin(), pytest.approx(far.min(), rel=1e-3))
    assert not (tmp_path / "out" / "sheet.png").exists()


def test_commands_take_vectors(save, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for views in (0, 3):
        spec = save(arrays(views), f"v{views}")
        said = told_by(capsys, "train", "ce", "--dataset", spec, "--noise", "symmetric:0.3", "--epochs", "3")
        assert ", mlp, 3 epochs" in said
        said = told_by(capsys, "noise", "estimate", spec, "--epochs", "3", "--folds", "2", "--bootstrap", "20")
        assert "240 vectors, 4 classes; 2 x cross-entropy, mlp" in said
    assert cli.main(["train", "ce", "--dataset", spec, "--network", "resnet18"]) == 2
    assert "takes images, these are vectors of 12; choose from: cosine, linear, mlp" in capsys.readouterr().err


def test_the_stand_in_of_vectors_has_their_classes(save):
    assert datasets.load(f"smoke:{save(arrays())}").n_classes == K
