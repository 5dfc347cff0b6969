"""From the options of ``sweep`` and ``plan`` to the study, the resources and the price they ask for."""

from dataclasses import replace
from typing import TYPE_CHECKING

from raystudy.commands.options import Grid, Prices, Search, Where
from raystudy.errors import InputError

# torch and optuna take seconds to import: functions that need them import them, so that help and mistakes are answered at once.
if TYPE_CHECKING:
    from raystudy.design.study import Study
    from raystudy.running.budget import Price
    from raystudy.running.resources import Resources


def asked(
    methods: tuple[str, ...], grid: Grid, search: Search, where: Where, here: bool = True
) -> "tuple[Study, Resources]":
    """The study and the resources that a command line asks for. Raises InputError before anything is written."""
    from raystudy.record import storage as storages
    from raystudy.running.resources import resources

    study = requested(methods, grid, search)
    found = resources(
        grid.data_root,
        address=where.address,
        cpus=where.cpus_per_trial,
        gpus=where.gpus_per_trial,
        max_concurrent=where.max_concurrent,
        checkpoint_every=where.checkpoint_every,
        trial_timeout=where.trial_timeout,
        remote=storages.url(where.storage) is not None,
        here=here,
    )
    return study, found


def requested(methods: tuple[str, ...], grid: Grid, search: Search) -> "Study":
    """The study alone: of a file, or of named methods; what the command line says of the budget counts before the file."""
    from raystudy.design import ask, studyfile

    budget = {key: value for key in ask.BUDGET if (value := getattr(search, key)) is not None}
    if grid.study:
        if methods:
            raise InputError(f"methods are named on the command line or in the study, not both: {' '.join(methods)}")
        own = ("dataset", "labels", "size", "skip_corrupt", "stream", "noise", "network", "recipe", "no_baseline")
        if extra := [f"--{name.replace('_', '-')}" for name in own if getattr(grid, name)]:
            raise InputError(f"{', '.join(extra)} cannot be given with --study: the grid is the study's")
        study = studyfile.load(grid.study, grid.data_root, grid.noise_seed)
    elif not methods:
        raise InputError(
            f"name a METHOD (`raystudy methods` lists them) or a --study: {', '.join(studyfile.shipped())}"
        )
    else:
        from raystudy.data.spec import located

        study = ask.of_methods(
            methods,
            dataset=located(
                grid.dataset or "digits",
                labels=grid.labels and str(grid.labels),
                size=grid.size,
                skip_corrupt=grid.skip_corrupt or None,
                stream=grid.stream,
            ),
            noise=grid.noise or ask.LEVELS,
            noise_seed=grid.noise_seed or 0,
            network=grid.network,
            epochs=grid.epochs,
            recipe=grid.recipe,
            baseline=not grid.no_baseline,
            root=grid.data_root,
            budget=budget,
        )
    if grid.scale == "smoke":
        study = ask.miniature(study)
    if grid.study and grid.epochs is not None:
        study = ask.longer(study, grid.epochs)
    return replace(study, **budget, name=study.name if grid.name is None else grid.name)


def charge(prices: Prices, resources: "Resources") -> "Price":
    """What an hour of one trial costs."""
    from raystudy.running.budget import PRICES, price

    return price(prices.prices or PRICES, prices.machine, resources.cpus, resources.gpus)
