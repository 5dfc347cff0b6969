"""From the options of ``sweep`` and ``plan`` to the study, the resources and the price they ask for."""

from typing import TYPE_CHECKING

from raystudy.commands.options import Grid, Prices, Search, Where

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


def charge(prices: Prices, resources: "Resources") -> "Price":
    """What an hour of one trial costs."""
    from raystudy.running.budget import PRICES, price

    return price(prices.prices or PRICES, prices.machine, resources.cpus, resources.gpus)
