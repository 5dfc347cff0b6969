"""What a command line of ``sweep`` asks for, without running it."""

from typing import Any

from raystudy.commands import app, reading
from raystudy.commands.options import GRID, LIMITS, PRICES, SEARCH, WHERE
from raystudy.design.study import Study
from raystudy.running.resources import Resources


def options(*argv: str) -> dict[str, Any]:
    """The arguments of the command ``sweep``, with what the command line does not say."""
    _, bound, _ = app.sweep().parse_args(argv, exit_on_error=False, print_error=False)
    usual = {"methods": (), "grid": GRID, "search": SEARCH, "where": WHERE, "limits": LIMITS, "prices": PRICES}
    return usual | bound.arguments


def requested(*argv: str) -> Study:
    told = options(*argv)
    return reading.requested(told["methods"], told["grid"], told["search"])


def request(*argv: str) -> tuple[Study, Resources]:
    told = options(*argv)
    return reading.asked(told["methods"], told["grid"], told["search"], told["where"])
