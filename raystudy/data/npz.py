"""A user's own ``.npz`` file -> ``Dataset``. Nothing is ever unpickled."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raystudy.data.dataset import Array, Dataset, build, without_test
from raystudy.data.files import one_line
from raystudy.errors import InputError

NEEDED = ("x_train", "y_train", "x_test", "y_test")


def read(path: Path) -> Dataset:
    """A user's ``.npz``: x_train, y_train, x_test, y_test and optionally noisy labels of the training images.

    ``y_noisy`` is the label set "given", ``y_noisy_NAME`` (any number of them) the label set NAME. Without any of them ``y_train``
    is all that there is, and nobody knows which of it is right.

    Images are uint8, or floats in [0, 1]; [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3 (the last dimension
    is the channels if it is 1 or 3, else the second), and square. Labels are whole numbers from 0 in one dimension; the classes are
    those of y_train, so that a number that none of them has is no class. Crops are padded by 4 pixels from size 32 on, by 2 from 16,
    else by 1; only colour images are flipped. Nothing is ever unpickled. Raises InputError, one line with the file and its first
    fault.
    """
    arrays = _open_npz(path)
    x_train, x_test = (images(path, name, arrays[name]) for name in ("x_train", "x_test"))
    if x_train.shape[1:] != x_test.shape[1:]:
        shapes = " and ".join("x".join(map(str, x.shape[1:])) for x in (x_train, x_test))
        raise InputError(f"{path}: x_train and x_test differ in image shape (channels x height x width): {shapes}")
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train))
    n_classes = int(y_train.max()) + 1
    if n_classes > len(y_train):
        i = int(y_train.argmax())
        raise InputError(
            f"{path}: y_train[{i}] is {n_classes - 1}, out of range for {len(y_train)} images; "
            "labels are 0 to the number of classes - 1"
        )
    seen = np.unique(y_train)
    if len(seen) == n_classes - 1 and seen[0] == 1:
        raise InputError(f"{path}: y_train runs from 1 to {n_classes - 1}; labels start at 0, so subtract 1 everywhere")
    if len(seen) < 2:
        raise InputError(f"{path}: y_train holds one class only; at least two are needed")
    told = {"y_test": _labels(path, "y_test", arrays["y_test"], len(x_test), n_classes)} | {
        name: _labels(path, name, y, len(x_train), n_classes)
        for name, y in arrays.items()
        if name.startswith("y_noisy")
    }
    for name, y in told.items():
        if (wrong := ~np.isin(y, seen)).any():
            i = int(wrong.argmax())
            raise InputError(f"{path}: {name}[{i}] is {y[i]}, a class of which there is no training image in y_train")
    told = {name: np.searchsorted(seen, y) for name, y in ({"y_train": y_train} | told).items()}
    label_sets = {
        name.removeprefix("y_noisy").removeprefix("_") or "given": y
        for name, y in told.items()
        if name.startswith("y_noisy")
    }
    channels, size = x_train.shape[1:3]
    pad = 4 if size >= 32 else 2 if size >= 16 else 1
    classes = tuple(str(c) for c in seen)
    untested = [classes[c] for c in np.setdiff1d(np.arange(len(seen)), told["y_test"])]
    data = build(
        path.name,
        (x_train, told["y_train"]),
        (x_test, told["y_test"]),
        classes,
        pad=pad,
        flip=channels == 3,
        label_sets=label_sets,
    )
    return replace(data, truth=bool(label_sets), title=path.stem, notes=without_test(untested))


def _open_npz(path: Path) -> dict[str, Array]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
    except Exception as error:  # numpy and zipfile raise all sorts on bytes that are no zip
        why = "is empty" if path.is_file() and path.stat().st_size == 0 else "cannot be read"
        raise InputError(
            f"{path}: not an .npz file, or one that {why} ({one_line(error)}); write it with numpy.savez"
        ) from None
    with file:
        missing = [name for name in NEEDED if name not in file.files]
        if missing:
            raise InputError(
                f"{path}: no array {', '.join(missing)}; needed are {', '.join(NEEDED)} (and y_noisy if you have it), "
                f"the file has: {', '.join(file.files) or '(nothing)'}"
            )
        arrays = {}
        for name in [*NEEDED, *(f for f in file.files if f == "y_noisy" or f.startswith("y_noisy_"))]:
            try:
                arrays[name] = file[name]
            except Exception as error:
                if "Object arrays" in str(error):
                    raise InputError(
                        f"{path}: {name} is an object array (pickled); save it as a plain array of numbers"
                    ) from None
                raise InputError(
                    f"{path}: {name} cannot be read, the file is damaged or cut short ({one_line(error)})"
                ) from None
            if not isinstance(arrays[name], np.ndarray):  # a member that is not .npy comes back as bytes
                raise InputError(f"{path}: {name} is not a numpy array; write the file with numpy.savez")
    return arrays


def images(path: Path, name: str, x: Array) -> Array:
    """Images as uint8 [N, C, H, W], or InputError."""
    shape = "x".join(map(str, x.shape)) or "a single number"
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[3] in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    elif x.ndim != 4 or x.shape[1] not in (1, 3):
        raise InputError(f"{path}: {name} is {shape}; images are [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3")
    if x.size == 0:
        raise InputError(f"{path}: {name} is {shape}: it holds no images")
    if x.shape[2] != x.shape[3]:
        raise InputError(
            f"{path}: {name} holds images of {x.shape[2]}x{x.shape[3]} pixels; they must be square, pad or crop them"
        )
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"{path}: {name} is {x.dtype}; images are uint8 (0 to 255) or floats in [0, 1]")
    finite = np.isfinite(x).all(axis=(1, 2, 3))
    if not finite.all():
        raise InputError(f"{path}: {name}[{int(finite.argmin())}] has pixels that are NaN or infinite")
    if x.min() < 0 or x.max() > 1:
        raise InputError(
            f"{path}: {name} has floats from {x.min():g} to {x.max():g}; float images lie in [0, 1], or store uint8"
        )
    return np.rint(x * 255).astype(np.uint8, order="C")


def _labels(path: Path, name: str, y: Array, n: int, n_classes: int | None = None) -> NDArray[np.int64]:
    """Labels as int64 [n] in 0..n_classes-1, or InputError with the first offending index and value."""
    if y.ndim != 1:
        raise InputError(
            f"{path}: {name} has shape {list(y.shape)}; labels are one whole number per image, shape [{n}]"
        )
    if len(y) != n:
        raise InputError(f"{path}: {name} has {len(y)} labels for {n} images")
    if y.dtype.kind not in "iufb":
        raise InputError(f"{path}: {name}[0] is {y[0]!s} ({y.dtype}); labels are whole numbers from 0")
    for wrong, why in (
        (~np.isfinite(y) | (y != np.floor(y)) if y.dtype.kind == "f" else None, "not a whole number"),
        (y < 0, "negative"),
        (
            None if n_classes is None else y >= n_classes,
            f"out of range: y_train has the classes 0 to {(n_classes or 1) - 1}",
        ),
    ):
        if wrong is not None and wrong.any():
            i = int(wrong.argmax())
            raise InputError(f"{path}: {name}[{i}] is {y[i].item()}, {why}")
    return y.astype(np.int64)
