"""Live progress of a sweep: one table, a row per cell; plain lines where the output is no terminal. Only shows."""

import contextvars
import io
import math
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, SupportsFloat

from rich import box
from rich import live as rich_live
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.palette import BASELINE
from analysis.tables import Columns, fitting, level
from raystudy.running.audience import Audience
from raystudy.running.progress import Row, snapshot
from raystudy.running.search import CellSearch
from raystudy.terminal import duration, notebook, say, terminal

SHOWN = 24  # cells at most in the table
NEEDLESS = ("pruned", "run", "failed", "left", "of", "now")  # columns that are left out first, where there is no room
LEFT = ("method", "noise", "best by trial", "best point so far", "in training")
WHOLE = ("method", "noise")  # never left out nor cut
LEGIBLE = 20  # characters of a point that say something
BOTH = 57  # room for two points, and how the search went
SELDOM = ("pruned", "failed")  # columns that are there once there is something in them
STEPS, LEVELS = 12, "▁▂▃▄▅▆▇█"  # the way of a search: its last trials, from the lowest shown to the highest
WIDE = 120  # characters of the table in a notebook
NOTEBOOK_SECONDS = 1.0
NOTEBOOK = '<pre style="line-height:1.15;white-space:pre;overflow-x:auto">{code}</pre>'
PLAIN_SECONDS = 15.0  # how often a line is printed where there is no terminal


def audience(console: Console | None = None, abandoned: Callable[[], None] | None = None) -> Audience:
    """A terminal, a notebook or a file as the audience of a running study."""
    shown = console or terminal()

    def line(text: str, style: str = "") -> None:
        say(shown, text, style)

    return Audience(line, lambda cells, places: Live(cells, places, shown), abandoned)


class Live:
    """Shows the cells of a running study, reading them and changing nothing. A context manager; the last table stays."""

    def __init__(self, cells: list[CellSearch], places: SupportsFloat, console: Console) -> None:
        self.cells, self.places, self.console = cells, places, console
        self.begun = time.monotonic()
        self._stop = threading.Event()
        self._live: rich_live.Live | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Live":
        if notebook():
            from IPython.display import display

            shown = display(
                self._page(), display_id=True
            )  # here, where the cell is known; a thread may only replace it
            run = contextvars.copy_context().run
            self._thread = threading.Thread(target=run, args=(self._cell, shown), daemon=True)
            self._thread.start()
        elif self.console.is_terminal:
            self._live = rich_live.Live(get_renderable=self.table, console=self.console, refresh_per_second=2)
            self._live.start()
        else:
            self._thread = threading.Thread(target=self._lines, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._live:
            self._live.transient = all(c.finished() for c in self.cells)  # the leaderboard takes its place
            self._live.stop()
        if self._thread:
            self._thread.join()

    def _lines(self) -> None:
        while not self._stop.wait(PLAIN_SECONDS):
            now = snapshot(self.cells, float(self.places))
            running, pruned, failed = (sum(getattr(r, n) for r in now.rows) for n in ("running", "pruned", "failed"))
            told = f"{now.ended} of {now.of} trials (running {running}, pruned {pruned}, failed {failed})"
            best = ", ".join(
                f"{r.search.cell.method} {level(r.search.cell, r.search.study)} {100 * r.best:.1f}"
                for r in now.rows
                if not math.isnan(r.best)
            )
            more = f"; best noisy validation: {best or '–'}" if len(self.cells) <= SHOWN else ""
            say(self.console, f"{time.strftime('%H:%M:%S')} {told}, about {duration(now.left)} left{more}")

    def _cell(self, shown: Any) -> None:
        """In a notebook: one output, replaced as the study goes on. IPython's own display; no widgets are needed."""
        while not self._stop.wait(NOTEBOOK_SECONDS):
            shown.update(self._page())
        shown.update(self._page())

    def _page(self) -> Any:
        from IPython.display import HTML

        console = Console(record=True, file=io.StringIO(), width=WIDE, force_jupyter=False)
        console.print(self.table())
        return HTML(console.export_html(inline_styles=True, code_format=NOTEBOOK))

    def table(self) -> Table:
        now = snapshot(self.cells, float(self.places))
        gone = duration(time.monotonic() - self.begun)
        caption = f"{now.ended} of {now.of} trials have ended; {gone} gone, about {duration(now.left)} left"
        shown = sorted(now.rows, key=lambda row: row.search.cell.method != BASELINE)
        if len(shown) > SHOWN:  # those that run, then those with most left to do; a terminal is only so high
            shown = sorted(shown, key=lambda row: (-row.running, -row.left))[:SHOWN]
            shown.sort(key=lambda row: row.search.cell.method != BASELINE)
            ended = sum(c.finished() for c in self.cells)
            more = f"and {len(now.rows) - SHOWN} more cells; {ended} of {len(now.rows)} are done"
            caption = f"{more}\n{caption}"
        return table(shown, caption, self.console.width)


def table(rows: list[Row], caption: str, width: int) -> Table:
    """Method and noise level are whole at any width; where there is room, the point of the best trial stands beside them, and where there
    is more how the search went, and the point in training."""
    columns: Columns = {
        "method": [r.search.cell.method for r in rows],
        "noise": [level(r.search.cell, r.search.study) for r in rows],
        "done": [_count(r.done) for r in rows],
        "run": [_count(r.running) for r in rows],
        "pruned": [_count(r.pruned) for r in rows],
        "failed": [_count(r.failed) for r in rows],
        "of": [str(r.of) for r in rows],
        "best val": [_percent(r.best) for r in rows],
        "now": [_percent(r.now) for r in rows],
        "left": ["done" if r.search.finished() and not r.left else duration(r.left) for r in rows],
    }
    columns = {name: texts for name, texts in columns.items() if name not in SELDOM or set(texts) != {_count(0)}}
    kept = fitting(columns, width, NEEDLESS)
    room = width - sum(max(map(cell_len, (name, *columns[name]))) + 2 for name in kept) - 3
    extra: Columns = {}
    if room >= BOTH:
        path, best, current = [way(r.path) for r in rows], [r.point for r in rows], [r.current for r in rows]
        points = room - max(map(cell_len, ("best by trial", *path))) - 4
        share = min(_needs(best), max(points // 2, points - _needs(current)))
        extra = {"best by trial": path, "best point so far": [cut(text, share) for text in best]}
        extra["in training"] = [cut(text, points - share) for text in current]
    elif room >= LEGIBLE:
        extra = {"best point so far": [cut(r.point, room) for r in rows]}
    columns |= extra
    kept += extra
    found = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0))
    for name in kept:
        whole = name in WHOLE
        found.add_column(
            name,
            justify="left" if name in LEFT else "right",
            no_wrap=not whole,
            overflow="fold" if whole else "ellipsis",
        )
    for row, texts in zip(rows, zip(*(columns[name] for name in kept), strict=True), strict=True):
        found.add_row(*map(escape, texts), style="dim" if row.search.finished() else "")
    return found


def way(path: Sequence[float]) -> str:
    """How a search went, in blocks: the best so far after each of its last trials; higher is better. Empty before there are two."""
    low, high = min(path, default=0.0), max(path, default=0.0)
    if len(path) < 2:
        return ""
    scale = (len(LEVELS) - 1) / (high - low) if high > low else 0.0
    return "".join(LEVELS[round(scale * (v - low))] for v in path[-STEPS:])


def _needs(points: Sequence[str]) -> int:
    return max(LEGIBLE, *map(cell_len, points))


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.1f}"


def _count(n: int) -> str:
    return str(n) if n else "·"


def cut(text: str, width: int) -> str:
    """A text with its end left out where it has no room."""
    return text if cell_len(text) <= width else f"{set_cell_size(text, width - 1).rstrip()}…"
