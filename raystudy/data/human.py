"""Human labels of CIFAR (Wei et al., ICLR 2022, github UCSC-REAL/cifar-10-100n): the published files, read without running what is in them.

They are pickles: ``CIFAR-10_human.pt`` in a zip of torch's, ``CIFAR-10_human.npy`` and ``..._ordered.npy`` in numpy's format. A pickle can
name any function to call, so what is named is checked against a short list: making numpy arrays, and nothing else.
"""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raystudy.data.files import one_line
from raystudy.errors import InputError

Array = NDArray[Any]

# File names in order of preference. The "ordered" ones follow the TensorFlow data sets' order; ``image_order_c10.npy`` leads back.
FILES = {
    "cifar10": ("CIFAR-10_human.pt", "CIFAR-10_human.npy", "CIFAR-10_human_ordered.npy", "cifar10n.npz"),
    "cifar100": ("CIFAR-100_human.pt", "CIFAR-100_human.npy", "CIFAR-100_human_ordered.npy", "cifar100n.npz"),
}
ORDERS = {"cifar10": "image_order_c10.npy", "cifar100": "image_order_c100.npy"}
CLEAN = "clean_label"
KEYS = {  # key in the file -> name of the label set
    "aggre_label": "aggre",
    "worse_label": "worse",
    "random_label1": "random1",
    "random_label2": "random2",
    "random_label3": "random3",
    "noisy_label": "noisy",
    "noise_label": "noisy",  # so in the "ordered" file of CIFAR-100
}
SOURCE = "https://github.com/UCSC-REAL/cifar-10-100n"


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
} | {
    (f"numpy.{core}.multiarray", name): getattr(np._core.multiarray, name)  # type: ignore[attr-defined]
    for core in ("core", "_core")  # before and since numpy 2
    for name in ("_reconstruct", "scalar")
}
ALLOWED |= {(f"numpy.{core}.numeric", "_frombuffer"): np._core.numeric._frombuffer for core in ("core", "_core")}  # type: ignore[attr-defined]


class _Unpickler(pickle.Unpickler):
    """Makes dicts, lists, texts, numbers and numpy arrays of numbers; anything else that a file names is refused unmade."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no numpy array")
        return ALLOWED[module, name]


def read(path: Path) -> dict[str, Array]:
    """The arrays of a published file by key. Raises InputError, one line, for a damaged file and for one that holds anything else."""
    try:
        found = _contents(path)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}, not a dict of label arrays")
        arrays = {str(k): np.asarray(v) for k, v in found.items()}
        for key, y in arrays.items():
            if y.dtype.kind not in "iu" or y.ndim != 1:
                raise ValueError(f"{key} is {y.dtype} of shape {list(y.shape)}, not whole numbers in one dimension")
    except Exception as error:  # zip, pickle and numpy each have their own for damaged bytes
        raise InputError(f"{path}: not a file of human labels that can be read safely ({one_line(error)})") from None
    return arrays


def _contents(path: Path) -> Any:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as z:
            return {key: z[key] for key in z.files if z[key].ndim == 1 and z[key].dtype.kind in "iu"}
    if path.suffix == ".npy":
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = header[version](file)
            if dtype.hasobject:
                held = _Unpickler(file).load()
                return held.item() if isinstance(held, np.ndarray) and shape == () else held
        raise ValueError("an array, not a dict of label arrays")
    with zipfile.ZipFile(path) as z:
        member = next((name for name in z.namelist() if name.split("/")[-1] == "data.pkl"), None)
        if member is None:
            raise ValueError("no data.pkl in it")
        return _Unpickler(io.BytesIO(z.read(member))).load()


def find(name: str, root: Path) -> Path | None:
    """The file of human labels for ``cifar10`` or ``cifar100`` below the data root, or in ``cifar-n`` there."""
    places = [folder / file for file in FILES[name] for folder in (root, root / "cifar-n")]
    return next((path for path in places if path.is_file()), None)


def label_sets(path: Path, clean: Array, n_classes: int, order_file: str = "") -> dict[str, Array]:
    """The human label sets [N] by short name (``KEYS``), in the order of the images.

    ``clean`` [N]: the labels of the images, by which the order is checked: labels of the TensorFlow order are brought into place by
    ``order_file`` beside them, or refused. Raises InputError, one line, for labels that do not fit the images.
    """
    arrays = read(path)
    found = {short: arrays[key] for key, short in KEYS.items() if key in arrays}
    if CLEAN not in arrays or not found:
        raise InputError(f"{path}: has no {CLEAN} or no noisy labels; it holds: {', '.join(arrays) or '(nothing)'}")
    for key, y in {CLEAN: arrays[CLEAN], **found}.items():
        if len(y) != len(clean):
            raise InputError(f"{path}: {key} has {len(y):,} labels for {len(clean):,} images")
        if y.min() < 0 or y.max() >= n_classes:
            i = int(((y < 0) | (y >= n_classes)).argmax())
            raise InputError(f"{path}: {key}[{i}] is {y[i]}, out of range: the classes are 0 to {n_classes - 1}")
    order = np.arange(len(clean))
    if not np.array_equal(arrays[CLEAN], clean):
        order = _order(path, path.with_name(order_file), arrays[CLEAN], clean)
    return {name: y[order].astype(np.int64) for name, y in found.items()}


def _order(path: Path, file: Path, theirs: Array, clean: Array) -> Array:
    """Positions [N] in the file of each image's label."""
    where = f"{path}: its clean labels are not those of the images in this order"
    if not file.is_file():
        raise InputError(f"{where}; take the .pt file, or put {file.name} beside it for labels in TensorFlow's order")
    try:
        order = np.load(file, allow_pickle=False)
        candidates = [order, np.argsort(order)] if sorted(order.tolist()) == list(range(len(clean))) else []
    except Exception as error:
        raise InputError(f"{file}: cannot be read ({one_line(error)})") from None
    for candidate in candidates:  # a map can be written either way round; the clean labels tell which
        if np.array_equal(theirs[candidate], clean):
            return candidate
    raise InputError(f"{where}, nor does {file.name} bring them into it")
