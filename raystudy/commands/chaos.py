"""``raystudy chaos``: a small study under faults."""

from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

from cyclopts import Parameter


def chaos(
    *,
    minutes: Annotated[float, Parameter(help="begin faults for so long (default: 10)")] = 10.0,
    seed: Annotated[int, Parameter(help="seed of what is done when (default: 0)")] = 0,
    kinds: Annotated[
        str | None,
        Parameter(help="KIND,...: only these faults, each once if they take less time (default: all, again and again)"),
    ] = None,
    kills: Annotated[int | None, Parameter(help="instead: one study, killed so many times in a row")] = None,
    folder: Annotated[Path | None, Parameter(help="work in DIR and leave it (default: a temporary folder)")] = None,
) -> int:
    """Returns 0 if everything held, 1 if not."""
    from raystudy.tools import chaos as tool

    told: Any = SimpleNamespace(minutes=minutes, seed=seed, kinds=kinds, kills=kills, folder=folder)
    return tool.chaos(told)
