"""Trainings whose state is not what they were built with, and models of them: shared by several tests."""

from pathlib import Path
from typing import Any

import torch

from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.learn import model
from raystudy.learn.celldata import prepare
from raystudy.learn.methods import METHODS
from raystudy.learn.point import method_class
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run

NOISE = Noise("symmetric", 0.3)


def begun(method: str, dataset: str = "digits", network: str = "mlp", **point: Any) -> Run:
    data = prepare(dataset, Path("data"), NOISE, 0.1)
    published = space.load(method).paper("digits", NOISE)[0] if method in METHODS else {}
    recipe = Recipe(lr=0.05, batch_size=64).to_dict()
    digests = data.data_digest, NOISE.to_dict(), data.noise_digest
    version = method_class(method).version
    return Run(TrialSpec(method, version, published | point, dataset, *digests, network, recipe, 5, 3, 0.1, 0), data)


def shaken(run: Run) -> Run:
    """A training whose state is no longer what it was built with, as if it had learned."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in run.method.state_dict().values():
            if value.is_floating_point():
                value.mul_(1 + 0.3 * torch.rand(value.shape, generator=g).to(value.dtype))
    return run


def written(run: Run, folder: Path, name: str = "m") -> Path:
    file = folder / f"{name}.safetensors"
    told = {"weights": {"rule": "last", "test/acc": 0.5}}
    model.write(model.card(run, "CC BY 4.0", told, {"cell": "c"}, {"torch": "2"}), run.method, file)
    return file
