"""Estimates of noise: by hand on eight images, recovery of known matrices, known noise on digits, and what the command tells."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raystudy import cli
from raystudy.data.noise import Noise, pair_matrix, symmetric_matrix
from raystudy.design import space
from raystudy.learn.celldata import prepare
from raystudy.learn.spec import TrialSpec
from raystudy.tools import estimate, transition
from raystudy.tools import folds as folds_of_labels
from raystudy.tools.folds import Predictions

# Eight images of two classes: P(class 0) and the label given. The mean P of the images labelled 0 is (.9 + .8 + .3 + .2)/4 = .55,
# that of P(class 1) of those labelled 1 is (.9 + .7 + .25 + .65)/4 = .625; each image reaches exactly one of the two.
P0 = np.array([0.9, 0.8, 0.3, 0.2, 0.1, 0.3, 0.75, 0.35])
GIVEN = np.array([0, 0, 0, 0, 1, 1, 1, 1])
PROBS = np.stack([P0, 1 - P0], 1)
# So of the four labelled 0, two count as of class 0 and two as of class 1; of those labelled 1, one and three.
T_CONFIDENT = np.array([[2 / 3, 1 / 3], [2 / 5, 3 / 5]])
# The two surest of class 0 (.9, .8) are labelled 0, 0; of class 1 (.9, .8) they are labelled 1, 0.
T_COUNTED = np.array([[1, 0], [0.5, 0.5]])


def test_by_hand():
    assert transition.confident(PROBS, GIVEN) == pytest.approx(T_CONFIDENT)
    assert transition.anchor_count(PROBS, GIVEN) == pytest.approx(T_COUNTED)
    assert transition.rate_of(T_CONFIDENT, GIVEN) == pytest.approx(3 / 8)  # prior 3/8, 5/8: right are 2 + 3 of 8
    assert transition.rate_of(T_COUNTED, GIVEN) == pytest.approx(0.5)  # all of class 1, of which half are labelled 0
    assert transition.rate_of(np.eye(2), GIVEN) == 0
    bound, sure = transition.at_most(Predictions(PROBS, GIVEN, np.zeros(8, dtype=np.int64)))
    assert bound == pytest.approx(3 / 8)
    assert sure == pytest.approx(3 / 8 + 1.96 * (3 / 8 * 5 / 8 / 8) ** 0.5)
    assert transition.error(T_COUNTED, T_CONFIDENT) == pytest.approx((1 / 3 + 1 / 10) / 2)


def simulated(matrix: np.ndarray, n: int = 6000, seed: int = 0) -> tuple[Predictions, np.ndarray]:
    """Clear images, predicted by a network that knows the noise up to a little jitter; and the true classes."""
    rng, k = np.random.default_rng(seed), len(matrix)
    clean = rng.integers(k, size=n)
    given = np.array([rng.choice(k, p=matrix[c]) for c in clean])
    probs = matrix[clean] * rng.uniform(0.97, 1.03, (n, k)) + 1e-6
    return Predictions(probs / probs.sum(1, keepdims=True), given, np.arange(n) % 5), clean


MATRICES = {
    "none": np.eye(4),
    "symmetric": symmetric_matrix(4, 0.4),
    "pair": pair_matrix(4, 0.3),
    "uneven": np.array([[0.9, 0.1, 0, 0], [0, 0.6, 0.2, 0.2], [0.05, 0, 0.95, 0], [0, 0, 0.4, 0.6]]),
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("estimator", transition.ESTIMATORS)
def test_known_matrices_are_found_again(name, estimator):
    matrix = MATRICES[name]
    told, clean = simulated(matrix)
    found = transition.ESTIMATORS[estimator](told.probs, told.given)
    assert found.sum(1) == pytest.approx(np.ones(4))
    assert (found >= 0).all()
    few = estimator == "anchor-count"  # 64 images a class: a standard error of up to .06 an entry
    assert transition.error(found, matrix) < (0.12 if few else 0.03)
    rate = (clean != told.given).mean()
    assert transition.rate_of(found, told.given) == pytest.approx(rate, abs=0.08 if few else 0.02)
    assert rate <= transition.at_most(told)[1]


def test_the_bound_holds_for_any_network():
    """Blind ones, and images that are of two classes at once."""
    rng = np.random.default_rng(0)
    for matrix in MATRICES.values():
        told, clean = simulated(matrix)
        blind = rng.dirichlet(np.ones(4), len(clean))
        halves = rng.dirichlet(np.full(4, 0.3), 6000)  # P(class | image)
        clean2 = np.array([rng.choice(4, p=p) for p in halves])
        given2 = np.array([rng.choice(4, p=matrix[c]) for c in clean2])
        for probs, given, truth in ((blind, told.given, clean), (halves @ matrix, given2, clean2)):
            assert (given != truth).mean() <= transition.at_most(Predictions(probs, given, told.fold))[1] + 0.005


def test_intervals_hold_the_truth_and_shrink_with_more_images():
    matrix = MATRICES["uneven"]
    widths = []
    for n in (500, 8000):
        told, _ = simulated(matrix, n)
        found = transition.bootstrap(told, transition.confident, 60, seed=1)
        low, high = found.rate_interval
        assert low <= found.rate <= high
        assert low - 0.01 <= 1 - matrix.diagonal().mean() <= high + 0.01
        inside = (found.matrix_interval[0] - 0.02 <= matrix) & (matrix <= found.matrix_interval[1] + 0.02)
        assert inside.mean() > 0.85
        widths.append(high - low)
        again = transition.bootstrap(told, transition.confident, 60, seed=1)
        assert again.rate_interval == found.rate_interval
    assert widths[1] < 0.5 * widths[0]


def test_a_poor_network_is_told_by_estimates_that_disagree():
    """Half of the images predicted as of a neighbouring class, less surely: counts over all images take that for noise."""
    told, _ = simulated(MATRICES["none"], 4000)
    probs = told.probs * 0.97 + 0.01
    blurred = np.arange(4000) % 2 == 0
    probs[blurred] = 0.2 * probs[blurred] + 0.8 * np.roll(probs[blurred], 1, 1) * 0.9 + 0.02
    poor = Predictions(probs / probs.sum(1, keepdims=True), told.given, told.fold)
    one, other = (transition.bootstrap(poor, e, 30, 0) for e in (transition.confident, transition.anchor_count))
    assert one.rate > 0.3
    assert other.rate < 0.05
    assert not transition.agree(one, other)
    good = [transition.bootstrap(told, e, 30, 0) for e in (transition.confident, transition.anchor_count)]
    assert transition.agree(*good)


def test_one_class_may_be_missing_from_a_resample():
    """As it will be where a class has few images."""
    told, _ = simulated(MATRICES["pair"], 400)
    rare = told.given != 3
    rare[np.flatnonzero(told.given == 3)[:1]] = True
    few = Predictions(told.probs[rare], told.given[rare], told.fold[rare])
    for estimator in transition.ESTIMATORS.values():
        assert np.isfinite(transition.bootstrap(few, estimator, 20, 0).matrix_interval[1]).all()


def test_folds_share_every_label():
    given = np.random.default_rng(0).choice(5, 203, p=[0.5, 0.2, 0.2, 0.08, 0.02])
    fold = folds_of_labels.folds_of(given, 4, seed=0)
    assert set(fold) == set(range(4))
    for c in range(5):
        counts = np.bincount(fold[given == c], minlength=4)
        assert counts.max() - counts.min() <= 1
    assert np.array_equal(fold, folds_of_labels.folds_of(given, 4, seed=0))
    assert not np.array_equal(fold, folds_of_labels.folds_of(given, 4, seed=1))


def predicted(noise: Noise, folds: int, epochs: int, shuffled: bool = False) -> tuple[Predictions, np.ndarray]:
    """Out-of-fold predictions on digits, and the true classes."""
    cell = prepare("digits", Path("data"), noise, 0.1)
    clean = torch.cat([cell.truth.clean, cell.truth.val_clean])
    cell = folds_of_labels.whole(cell)
    if shuffled:
        cell.y.copy_(torch.randint(10, (len(cell.y),), generator=torch.Generator().manual_seed(0)))
    recipe = space.recipe_for("shared", "ce", "digits", "mlp").to_dict()
    data = ("digits", cell.data_digest, noise.to_dict(), cell.noise_digest)
    spec = TrialSpec("ce", 1, {}, *data, "mlp", recipe, epochs, 0, 0.1, 0)
    return folds_of_labels.predict(cell, spec, folds), clean.numpy()


def test_predictions_are_out_of_sample():
    """Labels drawn at random cannot be predicted by a network that has not seen them, however well it memorises."""
    told, clean = predicted(Noise("symmetric", 0.0), folds=2, epochs=6, shuffled=True)
    assert told.probs.shape == (1347, 10)
    assert told.probs.sum(1) == pytest.approx(np.ones(1347))
    assert (told.probs.argmax(1) == told.given).mean() < 0.14
    assert len(clean) == len(told.given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rate", "within", "rows"),
    [
        ("symmetric", 0.0, 0.02, 0.03),
        ("symmetric", 0.4, 0.06, 0.12),
        ("pair", 0.2, 0.05, 0.08),
        ("pair", 0.4, 0.08, 0.16),
    ],
)
def test_known_noise_on_digits(kind, rate, within, rows):
    """The chosen estimate is off by no more than this; docs/noise-estimation.md has measured errors."""
    told, clean = predicted(Noise(kind, rate, "exclusive" if kind == "symmetric" else ""), folds=3, epochs=25)
    found = transition.ESTIMATORS[transition.CHOSEN](told.probs, told.given)
    true = symmetric_matrix(10, rate, "exclusive") if kind == "symmetric" else pair_matrix(10, rate)
    assert transition.rate_of(found, told.given) == pytest.approx((clean != told.given).mean(), abs=within)
    assert transition.error(found, true) < rows
    assert (clean != told.given).mean() <= transition.at_most(told)[1]


# --- the command --------------------------------------------------------------------------------------------------

QUICK = ("--epochs", "2", "--folds", "2", "--bootstrap", "20")


def test_noise_estimate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["noise", "estimate", "digits", "--noise", "pair:0.3", *QUICK, "--out", "found/noise"]) == 0
    out = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "found").iterdir()} == {"noise.json", "noise.npy", "noise.csv"}
    told = json.loads(Path("found/noise.json").read_text())
    assert set(told["estimates"]) == set(transition.ESTIMATORS)
    matrix = np.load("found/noise.npy", allow_pickle=False)
    assert (matrix.shape, matrix.dtype) == ((10, 10), np.float64)
    assert np.loadtxt("found/noise.csv", delimiter=",") == pytest.approx(matrix, abs=1e-8)
    assert told["estimates"][told["chosen"]]["matrix"] == pytest.approx(matrix)
    assert matrix.sum(1) == pytest.approx(np.ones(10), abs=1e-12)
    for assumption in estimate.assumptions("image"):
        assert assumption in out
    assert told["truth"]["rate"] == pytest.approx(0.3, abs=0.001)
    assert (
        out.index("no more than") < out.index("They do not hold") < out.index("the truth, which no estimate has seen")
    )


def test_without_a_truth_none_is_told(tmp_path, monkeypatch, capsys):
    """A user's own labels, as they are; and noisy labels that came with the data are looked at of themselves."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (120, 8, 8), dtype=np.uint8), np.arange(120) % 3
    told = {"x_train": x, "y_train": y, "x_test": x[:9], "y_test": y[:9]}
    np.savez("mine.npz", **told)
    assert cli.main(["noise", "estimate", "npz:mine.npz", *QUICK]) == 0
    out = capsys.readouterr().out
    assert "its labels as they are" in out
    assert "the truth" not in out
    assert "truth" not in json.loads(Path("noise-estimate.json").read_text())
    np.savez("noisy.npz", **told, y_noisy=rng.permutation(y))
    assert cli.main(["noise", "estimate", "npz:noisy.npz", *QUICK, "--out", "noisy"]) == 0
    assert json.loads(Path("noisy.json").read_text())["labels"] == "given"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("digit",), ("unknown data set 'digit'", "digits")),
        (("digits", "--noise", "pair:0.2,0.3"), ("one noise setting, not 2",)),
        (("digits", "--noise", "given"), ("came with no noisy labels",)),
        (("digits", "--folds", "1"), ("--folds is 1", "at least 2")),
        (("digits", "--folds", "1000"), ("--folds is 1000", "1347")),
        (("digits", "--epochs", "0"), ("--epochs is 0",)),
        (("digits", "--bootstrap", "0"), ("--bootstrap is 0",)),
        (("digits", "--network", "mlpp"), ("unknown network 'mlpp'", "did you mean 'mlp'")),
        (("digits", "--out", "."), ("--out . is a folder",)),
        (("digits", "--device", "tpu"), ("unknown device here 'tpu'", "cpu")),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["noise", "estimate", *argv]) == 2
    told = capsys.readouterr()
    assert all(word in told.err for word in words)
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    assert list(tmp_path.iterdir()) == []
