"""A user's own ``.npz`` file of images or vectors -> ``Dataset``. Nothing is ever unpickled."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raystudy.data.dataset import Array, Dataset, build, held_out, without_test
from raystudy.data.files import one_line
from raystudy.data.vectors import feature_stats
from raystudy.errors import InputError, unknown

NEEDED = ("x_train", "y_train")
TESTED = ("x_test", "y_test")  # both or none
OPTIONAL = ("kind", "strong", "class_names", "truth")
KINDS = ("images", "vectors")
LARGEST = 1e30  # a number in a vector: what is made of larger ones does not fit into float32


def read(path: Path) -> Dataset:
    """A user's ``.npz``: x_train, y_train, optionally x_test, y_test, and optionally noisy labels of the training images.

    Without x_test and y_test a fifth of the samples of x_train, chosen by a digest of what they hold so that equal ones stay on one side,
    is the test set, scored by y_train; a note says so.

    ``y_noisy`` is the label set "given", ``y_noisy_NAME`` (any number of them) the label set NAME. Without any of them ``y_train``
    is all that there is, and nobody knows which of it is right.

    Images are uint8, or floats in [0, 1]; [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3 (the last dimension
    is the channels if it is 1 or 3, else the second), and square. Crops are padded by 4 pixels from size 32 on, by 2 from 16,
    else by 1; only colour images are flipped.

    Vectors are [N, d], of floats or uint8. With ``kind`` "vectors" (else three dimensions are images) they may be [N, V, d]: V
    precomputed views of each sample, the first of them the plain one; ``strong`` says which of them are strong ones, counted from 0.

    Labels are whole numbers from 0 in one dimension; the classes are those of y_train, so that a number that none of them has is
    no class. ``class_names`` [K] names them. ``truth``, if true, says that y_train is known to be right. Nothing is ever
    unpickled. Raises InputError, one line with the file and its first fault.
    """
    return of(path, _open_npz(path))


def of(path: Path, arrays: dict[str, Array]) -> Dataset:
    """The data set of the arrays of a file, or of what is laid out as such, see ``read``; ``path`` names it."""
    kind = _kind(path, arrays)
    one = kind.removesuffix("s")
    take = _images if kind == "images" else _vectors
    x_train = take(path, "x_train", arrays["x_train"])
    x_test = take(path, "x_test", arrays["x_test"]) if "x_test" in arrays else x_train
    if kind == "vectors":
        x_test = x_test[:, 0] if x_test.ndim == 3 else x_test
        if x_train.shape[-1] != x_test.shape[-1]:
            raise InputError(f"{path}: x_train has {x_train.shape[-1]} features, x_test has {x_test.shape[-1]}")
    elif x_train.shape[1:] != x_test.shape[1:]:
        shapes = " and ".join("x".join(map(str, x.shape[1:])) for x in (x_train, x_test))
        raise InputError(f"{path}: x_train and x_test differ in image shape (channels x height x width): {shapes}")
    y_train = _labels(path, "y_train", arrays["y_train"], len(x_train), one)
    n_classes = int(y_train.max()) + 1
    if n_classes > len(y_train):
        i = int(y_train.argmax())
        raise InputError(
            f"{path}: y_train[{i}] is {n_classes - 1}, out of range for {len(y_train)} {kind}; "
            "labels are 0 to the number of classes - 1"
        )
    seen = np.unique(y_train)
    if len(seen) == n_classes - 1 and seen[0] == 1:
        raise InputError(f"{path}: y_train runs from 1 to {n_classes - 1}; labels start at 0, so subtract 1 everywhere")
    if len(seen) < 2:
        raise InputError(f"{path}: y_train holds one class only; at least two are needed")
    told = {
        name: _labels(path, name, y, len(x_test if name == "y_test" else x_train), one, n_classes)
        for name, y in arrays.items()
        if name == "y_test" or name.startswith("y_noisy")
    }
    for name, y in told.items():
        if (wrong := ~np.isin(y, seen)).any():
            i = int(wrong.argmax())
            raise InputError(f"{path}: {name}[{i}] is {y[i]}, a class of which there is no training {one} in y_train")
    told = {name: np.searchsorted(seen, y) for name, y in ({"y_train": y_train} | told).items()}
    split: tuple[str, ...] = ()
    rows: dict[str, list[int]] = {}
    if "x_test" not in arrays:
        tested = _split(path, x_train, y_train, one)
        count = f"{int(tested.sum()):,} of {len(tested):,} {kind}"
        split = (f"no x_test: the test set is {count}, chosen by what they hold, so the same on every machine",)
        x_train, x_test = x_train[~tested], x_test[tested]
        rows = {"training": np.flatnonzero(~tested).tolist(), "test": np.flatnonzero(tested).tolist()}
        told = {name: y[~tested] for name, y in told.items()} | {"y_test": told["y_train"][tested]}
    label_sets = {
        name.removeprefix("y_noisy").removeprefix("_") or "given": y
        for name, y in told.items()
        if name.startswith("y_noisy")
    }
    classes = _class_names(path, arrays.get("class_names"), n_classes)
    classes = tuple(classes[c] for c in seen)
    untested = [classes[c] for c in np.setdiff1d(np.arange(len(seen)), told["y_test"])]
    channels, size = x_train.shape[1:3] if kind == "images" else (0, 0)
    data = build(
        path.name,
        (x_train, told["y_train"]),
        (x_test, told["y_test"]),
        classes,
        pad=0 if kind == "vectors" else 4 if size >= 32 else 2 if size >= 16 else 1,
        flip=channels == 3,
        stats=None if kind == "images" else feature_stats(x_train[:, 0] if x_train.ndim == 3 else x_train),
        label_sets=label_sets,
    )
    return replace(
        data,
        truth=bool(label_sets) or _truth(path, arrays.get("truth")),
        title=path.stem,
        notes=split + without_test(untested, one),
        rows=rows,
        ours=bool(rows),
        strong=_strong(path, arrays.get("strong"), x_train) if kind == "vectors" else (),
    )


def _open_npz(path: Path) -> dict[str, Array]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
    except Exception as error:  # numpy and zipfile raise all sorts on bytes that are no zip
        why = "is empty" if path.is_file() and path.stat().st_size == 0 else "cannot be read"
        told = (
            "" if "pickle" in str(error) else f" ({one_line(error)})"
        )  # numpy takes every text for a pickle, and says how to load one
        raise InputError(f"{path}: not an .npz file, or one that {why}{told}; write it with numpy.savez") from None
    with file:
        tested = [name for name in TESTED if name in file.files]
        if missing := [name for name in (*NEEDED, *(TESTED if tested else ())) if name not in file.files]:
            raise InputError(
                f"{path}: no array {', '.join(missing)}; needed are {', '.join(NEEDED)} (and {' with '.join(TESTED)}, and y_noisy, if "
                f"you have them), the file has: {', '.join(file.files) or '(nothing)'}"
            )
        arrays = {}
        labels = [f for f in file.files if f == "y_noisy" or f.startswith("y_noisy_")]
        for name in [*NEEDED, *tested, *labels, *(f for f in OPTIONAL if f in file.files)]:
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


def _kind(path: Path, arrays: dict[str, Array]) -> str:
    """What the file says its samples are, else what their dimensions say."""
    if "kind" not in arrays:
        return (
            "vectors" if all(arrays[name].ndim == 2 for name in ("x_train", "x_test") if name in arrays) else "images"
        )
    kind = str(arrays["kind"])
    if kind not in KINDS:
        raise unknown(f"kind in {path}", kind, KINDS)
    return kind


def _split(path: Path, x: Array, y: Array, one: str) -> Array:
    """Which samples [N] bool are the test set where the file names none; InputError where one of the two would lack what it needs."""
    flat = x[:, 0] if one == "vector" and x.ndim == 3 else x
    flat = flat if flat.dtype == np.uint8 else flat + flat.dtype.type(0)  # -0.0 equals 0.0
    tested = held_out(row.tobytes() for row in flat)
    if not tested.any():
        raise InputError(f"{path}: no x_test, and of {len(y)} {one}s none falls into a fifth; add x_test and y_test")
    if lost := sorted({*y.tolist()} - {*y[~tested].tolist()}):
        raise InputError(
            f"{path}: no x_test, and with a fifth of the {one}s as the test set there is no training {one} of class {lost[0]}; "
            "add x_test and y_test"
        )
    return tested


def _vectors(path: Path, name: str, x: Array) -> Array:
    """Vectors [N, d] or [N, V, d] as float16, float32 or uint8, or InputError."""
    shape = "x".join(map(str, x.shape)) or "a single number"
    if x.ndim not in (2, 3):
        raise InputError(f"{path}: {name} is {shape}; vectors are [N, d], or [N, V, d] with V views of each sample")
    if x.size == 0:
        raise InputError(f"{path}: {name} is {shape}: it holds no vectors")
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise InputError(f"{path}: {name} is {x.dtype}; vectors are floats or uint8")
    # What is not a number is below nothing; float16 has no number as large.
    small = np.isfinite(x) if x.dtype == np.float16 else np.abs(x) < LARGEST
    usable = small.all(axis=tuple(range(1, x.ndim)))
    if not usable.all():
        raise InputError(
            f"{path}: {name}[{int(usable.argmin())}] has numbers that are NaN, infinite or beyond {LARGEST:g}"
        )
    return np.ascontiguousarray(x, dtype=np.float16 if x.dtype == np.float16 else np.float32)


def _strong(path: Path, strong: Array | None, x: Array) -> tuple[int, ...]:
    """Which views are strong ones, or InputError. The plain view, which comes first, is none."""
    views = x.shape[1] if x.ndim == 3 else 1
    if strong is None:
        return ()
    told = np.atleast_1d(strong)
    if told.ndim != 1 or told.dtype.kind not in "iu" or len(np.unique(told)) < told.size or (told < 1).any():
        raise InputError(
            f"{path}: strong is {strong!s:.60}; it is the positions of the strong views, whole numbers from 1"
        )
    if (told >= views).any():
        raise InputError(
            f"{path}: strong names view {int(told.max())}; x_train has {views} ({', '.join(map(str, range(views)))})"
        )
    return tuple(sorted(told.tolist()))


def _truth(path: Path, truth: Array | None) -> bool:
    """Whether the file says that y_train is known to be right, or InputError."""
    if truth is not None and (truth.shape != () or truth.dtype.kind != "b"):
        raise InputError(f"{path}: truth is {truth.dtype} with shape {list(truth.shape)}; it is True or False")
    return bool(truth)


def _class_names(path: Path, names: Array | None, n_classes: int) -> tuple[str, ...]:
    """The names of the labels 0..K-1, which are their numbers where the file has none; or InputError."""
    if names is None:
        return tuple(map(str, range(n_classes)))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise InputError(
            f"{path}: class_names is {names.dtype} with shape {list(names.shape)}; it is one text per class"
        )
    told = tuple(str(name).strip() for name in names)
    if len(told) < n_classes:
        raise InputError(f"{path}: class_names has {len(told)} names; y_train has labels up to {n_classes - 1}")
    for i, name in enumerate(told):
        if not name or name in told[:i]:
            raise InputError(f"{path}: class_names[{i}] is {name!r}; each class has a name of its own")
    return told


def _images(path: Path, name: str, x: Array) -> Array:
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
            f"{path}: {name} has floats from {x.min():g} to {x.max():g}; float images lie in [0, 1], or store uint8; "
            "if these are views of vectors, add kind='vectors'"
        )
    return np.rint(x * 255).astype(np.uint8, order="C")


def _labels(path: Path, name: str, y: Array, n: int, one: str, n_classes: int | None = None) -> NDArray[np.int64]:
    """Labels as int64 [n] in 0..n_classes-1, or InputError with the first offending index and value."""
    if y.ndim != 1:
        raise InputError(
            f"{path}: {name} has shape {list(y.shape)}; labels are one whole number per {one}, shape [{n}]"
        )
    if len(y) != n:
        raise InputError(f"{path}: {name} has {len(y)} labels for {n} {one}s")
    if y.dtype.kind not in "iufb":
        raise InputError(
            f"{path}: {name}[0] is {y[0]!s} ({y.dtype}); labels are whole numbers from 0, whose names are in class_names"
        )
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


def taken(path: Path, name: str, x: Array, kind: str) -> Array:
    """Images uint8 [N, C, H, W] or vectors, as ``read`` makes them of an array; InputError for what is neither."""
    return (_images if kind == "images" else _vectors)(path, name, x)
