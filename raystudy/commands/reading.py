"""From the options of ``sweep`` and ``plan`` to the study, the resources and the price they ask for."""

import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raystudy.commands.options import Grid, Limits, Prices, Search, Where
from raystudy.errors import InputError

# torch and optuna take seconds to import: functions that need them import them, so that help and mistakes are answered at once.
if TYPE_CHECKING:
    from raystudy.design.study import Study
    from raystudy.running.budget import Budget, Price
    from raystudy.running.build import Builder
    from raystudy.running.resources import Resources


def asked(
    methods: tuple[str, ...], grid: Grid, search: Search, where: Where, here: bool = True
) -> "tuple[Study, Resources]":
    """The study and the resources that a command line asks for. Raises InputError before anything is written."""
    return requested(methods, grid, search), resources_of(where, grid.data_root, here)


def resources_of(where: Where, data_root: Path, here: bool = True) -> "Resources":
    """What trials may use. Raises InputError."""
    from raystudy.record import storage as storages
    from raystudy.running.resources import resources

    return resources(
        data_root,
        address=where.address,
        cpus=where.cpus_per_trial,
        gpus=where.gpus_per_trial,
        max_concurrent=where.max_concurrent,
        checkpoint_every=where.checkpoint_every,
        trial_timeout=where.trial_timeout,
        remote=storages.url(where.storage) is not None,
        here=here,
    )


def requested(methods: tuple[str, ...], grid: Grid, search: Search) -> "Study":
    """The study alone."""
    from raystudy.design import compose, request

    return request.requested(
        methods,
        file=grid.study,
        scale=grid.scale,
        dataset=grid.dataset,
        labels=None if grid.labels is None else str(grid.labels),
        size=grid.size,
        skip_corrupt=grid.skip_corrupt,
        stream=grid.stream,
        imbalance=grid.imbalance,
        noise=grid.noise,
        noise_seed=grid.noise_seed,
        network=grid.network,
        epochs=grid.epochs,
        recipe=grid.recipe,
        filter=grid.filter_,
        baseline=not grid.no_baseline,
        name=grid.name,
        root=grid.data_root,
        trust=grid.trust,
        budget={key: value for key in compose.BUDGET if (value := getattr(search, key)) is not None},
    )


def built(study: "Study", grid: Grid, storage: Path, resources: "Resources") -> "tuple[Builder, bool]":
    """Data, noise and spaces of a study, checked, with what its folder already holds; and whether that is anything. Writes nothing."""
    from raystudy.design.study import study_dir
    from raystudy.running.build import Builder
    from raystudy.running.sweep import begins_with, grown

    study, begun = grown(study, study_dir(storage, study.name), grid.name is not None, grid.epochs is not None)
    study, known = begins_with(study, storage, resources.data_root, begun)
    return Builder(study, resources.data_root, known), begun


def budget(limits: Limits, prices: Prices, resources: "Resources") -> "Budget | None":
    """What one run may take; None where nothing is said of it."""
    from raystudy.running.budget import Budget, seconds

    if limits.time_budget is None and limits.max_cost is None:
        return None
    if limits.max_cost is not None and not limits.max_cost > 0:
        raise InputError(f"--max-cost is {limits.max_cost:g}; it must be above 0")
    most = math.inf if limits.time_budget is None else seconds(limits.time_budget, "--time-budget")
    return Budget(most, limits.max_cost or math.inf, charge(prices, resources))


def for_later(where: Where, limits: Limits) -> Where:
    """Where a sweep runs that a file holds for later: the cluster is not known yet, nobody is asked, and no secret stands in the file.
    Raises InputError for what cannot be."""
    from raystudy.record import storage as storages
    from raystudy.tracking import store

    if where.address:
        raise InputError("--address cannot be given here: the job starts a Ray of its own")
    if limits.confirm_above is not None or limits.yes:
        raise InputError(
            "--confirm-above and --yes cannot be given here: nobody is asked; `raystudy plan` says what a study takes"
        )
    for option, text in (("--storage", storages.told(where.storage)), ("--tracking-uri", where.tracking_uri or "")):
        if store.public(text) != text:
            raise InputError(
                f"{option} {store.public(text)} comes with a password, which would stand in the file: give it in the environment"
            )
    return where


def words(methods: tuple[str, ...], *groups: Any) -> list[str]:
    """The command line that says this: read again, it gives equal methods and groups of options."""
    from raystudy.record import storage as storages

    told = list(methods)
    for group in groups:
        for field in fields(group):
            value = getattr(group, field.name)
            option = "--" + field.name.rstrip("_").replace("_", "-")
            if value == field.default:
                continue
            for one in value if isinstance(value, list) else [value]:
                text = storages.told(one) if field.name == "storage" else str(one)
                told += [option] if one is True else [f"{option}={text}"] if text.startswith("-") else [option, text]
    return told


def charge(prices: Prices, resources: "Resources") -> "Price":
    """What an hour of one trial costs."""
    from raystudy.running.budget import PRICES, price

    return price(prices.prices or PRICES, prices.machine, resources.cpus, resources.gpus)
