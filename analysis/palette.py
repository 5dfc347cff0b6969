"""A method's colour, marker and line, the same in every figure, on every page and in MLflow. Nothing here draws."""

from functools import lru_cache
from importlib import resources
from typing import Any

BASELINE = "ce"
# Okabe and Ito's and Tol's colours that are told apart with any colour vision and in grey print, without the yellows.
# In an order that keeps the methods most often seen together apart.
COLOURS = ("#332288", "#009E73", "#882255", "#D55E00", "#999933", "#0072B2", "#777777", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
SHADES = ((0, 0.0), (255, 0.4), (0, 0.35), (255, 0.65), (0, 0.6), (255, 0.2))  # towards white or black, and how far


@lru_cache(maxsize=1)
def names() -> tuple[str, ...]:
    """All methods, in the order of METHODS: each has one file of search space, and these can be listed without importing torch."""
    files = (f.name for f in resources.files("search_spaces").iterdir())
    return tuple(sorted(f.removesuffix(".toml") for f in files if f.endswith(".toml") and f != "recipes.toml"))


def _place(method: str) -> int:
    others = [n for n in names() if n != BASELINE]
    return others.index(method) if method in others else len(others) + sum(map(ord, method)) % 70


def style(method: str) -> dict[str, Any]:
    """Colour, marker and line of a method; plain cross-entropy is black.

    They follow from its place among all methods, not from who else is there.
    """
    if method == BASELINE:
        return {"color": "black", "marker": "o", "linestyle": "--"}
    i = _place(method)
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": LINES[i // len(COLOURS) % len(LINES)],
    }


def alone(method: str) -> str:
    """A colour of its own, #RRGGBB, where there is neither marker nor line: that of ``style``, lighter or darker where another has it."""
    if method == BASELINE:
        return "#000000"
    turn = _place(method) // len(COLOURS) % len(SHADES)
    parts = (int(style(method)["color"][i : i + 2], 16) for i in (1, 3, 5))
    towards, share = SHADES[turn]
    return "#" + "".join(f"{round(v + share * (towards - v)):02x}" for v in parts)
