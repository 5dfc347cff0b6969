"""How figures look: sizes, grids of panels, legends. A method's colour and marker are in ``palette``.

Sizes are those of a printed page (7 inches wide), no letter below 6.5 points.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.palette import style
from analysis.rendering import short

WIDTH = 7.0  # inches


def grid(n: int, columns: int = 4, height: float = 1.6, **kw: Any) -> tuple[Figure, list[Axes]]:
    """A figure of n panels."""
    columns = min(n, columns)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 4.5, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kw)
    for ax in axes.flat[n:]:
        ax.remove()
    panels = list(axes.flat[:n])
    for ax in lowest(panels):
        ax.tick_params(labelbottom=True)  # also where a shared axis would leave that to the panels that were removed
    return figure, panels


def lowest(axes: Sequence[Axes]) -> Sequence[Axes]:
    """Of the panels of a grid the last one in each column: what is written below a column stands there alone."""
    spec = axes[0].get_subplotspec()
    return axes if spec is None else axes[-spec.get_gridspec().ncols :]


def first_column(ax: Axes) -> bool:
    spec = ax.get_subplotspec()
    return spec is None or spec.is_first_col()


def legend(figure: Figure, methods: Sequence[str], line: bool = True) -> None:
    """One legend below all panels, the methods in the order given."""
    handles = [
        Line2D([], [], label=m, **({**style(m), "markersize": 4} | ({} if line else {"linestyle": "none"})))
        for m in methods
    ]
    width = max(map(len, methods)) * 0.065 + 0.55
    columns = max(1, min(len(methods), int(figure.get_figwidth() / width)))
    rows = math.ceil(len(methods) / columns)
    figure.set_figheight(figure.get_figheight() + 0.17 * rows)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, handlelength=2.6)


def broken(text: str) -> str:
    """The label of an axis on lines that a low panel has room for."""
    return textwrap.fill(text, 24)


def every(n: int, most: int = 30) -> int:
    """Mark so many of n points that markers do not run together."""
    return max(1, math.ceil(n / most))


def log_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with few plain labels, also where all values lie within one decade."""
    low, high = min(values), max(values)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.35, high * 1.35)
    subs = (1.0,) if high / low > 20 else (1.0, 3.0) if high / low > 3 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(short))
    ax.xaxis.set_minor_locator(NullLocator())
