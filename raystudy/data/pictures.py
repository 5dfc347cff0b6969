"""Pictures of a condition, a data set under noise: images with their labels, the transition matrix, rates, class counts.

Here belong the pictures a person looks at before trusting a study, drawn from a ``Condition``; what studies measured is drawn in
``analysis``.
"""

import csv
import io
import json
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raystudy.data import fonts
from raystudy.data.noise import Matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 25  # classes up to which each is named on an axis and each entry of a matrix has its number

IMAGES = 60
TILE, LINE = 1.05, 0.17  # inches: of an image of the contact sheet, of a line of text below it
RIGHT, WRONG, QUIET = "#2a6f97", "#c1121f", "#8d99ae"


@dataclass(frozen=True)
class Condition:
    """What the pictures are drawn from: the labels of the whole training set under noise, and some of its images."""

    title: str
    chosen: NDArray[np.int64]  # [n] positions of the images of the contact sheet, drawn at random
    x: NDArray[np.uint8]  # [n, C, H, W] those images; of vectors nobody can see, [n, 0]
    given: NDArray[np.int64]  # [N]
    clean: NDArray[np.int64] | None  # [N]; -1: the image shows none of the classes. None: nobody knows
    classes: tuple[str, ...]
    nominal: float | None  # the rate asked for; None where none was
    expected: Matrix | None  # [K, K] of the noise model; None where it has none
    notes: tuple[str, ...] = ()  # what a person should hear of the data, a sentence each
    places: NDArray[np.int64] | None = None  # [N] where each is in the data set
    nearest: NDArray[np.int64] | None = (
        None  # [n, k] of vectors: positions of the training vectors nearest to the chosen
    )
    distance: NDArray[np.float64] | None = None  # [n, k] how far they are

    @property
    def kind(self) -> str:
        return "images" if self.nearest is None else "vectors"

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and which letters of the names cannot be drawn here."""
        return self.notes + fonts.told((self.title, *self.classes))

    @property
    def realised(self) -> Matrix | None:
        """Counted [K, K] P(given j | true i); NaN in the rows of classes that have no image; None where nobody knows."""
        if self.clean is None:
            return None
        k, inside = len(self.classes), self.clean >= 0
        counts = np.zeros((k, k))
        np.add.at(counts, (self.clean[inside], self.given[inside]), 1)
        with np.errstate(invalid="ignore"):
            out: Matrix = counts / counts.sum(1, keepdims=True)
        return out

    @property
    def effective(self) -> float | None:
        """The share of wrong labels."""
        return None if self.clean is None else float((self.clean != self.given).mean())


def pictures(shown: Condition, out: Path) -> list[Path]:
    """Writes ``sheet``, ``matrix``, ``rates`` and ``counts`` (.png), ``summary.json`` and ``classes.csv`` into ``out``.

    In place of the sheet, vectors have ``nearest.csv``: some of them, and the labels of the nearest others. Where the truth is
    unknown there are no rates, and a matrix only if the noise model has one. Each file appears whole or not at all. Returns the
    files.
    """
    from matplotlib import rc_context

    out.mkdir(parents=True, exist_ok=True)
    written = fonts.families("".join((shown.title, *shown.classes)))[0]
    # A dollar sign in a class name is a dollar sign.
    with rc_context({"text.parse_math": False, "font.family": list(written)}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # told once, in ``remarks``
        drawn = {"counts": counts(shown)}
        if shown.nearest is None:
            drawn["sheet"] = sheet(shown)
        if shown.expected is not None or shown.realised is not None:
            drawn["matrix"] = matrices(shown)
        if shown.clean is not None:
            drawn["rates"] = rates(shown)
        files = []
        for name, figure in drawn.items():
            files.append(out / f"{name}.png")
            new = out / f".{name}.{os.getpid()}.png"
            figure.savefig(new, dpi=130)
            os.replace(new, files[-1])
    rows = by_class(shown)
    told = {
        "condition": shown.title,
        shown.kind: len(shown.given),
        "classes": len(shown.classes),
        "nominal_rate": shown.nominal,
        "expected_rate": _expected_rate(shown),
        "effective_rate": shown.effective,
        "outside_all_classes": None if shown.clean is None else int((shown.clean < 0).sum()),
        "smallest_class_given": min(row["given"] for row in rows),
        "largest_class_given": max(row["given"] for row in rows),
        "notes": list(shown.remarks),
    }
    if shown.nearest is not None:
        told["nearest_with_the_same_given_label"] = alike(shown)
    texts = {"summary.json": json.dumps(told, indent=1) + "\n", "classes.csv": _csv(rows)}
    if shown.nearest is not None:
        texts["nearest.csv"] = _csv(by_vector(shown))
    for name, text in texts.items():
        new = out / f".{name}.{os.getpid()}"
        new.write_text(text, encoding="utf-8")
        os.replace(new, out / name)
        files.append(out / name)
    return files


def by_class(shown: Condition) -> list[dict[str, Any]]:
    """A row per class: its name, how many images have it given and true, and how many of the true ones are labelled wrongly."""
    k = len(shown.classes)
    given = np.bincount(shown.given, minlength=k)
    if shown.clean is None:
        return [{"class": i, "name": shown.classes[i], "given": int(given[i])} for i in range(k)]
    inside = shown.clean >= 0
    true = np.bincount(shown.clean[inside], minlength=k)
    wrong = np.bincount(shown.clean[inside & (shown.clean != shown.given)], minlength=k)
    return [
        {
            "class": i,
            "name": shown.classes[i],
            "given": int(given[i]),
            "true": int(true[i]),
            "wrong": int(wrong[i]),
            "rate": round(float(wrong[i] / true[i]), 6) if true[i] else "",
        }
        for i in range(k)
    ]


def by_vector(shown: Condition) -> list[dict[str, Any]]:
    """A row per chosen vector: its place in the data set and labels, then place, given label and distance of the nearest others."""
    assert shown.nearest is not None
    assert shown.distance is not None
    assert shown.places is not None
    rows = []
    for i, others, distances in zip(shown.chosen, shown.nearest, shown.distance, strict=True):
        row: dict[str, Any] = {"vector": int(shown.places[i]), "given": shown.classes[shown.given[i]]}
        if shown.clean is not None:
            row["true"] = shown.classes[shown.clean[i]] if shown.clean[i] >= 0 else "no class"
        for k, (j, d) in enumerate(zip(others, distances, strict=True), 1):
            row |= {
                f"nearest{k}": int(shown.places[j]),
                f"given{k}": shown.classes[shown.given[j]],
                f"distance{k}": f"{d:.4g}",
            }
        rows.append(row)
    return rows


def alike(shown: Condition) -> float:
    """The share of the nearest others that have the given label of their vector: of chance where vectors say nothing of labels."""
    assert shown.nearest is not None
    return float((shown.given[shown.nearest] == shown.given[shown.chosen][:, None]).mean())


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _expected_rate(shown: Condition) -> float | None:
    """The rate of wrong labels that the noise model makes of these true labels."""
    if shown.expected is None or shown.clean is None:
        return None
    inside = shown.clean[shown.clean >= 0]
    return float(1 - shown.expected.diagonal()[inside].mean())


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # not pyplot: no global state, so that a thread may draw

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def shortened(name: str, most: int) -> str:
    """The name with its middle left out where it is longer than ``most``: long names often differ at their ends."""
    return name if len(name) <= most else f"{name[: (most - 1) // 2]}…{name[-(most // 2) :]}"


def sheet(shown: Condition) -> "Figure":
    """Images with their given labels; wrong ones framed in red, with the true label below."""
    n = len(shown.chosen)
    columns = min(n, max(1, math.ceil(math.sqrt(1.6 * n))))
    lines = math.ceil(n / columns)
    step = TILE + 2 * LINE + 0.12
    width, height = columns * (TILE + 0.12) + 0.12, lines * step + 0.55
    figure = _figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    wrong = 0
    for place, i in enumerate(shown.chosen):
        left, top = 0.12 + place % columns * (TILE + 0.12), 0.5 + place // columns * step
        image = shown.x[place].transpose(1, 2, 0)
        axes.imshow(
            image[..., 0] if image.shape[2] == 1 else image,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(left, left + TILE, top + TILE, top),
            interpolation="nearest",
            aspect="auto",
        )
        given = shown.classes[shown.given[i]]
        flipped = shown.clean is not None and shown.clean[i] != shown.given[i]
        wrong += flipped
        colour = WRONG if flipped else QUIET
        axes.add_patch(_frame(left, top, colour, 3.0 if flipped else 0.8))
        centre, below = left + TILE / 2, top + TILE + 0.05
        text: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 7.5}
        if not flipped:
            axes.text(centre, below, shortened(given, 17), color="#333333", **text)
            continue
        assert shown.clean is not None
        true = shown.classes[shown.clean[i]] if shown.clean[i] >= 0 else "no class"
        axes.text(centre, below, shortened(given, 14), color=WRONG, weight="bold", **text)
        axes.text(centre, below + LINE, "true " + shortened(true, 12), color="#333333", **text)
    axes.set(xlim=(0, width), ylim=(height, 0))
    told = "truth unknown" if shown.clean is None else f"{wrong} of these {n} wrong (red, the true label below)"
    axes.text(0.12, 0.25, shortened(f"{shown.title}: {told}", max(20, int(width * 11.5))), fontsize=10, va="center")
    return figure


def _frame(left: float, top: float, colour: str, width: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), TILE, TILE, fill=False, edgecolor=colour, linewidth=width)


def matrices(shown: Condition) -> "Figure":
    """The transition matrix as heat maps, expected and realised side by side; of those there are."""
    held = {"expected by the noise model": shown.expected, "realised": shown.realised}
    parts = {name: matrix for name, matrix in held.items() if matrix is not None}
    k = len(shown.classes)
    side = min(max(3.2, 0.46 * k), 9.5) if k <= NAMED else 6.5
    figure = _figure(len(parts) * side + 1.6, side + 1.3)
    every = figure.subplots(1, len(parts), squeeze=False)[0]
    for axes, (name, matrix) in zip(every, parts.items(), strict=True):
        image = axes.imshow(matrix, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("given label")
        axes.set_ylabel("true label")
        _ticks(axes, shown.classes, both=True)
        if k <= NAMED:
            for (i, j), value in np.ndenumerate(matrix):
                if value >= 0.0005:
                    told = f"{100 * value:.0f}" if value >= 0.0095 else f"{100 * value:.1f}"
                    axes.text(
                        j, i, told, ha="center", va="center", fontsize=7, color="white" if value > 0.6 else "black"
                    )
    figure.colorbar(image, ax=list(every), label="P(given | true)", shrink=0.8)
    figure.suptitle(shown.title + (", entries in %" if k <= NAMED else ""), fontsize=11)
    return figure


def _ticks(axes: "Axes", classes: tuple[str, ...], both: bool = False) -> None:
    """Class names where they fit, else class ids."""
    k = len(classes)
    if k <= NAMED:
        places, names = range(k), [shortened(name, 14) for name in classes]
    else:
        places = range(0, k, math.ceil(k / 10))
        names = [str(i) for i in places]
    turned = 90 if max(map(len, names)) > 3 and k <= NAMED else 0
    axes.set_xticks(list(places), names, rotation=turned, fontsize=8)
    if both:
        axes.set_yticks(list(places), names, fontsize=8)


def _bars(shown: Condition) -> tuple["Figure", "Axes"]:
    k = len(shown.classes)
    figure = _figure(min(max(6.0, 0.55 * k + 1), 12), 4.2)
    axes = figure.subplots()
    _ticks(axes, shown.classes)
    axes.set_xlim(-0.7, k - 0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("class" if k <= NAMED else "class id")
    return figure, axes


def rates(shown: Condition) -> "Figure":
    """The share of wrong labels in each true class, beside the nominal and the effective rate of the whole set."""
    figure, axes = _bars(shown)
    rows = by_class(shown)
    axes.bar(range(len(rows)), [row["rate"] or 0 for row in rows], color=RIGHT, width=0.8, label="wrong in this class")
    marks = [(shown.effective, WRONG, "-", "effective")]
    if shown.nominal is not None:
        marks += [(shown.nominal, "black", "--", "nominal"), (_expected_rate(shown), QUIET, ":", "expected effective")]
    for rate, colour, style, name in marks:
        if rate is not None:
            axes.axhline(rate, color=colour, linestyle=style, linewidth=1.6, label=f"{name} {rate:.3f}")
    top = max([row["rate"] or 0 for row in rows] + [rate or 0 for rate, *_ in marks])
    axes.set_ylim(0, max(0.05, min(1.0, 1.12 * top)))
    axes.set_ylabel("share of wrong labels")
    axes.set_title(shown.title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def counts(shown: Condition) -> "Figure":
    """How many images have each class given and, where it is known, true."""
    figure, axes = _bars(shown)
    rows = by_class(shown)
    places = np.arange(len(rows))
    if shown.clean is None:
        axes.bar(places, [row["given"] for row in rows], width=0.8, color=WRONG, label="given")
    else:
        axes.bar(places - 0.2, [row["true"] for row in rows], width=0.4, color=RIGHT, label="true")
        axes.bar(places + 0.2, [row["given"] for row in rows], width=0.4, color=WRONG, label="given")
    axes.set_ylabel(f"training {shown.kind}")
    outside = 0 if shown.clean is None else int((shown.clean < 0).sum())
    axes.set_title(shown.title + (f"; {outside:,} {shown.kind} of no class" if outside else ""), fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
