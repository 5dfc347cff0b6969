"""The figures of a report. One function a figure: numbers in, a matplotlib Figure out, None where there is nothing to show.

A method has one colour and one marker everywhere: they follow from its place among all methods, not from who else is in the figure.
Sizes are those of a printed page (7 inches wide), no letter below 6.5 points.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from analysis.load import Arrays
from analysis.rendering import short
from analysis.select import Score
from analysis.stats import ALPHA, Ranking
from analysis.surfaces import Axis, Surface, recommend
from raystudy.record.ledger import TrialHistory

WIDTH = 7.0  # inches
BASELINE = "ce"
# Okabe and Ito's and Tol's colours that are told apart with any colour vision and in grey print, without the yellows.
# In an order that keeps the methods most often seen together apart.
COLOURS = ("#332288", "#009E73", "#882255", "#D55E00", "#999933", "#0072B2", "#777777", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
CLEAN, WRONG = "#0072B2", "#D55E00"


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


def _grid(n: int, columns: int = 4, height: float = 1.6, **kw: Any) -> tuple[Figure, list[Axes]]:
    """A figure of n panels."""
    columns = min(n, columns)
    rows = math.ceil(n / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 4.5, height * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kw)
    for ax in axes.flat[n:]:
        ax.remove()
    panels = list(axes.flat[:n])
    for ax in _lowest(panels):
        ax.tick_params(labelbottom=True)  # also where a shared axis would leave that to the panels that were removed
    return figure, panels


def _lowest(axes: Sequence[Axes]) -> Sequence[Axes]:
    """Of the panels of a grid the last one in each column: what is written below a column stands there alone."""
    spec = axes[0].get_subplotspec()
    return axes if spec is None else axes[-spec.get_gridspec().ncols :]


def _first_column(ax: Axes) -> bool:
    spec = ax.get_subplotspec()
    return spec is None or spec.is_first_col()


def _legend(figure: Figure, methods: Sequence[str], line: bool = True) -> None:
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


def _every(n: int, most: int = 30) -> int:
    """Mark so many of n points that markers do not run together."""
    return max(1, math.ceil(n / most))


# -- results


def rates(levels: Sequence[float], scores: Mapping[str, Sequence[Score]], label: str) -> Figure | None:
    """Accuracy in percent over the noise rate; the band is one standard deviation over replicates."""
    shown = {m: s for m, s in scores.items() if any(not math.isnan(v.mean) for v in s)}
    if not shown:
        return None
    figure, (ax,) = _grid(1, height=3.2)
    figure.set_figwidth(WIDTH * 0.8)
    x = np.asarray(levels)
    for method, told in shown.items():
        mean, std = (100 * np.array([getattr(s, k) for s in told]) for k in ("mean", "std"))
        known = ~np.isnan(mean)
        look = style(method)
        ax.plot(x[known], mean[known], **look, linewidth=1.3)
        if len(levels) > 1:
            std = np.nan_to_num(std)
            ax.fill_between(x[known], (mean - std)[known], (mean + std)[known], color=look["color"], alpha=0.15, lw=0)
        else:
            ax.errorbar(
                x[known], mean[known], np.nan_to_num(std)[known], color=look["color"], capsize=2, linestyle="none"
            )
    ax.set(xlabel="nominal noise rate", ylabel=f"test accuracy in %, {label}")
    ax.set_xticks(x, [f"{r:g}" for r in levels])
    if len(levels) == 1:
        ax.set_xlim(x[0] - 0.1, x[0] + 0.1)
    _legend(figure, list(shown))
    return figure


def _mean_curve(trials: Sequence[TrialHistory], metric: str) -> NDArray[np.float64] | None:
    curves = [np.asarray(t.curves[metric]) for t in trials if metric in t.curves and t.epochs]
    if not curves:
        return None
    n = min(map(len, curves))
    stacked = np.stack([c[:n] for c in curves])
    return None if np.isnan(stacked).all() else np.ma.masked_invalid(stacked).mean(0).filled(np.nan)


def curves(panels: Mapping[str, Mapping[str, Sequence[TrialHistory]]], metrics: Mapping[str, str]) -> Figure | None:
    """Metrics over epochs, mean of the replicates: a column for each noise level (key of ``panels``), a row for each metric."""
    found = {
        (row, level, method): c
        for row in metrics
        for level, methods in panels.items()
        for method, trials in methods.items()
        if (c := _mean_curve(trials, row)) is not None
    }
    if not found:
        return None
    rows = [m for m in metrics if any(k[0] == m for k in found)]
    levels = list(panels)
    columns = len(levels)
    figure = Figure(figsize=(max(4.5, min(WIDTH, 2.2 * columns + 0.6)), 1.75 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False, sharex=True, sharey="row")
    for i, row in enumerate(rows):
        for j, level in enumerate(levels):
            ax = axes[i][j]
            for method in panels[level]:
                if (row, level, method) in found:
                    y = 100 * found[row, level, method]
                    few = len(y) < 3
                    ax.plot(
                        np.arange(1, len(y) + 1),
                        y,
                        **style(method),
                        linewidth=1,
                        markersize=3,
                        markevery=None if few else _every(len(y), 6),
                    )
            if i == 0:
                ax.set_title(level)
            if i == len(rows) - 1:
                ax.set_xlabel("epoch")
                ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            if j == 0:
                ax.set_ylabel(metrics[row])
    _legend(figure, list(dict.fromkeys(k[2] for k in found)))
    return figure


def ranks(r: Ranking) -> Figure:
    """Critical-difference diagram (Demsar 2006): methods at their mean ranks; a bar joins those that do not differ significantly."""
    k = len(r.methods)
    half, groups = math.ceil(k / 2), r.groups()
    step, top = 0.19, 0.75 + 0.11 * len(groups)
    height = top + step * half + 0.15
    figure = Figure(figsize=(WIDTH, height))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(height, 0))
    ax.axis("off")
    left, right = 2.0, WIDTH - 2.0
    low, high = 1.0, float(k)

    def at(rank: float) -> float:
        return left + (rank - low) / (high - low) * (right - left)

    axis = 0.5
    ax.plot([left, right], [axis, axis], color="black", linewidth=1)
    ticks = range(1, k + 1, math.ceil(k / 10))
    for tick in ticks:
        ax.plot([at(tick)] * 2, [axis - 0.05, axis], color="black", linewidth=1)
        ax.text(at(tick), axis - 0.07, str(tick), ha="center", va="bottom", fontsize=7)
    ax.text(left - 0.12, axis, "mean rank", ha="right", va="center", fontsize=7.5)
    reach = min(r.cd / (high - low) * (right - left), right - left)
    more = "" if r.cd <= high - low else " (wider than the axis)"
    ax.plot([left, left + reach], [0.14, 0.14], color="black", linewidth=1.5)
    for end in (left, left + reach):
        ax.plot([end, end], [0.1, 0.18], color="black", linewidth=1)
    ax.text(left + reach + 0.08, 0.14, f"critical difference {r.cd:.2f} at {ALPHA:g}{more}", va="center", fontsize=7)
    for g, (a, b) in enumerate(groups):
        y = axis + 0.1 + 0.11 * g
        ax.plot(
            [at(r.ranks[a]) - 0.04, at(r.ranks[b]) + 0.04], [y, y], color="#555555", linewidth=3, solid_capstyle="round"
        )
    for i, (method, rank) in enumerate(zip(r.methods, r.ranks, strict=True)):
        first = i < half
        y = top + step * (i if first else k - 1 - i)
        x, end = at(rank), left - 0.15 if first else right + 0.15
        look = style(method)
        ax.plot([x, x, end], [axis, y, y], color=look["color"], linewidth=0.9)
        ax.plot([x], [axis], color=look["color"], marker=look["marker"], markersize=4)
        ax.text(
            end + (-0.06 if first else 0.06),
            y,
            f"{method}  {rank:.2f}",
            ha="right" if first else "left",
            va="center",
            fontsize=7.5,
        )
    return figure


def gaps(rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> Figure | None:
    """What each method loses by honest selection of the epoch: (noisy_val, ORACLE) in each condition, joined."""
    rows = {k: {m: v for m, v in r.items() if not any(map(math.isnan, v))} for k, r in rows.items()}
    rows = {k: r for k, r in rows.items() if r}
    if not rows:
        return None
    figure, axes = _grid(
        len(rows), columns=4 if len(rows) != 5 else 3, height=0.35 + 0.155 * max(map(len, rows.values()))
    )
    order = list(dict.fromkeys(m for r in rows.values() for m in r))
    for ax, (title, told) in zip(axes, rows.items(), strict=True):
        for y, method in enumerate(order):
            if method in told:
                honest, oracle = (100 * v for v in told[method])
                look = style(method)
                ax.plot([honest, oracle], [y, y], color=look["color"], linewidth=1.2)
                ax.plot([honest], [y], color=look["color"], marker=look["marker"])
                ax.plot([oracle], [y], color=look["color"], marker="|", markersize=7)
        first = _first_column(ax)
        ax.set_yticks(range(len(order)), order if first else [])
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.set_title(title)
    for ax in _lowest(axes):
        ax.set_xlabel("test accuracy in %")
    return figure


# -- what happens in training


def losses(panels: Mapping[str, Arrays]) -> Figure | None:
    """Histograms of the training loss of right and wrong labels after the last epoch, with the two Gaussians fitted to all of them."""
    if not panels:
        return None
    figure, axes = _grid(len(panels), height=1.45)
    for ax, (title, a) in zip(axes, panels.items(), strict=True):
        edges, total = a["edges"], a["clean"].sum() + a["wrong"].sum()
        first = np.arange(0, len(edges) - 1, 2)  # two bins a step
        steps = np.append(edges[first], edges[-1])
        lowest, highest = 0.5 / total / np.diff(steps).mean(), 0.0
        for name, colour in (("clean", CLEAN), ("wrong", WRONG)):
            y = np.add.reduceat(a[name], first) / total / np.diff(steps)
            highest = max(highest, float(y.max()))
            ax.stairs(y, steps, baseline=lowest, fill=True, color=colour, alpha=0.6, linewidth=0)
        x = np.linspace(edges[0], edges[-1], 400)
        for mean, variance, weight in a["gmm"].T:
            if weight > 0:
                density = weight * np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
                ax.plot(x, density, color="black", linewidth=1, linestyle="--")
        ax.set_yscale("log")
        ax.yaxis.set_minor_locator(NullLocator())  # they take longer to draw than all the rest
        ax.set_ylim(lowest, 4 * highest)  # a component may be far narrower than a step
        ax.set_title(title)
        ax.grid(visible=False)
        if _first_column(ax):
            ax.set_ylabel("density (log)")
    for ax in _lowest(axes):
        ax.set_xlabel("loss in nats")
    handles = [
        Patch(color=CLEAN, alpha=0.6, label="right label"),
        Patch(color=WRONG, alpha=0.6, label="wrong label"),
        Line2D([], [], color="black", linestyle="--", label="fitted Gaussians"),
    ]
    figure.set_figheight(figure.get_figheight() + 0.17)
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def matrices(panels: Mapping[str, NDArray], across: str, down: str) -> Figure | None:
    """Matrices of counts or probabilities with rows made to sum to 100 %; numbers are written in where there is room."""
    if not panels:
        return None
    n, k = len(panels), len(next(iter(panels.values())))
    columns = min(n, 2 if k <= 12 and n <= 4 else 4)
    size = WIDTH / columns
    figure, axes = _grid(n, columns, height=size * 0.95)
    if n == 1:
        figure.set_size_inches(4.5, 4.3)
    room = columns <= 2 and k <= 12
    image = None
    for ax, (title, m) in zip(axes, panels.items(), strict=True):
        p = 100 * m / np.maximum(m.sum(1, keepdims=True), 1e-12)
        image = ax.imshow(p, cmap="cividis", vmin=0, vmax=100)
        ax.set_title(title)
        ax.grid(visible=False)
        ticks = range(k) if room else range(0, k, max(1, math.ceil(k / 5)))
        ax.set_xticks(ticks)
        ax.set_yticks(ticks)
        if room:
            for i, j in np.ndindex(k, k):
                if p[i, j] >= 0.5:
                    ax.text(
                        j,
                        i,
                        f"{p[i, j]:.0f}",
                        ha="center",
                        va="center",
                        fontsize=6.5,
                        color="white" if p[i, j] < 55 else "black",
                    )
        if _first_column(ax):
            ax.set_ylabel(down)
    for ax in _lowest(axes):
        ax.set_xlabel(across)
    assert image is not None
    figure.colorbar(image, ax=axes, label="% of row", shrink=0.6 if n > columns else 0.9, pad=0.02)
    return figure


# -- search


def parallel(
    dims: Sequence[Axis], rows: Sequence[tuple[float, TrialHistory, float, float]], chosen: set[str]
) -> Figure | None:
    """Parallel coordinates of trials: (noise rate, trial, noisy validation, place in [0, 1] among its level's trials, 1 the best).

    Colour is the place within the level, since a harder level would be all dark otherwise; chosen points are drawn on top in red.
    """
    if len(rows) < 2:
        return None
    levels = sorted({r[0] for r in rows})
    many = len(levels) > 1
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    ax = figure.subplots()
    values = [v for _, _, v, _ in rows]
    low, high = min(values), max(values)
    columns = (["noise rate"] if many else []) + [a.name for a in dims] + ["noisy val. in %"]

    def line(rate: float, t: TrialHistory, v: float) -> list[float]:
        out = [(rate - levels[0]) / (levels[-1] - levels[0])] if many else []
        out += [a.unit(t.point[a.name]) if a.name in t.point else math.nan for a in dims]
        return [*out, (v - low) / (high - low) if high > low else 0.5]

    ordered = sorted(rows, key=lambda r: r[3])
    wobble = np.random.default_rng(0).uniform(
        -0.012, 0.012, (len(ordered), len(columns))
    )  # lines on one value stay apart
    lines = np.array([line(r[0], r[1], r[2]) for r in ordered]) + wobble
    x = np.arange(len(columns))
    strips = LineCollection(
        [np.column_stack([x, y]) for y in lines],
        cmap="cividis",
        array=np.array([r[3] for r in ordered]),
        linewidths=0.8 if len(rows) > 60 else 1.1,
        alpha=0.35 if len(rows) > 300 else 0.8,
        rasterized=len(rows) > 300,
    )
    ax.add_collection(strips)
    for r, y in zip(ordered, lines, strict=True):
        if r[1].key in chosen:
            ax.plot(x, y, color="#CC3311", linewidth=1.6)
    for i, name in enumerate(columns):
        ax.axvline(i, color="black", linewidth=0.8)
        a = next((d for d in dims if d.name == name), None)
        if a is None:
            ends = (levels[0], levels[-1]) if name == "noise rate" else (100 * low, 100 * high)
            told = {0.0: f"{ends[0]:.3g}", 1.0: f"{ends[1]:.3g}"}
        elif a.choices:
            told = {a.unit(c): str(c) for c in a.choices}
        else:
            told = {0.0: f"{a.low:.3g}", 1.0: f"{a.high:.3g}"} | ({-0.2: "0"} if a.or_zero else {})
        for y, text in told.items():
            below = y <= 0 and not (a and a.choices and len(a.choices) > 2 and 0 < y < 1)
            ax.annotate(
                text,
                (i, y),
                (3, -2 if below else 2),
                textcoords="offset points",
                fontsize=6.5,
                va="top" if below else "bottom",
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
                zorder=5,
            )
    slanted = len(columns) > 7
    ax.set_xticks(x, columns, rotation=25 if slanted else 0, ha="right" if slanted else "center")
    ax.set_yticks([])
    ax.set_xlim(-0.15, len(columns) - 1 + 0.45)
    ax.set_ylim((-0.34 if any(a.or_zero for a in dims) else -0.14), 1.14)
    ax.grid(visible=False)
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    bar = figure.colorbar(strips, ax=ax, ticks=[0, 1], pad=0.01, aspect=30)
    bar.ax.set_yticklabels(["worst", "best"])
    bar.set_label("place within its noise level", labelpad=-12)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    return figure


def importances(panels: Mapping[str, Mapping[str, float]]) -> Figure | None:
    """Bars of Optuna's importance, a panel for each method."""
    panels = {k: v for k, v in panels.items() if v}
    if not panels:
        return None
    figure, axes = _grid(len(panels), columns=3, height=0.45 + 0.15 * max(map(len, panels.values())))
    for ax, (method, told) in zip(axes, panels.items(), strict=True):
        ax.barh(list(told), list(told.values()), color=style(method)["color"], height=0.7)
        ax.set_ylim(max(map(len, panels.values())) - 0.4, -0.6)  # bars of one thickness in all panels
        ax.set_xlim(0, 1)
        ax.set_title(method)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
    for ax in _lowest(axes):
        ax.set_xlabel("importance")
    return figure


def surface(s: Surface) -> Figure:
    """Best value of each hyperparameter over the noise rate: chosen point, published point, span of the best quarter of the trials,
    and the recommendation between the levels."""
    figure, axes = _grid(len(s.axes), columns=4 if len(s.axes) != 5 else 3, height=1.45)
    look = style(s.method)
    rates_ = [level.rate for level in s.levels]
    between = np.linspace(rates_[0], rates_[-1], 121)
    path = [recommend(s.axes, s.levels, float(r)) for r in between]
    for ax, a in zip(axes, s.axes, strict=True):

        def units(trials: Sequence[TrialHistory | None], a: Axis = a) -> list[float]:
            return [a.unit(t.point[a.name]) if t and a.name in t.point else math.nan for t in trials]

        spans = [[a.unit(t.point[a.name]) for t in level.top if a.name in t.point] or [math.nan] for level in s.levels]
        ax.vlines(rates_, [min(v) for v in spans], [max(v) for v in spans], color="#bbbbbb", linewidth=4)
        ax.plot(between, [a.unit(p[a.name]) for p in path], color=look["color"], linewidth=1)
        ax.plot(rates_, units([level.first for level in s.levels]), "x", color="black", markersize=5)
        ax.plot(rates_, units([level.best for level in s.levels]), look["marker"], color=look["color"])
        if a.choices:
            ticks = {a.unit(c): str(c) for c in a.choices}
        else:
            ticks = {u: f"{a.value(u):.3g}" for u in (0.0, 0.5, 1.0)} | ({-0.2: "0"} if a.or_zero else {})
        ax.set_yticks(list(ticks), list(ticks.values()))
        ax.set_ylim((-0.28 if a.or_zero else -0.08), 1.08)
        ax.set_xticks(rates_, [f"{r:g}" for r in rates_], rotation=90 if len(rates_) > 6 else 0)
        ax.set_title(a.name)
    for ax in _lowest(axes):
        ax.set_xlabel("noise rate")
    handles = [
        Line2D([], [], color=look["color"], marker=look["marker"], label="chosen, and recommended between"),
        Line2D([], [], color="black", marker="x", linestyle="none", label="published"),
        Line2D([], [], color="#bbbbbb", linewidth=4, label="best quarter of the trials"),
    ]
    figure.set_figheight(figure.get_figheight() + 0.17)
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def cost(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str) -> Figure | None:
    """Accuracy against what a training costs: (cost, mean, standard deviation) of each method, a panel for each noise level."""
    panels = {k: {m: v for m, v in p.items() if v[0] > 0 and not math.isnan(v[1])} for k, p in panels.items()}
    panels = {k: p for k, p in panels.items() if p}
    if not panels:
        return None
    figure, axes = _grid(len(panels), columns=4 if len(panels) != 5 else 3, height=1.8, sharex=True)
    for ax, (title, told) in zip(axes, panels.items(), strict=True):
        for method, (x, mean, std) in told.items():
            look = style(method) | {"linestyle": "none"}
            ax.errorbar([x], [100 * mean], [0 if math.isnan(std) else 100 * std], **look, capsize=2, elinewidth=0.8)
        _log_axis(ax, [v[0] for p in panels.values() for v in p.values()])
        ax.set_title(title)
        if _first_column(ax):
            ax.set_ylabel("test accuracy in %")
    for ax in _lowest(axes):
        ax.set_xlabel(label)
    _legend(figure, list(dict.fromkeys(m for p in panels.values() for m in p)), line=False)
    return figure


def _log_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic x axis with few plain labels, also where all values lie within one decade."""
    low, high = min(values), max(values)
    ax.set_xscale("log")
    ax.set_xlim(low / 1.35, high * 1.35)
    subs = (1.0,) if high / low > 20 else (1.0, 3.0) if high / low > 3 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    ax.xaxis.set_major_locator(LogLocator(subs=subs))
    ax.xaxis.set_major_formatter(FuncFormatter(short))
    ax.xaxis.set_minor_locator(NullLocator())


def budgets(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], label: str, log: bool) -> Figure | None:
    """Test accuracy of the point a search would have chosen after a budget: steps of ``select.progress``, a panel for each level."""
    panels = {
        k: {m: [s for s in v if s[0] > 0 and not math.isnan(s[1])] for m, v in p.items()} for k, p in panels.items()
    }
    panels = {k: {m: v for m, v in p.items() if v} for k, p in panels.items()}
    panels = {k: p for k, p in panels.items() if p}
    if not panels:
        return None
    figure, axes = _grid(len(panels), columns=4 if len(panels) != 5 else 3, height=1.8, sharex=True)
    ends = [v[-1][0] for p in panels.values() for v in p.values()]
    starts = [v[0][0] for p in panels.values() for v in p.values()]
    for ax, (title, told) in zip(axes, panels.items(), strict=True):
        for method, steps in told.items():
            x, y = [s[0] for s in steps], [100 * s[1] for s in steps]
            look = style(method)
            ax.plot(
                [*x, max(ends)], [*y, y[-1]], color=look["color"], linewidth=0.8, linestyle=":", drawstyle="steps-post"
            )
            ax.plot(x, y, **look, linewidth=1.2, drawstyle="steps-post", markevery=_every(len(x), 8))
        if log:
            _log_axis(ax, [*starts, *ends])
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set_title(title)
        if _first_column(ax):
            ax.set_ylabel("test accuracy in %")
    for ax in _lowest(axes):
        ax.set_xlabel(label)
    _legend(figure, list(dict.fromkeys(m for p in panels.values() for m in p)))
    return figure
