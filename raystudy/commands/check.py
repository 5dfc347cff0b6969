"""``raystudy check``: whether a method of one's own does what every method must."""

from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import DATA, DataRoot
from raystudy.terminal import say, terminal


def check(
    method: Annotated[str, Parameter(help="FILE.py:CLASS, PACKAGE.MODULE:CLASS, or a method of `raystudy methods`")],
    /,
    *,
    network: Annotated[str, Parameter(help="for images of 8x8 pixels (default: mlp)")] = "mlp",
    data_root: DataRoot = DATA,
) -> int:
    """Asks a method all that a study asks, in a minute or two; a line each. Returns 1 where one does not hold."""
    import torch

    from raystudy import own
    from raystudy.tools import check as contract

    torch.set_num_threads(1)
    console, failed = terminal(), 0
    for found in contract.check(own.located(method), own.located(network), data_root):
        failed += not found.holds
        mark, style = ("ok  ", "") if found.holds else ("FAIL", "red")
        say(console, f"{mark}  {found.name}: {found.seen}", style)
    total = len(contract.CHECKS)
    if failed:
        say(console, f"{failed} of {total} checks fail; docs/your-own.md says what each asks", "red")
    else:
        say(console, f"all {total} checks hold; next:  raystudy sweep {method}")
    return int(failed > 0)
