"""Noise models: matrices against the published code, exact and realised rates, seeds, and how settings are read."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from raystudy.data.noise import (
    COUNTS,
    NOISES,
    SUPERCLASSES,
    Noise,
    asymmetric_matrix,
    block5_matrix,
    corrupt,
    digest,
    dilute,
    effective_rate,
    open_set,
    pair_matrix,
    parse,
    realised_matrix,
    superclass_matrix,
    symmetric_matrix,
    transition_matrix,
)
from raystudy.errors import InputError

LABELS = np.arange(5000) % 10  # 500 of each class
MODELS = [
    Noise(kind, 0.3, v)
    for kind, row in NOISES.items()
    if row.matrix
    for v in row.variants or ("",)
    if v or kind != "asymmetric"  # whose map the data set names
]
ids = [noise.label for noise in MODELS]


def classes(noise, otherwise):
    """A number of classes that the kind can have."""
    return {"asymmetric": 10, "asym_block5": 15, "asym_superclass": 100}.get(noise.kind, otherwise)


# --- matrices -----------------------------------------------------------------------------------------------------


def test_matrices_are_those_of_the_published_code(parity):
    v = parity("noise")
    for k in v["num_classes"]:
        for i, rate in enumerate(v["symmetric_rates"]):
            for variant in ("inclusive", "exclusive"):
                got = symmetric_matrix(int(k), float(rate), variant)
                np.testing.assert_allclose(got, v[f"sym_{variant}_K{k}_{i}"], rtol=0, atol=1e-12)
        for i, rate in enumerate(v["pair_rates"]):
            np.testing.assert_allclose(pair_matrix(int(k), float(rate)), v[f"pair_K{k}_{i}"], rtol=0, atol=1e-12)


def test_asymmetric_matrices_are_those_of_the_published_code(parity):
    v = parity("noise")
    for name in ("cifar10", "mnist"):
        for i, rate in enumerate(v["asym_cifar10_rates"]):
            got = asymmetric_matrix(10, float(rate), name)
            np.testing.assert_allclose(got, v[f"asym_{name}_{i}"], rtol=0, atol=1e-12)
        assert (asymmetric_matrix(10, 1.0, name).argmax(1) == v[f"asym_{name}_map"]).all()
    for i, rate in enumerate(v["asym_cifar100_rates"]):
        got = block5_matrix(100, float(rate))
        np.testing.assert_allclose(got, v[f"asym_cifar100_block5_{i}"], rtol=0, atol=1e-12)
        got = superclass_matrix(100, float(rate))
        np.testing.assert_allclose(got, v[f"asym_cifar100_superclass_{i}"], rtol=0, atol=1e-12)


def test_blocks_of_five_are_not_the_superclasses():
    assert sorted(c for members in SUPERCLASSES for c in members) == list(range(100))
    home = {c: i for i, members in enumerate(SUPERCLASSES) for c in members}
    block5, true = (m(100, 1.0).argmax(1) for m in (block5_matrix, superclass_matrix))
    assert sum(home[c] == home[int(block5[c])] for c in range(100)) == 6
    assert all(home[c] == home[int(true[c])] for c in range(100))
    for targets in (block5, true):
        assert (np.sort(targets) == np.arange(100)).all()
        assert (targets != np.arange(100)).all()


def test_half_of_the_classes_are_never_wrong_under_asymmetric_noise():
    for count, exact in (("exact_global", None), ("exact_per_class", 200), ("bernoulli", None)):
        given = corrupt(LABELS, Noise("asymmetric", 0.4, "cifar10", 3, count), 10)
        wrong = np.bincount(LABELS[given != LABELS], minlength=10)
        assert (wrong[[0, 1, 6, 7, 8]] == 0).all()
        assert effective_rate(LABELS, given) == pytest.approx(0.2, abs=0.02)  # half of the rate
        if exact:
            assert (wrong[[2, 3, 4, 5, 9]] == exact).all()
        assert set(given[(LABELS == 3) & (given != 3)]) == {5}  # cat and dog swap, and not back again
        assert set(given[(LABELS == 5) & (given != 5)]) == {3}


def test_matrices_by_hand():
    np.testing.assert_allclose(symmetric_matrix(4, 0.4), np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    np.testing.assert_allclose(
        symmetric_matrix(3, 0.4, "exclusive"), [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]
    )
    np.testing.assert_allclose(pair_matrix(3, 0.25), [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])


@pytest.mark.parametrize("noise", MODELS, ids=ids)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_every_matrix_is_stochastic_and_linear_in_the_rate(noise, rate):
    k = classes(noise, 7)
    at = transition_matrix(Noise(noise.kind, rate, noise.variant), k)
    assert at.shape == (k, k)
    assert at.min() >= 0
    np.testing.assert_allclose(at.sum(1), 1, atol=1e-12)
    full = transition_matrix(Noise(noise.kind, 1.0, noise.variant), k)
    np.testing.assert_allclose(at, (1 - rate) * np.eye(k) + rate * full, atol=1e-12)


# --- the sampler --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", MODELS, ids=ids)
@pytest.mark.parametrize("count", ["exact_global", "exact_per_class", "bernoulli"])
def test_flips_follow_the_matrix(noise, count):
    n, k = 60_000, classes(noise, 6)
    clean = np.arange(n) % k
    given = corrupt(clean, Noise(noise.kind, 0.5, noise.variant, 3, count), k)
    realised = np.zeros((k, k))
    np.add.at(realised, (clean, given), k / n)
    expected = transition_matrix(Noise(noise.kind, 0.5, noise.variant), k)
    np.testing.assert_allclose(realised, expected, atol=5 * np.sqrt(0.25 * k / n))  # five standard deviations
    assert (realised[expected == 0] == 0).all()


@pytest.mark.parametrize("noise", MODELS, ids=ids)
def test_rate_zero_changes_nothing_and_the_input_is_left_alone(noise):
    before = LABELS.copy()
    k = classes(noise, 10)
    for count in COUNTS:
        assert (corrupt(LABELS, Noise(noise.kind, 0.0, noise.variant, 1, count), k) == before).all()
        corrupt(LABELS, Noise(noise.kind, 0.9, noise.variant, 1, count), k)
    assert (before == LABELS).all()


def test_exact_counts():
    for rate in (0.2, 0.45, 0.8, 1.0):
        for noise in (Noise("symmetric", rate, "exclusive", 5), Noise("pair", rate, seed=5)):
            assert (corrupt(LABELS, noise, 10) != LABELS).sum() == int(rate * 5000)
    noise = Noise("symmetric", 0.45, "exclusive", 5, "exact_per_class")
    wrong = corrupt(LABELS, noise, 10) != LABELS
    assert (np.bincount(LABELS[wrong], minlength=10) == 225).all()
    uneven = np.repeat([0, 1, 2], [7, 20, 3])
    wrong = corrupt(uneven, Noise("pair", 0.5, count="exact_per_class"), 3) != uneven
    assert np.bincount(uneven[wrong]).tolist() == [3, 10, 1]


def test_exclusive_never_gives_the_true_class_and_inclusive_sometimes_does():
    clean = np.arange(100_000) % 10
    assert (corrupt(clean, Noise("symmetric", 1.0, "exclusive"), 10) != clean).all()
    assert (corrupt(clean % 2, Noise("symmetric", 1.0, "exclusive"), 2) == 1 - clean % 2).all()
    kept = (corrupt(clean, Noise("symmetric", 1.0, "inclusive"), 10) == clean).mean()
    assert kept == pytest.approx(0.1, abs=0.005)


def test_effective_rates_of_the_literature():
    clean = np.arange(50_000) % 10
    for nominal, wrong in ((0.2, 0.18), (0.5, 0.45), (0.8, 0.72), (0.9, 0.81)):  # CIFAR-10, inclusive
        given = corrupt(clean, Noise("symmetric", nominal, seed=1), 10)
        assert effective_rate(clean, given) == pytest.approx(wrong, abs=0.01)
    assert effective_rate([0, 1, 2, 3], [0, 1, 3, 2]) == 0.5


def test_flips_at_a_low_rate_are_among_those_at_a_higher_one():
    for noise in MODELS:
        k = classes(noise, 10)
        for count in COUNTS:
            low, high = (corrupt(LABELS, Noise(noise.kind, r, noise.variant, 2, count), k) for r in (0.2, 0.6))
            flipped = low != LABELS
            assert (high[flipped] == low[flipped]).all()


def test_a_seed_fixes_the_flips_whatever_the_global_generators_do():
    noise = Noise("symmetric", 0.5, seed=7)
    first = corrupt(LABELS, noise, 10)
    np.random.seed(3)
    torch.manual_seed(3)
    state = np.random.get_state()[1].copy()
    assert (corrupt(LABELS, noise, 10) == first).all()
    assert (np.random.get_state()[1] == state).all()
    assert (corrupt(LABELS, Noise("symmetric", 0.5, seed=8), 10) != first).any()


def test_a_seed_gives_the_same_flips_in_every_process():
    code = (
        "import numpy as np; from raystudy.data.noise import *;"
        "print(digest(corrupt(np.arange(5000) % 10, Noise('symmetric', 0.5, seed=7), 10)))"
    )
    here = digest(corrupt(LABELS, Noise("symmetric", 0.5, seed=7), 10))
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there == "c5c32d909f2321f9"  # pinned: a change here changes every study


def test_labels_may_be_of_any_integer_type():
    noise = Noise("pair", 0.45, seed=1)
    assert (corrupt(LABELS.astype(np.uint8), noise, 10) == corrupt(LABELS, noise, 10)).all()
    assert corrupt(LABELS.astype(np.uint8), noise, 10).dtype == np.int64
    assert corrupt(np.zeros(0, int), noise, 10).shape == (0,)


# --- reading settings ---------------------------------------------------------------------------------------------


def test_parse():
    assert parse("symmetric:0.2,0.5") == [Noise("symmetric", 0.2, "inclusive"), Noise("symmetric", 0.5, "inclusive")]
    assert parse("symmetric:exclusive:0.4", seed=3) == [Noise("symmetric", 0.4, "exclusive", 3)]
    assert parse("pair:.45, 0.2") == [Noise("pair", 0.45), Noise("pair", 0.2)]
    assert parse("pair:0.2,0.20,0.4") == [Noise("pair", 0.2), Noise("pair", 0.4)]
    assert parse("given", seed=2) == [Noise("given", 0.0, seed=2)]


def test_parse_reads_count_modes_names_and_paths():
    assert parse("symmetric:exclusive:bernoulli:0.2") == [Noise("symmetric", 0.2, "exclusive", count="bernoulli")]
    assert parse("symmetric:bernoulli:0.2") == [Noise("symmetric", 0.2, "inclusive", count="bernoulli")]
    assert parse("pair:exact_per_class:.45") == [Noise("pair", 0.45, count="exact_per_class")]
    assert parse("pair:exact_global:.45") == [Noise("pair", 0.45)]
    assert parse("asymmetric:0.4") == [Noise("asymmetric", 0.4)]
    assert parse("asymmetric:mnist:0.4") == [Noise("asymmetric", 0.4, "mnist")]
    assert parse("given:0.1,0.2") == [Noise("given", 0.1), Noise("given", 0.2)]
    assert parse("given:worse") == [Noise("given", 0, "worse")]
    assert parse("given:worse:0.1") == [Noise("given", 0.1, "worse")]
    assert parse("human:worse") == [Noise("human", 0, "worse")]
    assert parse("human:aggre:0.05,0.01") == [Noise("human", 0.05, "aggre"), Noise("human", 0.01, "aggre")]
    assert parse("random_labels") == [Noise("random_labels", 1.0)]
    assert parse("random_labels:bernoulli:0.5") == [Noise("random_labels", 0.5, count="bernoulli")]
    assert parse("shuffled_pixels:0.5,1") == [Noise("shuffled_pixels", 0.5), Noise("shuffled_pixels", 1.0)]
    assert parse("openset:cifar100:0.4") == [Noise("openset", 0.4, "cifar100")]
    assert parse("openset:cifar100+0.2:0.2,0.4")[1] == Noise("openset", 0.4, "cifar100+0.2")
    assert parse("openset:npz:/a+b/c.npz:0.4") == [Noise("openset", 0.4, "npz:/a+b/c.npz")]
    assert parse("matrix:/a/t.csv") == [Noise("matrix", 1.0, "/a/t.csv")]
    assert parse("matrix:/a:b/t.csv:bernoulli:0.2") == [Noise("matrix", 0.2, "/a:b/t.csv", count="bernoulli")]
    assert parse("file:/a/m.npz") == [Noise("file", 0, "/a/m.npz")]


def test_paths_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("matrix:t.csv:0.2")[0].variant == str(tmp_path / "t.csv")
    assert parse("file:masks/m.npz")[0].variant == str(tmp_path / "masks" / "m.npz")
    assert parse("openset:npz:x.npz+0.1:0.2")[0].variant == f"npz:{tmp_path / 'x.npz'}+0.1"
    assert parse("openset:cifar100:0.2")[0].variant == "cifar100"


def test_open_set_names():
    assert open_set("cifar100") == ("cifar100", 0.0)
    assert open_set("cifar100+0.2") == ("cifar100", 0.2)
    assert open_set("npz:/a+b.npz") == ("npz:/a+b.npz", 0.0)


VARIANTS = {"openset": ["cifar100", "cifar100+0.25", "npz:/a b/c.npz"], "given": ["", "worse"]}


@st.composite
def noises(draw):
    kind = draw(st.sampled_from(sorted(NOISES)))
    row = NOISES[kind]
    default = ["/a/b c+0.1.npz", "/x:y.csv"] if row.free else list(row.variants[bool(row.needs) and 0 :]) or [""]
    rate = draw(st.sampled_from(row.levels) if row.levels else st.floats(0, 0.75)) if row.dial else 0.0
    count = draw(st.sampled_from(COUNTS)) if row.counted else ""
    return Noise(kind, rate, draw(st.sampled_from(VARIANTS.get(kind, default))), draw(st.integers(0, 2**31)), count)


@for_all(noises())
@settings(max_examples=300, deadline=None)
def test_every_noise_is_read_back_from_its_label_and_from_its_record(noise):
    assert parse(noise.label, seed=noise.seed) == [noise]
    assert Noise(**noise.to_dict()) == noise
    assert hash(Noise(**noise.to_dict())) == hash(noise)
    assert None not in noise.to_dict().values()  # which TOML does not have


@pytest.mark.slow
@for_all(
    labels=st.lists(st.integers(0, 9), max_size=60),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    model=st.sampled_from(MODELS),
    count=st.sampled_from(COUNTS),
)
@settings(max_examples=200, deadline=None)
def test_flips_of_any_labels_stay_in_range_and_are_nested(labels, low, high, seed, model, count):
    low, high = sorted((low, high))
    clean, k = np.array(labels, dtype=np.int64), classes(model, 10)
    less, more = (corrupt(clean, Noise(model.kind, r, model.variant, seed, count), k) for r in (low, high))
    assert less.shape == clean.shape
    assert ((more >= 0) & (more < k)).all()
    assert (more[less != clean] == less[less != clean]).all()
    if count == "exact_global":
        assert (less != clean).sum() <= int(low * len(clean))


# --- labels that came with the data -------------------------------------------------------------------------------


def test_diluted_labels_have_exactly_so_many_mistakes_of_the_same_kind():
    came = corrupt(LABELS, Noise("asymmetric", 0.8, "cifar10", 1), 10)
    natural = int((came != LABELS).sum())
    before = None
    for wrong in (0, 1, 700, 1500, natural):
        mixed = dilute(LABELS, came, wrong / 5000, 4)
        assert (mixed != LABELS).sum() == int(wrong / 5000 * 5000)
        assert (mixed[mixed != LABELS] == came[mixed != LABELS]).all()
        if before is not None:
            assert (mixed[before != LABELS] == before[before != LABELS]).all()
        before = mixed
    assert (before == came).all()
    assert (dilute(LABELS, came, 0.1, 5) != dilute(LABELS, came, 0.1, 6)).any()
    with pytest.raises(ValueError, match="fewer than"):
        dilute(LABELS, came, (natural + 1) / 5000, 4)


def test_counted_matrices():
    got = realised_matrix([0, 0, 0, 0, 1, 1, -1], [0, 0, 0, 2, 1, 0, 2], 4)
    np.testing.assert_allclose(got, [[0.75, 0, 0.25, 0], [0.5, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("symetric:0.2", "did you mean 'symmetric'"),
        ("", "unknown noise kind ''; choose from: asym_block5, asym_superclass, asymmetric, file, gaussian"),
        ("symmetric:bernouli:0.2", "unknown variant of noise 'symmetric' 'bernouli'"),
        ("symmetric:bernoulli", "names no rate"),
        ("symmetric:bernoulli:exact_global:0.2", "too many parts"),
        ("instance:bernoulli:0.2", "takes no count mode"),
        ("given:bernoulli:0.2", "takes no count mode"),
        ("asymmetric:cifar100:0.2", "choose from: cifar10, mnist"),
        ("asymmetric", "names no rate"),
        ("human", "names no label set; write human:aggre|worse|"),
        ("human:0.2", "names no label set"),
        ("human:worst:0.2", "did you mean 'worse'"),
        ("human:worst", "did you mean 'worse'"),
        ("human:worse:0", "write symmetric:0"),
        ("human:worse:", "names no rate"),
        ("given:0", "write symmetric:0"),
        ("matrix", "names no FILE"),
        ("matrix:0.2", "names no FILE"),
        ("matrix:t.csv:1.2", "outside [0, 1]"),
        ("web:red:0.25", "has no level 0.25; it was published at 0, 0.05, 0.1"),
        ("web:red", "names no rate"),
        ("file", "names no FILE"),
        ("file:m.npz:0.2", "takes no rate"),
        ("openset:0.4", "names no DATASET"),
        ("openset:cifar100", "names no rate"),
        ("openset:cifar100+0.7:0.4", "more than all images"),
        ("openset:cifar100+1.7:0.4", "closed share 1.7"),
        ("random_labels:lots", "no variants, so 'lots' cannot be read"),
        ("symmetric:inclusve:0.2", "did you mean 'inclusive'"),
        ("pair:exclusive:0.2", "no variants"),
        ("symmetric", "names no rate"),
        ("symmetric:", "names no rate"),
        ("symmetric:exclusive", "names no rate"),
        ("symmetric:exclusive:", "names no rate"),
        ("symmetric:lots", "'lots' in 'symmetric:lots' is not a number"),
        ("symmetric:0.2;0.5", "is not a number"),
        ("symmetric:0.2,1.5", "1.5 of 'symmetric' is outside [0, 1]"),
        ("symmetric:50", "write 50 % as 0.5"),
        ("pair:-0.1", "outside"),
        ("pair:nan", "outside"),
        ("pair:inf", "outside"),
        ("symmetric:exclusive:0.2:0.3", "too many parts"),
    ],
)
def test_parse_tells_a_mistake_in_one_line(text, told):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_noise_is_always_valid():
    assert Noise("symmetric", 0.2).variant == "inclusive"
    for wrong in (
        dict(kind="sym", rate=0.2),
        dict(kind="pair", rate=1.2),
        dict(kind="given", rate=1.2),
        dict(kind="file", rate=0.2, variant="m.npz"),
        dict(kind="human", rate=0.2),
        dict(kind="openset", rate=0.2),
        dict(kind="instance", rate=0.2, count="bernoulli"),
        dict(kind="pair", rate=0.2, seed=-1),
        dict(kind="pair", rate=0.2, count="exact"),
    ):
        with pytest.raises(InputError):
            Noise(**wrong)


def test_labels_slugs_and_dicts():
    noise = Noise("symmetric", 0.5, seed=4)
    assert (noise.label, noise.slug) == ("symmetric:inclusive:0.5", "symmetric-inclusive-0.5")
    assert Noise("pair", 0.45, count="bernoulli").slug == "pair-0.45-bernoulli"
    assert Noise("pair", 0.45, count="bernoulli").label == "pair:bernoulli:0.45"
    assert Noise("given", 0).label == Noise("given", 0).slug == "given"
    assert Noise("human", 0, "worse").label == "human:worse"
    assert Noise("human", 0.1, "worse").slug == "human-worse-0.1"
    assert Noise("file", 0, "/a/m.npz").slug == "file-m-dbda1c"
    assert Noise("file", 0, "/b/m.npz").slug != Noise("file", 0, "/a/m.npz").slug
    assert Noise("pair", 0.123456789).label == "pair:0.123456789"
    assert Noise("given", 0, count="exact_global") == Noise("given", 0)  # records of the first version
    assert parse(noise.label, seed=4) == [noise]
    assert Noise(**noise.to_dict()) == noise


def test_labels_that_came_with_the_data_have_no_model():
    with pytest.raises(InputError, match="came with the data"):
        transition_matrix(Noise("given", 0), 10)
    with pytest.raises(InputError, match="came with the data"):
        corrupt(LABELS, Noise("given", 0), 10)


def test_digest():
    a = np.arange(6)
    assert len(digest(a)) == 16
    assert digest(a) == digest(torch.arange(6)) == digest(np.arange(6, dtype=">i8")) == digest(np.arange(12)[::2] // 2)
    different = [
        digest(a),
        digest(a.reshape(2, 3)),
        digest(a.astype(np.int32)),
        digest(a + 1),
        digest(a, a),
        digest(a[:0]),
        digest(),
    ]
    assert len(set(different)) == len(different)
