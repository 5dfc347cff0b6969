"""``raystudy plan``, and the question that ``--confirm-above`` asks."""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from raystudy.commands.options import GRID, PRICES, SEARCH, WHERE, Grid, Prices, Search, Where
from raystudy.commands.reading import asked, charge
from raystudy.errors import InputError
from raystudy.terminal import duration, say, terminal

if TYPE_CHECKING:
    from raystudy.design.study import Study
    from raystudy.running.pace import Range
    from raystudy.running.plan import Plan
    from raystudy.running.resources import Resources

Planned = Annotated[str, Parameter(help="methods, or one study: its name in the storage, a shipped one or FILE.toml")]

LEFT = ("method", "data set", "network", "measured by")
NEEDLESS = (
    "measured by",
    "cells",
    "s an epoch",
    "network",
    "epochs to go",
)  # columns left out first, where there is no room


def plan(
    *methods: Planned,
    grid: Grid = GRID,
    search: Search = SEARCH,
    where: Where = WHERE,
    prices: Prices = PRICES,
) -> int:
    """What a study will take, before it is run."""
    from dataclasses import replace

    from raystudy.design.names import RECIPES
    from raystudy.design.study import NAME

    console, storage = terminal(), where.storage.expanduser().absolute()
    if len(methods) == 1 and not grid.study and methods[0] not in RECIPES:  # no method's name
        held = storage / methods[0] / "study.toml"
        there = NAME.fullmatch(methods[0]) and held.exists()
        grid, methods = replace(grid, study=str(held) if there else methods[0]), ()
    study, resources = asked(methods, grid, search, where, here=False)
    show(made(study, storage, resources, prices, console, longer=grid.epochs is not None), console)
    return 0


def made(
    study: "Study", storage: Path, resources: "Resources", prices: Prices, console: Console, longer: bool = False
) -> "Plan":
    """The plan of a study; what is being measured is said at a terminal. ``longer``: its epochs were said."""
    from raystudy.running import plan as plans
    from raystudy.running.samplers import remark

    def tell(text: str) -> None:
        if console.is_terminal:
            say(console, text)

    found = plans.made(study, storage, resources, charge(prices, resources), prices.probe_seconds, tell, longer)
    if chosen := remark(study, found.study):
        say(console, chosen)
    return found


def _told(r: "Range", whole: bool = False) -> str:
    """``12 (10 to 14)``; one number where there is no range; a dash where nothing is known."""
    if math.isnan(r.mid):
        return "–"

    def number(v: float) -> str:
        return f"{v:,.0f}" if whole or v >= 100 else f"{v:.3g}"

    low, mid, high = map(number, r)
    return mid if low == high else f"{mid} ({low} to {high})"


def _stored(size: "Range") -> str:
    """Bytes as people read them."""
    unit, scale = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size.high >= s or u == "kB")
    return f"{_told(size.scaled(1 / scale))} {unit}"


def show(plan: "Plan", console: Console) -> None:
    """Prints a plan."""
    from analysis import names
    from analysis.tables import fitting
    from raystudy.running.pace import Range

    spent = f"{plan.device}-hours"
    columns: dict[str, list[str]] = {"method": [], "data set": [], "network": [], "cells": [], "trials to go": []}
    columns |= {"epochs to go": [], "s an epoch": [], spent: [], "measured by": []}
    for row in plan.rows:
        pace = Range(*(s / e if e else 0.0 for s, e in zip(row.seconds, row.work.epochs, strict=True)))
        told = (
            *(row.method, names.told(row.dataset, plan.study), row.network),
            str(row.cells),
            _told(row.work.trials, whole=True),
            _told(row.work.epochs, whole=True),
            _told(pace) if row.work.epochs.high else "",
            _told(row.seconds.scaled(plan.per_trial / 3600)) if row.work.epochs.high else "done",
            "; ".join(p.source for p in row.paces),
        )
        for column, text in zip(columns.values(), told, strict=True):
            column.append(text)
    kept = fitting(columns, console.width, NEEDLESS)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in kept:
        table.add_column(
            name, justify="left" if name in LEFT else "right", no_wrap=name != "measured by", overflow="fold"
        )
    for texts in zip(*(columns[name] for name in kept), strict=True):
        table.add_row(*map(escape, texts))
    console.print(table)
    if left_out := [name for name in columns if name not in kept]:
        say(console, f"left out for want of room: {', '.join(left_out)}")

    ended, begun, epochs, seconds = plan.done
    study = plan.study
    say(
        console,
        f"study {study.name}: {len(study.cells())} cells, up to {study.trials} trials and {study.replicates} replicates each",
    )
    say(
        console,
        f"in the ledger, not repeated: {ended} trials ended, {begun} begun; {epochs:,} epochs, {duration(seconds)} of training",
    )
    say(console, f"to go: {_told(plan.work.trials, whole=True)} trials, {_told(plan.work.epochs, whole=True)} epochs")
    if not plan.work.epochs.high:
        return
    say(console, f"to keep: {_stored(plan.left)} in arrays/, weights and predictions of every image, by replicates")
    hours, devices = plan.hours, plan.device_hours
    unknown = sum(any(math.isnan(p.seconds.mid) for p in row.paces) for row in plan.rows)
    if unknown:
        say(
            console,
            f"{plan.device}-hours and money: unknown; {unknown} of {len(plan.rows)} rows are not measured, raise --probe-seconds",
        )
        return
    if plan.gpu_elsewhere and any(p.probed for row in plan.rows for p in row.paces):
        say(
            console,
            f"GPU-hours and money: unknown; no GPU is here, and one after the other the trials take {_told(hours)} hours at the paces of "
            "this processor; records of a GPU in the storage take their place",
        )
        return
    clock = hours.scaled(3600 / plan.slots)
    long = f"{duration(clock.mid)} ({duration(clock.low)} to {duration(clock.high)})"
    say(console, f"{plan.device}-hours: {_told(devices)}; with {plan.slots:.0f} trials at once {long}")
    say(console, f"money: {_told(hours.scaled(plan.price.hour))} {plan.price.currency} ({plan.price.source})")
    say(
        console,
        "rests on: low, the scheduler stops all it may and the chosen point is the published one; high, it stops none; the pace as in the "
        "last column, without the start of Ray and of workers",
    )


def confirmed(plan: "Plan", limit: float, console: Console) -> bool:
    """Whether a sweep may begin: it is planned below the limit (device-hours), or the user says yes. Without a terminal: InputError."""
    hours = plan.device_hours
    if not (math.isfinite(limit) and limit >= 0):
        raise InputError(f"--confirm-above is {limit:g}; it must be 0 or more")
    if hours.mid <= limit:  # not so for what is not known
        return True
    told = f"planned to take {_told(hours)} {plan.device}-hours, above --confirm-above {limit:g}"
    if not (sys.stdin.isatty() and console.is_terminal):
        raise InputError(f"study {plan.study.name} is {told}; --yes runs it all the same")
    show(plan, console)
    answer = console.input(f"This is {told}. Run it? \\[y/N] ")
    return answer.strip().lower() in ("y", "yes")
