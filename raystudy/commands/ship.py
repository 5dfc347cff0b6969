"""``raystudy ship``: the code and its provenance, for the nodes of a cluster."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.terminal import say, terminal


def ship(folder: Annotated[Path, Parameter(help="where to (default: .ship)")] = Path(".ship"), /) -> int:
    """Writes what a cluster's nodes need."""
    from raystudy.record import provenance

    record = provenance.ship(folder.expanduser().absolute())
    say(terminal(), f"{folder}: commit {record['commit'] or 'unknown'}, code {record['code']}")
    return 0
