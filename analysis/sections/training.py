"""Training: what happened over epochs, and to the samples, at the chosen points."""

import contextlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from analysis import collapse, truth, words
from analysis.figures import training as figures
from analysis.grid import Group, Outcome
from analysis.material import FEW, TOP, Item, Material, Plot
from analysis.select import FILTER, filtered
from analysis.sheets import Row, Sheet, num, sentence
from raystudy.data import evaluation, masks
from raystudy.data.noise import transition_matrix
from raystudy.design.study import Cell, slug
from raystudy.errors import InputError


def items(material: Material) -> Iterator[Item]:
    yield from _collapsed(material)
    yield from _filtered(material)
    for g in material.groups:
        some, (top, kept) = g.some(FEW), g.top(TOP)
        panels = {level: {m: row[m].tuned for m in top if m in row} for level, row in some.items()}
        kept += "" if len(some) == len(g.levels) else f" Shown: {len(some)} of {len(g.levels)} noise levels."
        curve, memory = {"test/acc": f"{g.measured} in %"}, " and memorisation" * g.known
        if g.known:
            curve |= {"label/memorised": "memorised in %", "label/corrected": "corrected in %"}
        title = f"{sentence(g.measured)}{memory} over epochs, {g.title}"
        part = evaluation.parse(material.study.evaluate).test
        kept += words.IN_PART.format(n=part) * bool(part)
        text = f"{words.CURVES} {words.MEMORY if g.known else f'Memorisation {truth.UNKNOWN}.'}{g.starred()}{g.relative}{kept}"
        yield Plot(f"curves-{g.name}", title, text, figures.curves(panels, curve))
        sieve = {"select/precision": "precision in %", "select/recall": "recall in %", "select/auroc": "AUROC in %"}
        title, why = f"Precision and recall of the selection over epochs, {g.title}", "no method here weighs samples"
        figure = figures.curves(panels, sieve) if g.known else None
        yield Plot(f"sieve-{g.name}", title, words.SIEVE + kept, figure, why if g.known else truth.UNKNOWN)
        yield from _per_sample(material, g, some)


def _collapsed(material: Material) -> Iterator[Item]:
    """The cells in which trainings collapsed; nothing where none did."""
    rows: list[Row] = []
    for o in material.outcomes:
        for fallen in collapse.found({o.cell: o.history}, [o.cell]):
            first = min(collapse.epochs(t)[0] for t in fallen.trials)
            chosen = sum(bool(collapse.epochs(t)) for t in o.tuned)
            row: Row = [
                o.condition,
                o.method,
                collapse.what(fallen.trials),
                f"{len(fallen.trials)} of {fallen.of}",
                f"{chosen} of {len(o.tuned)}",
            ]
            rows.append([*row, num(first + 1, digits=0)])
    if rows:
        columns = ["noise", "method", "what", "trials", "of the chosen point", "first in epoch"]
        yield Sheet("collapsed", "Trials that collapsed", columns, rows, words.COLLAPSED)


def _filtered(material: Material) -> Iterator[Item]:
    """What filters did before any method, a row a condition: all its methods trained on the same."""
    rows: dict[tuple[str, str], Row] = {}
    for o in material.outcomes:
        chosen = material.study.filter_of(o.cell)
        told = next((found for t in o.history.trials.values() if (found := filtered(t))), {})
        if chosen and told:
            removed, relabelled, *shares = (told.get(what, math.nan) for what in FILTER)
            row: Row = [o.condition, chosen, num(removed, 0), num(relabelled, 0), *(num(v, 1, 100) for v in shares)]
            rows.setdefault((o.condition, chosen), row)
    if rows:
        columns = [
            "noise",
            "filter",
            "removed",
            "relabelled",
            "precision in %",
            "recall in %",
            "AUROC in %",
            "wrong left in %",
        ]
        yield Sheet("filter", "What the filter did before the methods", columns, list(rows.values()), words.FILTER)


def _per_sample(material: Material, g: Group, some: Mapping[str, Mapping[str, Outcome]]) -> Iterator[Item]:
    transitions: dict[str, NDArray] = {}
    top, kept = g.top(TOP)
    for level, row in some.items():
        found = {m: a for m in top if m in row and (a := material.arrays(row[m].tuned))}
        name = f"{g.name}-{slug(level.removeprefix('noise '))}"
        figure = figures.losses({m: a[0] for m, a in found.items()}, g.known)
        title = f"Losses of {'right and wrong' if g.known else 'all'} labels, {g.title}, {level}"
        text = words.LOSSES if g.known else f"{words.LOSSES} Right and wrong labels apart: {truth.UNKNOWN}."
        yield Plot(f"losses-{name}", title, text + kept, figure, words.NO_ARRAYS)
        sums = {m: np.sum([x["confusion"] for x in a], axis=0) for m, a in found.items()}
        clean = all(truth.tested_clean(o.history.header) for o in row.values())
        figure = figures.matrices(sums, "predicted class", "class" if clean else "given class", g.classes)
        title = f"Confusion on the test set, {g.title}, {level}"
        yield Plot(f"confusion-{name}", title, words.CONFUSION + kept, figure, words.NO_ARRAYS)
        if g.known:
            cell = next(iter(row.values())).cell
            counted = next((a[0]["transition"] for a in found.values() if "transition" in a[0]), None)
            transitions |= {f"{level}, {what}": m for what, m in _transition(material, cell, counted).items()}
    figure = figures.matrices(transitions, "given class", "class as it came" if g.relative else "true class", g.classes)
    title, why = f"Noise transition matrices, {g.title}", words.NO_ARRAYS if g.known else truth.UNKNOWN
    yield Plot(f"transition-{g.name}", title, words.TRANSITION + g.relative, figure, why)


def _transition(material: Material, cell: Cell, counted: NDArray | None) -> dict[str, NDArray]:
    """How often each class is given for each: as counted in the labels, and as the noise has it. The study's stored mask tells
    both; without one the first trial's ``counted`` and the model of the noise."""
    with contextlib.suppress(InputError, OSError):
        mask = masks.load(material.folder / "masks" / f"{cell.data_key}.npz")
        k, known = len(mask.matrix), mask.clean >= 0
        labels = np.bincount(mask.clean[known] * k + mask.given[known], minlength=k * k).reshape(k, k)
        return {"the labels": labels, "the model": mask.matrix}
    if counted is None:
        return {}
    with contextlib.suppress(InputError):  # a kind of noise that is no matrix
        return {"the labels": counted, "the model": transition_matrix(cell.noise, len(counted))}
    return {"the labels": counted}
