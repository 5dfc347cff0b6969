"""Stored masks: the noise of one condition of a study as a file that says all about it. Reads and writes; draws nothing.

``masks/<data set>_<noise>.npz`` in a study's folder, plain arrays only:

    format       raystudy-mask-1
    spec         the noise as JSON: kind, rate, variant, seed, count
    seed         of the validation split: the noise seed, for a mask made from a mask plus that of the new study
    dataset      name of the data set
    data         digest of its images and clean labels
    images       digest of the images where the noise changed them, else empty
    given        [N] int64 given labels
    clean        [N] int64 clean labels, -1 for an image that shows none of the classes
    indices      [n] int64 positions of the wrong labels
    matrix       [K, K] float64 transition matrix: the model's, or counted where it has none
    digest       of all of the above
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raystudy.data.noise import NONE, Labels, Matrix, Noise, digest
from raystudy.errors import InputError

FORMAT = "raystudy-mask-1"
TEXTS = ("format", "spec", "dataset", "data", "images", "digest")
ARRAYS = ("seed", "given", "clean", "indices", "matrix")


@dataclass(frozen=True)
class Mask:
    """The noise of one data set: labels before and after, and what they were made by."""

    noise: Noise
    dataset: str
    data: str  # digest of the images and clean labels
    images: str  # digest of changed images, "" where none was changed
    given: Labels  # [N]
    clean: Labels  # [N], NONE for an image of no class
    matrix: Matrix  # [K, K]
    seed: int  # of the validation split

    @property
    def indices(self) -> Labels:
        """Positions of the wrong labels, ascending."""
        return np.flatnonzero(self.given != self.clean)

    @property
    def digest(self) -> str:
        """16 hex characters over everything in the mask."""
        texts = (FORMAT, _spec(self.noise), self.dataset, self.data, self.images)
        return digest(
            *(np.frombuffer(t.encode(), np.uint8) for t in texts),
            self.given,
            self.clean,
            self.indices,
            self.matrix,
            np.int64(self.seed),
        )


def _spec(noise: Noise) -> str:
    return json.dumps(noise.to_dict(), sort_keys=True)


def save(mask: Mask, path: Path) -> None:
    """Writes a mask in one step: a reader sees no file, or the whole of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with new.open("wb") as file:
        np.savez_compressed(
            file,
            format=FORMAT,
            spec=_spec(mask.noise),
            seed=np.int64(mask.seed),
            dataset=mask.dataset,
            data=mask.data,
            images=mask.images,
            given=mask.given,
            clean=mask.clean,
            indices=mask.indices,
            matrix=mask.matrix,
            digest=mask.digest,
        )
    os.replace(new, path)


def load(path: Path) -> Mask:
    """Reads a mask and checks it. Raises InputError, one line, for a file that is absent, damaged or no mask."""
    try:
        with np.load(path, allow_pickle=False) as z:
            names, told = set(z.files), {name: z[name] for name in (*TEXTS, *ARRAYS) if name in z.files}
    except FileNotFoundError:
        raise InputError(f"there is no mask {path}; masks lie in the folder masks of a study") from None
    except Exception as e:  # numpy and zipfile raise all sorts on bytes that are no mask
        raise InputError(f"mask {path} is damaged or not a mask of raystudy ({type(e).__name__})") from None
    if str(told.get("format")) != FORMAT:
        raise InputError(f"mask {path} is not a mask of this raystudy: its format is not {FORMAT}")
    if missing := {*TEXTS, *ARRAYS} - names:
        raise InputError(f"mask {path} is incomplete: it has no {', '.join(sorted(missing))}")
    try:
        mask = Mask(
            noise=Noise(**json.loads(str(told["spec"]))),
            dataset=str(told["dataset"]),
            data=str(told["data"]),
            images=str(told["images"]),
            given=_labels(told["given"]),
            clean=_labels(told["clean"]),
            matrix=told["matrix"],
            seed=int(told["seed"]),
        )
    except InputError as e:
        raise InputError(f"mask {path}: {e}") from None
    except (TypeError, ValueError):
        raise InputError(f"mask {path} is damaged: its fields are not what they must be") from None
    if mask.digest != str(told["digest"]):
        raise InputError(
            f"mask {path} is damaged: its contents do not have the digest {told['digest']} it was saved with"
        )
    return mask


def _labels(y: NDArray[np.generic]) -> Labels:
    if y.ndim != 1 or y.dtype != np.int64 or (len(y) and y.min() < NONE):
        raise ValueError("not labels")
    return y.astype(np.int64)
