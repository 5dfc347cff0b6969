"""AugDesc: DivideMix on strong views with a warm-up of its own; the settings of its presets."""

import copy

import pytest
import torch
from test_dividemix import Shifted
from toy import blobs, run, task

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.learn.methods.augdesc import AugDesc
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.dividemix import DivideMix


def test_after_the_warm_up_it_is_dividemix_on_strong_views() -> None:
    train = blobs(n=100, batch_size=16).train
    torch.manual_seed(0)
    ours = AugDesc(task(train, epochs=10), warmup=0.1, lambda_u=10.0)
    torch.manual_seed(0)
    theirs = DivideMix(task(train, epochs=10), warmup=0.1, lambda_u=10.0, strong=True)
    run(ours, train, range(1))
    theirs.load_state_dict(ours.dividemix.state_dict())
    for mine, his in zip(theirs.optimizers, ours.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(his.state_dict()))
    logs = [run(method, train, range(1, 3)) for method in (ours, theirs)]
    assert [float(log["loss"]) for log in logs[0][1] if "loss" in log] == [
        float(log["loss"]) for log in logs[1][1] if "loss" in log
    ]
    assert torch.equal(ours.probs(train.x), theirs.probs(train.x))


@pytest.mark.parametrize("strong", [False, True])
def test_the_warm_up_is_cross_entropy_on_batches_of_a_labelled_ones_size(strong: bool) -> None:
    train = Shifted(**vars(blobs(n=100, batch_size=16).train))
    torch.manual_seed(0)
    method = AugDesc(task(train, epochs=10), warmup_strong=strong)
    ce = CE(task(train, epochs=10))
    ce.nets[0].load_state_dict(method.dividemix.nets[0].state_dict())
    torch.manual_seed(5)
    logs = list(method.epoch(0, train))
    assert len(logs) == 2 * 7
    assert sum(log["passes"] for log in logs) == 2 * 3 * 100
    torch.manual_seed(5)
    ce.train()
    for batch in train.batches(augment="strong" if strong else True):
        ce.step(batch, 0)
    for a, b in zip(method.dividemix.nets[0].parameters(), ce.nets[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_settings_of_its_presets() -> None:
    """The numbers of presets.json: warm-up 10 epochs (30 for 100 classes) of 300, 350 or 400; threshold 0.6 and history 5 at 90 %."""
    loaded = space.load("augdesc")
    assert (loaded.recipe["batch_size"], loaded.recipe["lr"], loaded.recipe["epochs"]) == (128, 0.02, 300)
    for dataset, kind, rate, epochs, warmup, lambda_u in [
        ("cifar10", "symmetric", 0.2, 300, 10, 0),
        ("cifar10", "symmetric", 0.5, 300, 10, 25),
        ("cifar10", "symmetric", 0.8, 350, 10, 25),
        ("cifar10", "symmetric", 0.9, 350, 10, 50),
        ("cifar10", "asymmetric", 0.4, 350, 10, 0),
        ("cifar100", "symmetric", 0.2, 400, 30, 25),
        ("cifar100", "symmetric", 0.5, 400, 30, 150),
        ("cifar100", "symmetric", 0.8, 400, 30, 150),
        ("cifar100", "symmetric", 0.9, 400, 30, 150),
    ]:
        point, _, source = loaded.paper(dataset, Noise(kind, rate))
        assert f"of {epochs} epochs" in source
        assert round(point["warmup"] * epochs, 2) == warmup
        assert round(point["rampup"] * epochs, 2) == 16
        assert point["lambda_u"] == lambda_u
        assert point["warmup_strong"] is False
        assert (point["p_threshold"], point["loss_history"]) == ((0.6, 5) if rate == 0.9 else (0.5, 1))
        assert point["confidence_penalty"] == (1.0 if kind == "asymmetric" else 0.0)


def test_a_hundred_per_cent_collapse_trains_on_everything() -> None:
    train = blobs(n=67, batch_size=16).train
    torch.manual_seed(0)
    method = AugDesc(task(train, epochs=10), p_threshold=1.0)
    logs = run(method, train, range(5, 6))[0]
    assert float(logs[0]["labelled"]) == 0
    assert all(bool(log["loss"].isfinite()) for log in logs[1:])
