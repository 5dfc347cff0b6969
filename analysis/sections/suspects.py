"""Suspects: which images the methods distrust at their chosen points, and how the methods agree."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from analysis import suspects, words
from analysis.figures import suspects as figures
from analysis.grid import Group, Outcome
from analysis.material import FEW, TOP, Item, Material, Plot
from analysis.sheets import Row, Sheet, num
from analysis.suspects import PARTS, Trust
from raystudy.data import masks
from raystudy.data.noise import Labels
from raystudy.design.study import Cell, slug
from raystudy.errors import InputError

SHOWN = 5  # images in an entry of a table
LISTED = 1000  # images of a method in a table's CSV

Found = Mapping[str, Mapping[str, Trust]]  # by part of the images, by method


def items(material: Material) -> Iterator[Item]:
    for g in material.groups:
        for level, row in g.some(FEW).items():
            yield from _level(material, g, level, row)


def _level(material: Material, g: Group, level: str, row: Mapping[str, Outcome]) -> Iterator[Item]:
    left = {m: suspects.left(material.folder, row[m].tuned) for m in g.methods() if m in row}
    found = {part: {m: t for m, a in left.items() if (t := suspects.trusted(a, part))} for part in PARTS}
    name, where = f"{g.name}-{slug(level.removeprefix('noise '))}", f"{g.title}, {level}"
    if any(found.values()):
        yield _sheet(name, where, found, _wrong(material, next(iter(row.values())).cell) if g.known else None)
    top, kept = g.top(TOP)
    alike = suspects.comparable({m: t for m, t in found["training"].items() if m in top})
    figure = figures.agreement(list(alike), suspects.agreement(alike)) if len(alike) > 1 else None
    absent = words.ALONE if alike else words.NO_SUSPECTS
    yield Plot(f"agreement-{name}", f"Agreement on training images, {where}", words.AGREEMENT + kept, figure, absent)


def _wrong(material: Material, cell: Cell) -> Labels | None:
    """The truth of every image by its position, where the study's mask can be read."""
    with contextlib.suppress(InputError, OSError):
        return masks.load(material.folder / "masks" / f"{cell.data_key}.npz").clean
    return None


def _sheet(name: str, where: str, found: Found, clean: Labels | None) -> Sheet:
    """A row a method: by what it is judged, how often it is right where the truth is known, its first images."""
    rows: list[Row] = []
    long: list[dict[str, Any]] = []
    for method, training in found["training"].items():
        validation = found["validation"][method]
        row: Row = [method, training.measure]
        if clean is not None:
            row += [num(_hits(t, clean), 0, 100) for t in (training, validation)]
        rows.append([*row, _first(training), _first(validation)])
        for part, trust in zip(PARTS, (training, validation), strict=True):
            listed = suspects.rows(trust, np.arange(min(LISTED, len(trust.worst()))))
            told = {"method": method, "part": part, "measure": trust.measure}
            long += [told | dict(zip(listed, v, strict=True)) for v in zip(*listed.values(), strict=True)]
    truth = [f"{part}: % of the worst {suspects.WORST:.0%} wrong" for part in PARTS] if clean is not None else []
    columns = ["method", "told by", *truth, *(f"{part} images" for part in PARTS)]
    return Sheet(f"suspects-{name}", f"Most distrusted images, {where}", columns, rows, words.SUSPECTS, long)


def _hits(trust: Trust, clean: Labels) -> float:
    """The share of the most distrusted labels that are wrong."""
    worst = trust.worst()
    if trust.image.max() >= len(clean):  # another set's mask
        return float("nan")
    return float((clean[trust.image[worst]] != trust.given[worst]).mean())


def _first(trust: Trust) -> str:
    """``17: 3→5 (0.02), ...``"""
    places = trust.order()[:SHOWN]
    told = zip(*(x[places] for x in (trust.image, trust.given, trust.predicted, trust.trust)), strict=True)
    return ", ".join(f"{i}: {given}→{predicted} ({t:.2f})" for i, given, predicted, t in told)
