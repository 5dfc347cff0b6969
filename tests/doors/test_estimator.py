"""``NoisyLabelClassifier`` as scikit-learn and its users meet it: its checks, their labels and images, their other tools."""

import contextlib
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import raystudy as rs
from raystudy import NoisyLabelClassifier
from raystudy.estimator import BY_RATE, formed, noise_matrix
from raystudy.learn.methods import METHODS

CE = NoisyLabelClassifier("ce", network="linear", epochs=8, random_state=0)
FAILING: dict[str, str] = {}  # checks of scikit-learn's that cannot pass, and why: none


@parametrize_with_checks([CE], expected_failed_checks=lambda estimator: FAILING)
def test_checks_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [NoisyLabelClassifier(epochs=15, random_state=0), NoisyLabelClassifier("auto", epochs=15, random_state=0)],
    expected_failed_checks=lambda estimator: FAILING,
)
def test_checks_of_scikit_learn_with_dividemix_and_auto(estimator: Any, check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def blobs(n: int = 300, rate: float = 0.3) -> tuple[Any, Any, Any]:
    """Three clear blobs: vectors, given labels, true labels."""
    x, y = make_blobs(n, n_features=6, centers=3, cluster_std=1.0, random_state=1)
    return x, rs.corrupt(y, f"symmetric:{rate}", seed=0), y


@pytest.mark.parametrize("labels", [["owl", "ape", "cat"], [7, -2, 1000], [0.0, 2.0, 5.0], [np.True_, np.False_]])
def test_any_labels(labels: list[Any]) -> None:
    """Whatever labels are called, learning is the same; all that is told of them goes by the sorted names."""
    names = np.array(labels)
    x, _, y = blobs(120)
    y %= len(names)
    told = NoisyLabelClassifier("ce", epochs=5, random_state=0).fit(x, names[y])
    assert told.classes_.tolist() == sorted(names.tolist())
    assert set(told.predict(x)) <= set(names.tolist())
    assert told.score(x, names[y]) > 0.8
    plain = NoisyLabelClassifier("ce", epochs=5, random_state=0).fit(x, names.argsort().argsort()[y])
    np.testing.assert_array_equal(plain.predict_proba(x), told.predict_proba(x))


@pytest.mark.parametrize("turn", [lambda x: x, lambda x: x[:, None], lambda x: x[..., None], lambda x: x / 255])
def test_images_of_any_layout(turn: Callable[[Any], Any]) -> None:
    x, y = load_digits(return_X_y=True)
    pixels = (x[:200].reshape(-1, 8, 8) * 15).astype(np.uint8)
    want = NoisyLabelClassifier("ce", epochs=3, random_state=0).fit(pixels, y[:200])
    told = NoisyLabelClassifier("ce", epochs=3, random_state=0).fit(turn(pixels), y[:200])
    assert told.score(turn(pixels), y[:200]) > 0.5
    np.testing.assert_array_equal(told.predict_proba(turn(pixels)), want.predict_proba(pixels))


def test_colour_images_and_their_network() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(32) % 2
    x = rng.integers(0, 60, (32, 3, 16, 16), dtype=np.uint8)
    x[y == 1] += 150
    told = NoisyLabelClassifier("ce", epochs=4, random_state=0).fit(x, y)
    assert told.learner_.nets[0][0].weight.shape[1:] == (3, 3, 3)  # convolutions
    np.testing.assert_array_equal(told.predict_proba(x.transpose(0, 2, 3, 1)), told.predict_proba(x))


@pytest.mark.slow
def test_a_noisy_fit_is_right_where_its_labels_are_wrong_and_tells_which() -> None:
    x, given, y = blobs(200)
    told = NoisyLabelClassifier(random_state=0, epochs=10, batch_size=32).fit(x, given)
    assert told.score(x, y) > 0.95
    assert told.label_quality_source_ == "out-of-fold and weight"  # by cross-entropy, which estimated the noise
    weighed = NoisyLabelClassifier(random_state=0, epochs=10, batch_size=32, noise_rate=0.2).fit(x, given)
    assert weighed.label_quality_source_ == "weight"
    for each in (told, weighed):
        assert roc_auc_score(given == y, each.label_quality_) > 0.95
        assert ((each.label_quality_ >= 0) & (each.label_quality_ <= 1)).all()
    np.testing.assert_allclose(told.noise_matrix_.sum(1), 1)
    assert told.noise_rate_ == pytest.approx((given != y).mean(), abs=0.05)
    rebuilt = pickle.loads(pickle.dumps(told))
    np.testing.assert_array_equal(rebuilt.predict_proba(x), told.predict_proba(x))


@pytest.mark.slow
def test_with_folds_the_quality_is_out_of_fold() -> None:
    x, given, y = blobs(150)
    plain = NoisyLabelClassifier("ce", epochs=20, random_state=0).fit(x, given)
    folds = NoisyLabelClassifier("ce", epochs=20, random_state=0, folds=2).fit(x, given)
    assert (plain.label_quality_source_, folds.label_quality_source_) == ("confidence", "out-of-fold")
    quality = [roc_auc_score(given == y, e.label_quality_) for e in (plain, folds)]
    assert min(quality) > 0.9
    np.testing.assert_array_equal(plain.predict_proba(x), folds.predict_proba(x))


@pytest.mark.slow
def test_auto_goes_by_the_estimated_noise() -> None:
    for rate, name in ((0.0, "ce"), (0.4, "dividemix")):
        x, given, y = blobs(200, rate)
        told = NoisyLabelClassifier("auto", epochs=9, batch_size=32, random_state=0).fit(x, given)
        assert told.method_ == name
        assert told.noise_rate_ == pytest.approx((given != y).mean(), abs=0.05)
    assert [name for _, name in BY_RATE] == ["ce", "dividemix"]


def test_published_hyperparameters_follow_the_noise() -> None:
    x, given, _ = blobs(60)

    def point(**told: Any) -> dict[str, Any]:
        params: dict[str, Any] = NoisyLabelClassifier(epochs=1, random_state=0, **told).fit(x, given).params_
        return params

    assert point(noise_rate=0.1)["lambda_u"] == 0
    assert point(noise_rate=0.4)["lambda_u"] == 25
    assert point(params={"alpha": 2}) == {"alpha": 2.0}


@pytest.mark.slow
def test_a_seed_is_the_same_fit_and_nobody_elses_random_numbers() -> None:
    x, given, _ = blobs(100)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    fits = [NoisyLabelClassifier("dividemix", epochs=3, random_state=s).fit(x, given) for s in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    a, b, other = (f.predict_proba(x) for f in fits)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(fits[0].label_quality_, fits[1].label_quality_)
    assert not np.array_equal(a, other)


def test_threads_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    x, given, _ = blobs(30)
    before, seen = torch.get_num_threads(), set[int]()
    torch.set_num_threads(2)
    real = METHODS["ce"].probs

    def probs(self: Any, x: Any) -> Any:
        seen.add(torch.get_num_threads())
        return real(self, x)

    monkeypatch.setattr(METHODS["ce"], "probs", probs)
    try:
        told = NoisyLabelClassifier("ce", epochs=1, n_threads=1).fit(x, given)
        told.predict(x)
        assert (seen, torch.get_num_threads()) == ({1}, 2)
        with contextlib.suppress(ValueError):
            told.predict(x[:, :2])
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_it_says_early_what_it_will_take(capsys: pytest.CaptureFixture[str]) -> None:
    x, given, _ = blobs(60)
    NoisyLabelClassifier("ce", epochs=30, verbose=1).fit(x, given)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith("ce  epoch   1 of 30  loss")
    assert "s to go" in lines[0]
    NoisyLabelClassifier("ce", epochs=2).fit(x, given)
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_in_pipelines_and_searches() -> None:
    x, given, y = blobs()
    line = make_pipeline(StandardScaler(), NoisyLabelClassifier("ce", epochs=6, random_state=0))
    assert line.fit(x, given).score(x, y) > 0.9
    assert cross_val_predict(line, x, given, cv=3, method="predict_proba").shape == (300, 3)
    grid = {"method": ["ce", "gce"], "params": [{}, {"lr": 0.1}]}
    found = GridSearchCV(NoisyLabelClassifier(epochs=4, random_state=0), grid, cv=2).fit(x, given)
    assert found.best_score_ > 0.5
    assert set(found.best_params_) == {"method", "params"}


@pytest.mark.slow
def test_inside_cleanlab() -> None:
    classification = pytest.importorskip("cleanlab.classification")
    x, given, y = blobs()
    learning = classification.CleanLearning(NoisyLabelClassifier("ce", epochs=8, random_state=0), cv_n_folds=3)
    issues = learning.fit(x, given).get_label_issues()
    wrong = given != y
    assert (issues["is_label_issue"].to_numpy() == wrong).mean() > 0.9
    assert (learning.predict(x) == y).mean() > 0.95


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.slow
def test_every_method_with_a_handful_of_samples(method: str) -> None:
    x, _, y = blobs(60)
    for n, epochs in ((3, 2), (5, 4), (12, 5), (60, 6)):
        labels = y[:n].copy()
        labels[:2] = 0, 1  # two classes at least
        told = NoisyLabelClassifier(method, epochs=epochs, random_state=0, params={}).fit(x[:n], labels)
        np.testing.assert_allclose(told.predict_proba(x).sum(1), 1)
        for array in (told.label_quality_, told.noise_matrix_):
            assert np.isfinite(array).all()
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(told)).predict_proba(x), told.predict_proba(x))


def test_mistakes_are_one_line() -> None:
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10) % 2
    for told, words in (
        ({"method": "dividmix"}, "did you mean 'dividemix'"),
        ({"params": {"lamda_u": 3}}, "did you mean 'lambda_u'"),
        ({"method": "auto", "params": {}}, "name the method"),
        ({"epochs": 0}, "epochs is 0"),
        ({"folds": 1}, "folds is 1"),
        ({"noise_rate": 2}, "noise_rate is 2"),
        ({"network": "convnet"}, "convnet"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"device": "tpu"}, "tpu"),
        ({"method": None}, "method is None; it must be a text"),
        ({"params": [1]}, "it must be a dict, or None"),
        ({"epochs": True}, "epochs is True"),
        ({"noise_rate": "a"}, "it must be a number"),
        ({"verbose": "a"}, "verbose is 'a'"),
        ({"network": 3}, "network is 3"),
    ):
        with pytest.raises(rs.InputError, match=words) as caught:
            NoisyLabelClassifier(**({"epochs": 1} | told)).fit(x, y)
        assert "\n" not in str(caught.value)
    for wrong, words in ((np.zeros((10, 4, 5)), "square images"), (np.full((10, 4, 4), 9.0), "floats in")):
        with pytest.raises(rs.InputError, match=words):
            NoisyLabelClassifier("ce", epochs=1).fit(wrong, y)
    with pytest.raises(rs.InputError, match="one class only"):
        NoisyLabelClassifier("ce", epochs=1).fit(x, np.zeros(10))
    images = np.zeros((10, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="fitted on samples of 1x8x8"):
        NoisyLabelClassifier("ce", epochs=1).fit(images, y).predict(np.zeros((2, 9, 9), np.uint8))
    with pytest.raises(rs.InputError, match="fitted on samples of 1x8x8"):
        NoisyLabelClassifier("ce", epochs=1).fit(images, y).predict(np.zeros((2, 64)))


def test_vectors_are_standardised_as_those_of_the_fit_were() -> None:
    x = np.array([[1e9, 5.0, 2.0], [1e9 + 2, 5.0, 4.0]])
    out, form = formed(x)
    np.testing.assert_allclose(out, [[-1, 0, -1], [1, 0, 1]])
    np.testing.assert_allclose(formed(x[1:] + 2, form)[0], [[3, 2 / 5, 3]])  # the constant one is in units of itself
    assert formed(np.array([[1e300], [-1e300]]))[0].tolist() == [[1], [-1]]


def test_the_matrix_by_hand() -> None:
    probs = np.array([[0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0], [0.6, 0.4, 0], [0, 1, 0]])
    told = noise_matrix(probs, np.array([0, 0, 0, 1, 1]), honest=False)
    np.testing.assert_allclose(told, [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]])  # nothing looks like the last class
