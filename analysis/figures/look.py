"""How figures look: sizes, a method's colour and marker, grids of panels, legends.

A method has one colour and one marker everywhere: they follow from its place among all methods, not from who else is in the figure.
Sizes are those of a printed page (7 inches wide), no letter below 6.5 points.
"""

import math
import textwrap
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis.rendering import short

WIDTH = 7.0  # inches
BASELINE = "ce"
# Okabe and Ito's and Tol's colours that are told apart with any colour vision and in grey print, without the yellows.
# In an order that keeps the methods most often seen together apart.
COLOURS = ("#332288", "#009E73", "#882255", "#D55E00", "#999933", "#0072B2", "#777777", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """All methods, in the order of METHODS: each has one file of search space, and these can be listed without importing torch."""
    files = (f.name for f in resources.files("search_spaces").iterdir())
    return tuple(sorted(f.removesuffix(".toml") for f in files if f.endswith(".toml") and f != "recipes.toml"))


def style(method: str) -> dict[str, Any]:
    """Colour, marker and line of a method; plain cross-entropy is black."""
    if method == BASELINE:
        return {"color": "black", "marker": "o", "linestyle": "--"}
    others = [n for n in names() if n != BASELINE]
    i = others.index(method) if method in others else len(others) + sum(map(ord, method)) % 70
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i // len(COLOURS) % len(LINES)],
    }


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
