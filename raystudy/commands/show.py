"""``raystudy data show``: pictures of a data set under noise."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import DATA, FILES, DataRoot, DatasetArgument, Files, Noise, NoiseSeed, whole
from raystudy.terminal import say, terminal


def show(
    dataset: DatasetArgument,
    /,
    *,
    files: Files = FILES,
    noise: Noise = "symmetric:0.5",
    noise_seed: NoiseSeed = 0,
    data_root: DataRoot = DATA,
    out: Annotated[Path, Parameter(help="folder to write to (default: show)")] = Path("show"),
    images: Annotated[int, Parameter(converter=whole, help="images on the contact sheet (default: 60)")] = 60,
) -> int:
    """Draws a condition into a folder, and says what is in it."""
    console = terminal()
    from raystudy.tools import show as tool

    shown, written = tool.show(files.located(dataset), noise, noise_seed, data_root, out, images)
    wrong = "wrong labels unknown" if shown.effective is None else f"{shown.effective:.1%} of the labels wrong"
    nominal = "" if shown.nominal is None else f"nominal rate {shown.nominal:g}, "
    counts = f"{len(shown.given):,} {shown.kind}, {len(shown.classes)} classes"
    say(console, f"{shown.title}: {counts}; {nominal}{wrong}")
    if shown.nearest is not None:
        from raystudy.data.pictures import alike

        say(
            console,
            f"vectors have no picture: of the nearest others of {len(shown.chosen)}, {alike(shown):.1%} have the same given label",
        )
    for remark in shown.remarks:
        say(console, f"note: {remark}", "yellow")
    for file in written:
        say(console, f"  {file}")
    return 0
