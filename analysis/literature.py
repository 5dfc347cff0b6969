"""Published numbers beside ours, and what differs between the protocols. The numbers are in ``published/*.csv``, each with its source."""

import csv
from collections.abc import Collection
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

from raystudy.data.noise import Noise
from raystudy.data.spec import family
from raystudy.design.study import Cell, Study

# Which of our rules answers a published statistic: the best test epoch is an ORACLE, there as here.
RULE_OF = {
    "best": "oracle_test",
    "last": "last",
    "mean_last10": "last10",
    "val_selected": "noisy_val",
    "mean": "last10",
    "reported": "last10",
}
MARKS = {"source": "", "seed": "§", "memory": "‡"}
# Noise that came with the data, as tables file it -> our kind and variant ("" where a table does not say).
OURS = {
    "human_aggre": ("human", "aggre"),
    "human_random1": ("human", "random1"),
    "human_random2": ("human", "random2"),
    "human_random3": ("human", "random3"),
    "human_worst": ("human", "worse"),
    "human_noisy_fine": ("human", "noisy"),
    "cnwl_red": ("web", "red"),
    "cnwl_blue": ("web", "blue"),
    "instance_pdn": ("instance", "pdn"),
    "real": ("given", ""),
}
LEGEND = (
    "§: transcribed from a seminar that reprints the table. ‡: recalled and not checked against the source; do not quote. "
    "Statistic 'reported' or 'mean': the source does not say which epoch; shown beside our last10. "
    "'best' is the best epoch on the test set, an upper bound, and is shown beside our ORACLE."
)


class Published(NamedTuple):
    """One published number, in percent."""

    method: str  # our name, "" for methods that are not here
    published_as: str
    dataset: str
    noise: str  # our kind, or theirs where we have none
    variant: str  # "" where the source does not say
    rate: float | None  # nominal; None for an average over levels
    architecture: str
    statistic: str
    accuracy: float
    std: float | None
    metric: str
    source: str
    verified: str  # source | seed | memory
    note: str

    @property
    def text(self) -> str:
        """The number as printed, with the mark of its check."""
        std = f" ± {self.std:g}" if self.std is not None else ""
        return f"{self.accuracy:g}{std}{MARKS[self.verified]}"


@lru_cache(maxsize=1)
def published() -> list[Published]:
    """All published numbers, file by file."""
    out = []
    for file in sorted((resources.files("analysis") / "published").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".csv"):
            for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
                told = {k: row[k] for k in Published._fields}
                numbers = {k: float(row[k]) if row[k] else None for k in ("rate", "accuracy", "std")}
                out.append(Published(**{**told, **numbers}))  # type: ignore[arg-type]
    return out


def beside(cell: Cell, datasets: Collection[str] | None = None) -> list[Published]:
    """Published numbers of a cell's method at its nominal noise: of its data set, whatever its options, or of any of ``datasets``.

    Labels as they came have no nominal rate: human ones are those of their name, others (``given``) those of their data set alone.
    """
    return [
        p
        for p in published()
        if p.method == cell.method
        and same_noise(p, cell.noise)
        and (same_data(p, cell) if datasets is None else p.dataset in datasets and cell.noise.kind != "given")
    ]


def same_noise(row: Published, noise: Noise) -> bool:
    """Whether a published number was measured under ``noise``, whatever its seed and its count mode."""
    kind, variant = OURS.get(row.noise, (row.noise, row.variant))
    if kind != noise.kind or (variant and noise.variant and variant != noise.variant):
        return False
    if as_they_came(noise):
        return True
    return row.rate is not None and abs(row.rate - noise.rate) < 1e-9


def as_they_came(noise: Noise) -> bool:
    """Whether the labels are what people gave, not diluted: then a rate of 0 says nothing of how many are wrong."""
    return noise.kind in ("given", "human") and not noise.rate


def same_data(row: Published, cell: Cell) -> bool:
    """Whether a published number is of the cell's data set, by the name under which papers file it."""
    return family(row.dataset) == family(cell.dataset)


def differences(network: str, cell: Cell, row: Published) -> str:
    """How a published protocol differs from that of a cell with our ``network``, in words."""
    out = []
    if not same_data(row, cell):
        out.append(f"data set {row.dataset}, ours {cell.dataset}")
    theirs, ours = (a.replace("-", "").replace("_", "").lower() for a in (row.architecture, network))
    if theirs != ours:
        out.append(f"network {row.architecture or 'not stated'}, ours {network}")
    if row.noise in ("symmetric", "instance") and not row.variant:
        out.append(f"{row.noise} variant not stated, ours {cell.noise.variant}")
    if row.metric != "test_acc":
        out.append(
            {"test_error": "printed as test error", "val_acc": "printed as validation accuracy"}.get(
                row.metric, row.metric
            )
        )
    if row.note:
        out.append(row.note)
    return "; ".join(out)


def protocol(study: Study) -> str:
    """What holds of every row: how this study's protocol differs from the usual one."""
    return (
        f"Ours: {study.val_fraction:.0%} of the noisy training set held out for validation and not trained on, {study.epochs} epochs, "
        f"recipe {study.recipe}, {study.trials} hyperparameter points a cell chosen by noisy validation, {study.replicates} fresh seeds. "
        "Published tables usually train on the whole noisy training set, pick hyperparameters per level by means of their own, "
        "and many of their rows are taken from other papers with other networks."
    )
