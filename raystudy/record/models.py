"""Where the models of a study lie, and what their cards tell: ``models/<cell>/<trial key>.safetensors`` and ``.json``.

A model is its card: the weights were written before it. Which are kept is decided in ``running``; what is in the files is in
``learn/model.py``, which also checks them.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = "models"
ENDINGS = (".json", ".safetensors")  # in the order in which they are removed: without its card nothing is a model


class Kept(NamedTuple):
    """A model that a study has."""

    cell: str  # key of the cell
    key: str  # of the trial
    card: Path
    told: dict[str, Any]  # the card as it was read; empty where it cannot be


def folder(study_dir: Path, cell: str) -> Path:
    """Where the models of a cell lie."""
    return study_dir / FOLDER / cell


def weights_path(study_dir: Path, cell: str, key: str) -> Path:
    """The file of a trial's weights; its card is beside it."""
    return folder(study_dir, cell) / f"{key}.safetensors"


def keys(names: Collection[str]) -> set[str]:
    """The trials that have files among these names, a half-written model's, too."""
    return {name.removesuffix(end) for name in names for end in ENDINGS if name.endswith(end)}


def here(study_dir: Path, cell: str) -> set[str]:
    """The trials of a cell that have files of a model."""
    place = folder(study_dir, cell)
    return keys([f.name for f in place.iterdir()]) if place.is_dir() else set()


def remove(study_dir: Path, cell: str, trials: Collection[str]) -> None:
    """Removes the models of some trials, the cards first."""
    for key in trials:
        for end in ENDINGS:
            (folder(study_dir, cell) / f"{key}{end}").unlink(missing_ok=True)


def listed(study_dir: Path) -> list[Kept]:
    """All models of a study, by cell."""
    cards = sorted((study_dir / FOLDER).glob("*/*.json"))
    return [Kept(card.parent.name, card.stem, card, _told(card)) for card in cards]


def _told(card: Path) -> dict[str, Any]:
    try:
        told = json.loads(card.read_text(encoding="utf-8"))
        return told if isinstance(told, dict) else {}
    except (OSError, ValueError, RecursionError):
        return {}
