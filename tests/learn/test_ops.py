"""The shared maths against hand-computed values, limits and reference libraries."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from raystudy.learn.losses import prior_penalty, soft_cross_entropy
from raystudy.learn.ops import (
    _gmm_m_step,
    _two_means_boundary,
    beta_draw,
    beta_draws,
    gmm_1d,
    mix,
    normalise_losses,
    small_loss,
)


@pytest.mark.parametrize(("alpha", "sd"), [(1, 0.289), (8, 0.121), (32, 0.062)])
def test_beta_draws_have_the_moments_of_beta(alpha: float, sd: float) -> None:
    torch.manual_seed(0)
    draws = beta_draws(alpha, 10_000)
    assert draws.mean().item() == pytest.approx(0.5, abs=0.01)
    assert draws.std().item() == pytest.approx(sd, abs=0.006)


def test_beta_draw_is_a_float_from_the_default_generator_and_one_without_mixing() -> None:
    torch.manual_seed(3)
    first = beta_draw(4.0)
    torch.manual_seed(3)
    assert isinstance(first, float)
    assert beta_draw(4.0) == first
    assert beta_draw(0.0) == beta_draw(-1.0) == 1.0
    small = beta_draws(0.1, 1000)
    assert bool(small.isfinite().all())
    assert float(((small < 0.05) | (small > 0.95)).float().mean()) > 0.6  # U-shaped below 1


def test_mix_by_hand() -> None:
    x = torch.tensor([[0.0, 4.0], [8.0, 0.0]])
    q = torch.eye(2)
    mixed, targets = mix(x, q, 0.25, torch.tensor([1, 0]))
    assert mixed.tolist() == [[6.0, 1.0], [2.0, 3.0]]
    assert targets.tolist() == [[0.25, 0.75], [0.75, 0.25]]
    mixed, targets = mix(x.view(2, 1, 1, 2), q, torch.tensor([1.0, 0.5]), torch.tensor([1, 0]))
    assert mixed.view(2, 2).tolist() == [[0.0, 4.0], [4.0, 2.0]]
    assert targets.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_mix_is_exactly_the_identity_at_one() -> None:
    x, q = torch.randn(7, 3, 2, 2), torch.rand(7, 4)
    for lam in (1.0, torch.ones(7)):
        mixed, targets = mix(x, q, lam, torch.randperm(7))
        assert torch.equal(mixed, x)
        assert torch.equal(targets, q)


def test_small_loss_orders_and_keeps_the_smallest() -> None:
    losses = torch.tensor([3.0, 0.5, math.nan, 2.0, 1.0])
    assert small_loss(losses, 3).tolist() == [1, 4, 3]
    assert small_loss(losses, 5)[-1] == 2


def test_normalise_losses() -> None:
    assert normalise_losses(torch.tensor([2.0, 4.0, 3.0])).tolist() == [0.0, 1.0, 0.5]
    assert normalise_losses(torch.full((3,), 2.0)).tolist() == [0.0, 0.0, 0.0]


def test_soft_cross_entropy_is_cross_entropy_on_one_hots_and_linear_in_the_target() -> None:
    z, y, perm = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 4, torch.randperm(6)
    t = F.one_hot(y, 4).double()
    torch.testing.assert_close(soft_cross_entropy(z, t), F.cross_entropy(z, y))
    two_terms = 0.3 * F.cross_entropy(z, y) + 0.7 * F.cross_entropy(z, y[perm])
    torch.testing.assert_close(soft_cross_entropy(z, 0.3 * t + 0.7 * t[perm]), two_terms)


def test_prior_penalty() -> None:
    assert prior_penalty(torch.zeros(5, 10)).item() == pytest.approx(0, abs=1e-6)
    assert prior_penalty(50 * torch.eye(4)).item() == pytest.approx(0, abs=1e-6)  # confident, but every class once
    p = torch.tensor([[0.5, 0.25, 0.25]])
    expected = sum(math.log((1 / 3) / q) / 3 for q in (0.5, 0.25, 0.25))
    assert prior_penalty(p.log()).item() == pytest.approx(expected, abs=1e-6)
    z = torch.tensor([[500.0, 0.0]], requires_grad=True)  # softmax underflows in the second class
    prior_penalty(z).backward()
    assert bool(z.grad.isfinite().all())  # type: ignore[union-attr]


# --- the mixture ------------------------------------------------------------------------------------------------


def _samples(kind: str, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    m = int(0.6 * n)
    x = {
        "two": lambda: np.r_[rng.normal(0.1, 0.05, m), rng.normal(0.7, 0.1, n - m)],
        "overlap": lambda: np.r_[rng.normal(0.3, 0.15, m), rng.normal(0.6, 0.15, n - m)],
        "losses": lambda: np.r_[rng.gamma(1, 0.05, m), rng.gamma(5, 0.1, n - m)],
        "unequal": lambda: np.r_[rng.normal(0.9, 0.02, n - n // 20), rng.normal(0.1, 0.02, n // 20)],
        "uniform": lambda: rng.uniform(0, 1, n),
        "heavy": lambda: rng.lognormal(0, 1, n),
    }[kind]()
    return (x - x.min()) / (x.max() - x.min())


def _sklearn(x: np.ndarray, **start) -> tuple[GaussianMixture, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = GaussianMixture(2, max_iter=10, tol=1e-2, reg_covar=5e-4, **start).fit(x[:, None])
    return model, model.predict_proba(x[:, None])[:, model.means_[:, 0].argmin()]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [60, 1200])
@pytest.mark.parametrize("kind", ["two", "overlap", "losses", "unequal", "uniform", "heavy"])
def test_gmm_is_the_fit_of_scikit_learn_from_the_same_start(kind: str, n: int, seed: int) -> None:
    x = _samples(kind, n, seed)
    t = torch.from_numpy(x)
    first = t <= _two_means_boundary(t.sort().values)
    means, variances, weights = _gmm_m_step(t, torch.stack([first, ~first]).double(), 5e-4)
    model, posterior = _sklearn(
        x,
        means_init=means[:, None].numpy(),
        precisions_init=(1 / variances)[:, None, None].numpy(),
        weights_init=weights.numpy(),
    )
    fit = gmm_1d(t)
    order = model.means_[:, 0].argsort()
    np.testing.assert_allclose(fit.posterior, posterior, atol=1e-9)
    np.testing.assert_allclose(fit.means, model.means_[order, 0], atol=1e-9)
    np.testing.assert_allclose(fit.variances, model.covariances_[order, 0, 0], atol=1e-9)
    np.testing.assert_allclose(fit.weights, model.weights_[order], atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [60, 600, 5000])
def test_gmm_is_the_fit_of_scikit_learn_where_its_k_means_does_not_depend_on_its_seed(n: int, seed: int) -> None:
    x = _samples("two", n, seed)
    _, posterior = _sklearn(x, random_state=seed)
    np.testing.assert_allclose(gmm_1d(torch.from_numpy(x)).posterior, posterior, atol=1e-6)


@pytest.mark.parametrize("kind", ["two", "overlap", "losses", "unequal", "uniform", "heavy"])
def test_gmm_starts_from_two_means_no_worse_than_scikit_learns_best_of_ten(kind: str) -> None:
    x = _samples(kind, 500, 5)
    boundary = float(_two_means_boundary(torch.from_numpy(x).sort().values))
    ours = sum(((part - part.mean()) ** 2).sum() for part in (x[x <= boundary], x[x > boundary]))
    assert ours <= KMeans(2, n_init=10, random_state=0).fit(x[:, None]).inertia_ * (1 + 1e-9)


def test_gmm_on_a_known_mixture() -> None:
    """Section 11 of the sheet: 70 % N(.1, .05), 30 % N(.7, .1)."""
    g = torch.Generator().manual_seed(0)
    x = torch.cat([0.1 + 0.05 * torch.randn(1400, generator=g), 0.7 + 0.1 * torch.randn(600, generator=g)])
    fit = gmm_1d(x)
    assert fit.means.tolist() == pytest.approx([0.1, 0.7], abs=0.02)
    assert fit.weights.tolist() == pytest.approx([0.7, 0.3], abs=0.02)
    assert bool((fit.posterior[:1400] > 0.5).all())
    assert bool((fit.posterior[1400:] < 0.5).float().mean() > 0.99)


@pytest.mark.parametrize("prefix", ["gmm", "gmm5"])
def test_gmm_parity(parity, prefix: str) -> None:
    z = parity("dividemix")
    torch.testing.assert_close(normalise_losses(torch.from_numpy(z["losses_raw"])), torch.from_numpy(z["losses_norm"]))
    x = z["losses_norm"] if prefix == "gmm" else np.vstack([z["loss_history"][1:], z["losses_norm"][None]]).mean(0)
    fit = gmm_1d(torch.from_numpy(x), int(z["gmm_max_iter"]), float(z["gmm_tol"]), float(z["gmm_reg_covar"]))
    # Where scikit-learn's own random start moves its result, agreement can only be up to that: of the posterior, and so of what
    # the last step makes of it, as all values lie in [0, 1].
    close = partial(np.testing.assert_allclose, rtol=0, atol=1e-6 + 2 * float(z[f"{prefix}_seed_spread"]))
    close(fit.posterior, z[f"{prefix}_prob_clean"])
    close(fit.means, z[f"{prefix}_means"])
    close(fit.weights, z[f"{prefix}_weights"])
    close(fit.variances, z[f"{prefix}_vars"])


@pytest.mark.parametrize(
    "x",
    [
        torch.full((5,), 0.3),
        torch.tensor([1.0]),
        torch.tensor([]),
        torch.tensor([0.0, math.nan]),
        torch.tensor([0.0, math.inf]),
    ],
)
def test_gmm_of_degenerate_data_speaks_against_nothing(x: Tensor) -> None:
    fit = gmm_1d(x)
    assert fit.posterior.shape == x.shape
    assert bool((fit.posterior == 1).all())


def test_gmm_of_two_values_tells_them_apart_whatever_their_order_and_type() -> None:
    x = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0], dtype=torch.float32)
    fit = gmm_1d(x)
    assert (fit.posterior > 0.5).tolist() == [True, False, True, True, False]
    assert fit.posterior.dtype == torch.float64
    assert torch.equal(gmm_1d(x.flip(0)).posterior.flip(0), fit.posterior)
