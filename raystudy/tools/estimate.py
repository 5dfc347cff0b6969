"""The noise of labels whose truth nobody knows: its rate and its transition matrix, estimated from out-of-sample predictions.

Here belong the predictions (plain cross-entropy, K-fold), the estimates from them, and how sure they are. What the estimates
rest on is told with them (``ASSUMPTIONS``), since no interval covers an assumption that does not hold.
"""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from raystudy.data import datasets
from raystudy.data.dataset import Images
from raystudy.data.loader import split_validation
from raystudy.data.noise import Matrix, Noise, generator, parse
from raystudy.design import space
from raystudy.errors import InputError
from raystudy.learn import networks, ops
from raystudy.learn.celldata import CellData, joined, prepare
from raystudy.learn.metrics import Truth
from raystudy.learn.point import method_class
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, device_here
from raystudy.terminal import terminal

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


def command(args: argparse.Namespace) -> int:
    """``raystudy noise estimate``."""
    from raystudy import sweep
    from raystudy.design import studyfile

    console = terminal()

    def line(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    for what, number, least in (
        ("--threads", args.threads, 1),
        ("--seed", args.seed, 0),
        ("--folds", args.folds, 2),
        ("--bootstrap", args.bootstrap, 20),
    ):
        if number < least:
            raise InputError(f"{what} is {number}; it must be at least {least}")
    torch.set_num_threads(args.threads)
    dataset = sweep.dataset_of(args)
    network, epochs = studyfile.default_setting(dataset, args.data_root)
    network, epochs = args.network or network, args.epochs if args.epochs is not None else max(1, epochs // 3)
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}; it must be at least 1")
    if not args.out.name or args.out.is_dir():
        raise InputError(
            f"--out {args.out} is a folder; it takes the beginning of file names, such as {args.out / 'noise'}"
        )
    device = device_here(args.device)
    setting, known = labels_as_given(dataset, args.data_root, args.noise, args.noise_seed, device)
    held = prepare(dataset, args.data_root, setting, INNER, device)
    known = known and held.effective_rate is not None
    cell = whole(held)
    if args.folds > len(cell.y) // 2:
        raise InputError(f"--folds is {args.folds}; data set {dataset!r} has {len(cell.y)} training images")
    networks.build(network, cell.size[0], cell.size[1], cell.n_classes)
    spec = TrialSpec(
        method="ce",
        version=method_class("ce").version,
        point={},
        dataset=dataset,
        data_digest=cell.data_digest,
        noise=setting.to_dict(),
        noise_digest=cell.noise_digest,
        network=network,
        recipe=space.recipe_for("shared", "ce", dataset, network).to_dict(),
        epochs=epochs,
        seed=args.seed,
        val_fraction=INNER,
        clean_val=0,
    )
    came = setting.label if args.noise or setting.kind == "given" else "its labels as they are"
    line(
        f"{cell.name}, {came}: {len(cell.y):,} images, {cell.n_classes} classes; {args.folds} x cross-entropy, {network}, "
        f"up to {epochs} epochs"
    )

    def tell(fold: int, epoch: int, accuracy: float) -> None:
        if epoch + 1 in (epochs, *range(5, epochs, 5)):
            line(
                f"fold {fold + 1} of {args.folds}  epoch {epoch + 1:>3}  agreement with the labels left out {accuracy:.3f}"
            )

    predictions = predict(cell, spec, args.folds, tell)
    with console.status("intervals"):
        found = {
            name: bootstrap(predictions, estimator, args.bootstrap, args.seed) for name, estimator in ESTIMATORS.items()
        }
    bound, sure = at_most(predictions)
    table = Table(box=box.SIMPLE_HEAD, title="noise rate", title_justify="left")
    for name in ("estimate", "rate", "95 % interval", "least and greatest share of right labels in a class"):
        table.add_column(name)
    for name, estimate in found.items():
        low, high = estimate.rate_interval
        diagonal = estimate.matrix.diagonal()
        table.add_row(
            name, f"{estimate.rate:.3f}", f"{low:.3f} to {high:.3f}", f"{diagonal.min():.2f} to {diagonal.max():.2f}"
        )
    table.add_row("no more than", f"{bound:.3f}", f"{sure:.3f} at 97.5 %", "")
    console.print(table)
    classes = datasets.load(dataset, args.data_root, setting).classes
    agree = _agree(found["confident"], found["anchor-count"])
    chosen = CHOSEN if agree else "anchor-count"
    _show_matrix(line, chosen, found[chosen].matrix, classes)
    if not agree:
        line(
            "'confident' and 'anchor-count' differ by more than their intervals: the network is too poor for these images, or "
            "mistakes gather on hard images. Believe 'no more than', and try more images, epochs or another --network.",
            "yellow",
        )
    line("The intervals hold the chance in images and networks. They do not hold what the estimates rest on:")
    for told in ASSUMPTIONS:
        line(f"  {told}")
    answer: dict[str, Any] = {
        "dataset": cell.name,
        "labels": came,
        "images": len(cell.y),
        "classes": list(classes),
        "network": network,
        "epochs": epochs,
        "folds": args.folds,
        "seed": args.seed,
        "data_digest": cell.data_digest,
        "noise_digest": cell.noise_digest,
        "at_most": {"rate": bound, "at_97.5_percent": sure},
        "estimates_agree": agree,
        "chosen": chosen,
        "estimates": {
            name: {
                "rate": e.rate,
                "rate_interval_95": e.rate_interval,
                "matrix": e.matrix.tolist(),
                "matrix_low_95": e.matrix_interval[0].tolist(),
                "matrix_high_95": e.matrix_interval[1].tolist(),
            }
            for name, e in found.items()
        },
        "assumptions": ASSUMPTIONS,
    }
    if known:
        clean = torch.cat([held.truth.clean, held.truth.val_clean]).cpu().numpy()
        answer["truth"] = _compare(line, found, clean, predictions.given)
    files = write(args.out, answer, found[chosen].matrix)
    line(f"written: {', '.join(map(str, files))} (the matrix is that of {chosen!r})")
    return 0


def _agree(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals of two rates meet."""
    return max(one.rate_interval[0], other.rate_interval[0]) <= min(one.rate_interval[1], other.rate_interval[1])


def _show_matrix(line: Callable[[str], None], name: str, matrix: Matrix, classes: tuple[str, ...]) -> None:
    """The matrix where it fits, and its largest mistakes."""
    k = len(matrix)
    if k <= 12:
        line(f"transition matrix ({name}), in %: a row is a true class, a column the label given")
        line(" " * 15 + " ".join(f"{c[:5]:>5}" for c in classes))
        for i, row in enumerate(matrix):
            line(f"{classes[i][:14]:>14} " + " ".join(f"{100 * value:5.1f}" for value in row))
    off = np.where(np.eye(k, dtype=bool), 0, matrix)
    largest = [(int(i) // k, int(i) % k) for i in np.argsort(-off, axis=None, kind="stable")[:5] if off.flat[i] > 0]
    named = ", ".join(f"{classes[i]} as {classes[j]} {100 * off[i, j]:.1f} %" for i, j in largest)
    line(f"most frequent mistakes ({name}): {named or 'none'}")


def _compare(line: Callable[[str], None], found: dict[str, Estimate], clean: Labels, given: Labels) -> dict[str, Any]:
    """Prints and returns how far the estimates are off, where the truth is known; images of no class are left out of the matrix."""
    k = len(next(iter(found.values())).matrix)
    counts = np.zeros((k, k))
    inside = clean >= 0
    np.add.at(counts, (clean[inside], given[inside]), 1)
    true: Matrix = ops.row_normalise(torch.from_numpy(counts)).numpy()
    rate = float((clean != given).mean())
    line("")
    line(f"the truth, which no estimate has seen: {rate:.3f} of the labels are wrong")
    errors = {}
    for name, e in found.items():
        low, high = e.rate_interval
        errors[name] = {"rate": e.rate - rate, "matrix": error(e.matrix, true)}
        line(
            f"  {name:12} rate off by {e.rate - rate:+.3f} ({'within' if low <= rate <= high else 'outside'} its interval), "
            f"rows of the matrix by {errors[name]['matrix']:.3f} (total variation, mean over classes)"
        )
    return {"rate": rate, "matrix": true.tolist(), "errors": errors}
