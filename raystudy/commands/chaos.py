"""``raystudy chaos``: a small study under faults."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import whole
from raystudy.terminal import say, terminal
from raystudy.tools.chaos import KINDS


def chaos(
    *,
    minutes: Annotated[float, Parameter(help="begin faults for so long (default: 10)")] = 10.0,
    seed: Annotated[int, Parameter(converter=whole, help="seed of what is done when (default: 0)")] = 0,
    kinds: Annotated[
        str | None,
        Parameter(
            help=f"KIND,...: only these faults, each once if they take less time: {', '.join(KINDS)} (default: all, again and again)"
        ),
    ] = None,
    kills: Annotated[
        int | None, Parameter(converter=whole, help="instead: one study, killed so many times in a row")
    ] = None,
    folder: Annotated[Path | None, Parameter(help="work in DIR and leave it (default: a temporary folder)")] = None,
) -> int:
    """Returns 0 if everything held, 1 if not."""
    from raystudy.tools.chaos import rounds

    told = rounds.options(kinds, minutes, seed, kills)
    console = terminal()
    outcome = rounds.run(told, folder, lambda line: say(console, line))
    if outcome.begun:
        counts = ", ".join(f"{n} {verdict}" for verdict, n in sorted(outcome.verdicts.items()))
        where = f"; see {folder.absolute()}" if folder and not outcome.good else ""
        say(console, f"verdict: {counts}{where}")
    return 0 if outcome.good else 1
