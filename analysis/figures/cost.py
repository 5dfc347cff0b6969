"""What accuracy costs: a training, and a search at equal budgets."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.look import broken, every, first_column, grid, legend, log_axis, lowest
from analysis.palette import style


def cost(panels: Mapping[str, Mapping[str, tuple[float, float, float]]], label: str, measured: str) -> Figure | None:
    """Accuracy against what a training costs: (cost, mean, standard deviation) of each method, a panel for each noise level."""
    panels = {k: {m: v for m, v in p.items() if v[0] > 0 and not math.isnan(v[1])} for k, p in panels.items()}
    panels = {k: p for k, p in panels.items() if p}
    if not panels:
        return None
    figure, axes = grid(len(panels), columns=4 if len(panels) != 5 else 3, height=1.8, sharex=True)
    for ax, (title, told) in zip(axes, panels.items(), strict=True):
        for method, (x, mean, std) in told.items():
            look = style(method) | {"linestyle": "none"}
            ax.errorbar([x], [100 * mean], [0 if math.isnan(std) else 100 * std], **look, capsize=2, elinewidth=0.8)
        log_axis(ax, [v[0] for p in panels.values() for v in p.values()])
        ax.set_title(title)
        if first_column(ax):
            ax.set_ylabel(broken(f"{measured} in %"))
    for ax in lowest(axes):
        ax.set_xlabel(label)
    legend(figure, list(dict.fromkeys(m for p in panels.values() for m in p)), line=False)
    return figure


def budgets(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], label: str, log: bool, measured: str
) -> Figure | None:
    """Test accuracy of the point a search would have chosen after a budget: steps of ``select.progress``, a panel for each level."""
    panels = {
        k: {m: [s for s in v if s[0] > 0 and not math.isnan(s[1])] for m, v in p.items()} for k, p in panels.items()
    }
    panels = {k: {m: v for m, v in p.items() if v} for k, p in panels.items()}
    panels = {k: p for k, p in panels.items() if p}
    if not panels:
        return None
    figure, axes = grid(len(panels), columns=4 if len(panels) != 5 else 3, height=1.8, sharex=True)
    ends = [v[-1][0] for p in panels.values() for v in p.values()]
    starts = [v[0][0] for p in panels.values() for v in p.values()]
    for ax, (title, told) in zip(axes, panels.items(), strict=True):
        for method, steps in told.items():
            x, y = [s[0] for s in steps], [100 * s[1] for s in steps]
            look = style(method)
            ax.plot(
                [*x, max(ends)], [*y, y[-1]], color=look["color"], linewidth=0.8, linestyle=":", drawstyle="steps-post"
            )
            ax.plot(x, y, **look, linewidth=1.2, drawstyle="steps-post", markevery=every(len(x), 8))
        if log:
            log_axis(ax, [*starts, *ends])
        else:
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        ax.set_title(title)
        if first_column(ax):
            ax.set_ylabel(broken(f"{measured} in %"))
    for ax in lowest(axes):
        ax.set_xlabel(label)
    legend(figure, list(dict.fromkeys(m for p in panels.values() for m in p)))
    return figure
