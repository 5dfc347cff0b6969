"""M-correction: parity with the original code, the sheet's conformance checks, phases, degenerate losses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import beta
from test_coteaching import tensors
from torch import Tensor, nn
from toy import ToyTrain, accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import prior_penalty, soft_cross_entropy
from raystudy.learn.methods.m_correction import (
    MCorrection,
    bootstrap_targets,
    guided_coefficient,
    look_up,
    loss_range,
    noise_table,
    normalise,
)
from raystudy.learn.methods.mixup import Mixup
from raystudy.learn.ops import beta_draw, bmm_1d, bmm_posterior, gmm_1d, gmm_posterior, mix, permutation


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return tensors(parity("m_correction"))


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


# --- parity -----------------------------------------------------------------------------------------------------


def test_mixture_parity(z) -> None:
    low, high, inside = loss_range(z["losses"], float(z["percentile_lo"]) / 100, float(z["percentile_hi"]) / 100)
    close(low, z["loss_min"], 1e-6)
    close(high, z["loss_max"], 1e-6)
    scaled = normalise(inside, z["loss_min"], z["loss_max"])  # in float32 there, which the steps of EM make more of
    bmm = bmm_1d(scaled, int(z["em_iters"]))
    for ours, key in zip(bmm, ("bmm_alphas", "bmm_betas", "bmm_weights"), strict=True):
        close(ours, z[key], 1e-6)
    close(bmm_posterior(bmm, z["post_x"]), z["post_noisy"], 1e-6)
    mean = z["bmm_alphas"] / (z["bmm_alphas"] + z["bmm_betas"])
    for order in [False] + [True] * bool(mean[0] < mean[1]):  # as published; and where no labels are switched
        table = noise_table(scaled, int(z["em_iters"]), order=order, bins=len(z["bmm_lookup"]))
        close(table, z["bmm_lookup"], 1e-6)


def test_look_up_parity(z) -> None:
    w = look_up(z["bmm_lookup"], z["batch_losses"], z["loss_min"], z["loss_max"])
    close(w, z["batch_w"], 1e-6)
    close(w, z["batch_w_raw"].clamp(1e-4, 1 - 1e-4), 1e-6)


def mixed_targets(z, temperature: float, lam: float) -> Tensor:
    y = F.one_hot(z["labels"], int(z["num_class"])).double()
    return mix(y, bootstrap_targets(y, z["logits_clean"], z["w"], temperature), lam, z["perm"])[1]


def check(z, targets: Tensor, name: str, reg: float = 0.0, scale: float = 1.0, shift: float = 0.0) -> None:
    """The loss and gradient against the stored ones; ``scale`` and ``shift`` turn R into R as published."""
    logits = z["logits_mixed"].clone().requires_grad_()
    loss = soft_cross_entropy(logits, targets) + reg * (scale * prior_penalty(logits) + shift)
    loss.backward()
    close(loss.detach(), z[f"loss_{name}"])
    if f"grad_{name}" in z:
        close(logits.grad, z[f"grad_{name}"])


def test_losses_parity(z) -> None:
    lam, reg, k = float(z["lam"]), float(z["reg_term"]), int(z["num_class"])
    # R with the constant 10 is sum_c log(1 / (10 p_c)) / 10, that of K classes sum_c log(1 / (K p_c)) / K.
    scale = k / 10
    shift = scale * (math.log(k) - math.log(10))
    check(z, mixed_targets(z, 0.0, lam), "hard_noreg")
    check(z, mixed_targets(z, 0.0, lam), "hard", reg)
    check(z, mixed_targets(z, 1.0, lam), "soft_noreg")
    check(z, mixed_targets(z, 1.0, lam), "soft", reg, scale, shift)
    check(z, mixed_targets(z, 1.0, lam), "soft_reg_numclass", reg)
    check(z, mixed_targets(z, float(z["temperature"]), 0.5), "sh_noreg")
    check(z, mixed_targets(z, float(z["temperature"]), 0.5), "sh", reg)
    y = F.one_hot(z["labels"], k).double()
    check(z, mix(y, y, lam, z["perm"])[1], "guided")
    close(prior_penalty(z["logits_mixed"]), z["reg"])
    close(scale * prior_penalty(z["logits_mixed"]) + shift, z["reg_as_published_10"])


def test_mixing_parity(z) -> None:
    close(mix(z["x"], z["x"], float(z["lam"]), z["perm"])[0], z["x_mixed"])
    delta = guided_coefficient(z["w"], z["perm"])
    close(delta, z["mix_coef"])
    close(mix(z["x"], z["x"], delta, z["perm"])[0], z["x_mixed_dynamic"])


def scheduled(z, train: ToyTrain, **options) -> MCorrection:
    """The method over epochs in which its temperature takes the steps of the stored schedule."""
    n = len(z["temperature_schedule"])
    times = {"start": 0.25, "lead": 0.0, "temperature_end": 0.25 + (n - 1) / (4 * n)}
    return MCorrection(task(train, epochs=4 * n, **options.pop("task", {})), **times, **options)


def test_temperature_parity(z) -> None:
    n = len(z["temperature_schedule"])
    method = scheduled(z, blobs(n=8).train, bootstrap="soft_to_hard")
    ours = [method.temperature(method.bootstrap_epoch + i) for i in range(n)]
    assert ours == pytest.approx(z["temperature_schedule"].tolist(), rel=1e-9)
    assert ours[int(z["temperature_index"])] == pytest.approx(float(z["temperature"]))


def test_temperature_at_the_published_budget() -> None:
    method = MCorrection(task(blobs(n=8).train, epochs=300), bootstrap="soft_to_hard")
    assert (method.guided_epoch, method.bootstrap_epoch) == (105, 110)  # epochs 106 and 111 of the original
    assert method.temperature(110) == 1
    assert [method.temperature(t) for t in (198, 199, 299)] == pytest.approx([0.001] * 3)


class Scripted(nn.Module):
    """A net that answers the unmixed images with one table (in either mode), others with its parameters."""

    def __init__(self, x: Tensor, clean: Tensor, mixed: Tensor) -> None:
        super().__init__()
        self.x, self.clean = x, clean
        self.mixed = nn.Parameter(mixed.clone())
        self.seen = x

    def forward(self, x: Tensor) -> Tensor:
        if torch.equal(x, self.x):
            return self.clean
        self.seen = x
        return self.mixed


@pytest.mark.parametrize("bootstrap", ["hard", "soft", "soft_to_hard"])
def test_a_step_puts_the_parts_together(z, bootstrap) -> None:
    """The parts agree with the original above; here the step's draws are drawn again and its loss and update built from them."""
    net = Scripted(z["x"], z["logits_clean"], z["logits_mixed"]).train()
    train = blobs(n=8, n_classes=int(z["num_class"])).train
    method = scheduled(z, train, task={"net": lambda: net, "lr": 1.0}, bootstrap=bootstrap, reg=0.7)
    method.table = z["bmm_lookup"]
    method.low.copy_(z["loss_min"])
    method.high.copy_(z["loss_max"])
    t = method.bootstrap_epoch + int(z["temperature_index"])
    torch.manual_seed(5)
    log = method.step(Batch(torch.arange(len(z["x"])), z["x"], z["labels"]), t)

    torch.manual_seed(5)
    lam, perm = beta_draw(32.0), permutation(len(z["x"]), z["x"].device)
    losses = F.cross_entropy(
        z["logits_clean"].float(), z["labels"], reduction="none"
    )  # as there: a bin is not to depend on it
    w = look_up(z["bmm_lookup"], losses, method.low, method.high)
    assert len(w.unique()) > 1
    temperature = {"hard": 0.0, "soft": 1.0, "soft_to_hard": float(z["temperature"])}[bootstrap]
    targets = bootstrap_targets(F.one_hot(z["labels"], int(z["num_class"])).double(), z["logits_clean"], w, temperature)
    dynamic = bootstrap == "soft_to_hard"
    x, _ = mix(z["x"], z["x"], guided_coefficient(w, perm) if dynamic else lam, perm)
    _, q = mix(z["x"], targets, 0.5 if dynamic else lam, perm)
    logits = z["logits_mixed"].clone().requires_grad_()
    loss = soft_cross_entropy(logits, q) + 0.7 * prior_penalty(logits)
    loss.backward()
    close(log["loss"], loss.detach(), 1e-6)
    close(net.seen, x, 1e-6)
    close(z["logits_mixed"] - net.mixed.detach(), logits.grad, 1e-6)
    assert log["passes"] == 5 * len(z["x"])


# --- by hand ----------------------------------------------------------------------------------------------------


def test_m_step_finds_a_beta_distribution() -> None:
    x = torch.from_numpy(np.random.default_rng(0).beta(2, 5, 50_000))
    m, s2 = x.mean(), x.var(unbiased=False)
    assert (m * (m * (1 - m) / s2 - 1)).item() == pytest.approx(2, rel=0.05)  # the moments the M-step matches
    rng = np.random.default_rng(1)
    both = torch.from_numpy(np.concatenate([rng.beta(2, 12, 20_000), rng.beta(12, 3, 10_000)]))
    bmm = bmm_1d(both, 30)
    assert bmm.alphas.tolist() == pytest.approx([2, 12], rel=0.1)
    assert bmm.betas.tolist() == pytest.approx([12, 3], rel=0.1)
    assert bmm.weights.tolist() == pytest.approx([2 / 3, 1 / 3], abs=0.02)


def test_beta_posterior_by_hand() -> None:
    """Start parameters: densities 2 (1 - x) and 2 x, so the posterior is x."""
    bmm = bmm_1d(torch.tensor([0.3, 0.4]), 0)
    x = torch.tensor([0.1, 0.5, 0.9])
    assert bmm_posterior(bmm, x).tolist() == pytest.approx([0.1, 0.5, 0.9], abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_losses_without_spread_keep_the_parameters(value: float) -> None:
    bmm = bmm_1d(torch.full((50,), value))
    assert (bmm.alphas.tolist(), bmm.betas.tolist()) == ([1.0, 2.0], [2.0, 1.0])


def test_gaussian_posterior_agrees_with_the_fit() -> None:
    x = torch.cat([torch.linspace(0.0, 0.3, 40), torch.linspace(0.5, 1.0, 20)])
    gmm = gmm_1d(x)
    torch.testing.assert_close(1 - gmm_posterior(gmm, x), gmm.posterior)
    table = noise_table(x, mixture="gaussian")
    assert table[5] < 0.05
    assert table[90] > 0.95


def test_table_never_falls_after_its_maximum() -> None:
    inside = torch.from_numpy(np.random.default_rng(0).beta([[2], [20]], [[8], [20]], (2, 500)).ravel())
    table = noise_table(inside)
    top = int(table.argmax())
    assert (table[top:] == table[top]).all()


def test_order_calls_the_larger_mean_noisy() -> None:
    """A narrow cluster below a broad heap at the upper end, which the first component takes."""
    at = lambda n: (np.arange(n) + 0.5) / n  # noqa: E731
    inside = torch.from_numpy(np.concatenate([beta.ppf(at(177), 50, 15), beta.ppf(at(123), 1.6, 0.19)]))
    bmm = bmm_1d(inside, 30)
    assert bmm.alphas[0] / (bmm.alphas + bmm.betas)[0] > bmm.alphas[1] / (bmm.alphas + bmm.betas)[1]
    published, ours = noise_table(inside, 30, order=False), noise_table(inside, 30)
    assert published[76] > 0.8
    assert ours[76] < 0.2
    assert ours[98] > 0.99


def test_targets_at_their_ends() -> None:
    y, logits = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert bootstrap_targets(y, logits, torch.zeros(1), 0.0).tolist() == [[1.0, 0.0]]  # plain mixup
    assert bootstrap_targets(y, logits, torch.ones(1), 0.0).tolist() == [[0.0, 1.0]]
    assert bootstrap_targets(y, logits, torch.ones(1), 1.0)[0, 1].item() == pytest.approx(1 / (1 + math.exp(-1)))
    cold = bootstrap_targets(y, logits, torch.ones(1), 0.001)
    assert cold[0].tolist() == pytest.approx([0.0, 1.0])


def test_guided_coefficient_by_hand() -> None:
    perm = torch.tensor([1, 0, 2])
    delta = guided_coefficient(torch.tensor([0.0, 0.75, 0.4]), perm)
    assert delta.tolist() == pytest.approx([0.8, 0.2, 0.5])
    assert guided_coefficient(torch.tensor([1e-4, 1 - 1e-4]), torch.tensor([1, 0]))[0] > 0.999


def test_no_penalty_for_a_uniform_mean_whatever_the_number_of_classes() -> None:
    assert prior_penalty(torch.zeros(4, 100)).item() == pytest.approx(0, abs=1e-6)


# --- the method -------------------------------------------------------------------------------------------------


def test_before_the_start_it_is_mixup() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    ours, mixup = MCorrection(task(toy.train, epochs=10), start=0.5), Mixup(task(toy.train, epochs=10), alpha=32.0)
    mixup.nets.load_state_dict(ours.nets.state_dict())
    logs = run(ours, toy.train, range(3))
    run(mixup, toy.train, range(3))
    assert all(torch.equal(a, b) for a, b in zip(ours.nets.parameters(), mixup.nets.parameters(), strict=True))
    assert not any("weight" in log for epoch in logs for log in epoch)


def test_a_mixture_stands_before_its_first_use() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method = MCorrection(task(toy.train, epochs=10), start=0.3)
    logs = run(method, toy.train, range(4))
    assert ["weight" in epoch[-1] for epoch in logs] == [False, False, True, True]
    assert method.table.max() > 0
    assert method.settled() == 0.3
    assert MCorrection(task(toy.train), bootstrap="soft_to_hard").settled() == 0.66


@pytest.mark.parametrize("bootstrap", ["hard", "soft", "soft_to_hard"])
def test_finds_flipped_labels(bootstrap) -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = MCorrection(task(toy.train, epochs=20), bootstrap=bootstrap, lead=0.1)
    weight = run(method, toy.train, range(20))[-1][-1]["weight"]
    is_clean = toy.train.y == toy.clean
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.3
    assert accuracy(method, toy) > 0.85


def test_equal_and_broken_losses_leave_the_labels_alone() -> None:
    toy = blobs(n=40)
    constant = ToyTrain(toy.train.x.zero_(), torch.zeros(40, dtype=torch.int64), 4, jitter=0.0)
    torch.manual_seed(0)
    method = MCorrection(task(constant, epochs=10), start=0.0)
    assert method._track(constant)["weight"].tolist() == pytest.approx([1 - 1e-4] * 40)
    with torch.no_grad():
        next(method.nets.parameters()).fill_(math.nan)
    assert method._track(constant)["weight"].tolist() == pytest.approx([1 - 1e-4] * 40)


@pytest.mark.parametrize(("name", "value"), [("bootstrap", "hart"), ("mixture", "bta"), ("tracking", "evl")])
def test_unknown_options_are_refused(name: str, value: str) -> None:
    with pytest.raises(InputError, match="did you mean"):
        MCorrection(task(blobs(n=8).train), **{name: value})
