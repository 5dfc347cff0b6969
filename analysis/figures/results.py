"""Who is better: accuracy over noise rates, mean ranks, and what honest selection of the epoch costs."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.look import WIDTH, first_column, grid, legend, lowest
from analysis.palette import style
from analysis.select import Score
from analysis.stats import ALPHA, Ranking


def rates(levels: Mapping[str, float], scores: Mapping[str, Sequence[Score]], label: str) -> Figure | None:
    """Accuracy in percent over the noise rate of each level; the band is one standard deviation over replicates.

    A level whose rate nobody knows is drawn at 0, under its name.
    """
    shown = {m: s for m, s in scores.items() if any(not math.isnan(v.mean) for v in s)}
    if not shown:
        return None
    figure, (ax,) = grid(1, height=3.2)
    figure.set_figwidth(WIDTH * 0.8)
    x = np.nan_to_num(list(levels.values()))
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
    nominal = all(name == f"{rate:g}" for name, rate in levels.items())
    ax.set(xlabel="nominal noise rate" if nominal else "labels", ylabel=label)
    ax.set_xticks(x, list(levels))
    if len(levels) == 1:
        ax.set_xlim(x[0] - 0.1, x[0] + 0.1)
    legend(figure, list(shown))
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
    more = "" if r.cd <= high - low else "\n(wider than the axis)"
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


def gaps(rows: Mapping[str, Mapping[str, tuple[float, float]]], measured: str) -> Figure | None:
    """What each method loses by honest selection of the epoch: (noisy_val, ORACLE) in each condition, joined."""
    rows = {k: {m: v for m, v in r.items() if not any(map(math.isnan, v))} for k, r in rows.items()}
    rows = {k: r for k, r in rows.items() if r}
    if not rows:
        return None
    figure, axes = grid(
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
        first = first_column(ax)
        ax.set_yticks(range(len(order)), order if first else [])
        ax.set_ylim(len(order) - 0.4, -0.6)
        ax.set_title(title)
    for ax in lowest(axes):
        ax.set_xlabel(f"{measured} in %")
    return figure
