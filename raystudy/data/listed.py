"""Lists of image files (``Listing``) -> ``Dataset``: every file is looked at, and stands in memory or stays where it is."""

from typing import Any

import numpy as np
import torch

from raystudy.data.dataset import Array, Dataset, Images, changed, channel_stats
from raystudy.data.files import STATS_IMAGES, Files, Listing, sound
from raystudy.data.noise import digest
from raystudy.data.spec import Options

IN_MEMORY_BYTES = 1 << 31  # of decoded images, up to which they stand in memory where the user does not say


def from_files(listing: Listing, options: Options) -> Dataset:
    """A Dataset from lists of image files: every file is looked at once; then the images are read, or stay where they are.

    They stay in their files where all of them decoded are more than IN_MEMORY_BYTES, or as ``options.stream`` says; that changes
    no digest and no result. Raises InputError with a count for files that are missing or cannot be decoded, see ``sound``.
    """
    size, channels = options.size or listing.size, options.channels or listing.channels

    def usable(what: str, paths: Any, y: Array) -> tuple[Files, Array, Array]:
        files = Files(listing.folder, paths, size, channels, listing.stored)
        good = sound(files, f"{listing.name}, {what}", bool(options.skip_corrupt))
        return (files if len(good) == len(files) else files[torch.from_numpy(good)]), y[good], good

    train, y_train, good = usable("training images", listing.train, listing.y_train)
    test, y_test, tested = usable("test images", listing.test, listing.y_test)
    extra = {name: usable(name, *part)[:2] for name, part in listing.tests.items()}
    if listing.val is not None:
        extra["val"] = usable("validation images", *listing.val)[:2]
    pixels = sum(files.numel() for files in (train, test, *(x for x, _ in extra.values())))
    stream = options.stream == "always" or (options.stream != "never" and pixels > IN_MEMORY_BYTES)
    stats = listing.stats if channels == listing.channels else None
    if options.mean is not None and options.std is not None:
        stats = options.mean, options.std
    if stats is None:
        some = torch.from_numpy(np.unique(np.linspace(0, len(train) - 1, min(len(train), STATS_IMAGES)).astype(int)))
        stats = channel_stats(train[some].read())
    marks = [files.marks() for files in (train, test)]
    keys = (files.digest(ever) for files, (ever, _) in zip((train, test), marks, strict=True))
    key = digest(*(np.frombuffer(k.encode(), np.uint8) for k in keys), y_train, y_test)

    def placed(files: Files) -> Images:
        return files if stream else files.read()

    data = Dataset(
        name=listing.name,
        x_train=placed(train),
        y_train=torch.from_numpy(y_train),
        x_test=placed(test),
        y_test=torch.from_numpy(y_test),
        label_sets={name: torch.from_numpy(y[good]) for name, y in listing.label_sets.items()},
        n_classes=len(listing.classes),
        classes=listing.classes,
        pad=max(1, size // 8),  # 4 at 32x32 pixels, as is usual for CIFAR
        flip=listing.flip,
        mean=stats[0],
        std=stats[1],
        digest=key,
        truth=listing.truth,
        rows={}
        if listing.rows is None
        else {"training": [listing.rows[0][i] for i in good], "test": [listing.rows[1][i] for i in tested]},
        ours=listing.rows is not None,
        extra={name: (placed(files), torch.from_numpy(y)) for name, (files, y) in extra.items()},
        title=listing.title,
        notes=listing.notes + _profiles([path for _, own in marks for path in own]),
        paths={"training": train.paths, "test": test.paths}
        | ({"validation": extra["val"][0].paths} if "val" in extra else {}),
    )
    return changed(data, options)


def _profiles(paths: list[str]) -> tuple[str, ...]:
    if not paths:
        return ()
    return (
        f"images with a colour profile other than sRGB, which is not applied: {len(paths):,} (the first is {paths[0]})",
    )
