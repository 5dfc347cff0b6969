"""What a search tried and found: parallel coordinates, importance, and the best hyperparameters over noise rates."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.look import WIDTH, grid, lowest
from analysis.palette import style
from analysis.surfaces import Axis, Surface, recommend
from raystudy.record.ledger import TrialHistory


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
    figure, axes = grid(len(panels), columns=3, height=0.45 + 0.15 * max(map(len, panels.values())))
    for ax, (method, told) in zip(axes, panels.items(), strict=True):
        ax.barh(list(told), list(told.values()), color=style(method)["color"], height=0.7)
        ax.set_ylim(max(map(len, panels.values())) - 0.4, -0.6)  # bars of one thickness in all panels
        ax.set_xlim(0, 1)
        ax.set_title(method)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
    for ax in lowest(axes):
        ax.set_xlabel("importance")
    return figure


def surface(s: Surface) -> Figure:
    """Best value of each hyperparameter over the noise rate: chosen point, published point, span of the best quarter of the trials,
    and the recommendation between the levels."""
    figure, axes = grid(len(s.axes), columns=4 if len(s.axes) != 5 else 3, height=1.45)
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
    for ax in lowest(axes):
        ax.set_xlabel("noise rate")
    handles = [
        Line2D([], [], color=look["color"], marker=look["marker"], label="chosen, and recommended between"),
        Line2D([], [], color="black", marker="x", linestyle="none", label="published"),
        Line2D([], [], color="#bbbbbb", linewidth=4, label="best quarter of the trials"),
    ]
    figure.set_figheight(figure.get_figheight() + 0.17)
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
