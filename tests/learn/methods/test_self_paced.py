"""Self-paced learning: parity with the published closed forms, the sheet's conformance checks, limits."""

import pytest
import torch
import torch.nn.functional as F
from toy import blobs, mlp, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import weighted_mean
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.self_paced import (
    SCHEMES,
    SelfPaced,
    diverse_age,
    growing_age,
    hard_weights,
    linear_weights,
    log_weights,
    mixture_weights,
    weights,
)
from raystudy.learn.ops import moving_average, nearest_rank, spcl_weights


def exact(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * float(b.abs().max()))


def test_closed_forms_parity(parity) -> None:
    z = {key: torch.from_numpy(value) for key, value in parity("self_paced").items()}
    losses, lam, lam1, lam2 = z["losses"], z["lam"], z["lam1"], z["lam2"]
    exact(hard_weights(losses, lam), z["v_hard"])
    exact(hard_weights(losses, lam1), z["v_self_paced_code"])
    exact(linear_weights(losses, lam), z["v_linear"])
    exact(log_weights(z["losses_unit"], float(z["log_lam"])), z["v_log"])
    exact(mixture_weights(losses, z["mix_lam1"], z["mix_lam2"]), z["v_mixture"])
    exact(spcl_weights(losses, lam1, lam2), z["v_spcl"])
    exact(spcl_weights(losses, lam1, lam2), z["v_spcl_code"])
    exact(hard_weights(losses, diverse_age(losses, z["groups"], lam, z["spld_gamma"])), z["v_spld"])


def test_weights_by_hand() -> None:
    losses = torch.tensor([0.5, 1.0, 2.0])
    assert mixture_weights(losses, 2.0, 0.5).tolist() == pytest.approx([1, 1 / 3, 0], abs=1e-6)
    assert linear_weights(losses, 2.0).tolist() == [0.75, 0.5, 0]
    assert hard_weights(losses, 1.0).tolist() == [1, 1, 0]
    assert spcl_weights(losses, 0.7, 1e-9).tolist() == [1, 0, 0]  # lam2 -> 0 is the hard rule
    assert log_weights(torch.tensor([0.0, 0.25, 0.5]), 0.5).tolist() == pytest.approx([1, 0.4150375, 0])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_do_not_depend_on_the_scale_and_fall_with_the_loss(scheme: str) -> None:
    losses, lam = torch.linspace(0, 3, 40), torch.tensor(1.0)
    v = weights(scheme, losses, lam, 0.5)
    torch.testing.assert_close(weights(scheme, 100 * losses, 100 * lam, 0.5), v)
    assert (v.diff() <= 0).all()
    assert v[0] == 1
    assert v[-1] == 0
    assert weights(scheme, torch.zeros(3), torch.tensor(0.0), 1.0).tolist() == [1, 1, 1]


def test_diversity_selects_at_least_as_many_and_gamma_zero_is_the_hard_rule() -> None:
    losses, groups = torch.rand(50, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    torch.testing.assert_close(diverse_age(losses, groups, 0.4, 0.0), torch.full((50,), 0.4))
    plain, diverse = hard_weights(losses, 0.4), hard_weights(losses, diverse_age(losses, groups, 0.4, 0.5))
    assert (diverse >= plain).all()
    assert diverse.sum() > plain.sum()
    # one group, by hand: ranks 2, 1, 3 are given gamma/(sqrt 2 + 1), gamma, gamma/(sqrt 3 + sqrt 2) on top
    age = diverse_age(torch.tensor([0.2, 0.1, 0.3]), torch.zeros(3, dtype=torch.int64), 1.0, 1.0)
    assert age.tolist() == pytest.approx([1.414214, 2.0, 1.317837])


def test_age_schedules() -> None:
    lam0, cap = torch.tensor(1.0), torch.tensor(2.5)
    assert [round(float(growing_age(lam0, 1.3, r, cap)), 3) for r in (0, 1, 3, 9)] == [1, 1.3, 2.197, 2.5]
    m = torch.tensor(torch.nan)
    seen = []
    for q in (2.0, 4.0, torch.nan, 3.0):
        m = moving_average(m, torch.tensor(q), 0.5)
        seen.append(float(m))
    assert seen[:2] == [2.0, 3.0]
    assert seen[3] == 3.0  # a NaN batch is forgotten
    assert float(moving_average(torch.tensor(0.0), torch.tensor(2.0), 0.5)) == 1  # the original's start


def test_the_average_without_memory_keeps_its_percentile_of_every_batch() -> None:
    toy = blobs(n=320)
    torch.manual_seed(0)
    method = SelfPaced(task(toy.train), keep=0.7, update_rate=1.0)
    for log in run(method, toy.train, range(1))[0]:
        assert abs(float(log["weight"].sum()) - 0.7 * 32) <= 1
        assert set(log["weight"].unique().tolist()) == {0.0, 1.0}


def test_rank_keeps_exactly_its_share_and_ramps() -> None:
    toy = blobs(n=40, batch_size=40)
    torch.manual_seed(0)
    method = SelfPaced(task(toy.train, epochs=10), age="rank", keep=0.6, start=1.0, warmup=0.1, ramp=0.4)
    logs = [run(method, toy.train, range(t, t + 1))[0][0] for t in range(8)]
    assert "weight" not in logs[0]  # the warm-up
    assert [int(log["weight"].sum()) for log in logs[1:]] == [40, 36, 32, 28, 24, 24, 24]
    assert method.settled() == pytest.approx(0.5)


def test_growing_age_selects_by_eval_losses_and_stops_at_the_cap() -> None:
    toy = blobs(n=100, batch_size=25)
    torch.manual_seed(0)
    method = SelfPaced(task(toy.train, epochs=20, lr=1e-9), age="growing", start=0.5, keep=0.8, growth=1.3, outer=0.05)
    method.eval()
    losses = F.cross_entropy(method.nets[0](toy.train.x), toy.train.y, reduction="none").detach()
    counts = []
    for t in range(6):
        first, *_ = run(method, toy.train, range(t, t + 1))[0]
        method.eval()
        if t == 0:
            assert torch.equal(first["weight"], hard_weights(losses, nearest_rank(losses, 0.5)))
        counts.append(int(first["weight"].sum()))
    assert abs(counts[0] - 50) <= 1
    assert counts == sorted(counts)
    assert counts[-1] in (80, 81)


def test_selecting_everything_is_cross_entropy() -> None:
    toy = blobs(n=64)
    for hyper in (
        {"warmup": 1.0},
        {"age": "rank", "start": 1.0, "keep": 1.0},
        {"age": "growing", "start": 1.0, "keep": 1.0},
    ):
        torch.manual_seed(0)
        method = SelfPaced(task(toy.train, epochs=2, net=lambda: mlp(8, 4, norm=False)), **hyper)  # type: ignore[arg-type]
        ce = CE(task(toy.train, epochs=2, net=lambda: mlp(8, 4, norm=False)))
        ce.nets.load_state_dict(method.nets.state_dict())
        toy.train.jitter = 0.0  # else growing's pass over the data shifts nothing, but draws would differ
        for m in (method, ce):
            run(m, toy.train, range(2))
        for a, b in zip(method.nets.parameters(), ce.nets.parameters(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_batch_reduction_scales_loss_and_weight_decay_by_the_kept_share(decay: float) -> None:
    losses, v = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])
    w = torch.tensor([2.0, -1.0], requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=1.0, weight_decay=decay)
    weighted_mean(losses * w[0] / 2, v, optimizer, "batch").backward()
    optimizer.step()  # data gradient (3/4)/2 on w[0]; decay of half its strength
    assert w.tolist() == pytest.approx([2 - 0.375 - decay, -1 + 0.5 * decay])
    assert float(weighted_mean(losses, v, optimizer, "selected")) == 1.5
    assert float(weighted_mean(losses, torch.zeros(4), optimizer, "selected")) == 0


def test_weights_are_constants_and_the_rejected_teach_nothing() -> None:
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = SelfPaced(task(toy.train, net=lambda: mlp(8, 4, norm=False)), age="rank", start=0.5)
    net = mlp(8, 4, norm=False)
    net.load_state_dict(method.nets[0].state_dict())
    log = method.step(Batch(torch.arange(32), toy.train.x, toy.train.y), 0)
    kept = log["weight"] > 0
    assert int(kept.sum()) == 16
    loss = F.cross_entropy(net(toy.train.x[kept]), toy.train.y[kept]) * 0.5
    loss.backward()
    for a, b in zip(method.nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach() - 0.05 * b.grad)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("age", ["average", "rank", "growing"])
def test_tells_clean_from_flipped_labels(age, scheme) -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = SelfPaced(task(toy.train, epochs=10), age=age, scheme=scheme, keep=0.6, warmup=0.2, diversity=0.2)
    logs = [log for log in run(method, toy.train, range(10))[-1] if "weight" in log]
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    is_clean = (toy.train.y == toy.clean)[index]
    assert ((weight >= 0) & (weight <= 1)).all()
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.3


def test_wrong_names_are_refused() -> None:
    train = blobs(n=8).train
    for hyper, nearest in (
        ({"age": "ranks"}, "rank"),
        ({"scheme": "liner"}, "linear"),
        ({"reduction": "bach"}, "batch"),
    ):
        with pytest.raises(InputError, match=f"did you mean '{nearest}'"):
            SelfPaced(task(train), **hyper)  # type: ignore[arg-type]
