"""``raystudy report``: a study's report from its sections, drawn and written. Reads the ledger; decides and trains nothing.

<out>/index.html         all of it in one file that works offline; its first tab can be explored
<out>/report.md          the tables again, with links to the figures
<out>/tables/NAME.csv|md|tex    all.tex inputs all of them
<out>/figures/NAME.png|pdf
<out>/study.toml         the study as it was run: what it takes to run it again
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from analysis import page, rendering, words
from analysis.explore import tab
from analysis.explore.data import explored
from analysis.material import Item, Material, Plot, gathered
from analysis.page import Code, Picture, Section, Tab
from analysis.sections import (
    cost,
    models,
    provenance,
    published,
    results,
    search,
    selection,
    statistics,
    suspects,
    training,
)
from analysis.sheets import Sheet, sentence
from analysis.sheets import document as latex_document
from raystudy.errors import InputError

# In the order of the tabs.
SECTIONS: dict[str, Callable[[Material], Iterator[Item]]] = {
    "results": results.items,
    "selection": selection.items,
    "statistics": statistics.items,
    "published": published.items,
    "training": training.items,
    "suspects": suspects.items,
    "search": search.items,
    "cost": cost.items,
    "models": models.items,
    "provenance": provenance.items,
}


# What the first tab draws for any cell is not on the page a second time: a large study has dozens of each.
FILES_ONLY = ("rates-", "curves-", "losses-", "parallel-")
Shown = Sheet | Picture | Code | Tab


class Painter:
    """Draws figures in other processes, while more of them are being made: drawing takes most of the time of a report."""

    def __init__(self) -> None:
        workers = min(8, os.cpu_count() or 1)
        self.pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn")
        )  # new ones: ours may have threads
        self.drawing: list[tuple[str, Figure, Future[tuple[bytes, bytes]]]] = []

    def take(self, item: Item) -> Sheet | Picture | Code:
        """What the page shows of an item; a figure's picture comes later, from ``drawn``."""
        if not isinstance(item, Plot):
            return item
        if item.figure is None:
            return Picture(item.name, item.title, item.absent, None)
        try:
            future = self.pool.submit(rendering.render, item.figure)
        except BrokenProcessPool as e:  # already; ``drawn`` does without it
            future = Future()
            future.set_exception(e)
        self.drawing.append((item.name, item.figure, future))
        return Picture(item.name, item.title, item.text, b"", page.DRAWN if item.name.startswith(FILES_ONLY) else "")

    def drawn(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Name, PNG and PDF of the figures, as they become ready."""
        for name, figure, future in self.drawing:
            try:
                png, pdf = future.result()
            except BrokenProcessPool:  # a script without a main guard cannot have worker processes
                png, pdf = rendering.render(figure)
            yield name, png, pdf


def _write(path: Path, text: str | bytes) -> Path:
    """One file in one step: a reader sees the old one or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(text.encode() if isinstance(text, str) else text)
    os.replace(new, path)
    return path


def build(folder: Path, out: Path, others: Sequence[Path] = ()) -> list[Path]:
    """Writes the report of the study in ``folder`` to ``out``; with ``others`` one page of all of them. Returns the files written,
    ``index.html`` first.

    Raises InputError where ``out`` cannot be written.
    """
    try:
        materials = [gathered(f) for f in (folder, *others)]  # a study that cannot be read leaves no folder
        out.mkdir(parents=True, exist_ok=True)
        gc.freeze()  # else all that was read is walked again and again while figures come and go
        return _compared(materials, out) if others else _built(materials[0], out)
    except OSError as e:
        raise InputError(f"cannot write the report to {out}: {e.strerror or e}") from None
    finally:
        gc.unfreeze()


def _built(material: Material, out: Path) -> list[Path]:
    """Writes everything, the page last. Returns the files, the page first."""
    painter, pictures, files = Painter(), dict[str, bytes](), list[Path]()
    with rc_context(rendering.RC), painter.pool:
        sections = [_overview([material], words.begun(material.study, material.histories) + material.relative)]
        measured = sentence(material.measured)
        sections += [
            Section(
                name,
                name.capitalize(),
                words.LEADS[name].format(measured=measured),
                [*map(painter.take, items(material))],
            )
            for name, items in SECTIONS.items()
        ]
        for name, png, pdf in painter.drawn():
            files += [_write(out / f"figures/{name}.png", png), _write(out / f"figures/{name}.pdf", pdf)]
            pictures[name] = png
    sections = [s._replace(content=[_shown(c, pictures) for c in s.content]) for s in sections]
    methods = material.study.methods
    title = f"{material.study.name}: {', '.join(methods) if len(methods) < 6 else f'{len(methods)} methods'}"
    sheets = [c for s in sections for c in s.content if isinstance(c, Sheet)]
    for sheet in sheets:
        for end, text in (("csv", sheet.to_csv()), ("md", sheet.to_markdown()), ("tex", sheet.to_latex())):
            files.append(_write(out / f"tables/{sheet.name}.{end}", text))
    files += [
        _write(out / "tables/all.tex", latex_document(title, [s.name for s in sheets])),
        _write(out / "study.toml", (material.folder / "study.toml").read_bytes()),
        _write(out / "report.md", markdown(title, sections)),
        _write(out / "index.html", page.within(title, sections)),
    ]
    return files[::-1]


def _overview(materials: Sequence[Material], lead: str) -> Section:
    """The first tab: what each condition says, and all that can be asked of it."""
    data = explored(materials)
    said = [
        (g["title"], data["studies"][study], level, told) for g in data["groups"] for study, level, told in g["said"]
    ]
    several = len(materials) > 1
    lines = [f"- **{title}, {level}**{f' ({study})' * several}: {told}" for title, study, level, told in said]
    if len(said) > tab.FEW:
        lines = [data["summary"], "", *lines]
    return Section("overview", "Overview", lead, [Tab(tab.section(data), "\n".join(lines) + "\n", tab.scripts())])


def _compared(materials: Sequence[Material], out: Path) -> list[Path]:
    """One page of several studies: what they say together, and the leaderboards and the origin of each."""
    names = [m.study.name for m in materials]
    sections = [_overview(materials, words.COMPARED.format(n=len(names)))]
    for number, m in enumerate(materials, 1):
        lead = words.begun(m.study, m.histories)
        sheets = [replace(s, name=f"{number}-{s.name}") for s in _sheets(m)]
        sections.append(Section(f"study-{number}", m.study.name, lead, sheets))
    files = [
        _write(out / f"tables/{s.name}.csv", s.to_csv())
        for x in sections[1:]
        for s in x.content
        if isinstance(s, Sheet)
    ]
    title = " and ".join(names) if len(names) < 4 else f"{len(names)} studies"
    files += [
        _write(out / "report.md", markdown(title, sections)),
        _write(out / "index.html", page.within(title, sections)),
    ]
    return files[::-1]


def _sheets(material: Material) -> list[Sheet]:
    """The tables of a study that stand in a comparison."""
    told = [*results.items(material), *provenance.items(material)]
    return [item for item in told if isinstance(item, Sheet)]


def _shown(item: Shown, pictures: dict[str, bytes]) -> Shown:
    """An item, a figure with its picture."""
    return item._replace(png=pictures[item.name]) if isinstance(item, Picture) and item.name in pictures else item


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The page as Markdown, with the figures as links."""
    out = [f"# {title}", ""]
    for s in sections:
        out += [f"## {s.title}", "", s.lead, ""]
        for c in s.content:
            if isinstance(c, Sheet):
                out += [c.to_markdown()]
            elif isinstance(c, Tab):
                out += [c.markdown]
            elif isinstance(c, Code):
                out += ["```", c.text, "```", ""]
            elif c.png is None:
                out += [f"*{c.title}: {c.text}.*", ""]
            else:
                out += [f"![{c.title}](figures/{c.name}.png)", "", f"**{c.title}.** {c.text}", ""]
    return "\n".join(out)
