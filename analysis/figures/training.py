"""What happens in training: curves over epochs, losses of right and wrong labels, confusion and transition matrices."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from analysis.figures.look import WIDTH, broken, every, first_column, grid, legend, lowest
from analysis.load import Arrays
from analysis.palette import style
from analysis.select import SUBSET, TEST
from raystudy.data import fonts
from raystudy.record.ledger import TrialHistory

NAME = 12  # letters of a class's name at an axis
FILLS = {"right label": "#0072B2", "wrong label": "#D55E00", "all labels": "#777777"}


def _curve(trial: TrialHistory, metric: str) -> NDArray[np.float64]:
    """Test accuracy is that of a part of the test set where it was not measured on all of it."""
    told = np.asarray(trial.curves[metric])
    part = trial.curves.get(SUBSET) if metric == TEST else None
    return told if part is None else np.where(np.isnan(told), part, told)


def _mean_curve(trials: Sequence[TrialHistory], metric: str) -> NDArray[np.float64] | None:
    curves = [_curve(t, metric) for t in trials if metric in t.curves and t.epochs]
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
                    looked = np.flatnonzero(~np.isnan(y))  # a line goes on over epochs that were not evaluated
                    few = len(looked) < 3
                    ax.plot(
                        looked + 1,
                        y[looked],
                        **style(method),
                        linewidth=1,
                        markersize=3,
                        markevery=None if few else every(len(looked), 6),
                    )
            if i == 0:
                ax.set_title(level)
            if i == len(rows) - 1:
                ax.set_xlabel("epoch")
                ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            if j == 0:
                ax.set_ylabel(broken(metrics[row]))
    legend(figure, list(dict.fromkeys(k[2] for k in found)))
    return figure


def _counts(a: Arrays, known: bool) -> dict[str, NDArray]:
    """How many labels have which loss: right and wrong ones apart where that is known, else all together."""
    if known and "clean" in a:
        return {"right label": a["clean"], "wrong label": a["wrong"]}
    return {"all labels": a["all"] if "all" in a else a["clean"] + a["wrong"]}


def losses(panels: Mapping[str, Arrays], known: bool) -> Figure | None:
    """Histograms of the training loss after the last epoch, with the two Gaussians fitted to all labels; ``known``: of right and wrong
    labels apart."""
    if not panels:
        return None
    figure, axes = grid(len(panels), height=1.45)
    for ax, (title, a) in zip(axes, panels.items(), strict=True):
        edges, counts = a["edges"], _counts(a, known)
        total = sum(c.sum() for c in counts.values())
        first = np.arange(0, len(edges) - 1, 2)  # two bins a step
        steps = np.append(edges[first], edges[-1])
        floor, highest = 0.5 / total / np.diff(steps).mean(), 0.0
        for name, count in counts.items():
            y = np.add.reduceat(count, first) / total / np.diff(steps)
            highest = max(highest, float(y.max()))
            ax.stairs(y, steps, baseline=floor, fill=True, color=FILLS[name], alpha=0.6, linewidth=0)
        x = np.linspace(edges[0], edges[-1], 400)
        for mean, variance, weight in a["gmm"].T:
            if weight > 0:
                density = weight * np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
                ax.plot(x, density, color="black", linewidth=1, linestyle="--")
        ax.set_yscale("log")
        ax.yaxis.set_minor_locator(NullLocator())  # they take longer to draw than all the rest
        ax.set_ylim(floor, 4 * highest)  # a component may be far narrower than a step
        ax.set_title(title)
        ax.grid(visible=False)
        if first_column(ax):
            ax.set_ylabel("density (log)")
    for ax in lowest(axes):
        ax.set_xlabel("loss in nats")
    shown = dict.fromkeys(name for a in panels.values() for name in _counts(a, known))
    handles = [
        *(Patch(color=FILLS[name], alpha=0.6, label=name) for name in shown),
        Line2D([], [], color="black", linestyle="--", label="fitted Gaussians"),
    ]
    figure.set_figheight(figure.get_figheight() + 0.17)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _short(name: str) -> str:
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def matrices(panels: Mapping[str, NDArray], across: str, down: str, names: Sequence[str] = ()) -> Figure | None:
    """Matrices of counts or probabilities with rows made to sum to 100 %; numbers are written in where there is room.

    ``names``: of the classes, in place of their numbers.
    """
    if not panels:
        return None
    n, k = len(panels), len(next(iter(panels.values())))
    columns = min(n, 2 if k <= 12 and n <= 4 else 4)
    size = WIDTH / columns
    figure, axes = grid(n, columns, height=size * 0.95)
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
        shown = [_short(names[i]) if names else str(i) for i in ticks]
        font: dict[str, Any] = {"family": list(fonts.families("".join(shown))[0])} if names else {}
        ax.set_xticks(ticks, shown, rotation=90 if max(map(len, shown)) > 3 else 0, **font)
        ax.set_yticks(ticks, shown, **font)
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
        if first_column(ax):
            ax.set_ylabel(down)
    for ax in lowest(axes):
        ax.set_xlabel(across)
    assert image is not None
    figure.colorbar(image, ax=axes, label="% of row", shrink=0.6 if n > columns else 0.9, pad=0.02)
    return figure
