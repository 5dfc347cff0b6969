"""A data set's labels, judged: what is looked at, with which evidence, and what was found. With the truth it is only measured."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from raystudy import own
from raystudy.data import datasets
from raystudy.data.corruption import corrupted
from raystudy.data.dataset import Dataset, Images, plain, unsplit
from raystudy.data.loader import split_validation
from raystudy.data.noise import NONE, Noise
from raystudy.design.compose import default_setting
from raystudy.design.single import single
from raystudy.errors import InputError, unknown
from raystudy.learn import filtering
from raystudy.learn.celldata import joined, prepare
from raystudy.learn.filters import FILTERS
from raystudy.learn.methods import METHODS
from raystudy.learn.training import device_here
from raystudy.tools.clean.evidence import NEIGHBOURS
from raystudy.tools.clean.filtered import judged_by
from raystudy.tools.clean.judge import Judged, judge
from raystudy.tools.estimate import labels_as_given
from raystudy.tools.folds import INNER, Labels, Probs, predict, whole

FEWEST = 10  # labels that anything can be said about


@dataclass(frozen=True)
class Examined:
    """The labels of a data set and the verdict on each."""

    dataset: str
    data: Dataset
    came: str  # which labels these are
    images: Images  # [N, ...] in the order of the data set
    judged: Judged
    truth: Labels | None  # [N]; None where nobody knows
    methods: str  # whose networks were asked, beside the evidence that needs none
    seconds: float
    warnings: tuple[str, ...]

    @property
    def names(self) -> Sequence[str] | Sequence[int]:
        """What each label is of: the path of its image, or its place in the user's file, counted from 0."""
        told = self.data.paths.get("training") or self.data.rows.get("training")
        return range(len(self.judged.given)) if told is None else told

    def measured(self) -> dict[str, float] | None:
        """How well wrong labels were found, where the truth is known and some labels are wrong."""
        if self.truth is None:
            return None
        from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

        wrong, told = self.truth != self.judged.given, self.judged
        if not 0 < wrong.sum() < len(wrong):
            return None
        final = np.where(told.sure, told.suggested, told.given)
        kept = told.kept
        return {
            "wrong": float(wrong.mean()),
            "auroc": float(roc_auc_score(wrong, -told.quality)),
            "average_precision": float(average_precision_score(wrong, -told.quality)),
            "f1": float(f1_score(wrong, told.issue)),
            "wrong_after": float((final != self.truth)[kept].mean()) if kept.any() else 0.0,
        }


def chosen_method(asked: str, shape: tuple[int, ...], dataset: str = "") -> str | None:
    """Whose networks to ask, or the filter to ask alone. Of pixels of colour photographs the cheap evidence sees little,
    so ``auto`` trains plain networks there."""
    if asked == "auto":
        return "ce" if len(shape) == 3 and shape[0] == 3 and shape[1] >= 16 else None
    if asked == "none":
        return None
    if own.written(asked):
        name = own.located(asked)
        own.found("methods", name)
        return name
    if asked.partition(":")[0] in FILTERS:
        name = filtering.canonical(asked)
        filtering.suits(name, dataset, shape)
        return name
    if asked not in METHODS:
        raise unknown("method", asked, ("auto", "none", "FILE.py:CLASS", *sorted(METHODS), *FILTERS))
    return asked


def examine(
    dataset: str,
    noise: str | None = None,
    *,
    noise_seed: int = 0,
    data_root: Path = Path("data"),
    method: str = "auto",
    network: str | None = None,
    epochs: int | None = None,
    folds: int = 5,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    tell: Callable[[str], None] = lambda text: None,
) -> Examined:
    """Judges the training labels of ``dataset``; ``noise``: the labels to look at (``estimate.labels_as_given``). Raises InputError."""
    for what, number, least in (
        ("--threads", threads, 1),
        ("--seed", seed, 0),
        ("--folds", folds, 2),
        ("--neighbours", neighbours, 1),
        ("--epochs", 1 if epochs is None else epochs, 1),
    ):
        if number < least:
            raise InputError(f"{what} is {number}; it must be at least {least}")
    began = time.perf_counter()
    torch.set_num_threads(threads)
    where = device_here(device)
    setting, known = labels_as_given(dataset, data_root, noise, noise_seed, where)
    data = datasets.load(dataset, data_root, setting)
    if noise is None or setting.kind == "given":
        data = unsplit(data)  # as they came: all labels are to be judged
    looked_at = corrupted(data, setting, data_root)
    given, classes = looked_at.given, data.classes
    x = plain(looked_at.x_train)
    asked = chosen_method(method, tuple(x.shape[1:]), dataset)
    if len(given) < FEWEST:
        raise InputError(
            f"data set {dataset!r} has {len(given)} training labels; at least {FEWEST} are needed to say which are wrong"
        )
    if folds > len(given) // 2:
        raise InputError(f"--folds is {folds}; data set {dataset!r} has {len(given)} training labels")
    sizes = np.bincount(given, minlength=len(classes))
    if (sizes > 0).sum() < 2:
        raise InputError(
            f"data set {dataset!r}: all training labels are of one class, so none can be told from another"
        )
    seen = filtering.features(x)
    if not (seen != seen[:1]).any():
        raise InputError(f"data set {dataset!r}: all its {data.kind} are alike, so nothing tells whose label is wrong")
    warnings = list(data.remarks)
    if len(data.y_test) and (data.rows or data.paths):
        warnings.append(
            f"the {len(data.y_test):,} labels of the test set are not judged; the cleaned data have them as they are"
        )
    if (few := sizes[sizes > 0].min()) < folds:
        warnings.append(f"the smallest class has {few} labels, fewer than {folds} folds: little can be said of it")
    if neighbours > few / 5:
        warnings.append(
            f"the smallest class has {few} labels, for which {neighbours} neighbours are many: at most {max(1, int(few) // 5)} would "
            "tell more of it"
        )
    for text in warnings:
        tell(f"note: {text}")
    came = setting.label if noise or setting.kind == "given" else "its labels as they are"
    tell(f"{data.name}, {came}: {len(given):,} {data.kind}, {len(classes)} classes")
    more: tuple[Probs, ...] = ()
    if asked and asked.partition(":")[0] in FILTERS:
        tell(f"{asked}: the nearest samples vote, nothing is trained")
        judged = judged_by(
            asked, filtering.views(looked_at.x_train), seen, given, len(classes), folds, neighbours, seed
        )
    else:
        if asked:
            more = (
                _network(dataset, data_root, setting, len(given), asked, network, epochs, folds, seed, where, tell),
            )
        judged = judge(seen, given, len(classes), folds=folds, k=neighbours, seed=seed, more=more, tell=tell)
    told = known and (data.truth or setting.kind != "given")
    return Examined(
        dataset=dataset,
        data=data,
        came=came,
        images=x,
        judged=judged,
        truth=looked_at.clean if told else None,
        methods=asked or "none",
        seconds=time.perf_counter() - began,
        warnings=tuple(warnings) + (() if not told or (looked_at.clean != NONE).all() else ("some are of no class",)),
    )


def _network(
    dataset: str,
    root: Path,
    setting: Noise,
    count: int,
    method: str,
    network: str | None,
    epochs: int | None,
    folds: int,
    seed: int,
    device: str,
    tell: Callable[[str], None],
) -> Probs:
    """Out-of-fold probabilities [N, K] of a method's networks, of all ``count`` samples that are judged, in their order."""
    usual, length = default_setting(dataset, root)
    network, epochs = own.located(network or usual), epochs or (max(1, length // 3) if method == "ce" else length)
    data, cell = datasets.load(dataset, root, setting), prepare(dataset, root, setting, INNER, device)
    n, test = len(cell.y) + len(cell.y_val), (cell.x_held[len(cell.y_val) :], cell.y_test)
    cell, ours = whole(cell), count > n  # see ``unsplit``
    if ours:
        cell = replace(cell, x=joined(cell.x, test[0]), y=torch.cat([cell.y, test[1]]))
    spec = single(method, cell, dataset, setting, network, epochs, val_fraction=INNER, seed=seed)
    tell(f"{folds} x {method}, {network}, up to {epochs} epochs")

    def progress(fold: int, epoch: int, accuracy: float) -> None:
        if epoch + 1 in (epochs, *range(5, epochs, 5)):
            tell(f"fold {fold + 1} of {folds}  epoch {epoch + 1:>3}  agreement with the labels left out {accuracy:.3f}")

    found = predict(cell, spec, folds, progress).probs
    order = np.concatenate(
        [*(np.asarray(i) for i in split_validation(n, INNER, setting.seed)), np.arange(n, len(found))]
    )
    out = np.empty_like(found)
    out[order] = found
    return out[np.argsort([*data.rows["training"], *data.rows["test"]])] if ours else out
