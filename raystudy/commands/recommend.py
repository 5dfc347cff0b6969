"""``raystudy recommend``: which methods to try on a data set, what to expect of them, and where to begin."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table

from raystudy.commands.options import (
    DATA,
    FILES,
    WHERE,
    DataRoot,
    DatasetArgument,
    Device,
    Files,
    Network,
    Threads,
    Where,
    whole,
)
from raystudy.commands.reading import resources_of
from raystudy.terminal import printable, say, terminal

if TYPE_CHECKING:
    from raystudy.tools.recommend import Advice, Named


def recommend(
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
    noise_rate: Annotated[
        float | None,
        Parameter(help="the share of wrong labels, where you know it: nothing is estimated then (default: estimated)"),
    ] = None,
    noise_seed: Annotated[int, Parameter(converter=whole, help="seed of drawn noise (default: 0)")] = 0,
    from_: Annotated[
        list[str] | None,
        Parameter(
            name="--from",
            help="studies of your own to look up beside the reference results, names in --storage or folders; may be repeated",
        ),
    ] = None,
    data_root: DataRoot = DATA,
    method: Annotated[
        str, Parameter(help="whose networks help to estimate the noise, as of `raystudy clean` (default: auto)")
    ] = "auto",
    network: Network = None,
    epochs: Annotated[
        int | None, Parameter(converter=whole, help="most epochs of those networks (default: by data set)")
    ] = None,
    seed: Annotated[int, Parameter(converter=whole, help="seed of folds and trainings (default: 0)")] = 0,
    device: Device = None,
    threads: Threads = 1,
    out: Annotated[
        Path, Parameter(help="where to write the advice, with the points to begin with (default: recommended.json)")
    ] = Path("recommended.json"),
    run: Annotated[bool, Parameter(help="run the study that is proposed")] = False,
    where: Where = WHERE,
) -> int:
    """Describes the data, estimates the noise, and names the three methods of which most is expected."""
    console = terminal()
    from raystudy.tools import recommend as tool

    tool.refuse(out)
    resources_of(where, data_root)  # a mistake in them is told before anything is computed
    advice = tool.recommend(
        files.located(dataset),
        noise,
        names=from_ or (),
        storages=where.storage,
        noise_rate=noise_rate,
        noise_seed=noise_seed,
        data_root=data_root,
        method=method,
        network=network,
        epochs=epochs,
        seed=seed,
        device=device,
        threads=threads,
        tell=lambda text: say(console, text),
    )
    tool.write(advice, out)
    say(console, "")
    _described(console, advice)
    console.print(_table(advice))
    for named in advice.methods:
        _points(console, named)
    if not advice.studied:
        say(console, f"nothing is expected to be better than plain cross-entropy here; written: {out}")
        return 0
    say(console, f"written: {out}, from which the study takes the points to begin with")
    say(console, f"{'runs' if run else 'run'}:  {advice.command(out, data_root)}")
    return _run(advice, out, data_root, where) if run else 0


def _described(console: Console, advice: "Advice") -> None:
    """The data, its noise, and what is near."""
    from raystudy.tools import recommend as tool

    at, counts = advice.where, advice.counts
    say(
        console,
        f"{printable(tool.title(advice.dataset))}: {at.n:,} {at.kind}, {at.classes} classes of {min(counts):,} to {max(counts):,} labels",
    )
    if advice.rate_interval is None:
        told = f"{at.rate:.1%} wrong labels, as you said"
    else:
        low, high = advice.rate_interval
        told = f"about {at.rate:.1%} of the labels are wrong (95 %: {low:.1%} to {high:.1%})"
    say(console, f"noise: {told}; {tool.spread(at)}")
    nearest = "; ".join(f"{k.dataset} {k.noise} ({k.source}, distance {d:.1f})" for d, k in advice.nearest)
    say(console, f"nearest of {advice.conditions} conditions that are known: {printable(nearest)}")
    if advice.far:
        say(
            console,
            "nothing near is known: these were the best on average, and how they do here is open (docs/recommend.md)",
            "yellow",
        )


def _table(advice: "Advice") -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method", "gain over ce", "80 %", "measured in", "cost", "a training"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for n in advice.methods:
        p = n.expected
        wide = f"{100 * p.low:+.1f} to {100 * p.high:+.1f}" if math.isfinite(p.high) else "not known"
        cost = f"{p.seconds:.1f} x ce" if math.isfinite(p.seconds) else "not known"
        table.add_row(
            n.method, f"{100 * p.gain:+.1f} points", wide, f"{p.conditions} conditions", cost, duration(n.seconds)
        )
    return table


def duration(seconds: float) -> str:
    """About how long a training takes on one core."""
    if not math.isfinite(seconds):
        return "see raystudy plan"
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"


def _points(console: Console, named: "Named") -> None:
    """Where to begin with a method."""
    from analysis.tables import point
    from raystudy.design import space

    if not named.points:
        return
    there, found = named.points[0]
    dimensions = {d.name for d in space.load(named.method).dimensions}
    shown = point({k: v for k, v in found.items() if k in dimensions})
    say(console, printable(f"{named.method}: begin with {shown} [{there.dataset} {there.noise}]"))


def _run(advice: "Advice", out: Path, data_root: Path, where: Where) -> int:
    from raystudy.commands.options import Grid, Search
    from raystudy.commands.sweep import sweep
    from raystudy.tools.recommend import REPLICATES, TRIALS

    grid = Grid(
        dataset=advice.dataset, noise=[advice.noise.label], noise_seed=advice.noise.seed or None, data_root=data_root
    )
    search = Search(trials=TRIALS, replicates=REPLICATES, start_from=[str(out)])
    return sweep(*advice.studied, grid=grid, search=search, where=where)
