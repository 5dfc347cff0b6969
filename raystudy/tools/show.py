"""Pictures of any data set under noise, into a folder."""

from pathlib import Path

from raystudy.data import datasets
from raystudy.data.noise import parse
from raystudy.data.pictures import IMAGES, Condition, pictures
from raystudy.errors import InputError
from raystudy.learn.celldata import prepare
from raystudy.learn.condition import condition

VAL_FRACTION = 0.1  # of the split that data is prepared with; pictures show both sides of it


def show(
    dataset: str, noise: str, noise_seed: int, root: Path, out: Path, images: int = IMAGES
) -> tuple[Condition, list[Path]]:
    """Draws up to ``images`` of them into ``out``. Returns what was drawn and the files. Raises InputError."""
    if images < 1:
        raise InputError(f"--images is {images}; it must be at least 1")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file; it takes a folder")
    settings = parse(noise, seed=noise_seed)
    if len(settings) != 1:
        raise InputError(f"data show draws one noise level, not {len(settings)}: {noise}")
    cell = prepare(dataset, root, settings[0], VAL_FRACTION)
    data = datasets.load(dataset, root, settings[0])
    shown = condition(cell, settings[0], data.classes, images, data.remarks)
    return shown, pictures(shown, out)
