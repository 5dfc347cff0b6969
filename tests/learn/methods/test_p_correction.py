"""PENCIL: parity with the original code, the stages, the label step, limits."""

import pytest
import torch
import torch.nn.functional as F
from test_coteaching import tensors
from torch import Tensor, nn
from toy import accuracy, blobs, run, task

from raystudy.data.batch import Batch
from raystudy.errors import InputError
from raystudy.learn.method import Task
from raystudy.learn.methods.p_correction import LABEL_BATCH, PCorrection, pencil_terms


@pytest.fixture(scope="module")
def z(parity) -> dict[str, Tensor]:
    return tensors(parity("pencil"))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.abs().max()))


# --- parity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("double", "lo", "loss", "prefix"),
    [(True, "stage2_lo_official", "stage2_loss", "stage2"), (False, "plain_lo", "plain_loss", "plain")],
)
def test_stage_2_parity(z, double: bool, lo: str, loss: str, prefix: str) -> None:
    logits, labels = z["logits"].clone().requires_grad_(), z["label_logits"][z["index"]].requires_grad_()
    terms = pencil_terms(logits, labels, z["labels"], double)
    total = terms.classification + float(z["alpha"]) * terms.compatibility + float(z["beta"]) * terms.entropy
    total.backward()
    close(terms.classification.detach(), z["stage2_lc"])
    close(terms.compatibility.detach(), z[lo])
    close(terms.entropy.detach(), z["stage2_le"])
    close(total.detach(), z[loss])
    close(logits.grad, z[f"{prefix}_grad_logits"])
    close(labels.grad, z[f"{prefix}_grad_label_logits"])
    close(labels.detach() - float(z["lambda1"]) * labels.grad, z[f"{prefix}_new_label_logits"])


class Logits(nn.Module):
    """A net whose parameters are the logits of the images, which are their own numbers."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.logits[x.long().flatten()]


def method_on(z, **options) -> tuple[PCorrection, Batch]:
    """The method in float64 on the stored batch, with plain SGD of rate 1, so that a step is minus the gradient."""
    n, n_classes = z["label_logits"].shape
    optimizer = lambda net: torch.optim.SGD(net.parameters(), lr=1.0)  # noqa: E731
    method = PCorrection(
        Task(n, n_classes, 320, lambda: Logits(z["logits"]), optimizer),
        alpha=float(z["alpha"]),
        beta=float(z["beta"]),
        init_scale=float(z["init_K"]),
        label_lr=float(z["lambda1"]) * LABEL_BATCH / len(z["labels"]),
        **options,
    )
    method.register_buffer("label_logits", z["label_logits"].clone())
    return method, Batch(z["index"], torch.arange(len(z["labels"])), z["labels"])


@pytest.mark.parametrize("prefix", ["stage2", "plain"])
def test_a_step_of_stage_2_moves_net_and_labels_as_the_original(z, prefix: str) -> None:
    method, batch = method_on(z, compat_double_softmax=prefix == "stage2")
    log = method.step(batch, 100)
    close(log["loss"], z[f"{prefix}_loss"])
    close(method.nets[0].logits.detach(), z["logits"] - z[f"{prefix}_grad_logits"])
    close(method.label_logits[z["index"]], z[f"{prefix}_new_label_logits"])
    others = torch.ones(len(z["label_logits"]), dtype=torch.bool).index_fill(0, z["index"], False)
    assert torch.equal(method.label_logits[others], z["label_logits"][others])


def test_stages_1_and_3_parity(z) -> None:
    method, batch = method_on(z)
    close(method.step(batch, 0)["loss"], z["stage1_loss"])
    close(method.nets[0].logits.detach(), z["logits"] - z["stage1_grad_logits"])
    method, batch = method_on(z)
    close(method.step(batch, 200)["loss"], z["stage3_loss"])
    close(method.nets[0].logits.detach(), z["logits"] - z["stage3_grad_logits"])
    assert torch.equal(method.label_logits, z["label_logits"])  # frozen
    close(float(z["init_K"]) * F.one_hot(z["labels"], int(z["num_class"])).double(), z["stage1_label_logits"])


# --- by hand ----------------------------------------------------------------------------------------------------


def test_closed_form_of_the_label_gradient(z) -> None:
    """(y - f)/(B C) + alpha (y - t)/B without the second softmax (Yi & Wu 2019)."""
    labels = z["label_logits"][z["index"]].requires_grad_()
    terms = pencil_terms(z["logits"], labels, z["labels"], False)
    (terms.classification + 0.4 * terms.compatibility).backward()
    y, f = labels.detach().softmax(1), z["logits"].softmax(1)
    t = F.one_hot(z["labels"], y.shape[1]).double()
    close(labels.grad, (y - f) / y.numel() + 0.4 * (y - t) / len(y))


def test_learning_rates_by_stage() -> None:
    toy = blobs(n=8)
    method = PCorrection(task(toy.train, epochs=320))
    assert [method.rate(t) for t in (0, 69, 70, 199)] == [0.06] * 4
    assert [method.rate(t) for t in (200, 239, 240, 279, 280, 319)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.002, 0.002]
    )
    published = PCorrection(task(toy.train, epochs=320), floor_decay=True)
    assert [published.rate(t) for t in (200, 239, 240, 280)] == [0.2, 0.2, 0.0, 0.0]
    run(method, toy.train, range(0, 1))
    assert method.optimizers[0].param_groups[0]["lr"] == 0.06  # whatever the recipe says


def test_linear_decay_of_lambda() -> None:
    method = PCorrection(task(blobs(n=8).train, epochs=320), label_lr=4000.0, label_decay="linear")
    assert [method.label_rate(t) for t in (70, 71, 199)] == pytest.approx([4000, 4000 - 30.769, 30.769], rel=1e-4)


def test_labels_start_at_k_one_hot_when_stage_2_begins() -> None:
    toy = blobs(n=40)
    torch.manual_seed(0)
    method = PCorrection(task(toy.train, epochs=10), stage1=0.2, stage2=0.4, label_lr=0.0)
    assert method.settled() == pytest.approx(0.6)
    logs = run(method, toy.train, range(3))
    assert torch.equal(method.label_logits, 10.0 * F.one_hot(toy.train.y, 4))
    assert not any("weight" in log for epoch in logs[:2] for log in epoch)
    expected = torch.tensor([10.0, 0, 0, 0]).softmax(0)[0].item()
    assert logs[2][-1]["weight"].tolist() == pytest.approx([expected] * 40, rel=1e-5)


def test_a_label_moves_alike_at_any_batch_size() -> None:
    toy = blobs(n=8)
    moved = []
    for size in (8, 1):
        torch.manual_seed(0)
        method = PCorrection(task(toy.train, epochs=10))
        method.nets[0] = Logits(torch.randn(8, 4))
        method.optimizers = [torch.optim.SGD(method.nets[0].parameters(), lr=0.0)]
        for i in range(0, 8, size):
            at = torch.arange(i, i + size)
            method.step(Batch(at, at, toy.train.y[at]), 4)
        moved.append(method.label_logits.clone())
    torch.testing.assert_close(moved[0], moved[1])
    assert moved[0].abs().max() > 0.1


def test_corrects_flipped_labels() -> None:
    toy = blobs(n=400, rate=0.4)
    torch.manual_seed(0)
    method = PCorrection(task(toy.train, epochs=30), label_lr=2000.0, alpha=0.1, beta=0.8)
    logs = run(method, toy.train, range(30))
    corrected = method.label_logits.argmax(1)
    assert (corrected == toy.clean).float().mean() > (toy.train.y == toy.clean).float().mean() + 0.15
    is_clean, weight = toy.train.y == toy.clean, logs[-1][-1]["weight"]
    assert weight[is_clean].mean() > weight[~is_clean].mean() + 0.3
    assert accuracy(method, toy) > 0.8


def test_an_unknown_decay_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'linear'"):
        PCorrection(task(blobs(n=8).train), label_decay="linar")  # type: ignore[arg-type]
