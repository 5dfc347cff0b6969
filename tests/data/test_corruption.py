"""Every noise kind under one contract, from data set to what is trained on; then what is special to some of them; then masks."""

import os
import random
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

from raystudy.data import datasets, instance, masks
from raystudy.data.corruption import BUILDERS, corrupted, fitted, mask, read_matrix
from raystudy.data.dataset import Dataset, build
from raystudy.data.noise import NOISES, SUPERCLASSES, Noise, corrupt, digest, generator, parse, transition_matrix
from raystudy.design import space
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.learn.celldata import _prepared, prepare
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run
from raystudy.running.build import Builder

N = 2000
SHARED = Path(os.environ.get("RAYSTUDY_SHARED") or Path(__file__).parents[3] / "shared")


@cache
def toy(k: int = 10, channels: int = 3, size: int = 8, seed: int = 0, name: str = "toy") -> Dataset:
    """Images of noise whose mean tells the class; two label sets came with them."""
    rng = generator(99, seed)
    y = np.arange(N) % k
    x = rng.integers(0, 128, (N, channels, size, size)) + (y * 127 // k)[:, None, None, None]
    pixels = x.astype(np.uint8)
    worse = corrupt(y, Noise("pair", 0.4, seed=5), k)
    sets = {"web": worse, "given": corrupt(y, Noise("symmetric", 0.3, seed=5), k), "worse": worse, "noisy": worse}
    names = tuple(map(str, range(k)))
    return build(name, (pixels, y), (pixels[:50], y[:50]), names, pad=0, flip=False, label_sets=sets)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with another data set, a matrix and a mask, for the kinds that read files."""
    folder = tmp_path_factory.mktemp("noise")
    other = toy(10, 1, 6, seed=1)
    arrays = {n: getattr(other, n).numpy() for n in ("x_train", "y_train", "x_test", "y_test")}
    np.savez(folder / "other.npz", **arrays)
    t = np.full((10, 10), 0.02) + np.diag(np.full(10, 0.5)) + 0.3 * np.roll(np.eye(10), 3, axis=1)
    np.savetxt(folder / "t.csv", t, delimiter=",", fmt="%.6f")
    masks.save(mask(toy(), Noise("pair", 0.3, seed=2)), folder / "mask.npz")
    return folder


# setting -> (effective rate it must have, how far off it may be). Exact counts are off by one image at most; a share p that is
# drawn, by five standard deviations, sqrt(p (1 - p) / N) each.
EXACT, DRAWN = 1 / N, 5 * 0.5 / N**0.5
SETTINGS = {
    "symmetric:0.3": (0.27, DRAWN),
    "symmetric:exclusive:0.3": (0.3, EXACT),
    "symmetric:exclusive:exact_per_class:0.3": (0.3, EXACT),
    "symmetric:exclusive:bernoulli:0.3": (0.3, DRAWN),
    "pair:0.45": (0.45, EXACT),
    "asymmetric:cifar10:0.4": (0.2, DRAWN),
    "asymmetric:mnist:exact_per_class:0.4": (0.2, EXACT),
    "asym_block5:0.4": (0.4, EXACT),
    "asym_superclass:0.4": (0.4, EXACT),
    "random_labels": (0.9, DRAWN),
    "random_labels:bernoulli:0.5": (0.45, DRAWN),
    "matrix:t.csv": (0.48, DRAWN),
    "matrix:t.csv:0.5": (0.24, DRAWN),
    "instance:0.3": (0.3, DRAWN),
    "instance:features:0.3": (0.3, DRAWN),
    "openset:npz:other.npz:0.4": (0.4, EXACT),
    "openset:npz:other.npz+0.2:0.4": (0.6, EXACT),
    "human:worse": (0.4, EXACT),
    "human:worse:0.1": (0.1, EXACT),
    "given": (0.27, DRAWN),
    "given:worse:0.25": (0.25, EXACT),
    "web:red:0.4": (0.4, EXACT),
    "random_pixels:0.5": (0.0, 0.0),
    "shuffled_pixels": (0.0, 0.0),
    "gaussian_pixels:0.5": (0.0, 0.0),
    "file:mask.npz": (0.3, EXACT),
}
# Of labels, truth and images, drawn with seed 7. A change here changes every study; another platform must have the same.
PINS = {
    "symmetric:0.3": "328f6c41c2d05630",
    "symmetric:exclusive:0.3": "0663186ff57ef42a",
    "symmetric:exclusive:exact_per_class:0.3": "53410172091df96c",
    "symmetric:exclusive:bernoulli:0.3": "fb354cc2807bda6a",
    "pair:0.45": "f85923daed510dbb",
    "asymmetric:cifar10:0.4": "93bbadf5b3925daf",
    "asymmetric:mnist:exact_per_class:0.4": "802cf5232f441b44",
    "asym_block5:0.4": "28eee67c770100d9",
    "asym_superclass:0.4": "99cae33db391cc94",
    "random_labels": "91751bb2cdff0838",
    "random_labels:bernoulli:0.5": "bbbf8a0db0407757",
    "matrix:t.csv": "52f709336d426841",
    "matrix:t.csv:0.5": "80e6b2cc51a5de11",
    "instance:0.3": "0b8249d43ee2f6d8",
    "instance:features:0.3": "542b71144125cefe",
    "openset:npz:other.npz:0.4": "0bded50596e63e52",
    "openset:npz:other.npz+0.2:0.4": "9ed212c6db278f83",
    "human:worse": "1b24cf4b5b2b8ca7",
    "human:worse:0.1": "41ec84b40575b679",
    "given": "8900072583d3d8d6",
    "given:worse:0.25": "88298fddd8bb34a6",
    "web:red:0.4": "1b24cf4b5b2b8ca7",
    "random_pixels:0.5": "79c37c73866a1e8f",
    "shuffled_pixels": "c8127d1d8c1e940d",
    "gaussian_pixels:0.5": "98ca2a1959466668",
    "file:mask.npz": "f211d9292495842f",
}
IMAGES = ("openset", "random_pixels", "shuffled_pixels", "gaussian_pixels")
UNDRAWN = ("human:worse", "given", "web:red:0.4", "file:mask.npz")


def made(text: str, seed: int = 7, data: Dataset | None = None):
    (setting,) = parse(text, seed)
    return corrupted(data or toy(100 if "superclass" in text else 10), setting)


def fingerprint(text: str, seed: int = 7) -> str:
    c = made(text, seed)
    return digest(c.given, c.clean, c.x_train, c.x_test)


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


every = pytest.mark.parametrize("text", SETTINGS)


# --- the contract -------------------------------------------------------------------------------------------------


def test_every_kind_is_under_contract():
    assert {text.partition(":")[0] for text in SETTINGS} == set(NOISES)
    assert set(BUILDERS) == {kind for kind, row in NOISES.items() if row.matrix is None}


@every
def test_what_noise_leaves_is_whole(text, at_home):
    data = toy(100 if "superclass" in text else 10)
    before = digest(data.x_train, data.y_train, data.x_test, data.y_test, *data.label_sets.values())
    c = made(text, data=data)
    assert c.given.dtype == c.clean.dtype == np.int64
    assert c.given.shape == c.clean.shape == (N,)
    assert ((c.given >= 0) & (c.given < data.n_classes)).all()
    foreign = c.clean == -1
    assert foreign.any() == text.startswith("openset")
    assert (c.clean[~foreign] == data.y_train.numpy()[~foreign]).all()
    assert c.matrix.shape == (data.n_classes, data.n_classes)
    assert c.matrix.min() >= 0
    np.testing.assert_allclose(c.matrix.sum(1), 1, atol=1e-12)
    assert c.x_train.dtype == torch.uint8
    assert c.x_train.shape == data.x_train.shape
    assert (c.images != "") == (c.x_train is not data.x_train) == text.startswith(IMAGES)
    assert (c.x_test is data.x_test) == (not text.startswith("shuffled_pixels"))
    assert digest(data.x_train, data.y_train, data.x_test, data.y_test, *data.label_sets.values()) == before


@every
def test_the_effective_rate_is_the_one_promised(text, at_home):
    rate, tolerance = SETTINGS[text]
    assert made(text).effective_rate == pytest.approx(rate, abs=tolerance + 1e-12)


@every
def test_a_seed_fixes_everything_whatever_the_global_generators_do(text, at_home):
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    first = fingerprint(text)
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    random.seed(2), np.random.seed(2), torch.manual_seed(2)
    assert fingerprint(text) == first
    assert (fingerprint(text, seed=8) != first) == (text not in UNDRAWN)


@every
def test_every_process_and_platform_makes_the_same(text, at_home):
    assert fingerprint(text) == PINS[text]


@every
def test_a_condition_is_the_same_when_read_back_from_its_label(text, at_home):
    (setting,) = parse(text, 7)
    assert parse(setting.label, 7) == [setting]
    assert Noise(**setting.to_dict()) == setting


ROWS = {t: NOISES[t.partition(":")[0]] for t in SETTINGS}
NESTED = [t.rpartition(":")[0] for t, row in ROWS.items() if row.dial and not row.levels and t[-1].isdigit()]


@pytest.mark.parametrize("text", NESTED)
def test_with_one_seed_a_lower_rate_is_part_of_a_higher_one(text, at_home):
    data = toy(100 if "superclass" in text else 10)
    low, high = (made(f"{text}:{rate}", data=data) for rate in (0.1, 0.25))
    wrong = low.given != low.clean
    assert wrong.any() or "pixels" in text
    assert (high.given[wrong] == low.given[wrong]).all()
    assert (high.given != high.clean)[wrong].all()
    moved = (low.x_train != data.x_train).flatten(1).any(1)
    assert moved.any() == text.startswith(IMAGES)
    assert torch.equal(high.x_train[moved], low.x_train[moved])
    assert (high.x_train != data.x_train).flatten(1).any(1).sum() > moved.sum() or not moved.any()


@pytest.mark.parametrize(
    "kind", sorted(kind for kind, row in NOISES.items() if row.dial and row.default != 0.0 and not row.levels)
)
def test_rate_zero_is_clean_data(kind, at_home):
    variant = {"matrix": "t.csv", "openset": "npz:other.npz", "asymmetric": "mnist"}.get(kind, "")
    data = toy(100 if kind == "asym_superclass" else 10)
    c = corrupted(data, Noise(kind, 0.0, variant, 3))
    assert c.effective_rate == 0
    assert torch.equal(c.x_train, data.x_train)
    assert torch.equal(c.x_test, data.x_test)


# --- kinds on their own -------------------------------------------------------------------------------------------


def test_asymmetric_noise_finds_the_map_of_its_data_set():
    digits = datasets.load("digits")
    auto, named = (corrupted(digits, Noise("asymmetric", 0.4, v, 1)) for v in ("", "mnist"))
    assert (auto.given == named.given).all()
    assert auto.noise == named.noise
    with pytest.raises(InputError, match="no class map for data set 'toy'; it knows cifar10") as caught:
        corrupted(toy(), Noise("asymmetric", 0.4))
    assert "asymmetric:cifar10:RATE" in str(caught.value)
    for text, told in (
        ("asymmetric:cifar10:0.4", "maps 10 classes; this data has 7"),
        ("asym_superclass:0.4", "100 classes of CIFAR-100; this data has 7"),
        ("asym_block5:0.4", "blocks of five classes; this data has 7"),
    ):
        with pytest.raises(InputError, match=told):
            made(text, data=toy(7))


def test_labels_that_came_with_the_data():
    data = toy()
    assert (corrupted(data, Noise("given", 0)).given == data.label_sets["given"].numpy()).all()
    assert (corrupted(data, Noise("given", 0, "worse")).given == data.label_sets["worse"].numpy()).all()
    assert (corrupted(data, Noise("human", 0, "worse")).given == data.label_sets["worse"].numpy()).all()
    natural = corrupted(data, Noise("human", 0, "worse")).effective_rate
    assert corrupted(data, Noise("human", natural, "worse")).effective_rate == natural
    for setting, told in (
        (Noise("human", 0.5, "worse"), r"'human:worse:0.5': 0.4 of the labels 'worse' of 'toy' are wrong"),
        (Noise("given", 0, "better"), r"no noisy labels 'better'; it has: web, given, worse, noisy; .* y_noisy_better"),
        (Noise("human", 0, "aggre"), r"'human:aggre' is a label set of CIFAR-N, for cifar10"),
    ):
        with pytest.raises(InputError, match=told) as caught:
            corrupted(data, setting)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="'given' needs an npz: file with y_noisy"):
        corrupted(replace(data, label_sets={}), Noise("given", 0))


def test_published_points_of_human_labels_are_looked_up_at_their_published_rate():
    assert Noise("human", 0, "worse").level == 0.4021
    assert Noise("human", 0.1, "worse").level == 0.1
    near = space.load("coteaching").paper("cifar10", Noise("human", 0, "worse"))
    far = space.load("coteaching").paper("cifar10", Noise("human", 0, "aggre"))
    assert near != far


def test_web_labels_need_their_data_set():
    with pytest.raises(InputError, match="'digits' came with no noisy labels; 'web' needs one of the cnwl_ data sets"):
        corrupted(datasets.load("digits"), Noise("web", 0.2, "red"))


def test_flip_probabilities_are_the_truncated_normal_of_the_paper():
    for rate in (0.1, 0.3, 0.5):
        q = instance.flip_probabilities(100_000, rate, 0)
        expected = truncnorm(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
        np.testing.assert_allclose(q.mean(), expected.mean(), atol=0.002)
        np.testing.assert_allclose(np.quantile(q, [0.01, 0.5, 0.99]), expected.ppf([0.01, 0.5, 0.99]), atol=0.005)
    low, high = (instance.flip_probabilities(1000, r, 3) for r in (0.1, 0.2))
    assert (low <= high).all()
    assert low.min() >= 0


def test_part_dependent_noise_is_that_of_its_definition():
    data = toy(4, 1, 3)
    x, y = data.x_train.numpy(), data.y_train.numpy()
    given = instance.flip(x, y, "pdn", 0.4, 4, 11)
    weight = [np.rint(generator(instance.STREAM, 11, 1 + c).standard_normal((9, 4)) * 2**20) / 2**20 for c in range(4)]
    for i in np.flatnonzero(given != y)[:200]:  # one image at a time, as the published code goes
        a = x[i].reshape(-1).astype(np.float64) @ weight[y[i]]
        a[y[i]] = -np.inf
        second = np.sort(a)[-2]
        if a.max() - second > 40:  # one-hot: the wrong class is certain
            assert given[i] == a.argmax()
    again = instance.flip(x, y, "pdn", 1.0, 4, 11)
    assert (again[given != y] == given[given != y]).all()  # which class is not a matter of the rate


@pytest.mark.parametrize("name", ["simifeat", "pes", "cores"])
def test_the_class_an_image_is_taken_for_is_drawn_as_in_three_originals(parity, name: str):
    """SimiFeat and PES have a projection for each class, CORES one for all of them (which is not a noise of ours)."""
    v = parity(name)
    x, y, q = v["idn_x"], v["idn_labels"], v["idn_flip"]
    scores = x @ v["idn_w"] if name == "cores" else np.einsum("nd,ndk->nk", x, v["idn_w"][y])
    weights = instance.wrong_weights(scores, y)
    probs = q[:, None] * weights / weights.sum(1, keepdims=True)
    probs[np.arange(len(y)), y] = 1 - q
    np.testing.assert_allclose(probs, v["idn_probs"], rtol=0, atol=1e-9 * v["idn_probs"].max())
    assert abs(q.mean() - v["idn_rate"]) < 0.1  # of eight draws


def test_flip_probabilities_are_a_normal_distribution_cut_where_that_of_pes_is(parity, monkeypatch):
    from scipy.stats import kstest, truncnorm

    v = parity("pes")
    rate, std, bounds = float(v["idn_rate"]), float(v["idn_std"]), v["idn_trunc_bounds"]
    np.testing.assert_allclose((np.array([0.0, 1.0]) - rate) / std, bounds, rtol=1e-9)
    monkeypatch.setattr(instance, "SPREAD", std)
    q = instance.flip_probabilities(4000, rate, 0)
    assert kstest(q, truncnorm(*bounds, loc=rate, scale=std).cdf).pvalue > 0.01


def test_the_three_kinds_of_deep_knn_are_ours(parity, tmp_path):
    v = parity("knn_relabel")
    k, rate = int(v["num_classes"]), float(v["noise_rate"])
    np.save(tmp_path / "hard.npy", np.eye(k)[v["noise_hard_perm"]])
    for text, key in {
        "symmetric:inclusive": "noise_uniform",
        "symmetric:exclusive": "noise_flip",
        f"matrix:{tmp_path / 'hard.npy'}": "noise_hard_flip",
    }.items():
        matrix = corrupted(toy(k), parse(f"{text}:{rate}")[0]).matrix
        np.testing.assert_allclose(matrix, v[key], rtol=0, atol=1e-12)


def test_part_dependent_noise_gives_an_image_one_wrong_class_and_features_spread_it():
    x, y = np.repeat(toy().x_train.numpy()[:1], 3000, axis=0), np.zeros(3000, int)
    x[0] = 255 - x[0]  # a second image, so that features have a scale
    pdn, spread = (instance.flip(x, y, v, 0.5, 10, 2)[1:] for v in ("pdn", "features"))
    assert len(set(pdn[pdn != 0])) == 1
    assert len(set(spread[spread != 0])) > 1


def test_chunks_make_no_difference(monkeypatch):
    data = toy()
    whole = [instance.flip(data.x_train.numpy(), data.y_train.numpy(), v, 0.4, 10, 1) for v in instance.SCORES]
    monkeypatch.setattr(instance, "CHUNK", 1000)
    parts = [instance.flip(data.x_train.numpy(), data.y_train.numpy(), v, 0.4, 10, 1) for v in instance.SCORES]
    for a, b in zip(whole, parts, strict=True):
        assert (a == b).all()


def test_open_set_images_are_foreign_and_their_labels_are_never_right(at_home):
    data, other = toy(), datasets.load("npz:other.npz")
    c = made("openset:npz:other.npz+0.2:0.4", data=data)
    foreign = c.clean == -1
    assert foreign.sum() == 800
    moved = (c.x_train != data.x_train).flatten(1).any(1).numpy()
    assert (moved == foreign).all()
    assert (c.given[foreign] == data.y_train.numpy()[foreign]).all()  # the label stays
    closed = ~foreign & (c.given != c.clean)
    assert closed.sum() == 400
    theirs = {bytes(i) for i in fitted(other.x_train, data.x_train.shape[1:]).numpy()}
    ours = [bytes(i) for i in c.x_train[torch.from_numpy(foreign)].numpy()]
    assert set(ours) <= theirs
    assert len(set(ours)) == len(ours)  # each is used once
    with pytest.raises(InputError, match="must come from another data set"):
        corrupted(other, Noise("openset", 0.4, "npz:other.npz"))
    small = replace(data, x_train=data.x_train.repeat(3, 1, 1, 1), y_train=data.y_train.repeat(3))
    with pytest.raises(InputError, match=r"replaces 3000 images; 'npz:other.npz' has 2000 to give"):
        corrupted(small, Noise("openset", 0.5, "npz:other.npz"))
    with pytest.raises(InputError, match="unknown data set 'svhm'"):
        corrupted(data, Noise("openset", 0.5, "svhm"))


def test_images_of_other_shapes_are_fitted_in_whole_numbers():
    x = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).reshape(2, 3, 4, 4)
    grey = fitted(x, torch.Size([1, 2, 2]))
    luma = np.rint(0.299 * x[:, 0].numpy() + 0.587 * x[:, 1].numpy() + 0.114 * x[:, 2].numpy())
    assert (grey[:, 0].numpy() == luma[:, ::2, ::2]).all()
    assert (fitted(x[:, :1], torch.Size([3, 8, 8]))[:, 2, ::2, 1::2] == x[:, 0]).all()
    assert torch.equal(fitted(x, torch.Size([3, 4, 4])), x)


def test_foreign_images_count_as_wrong_in_training_and_never_as_clean_validation(at_home):
    cell = prepare("digits", at_home, Noise("openset", 0.5, f"npz:{at_home / 'other.npz'}", 1), 0.2)
    foreign = cell.truth.clean == -1
    assert 0.4 < foreign.float().mean() < 0.6
    assert torch.equal(cell.truth.wrong, foreign)
    assert (cell.truth.val_clean == -1).any()
    assert (cell.y >= 0).all()
    assert cell.effective_rate == pytest.approx(0.5, abs=0.001)
    clean = prepare("digits", at_home, Noise("openset", 0.0, f"npz:{at_home / 'other.npz'}", 1), 0.2)
    assert clean.noise_digest != cell.noise_digest


def test_the_clean_validation_score_leaves_foreign_images_out(at_home):
    setting = Noise("openset", 0.5, f"npz:{at_home / 'other.npz'}", 1)
    cell = prepare("digits", at_home, setting, 0.2)
    spec = TrialSpec(
        method="ce",
        version=1,
        point={},
        dataset="digits",
        data_digest=cell.data_digest,
        noise=setting.to_dict(),
        noise_digest=cell.noise_digest,
        network="mlp",
        recipe=space.recipe_for("shared", "ce", "digits", "mlp").to_dict(),
        epochs=1,
        seed=0,
        val_fraction=0.2,
        clean_val=40,
    )
    run = Run(spec, cell)
    record = run.epoch()
    shown = (cell.truth.val_clean >= 0).nonzero()[:40, 0]
    assert len(shown) == 40
    assert int(shown[-1]) > 40  # some in between were left out
    with torch.no_grad():
        predicted = run.method.probs(run.train_set.normalised(cell.x_held[shown])).argmax(1)
    right = (predicted == cell.truth.val_clean[shown]).float().mean()
    assert record["val/clean_acc"] == pytest.approx(float(right), abs=1e-5)
    assert record["label/corrected"] == 0  # there is no right label to find
    assert (cell.truth.clean[run._wrong] == -1).all()


def test_the_digest_of_a_condition_covers_its_images():
    data = toy()
    val = torch.arange(5)
    digests = {corrupted(data, Noise(kind, 1.0, seed=s)).digest(val) for kind in IMAGES[1:] for s in (1, 2)}
    assert len(digests) == 6
    plain = corrupted(data, Noise("pair", 0.0))
    assert plain.digest(val) == digest(data.y_train, val)  # what studies of label noise have always had
    assert plain.digest(val) not in digests


def test_pixels_are_moved_and_not_changed():
    data = toy()
    for kind in ("random_pixels", "shuffled_pixels"):
        c = corrupted(data, Noise(kind, 1.0, seed=1))
        assert (c.given == data.y_train.numpy()).all()
        assert torch.equal(c.x_train.flatten(2).sum(2), data.x_train.flatten(2).sum(2))
        # whole pixels move: their channels stay together
        before, after = (x[0].flatten(1).T.tolist() for x in (data.x_train, c.x_train))
        assert sorted(before) == sorted(after) != before
    same = replace(data, x_train=data.x_train[:1].repeat(N, 1, 1, 1))
    shuffled = corrupted(same, Noise("shuffled_pixels", 1.0)).x_train
    assert (shuffled == shuffled[0]).all()  # one order for all
    own = corrupted(same, Noise("random_pixels", 1.0)).x_train
    assert len({bytes(x) for x in own.numpy()}) > 1900  # an order each
    half = corrupted(data, Noise("shuffled_pixels", 0.5, seed=1))
    assert ((half.x_train != data.x_train).flatten(1).any(1)).sum() == 1000
    assert ((half.x_test != data.x_test).flatten(1).any(1)).sum() == 25


def test_gaussian_pixels_have_the_mean_and_variance_of_each_channel():
    shown = np.zeros((1000, 3, 8, 8), dtype=np.uint8)
    shown[:, 0] = np.array([90, 110] * 32, dtype=np.uint8).reshape(8, 8)  # mean 100, standard deviation 10
    shown[:, 1] = np.array([120, 200] * 32, dtype=np.uint8).reshape(8, 8)  # mean 160, standard deviation 40
    shown[:, 2] = 7  # constant
    data = replace(toy(), x_train=torch.from_numpy(shown), y_train=toy().y_train[:1000])
    c = corrupted(data, Noise("gaussian_pixels", 1.0, seed=1))
    drawn = c.x_train.double()
    assert torch.equal(torch.from_numpy(c.given), data.y_train)
    se = 40 / 64000**0.5  # of a mean of 64,000 pixels
    assert drawn.mean((0, 2, 3)).tolist() == pytest.approx([100, 160, 7], abs=5 * se)
    assert drawn.std((0, 2, 3)).tolist() == pytest.approx([10, 40, 0], rel=0.02)  # of 40, cutting at 255 takes 0.9 %
    pixels = drawn[:, :2].flatten(2)  # [1000, 2, 64]
    assert drawn[:, :2].mean((2, 3)).std(0).tolist() == pytest.approx(
        [10 / 8, 40 / 8], rel=0.1
    )  # pixels and images are independent
    assert abs(torch.corrcoef(pixels.transpose(0, 1).flatten(1))[0, 1]) < 5 / 64000**0.5  # and so are channels
    half = corrupted(data, Noise("gaussian_pixels", 0.5, seed=1)).x_train
    changed = (half != data.x_train).flatten(1).any(1)
    assert changed.sum() == 500
    assert torch.equal(half[changed], c.x_train[changed])


GOOD = np.full((3, 3), 0.1) + 0.7 * np.eye(3)


@pytest.mark.parametrize(
    ("name", "array", "told"),
    [
        ("t.npy", GOOD[:2], "a transition matrix is square, this is 2x3"),
        ("t.npy", GOOD[0], "a transition matrix is square, this is 3"),
        ("t.npy", np.eye(4), "the matrix is 4x4, the data has 3 classes"),
        ("t.npy", GOOD + np.eye(3) * 0.05, "row 0 sums to 1.05"),
        ("t.npy", GOOD * [[1], [1], [-1]], "row 2, column 0 is -0.1"),
        ("t.npy", GOOD * [[1], [np.nan], [1]], "row 1, column 0 is nan"),
        ("t.npy", np.array([[{}]]), "not a matrix of numbers"),
        ("t.csv", "1,0,0\n0,one,0\n0,0,1\n", "not a matrix of numbers"),
        ("t.csv", "1,0,0\n0,1\n0,0,1\n", "not a matrix of numbers"),
        ("t.csv", "", "square"),
        ("t.npy", "", "not a matrix of numbers"),
        ("t.npz", {"a": GOOD, "b": GOOD}, "holds 2 arrays"),
        ("t.txt", "1", "not '.txt'"),
        ("none.npy", None, "there is no matrix file"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_a_bad_matrix_file_is_one_line(tmp_path, name, array, told):
    path = tmp_path / name
    if isinstance(array, str):
        path.write_text(array)
    elif isinstance(array, dict):
        np.savez(path, **array)
    elif array is not None:
        np.save(path, array)
    with pytest.raises(InputError) as caught:
        read_matrix(path, 3)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_matrix_files(tmp_path):
    np.save(tmp_path / "t.npy", GOOD)
    np.savez(tmp_path / "t.npz", T=GOOD.astype(np.float32))
    np.savetxt(tmp_path / "t.csv", GOOD, delimiter=",", fmt="%.6f")
    for name in ("t.npy", "t.npz", "t.csv"):
        got = read_matrix(tmp_path / name, 3)
        np.testing.assert_allclose(got, GOOD, atol=1e-6)
        np.testing.assert_allclose(got.sum(1), 1, atol=1e-15)
    c = made(f"matrix:{tmp_path / 't.npy'}:exact_per_class:0.5", data=toy(3))
    np.testing.assert_allclose(c.matrix, 0.5 * np.eye(3) + 0.5 * GOOD)
    # a matrix that is another kind's gives that kind's flips
    np.save(tmp_path / "pair.npy", transition_matrix(Noise("pair", 1.0), 10))
    assert (made(f"matrix:{tmp_path / 'pair.npy'}:0.3").given == made("pair:0.3").given).all()


# --- masks --------------------------------------------------------------------------------------------------------


@every
def test_every_mask_is_read_back_as_the_same_condition(text, at_home, tmp_path):
    data = toy(100 if "superclass" in text else 10)
    (setting,) = parse(text, 7)
    c = corrupted(data, setting)
    path = tmp_path / "masks" / "m.npz"
    masks.save(mask(data, setting), path)
    with np.load(path, allow_pickle=False) as z:
        assert str(z["format"]) == "raystudy-mask-1"
        assert (z["given"] == c.given).all()
        assert (z["clean"] == c.clean).all()
        assert (z["indices"] == np.flatnonzero(c.given != c.clean)).all()
        np.testing.assert_array_equal(z["matrix"], c.matrix)
    back = corrupted(data, Noise("file", 0, str(path)))
    val = torch.arange(9)
    assert back.digest(val) == c.digest(val)
    assert back.split_seed == c.split_seed
    assert torch.equal(back.x_train, c.x_train)
    assert mask(data, Noise("file", 0, str(path))).digest == masks.load(path).digest
    assert [p.name for p in path.parent.iterdir()] == ["m.npz"]


def test_a_cell_from_a_mask_is_the_cell_it_came_from(at_home, tmp_path):
    digits = datasets.load("digits")
    masks.save(mask(digits, Noise("symmetric", 0.5, seed=3)), tmp_path / "m.npz")
    first = prepare("digits", tmp_path, Noise("symmetric", 0.5, seed=3), 0.1)
    again = prepare("digits", tmp_path, Noise("file", 0, str(tmp_path / "m.npz")), 0.1)
    assert (again.noise_digest, again.effective_rate) == (first.noise_digest, first.effective_rate)
    split = prepare("digits", tmp_path, Noise("file", 0, str(tmp_path / "m.npz"), seed=1), 0.1)
    assert split.noise_digest != first.noise_digest  # the same labels, another validation split
    assert split.effective_rate == first.effective_rate


def test_a_study_keeps_its_masks_and_will_not_go_on_with_other_labels(tmp_path):
    np.save(tmp_path / "t.npy", transition_matrix(Noise("pair", 1.0), 10))
    noises = (Noise("pair", 0.3, seed=2), *parse(f"matrix:{tmp_path / 't.npy'}:0.3"))
    study = Study("s", ("ce", "mixup"), ("digits",), noises, trials=1, replicates=0, epochs=1, network="mlp")
    folder = tmp_path / "masks"
    Builder(study, tmp_path).store_masks(tmp_path)
    first = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    assert sorted(path.name[:11] for path in first) == ["digits_matr", "digits_pair"]
    pair = folder / "digits_pair-0.3-seed2.npz"
    whole = masks.load(pair).digest
    pair.write_bytes(pair.read_bytes()[:500])
    Builder(study, tmp_path).store_masks(tmp_path)
    assert masks.load(pair).digest == whole  # a damaged one is written again, and no other
    again = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    assert {path for path in first if again[path] != first[path]} == {pair}
    np.save(tmp_path / "t.npy", transition_matrix(Noise("symmetric", 1.0), 10))
    _prepared.cache_clear()
    with pytest.raises(InputError, match="is not what study 's' was begun with") as caught:
        Builder(study, tmp_path).check(tmp_path)
    assert "\n" not in str(caught.value)


def changed(path, **arrays):
    with np.load(path, allow_pickle=False) as z:
        told = {name: z[name] for name in z.files}
    np.savez(path, **{n: a for n, a in (told | arrays).items() if a is not None})


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda p: p.unlink(), "there is no mask"),
        (lambda p: p.write_bytes(b""), "damaged or not a mask"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "damaged or not a mask"),
        (lambda p: np.savez(p, x=1), "format is not raystudy-mask-1"),
        (lambda p: changed(p, format="raystudy-mask-2"), "format is not raystudy-mask-1"),
        (lambda p: changed(p, matrix=None), "has no matrix"),
        (lambda p: changed(p, given=np.zeros(N, np.int64)), "do not have the digest"),
        (lambda p: changed(p, seed=np.int64(5)), "do not have the digest"),
        (lambda p: changed(p, given=np.zeros((N, 2), np.int64)), "fields are not what they must be"),
        (lambda p: changed(p, given=np.full(N, -7)), "fields are not what they must be"),
        (lambda p: changed(p, given=np.array([{}] * N, dtype=object)), "damaged or not a mask"),
        (lambda p: changed(p, spec="{"), "fields are not what they must be"),
        (lambda p: changed(p, spec='{"kind": "pear", "rate": 0.1}'), "unknown noise kind 'pear'"),
    ],
)
def test_a_damaged_mask_is_one_line(tmp_path, damage, told):
    path = tmp_path / "m.npz"
    masks.save(mask(toy(), Noise("pair", 0.3)), path)
    damage(path)
    with pytest.raises(InputError) as caught:
        corrupted(toy(), Noise("file", 0, str(path)))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mask_of_other_data_is_one_line(tmp_path):
    path = tmp_path / "m.npz"
    masks.save(mask(toy(), Noise("pair", 0.3)), path)
    for data, told in (
        (datasets.load("digits"), "of data set 'toy' with 2000 labels and 10 classes; 'digits' has 1347 and 10"),
        (toy(20), "'toy' has 2000 and 20"),
        (toy(seed=3), "of other data: 'toy' with digest"),
    ):
        with pytest.raises(InputError, match=told):
            corrupted(data, Noise("file", 0, str(path)))


# --- the real label sets ------------------------------------------------------------------------------------------


def human(name: str, k: int, sets: dict[str, str]) -> Dataset:
    """CIFAR-N's labels, on blank images: those of the training order are not needed for counting."""
    file = SHARED / "data" / f"{name}.npz"
    if not file.exists():
        pytest.skip(f"{file.name} is not here")
    with np.load(file, allow_pickle=False) as z:
        y, held = z["clean_label"], {mine: z[theirs] for mine, theirs in sets.items()}
    blank = np.zeros((len(y), 1, 2, 2), np.uint8)
    names = tuple(map(str, range(k)))
    return build(name, (blank, y), (blank[:1], y[:1]), names, pad=0, flip=False, label_sets=held)


def test_human_labels_have_their_published_rates_and_are_a_dial():
    keys = {"aggre": "aggre_label", "worse": "worse_label"} | {f"random{i}": f"random_label{i}" for i in (1, 2, 3)}
    data = human("cifar10n", 10, keys)
    published = {"aggre": 0.0901, "random1": 0.1723, "random2": 0.1812, "random3": 0.1764, "worse": 0.4021}
    for name, rate in published.items():
        c = corrupted(data, Noise("human", 0, name))
        assert c.effective_rate == pytest.approx(rate, abs=5e-5)
    assert c.matrix[9, 1] == pytest.approx(0.28, abs=0.005)  # of worst: truck to automobile
    assert c.matrix[3, 5] == pytest.approx(0.21, abs=0.005)  # cat to dog
    low, high = (corrupted(data, Noise("human", r, "worse", 1)) for r in (0.1, 0.2))
    assert ((low.given != low.clean).sum(), (high.given != high.clean).sum()) == (5000, 10000)
    assert ((high.given != high.clean) >= (low.given != low.clean)).all()
    assert low.matrix[9, 1] == pytest.approx(0.28 * 0.1 / 0.4021, abs=0.01)
    with pytest.raises(InputError, match=r"0.4021 of the labels 'worse'"):
        corrupted(data, Noise("human", 0.41, "worse"))


def test_human_labels_of_cifar100():
    data = human("cifar100n", 100, {"noisy": "noisy_label"})
    c = corrupted(data, Noise("human", 0, "noisy"))
    assert c.effective_rate == pytest.approx(0.4020, abs=5e-5)
    inside = {label: set(members) for members in SUPERCLASSES for label in members}
    wrong = np.flatnonzero(c.given != c.clean)
    assert np.mean([c.given[i] in inside[c.clean[i]] for i in wrong]) == pytest.approx(0.343, abs=5e-4)
    assert corrupted(data, Noise("human", 0.3, "noisy", 2)).effective_rate == pytest.approx(0.3, abs=1e-9)
