"""How methods agree on which images they distrust: heat maps of a number for every pair of them."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.look import WIDTH, first_column, grid

NUMBERS = 12  # methods up to which numbers are written in


def agreement(methods: Sequence[str], panels: Mapping[str, NDArray[np.float64]]) -> Figure | None:
    """Matrices [k, k] side by side, of values up to 1; None for fewer than two methods."""
    if len(methods) < 2:
        return None
    figure, axes = grid(len(panels), len(panels), height=WIDTH / len(panels) * 0.92)
    image = None
    for ax, (title, m) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(m, cmap="cividis", vmin=0, vmax=1)
        ax.set_title(title)
        ax.grid(visible=False)
        ax.set_xticks(range(len(methods)), methods, rotation=90)
        ax.set_yticks(range(len(methods)), methods if first_column(ax) else [""] * len(methods))
        for i, j in np.ndindex(m.shape) if len(methods) <= NUMBERS else ():
            if not np.isnan(m[i, j]):
                colour = "white" if m[i, j] < 0.55 else "black"
                ax.text(j, i, f"{m[i, j]:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.7, pad=0.02)
    return figure
