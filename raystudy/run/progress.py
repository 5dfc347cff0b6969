"""Live progress of a sweep: one table, a row per cell; plain lines where the output is no terminal. Only shows."""

import math
import threading
import time
from collections import Counter
from types import TracebackType

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from analysis.tables import level
from raystudy.run.search import CellSearch

SHOWN = 24  # cells at most in the table
PLAIN_SECONDS = 15.0  # how often a line is printed where there is no terminal


def duration(seconds: float) -> str:
    """``4 s``, ``3 min``, ``2 h 05``, ``12 days``; a dash for unknown."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds >= 4 * 86400:
        return f"{seconds / 86400:,.0f} days"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f}"


class Progress:
    """Shows the cells of a running study, reading them and changing nothing. A context manager."""

    def __init__(self, cells: list[CellSearch], slots: float, console: Console) -> None:
        self.cells, self.slots, self.console = cells, max(slots, 1), console
        self.begun = time.monotonic()
        self._stop = threading.Event()
        self._live: Live | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live = Live(get_renderable=self.table, console=self.console, refresh_per_second=2, transient=True)
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
            self._live.stop()
        if self._thread:
            self._thread.join()

    def _lines(self) -> None:
        while not self._stop.wait(PLAIN_SECONDS):
            rows = self._rows()
            done, running, pruned, failed, total = (sum(r[i] for r in rows) for i in range(5))
            best = ", ".join(
                f"{c.cell.method} {level(c.cell, c.study)} {100 * r[5]:.1f}"
                for c, r in zip(self.cells, rows, strict=True)
                if r[5] > 0 and len(self.cells) <= SHOWN
            )
            self.console.print(
                f"{time.strftime('%H:%M:%S')} {done + pruned + failed} of {total} trials (running {running}, pruned {pruned}, "
                f"failed {failed}), about {duration(self._left(rows))} left"
                + (f"; best noisy validation: {best or '–'}" if len(self.cells) <= SHOWN else ""),
                markup=False,
                soft_wrap=True,
                highlight=False,
            )

    def _rows(self) -> list[tuple[int, int, int, int, int, float, float]]:
        """A row for each cell; before a cell has records, its pace is the slowest seen elsewhere."""
        paces = [self._pace(c) for c in self.cells]
        slowest = max((p for p in paces if not math.isnan(p)), default=math.nan)
        return [self._row(c, slowest if math.isnan(p) else p) for c, p in zip(self.cells, paces, strict=True)]

    def _row(self, search: CellSearch, pace: float) -> tuple[int, int, int, int, int, float, float]:
        """done, running, pruned, failed, of how many, best noisy validation accuracy so far, seconds left on one worker."""
        trials = list(search.history.trials.values())
        states = Counter(t.state for t in trials)
        running = sum(t.state == "running" and t.key in search.busy for t in trials)
        failed = states["failed"] + states["diverged"]
        known = max(search.target, len(search.searched())) if not search.finished() else 0
        planned = sum(t.origin == "replicate" for t in trials) or search.study.replicates * (
            2 if search.target > 1 else 1
        )
        total = known + planned if known else len(trials)
        best = max((max(list(t.curves.get("val/acc", ())), default=0.0) for t in trials), default=0.0)
        return (
            states["complete"],
            running,
            states["pruned"],
            failed,
            total,
            best,
            search.remaining() * pace if search.remaining() else 0.0,
        )

    def _pace(self, search: CellSearch) -> float:
        """Seconds per epoch in a cell; NaN before it has any."""
        spent = [t.curves.get("cost/seconds", ()) for t in list(search.history.trials.values())]
        epochs = sum(map(len, spent))
        return math.fsum(math.fsum(list(s)) for s in spent) / epochs if epochs else math.nan

    def _left(self, rows: list[tuple[int, int, int, int, int, float, float]]) -> float:
        """Seconds to the end: all the work over all the workers, but not less than the longest cell that must go one by one."""
        return math.fsum(r[6] for r in rows) / self.slots if rows else math.nan

    def table(self) -> Table:
        rows, total = self._rows(), duration(time.monotonic() - self.begun)
        caption = f"{total} gone, about {duration(self._left(rows))} left"
        shown = list(zip(self.cells, rows, strict=True))
        if len(shown) > SHOWN:  # those that run, then those with most left to do; a terminal is only so high
            shown = sorted(shown, key=lambda cell: (-cell[1][1], -cell[1][6]))[:SHOWN]
            ended = sum(c.finished() for c in self.cells)
            caption = f"and {len(rows) - SHOWN} more cells; {ended} of {len(rows)} are done\n{caption}"
        table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
        for name in ("method", "noise"):
            table.add_column(name, no_wrap=True)
        for name in ("done", "running", "pruned", "failed", "of", "best val", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        for search, (done, running, pruned, failed, of, best, left) in shown:
            counts = [str(n) if n else "·" for n in (done, running, pruned, failed)]
            table.add_row(
                escape(search.cell.method),
                escape(level(search.cell, search.study)),
                *counts,
                str(of),
                f"{100 * best:.1f}" if best else "–",
                "done" if search.finished() and not left else duration(left),
                style="dim" if search.finished() else "",
            )
        return table
