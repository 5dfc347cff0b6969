"""Out-of-fold predictions: plain cross-entropy trained on all folds but one, which it then predicts. No truth in them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from raystudy.data.dataset import Images, plain
from raystudy.data.loader import split_validation
from raystudy.data.noise import generator
from raystudy.errors import InputError
from raystudy.learn.celldata import CellData, joined
from raystudy.learn.metrics import Truth
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run

Probs = NDArray[np.float64]  # [N, K]

Labels = NDArray[np.int64]  # [N]

STREAM_FOLDS = 0x666F6C64

INNER = 0.1  # of a fold's training images: what the epoch is chosen on


@dataclass(frozen=True)
class Predictions:
    """What the estimates are made from. No truth in it."""

    probs: Probs  # [N, K] of each image by a network that was not trained on it
    given: Labels  # [N]
    fold: Labels  # [N] the fold that left it out


def folds_of(given: Labels, folds: int, seed: int) -> Labels:
    """The fold [N] of each image: every fold has its share of every given label, to within one image of it."""
    order = np.lexsort((generator(STREAM_FOLDS, seed).random(len(given)), given))
    fold = np.empty(len(given), dtype=np.int64)
    fold[order] = np.arange(len(given)) % folds
    return fold


def predict(
    cell: CellData,
    spec: TrialSpec,
    folds: int,
    tell: Callable[[int, int, float], None] = lambda fold, epoch, accuracy: None,
) -> Predictions:
    """Trains cross-entropy once per fold on the other folds; see ``whole`` for ``cell``.

    A tenth of what a fold is trained on is held out to choose the epoch with the smallest (noisy) loss, before the labels are
    memorised: the images that are predicted choose nothing. ``tell(fold, epoch, accuracy)`` hears of every epoch.
    """
    given = cell.y.cpu().numpy()
    fold = folds_of(given, folds, spec.seed)
    probs = np.zeros((len(given), cell.n_classes))
    for k in range(folds):
        rest, out = (torch.from_numpy(np.flatnonzero(mask)).to(cell.y.device) for mask in (fold != k, fold == k))
        inner, chosen_on = (rest[i.to(rest.device)] for i in split_validation(len(rest), INNER, spec.seed))
        y, y_val = cell.y[inner], cell.y[chosen_on]
        part = replace(
            cell,
            x=cell.x[inner],
            y=y,
            x_held=joined(plain(cell.x[chosen_on]), plain(cell.x[out])),
            y_val=y_val,
            y_test=cell.y[out],
            truth=Truth(
                y, torch.zeros_like(y, dtype=torch.bool), y_val
            ),  # there is none here, so nothing is measured with it
        )
        run = Run(replace(spec, seed=spec.seed + k), part, str(cell.y.device))
        best = float("inf")
        for epoch in range(spec.epochs):
            record = run.epoch()
            if run.diverged:
                raise InputError(
                    f"the network diverged in fold {k + 1}: its loss is not finite; choose another --network"
                )
            if (loss := record["val/loss"] or 0.0) < best:
                best = loss
                probs[out.cpu().numpy()] = _probs(run, part.x_held[len(chosen_on) :])
            tell(k, epoch, record["test/acc"] or 0.0)
    return Predictions(probs, given, fold)


@torch.no_grad()
def _probs(run: Run, x: Images) -> Probs:
    run.method.eval()
    parts = [run.method.probs(chunk) for chunk in run.train_set.chunks(x, run.looked_at_once)]
    out: Probs = torch.cat(parts).double().cpu().numpy()
    return out


def whole(cell: CellData) -> CellData:
    """All images that have a given label, training and validation, as one training set; nothing held out."""
    return replace(
        cell,
        x=joined(cell.x, cell.x_val),
        y=torch.cat([cell.y, cell.y_val]),
        x_held=cell.x_held[:0],
        x_val=cell.x_val[:0],
        y_val=cell.y_val[:0],
        y_test=cell.y_test[:0],
    )
