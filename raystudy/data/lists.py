"""Published lists of image files -> ``Listing``: controlled noisy web labels, mini-WebVision, Clothing1M. No image is opened."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from raystudy.data.files import Array, Listing, one_line
from raystudy.errors import InputError

SYNSET = re.compile(r"(n\d{8})\d{8}\.")  # images of ImageNet in the controlled sets: synset and number
IMAGENET_STATS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLOTHES = (
    "T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket", "Down Coat", "Suit", "Shawl", "Dress",
    "Vest", "Underwear",
)  # fmt: skip


def lines(path: Path) -> list[str]:
    """The lines of a list that are not empty. Raises InputError where it cannot be read."""
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(f"{path}: no such list; see `raystudy datasets` for where the data set comes from") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a text list ({one_line(error)})") from None


def inside(path: str, where: str) -> str:
    """A path that stays below its folder, or InputError."""
    if "\0" in path:
        raise InputError(f"{where}: {path[:80]!r} has a zero byte in it, which no path can have")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise InputError(f"{where}: {path!r} leads out of the folder; paths are relative to it")
    return path


def labelled(path: Path, n_classes: int | None, keep: int | None = None) -> tuple[list[str], Array]:
    """Paths and labels [n] of a list with one ``PATH LABEL`` a line; with ``keep`` only labels below it.

    Raises InputError naming the line: not a path and a whole number, a label outside 0..n_classes-1, a path that leads out.
    """
    paths, labels = [], []
    for i, line in enumerate(lines(path), 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise InputError(
                f"{path}, line {i}: {line.strip()[:80]!r} is not PATH LABEL, a label being a whole number from 0"
            )
        if n_classes is not None and int(label) >= n_classes:
            raise InputError(f"{path}, line {i}: label {label} is out of range: the classes are 0 to {n_classes - 1}")
        if keep is None or int(label) < keep:
            paths.append(inside(name.strip(), f"{path}, line {i}"))
            labels.append(int(label))
    if not paths:
        raise InputError(f"{path}: lists no images" + (f" of the classes 0 to {keep - 1}" if keep else ""))
    return paths, np.array(labels, dtype=np.int64)


# --- controlled noisy web labels (Jiang et al., ICML 2020) ----------------------------------------------------------


def controlled(folder: Path, annotations: Path, name: str, colour: str, level: float, size: int) -> Listing:
    """One level of one colour, and the shared clean validation images as test set.

    Truth: an image of the noise-free list has that list's label; another image of ImageNet that of its synset; an image from the
    web the label that the annotators confirmed, or none of the classes (-1) where they did not or ``annotations`` is absent.
    """
    split = folder / "split"
    file = split / f"{colour}_noise_nl_{level}"
    base = next((f for f in (split / f"{c}_noise_nl_0.0" for c in (colour, "red", "blue")) if f.is_file()), None)
    if base is None:
        raise InputError(
            f"{split}: has no {colour}_noise_nl_0.0, from which the true labels are read; unpack all ten levels"
        )
    names = next((f for f in (folder / "class_name.txt", folder / "class_names.txt") if f.is_file()), None)
    classes = tuple(lines(names)) if names else ()
    clean_paths, clean_labels = labelled(base, len(classes) or None)
    classes = classes or tuple(str(c) for c in range(int(clean_labels.max()) + 1))
    paths, given = labelled(file, len(classes))
    test, y_test = labelled(split / "clean_validation", len(classes))

    truth = dict(zip(clean_paths, clean_labels.tolist(), strict=True))
    synsets = {m[1]: y for p, y in truth.items() if (m := SYNSET.match(p))}
    confirmed = _confirmed(annotations)
    clean = []
    for path in paths:
        synset = SYNSET.match(path)
        by_name = synsets.get(synset[1], -1) if synset else confirmed.get(Path(path).stem, -1)
        clean.append(truth.get(path, by_name))

    images, validation = _below(folder, "all_images"), _below(folder, "validation")
    sorted_ = (folder / validation / str(y_test[0])).is_dir()
    return Listing(
        name=name,
        folder=folder,
        train=[images + p for p in paths],
        y_train=np.array(clean, dtype=np.int64),
        test=[f"{validation}{y}/{p}" if sorted_ else validation + p for p, y in zip(test, y_test, strict=True)],
        y_test=y_test,
        classes=classes,
        label_sets={"web": given},
        size=size,
        stats=IMAGENET_STATS,
    )


def _below(folder: Path, name: str) -> str:
    """``NAME/`` where images lie there; empty in flat copies."""
    return f"{name}/" if (folder / name).is_dir() else ""


def _confirmed(annotations: Path) -> dict[str, int]:
    """Image id -> class of the web images that their annotators found to be of it."""
    if not annotations.is_file():
        return {}
    try:
        told = json.loads(annotations.read_text(encoding="utf-8"))["data"]
        return {
            image["image/id"]: int(image["image/class/label"])
            for group in told
            for image in group
            if int(image["image/class/label/is_clean"])
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{annotations}: not the published annotations ({type(error).__name__}: {one_line(error)})"
        ) from None


# --- WebVision 1.0, its first 50 classes (Li et al. 2017) -----------------------------------------------------------


def webvision(folder: Path, n_classes: int = 50) -> Listing:
    """Google's part of the training images; WebVision's validation images as test set, ILSVRC12's as a second one where they are there."""
    train, y_train = labelled(folder / "info" / "train_filelist_google.txt", 1000, n_classes)
    test, y_test = labelled(folder / "info" / "val_filelist.txt", 1000, n_classes)
    where = next((d for d in ("val_images_256/", "val_images/", "val/") if (folder / d).is_dir()), "val_images_256/")
    synsets = folder / "info" / "synsets.txt"
    named = [line.partition(" ")[2].split(",")[0] or line for line in lines(synsets)] if synsets.is_file() else []
    classes = tuple(named[:n_classes]) if len(named) >= n_classes else tuple(str(c) for c in range(n_classes))
    return Listing(
        name="webvision_mini",
        folder=folder,
        train=train,
        y_train=y_train,
        test=[where + p for p in test],
        y_test=y_test,
        classes=classes,
        label_sets={"given": y_train},
        truth=False,
        tests=_ilsvrc12(folder, n_classes),
        size=224,
        stats=IMAGENET_STATS,
    )


def _ilsvrc12(folder: Path, n_classes: int) -> dict[str, tuple[Sequence[str], Array]]:
    """Validation images of ILSVRC12 in ``imagenet``: by a list ``imagenet_val.txt``, or in folders 0..49 or of all the synsets."""
    place = folder / "imagenet"
    if (place / "imagenet_val.txt").is_file():
        paths, labels = labelled(place / "imagenet_val.txt", 1000, n_classes)
        return {"ilsvrc12": ([f"imagenet/{p}" for p in paths], labels)}
    if not (place / "val").is_dir():
        return {}
    held = sorted(d.name for d in (place / "val").iterdir() if d.is_dir())
    if all(name.isdecimal() for name in held):
        label = {name: int(name) for name in held}
    elif len(held) in (n_classes, 1000):  # synsets in order of their ids, as ILSVRC12's labels are
        label = {name: i for i, name in enumerate(held)}
    else:
        raise InputError(
            f"{place / 'val'}: has {len(held)} folders; it should have 0 to {n_classes - 1}, or the 1000 synsets"
        )
    found = [
        (f"imagenet/val/{name}/{file.name}", i)
        for name, i in sorted(label.items(), key=lambda item: item[1])
        if i < n_classes
        for file in sorted((place / "val" / name).iterdir())
        if not file.name.startswith(".")
    ]
    if not found:
        raise InputError(f"{place / 'val'}: holds no images of the classes 0 to {n_classes - 1}")
    return {"ilsvrc12": ([p for p, _ in found], np.array([i for _, i in found], dtype=np.int64))}


# --- Clothing1M (Xiao et al., CVPR 2015) ----------------------------------------------------------------------------


def clothing1m(folder: Path) -> Listing:
    """The noisy training images, and the clean validation and test images. The clean training images are not used, as is usual."""
    lists = folder / "annotations" if (folder / "annotations").is_dir() else folder
    noisy, clean = (_labels_of(lists / f"{kind}_label_kv.txt") for kind in ("noisy", "clean"))
    train, y_train = _keyed(lists / "noisy_train_key_list.txt", noisy, "noisy")
    val, test = (_keyed(lists / f"clean_{part}_key_list.txt", clean, "clean") for part in ("val", "test"))
    return Listing(
        name="clothing1m",
        folder=folder,
        train=train,
        y_train=y_train,
        test=test[0],
        y_test=test[1],
        classes=CLOTHES,
        label_sets={"given": y_train},
        truth=False,
        val=val,
        size=224,
        stats=IMAGENET_STATS,
    )


def _labels_of(path: Path) -> dict[str, int]:
    paths, labels = labelled(path, len(CLOTHES))
    return dict(zip(paths, labels.tolist(), strict=True))


def _keyed(path: Path, labels: dict[str, int], kind: str) -> tuple[list[str], Array]:
    keys = [inside(line.strip(), f"{path}, line {i}") for i, line in enumerate(lines(path), 1)]
    unknown = [(i, key) for i, key in enumerate(keys, 1) if key not in labels]
    if unknown:
        i, key = unknown[0]
        raise InputError(f"{path}, line {i}: {key} has no label in {kind}_label_kv.txt ({len(unknown)} such lines)")
    if not keys:
        raise InputError(f"{path}: lists no images")
    return keys, np.array([labels[key] for key in keys], dtype=np.int64)
