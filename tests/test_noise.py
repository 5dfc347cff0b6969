"""Noise models: matrices against the published code, exact and realised rates, seeds, and how settings are read."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from raystudy.data.noise import (
    NOISES,
    Noise,
    corrupt,
    digest,
    effective_rate,
    pair_matrix,
    parse,
    symmetric_matrix,
    transition_matrix,
)
from raystudy.errors import InputError

LABELS = np.arange(5000) % 10  # 500 of each class
MODELS = [Noise(kind, 0.3, v) for kind, row in NOISES.items() if row.matrix for v in row.variants or ("",)]
ids = [noise.label for noise in MODELS]


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


def test_matrices_by_hand():
    np.testing.assert_allclose(symmetric_matrix(4, 0.4), np.full((4, 4), 0.1) + 0.6 * np.eye(4))
    np.testing.assert_allclose(
        symmetric_matrix(3, 0.4, "exclusive"), [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]
    )
    np.testing.assert_allclose(pair_matrix(3, 0.25), [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])


@pytest.mark.parametrize("noise", MODELS, ids=ids)
@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_every_matrix_is_stochastic_and_linear_in_the_rate(noise, rate):
    at = transition_matrix(Noise(noise.kind, rate, noise.variant), 7)
    assert at.shape == (7, 7)
    assert at.min() >= 0
    np.testing.assert_allclose(at.sum(1), 1, atol=1e-12)
    full = transition_matrix(Noise(noise.kind, 1.0, noise.variant), 7)
    np.testing.assert_allclose(at, (1 - rate) * np.eye(7) + rate * full, atol=1e-12)


# --- the sampler --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", MODELS, ids=ids)
@pytest.mark.parametrize("count", ["exact_global", "exact_per_class", "bernoulli"])
def test_flips_follow_the_matrix(noise, count):
    n, k = 60_000, 6
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
    for count in ("exact_global", "exact_per_class", "bernoulli"):
        assert (corrupt(LABELS, Noise(noise.kind, 0.0, noise.variant, 1, count), 10) == before).all()
        corrupt(LABELS, Noise(noise.kind, 0.9, noise.variant, 1, count), 10)
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
        for count in ("exact_global", "exact_per_class", "bernoulli"):
            low, high = (corrupt(LABELS, Noise(noise.kind, r, noise.variant, 2, count), 10) for r in (0.2, 0.6))
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
    assert parse("pair:0.2", count="bernoulli")[0].count == "bernoulli"
    assert parse("given", seed=2) == [Noise("given", 0.0, seed=2)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("symetric:0.2", "did you mean 'symmetric'"),
        ("", "unknown noise kind ''; choose from: given, pair, symmetric"),
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
        ("given:0.2", "takes neither a variant nor a rate"),
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
        dict(kind="given", rate=0.2),
        dict(kind="pair", rate=0.2, seed=-1),
        dict(kind="pair", rate=0.2, count="exact"),
    ):
        with pytest.raises(InputError):
            Noise(**wrong)


def test_labels_slugs_and_dicts():
    noise = Noise("symmetric", 0.5, seed=4)
    assert (noise.label, noise.slug) == ("symmetric:inclusive:0.5", "symmetric-inclusive-0.5")
    assert Noise("pair", 0.45, count="bernoulli").slug == "pair-0.45-bernoulli"
    assert Noise("given", 0).label == Noise("given", 0).slug == "given"
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
