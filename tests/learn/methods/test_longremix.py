"""LongReMix: parity with the original code, streaks and the choice of the set by hand, both stages, resume across the restart."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy import accuracy, blobs, run, task

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.errors import InputError
from raystudy.learn.losses import prior_penalty
from raystudy.learn.methods.dividemix import co_guess, co_refine, epoch_progress, ramp, semi_loss
from raystudy.learn.methods.longremix import LongReMix, newest_largest, rate_factor, streak
from raystudy.learn.ops import gmm_1d, mix, normalise_losses


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("longremix").items()}


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max().clamp_min(1e-9)))


def members(flags: Tensor) -> set[int]:
    return set(flags.nonzero().flatten().tolist())


# --- parity -----------------------------------------------------------------------------------------------------


def posteriors(z: dict[str, Tensor], losses: Tensor) -> Tensor:
    window = int(z["loss_history"])
    keys = ("max_iter", "tol", "reg_covar")
    how = {key: float(z[f"gmm_{key}"]) for key in keys} | {"max_iter": int(z["gmm_max_iter"])}
    return torch.stack(
        [gmm_1d(losses[max(e + 1 - window, 0) : e + 1].mean(0), **how).posterior for e in range(len(losses))]
    )


def test_posteriors_and_streaks_parity(z) -> None:
    warm, n, threshold = int(z["warm_up"]), int(z["num_clean"]), float(z["p_threshold"])
    losses = [
        torch.stack(
            [normalise_losses(F.cross_entropy(row, z["labels"], reduction="none")) for row in z[f"logits_net{i}"]]
        )
        for i in (1, 2)
    ]
    published = torch.cat([losses[0][:warm], losses[1][warm:]])  # the warm-up of net 2 repeats net 1
    close(losses[0], z["losses_norm1"])
    close(published, z["losses_norm2_published"])
    found = {
        "1": posteriors(z, losses[0]),
        "2_published": posteriors(z, published),
        "2_plain": posteriors(z, losses[1]),
    }
    for name, w in found.items():
        close(w, z[f"prob_clean{name}"], 1e-6)
        flags = w > threshold
        if f"gmm_flags{name}" in z:
            assert torch.equal(flags.long(), z[f"gmm_flags{name}"])
        sets = torch.stack([streak(flags[: e + 1], n) for e in range(warm, len(flags))])
        assert torch.equal(sets.long(), z[f"hcs_flags{name}"])
        alone = torch.stack([streak(flags[: e + 1], 1) for e in range(warm, len(flags))])
        assert torch.equal(alone, flags[warm:])  # n = 1 is the split itself
        assert not (sets & ~alone).any()
    differ = (z["hcs_flags2_published"] != z["hcs_flags2_plain"]).any(1).nonzero().flatten()
    assert all(
        e < n - 1 + int(z["loss_history"]) - 1 for e in differ.tolist()
    )  # the slip of the warm-up is soon forgotten
    assert int(z["loss_history"]) == (5 if float(z["noise_rate"]) == 0.9 else 1)
    assert torch.equal(z["train_mask_net1"], z["hcs_flags2_published"])
    assert torch.equal(z["train_mask_net2"], z["hcs_flags1"])


def test_choice_parity(z) -> None:
    sizes = z["hcs_flags1"].sum(1)
    assert torch.equal(sizes, z["hcs_sizes"])
    back = newest_largest(sizes.tolist(), int(z["hcs_window"]))
    assert back == int(z["hcs_choice_from_end"])
    assert members(z["hcs_flags1"][-back]) == set(z["hcs_idx"].tolist())
    ties = z["tie_sizes"].tolist()
    assert newest_largest(ties, len(ties)) == int(z["tie_choice_from_end"])


def test_stage_2_parity(z) -> None:
    certain = torch.zeros(len(z["labels"]), dtype=torch.bool)
    certain[z["hcs_idx"]] = True
    for i in (1, 2):
        w = z[f"stage2_prob{i}_before"].masked_fill(certain, 1.0)
        close(w, z[f"stage2_prob{i}"])
        assert members(w > float(z["p_threshold"])) == set(z[f"stage2_labeled_by_net{i}"].tolist())


def test_steps_parity(z) -> None:
    n_x, n_u, size = int(z["iter_labeled"]), int(z["iter_unlabeled"]), int(z["batch_size"])
    e, steps = int(z["iter_epoch"]), (n_x + n_u) // size + 1
    assert steps == int(z["iter_count"])
    at = [epoch_progress(e, step, n_x, size) for step in range(steps)]
    assert at == pytest.approx(z["iter_epoch_fraction"].tolist())
    weights = [float(z["lambda_u"]) * ramp(p, float(z["warm_up"]), float(z["rampup_length"])) for p in at]
    assert weights == pytest.approx(z["iter_lambda_u"].tolist())
    one_pass = -(-n_x // size)
    assert one_pass == int(z["iter_count_stage1"])
    assert [epoch_progress(e, step, n_x, size) for step in range(one_pass)] == pytest.approx(
        z["iter_epoch_fraction_stage1"].tolist()
    )


def test_step_parity(z) -> None:
    temperature, y = float(z["T"]), F.one_hot(z["labels_x"], int(z["num_class"])).double()
    w = z["w_x"].flatten()
    guesses = [z[f"logits_u_net{net}_view{view}"] for net in (1, 2) for view in (1, 2)]
    q_u = co_guess(guesses, temperature)
    q_x = co_refine(y, w, (z["logits_x_view1"].softmax(1) + z["logits_x_view2"].softmax(1)) / 2, temperature)
    close(q_u, z["targets_u"])
    close(q_x, z["targets_x"])
    torch.testing.assert_close(q_x[w == 1], y[w == 1])  # certain: exactly the given label
    images = torch.cat([z[f"inputs_{name}"] for name in ("x1", "x2", "u1", "u2")])
    lam = max(float(z["lam_raw"]), 1 - float(z["lam_raw"]))
    images, targets = mix(images, torch.cat([q_x, q_x, q_u, q_u]), lam, z["perm"])
    close(images, z["mixed_inputs"])
    close(targets, z["mixed_targets"])
    logits = z["logits_mixed"].clone().requires_grad_()
    loss_x, loss_u = semi_loss(logits, targets, 2 * len(y))
    weight = float(z["lambda_u"]) * ramp(float(z["epoch_fraction"]), float(z["warm_up"]), float(z["rampup_length"]))
    assert weight == pytest.approx(float(z["lambda_u_ramped"]))
    loss = loss_x + weight * loss_u + prior_penalty(logits)
    loss.backward()
    for ours, name in ((loss_x, "Lx"), (loss_u, "Lu"), (prior_penalty(logits), "prior_penalty"), (loss, "loss")):
        close(ours.detach(), z[name])
    close(logits.grad, z["grad_logits_mixed"])


def test_learning_rate_parity(z) -> None:
    """Where the rates fall is read off the file; where they fall as published, see ``test_the_published_drops``."""
    lr = float(z["lr0"])
    for name in ("stage1", "stage2", "stage1_red", "stage2_red"):
        theirs = z[f"lr_{name}"].tolist()
        epochs = len(theirs) - 1
        drops = tuple((e - 0.5) / epochs for e in range(1, epochs) if theirs[e] < theirs[e - 1])
        assert bool(drops) == name.startswith("stage2")  # stage 1 keeps its rate
        assert [lr * rate_factor(e, epochs, drops) for e in range(epochs)] == pytest.approx(theirs[:-1])


# --- by hand ----------------------------------------------------------------------------------------------------


def test_the_published_drops() -> None:
    """The rate falls at 150 of the 300 epochs of stage 2, of CNWL at 200 and at 250, and never in stage 1."""
    assert small()[0].drops == ((), (0.5, 1.0))
    assert [rate_factor(e, 300, (0.5, 1.0)) for e in (0, 149, 150, 299)] == pytest.approx([1, 1, 0.1, 0.1])
    point, _, _ = space.load("longremix").paper("cnwl_mini_imagenet", Noise("web", 0.4, "red"))
    drops = point["drop"], point["second_drop"]
    factors = [rate_factor(e, 300, drops) for e in (0, 199, 200, 249, 250, 299)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert point["stage1_drop"] is False


def test_streaks_by_hand() -> None:
    flags = torch.tensor([[0, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]]).bool()
    assert streak(flags, 1).tolist() == [True, True, True, False]
    assert streak(flags, 2).tolist() == [True, True, False, False]
    assert streak(flags, 9).tolist() == [False, True, False, False]


def test_the_choice_by_hand() -> None:
    assert newest_largest([9, 3, 5, 5, 1], 4) == 2  # 9 lies before the window, of the fives the newer
    assert newest_largest([9, 3, 5, 5, 1], 5) == 5
    assert newest_largest([1], 5) == 1


# --- the method -------------------------------------------------------------------------------------------------


def small(epochs: int = 12, **hyper) -> tuple[LongReMix, object]:
    toy = blobs(n=100, batch_size=16, rate=0.3)
    torch.manual_seed(0)
    return LongReMix(task(toy.train, epochs=epochs), **hyper), toy


def test_stages_and_their_steps() -> None:
    method, toy = small(n_streak=2, warmup=0.2)
    logs = run(method, toy.train, range(12))
    assert method.stage1_epochs == 6
    assert all("weight" not in log for log in logs[0])
    assert "certain" not in logs[2][0]
    assert "certain" in logs[8][0]
    assert len(logs[8]) == 1 + 2 * (100 // 16 + 1)  # N // B + 1 for each net
    assert int(method.certain.sum()) == int(method.certain_size) > 0
    w = logs[8][0]["weight"]
    assert (w[method.certain] == 1).all()


def test_the_rate_begins_anew() -> None:
    method, toy = small(warmup=0.2, drop=0.5)
    rates = []
    for t in range(12):
        for group in (g for o in method.optimizers for g in o.param_groups):
            group["lr"] = 99.0  # what the recipe says is not used
        run(method, toy.train, range(t, t + 1))
        rates.append(method.optimizers[0].param_groups[0]["lr"])
    assert rates == pytest.approx([0.05] * 6 + [0.05] * 3 + [0.005] * 3)


def test_stage_2_starts_from_networks_that_have_not_trained() -> None:
    method, toy = small()
    before = copy.deepcopy(method.stages[1].state_dict())
    run(method, toy.train, range(6))
    for name, value in method.stages[1].state_dict().items():
        assert torch.equal(value, before[name])
    first = method.probs(toy.test_x)
    run(method, toy.train, range(6, 7))
    assert not torch.equal(method.probs(toy.test_x), first)
    method.eval()
    torch.testing.assert_close(method.probs(toy.test_x), method.stages[1].probs(toy.test_x))


def test_nothing_labelled_trains_on_everything() -> None:
    method, toy = small(p_threshold=1.0)
    logs = run(method, toy.train, range(8))
    assert sum(log["passes"] for log in logs[3][1:]) == 2 * 3 * 100
    assert int(method.certain.sum()) == 0


def test_one_epoch_and_two_are_possible() -> None:
    for epochs in (1, 2):
        method, toy = small(epochs=epochs)
        run(method, toy.train, range(epochs))
        assert method.probs(toy.test_x).shape == (400, 4)


def test_refuses_a_stage_of_nothing() -> None:
    with pytest.raises(InputError, match=r"stage1=0, .*in \(0, 1\)"):
        small(stage1=0.0)
    with pytest.raises(InputError, match="largest"):
        small(choice="biggest")


def test_resumed_across_the_restart_is_the_same_run() -> None:
    whole, toy = small(n_streak=2, warmup=0.2)
    run(whole, toy.train, range(8))
    first, _ = small(n_streak=2, warmup=0.2)
    run(first, toy.train, range(5))
    again, _ = small(n_streak=2, warmup=0.2)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for mine, saved in zip(again.optimizers, first.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(saved.state_dict()))
    run(again, toy.train, range(5, 8))
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_learns_and_tells_clean_from_flipped() -> None:
    toy = blobs(n=400, rate=0.5, spread=0.8)
    torch.manual_seed(0)
    method = LongReMix(task(toy.train, epochs=24), warmup=0.15, n_streak=3)
    weight = run(method, toy.train, range(24))[-1][0]["weight"]
    is_clean = toy.train.y == toy.clean
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.5
    assert accuracy(method, toy) > 0.75
