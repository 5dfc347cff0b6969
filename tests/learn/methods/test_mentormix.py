"""MentorMix: parity with the original's steps, the sheet's conformance checks, limits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from toy import blobs, mlp, run, task

from raystudy.data.batch import Batch
from raystudy.design import space
from raystudy.errors import InputError
from raystudy.learn.methods.mentormix import (
    MentorMix,
    average_decay,
    draw_partners,
    mentor_weights,
    mixing_coefficients,
    partner_probs,
)
from raystudy.learn.ops import mix, moving_average, nearest_rank
from raystudy.learn.recipe import Recipe


def exact(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * max(float(b.abs().max()), 1e-30))


@pytest.fixture(scope="module")
def z(parity) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("mentormix").items()}


def test_first_weighting_parity(z) -> None:
    losses = F.cross_entropy(z["logits"], z["labels"], reduction="none")
    exact(losses, z["losses"])
    q = nearest_rank(losses, float(z["percentile"]))
    m1 = moving_average(z["m1_before"], q, 1 - float(z["decay"]))
    exact(q, z["percentile_loss1"])
    exact(m1, z["m1_after"])
    exact(mentor_weights("pd", losses, m1, int(z["epoch"])), z["v_pd"])
    exact(mentor_weights("threshold", losses, m1, int(z["epoch"])), z["v_threshold_average"])
    batch_only = moving_average(z["m1_before"], q, 1.0)
    exact(mentor_weights("threshold", losses, batch_only, int(z["epoch"])), z["v_threshold_batch"])


@pytest.mark.parametrize(("key", "v"), [("pd", "v_pd"), ("given", "v_given")])
def test_mixing_and_second_weighting_parity(z, key: str, v: str) -> None:
    w, draws = z[v], z["beta_draw"]
    exact(partner_probs(w), z[f"{key}_partner_probs"])
    exact(mixing_coefficients(draws, torch.ones_like(w)), z[f"{key}_lam_max"])
    exact(mixing_coefficients(draws, w, "soft"), z[f"{key}_lam_soft_rule"])
    lam = mixing_coefficients(draws, w)
    exact(lam, z[f"{key}_lam"])
    targets = F.one_hot(z["labels"], int(z["num_class"])).double()
    x, q = mix(z["x"], targets, lam, z[f"{key}_partner"])
    exact(x, z[f"{key}_x_mixed"])
    exact(q, z[f"{key}_y_mixed"])

    logits = z["logits_mixed"].clone().requires_grad_()
    mixed = F.cross_entropy(logits, q, reduction="none")
    exact(mixed.detach(), z[f"{key}_losses_mixed"])
    exact(mixed.mean().detach(), z[f"{key}_loss"])
    exact(torch.autograd.grad(mixed.mean(), logits, retain_graph=True)[0], z[f"{key}_grad_logits"])

    q2 = nearest_rank(mixed.detach(), float(z["percentile"]))
    m2 = moving_average(z["m2_before"], q2, 1 - float(z["decay"]))
    exact(q2, z[f"{key}_percentile_loss2"])
    exact(m2, z[f"{key}_m2_after"])
    v2 = mentor_weights("pd", mixed.detach(), m2, int(z["epoch"]))
    exact(v2, z[f"{key}_v2_pd"])
    loss = (v2 * mixed).mean()
    exact(loss.detach(), z[f"{key}_loss_reweighted"])
    exact(torch.autograd.grad(loss, logits)[0], z[f"{key}_grad_logits_reweighted"])


def test_partner_probabilities_and_draws() -> None:
    probs = partner_probs(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    assert probs.tolist() == pytest.approx([0.36553, 0.36553, 0.13447, 0.13447], abs=1e-5)
    torch.testing.assert_close(partner_probs(torch.ones(5)), torch.full((5,), 0.2))
    assert partner_probs(torch.tensor([1.0, 0.0]), 0.01).tolist() == pytest.approx([1, 0])
    edges = torch.tensor([0.0, 0.3, 0.37, 0.74, 0.999999999])
    assert draw_partners(probs, edges).tolist() == [0, 0, 1, 2, 3]
    torch.manual_seed(0)
    share = draw_partners(probs, torch.rand(40_000)).bincount(minlength=4) / 40_000
    torch.testing.assert_close(share, probs, rtol=0, atol=0.01)


def test_mixing_coefficients_by_hand() -> None:
    draws, v = torch.tensor([0.2, 0.9, 0.2, 0.9]), torch.tensor([1.0, 0.5, 0.49, 0.0])
    assert mixing_coefficients(draws, v).tolist() == pytest.approx([0.8, 0.9, 0.2, 0.1])
    assert mixing_coefficients(draws, v, "soft").tolist() == pytest.approx([0.8, 0.5, 0.494, 0.1])
    binary = torch.tensor([1.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(mixing_coefficients(draws, binary), mixing_coefficients(draws, binary, "soft"))


def test_average_decay_by_hand() -> None:
    assert [average_decay(0.9999, t) for t in (0, 8, 10**6)] == [0.1, 0.5, 0.9999]
    assert average_decay(0.0, 5) == 0


def method_for(toy, epochs: int = 10, **hyper) -> MentorMix:
    torch.manual_seed(0)
    return MentorMix(task(toy.train, epochs=epochs), **hyper)


def test_only_the_mixed_pass_moves_the_running_statistics() -> None:
    toy = blobs(n=32, batch_size=32)
    method = method_for(toy)
    method.train()
    net = method.nets[0]
    before = [b.clone() for b in net.buffers()]
    logits = method._logits_apart(toy.train.x)
    assert all(torch.equal(a, b) for a, b in zip(net.buffers(), before, strict=True))
    torch.testing.assert_close(logits, copy.deepcopy(net)(toy.train.x))  # on the statistics of the batch
    method.step(Batch(torch.arange(32), toy.train.x, toy.train.y), 0)
    assert not all(torch.equal(a, b) for a, b in zip(net.buffers(), before, strict=True))


def test_evaluates_averaged_weights_with_the_raw_statistics() -> None:
    toy = blobs(n=64)
    method = method_for(toy)
    start = [p.clone() for p in method.average.parameters()]
    run(method, toy.train, range(1))
    for mine, theirs in zip(method.average.buffers(), method.nets[0].buffers(), strict=True):
        assert torch.equal(mine, theirs)
    raw = list(method.nets[0].parameters())
    # two updates: .1 old + .9 new, then 2/11 old; so far from the start and near, but not at, the raw weights
    assert not torch.equal(method.average[1].weight, method.nets[0][1].weight)
    far = sum(float((a - b).norm()) for a, b in zip(method.average.parameters(), start, strict=True))
    near = sum(float((a - b.detach()).norm()) for a, b in zip(method.average.parameters(), raw, strict=True))
    assert near < far
    method.eval()
    torch.testing.assert_close(method.probs(toy.test_x), method.average(toy.test_x).softmax(1))
    raw_only = method_for(toy, ema=0.0)
    run(raw_only, toy.train, range(1))
    raw_only.eval()
    torch.testing.assert_close(raw_only.probs(toy.test_x), raw_only.nets[0](toy.test_x).softmax(1))
    assert not any(p.requires_grad for p in method.average.parameters())


class Recorder(torch.nn.Module):
    """A net that keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(4))
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return self.bias.expand(len(x), -1) + 0 * x.flatten(1)[:, :4]


def test_burn_in_is_mixup_with_the_larger_coefficient_on_ones_own_image() -> None:
    """Images that are unit vectors show lambda in their own coordinate."""
    n = 12
    toy = blobs(n=n, dim=n, batch_size=n)
    torch.manual_seed(0)
    method = MentorMix(task(toy.train, epochs=10, net=Recorder), alpha=4.0, second_reweight=True)
    log = method.step(Batch(torch.arange(n), torch.eye(n).view(n, 1, 1, n), toy.train.y), 0)
    assert "weight" not in log
    assert float(log["trusted"]) == 1
    _, mixed = method.nets[0].seen
    lam = mixed.view(n, n).diagonal()
    assert (lam >= 0.5).all()
    assert lam.std() > 0.01  # one per sample
    torch.testing.assert_close(mixed.view(n, n).sum(1), torch.ones(n))
    assert float(log["loss"]) == pytest.approx(torch.tensor(4.0).log().item())  # all weights of the second pass are 1


def test_second_weighting_is_computed_only_where_asked_for_and_the_averages_part() -> None:
    toy = blobs(n=128)
    off, on = method_for(toy, second_reweight=False), method_for(toy, second_reweight=True)
    run(off, toy.train, range(3, 5))
    run(on, toy.train, range(3, 5))
    assert bool(off.m2.isnan())
    assert abs(float(on.m1 - on.m2)) > 0.01


def test_burn_in_follows_the_budget() -> None:
    toy = blobs(n=32, batch_size=32)
    for hyper, first in (
        ({}, 4),
        ({"mentor": "threshold"}, 2),
        ({"burn_in": 0.3}, 6),
        ({"mentor": "threshold", "burn_in": 0.0}, 0),
    ):
        method = method_for(toy, epochs=20, **hyper)
        told = ["weight" in run(method, toy.train, range(t, t + 1))[0][0] for t in range(8)]
        assert told.index(True) == first


def test_published_schedule_and_points() -> None:
    loaded = space.load("mentormix")
    recipe = Recipe(**{k: v for k, v in loaded.recipe.items() if k not in space.BESIDE})
    assert [recipe.rate(e, 512) for e in (29, 30, 511)] == pytest.approx([0.1, 0.09, 0.1 * 0.9**17])
    assert all(("weight_decay" in row.point) == row.point["second_reweight"] for row in loaded.papers)


@pytest.mark.parametrize("mentor", ["pd", "threshold"])
@pytest.mark.parametrize("second_reweight", [False, True])
def test_tells_clean_from_flipped_labels(mentor, second_reweight: bool) -> None:
    toy = blobs(n=400, rate=0.4)
    method = method_for(toy, 12, mentor=mentor, second_reweight=second_reweight, alpha=2.0, keep=0.65)
    logs = run(method, toy.train, range(10))[-1]
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    is_clean = (toy.train.y == toy.clean)[index]
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.4


def test_last_batch_of_one_image() -> None:
    toy = blobs(n=33)
    torch.manual_seed(0)
    method = MentorMix(task(toy.train, epochs=4, net=lambda: mlp(8, 4)))
    assert all(bool(log["loss"].isfinite()) for epoch in run(method, toy.train, range(4)) for log in epoch)


def test_wrong_names_are_refused() -> None:
    train = blobs(n=8).train
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        MentorMix(task(train), mentor="treshold")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="did you mean 'soft'"):
        MentorMix(task(train), lam_rule="softer")  # type: ignore[arg-type]
