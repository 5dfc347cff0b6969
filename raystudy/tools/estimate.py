"""The noise of labels whose truth nobody knows: its rate and its transition matrix, estimated from out-of-sample predictions.

Here belongs the examination of a data set: predictions of ``folds``, estimates of ``transition``, what is told of them. What the estimates
rest on is told with them (``assumptions``), since no interval covers an assumption that does not hold.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raystudy.data import datasets
from raystudy.data.noise import Matrix, Noise, parse
from raystudy.design.compose import default_setting
from raystudy.design.single import single
from raystudy.errors import InputError
from raystudy.learn import networks, ops
from raystudy.learn.celldata import prepare
from raystudy.learn.training import device_here
from raystudy.tools.folds import INNER, Labels, predict, whole
from raystudy.tools.transition import CHOSEN, ESTIMATORS, Estimate, agree, at_most, bootstrap, error


def assumptions(one: str) -> tuple[str, ...]:
    """What the estimates rest on, a sentence each; ``one``: what a sample is called."""
    return (
        f"all: noise depends on the class alone, not on the {one}; mistakes that gather on hard {one}s cannot be told from the "
        "network's own",
        "all: in every class the right label is the most frequent one",
        "confident: the network tells the classes apart; classes that it confuses look like noise between them",
        f"anchor-count: the {one}s it is surest of are of the class it says; rather less noise is found than there is where mistakes "
        f"gather on hard {one}s",
        f"anchor: besides, its probabilities are right at one single {one} of each class; the roughest of the three",
        "no more than: holds without the network being good, as a poor one only makes the bound wider",
    )


def write(out: Path, told: dict[str, Any], matrix: Matrix) -> list[Path]:
    """``out``.json with everything; ``out``.npy and .csv with the chosen matrix, as ``--noise matrix:FILE`` reads them."""
    out.parent.mkdir(parents=True, exist_ok=True)
    files = [out.with_name(out.name + ending) for ending in (".json", ".npy", ".csv")]
    parts = [f.with_name(f".{f.name}.{os.getpid()}") for f in files]
    parts[0].write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    with parts[1].open("wb") as file:
        np.save(file, matrix)
    header = "P(given label = column | true label = row)"
    header += "".join(f"\n{i}: {' '.join(name.split())}" for i, name in enumerate(told["classes"]) if name != str(i))
    np.savetxt(parts[2], matrix, fmt="%.9f", delimiter=",", header=header, encoding="utf-8")
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
    images: int  # samples
    one: str  # what each of them is called: image, sample
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
    truth: Labels | None  # [N] true labels, -1 for a sample of none of the classes; None where nobody knows
    given: Labels  # [N]

    def errors(self) -> dict[str, dict[str, float]]:
        """How far each estimate's rate and matrix (total variation, mean over classes) are off, where the truth is known."""
        assert self.truth is not None
        true = self.true_matrix()
        rate = float((self.truth != self.given).mean())
        return {n: {"rate": e.rate - rate, "matrix": error(e.matrix, true)} for n, e in self.estimates.items()}

    def true_matrix(self) -> Matrix:
        """Counted, where the truth is known; samples of no class are left out."""
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
            "assumptions": assumptions(self.one),
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
    what, one = ("vectors", "sample") if len(cell.shape) == 1 else ("images", "image")
    if folds > len(cell.y) // 2:
        raise InputError(f"--folds is {folds}; data set {dataset!r} has {len(cell.y)} training {what}")
    networks.build(network, cell.shape, cell.n_classes)
    spec = single("ce", cell, dataset, setting, network, epochs, val_fraction=INNER, seed=seed)
    for remark in datasets.load(dataset, data_root, setting).remarks:
        tell(f"note: {remark}")
    came = setting.label if noise or setting.kind == "given" else "its labels as they are"
    labels = f"{len(cell.y):,} {what}, {cell.n_classes} classes"
    tell(f"{cell.name}, {came}: {labels}; {folds} x cross-entropy, {network}, up to {epochs} epochs")

    def progress(fold: int, epoch: int, accuracy: float) -> None:
        if epoch + 1 in (epochs, *range(5, epochs, 5)):
            tell(f"fold {fold + 1} of {folds}  epoch {epoch + 1:>3}  agreement with the labels left out {accuracy:.3f}")

    predictions = predict(cell, spec, folds, progress)
    found = {name: bootstrap(predictions, estimator, resamples, seed) for name, estimator in ESTIMATORS.items()}
    agreed = agree(found["confident"], found["anchor-count"])
    truth = known and held.effective_rate is not None
    return Examined(
        name=cell.name,
        came=came,
        images=len(cell.y),
        one=one,
        classes=datasets.load(dataset, data_root, setting).classes,
        network=network,
        epochs=epochs,
        folds=folds,
        seed=seed,
        digests=(cell.data_digest, cell.noise_digest),
        estimates=found,
        at_most=at_most(predictions),
        agree=agreed,
        chosen=CHOSEN if agreed else "anchor-count",
        truth=torch.cat([held.truth.clean, held.truth.val_clean]).cpu().numpy() if truth else None,
        given=predictions.given,
    )
