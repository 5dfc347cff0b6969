"""The noise of labels whose truth nobody knows: its rate and its transition matrix, estimated from out-of-sample predictions.

Here belong the predictions (plain cross-entropy, K-fold), the estimates from them, and how sure they are. What the estimates
rest on is told with them (``ASSUMPTIONS``), since no interval covers an assumption that does not hold.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raystudy.data import datasets
from raystudy.data.dataset import Images
from raystudy.data.loader import split_validation
from raystudy.data.noise import Matrix, Noise, generator, parse
from raystudy.design.ask import default_setting
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn import networks, ops
from raystudy.learn.celldata import CellData, joined, prepare
from raystudy.learn.metrics import Truth
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, device_here

Probs = NDArray[np.float64]  # [N, K]
Labels = NDArray[np.int64]  # [N]

STREAM_FOLDS = 0x666F6C64
STREAM_BOOTSTRAP = 0x626F6F74
INNER = 0.1  # of a fold's training images: what the epoch is chosen on
ANCHOR_PERCENTILE = 97.0  # Patrini et al.'s; they take the largest probability where there are 100 classes

# Anchors counted for a class, and never more than half of its share of the images, N/K. More of them are surer of what they
# say, but include images that the network gets wrong: chosen on digits and CIFAR-10N, see docs/noise-estimation.md.
ANCHORS = 64

ASSUMPTIONS = (
    "all: noise depends on the class alone, not on the image; mistakes that gather on hard images cannot be told from the network's own",
    "all: in every class the right label is the most frequent one",
    "confident: the network tells the classes apart; classes that it confuses look like noise between them",
    "anchor-count: the images it is surest of are of the class it says; rather less noise is found than there is where mistakes "
    "gather on hard images",
    "anchor: besides, its probabilities are right at one single image of each class; the roughest of the three",
    "no more than: holds without the network being good, as a poor one only makes the bound wider",
)


@dataclass(frozen=True)
class Predictions:
    """What the estimates are made from. No truth in it."""

    probs: Probs  # [N, K] of each image by a network that was not trained on it
    given: Labels  # [N]
    fold: Labels  # [N] the fold that left it out


@dataclass(frozen=True)
class Estimate:
    """One estimator's answer. Intervals are 95 %, from ``bootstrap``."""

    rate: float  # share of wrong labels
    matrix: Matrix  # [K, K] P(given j | true i)
    rate_interval: tuple[float, float]
    matrix_interval: tuple[Matrix, Matrix]  # of each entry by itself


# --- predictions --------------------------------------------------------------------------------------------------


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
            x_held=joined(cell.x[chosen_on], cell.x[out]),
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
    size = max(1, (1 << 16) // (x.shape[2] * x.shape[3]))
    parts = [run.method.probs(chunk) for chunk in run.train_set.chunks(x, size)]
    out: Probs = torch.cat(parts).double().cpu().numpy()
    return out


def whole(cell: CellData) -> CellData:
    """All images that have a given label, training and validation, as one training set; nothing held out."""
    m = len(cell.y_val)
    return replace(
        cell,
        x=joined(cell.x, cell.x_held[:m]),
        y=torch.cat([cell.y, cell.y_val]),
        x_held=cell.x_held[:0],
        y_val=cell.y_val[:0],
        y_test=cell.y_test[:0],
    )


# --- estimates ----------------------------------------------------------------------------------------------------


def anchor(probs: Probs, given: Labels) -> Matrix:
    """T [K, K] as the predictions at anchor points: ``ops.anchor_transition`` (Patrini et al. 2017, section 4.1).

    At the 97th percentile, the largest probability from 100 classes on, as the original; rows made to sum to 1.
    """
    percentile = ANCHOR_PERCENTILE if probs.shape[1] < 100 else 100.0
    out: Matrix = ops.row_normalise(ops.anchor_transition(torch.from_numpy(probs), percentile)[0]).numpy()
    return out


def anchor_count(probs: Probs, given: Labels) -> Matrix:
    """T [K, K] as the given labels of many anchors, counted: for class i the 64 (at most N/(2K)) images with the largest p_i.

    The labels were not seen by the network that chose the images, so a frequency needs no calibrated probability.
    """
    n, k = probs.shape
    many = max(1, min(ANCHORS, round(n / (2 * k))))
    rows = [np.bincount(given[np.argpartition(-p, many - 1)[:many]], minlength=k) for p in probs.T]
    return np.stack(rows) / many


def confident(probs: Probs, given: Labels) -> Matrix:
    """T [K, K] from the confident joint of Northcutt et al. 2021 (section 3.1), counted by cleanlab.

    An image counts as of class j where p_j reaches the mean p_j of the images labelled j; counts are scaled to the labels given.
    """
    from cleanlab.count import compute_confident_joint  # not at the top: seconds

    joint = np.asarray(compute_confident_joint(given, probs, calibrate=True), dtype=np.float64)  # [given, true]
    out: Matrix = ops.row_normalise(torch.from_numpy(joint.T.copy())).numpy()
    return out


Estimator = Callable[[Probs, Labels], Matrix]
ESTIMATORS: dict[str, Estimator] = {"confident": confident, "anchor-count": anchor_count, "anchor": anchor}
CHOSEN = (
    "confident"  # whose matrix is written for others to read: the best on known noise, see docs/noise-estimation.md
)


def rate_of(matrix: Matrix, given: Labels) -> float:
    """The share of wrong labels under T [K, K]: 1 - sum_i pi_i T_ii, with the prior pi >= 0 that explains the labels best.

    pi T = the frequencies of the given labels, in least squares.
    """
    from scipy.optimize import nnls

    frequencies = np.bincount(given, minlength=len(matrix)) / len(given)
    prior = nnls(matrix.T, frequencies)[0]
    return max(0.0, float(1 - prior @ matrix.diagonal() / prior.sum()))  # not -0


def bootstrap(told: Predictions, estimator: Estimator, draws: int, seed: int) -> Estimate:
    """An estimate with 95 % intervals: folds drawn with replacement, then images within each.

    So the intervals hold what images and what networks happened to be drawn; not a mistake that all networks share.
    """
    rng = generator(STREAM_BOOTSTRAP, seed)
    members = [np.flatnonzero(told.fold == k) for k in range(int(told.fold.max()) + 1)]
    rates, matrices = [], []
    for _ in range(draws):
        chosen = np.concatenate(
            [rng.choice(members[k], len(members[k])) for k in rng.integers(len(members), size=len(members))]
        )
        matrix = estimator(told.probs[chosen], told.given[chosen])
        matrices.append(matrix)
        rates.append(rate_of(matrix, told.given[chosen]))
    matrix = estimator(told.probs, told.given)
    low, high = np.quantile(np.stack(matrices), (0.025, 0.975), axis=0)
    return Estimate(rate_of(matrix, told.given), matrix, _quantiles(rates), (low, high))


def _quantiles(values: list[float]) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def at_most(told: Predictions) -> tuple[float, float]:
    """An upper bound of the noise rate, and the same with 97.5 % confidence against chance in the images.

    Under noise by class whose rows have their largest entry on the diagonal, no prediction made without looking at the labels
    agrees with them more often than the truth does: sum_i P(i|x) T_ij <= sum_i P(i|x) T_ii for every j. So the rate is at most
    1 - agreement; the confidence is a normal one-sided limit.
    """
    agreed = float((told.probs.argmax(1) == told.given).mean())
    return 1 - agreed, min(1.0, 1 - agreed + 1.96 * float(np.sqrt(agreed * (1 - agreed) / len(told.given))))


# --- the command --------------------------------------------------------------------------------------------------


def error(estimated: Matrix, true: Matrix) -> float:
    """The mean over classes of the total variation distance of the rows, in [0, 1]: sum_j |T_ij - T'_ij| / 2."""
    return float(np.abs(estimated - true).sum(1).mean() / 2)


def write(out: Path, told: dict[str, Any], matrix: Matrix) -> list[Path]:
    """``out``.json with everything; ``out``.npy and .csv with the chosen matrix, as ``--noise matrix:FILE`` reads them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files = [out.with_name(out.name + ending) for ending in (".json", ".npy", ".csv")]
    parts = [f.with_name(f".{f.name}.{os.getpid()}") for f in files]
    parts[0].write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    with parts[1].open("wb") as file:
        np.save(file, matrix)
    np.savetxt(parts[2], matrix, fmt="%.9f", delimiter=",", header="P(given label = column | true label = row)")
    for part, whole_file in zip(parts, files, strict=True):
        os.replace(part, whole_file)
    return files


def labels_as_given(dataset: str, root: Path, noise: str | None, seed: int, device: str) -> tuple[Noise, bool]:
    """The noise setting that gives the labels to look at, and whether their truth is known.

    Without a setting: the noisy labels that came with the data, or else its labels as they are, of which nobody knows more.
    """
    if noise is not None:
        found = parse(noise, seed=seed)
        if len(found) != 1:
            raise InputError(f"noise estimate looks at one noise setting, not {len(found)}: {noise}")
        return found[0], True
    if "given" in datasets.load(dataset, root).label_sets:
        return Noise("given", 0.0, seed=seed), True
    return Noise("symmetric", 0.0, seed=seed), False


@dataclass(frozen=True)
class Examined:
    """What was found out about the labels of a data set."""

    name: str
    came: str  # which labels these are
    images: int
    classes: tuple[str, ...]
    network: str
    epochs: int
    folds: int
    seed: int
    digests: tuple[str, str]  # of the data, of the labels
    estimates: dict[str, Estimate]
    at_most: tuple[float, float]  # the bound on the rate, and that at 97.5 %
    agree: bool  # whether the intervals of the two best estimates meet
    chosen: str  # the estimate to believe
    truth: Labels | None  # [N] true labels, -1 for an image of none of the classes; None where nobody knows
    given: Labels  # [N]

    def errors(self) -> dict[str, dict[str, float]]:
        """How far each estimate's rate and matrix (total variation, mean over classes) are off, where the truth is known."""
        assert self.truth is not None
        true = self.true_matrix()
        rate = float((self.truth != self.given).mean())
        return {n: {"rate": e.rate - rate, "matrix": error(e.matrix, true)} for n, e in self.estimates.items()}

    def true_matrix(self) -> Matrix:
        """Counted, where the truth is known; images of no class are left out."""
        assert self.truth is not None
        k = len(self.classes)
        counts, inside = np.zeros((k, k)), self.truth >= 0
        np.add.at(counts, (self.truth[inside], self.given[inside]), 1)
        matrix: Matrix = ops.row_normalise(torch.from_numpy(counts)).numpy()
        return matrix

    def answer(self) -> dict[str, Any]:
        """As it is written to a file."""
        told: dict[str, Any] = {
            "dataset": self.name,
            "labels": self.came,
            "images": self.images,
            "classes": list(self.classes),
            "network": self.network,
            "epochs": self.epochs,
            "folds": self.folds,
            "seed": self.seed,
            "data_digest": self.digests[0],
            "noise_digest": self.digests[1],
            "at_most": {"rate": self.at_most[0], "at_97.5_percent": self.at_most[1]},
            "estimates_agree": self.agree,
            "chosen": self.chosen,
            "estimates": {
                name: {
                    "rate": e.rate,
                    "rate_interval_95": e.rate_interval,
                    "matrix": e.matrix.tolist(),
                    "matrix_low_95": e.matrix_interval[0].tolist(),
                    "matrix_high_95": e.matrix_interval[1].tolist(),
                }
                for name, e in self.estimates.items()
            },
            "assumptions": ASSUMPTIONS,
        }
        if self.truth is not None:
            rate = float((self.truth != self.given).mean())
            told["truth"] = {"rate": rate, "matrix": self.true_matrix().tolist(), "errors": self.errors()}
        return told


def examine(
    dataset: str,
    noise: str | None = None,
    *,
    out: Path | None = None,
    noise_seed: int = 0,
    data_root: Path = Path("data"),
    network: str | None = None,
    epochs: int | None = None,
    folds: int = 5,
    resamples: int = 200,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Examined:
    """Cross-validates plain cross-entropy on the labels, and estimates their noise from its predictions.

    ``dataset``: as ``data.spec.located`` gives it; ``noise``: the labels to look at (``labels_as_given``); ``out``: checked for ``write``.
    Sets torch's threads. Raises InputError.
    """
    for what, number, least in (
        ("--threads", threads, 1),
        ("--seed", seed, 0),
        ("--folds", folds, 2),
        ("--bootstrap", resamples, 20),
    ):
        if number < least:
            raise InputError(f"{what} is {number}; it must be at least {least}")
    torch.set_num_threads(threads)
    usual, length = default_setting(dataset, data_root)
    network, epochs = network or usual, epochs if epochs is not None else max(1, length // 3)
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}; it must be at least 1")
    if out is not None and (not out.name or out.is_dir()):
        raise InputError(f"--out {out} is a folder; it takes the beginning of file names, such as {out / 'noise'}")
    where = device_here(device)
    setting, known = labels_as_given(dataset, data_root, noise, noise_seed, where)
    held = prepare(dataset, data_root, setting, INNER, where)
    cell = whole(held)
    if folds > len(cell.y) // 2:
        raise InputError(f"--folds is {folds}; data set {dataset!r} has {len(cell.y)} training images")
    networks.build(network, cell.size[0], cell.size[1], cell.n_classes)
    spec = single("ce", cell, dataset, setting, network, epochs, val_fraction=INNER, seed=seed)
    for remark in datasets.load(dataset, data_root, setting).remarks:
        tell(f"note: {remark}")
    came = setting.label if noise or setting.kind == "given" else "its labels as they are"
    labels = f"{len(cell.y):,} images, {cell.n_classes} classes"
    tell(f"{cell.name}, {came}: {labels}; {folds} x cross-entropy, {network}, up to {epochs} epochs")

    def progress(fold: int, epoch: int, accuracy: float) -> None:
        if epoch + 1 in (epochs, *range(5, epochs, 5)):
            tell(f"fold {fold + 1} of {folds}  epoch {epoch + 1:>3}  agreement with the labels left out {accuracy:.3f}")

    predictions = predict(cell, spec, folds, progress)
    found = {name: bootstrap(predictions, estimator, resamples, seed) for name, estimator in ESTIMATORS.items()}
    agree = _agree(found["confident"], found["anchor-count"])
    truth = known and held.effective_rate is not None
    return Examined(
        name=cell.name,
        came=came,
        images=len(cell.y),
        classes=datasets.load(dataset, data_root, setting).classes,
        network=network,
        epochs=epochs,
        folds=folds,
        seed=seed,
        digests=(cell.data_digest, cell.noise_digest),
        estimates=found,
        at_most=at_most(predictions),
        agree=agree,
        chosen=CHOSEN if agree else "anchor-count",
        truth=torch.cat([held.truth.clean, held.truth.val_clean]).cpu().numpy() if truth else None,
        given=predictions.given,
    )


def _agree(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals of two rates meet."""
    return max(one.rate_interval[0], other.rate_interval[0]) <= min(one.rate_interval[1], other.rate_interval[1])
