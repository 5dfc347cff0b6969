"""Places of a study over time: how many there were, and what became of them."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.look import WIDTH, grid
from analysis.usage import Course
from raystudy.record.usage import IDLE

AREAS = {"busy": "#0072B2", "starting": "#999933", "waiting": "#E69F00", "ending": "#DDDDDD"}


def places(told: Course) -> Figure | None:
    """How many places there were, and what became of them, over time; where that is not known, those in which trials trained."""
    if not told.hours:
        return None
    hours = told.hours[-1]
    unit, scale = ("hours", 1) if hours >= 2 else ("minutes", 60) if hours >= 2 / 60 else ("seconds", 3600)
    x = [0.0, *(scale * h for h in told.hours)]
    shown = {name: told.means[name] for name in AREAS if any(told.means[name])}
    figure, (ax,) = grid(1, height=2.2)
    figure.set_figwidth(WIDTH)
    labels = ["busy" if name == "busy" else f"idle: {IDLE[name]}" for name in shown]
    heights = [[v[0], *v] for v in shown.values()]
    ax.stackplot(x, heights, labels=labels, colors=[AREAS[n] for n in shown], step="pre", linewidth=0)
    if any(told.means["places"]):
        line = told.means["places"]
        ax.plot(x, [line[0], *line], color="black", linewidth=1, drawstyle="steps-pre", label="places")
    ax.set_xlim(0, x[-1])
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set_xlabel(f"{unit} in which a sweep ran")
    ax.set_ylabel("places")
    figure.set_figheight(figure.get_figheight() + 0.35)
    figure.legend(loc="outside lower center", ncols=2)
    return figure
