"""Stand-ins for data sets and networks: ``smoke:NAME``, to try a study out in minutes and never for results.

A data set's stand-in has its number of classes. Ten classes are a part of scikit-learn's digits; other numbers are drawn, each image its
class's pattern with noise on it. It does not depend on what lies on the disk, so a study in miniature is the same everywhere.
"""

import zlib

import numpy as np

from raystudy.data.noise import Noise, generator

PREFIX = "smoke:"
SIZE = 8  # pixels
PER_CLASS = 8  # training images of a class, where there are many classes
TRAIN, TEST = 480, 160  # images at least
CAME_WITH_THE_DATA = ("given", "human", "web", "openset")
STREAM = 0x736D6F6B


def network(name: str) -> str:
    """The stand-in of a network; networks that are small enough stand for themselves."""
    return name if name in ("mlp",) or name.startswith(PREFIX) else PREFIX + name


def noise(setting: Noise) -> Noise:
    """What is drawn where a stand-in has no labels of its own: flips at the rate (20 % where none is told), others for each variant."""
    if setting.kind not in CAME_WITH_THE_DATA:
        return setting
    seed = setting.seed + zlib.crc32(f"{setting.kind}:{setting.variant}".encode())
    rate = setting.rate if setting.kind == "web" else setting.rate or 0.2
    return Noise("symmetric", rate, "exclusive", seed)


def patterns(n_classes: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training and test images [N, 1, 8, 8] uint8 and labels [N]: a random pattern for each class, with noise of the same size."""
    rng = generator(STREAM, n_classes)
    means = rng.uniform(40, 215, (n_classes, 1, SIZE, SIZE))
    parts = []
    for n in (max(TRAIN, PER_CLASS * n_classes), max(TEST, 2 * n_classes)):
        y = np.arange(n) % n_classes
        x = means[y] + rng.normal(0, 50, (n, 1, SIZE, SIZE))
        parts.append((np.clip(np.rint(x), 0, 255).astype(np.uint8), y))
    return parts[0], parts[1]
