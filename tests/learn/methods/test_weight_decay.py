"""Tuned weight decay: plain cross-entropy whose search space is a field of the recipe."""

import torch
from toy import blobs, run, task

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.learn.methods import METHODS
from raystudy.learn.methods.ce import CE
from raystudy.learn.methods.weight_decay import WeightDecay
from raystudy.learn.point import split


def test_is_cross_entropy() -> None:
    toy = blobs(n=96)
    torch.manual_seed(0)
    method, ce = WeightDecay(task(toy.train)), CE(task(toy.train))
    ce.load_state_dict(method.state_dict())
    assert str(run(method, toy.train, range(2))) == str(run(ce, toy.train, range(2)))
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), ce.parameters(), strict=True))


def test_its_point_goes_to_the_recipe() -> None:
    assert METHODS["weight_decay"] is WeightDecay
    point, oracle, _ = space.load("weight_decay").paper("cifar10", Noise("symmetric", 0.5))
    assert split("weight_decay", point) == ({}, {"weight_decay": 1e-3})
    assert not oracle
