"""Pure functions shared by methods: random draws, mixing, small-loss selection, mixture models of losses.

No state, no networks, no losses to descend on (those are in ``losses``). Functions of one method only stay with it.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def beta_draws(alpha: float, n: int) -> Tensor:
    """``n`` mixing coefficients from Beta(alpha, alpha), float32 [n] on the CPU; all ones for alpha <= 0 (no mixing).

    Drawn on the CPU from torch's default generator, so that a GPU does not change them and nothing waits for it.
    """
    if alpha <= 0:
        return torch.ones(n)
    # Two gamma draws by the kernel of torch.distributions, which spends 60 us per call on building the distribution.
    a, b = torch._standard_gamma(torch.full((2, n), alpha, dtype=torch.float64))
    return (a / (a + b)).float()


def beta_draw(alpha: float) -> float:
    """One mixing coefficient from Beta(alpha, alpha); 1.0 for alpha <= 0."""
    return float(beta_draws(alpha, 1))


def permutation(n: int, device: torch.device) -> Tensor:
    """A random order of 0..n-1, int64 [n] on ``device``; drawn on the CPU for the same reason as ``beta_draws``."""
    return torch.randperm(n).to(device, non_blocking=True)


def mix(x: Tensor, q: Tensor, lam: float | Tensor, perm: Tensor) -> tuple[Tensor, Tensor]:
    """Convex combinations of inputs and of targets: lam a + (1 - lam) a[perm] (Zhang et al. 2018, eq. 1).

    ``x`` [B, ...] inputs, ``q`` [B, K] target distributions, ``lam`` one number or [B], ``perm`` [B] the partners.
    Exactly the identity at lam = 1.
    """

    def combine(a: Tensor) -> Tensor:
        if isinstance(lam, Tensor):
            return torch.lerp(a[perm], a, lam.to(a).view(-1, *[1] * (a.dim() - 1)))
        return torch.lerp(a[perm], a, lam)

    return combine(x), combine(q)


def small_loss(losses: Tensor, n_keep: int) -> Tensor:
    """Positions of the ``n_keep`` smallest of ``losses`` [B], [n_keep] in ascending order; NaN counts as large."""
    return torch.topk(losses, n_keep, largest=False, sorted=True).indices


def normalise_losses(losses: Tensor) -> Tensor:
    """Min-max normalisation of ``losses`` [n] to [0, 1]; zeros where all losses are equal (instead of 0/0)."""
    low, high = losses.min(), losses.max()
    span = high - low
    return (losses - low) / torch.where(span == 0, torch.ones_like(span), span)


class Gmm(NamedTuple):
    """Two Gaussians on a line, sorted by mean; float64."""

    means: Tensor  # [2]
    variances: Tensor  # [2]
    weights: Tensor  # [2], sum 1
    posterior: Tensor  # [n] of the component with the smaller mean


def gmm_1d(x: Tensor, max_iter: int = 10, tol: float = 1e-2, reg_covar: float = 5e-4) -> Gmm:
    """A mixture of two Gaussians fitted to ``x`` [n] by EM, in float64 on the device of ``x``.

    The same fit as ``sklearn.mixture.GaussianMixture(2, max_iter=, tol=, reg_covar=)``: start from the hard
    responsibilities of 2-means, add ``reg_covar`` to every variance, stop when the mean log-likelihood changes by
    less than ``tol`` or after ``max_iter`` steps. The 2-means start is the global optimum, so nothing is random;
    scikit-learn's k-means starts at random and stops early by a tolerance, so where that moves its own result,
    agreement is up to its spread over seeds.

    Degenerate inputs do not raise: where there are no two distinct values to tell apart, or any value is not
    finite, the posterior is 1 everywhere (nothing speaks against any sample) and both components are the one
    Gaussian of the data, NaN for non-finite data.
    """
    x = x.detach().double()
    ordered = x.sort().values
    if len(x) < 2 or not bool(ordered.isfinite().all() & (ordered[0] < ordered[-1])):
        mean = x.mean()
        variance = (x - mean).square().mean() + reg_covar
        return Gmm(mean.repeat(2), variance.repeat(2), x.new_tensor([1.0, 0.0]), torch.ones_like(x))

    first = x <= _two_means_boundary(ordered)
    means, variances, weights = _gmm_m_step(x, torch.stack([first, ~first]).double(), reg_covar)
    bound = -math.inf
    for _ in range(max_iter):
        log_joint = _gmm_log_joint(x, means, variances, weights)
        log_evidence = log_joint.logsumexp(0)
        means, variances, weights = _gmm_m_step(x, (log_joint - log_evidence).exp(), reg_covar)
        previous, bound = bound, float(log_evidence.mean())
        if abs(bound - previous) < tol:
            break
    order = means.argsort()
    means, variances, weights = means[order], variances[order], weights[order]
    log_joint = _gmm_log_joint(x, means, variances, weights)
    return Gmm(means, variances, weights, torch.sigmoid(log_joint[0] - log_joint[1]))


def _two_means_boundary(ordered: Tensor) -> Tensor:
    """The largest value of the first cluster of the optimal 2-means of the sorted ``ordered`` [n], n >= 2.

    In one dimension the clusters are intervals, so the optimum is the best of n - 1 cuts; the within-cluster sum of
    squares is smallest where (sum left)^2 / n_left + (sum right)^2 / n_right is largest (of the centred values).
    """
    left = (ordered - ordered.mean()).cumsum(0)[:-1]  # the right sum is its negative
    n = len(ordered)
    size = torch.arange(1, n, dtype=ordered.dtype, device=ordered.device)
    between = left.square() * (1 / size + 1 / (n - size))
    return ordered[between.argmax()]


def _gmm_m_step(x: Tensor, resp: Tensor, reg_covar: float) -> tuple[Tensor, Tensor, Tensor]:
    """Means, variances and weights, each [2], from responsibilities [2, n]."""
    size = resp.sum(1) + 10 * torch.finfo(x.dtype).eps
    means = resp @ x / size
    variances = (resp * (x - means[:, None]).square()).sum(1) / size + reg_covar
    return means, variances, size / size.sum()


def _gmm_log_joint(x: Tensor, means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    """log weight + log density of each component at each of ``x``, [2, n]."""
    constant = weights.log() - 0.5 * (2 * math.pi * variances).log()
    return constant[:, None] - (x - means[:, None]).square() / (2 * variances[:, None])


def row_normalise(counts: Tensor) -> Tensor:
    """The rows of ``counts`` [K, K] divided by their sums; a row of zeros becomes that of the identity."""
    total = counts.sum(1, keepdim=True)
    return torch.where(total > 0, counts / total, torch.eye(len(counts)).to(counts))


def anchor_transition(probs: Tensor, percentile: float, in_place: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of the noise read off at anchors (Patrini et al. 2017, section 4.1): T[i] = probs[anchor i]; and the anchors [K].

    ``probs`` [N, K] predictions on the training set. The anchor of class i has the largest probability of i strictly
    below the ``percentile`` of that column (taken as the next higher order statistic), of all images for 100. Where
    nothing is below, it is the first image. Rows are not normalised. ``in_place`` gives the values of the original
    code, which sets what is at or above the percentile to 0 in the predictions themselves, so that earlier columns
    spoil later rows; the caller's stay as they are.
    """
    probs = probs.clone() if in_place else probs
    rows, anchors = [], []
    for i, column in enumerate(probs.unbind(1)):
        below = column
        if percentile < 100:
            high = column.sort().values[math.ceil(percentile / 100 * (len(column) - 1))]
            below = torch.where(column < high, column, column.new_tensor(0.0 if in_place else -1.0))
        if in_place:
            probs[:, i] = below
        anchors.append(below.argmax())
        rows.append(probs[anchors[-1]].clone())
    return torch.stack(rows), torch.stack(anchors)


def label_shares(y: Tensor, n_classes: int) -> Tensor:
    """The share of each class among the labels ``y`` [n], [K] float64."""
    return torch.bincount(y, minlength=n_classes).double() / max(len(y), 1)


def confusion(probs: Tensor, y: Tensor, soft: bool = False) -> Tensor:
    """How often each class is predicted where each label is given, [K, K] float64, rows = predicted.

    ``probs`` [N, K], ``y`` [N]. ``soft``: probabilities are summed instead of arg max counted.
    """
    n_classes = probs.shape[1]
    if soft:
        return probs.new_zeros(n_classes, n_classes, dtype=torch.float64).index_add_(0, y, probs.double()).t()
    return torch.bincount(probs.argmax(1) * n_classes + y, minlength=n_classes**2).view(n_classes, n_classes).double()


def known_transition(kind: str, n_classes: int, rate: float) -> Tensor:
    """T[i, j] = P(given j | clean i), [K, K] float64, for a share ``rate`` of *wrong* labels.

    "symmetric": every other class alike. "pair": the next class.
    """
    eye = torch.eye(n_classes, dtype=torch.float64)
    other = eye.roll(1, 1) if kind == "pair" else (1 - eye) / max(n_classes - 1, 1)
    return (1 - rate) * eye + rate * other


def progress(done: int, total: int) -> int:
    """Training progress in whole percent, 0..99: floor(100 done / total) of ``done`` steps or epochs finished.

    MentorNet calls it "epoch" throughout (Jiang et al. 2018, section 3.2; google/mentornet @76d6be2).
    """
    return 100 * done // total


def nearest_rank(losses: Tensor, p: float) -> Tensor:
    """The ``p``-percentile of ``losses`` [B] without interpolation, 0-d: sorted descending, position round((B - 1)(1 - p))."""
    return losses.sort(descending=True).values[round((len(losses) - 1) * (1 - p))]


def moving_average(m: Tensor, q: Tensor, rate: float) -> Tensor:
    """(1 - rate) m + rate q, 0-d; q alone where m is NaN (not begun), so the first steps are not drawn towards 0."""
    return torch.where(m.isnan(), q, torch.lerp(m, q, rate))


def spcl_weights(losses: Tensor, lam1: float | Tensor, lam2: float | Tensor) -> Tensor:
    """argmin over v in [0, 1] of v l + lam2 v^2/2 - (lam1 + lam2) v, = clip(1 - (l - lam1)/lam2, 0, 1); [B].

    The pre-defined curriculum of MentorNet (Jiang et al. 2018, eq. 5 and 6); 1[l <= lam1] in the limit lam2 -> 0.
    """
    return (1 - (losses - lam1) / lam2).clamp(0, 1)


def pd_weights(diff: Tensor, e: int, gamma: float = 1.0, burn_in: float = 0.19, linear_from: float = 0.9) -> Tensor:
    """v* of the released ``mentornet_pd`` for ``diff`` [B] = loss - its moving percentile, at ``e`` percent of training.

    1 for e <= 18; 1[diff <= 0] for 18 < e < 90; clip(1 - diff/gamma, 0, 1) for e >= 90 (``vstar_mentornet_pd`` of
    google/mentornet @76d6be2, training_mentornet/models.py). The two bounds as fractions: ``burn_in``, ``linear_from``.
    """
    if e < 100 * burn_in:
        return torch.ones_like(diff)
    return (diff <= 0).to(diff) if e < 100 * linear_from else spcl_weights(diff, 0.0, gamma)


def gmm_posterior(gmm: Gmm, x: Tensor) -> Tensor:
    """The posterior [n] of the component with the larger mean at new values ``x`` [n], float64."""
    log_joint = _gmm_log_joint(x.double(), gmm.means, gmm.variances, gmm.weights)
    return torch.sigmoid(log_joint[1] - log_joint[0])


class Bmm(NamedTuple):
    """Two beta distributions on (0, 1), float64; component 1 began as the one of large values."""

    alphas: Tensor  # [2]
    betas: Tensor  # [2]
    weights: Tensor  # [2], sum 1


def bmm_1d(x: Tensor, max_iter: int = 10) -> Bmm:
    """A mixture of two beta distributions fitted to ``x`` [n] in [0, 1] by EM, float64 (Arazo et al. 2019, section 3.1).

    Values are clipped to [1e-4, 1 - 1e-4], where the densities are finite; start (1, 2) and (2, 1), weights 1/2; the M-step
    matches weighted moments; ``max_iter`` steps, no tolerance. A component whose moments no beta distribution has (variance at
    or above m (1 - m), or below 1e-6) keeps its parameters for that step, where the original turns negative or NaN.
    """
    x = x.detach().double().clamp(1e-4, 1 - 1e-4)
    bmm = Bmm(x.new_tensor([1.0, 2.0]), x.new_tensor([2.0, 1.0]), x.new_tensor([0.5, 0.5]))
    for _ in range(max_iter):
        resp = _bmm_joint(bmm, x).clamp_min(1e-12)
        resp = resp / resp.sum(0)
        size = resp.sum(1)
        mean = resp @ x / size
        variance = (resp * (x - mean[:, None]).square()).sum(1) / size
        bound = mean * (1 - mean)
        valid = (variance < bound) & (variance >= 1e-6)
        alphas = torch.where(valid, mean * (bound / variance - 1), bmm.alphas)
        betas = torch.where(valid, alphas * (1 - mean) / mean, bmm.betas)
        bmm = Bmm(alphas, betas, size / size.sum())
    return bmm


def bmm_posterior(bmm: Bmm, x: Tensor) -> Tensor:
    """The posterior [n] of component 1 at ``x`` [n] in (0, 1), float64."""
    joint = _bmm_joint(bmm, x.double())
    return joint[1] / (joint.sum(0) + 1e-12)


def _bmm_joint(bmm: Bmm, x: Tensor) -> Tensor:
    """weight x density of each component at each of ``x``, [2, n]."""
    a, b = bmm.alphas[:, None], bmm.betas[:, None]
    log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    return bmm.weights[:, None] * ((a - 1) * x.log() + (b - 1) * torch.log1p(-x) - log_beta).exp()
