"""Images, or vectors, that occur twice: in two splits, which makes a test of it one of memory, or in the training set.

Equal is equal to the last bit: pixels where images stand in memory, files where they are streamed.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import Tensor

from raystudy.data.files import Files
from raystudy.data.noise import digest

NAMED = 3  # images that a sentence names


def marks(x: Tensor | Files) -> list[str] | None:
    """A digest of each image; None for files of which there are too many to read for this."""
    return x.contents() if isinstance(x, Files) else [digest(image) for image in np.asarray(x)]


def told(
    parts: Mapping[str, tuple[Tensor | Files, Tensor]], paths: Mapping[str, Sequence[str]], kind: str = "images"
) -> tuple[str, ...]:
    """A sentence for every two splits with images in common, and one for images that are in the training set more than once.

    ``parts``: split -> images [n, ...] and labels [n], the training images first; ``paths``: their names, where they have any;
    ``kind``: what they are called.
    """
    held = {split: marks(x) for split, (x, _) in parts.items()}
    if any(found is None for found in held.values()):
        return ("too many image files to look for images that are in two splits",)
    seen = {split: _first(found or []) for split, found in held.items()}
    sentences = []
    for one, other in combinations(parts, 2):
        both = [(seen[one][mark], i) for i, mark in enumerate(held[other] or []) if mark in seen[one]]
        if both:
            named = ", ".join(_pair(one, i, other, j, paths, kind) for i, j in both[:NAMED])
            more = ", ..." if len(both) > NAMED else ""
            sentences.append(
                f"{len(both):,} of the {len(parts[other][1]):,} {other} {kind} are {one} {kind}, too: {named}{more}"
            )
    split = next(iter(parts))
    if repeated := _repeated(held[split] or [], parts[split][1], kind):
        sentences.append(repeated)
    return tuple(sentences)


def _first(found: Sequence[str]) -> dict[str, int]:
    """Mark -> position of the first image that has it."""
    return {mark: i for i, mark in reversed(list(enumerate(found)))}


def _pair(one: str, i: int, other: str, j: int, paths: Mapping[str, Sequence[str]], kind: str) -> str:
    if one not in paths or other not in paths:
        singular = kind.removesuffix("s")
        return f"{other} {singular} {j} is {one} {singular} {i}"
    a, b = paths[one][i], paths[other][j]
    return a if a == b else f"{b} is {a}"


def _repeated(found: Sequence[str], labels: Tensor, kind: str) -> str:
    """How many training images are copies of earlier ones, and how many of these have another label."""
    copies = sum(n - 1 for n in Counter(found).values())
    if not copies:
        return ""
    first, y = _first(found), labels.tolist()
    other = sum(y[i] != y[first[mark]] for i, mark in enumerate(found))
    return (
        f"{copies:,} of the {len(found):,} training {kind} are copies of others, {other:,} of them with another label"
    )
