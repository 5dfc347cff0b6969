"""``raystudy noise estimate``: the noise of labels whose truth is unknown."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table

from raystudy.commands.options import DATA, FILES, DataRoot, DatasetArgument, Device, Files, Network, Threads, whole
from raystudy.terminal import say, terminal

if TYPE_CHECKING:
    from raystudy.tools.estimate import Examined

SMALL = 12  # classes up to which the matrix is printed


def estimate(
    dataset: DatasetArgument,
    /,
    *,
    files: Files = FILES,
    noise: Annotated[
        str | None,
        Parameter(
            help="the labels to look at, KIND[:VARIANT]:RATE: given, or noise that is drawn (default: the noisy labels that came with "
            "the data, else its labels as they are)"
        ),
    ] = None,
    noise_seed: Annotated[int, Parameter(converter=whole, help="seed of drawn noise (default: 0)")] = 0,
    data_root: DataRoot = DATA,
    network: Network = None,
    epochs: Annotated[
        int | None, Parameter(converter=whole, help="most epochs of a fold (default: by data set)")
    ] = None,
    folds: Annotated[int, Parameter(converter=whole, help="folds of the cross-validation (default: 5)")] = 5,
    bootstrap: Annotated[int, Parameter(converter=whole, help="resamples of the intervals (default: 200)")] = 200,
    seed: Annotated[int, Parameter(converter=whole, help="seed of folds and trainings (default: 0)")] = 0,
    device: Device = None,
    threads: Threads = 1,
    out: Annotated[
        Path,
        Parameter(
            help="beginning of the files' names: FILE.json, and the matrix as FILE.npy and FILE.csv (default: noise-estimate)"
        ),
    ] = Path("noise-estimate"),
) -> int:
    """Estimates rate and matrix, says how sure that is, and writes both."""
    console = terminal()
    from raystudy.tools import estimate as tool

    found = tool.examine(
        files.located(dataset),
        noise,
        out=out,
        noise_seed=noise_seed,
        data_root=data_root,
        network=network,
        epochs=epochs,
        folds=folds,
        resamples=bootstrap,
        seed=seed,
        device=device,
        threads=threads,
        tell=lambda text: say(console, text),
    )
    console.print(_rates(found))
    _matrix(console, found)
    if not found.agree:
        say(
            console,
            f"'confident' and 'anchor-count' differ by more than their intervals: the network is too poor for these {found.one}s, or "
            f"mistakes gather on hard {found.one}s. Believe 'no more than', and try more {found.one}s, epochs or another --network.",
            "yellow",
        )
    say(
        console,
        f"The intervals hold the chance in {found.one}s and networks. They do not hold what the estimates rest on:",
    )
    for told in tool.assumptions(found.one):
        say(console, f"  {told}")
    if found.truth is not None:
        _truth(console, found)
    written = tool.write(out, found.answer(), found.estimates[found.chosen].matrix)
    say(console, f"written: {', '.join(map(str, written))} (the matrix is that of {found.chosen!r})")
    return 0


def _rates(found: "Examined") -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="noise rate", title_justify="left")
    for name in ("estimate", "rate", "95 % interval", "least and greatest share of right labels in a class"):
        table.add_column(name)
    for name, estimate in found.estimates.items():
        low, high = estimate.rate_interval
        diagonal = estimate.matrix.diagonal()
        shares = f"{diagonal.min():.2f} to {diagonal.max():.2f}"
        table.add_row(name, f"{estimate.rate:.3f}", f"{low:.3f} to {high:.3f}", shares)
    bound, sure = found.at_most
    table.add_row("no more than", f"{bound:.3f}", f"{sure:.3f} at 97.5 %", "")
    return table


def _matrix(console: Console, found: "Examined") -> None:
    """The matrix where it fits, and its largest mistakes."""
    name, matrix, classes = found.chosen, found.estimates[found.chosen].matrix, found.classes
    k = len(matrix)
    if k <= SMALL:
        say(console, f"transition matrix ({name}), in %: a row is a true class, a column the label given")
        say(console, " " * 15 + " ".join(f"{c[:5]:>5}" for c in classes))
        for i, row in enumerate(matrix):
            say(console, f"{classes[i][:14]:>14} " + " ".join(f"{100 * value:5.1f}" for value in row))
    off = np.where(np.eye(k, dtype=bool), 0, matrix)
    largest = [(int(i) // k, int(i) % k) for i in np.argsort(-off, axis=None, kind="stable")[:5] if off.flat[i] > 0]
    named = ", ".join(f"{classes[i]} as {classes[j]} {100 * off[i, j]:.1f} %" for i, j in largest)
    say(console, f"most frequent mistakes ({name}): {named or 'none'}")


def _truth(console: Console, found: "Examined") -> None:
    """How far the estimates are off."""
    assert found.truth is not None
    rate = float((found.truth != found.given).mean())
    say(console, "")
    say(console, f"the truth, which no estimate has seen: {rate:.3f} of the labels are wrong")
    for name, off in found.errors().items():
        low, high = found.estimates[name].rate_interval
        say(
            console,
            f"  {name:12} rate off by {off['rate']:+.3f} ({'within' if low <= rate <= high else 'outside'} its interval), "
            f"rows of the matrix by {off['matrix']:.3f} (total variation, mean over classes)",
        )
