"""``raystudy sweep`` and ``python -m raystudy.sweep``: the main job."""

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

from raystudy.commands.options import GRID, LIMITS, PRICES, SEARCH, WHERE, Grid, Limits, Prices, Search, Where
from raystudy.commands.reading import asked, budget, built
from raystudy.running.early import early
from raystudy.terminal import printable, say, terminal

# torch, ray and optuna take seconds to import: functions that need them import them, so that help and mistakes are answered at once.
if TYPE_CHECKING:
    from raystudy.running.build import Builder
    from raystudy.running.local import LocalRay
    from raystudy.running.sweep import Outcome

Methods = Annotated[str, Parameter(help="methods to study: of `raystudy methods`, or FILE.py:CLASS of your own")]
FAILURES = 5  # trials that went wrong which are named at the end


def sweep(
    *methods: Methods,
    grid: Grid = GRID,
    search: Search = SEARCH,
    where: Where = WHERE,
    limits: Limits = LIMITS,
    prices: Prices = PRICES,
) -> int:
    """Runs a study, or goes on with it."""
    here = not (where.address or limits.dry_run or limits.confirm_above is not None)
    with early(methods, here, where.cpus_per_trial, where.max_concurrent) as rising:
        return _sweep(methods, grid, search, where, limits, prices, rising)


def _sweep(
    methods: tuple[str, ...],
    grid: Grid,
    search: Search,
    where: Where,
    limits: Limits,
    prices: Prices,
    rising: "LocalRay | None",
) -> int:
    study, resources = asked(methods, grid, search, where, here=not limits.dry_run)
    limit = budget(limits, prices, resources)
    console = terminal()
    storage = where.storage.expanduser().absolute()
    if limits.dry_run:
        from raystudy.running.samplers import remark

        builder, begun = built(study, grid, storage, resources)
        if begun:
            say(console, f"note: study {study.name} has been begun; what it holds is not run again", "yellow")
        if chosen := remark(study, builder.study):
            say(console, chosen)
        dry_run(builder, console)
        return 0
    if limits.confirm_above is not None and not limits.yes:
        from raystudy.commands import plan

        found = plan.made(study, storage, resources, prices, console, longer=grid.epochs is not None)
        if not plan.confirmed(found, limits.confirm_above, console):
            return 1
    from raystudy.commands import live
    from raystudy.running.sweep import run
    from raystudy.tracking import store

    uri = None if where.tracking_uri == "none" else store.absolute(where.tracking_uri or store.default_uri())
    said = {"named": grid.name is not None, "longer": grid.epochs is not None}
    audience = live.audience(console, abandoned(console))
    outcome = run(study, storage, resources, uri, audience, limit, rising=rising, **said)
    if outcome.unfinished:
        why = f"{outcome.reason}; " if outcome.reason else ""
        done = f"{outcome.ended} of {outcome.trials} trials begun have ended, {outcome.unfinished} of {len(study.cells())} cells go on"
        say(console, f"{why}stopped: {done}; the same command goes on from here", "yellow")
        return 130
    return finish(outcome, where.tracking_uri, console)


def abandoned(console: Console) -> Callable[[], None]:
    """What ends this process where Ray gives no answer to a stop."""

    def end() -> None:
        console.show_cursor()
        say(console, "stopped while Ray gave no answer; the same command goes on from here", "yellow")
        os._exit(130)  # the main thread stands in a call to Ray

    return end


def dry_run(builder: "Builder", console: Console) -> None:
    """Prints cells, budget and spaces."""
    from analysis.tables import point
    from raystudy.data.noise import told_wrong

    study = builder.study
    for remark in builder.remarks:
        say(console, f"note: {remark}", "yellow")
    search = f"{study.sampler} + {study.scheduler} on {study.objective}"
    filtered = f", filter {study.filter}" if study.filter else ""
    say(
        console,
        f"study {study.name}: {study.network}, {study.epochs} epochs, recipe {study.recipe}{filtered}, {search}",
    )
    if study.evaluated:
        say(console, f"  {study.evaluated}")
    for cell in study.cells():
        space = builder.spaces[cell.method]
        paper, oracle, source = space.paper(cell.dataset, cell.noise)
        n = study.trials if space.dimensions else 1
        rate = builder.data[cell.dataset, cell.noise].effective_rate
        star = f" (ORACLE: {', '.join(oracle)} read off the truth)" if oracle and rate is not None else ""
        budget = f"{n} trial{'s' * (n > 1)}, {study.replicates} replicates"
        head = f"  {cell.method:12} {cell.condition} ({told_wrong(rate)}): {budget}"
        say(console, f"{head}; trial 0: {point(paper)}{star} [{source}]")
        for i, (start, cell_found) in enumerate(builder.starts(cell)[: n - 1], 1):
            theirs = cell_found.place
            say(console, f"    trial {i}: {point(start)} [{cell_found.source}: {theirs.dataset} {theirs.noise.label}]")
    for method in study.methods:
        ranges = ", ".join(f"{d.name} {d.describe()}" for d in builder.spaces[method].dimensions)
        say(console, f"space of {method}: {ranges or 'nothing to search'}")


def finish(outcome: "Outcome", tracking_uri: str | None, console: Console) -> int:
    """The leaderboard, and what to do next. Returns the exit code: 1 where not one trial came to its end."""
    from analysis import load, tables
    from raystudy.record import storage as storages
    from raystudy.tracking.store import public

    study, histories = load.study(outcome.folder)
    console.print(tables.leaderboard(study, histories, console.width, tables.SCREEN))
    if fallen := tables.collapsed(study, histories, tables.SCREEN):
        say(console, printable(fallen), "yellow")
    wrong = [t for h in histories.values() for t in h.trials.values() if t.state in ("failed", "diverged")]
    for trial in wrong[:FAILURES]:
        told = f"{trial.state}: trial {trial.number} ({tables.point(trial.point)}): {trial.reason}"
        say(console, printable(told), "red")
    store = f" --tracking-uri {shlex.quote(public(tracking_uri))}" if tracking_uri else ""
    held = outcome.folder.parent
    where = "" if held == Path("studies").absolute() else f" --storage {shlex.quote(storages.told(held))}"
    steps = [f"raystudy status {study.name}{where}", f"raystudy report {study.name}{where} --open"]
    steps += [] if tracking_uri == "none" else [f"raystudy ui {study.name}{where}{store}"]
    say(console, "next:  " + "   ".join(steps))
    return int(not any(t.state == "complete" for h in histories.values() for t in h.trials.values()))
