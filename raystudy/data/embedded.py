"""Data sets that need no file: scikit-learn's digits, and the stand-ins ``smoke:NAME`` as data sets."""

import numpy as np

from raystudy.data import smoke
from raystudy.data.dataset import Dataset, build
from raystudy.data.noise import generator


def digits() -> Dataset:
    """scikit-learn's digits with a fixed split: 450 test images spread evenly over the classes, 1,347 to train on."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # 17 grey levels, 0..16
    y = bunch.target.astype(np.int64)
    # Shuffled, sorted by class, then every fourth or so: each class gets its share of the test set to within one.
    order = np.lexsort((generator(0).random(len(y)), y))
    marks = np.arange(len(y) + 1) * 450 // len(y)
    test = np.zeros(len(y), dtype=bool)
    test[order[np.flatnonzero(np.diff(marks))]] = True
    names = tuple(str(c) for c in range(10))
    return build("digits", (x[~test], y[~test]), (x[test], y[test]), names, pad=1, flip=False)


def stand_in(spec: str, n_classes: int) -> Dataset:
    """``smoke:NAME``, the stand-in of a data set with as many classes: a part of the digits where there are ten, else patterns."""
    if n_classes == 10:
        whole = digits()
        train, test = (
            (np.asarray(x[:n]), y[:n].numpy())
            for x, y, n in ((whole.x_train, whole.y_train, smoke.TRAIN), (whole.x_test, whole.y_test, smoke.TEST))
        )
    else:
        train, test = smoke.patterns(n_classes)
    return build(spec, train, test, tuple(map(str, range(n_classes))), pad=1, flip=False)
