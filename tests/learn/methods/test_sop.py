"""SOP and SOP+: parity with the original code, hand-computed values, limits, what the state comes to stand for."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import accuracy, blobs, run, task

from raystudy.data.augment import cutout
from raystudy.data.batch import Batch
from raystudy.data.noise import CLASS_MAPS, map_matrix
from raystudy.errors import InputError
from raystudy.learn.losses import kl_rows
from raystudy.learn.methods import sop
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.sop import SOP, Corrections, corrected, corrections, grown, sop_terms, stands_for
from raystudy.learn.methods.sop_plus import SOPPlus
from raystudy.learn.recipe import Recipe


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in parity("sop").items()}


@pytest.fixture(autouse=True)
def their_floor(z, monkeypatch) -> None:
    monkeypatch.setattr(sop, "CLAMP", float(z["eps"]))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


def rows_of(z: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    index = z["index"]
    u, v = z["u"][index].requires_grad_(), z["v"][index].requires_grad_()
    return z["logits1"].clone().requires_grad_(), z["labels"], u, v


def scattered(z: dict[str, Tensor], name: str, rows: Tensor | None) -> Tensor:
    """Gradients of a batch's rows in the place they have in the whole state."""
    out = torch.zeros_like(z[name])
    return out if rows is None else out.index_copy(0, z["index"], rows)


# --- parity


def test_state_and_prediction_parity(z) -> None:
    logits, y, u, v = rows_of(z)
    plus, minus = corrections(u, v, y)
    assert logits.shape == (int(z["batch"]), int(z["num_class"]))
    close(plus.detach(), z["U_square"])
    close(minus.detach(), z["V_square"])
    close((plus - minus).detach(), z["E"])
    close((logits.softmax(1) + plus - minus).detach(), z["prediction_raw"])
    close(corrected(logits, plus, minus).detach(), z["prediction"])
    close(F.one_hot(logits.argmax(1), logits.shape[1]).double(), z["hard_prediction"].double())
    assert stands_for(u, v, y).argmax(1).tolist() == z["corrected_label"].tolist()


@pytest.mark.parametrize("case", ["sop", "bal", "con", "plus"])
def test_loss_parity(z, case: str) -> None:
    logits, y, u, v = rows_of(z)
    strong = z["logits2"].clone().requires_grad_()
    terms = sop_terms(logits, y, u, v)
    agreement = kl_rows(logits.detach(), strong)
    balance = float(z["ratio_balance"]) if case in ("bal", "plus") else 0.0
    consistency = float(z["ratio_consistency"]) if case in ("con", "plus") else 0.0
    loss = terms.label + terms.square + balance * terms.balance + consistency * agreement.mean()
    loss.backward()
    close(loss.detach(), z[f"loss_{case}"])
    close(logits.grad, z[f"grad_logits1_{case}"])
    close(scattered(z, "u", u.grad), z[f"grad_u_{case}"])
    close(scattered(z, "v", v.grad), z[f"grad_v_{case}"])
    if consistency:
        close(strong.grad, z[f"grad_logits2_{case}"])
        close(agreement.detach(), z["consistency_per_sample"])
        close(agreement.mean().detach(), z["consistency_term"])


def test_parts_parity(z) -> None:
    logits, y, u, v = rows_of(z)
    terms = sop_terms(logits, y, u, v)
    for name, term in (("ce_term", terms.label), ("mse_term", terms.square), ("balance_term", terms.balance)):
        close(term.detach(), z[name])
    by_label = torch.autograd.grad(terms.label, (logits, u, v), retain_graph=True, allow_unused=True)
    by_square = torch.autograd.grad(terms.square, (logits, u, v), allow_unused=True)
    close(by_label[0], z["grad_logits1_ce"])
    close(scattered(z, "u", by_label[1]), z["grad_u_ce"])
    assert by_label[2] is None or not by_label[2].any()
    assert by_square[0] is None or not by_square[0].any()
    close(scattered(z, "u", by_square[1]), z["grad_u_mse"])
    close(scattered(z, "v", by_square[2]), z["grad_v_mse"])


def state_of(u: Tensor, v: Tensor, lr_u: float, lr_v: float, batch: int, variant: str = "code") -> Corrections:
    """A state at given values, whose rates are those of the mean over ``batch`` rows."""
    told = SimpleNamespace(n=len(v), n_classes=v.shape[1])
    scale = sop.BATCH / batch
    state = Corrections(told, lr_u * scale, lr_v * scale, 1.0, variant, torch.device("cpu")).double()  # type: ignore[arg-type]
    state.u.copy_(u)
    state.v.copy_(v)
    return state


@pytest.mark.parametrize(
    ("suffix", "rates", "variant"), [("a", "a", "code"), ("b", "b", "code"), ("paper", "b", "paper")]
)
def test_growth_parity(z, suffix: str, rates: str, variant: str) -> None:
    """Forty visits with fixed logits: rows that contradict their label grow, some past 1, where they stay."""
    logits, y = z["growth_logits"], z["growth_labels"]
    lr_u, lr_v = float(z[f"growth_lr_u_{rates}"]), float(z[f"growth_lr_v_{rates}"])
    state = state_of(z["growth_u0"], z["growth_v0"], lr_u, lr_v, len(y), variant)
    index = torch.arange(len(y))
    for s in range(int(z["growth_steps"])):
        u, v = state.rows(index)
        terms = sop_terms(logits, y, u, v, variant)  # type: ignore[arg-type]
        loss = terms.label + terms.square
        loss.backward()
        state.step(index, u, v)
        if variant == "code":
            close(loss.detach(), z[f"growth_loss_{suffix}"][s])
        close(state.u[:, 0], z[f"growth_u_{suffix}"][s])
        close(state.v, z[f"growth_v_{suffix}"][s])


@pytest.mark.parametrize("case", ["sop", "plus"])
def test_the_steps_of_the_methods_parity(z, case: str) -> None:
    """The classes on top, over epochs: network, u and v after each step."""
    x1, x2, y, order = (z[f"steps_{case}_{name}"] for name in ("x1", "x2", "labels", "order"))
    n, k = z[f"steps_{case}_v0"].shape
    toy = blobs(n=n, n_classes=k)
    net = nn.Linear(x1.shape[1], k, bias=False)
    rates = {"lr_u": float(z["steps_lr_u"]), "lr_v": float(z["steps_lr_v"]), "lr_epochs": 0}
    rates = {name: rate * sop.BATCH / order.shape[2] for name, rate in rates.items()}
    rates["lr_epochs"] = 0
    built = task(toy.train, net=lambda: net)
    if case == "sop":
        method: SOP | SOPPlus = SOP(built, **rates)
    else:
        weights = {"consistency": float(z["ratio_consistency"]), "balance": float(z["ratio_balance"])}
        method = SOPPlus(built, **rates, **weights)
    method.double()
    with torch.no_grad():
        net.weight.copy_(z[f"steps_{case}_W0"])
        method.state.u.copy_(z[f"steps_{case}_u0"])
        method.state.v.copy_(z[f"steps_{case}_v0"])
    momentum, decay = float(z["steps_momentum"]), float(z["steps_weight_decay"])
    method.optimizers[0] = torch.optim.SGD(net.parameters(), 1.0, momentum=momentum, weight_decay=decay)
    for s, index in enumerate(order.flatten(0, 1)):
        method.optimizers[0].param_groups[0]["lr"] = float(z[f"steps_{case}_lr"][s])
        log = method.step(Batch(index, x1[index], y[index], x2[index] if case == "plus" else None), s)
        close(log["loss"], z[f"steps_{case}_loss"][s])
        close(net.weight.detach(), z[f"steps_{case}_W"][s])
        close(method.state.u[:, 0], z[f"steps_{case}_u"][s])
        close(method.state.v, z[f"steps_{case}_v"][s])


def test_the_rates_of_sop_plus_parity(z) -> None:
    """Theirs falls along a cosine to a floor; ours to 0, else the same."""
    lr, floor, n = float(z["steps_lr"]), float(z["steps_eta_min"]), int(z["steps_T_max"])
    ours = Recipe(lr=lr, schedule="cosine")
    told = [floor + (1 - floor / lr) * ours.rate(t, n) for t in range(n)]
    assert told == pytest.approx(z["lr_table"].tolist())


def test_noise_parity(z) -> None:
    """What the card says of their noise: true classes are drawn again, cats are turned back, one pair in each block is swapped."""

    def share(rate: Tensor, n: int) -> int:
        return sum(i < float(rate) * n for i in range(n))

    changed, n = z["sym_clean"].clone(), int(z["sym_num_selected"])
    assert n == share(z["sym_percent"], len(changed))
    changed[z["sym_perm"][:n]] = z["sym_draws"][:n]
    assert changed.tolist() == z["sym_noisy"].tolist()

    rate, changed = float(z["asym10_percent"]), z["asym10_clean"].clone()
    for c in range(10):
        members = z["asym10_order"][c][: int(z["asym10_class_size_seen"][c])]
        assert sorted(members.tolist()) == (changed == c).nonzero().squeeze(1).tolist()  # on labels as changed so far
        changed[members[: share(z["asym10_percent"], len(members))]] = CLASS_MAPS["cifar10"].get(c, c)
    assert changed.tolist() == z["asym10_noisy"].tolist()

    swaps = np.arange(100)
    for block, pair in enumerate(z["asym100_pairs"].numpy()):
        a, b = 5 * block + pair
        swaps[[a, b]] = b, a
    matrix = map_matrix(swaps, rate)
    np.testing.assert_allclose(matrix, z["asym100_T"].numpy(), atol=1e-12)
    assert 1 - matrix.diagonal().mean() == pytest.approx(0.4 * rate)  # .16 at .4
    drawn = np.random.RandomState(int(z["asym100_seed"]))
    given = [int(drawn.multinomial(1, z["asym100_T"][y].numpy()).argmax()) for y in z["asym100_clean"]]
    assert given == z["asym100_noisy"].tolist()


def test_their_validation_set_is_trained_on_parity(z) -> None:
    per_class = z["split_order"].shape[1]
    assert sorted(z["split_order"].flatten().tolist()) == z["split_train_idx"].tolist() == list(range(10 * per_class))
    held = z["split_order"][:, int(0.9 * per_class) :].flatten().sort().values
    assert held.tolist() == z["split_val_idx"].tolist()


def test_their_cutout_parity(z) -> None:
    size, length = int(z["cutout_size"]), int(z["cutout_length"])
    x = torch.ones(len(z["cutout_center"]), 1, size, size)
    rows, columns = z["cutout_center"].unbind(1)
    assert torch.equal(cutout(x, rows, columns, 2 * (length // 2))[:, 0].long(), z["cutout_mask"].long())


def test_their_metrics_are_means_over_batches_parity(z) -> None:
    logits, y, ends = z["metric_logits"], z["metric_labels"], z["metric_batch_ends"].tolist()
    for k, name in ((1, "top1"), (5, "top5")):
        right = (logits.topk(k, 1).indices == y[:, None]).any(1).double()
        means = [right[a:b].mean() for a, b in zip([0, *ends], ends, strict=False)]
        close(torch.stack(means).mean(), z[f"metric_{name}"])


# --- by hand


def test_without_a_state_it_is_cross_entropy_and_twice_the_mismatch() -> None:
    torch.manual_seed(0)
    logits, y = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), torch.arange(6) % 4
    u, v = torch.zeros(6, 1, dtype=torch.float64), torch.zeros(6, 4, dtype=torch.float64)
    terms = sop_terms(logits, y, u, v)
    ce = F.cross_entropy(logits, y)
    assert terms.label.item() == pytest.approx(ce.item())
    assert terms.square.item() == pytest.approx(2 * (logits.argmax(1) != y).double().mean().item())
    ours, theirs = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (terms.label, ce))
    torch.testing.assert_close(ours, theirs)


def test_a_full_correction_takes_the_push_away() -> None:
    """u = 1, p_y = .1, v = 1 at the wrong arg max of .85: q_y = 1.1 / (1.1 + .05 + 1e-4), q is flat in the logits."""
    p = torch.tensor([[0.1, 0.85, 0.05]], dtype=torch.float64)
    logits = p.log().requires_grad_()
    u, v = torch.ones(1, 1, dtype=torch.float64), torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    q = corrected(logits, *corrections(u, v, torch.tensor([0])))
    assert q[0, 0].item() == pytest.approx(1.1 / 1.1501)
    (grad,) = torch.autograd.grad(-q[0, 0].log(), logits)
    assert grad[0, 0].item() == pytest.approx(-0.008, abs=5e-4)  # plain cross-entropy has -.9


@pytest.mark.parametrize(("lr_v", "factor"), [(10, 1.3125), (100, 4.125)])
def test_growth_of_a_wrong_row_by_hand(lr_v: float, factor: float) -> None:
    """128 rows, one of them wrong: v of its arg max grows by 1 + 4 lr_v / 128 at the first visit."""
    y = torch.zeros(128, dtype=torch.int64)
    logits = 5 * F.one_hot(torch.cat([torch.tensor([2]), y[1:]]), 3).double()
    start = torch.full((128, 1), 1e-8, dtype=torch.float64), torch.full((128, 3), 1e-8, dtype=torch.float64)
    state = state_of(*start, 1.0, lr_v, sop.BATCH)
    u, v = state.rows(torch.arange(128))
    terms = sop_terms(logits, y, u, v)
    (terms.label + terms.square).backward()
    state.step(torch.arange(128), u, v)
    assert state.v[0, 2].item() == pytest.approx(factor * 1e-8, rel=1e-6)
    assert state.v[0, 0].item() == 1e-8  # the column of the label stands for nothing
    assert state.v[1, 2].item() == pytest.approx(1e-8, rel=1e-6)


@pytest.mark.parametrize(("lr_u", "factor"), [(10, 16.47), (1, 2.547)])
def test_growth_of_a_right_row_by_hand(lr_u: float, factor: float) -> None:
    """100 classes, p_y = .01 and the arg max: u grows by 1 + 2 lr_u / 128 (1 / p_y - 1) at the first visit."""
    logits = torch.zeros(128, 100, dtype=torch.float64)
    y, start = torch.zeros(128, dtype=torch.int64), torch.full((128, 1), 1e-8, dtype=torch.float64)
    state = state_of(start, torch.full((128, 100), 1e-8, dtype=torch.float64), lr_u, 1.0, sop.BATCH)
    u, v = state.rows(torch.arange(128))
    terms = sop_terms(logits, y, u, v)
    (terms.label + terms.square).backward()
    state.step(torch.arange(128), u, v)
    assert state.u[0].item() == pytest.approx(factor * 1e-8, rel=1e-3)


def test_a_row_moves_as_far_in_a_short_batch_as_in_a_full_one() -> None:
    logits, y = torch.tensor([[0.0, 2.0]]), torch.tensor([0])
    moved = []
    for copies in (1, 4):
        state = state_of(torch.full((4, 1), 0.1), torch.full((4, 2), 0.1), 1.0, 1.0, 4)
        u, v = state.rows(torch.arange(copies))
        terms = sop_terms(logits.repeat(copies, 1).double(), y.repeat(copies), u, v)
        (terms.label + terms.square).backward()
        state.step(torch.arange(copies), u, v)
        moved.append([state.u[0].item(), *state.v[0].tolist()])
    assert moved[0] == pytest.approx(moved[1])


def test_balance_is_at_least_log_k() -> None:
    y = torch.arange(4)
    u, v = torch.zeros(4, 1), torch.zeros(4, 4)
    assert sop_terms(torch.zeros(4, 4), y, u, v).balance.item() == pytest.approx(math.log(4))
    assert sop_terms(torch.randn(4, 4), y, u, v).balance.item() >= math.log(4)


def test_told_by_hand() -> None:
    """Three rows: nothing learned, wholly explained away, half way."""
    half = math.sqrt(0.5)
    u, v = torch.tensor([[0.0], [1.0], [half]]), torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, half, 0]])
    state = state_of(u, v, 1.0, 1.0, 3)
    told = state.told(torch.zeros(3, dtype=torch.int64))
    assert told["weight"].tolist() == pytest.approx([1.0, 0.0, 0.5])
    assert told["corrected_share"].item() == pytest.approx(1 / 3)


def test_the_rate_of_v_fits_the_budget() -> None:
    train = blobs(n=8).train
    assert SOP(task(train, epochs=120)).state.lr_v == 10
    assert SOP(task(train, epochs=12)).state.lr_v == 100
    assert SOPPlus(task(train, epochs=300)).state.lr_v == 10
    assert SOP(task(train, epochs=12), lr_epochs=0).state.lr_v == 10
    assert SOP(task(train, epochs=12)).state.lr_u == 10


def test_trials_are_compared_where_the_state_has_grown() -> None:
    """log(1e8) / log(1.3125) = 67.7 visits at lr_v = 10, log(1e8) / log(4.125) = 13 at 100; the same share of any budget."""
    assert grown(10, 1e-8, 300) == pytest.approx(67.7 / 300, abs=1e-3)
    assert grown(100, 1e-8, 120) == pytest.approx(13 / 120, abs=1e-3)
    assert grown(0, 1e-8, 120) == grown(10, 1e-8, 20) == 1
    train = blobs(n=8).train
    for epochs in (1, 30, 300):
        assert SOPPlus(task(train, epochs=epochs)).settled() == pytest.approx(67.7 / 300, abs=1e-3)
        assert SOP(task(train, epochs=epochs)).settled() == pytest.approx(67.7 / 120, abs=1e-3)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(InputError, match="choose from: code, paper"):
        SOP(task(blobs(n=8).train), variant="old")  # type: ignore[arg-type]


# --- the epoch


def test_with_rates_of_zero_it_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = SOP(task(toy.train), lr_u=0.0, lr_v=0.0), CE(task(toy.train))
    ce.nets.load_state_dict(method.nets.state_dict())
    run(method, toy.train, range(1))
    run(ce, toy.train, range(1))
    for a, b in zip(method.nets.parameters(), ce.nets.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_without_the_two_weights_plus_is_plain() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    plain = SOP(task(toy.train), lr_epochs=300)
    plus = SOPPlus(task(toy.train), consistency=0.0, balance=0.0)
    plus.load_state_dict(plain.state_dict())
    for method in (plain, plus):
        run(method, toy.train, range(2))
    for (name, a), b in zip(plain.state_dict().items(), plus.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", [SOP, SOPPlus])
def test_the_state_comes_to_stand_for_the_right_labels(kind) -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = kind(task(toy.train, epochs=15))
    assert float(method.state.u.abs().max()) < 1e-7
    log = run(method, toy.train, range(15))[-1][-1]
    wrong = toy.train.y != toy.clean
    assert log["weight"][wrong].mean() + 0.2 < log["weight"][~wrong].mean()
    assert (stands_for(method.state.u, method.state.v, toy.train.y).argmax(1) == toy.clean).float().mean() > 0.7
    assert accuracy(method, toy) > 0.85
    assert method.state.u.dtype == method.state.v.dtype == torch.float32


def test_vectors_are_taken_as_images_are() -> None:
    toy = blobs(n=40)
    toy.train.x = toy.train.x.flatten(1)
    for kind in (SOP, SOPPlus):
        logs = run(kind(task(toy.train)), toy.train, range(1))[0]
        assert all(bool(log["loss"].isfinite()) for log in logs if "loss" in log)
