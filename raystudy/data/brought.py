"""Data sets and kinds of noise that a user's own code brings: what its functions give back, checked. How they are found: ``raystudy.own``.

A data set is a function of the data root that returns what an ``npz:`` file holds, as a dictionary of arrays. A kind of noise is a pure
function, the entry point of an installed package: of ``n_classes``, the matrix T(1) that selected labels are redrawn by; or of ``labels,
n_classes, rate, seed``, the given labels. Neither source is a part of a trial's key, since what was made is: its digests.
"""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raystudy import own
from raystudy.data import noise, npz, spec
from raystudy.data.dataset import Dataset
from raystudy.data.noise import Labels, Matrix, Noise
from raystudy.errors import InputError, unknown

MATRIX, FLIP = ("n_classes",), ("labels", "n_classes", "rate", "seed")  # arguments of the two kinds of functions
SUM_TOLERANCE = 1e-6  # of a row of a matrix


def is_dataset(name: str) -> bool:
    """Whether a data set's name, without options, is one of a user's own code. Runs nothing."""
    return bool(spec.code_of(name)) or name in own.installed("datasets")


def dataset(name: str, root: Path) -> Dataset:
    """The data set that a user's function returns. Raises InputError, one line, for what ``npz.read`` would refuse, too."""
    made = own.found("datasets", name)
    if not callable(made):
        raise InputError(
            f"{name} is no data set: it must be a function of the data root that returns arrays, as npz: has them"
        )
    arrays = _called(name, made, root)
    if not isinstance(arrays, Mapping):
        raise InputError(f"{name} returns {type(arrays).__name__}, not a dictionary of arrays: x_train, y_train, ...")
    for key in arrays:
        if key not in (*npz.NEEDED, *npz.TESTED, *npz.OPTIONAL) and not str(key).startswith("y_noisy"):
            raise unknown(f"array of {name}", str(key), [*npz.NEEDED, *npz.TESTED, "y_noisy", *npz.OPTIONAL])
    tested = any(key in arrays for key in npz.TESTED)
    if missing := [key for key in (*npz.NEEDED, *(npz.TESTED if tested else ())) if key not in arrays]:
        raise InputError(f"{name} returns no {missing[0]}; it returns {', '.join(map(str, arrays)) or 'nothing'}")
    data = npz.of(Path(name), {str(key): np.asarray(value) for key, value in arrays.items()})
    return replace(data, name=name, title=name.rpartition(":")[2])


def given(labels: Labels, setting: Noise, n_classes: int) -> tuple[Labels, Matrix | None]:
    """Given labels [N] of clean ones [N] by a package's kind of noise, and its T(r) where it is one of a matrix. Raises InputError."""
    name = setting.kind
    made = own.found("noise", name)
    takes = tuple(inspect.signature(made).parameters) if callable(made) else ()
    if takes == MATRIX:
        full = _matrix(name, _called(name, made, n_classes), n_classes)
        flipped = noise.flip(labels, full, setting.rate, setting.seed, noise.COUNTS[0])
        return flipped, (1 - setting.rate) * np.eye(n_classes) + setting.rate * full
    if takes != FLIP:
        raise InputError(
            f"noise {name!r} must be a function of ({', '.join(MATRIX)}) or of ({', '.join(FLIP)}), not of ({', '.join(takes)})"
        )
    first, again = (
        _flipped(name, _called(name, made, labels.copy(), n_classes, setting.rate, setting.seed), labels, n_classes)
        for _ in "ab"
    )
    if not np.array_equal(first, again):
        raise InputError(f"noise {name!r} draws otherwise each time; draw from numpy.random.default_rng(seed)")
    return first, None


def _called(name: str, made: Any, *arguments: Any) -> Any:
    try:
        return made(*arguments)
    except InputError:
        raise
    except Exception as e:
        raise InputError(f"{name} fails: {own.told(e, inspect.getsourcefile(made) or '')}") from None


def _matrix(name: str, found: Any, n_classes: int) -> Matrix:
    told = np.asarray(found)
    if told.shape != (n_classes, n_classes) or told.dtype.kind not in "fiu":
        shape = "x".join(map(str, told.shape)) or "a single value"
        raise InputError(
            f"noise {name!r} gives {shape} of {told.dtype}; a transition matrix here is {n_classes}x{n_classes} numbers"
        )
    full = told.astype(np.float64)
    if not ((full >= 0) & (full <= 1)).all() or (np.abs(full.sum(1) - 1) > SUM_TOLERANCE).any():
        i = int((~((full >= 0) & (full <= 1)).all(1) | (np.abs(full.sum(1) - 1) > SUM_TOLERANCE)).argmax())
        raise InputError(
            f"noise {name!r}: row {i} is {full[i].tolist()!s:.60}; rows are probabilities in [0, 1] that sum to 1"
        )
    return full / full.sum(1, keepdims=True)


def _flipped(name: str, found: Any, labels: Labels, n_classes: int) -> Labels:
    told = np.asarray(found)
    if told.shape != labels.shape or told.dtype.kind not in "iu":
        raise InputError(
            f"noise {name!r} gives {list(told.shape)} of {told.dtype}; it gives a whole number for each of {len(labels)} labels"
        )
    if (wrong := (told < 0) | (told >= n_classes)).any():
        i = int(wrong.argmax())
        raise InputError(f"noise {name!r} gives label {told[i]} at {i}; labels here are 0 to {n_classes - 1}")
    return told.astype(np.int64)
