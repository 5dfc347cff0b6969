"""MentorNet PD: parity with the original's rules, the sheet's conformance checks, limits."""

import pytest
import torch
import torch.nn.functional as F
from toy import blobs, mlp, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.losses import weighted_mean
from raystudy.learn.methods.mentornet_pd import CURRICULA, MentorNetPD, curriculum_weights, example_mask
from raystudy.learn.ops import moving_average, nearest_rank, pd_weights, progress


def exact(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * max(float(b.abs().max()), 1e-30))


@pytest.fixture(scope="module")
def z(parity) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("mentornet").items()}


def test_features_parity(z) -> None:
    m = torch.zeros((), dtype=torch.float64)
    for s, losses in enumerate(z["losses"]):
        q = nearest_rank(losses, float(z["percentile"]))
        m = moving_average(m, q, 1 - float(z["decay"]))
        exact(q, z["percentile_losses"][s])
        exact(m, z["moving_average"][s])
        e = z["epochs"][s].double().expand(len(losses))
        exact(torch.stack([losses, losses - m, torch.zeros_like(losses), e], 1), z["features"][s])


@pytest.mark.parametrize(
    ("key", "curriculum", "gamma"),
    [
        ("v_pd_gamma1", "pd", 1.0),
        ("v_pd_gamma", "pd", None),
        ("v_self_paced", "self_paced", 1.0),
        ("v_spcl_linear_gamma1", "spcl_linear", 1.0),
        ("v_spcl_linear_gamma", "spcl_linear", None),
        ("v_focal_gamma2", "focal", 2.0),
        ("v_focal_gamma", "focal", None),
        ("v_hard_mining", "hard_mining", 1.0),
    ],
)
def test_curricula_parity(z, key: str, curriculum: str, gamma: float | None) -> None:
    gamma = float(z["gamma"]) if gamma is None else gamma
    for s, features in enumerate(z["features"]):
        losses, diff, e = features[:, 0], features[:, 1], int(features[0, 3])
        exact(curriculum_weights(curriculum, losses, diff, e, gamma), z[key][s])


def test_weighted_loss_and_progress_parity(z) -> None:
    w = torch.ones(1, dtype=torch.float64, requires_grad=True)
    for s, losses in enumerate(z["losses"]):
        v = z["v_pd_gamma1"][s]
        plain, decayed = torch.optim.SGD([w]), torch.optim.SGD([w], weight_decay=2.0)
        loss = weighted_mean(losses, v, plain, "batch")
        exact(loss, z["weighted_loss"][s])
        # the optimizer's own decay is 2 w; what the loss takes back leaves the published share of it
        (surplus,) = torch.autograd.grad(weighted_mean(losses, v, decayed, "batch"), w)
        exact((2 * w.detach() + surplus).squeeze() / 2, z["weight_decay_scale"][s])
    steps, total = z["progress_steps"].tolist(), int(z["progress_max_steps"])
    assert [progress(t, total) for t in steps] == z["progress_epoch"].tolist()


def test_pd_rule_by_hand() -> None:
    diff = torch.tensor([-0.1, 0.1, 0.25, 2.0])
    assert pd_weights(diff, 10).tolist() == [1, 1, 1, 1]
    assert pd_weights(diff, 18).tolist() == [1, 1, 1, 1]
    assert pd_weights(diff, 19).tolist() == [1, 0, 0, 0]
    assert pd_weights(diff, 89).tolist() == [1, 0, 0, 0]
    assert pd_weights(diff, 90).tolist() == pytest.approx([1, 0.9, 0.75, 0])
    assert pd_weights(diff, 0, burn_in=0.0).tolist() == [1, 0, 0, 0]
    assert pd_weights(diff, 99, linear_from=1.0).tolist() == [1, 0, 0, 0]


def test_nearest_rank_and_average_by_hand() -> None:
    losses = torch.tensor([3.0, 1.0, 4.0, 2.0, 5.0])
    assert [float(nearest_rank(losses, p)) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1, 2, 3, 4, 5]
    assert float(nearest_rank(torch.tensor([7.0]), 0.7)) == 7
    m, seen = torch.tensor(0.0), []
    for _ in range(3):
        m = moving_average(m, torch.tensor(2.0), 0.5)
        seen.append(float(m))
    assert seen == [1, 1.5, 1.75]


def test_example_dropout_keeps_exactly_its_share() -> None:
    torch.manual_seed(0)
    assert int(example_mask(128, 0.5, torch.device("cpu")).sum()) == 64
    assert int(example_mask(128, 0.05, torch.device("cpu")).sum()) == 121
    assert int(example_mask(1, 0.5, torch.device("cpu")).sum()) == 1
    assert not torch.equal(example_mask(128, 0.5, torch.device("cpu")), example_mask(128, 0.5, torch.device("cpu")))


def test_one_step_is_the_gradient_of_the_weighted_mean_over_the_batch() -> None:
    toy = blobs(n=32, batch_size=32)
    torch.manual_seed(0)
    method = MentorNetPD(task(toy.train, net=lambda: mlp(8, 4, norm=False)), late_dropout=0.0, update_rate=1.0)
    net = mlp(8, 4, norm=False)
    net.load_state_dict(method.nets[0].state_dict())
    log = method.step(Batch(torch.arange(32), toy.train.x, toy.train.y), 5)
    losses = F.cross_entropy(net(toy.train.x), toy.train.y, reduction="none")
    v = (losses <= nearest_rank(losses, 0.7)).float().detach()
    assert 20 < int(v.sum()) < 25
    assert torch.equal(log["weight"], v)
    (v * losses).sum().div(32).backward()
    for a, b in zip(method.nets[0].parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a.detach(), b.detach() - 0.05 * b.grad)


def test_phases_follow_the_budget() -> None:
    toy = blobs(n=64, batch_size=64)
    torch.manual_seed(0)
    method = MentorNetPD(task(toy.train, epochs=20))
    logs = [run(method, toy.train, range(t, t + 1))[0][0] for t in range(20)]
    assert ["weight" in log for log in logs] == [False] * 4 + [True] * 16  # 0, 5, 10, 15 | 20 ... percent
    assert set(logs[17]["weight"].unique().tolist()) == {0.0, 1.0}  # 85 %
    assert ((logs[18]["weight"] > 0) & (logs[18]["weight"] < 1)).any()  # 90 %: linear
    assert method.settled() == 0.19


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_tells_clean_from_flipped_labels(curriculum) -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = MentorNetPD(task(toy.train, epochs=12), curriculum=curriculum, keep=0.65)
    logs = run(method, toy.train, range(9))[-1]
    index, weight = torch.cat([log["index"] for log in logs]), torch.cat([log["weight"] for log in logs])
    is_clean = (toy.train.y == toy.clean)[index]
    difference = weight[is_clean].mean() - weight[~is_clean].mean()
    prefers_hard = curriculum in ("focal", "hard_mining")
    assert (-difference if prefers_hard else difference) > 0.25
    assert bool(((weight >= 0) & (weight <= 1)).all())


def test_an_unknown_curriculum_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'self_paced'"):
        MentorNetPD(task(blobs(n=8).train), curriculum="selfpaced")  # type: ignore[arg-type]
