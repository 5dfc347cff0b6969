"""What is done with a study that was run: ``status``, ``report``, ``export``, ``simulate``, ``merge``."""

import webbrowser
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import STUDIES, Storage, StudyName, choice, whole
from raystudy.commands.studies import held, running
from raystudy.terminal import say, terminal


def status(
    study: StudyName,
    /,
    *,
    storage: Storage = STUDIES,
    all_: Annotated[
        bool, Parameter(name="--all", help="every row, where a large study's would not fit a screen")
    ] = False,
) -> int:
    """How far a study is, and its leaderboard so far."""
    console = terminal()
    from analysis import load, models, tables, usage
    from raystudy.record.usage import read

    folder = held(storage, study)
    told, histories = load.study(folder, only=tables.READ)
    most = None if all_ else tables.SCREEN
    console.print(tables.status(told, histories, console.width, most))
    console.print(tables.leaderboard(told, histories, console.width, most))
    if found := models.of(folder, told, histories):
        say(console, f"models: of {len({m.cell for m in found})} of {len(told.cells())} cells (raystudy model {study})")
    for line in usage.lines(read(folder)):
        say(console, line)
    say(console, "a sweep is running" if running(folder) else "no sweep is running")
    return 0


def report(
    study: StudyName,
    /,
    *others: StudyName,
    storage: Storage = STUDIES,
    out: Annotated[
        Path | None,
        Parameter(help="where to (default: the folder report/ of the study; of several: report-A-B here)"),
    ] = None,
    open_: Annotated[bool, Parameter(name="--open", help="open the page in a browser")] = False,
) -> int:
    """Writes a study's report; of several studies one page that compares them."""
    names = list(dict.fromkeys((study, *others)))
    folder, *more = (held(storage, name, arrays=True) for name in names)
    console = terminal()
    from analysis import report as reports
    from raystudy.tracking.sync import logged

    usual = Path(f"report-{'-'.join(names)}"[:100]) if more else folder / "report"
    with console.status(f"writing the report of {', '.join(names)}"):
        files = reports.build(folder, out.expanduser() if out else usual, more)
    say(console, f"{', '.join(names)}: {len(files)} files, {files[0]}")
    if open_:
        webbrowser.open(files[0].absolute().as_uri())
    if not out and not more:
        say(console, logged(folder, running(folder)))
    return 0


def export(
    study: StudyName,
    /,
    *,
    storage: Storage = STUDIES,
    out: Annotated[Path | None, Parameter(help="where to (default: the folder export/ of the study)")] = None,
) -> int:
    """Writes a study for other programs."""
    console = terminal()
    from raystudy.tools import export as tool

    folder = held(storage, study)
    for file, what in tool.export(folder, out or folder / "export").items():
        say(console, f"{file}: {what}")
    return 0


def simulate(
    study: StudyName,
    /,
    *,
    storage: Storage = STUDIES,
    samplers: Annotated[str, Parameter(help="default: tpe,random,qmc,gp")] = "tpe,random,qmc,gp",
    schedulers: Annotated[str, Parameter(help="default: asha,none")] = "asha,none",
    workers: Annotated[
        int, Parameter(converter=whole, help="trials of a cell that are trained at once (default: 1)")
    ] = 1,
    slack: Annotated[
        str,
        Parameter(help="virtual workers for each of them, or batches; several, with commas, are compared (default: 1)"),
    ] = "1",
    repeats: Annotated[int, Parameter(converter=whole, help="searches with fresh seeds each (default: 10)")] = 10,
    epsilon: Annotated[
        float,
        Parameter(
            help="a point this close to the best recorded one, in units of the objective, counts as found (default: 0.005)"
        ),
    ] = 0.005,
    out: Annotated[Path | None, Parameter(help="CSV of all searches (default: simulate.csv of the study)")] = None,
) -> int:
    """Says which search would have found the winner soonest."""
    console = terminal()
    from raystudy.tools import simulate as tool

    folder = held(storage, study)
    told = tool.options(samplers, schedulers, repeats, epsilon, workers, slack)
    rows = tool.simulate(folder, told, lambda line: say(console, line))
    file = out or folder / "simulate.csv"
    tool.write(rows, file)
    console.print(tool.table(rows, told, console.width))
    say(console, tool.verdict(rows))
    say(console, f"{len(rows)} searches in {file}")
    return 0


def merge(
    first: Annotated[str, Parameter(help="a study, or its folder")],
    second: Annotated[str, Parameter(help="another, of the same settings")],
    /,
    *,
    into: Annotated[
        str | None, Parameter(help="a new study for the union (default: the first takes the trials in)")
    ] = None,
    storage: Annotated[Path, Parameter(help="folder that holds studies (default: studies)")] = STUDIES,
    on_conflict: Annotated[
        str,
        Parameter(
            converter=choice("refuse", "keep"),
            help="where two copies of a trial tell different things: merge nothing, or keep the one further along (default: refuse)",
        ),
    ] = "refuse",
) -> int:
    """Unites the ledgers of two machines."""
    console = terminal()
    from raystudy.record import merge as ledgers

    a, b, to = ledgers.resolve(first, second, into, storage.expanduser().absolute())
    done = ledgers.merge(a, b, to, on_conflict)
    for conflict in done.conflicts:
        say(console, f"note: {conflict}", "yellow")
    told = f"{done.new} trials were new, of {done.further} the other copy was further along"
    say(console, f"{a} + {b} -> {done.folder}: {told}")
    return 0
