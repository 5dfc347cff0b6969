"""One training alone, without Ray or a ledger: what it needs found as a study would find it, and everything checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raystudy import own
from raystudy.data import datasets
from raystudy.data.noise import Noise, parse
from raystudy.design import space
from raystudy.design.compose import default_setting
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn import filtering
from raystudy.learn.condition import assumption
from raystudy.learn.training import Run, device_here


@dataclass(frozen=True)
class Alone:
    """A training that can be run, and where its point is from."""

    run: Run
    noise: Noise
    oracle: tuple[str, ...]  # hyperparameters that were read off the truth
    source: str  # of the published point
    remarks: tuple[str, ...]  # what a person should hear of the data, a sentence each


def prepare(
    method: str,
    dataset: str,
    noise: str,
    values: Mapping[str, Any],
    *,
    noise_seed: int = 0,
    data_root: Path = Path("data"),
    network: str | None = None,
    recipe: str = "shared",
    filter: str = "",
    epochs: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = 1,
    evaluate: str = "",
) -> Alone:
    """The published point for the nearest setting with ``values`` in place of its own. Sets torch's threads, unless
    they are None. Raises InputError."""
    for what, number, low in (("--threads", 1 if threads is None else threads, 1), ("--seed", seed, 0)):
        if number < low:
            raise InputError(f"{what} is {number}; it must be at least {low}")
    if not 0 < val_fraction < 1:
        raise InputError(f"--val-fraction is {val_fraction:g}; it must lie between 0 and 1")
    if threads is not None:
        torch.set_num_threads(threads)
    method = own.located(method)
    loaded = space.load(method)
    noises = parse(noise, seed=noise_seed)
    if len(noises) != 1:
        raise InputError(f"train runs one noise level, not {len(noises)}: {noise}")
    usual, length = default_setting(dataset, data_root)
    network, epochs = own.located(network or usual), length if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}; it must be at least 1")
    where, chosen = device_here(device), filtering.canonical(filter)
    paper, oracle, source = loaded.paper(dataset, noises[0])
    data = filtering.prepare(dataset, data_root, noises[0], val_fraction, where, chosen)
    spec = single(
        method,
        data,
        dataset,
        noises[0],
        network,
        epochs,
        val_fraction=val_fraction,
        point=paper | dict(values),
        recipe=recipe,
        seed=seed,
        evaluate=evaluate,
        filter=chosen,
    )
    told = datasets.load(dataset, data_root, noises[0]).remarks
    told += assumption(data, noises[0])
    oracle = oracle if data.effective_rate is not None else ()  # nobody read off what nobody knows
    return Alone(Run(spec, data, where), noises[0], tuple(n for n in oracle if n not in values), source, told)
