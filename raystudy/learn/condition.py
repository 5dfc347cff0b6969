"""A cell's data as a ``Condition`` that pictures are drawn from: all labels, some images, the matrix that the noise model has."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystudy.data import corruption, noise, smoke
from raystudy.data.dataset import plain
from raystudy.data.noise import Matrix, Noise
from raystudy.data.pictures import IMAGES, Condition, shortened
from raystudy.errors import InputError
from raystudy.learn.celldata import CellData, in_memory, joined

NEAREST = 5  # other vectors told of each
STREAM_SHEET = 0x73686F77
ASSUMED = "nobody knows which labels were wrong before: what is called true here is the labels as they came"


def assumption(cell: CellData, setting: Noise) -> tuple[str, ...]:
    """What to say where noise was drawn on labels of which nobody knows whether they are right."""
    return (ASSUMED,) if cell.assumed and setting.rate else ()


def condition(
    cell: CellData, setting: Noise, classes: tuple[str, ...], images: int = IMAGES, notes: tuple[str, ...] = ()
) -> Condition:
    """Of prepared data, training and validation images alike; up to ``images`` for the contact sheet.

    ``notes``: those of the data set (``Dataset.remarks``). Where nobody knows the truth and no noise is drawn, there is no rate and no
    matrix; where noise is drawn on such labels, they are taken to be right, which is a note.
    """
    n, m = len(cell.y), len(cell.y_val)
    chosen = np.sort(noise.generator(STREAM_SHEET, setting.seed).permutation(n + m)[:images])
    places = torch.from_numpy(chosen)
    drawn = not (cell.assumed and setting.rate == 0)
    known = cell.effective_rate is not None and drawn
    near, far = (None, None) if len(cell.shape) == 3 else _nearest(cell, places)
    x = in_memory(joined(plain(cell.x[places[places < n]]), cell.x_held[places[places >= n] - n])).cpu().numpy()
    return Condition(
        title=shortened(f"{cell.title or cell.name}, {setting.label}, noise seed {setting.seed}", 90),
        chosen=chosen,
        x=x if near is None else x[:, :0],
        given=torch.cat([cell.y, cell.y_val]).cpu().numpy(),
        clean=torch.cat([cell.truth.clean, cell.truth.val_clean]).cpu().numpy() if known else None,
        classes=classes,
        nominal=None if not drawn or setting.rate == noise.row(setting.kind).default else setting.rate,
        expected=_expected(cell, setting) if drawn else None,
        notes=notes + assumption(cell, setting),
        places=cell.places.numpy(),
        nearest=near,
        distance=far,
    )


def _nearest(cell: CellData, places: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of standardised vectors, training and validation ones alike: the NEAREST others of those at ``places``, and how far they are."""
    every = torch.cat([in_memory(plain(x)).float() for x in (cell.x, cell.x_val)])
    mean, std = (torch.tensor(told, device=every.device) for told in (cell.mean, cell.std))
    every = (every - mean) / std
    here = places.to(every.device)
    distance = torch.cdist(every[here], every)
    distance[torch.arange(len(here)), here] = torch.inf
    far, near = distance.topk(min(NEAREST, len(every) - 1), largest=False)
    return near.cpu().numpy(), far.cpu().double().numpy()


def _expected(cell: CellData, setting: Noise) -> Matrix | None:
    """The transition matrix of the noise model; None for a kind that has none (human labels, noise that depends on the image)."""
    if setting.kind == "matrix":
        full = corruption.read_matrix(Path(setting.variant), cell.n_classes)
        return (1 - setting.rate) * np.eye(cell.n_classes) + setting.rate * full
    if setting.kind == "asymmetric" and not setting.variant:
        setting = replace(setting, variant=noise.CLASS_MAP_OF[cell.name.removeprefix(smoke.PREFIX)])
    try:
        return noise.transition_matrix(setting, cell.n_classes)
    except InputError:
        return None
