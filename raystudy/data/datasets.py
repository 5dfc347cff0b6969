"""Data sets by name: the table of those there are, and reading one, once. No noise is drawn and nothing is augmented here.

To add a data set, add a row to ``DATASETS``. A user's own need none: ``npz:PATH``, see ``raystudy.data.npz``, and
``folder:PATH``, see ``raystudy.data.folder``. What a data set is, is in ``raystudy.data.dataset``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from raystudy import own
from raystudy.data import brought, columns, embedded, folder, hf, human, listed, lists, npz, published, smoke, tables
from raystudy.data.dataset import Dataset, changed, unbalanced
from raystudy.data.files import Listing, size_and_time
from raystudy.data.noise import Noise, open_set
from raystudy.data.published import SETS
from raystudy.data.spec import Options, imbalanced, on_disk, parse
from raystudy.errors import InputError, unknown

Stamp = tuple[int, ...]  # sizes and times of files
FILE_OPTIONS = ("labels", "size", "channels", "skip_corrupt", "stream")  # options of image files only
TABLE_OPTIONS = ("target", "drop", "clean")  # of tables of features
HF_OPTIONS = ("inputs", "split", "test", "config")
TABLES = ("csv", "parquet", "hf")  # have columns
KINDS = ("npz:PATH", "folder:PATH", "csv:PATH", "parquet:PATH", "hf:PATH")
OWN = "FILE.py:FUNCTION"  # and PACKAGE.MODULE:FUNCTION


@dataclass(frozen=True)
class Info:
    """A row of DATASETS: how a data set is read, and what a person wants to know before using it."""

    load: Callable[[Path, Options, Noise | None], Dataset]  # of the data root; controlled noise chooses its images
    train: int  # images
    test: int
    n_classes: int
    shape: tuple[int, int, int]  # C, H, W
    source: str
    licence: str
    archives: tuple[str, ...] = ()  # what to download where there is no network; empty: nothing to download
    files: tuple[str, ...] = ()  # present when these are, relative to the data root
    noises: tuple[str, ...] = ()  # the noise kinds that make sense of it; empty: all of those that draw labels
    listed: bool = False  # whether it consists of image files, so that size and the like may be chosen


def load(spec: str, root: Path | str = "data", noise: Noise | None = None) -> Dataset:
    """A data set by name (a key of DATASETS), ``npz:PATH`` or ``folder:PATH``, with options (see ``raystudy.data.spec``).

    ``root`` is the folder of downloads. ``noise`` decides which images there are only where the noise came as images
    (controlled noisy web labels); without it these sets are read noise-free. The last two sets are kept. Raises InputError, one
    line, for an unknown name, for files that are absent and cannot be downloaded, and for everything wrong with a user's file.
    """
    if spec.startswith(smoke.PREFIX):
        return _cached_smoke(spec, Path(root).expanduser().resolve(), stamp(spec, root))
    name, options = parse(spec)
    _known(name)
    kind, _, path = name.partition(":")
    if kind != "folder" and not (name in DATASETS and DATASETS[name].listed):
        for option in FILE_OPTIONS:
            if option in options.given() and (kind != "hf" or option == "labels"):
                raise InputError(
                    f"data set {name!r} has no option {option}: it is for sets of image files, such as folder:PATH"
                )
    if kind not in TABLES and (wrong := [o for o in TABLE_OPTIONS if o in options.given()]):
        raise InputError(f"data set {name!r} has no option {wrong[0]}: it is for tables, such as csv:PATH")
    if kind != "hf" and (wrong := [o for o in HF_OPTIONS if o in options.given()]):
        raise InputError(f"data set {name!r} has no option {wrong[0]}: it is for hf:")
    if brought.is_dataset(name):
        return _cached_own(name, Path(root).expanduser().resolve(), options, stamp(name, root))
    if name not in DATASETS:
        where = Path(path).expanduser()
        table = Path(options.labels).expanduser() if options.labels else None
        return _cached_file(kind, where, options, table, _stamp_of_file(kind, where, table))
    allowed = DATASETS[name].noises
    if noise is not None and allowed and noise.kind not in allowed:
        raise InputError(
            f"the labels of {name!r} are noisy as they came, so {noise.kind!r} on top has no known rate; choose from: {', '.join(allowed)}"
        )
    chosen = noise if noise is not None and noise.kind == "web" else None
    where = Path(root).expanduser().resolve()
    return _cached(name, where, options, chosen and replace(chosen, seed=0), _stamp_of_row(name, where))


def labelled(spec: str) -> columns.Labelled:
    """The rows of a table, ``csv:PATH``, ``parquet:PATH`` or ``hf:NAME``, and its labels. Raises InputError, one line."""
    name, options = parse(spec)
    kind, _, path = name.partition(":")
    if kind == "hf":
        return hf.labelled(hf.opened(path, options), options)
    file = Path(path).expanduser().resolve()
    _stamp_of_file(kind, file, None)
    return columns.labelled(file, options)


def _known(name: str) -> None:
    known = name in DATASETS or name.startswith(tuple(kind.removesuffix("PATH") for kind in KINDS))
    if not known and not brought.is_dataset(name):
        raise unknown("data set", name, [*DATASETS, *own.installed("datasets"), *KINDS, OWN])


def stamp(spec: str, root: Path | str, noise: Noise | None = None) -> Stamp:
    """Changes when a file is written again from which the data set or its noise is read: what is kept of them is then read again."""
    told: Stamp = ()
    if noise is not None and noise.kind in ("file", "matrix"):
        told = size_and_time(Path(noise.variant))
    if noise is not None and noise.kind == "openset":
        told = stamp(open_set(noise.variant)[0], root)
    if spec.startswith(smoke.PREFIX):
        name = spec.removeprefix(smoke.PREFIX)
        return told if parse(name)[0] in DATASETS else told + stamp(name, root)
    name, options = parse(spec)
    _known(name)
    if name in DATASETS:
        return told + _stamp_of_row(name, Path(root).expanduser())
    if brought.is_dataset(name):
        return *told, int(own.code("datasets", name) or "0", 16)
    kind, _, path = name.partition(":")
    table = Path(options.labels).expanduser() if options.labels else None
    return told + _stamp_of_file(kind, Path(path).expanduser(), table)


def _stamp_of_row(name: str, root: Path) -> Stamp:
    labels = human.find(name.removesuffix("n"), root) if name.removesuffix("n") in human.FILES else None
    files = [root / file for file in DATASETS[name].files] + ([labels] if labels else [])
    return tuple(number for file in files for number in size_and_time(file))


def _stamp_of_file(kind: str, path: Path, table: Path | None) -> Stamp:
    """Of all images of the table where they lie in a folder. Raises InputError where there is nothing."""
    if kind == "hf":
        below = (f.relative_to(path).as_posix() for f in path.rglob("*")) if path.is_dir() else ()
        return (folder.fingerprint(path, sorted(below)),)
    if not path.exists():
        takes = {
            "npz": "npz: takes the path of an .npz file",
            "csv": "csv: takes the path of a table, a column of which are labels",
            "parquet": "parquet: takes the path of a table, a column of which are labels",
            "folder": "folder: takes a folder of images, or an archive of one",
        }
        raise InputError(f"{path}: no such file; {takes[kind]}, see README")
    if table is not None and not table.exists():
        raise InputError(f"{table}: no such file; --labels names a .csv or .parquet, see README")
    told = size_and_time(table) if table else ()
    if kind == "folder" and path.is_dir():
        return *told, folder.fingerprint(path, _paths(table, told) if table else folder.pictures_below(path))
    return *told, *size_and_time(path)


@lru_cache(maxsize=2)
def _paths(table: Path, stamp: Stamp) -> tuple[str, ...]:
    return tuple(tables.read(table).columns["path"])


@lru_cache(maxsize=2)
def _cached(name: str, root: Path, options: Options, noise: Noise | None, stamp: Stamp) -> Dataset:
    if DATASETS[name].listed:
        _there(name, root)
    return changed(DATASETS[name].load(root, options, noise), options)


@lru_cache(maxsize=2)
def _cached_file(kind: str, path: Path, options: Options, table: Path | None, stamp: Stamp) -> Dataset:
    if kind == "hf":
        return hf.read(str(path), options)
    if kind in TABLES:
        if (path.suffix.lower() == ".parquet") != (kind == "parquet"):
            raise InputError(f"{path}: {kind}: takes a {'.parquet' if kind == 'parquet' else '.csv'} file")
        return changed(columns.read(path.resolve(), options), options)
    if kind == "npz":
        return changed(npz.read(path.resolve()), options)
    if path.is_file():
        if not path.name.endswith(folder.ARCHIVES):
            raise InputError(f"{path}: not a folder of images; an archive's name ends in {', '.join(folder.ARCHIVES)}")
        path = folder.unpacked(path)
    return listed.from_files(folder.read(path, table), options)


@lru_cache(maxsize=2)
def _cached_own(name: str, root: Path, options: Options, stamp: Stamp) -> Dataset:
    return changed(brought.dataset(name, root), options)


@lru_cache(maxsize=4)
def _cached_smoke(spec: str, root: Path, stamp: Stamp) -> Dataset:
    """Only a user's own file is read to count its classes."""
    name = spec.removeprefix(smoke.PREFIX)
    info = DATASETS.get(name.partition("?")[0])
    data = embedded.stand_in(spec, info.n_classes if info else load(name, root).n_classes)
    asked = imbalanced(name)
    return unbalanced(data, asked, least=2) if asked else data  # a stand-in is too small for most ratios


def present(name: str, root: Path | str = "data") -> bool:
    """Whether a data set can be loaded without a download."""
    if name.startswith(smoke.PREFIX):
        return present(name.removeprefix(smoke.PREFIX), root) or True  # raises for a name that is none
    name = parse(name)[0]
    _known(name)
    if brought.is_dataset(name):
        return True
    kind, colon, path = name.partition(":")
    if colon:
        if kind == "hf":
            return on_disk(path)  # what of the hub is here already, only the package knows
        return Path(path).expanduser().is_file() if kind != "folder" else Path(path).expanduser().exists()
    found = all((Path(root).expanduser() / file).is_file() for file in DATASETS[name].files)
    return found and (name not in HUMAN or human.find(HUMAN[name], Path(root).expanduser()) is not None)


def shape(spec: str, root: Path | str = "data") -> tuple[int, ...]:
    """Channels, height and width of images, or the features of vectors, without loading a data set of files."""
    name, options = parse(spec)
    if name.startswith("folder:"):
        size = options.size or Listing.size
        return options.channels or Listing.channels, size, size
    if name not in DATASETS:
        return load(spec, root).shape
    told = DATASETS[name].shape
    return told if options.size is None else (told[0], options.size, options.size)


# --- the rows -----------------------------------------------------------------------------------------------------


def _published(name: str, row: str = "") -> Callable[[Path, Options, Noise | None], Dataset]:
    return lambda root, options, noise: published.read(name, root, row)


def _there(name: str, root: Path) -> None:
    if not present(name, root):
        info = DATASETS[name]
        raise InputError(
            f"data set {name!r} is not under {root}: fetch {', '.join(info.archives)} from {info.source} and put the contents into "
            f"{(root / info.files[0].partition('/')[0])} (see docs/datasets.md), or name the folder that has them with --data-root"
        )


def _controlled(name: str, place: str, size: int, root: Path, options: Options, noise: Noise | None) -> Dataset:
    colour, level = ("red", 0.0) if noise is None else (noise.variant, noise.rate)
    annotations = root / "cnwl" / f"{place.replace('_', '-')}-annotations.json"
    listing = lists.controlled(root / "cnwl" / place, annotations, name, colour, level, options.size or size)
    return listed.from_files(listing, options)


def _listed(
    name: str, place: str, read: Callable[[Path], Listing], root: Path, options: Options, noise: Noise | None
) -> Dataset:
    return listed.from_files(read(root / place), options)


HUMAN = {"cifar10n": "cifar10", "cifar100n": "cifar100"}  # sets that are not there without their human labels

_CNWL_SOURCE = "https://google.github.io/controlled-noisy-web-labels"
_WEBVISION_SOURCE = "https://data.vision.ee.ethz.ch/cvl/webvision/download.html"
_CLOTHING = tuple(
    f"clothing1m/{f}"
    for f in (
        "noisy_label_kv.txt",
        "clean_label_kv.txt",
        "noisy_train_key_list.txt",
        "clean_val_key_list.txt",
        "clean_test_key_list.txt",
    )
)

DATASETS: dict[str, Info] = {
    "digits": Info(
        lambda root, options, noise: embedded.digits(),
        1347, 450, 10, (1, 8, 8), "in scikit-learn (UCI optical recognition of handwritten digits)", "CC BY 4.0",
    ),
    "mnist": Info(
        _published("mnist"),
        60000, 10000, 10, (1, 28, 28), SETS["mnist"].source, "CC BY-SA 3.0",
        SETS["mnist"].archives, SETS["mnist"].files,
    ),
    "fashion_mnist": Info(
        _published("fashion_mnist"),
        60000, 10000, 10, (1, 28, 28), SETS["fashion_mnist"].source, "MIT",
        SETS["fashion_mnist"].archives, SETS["fashion_mnist"].files,
    ),
    "cifar10": Info(
        _published("cifar10"),
        50000, 10000, 10, (3, 32, 32), SETS["cifar10"].source, "none stated; cite Krizhevsky 2009",
        SETS["cifar10"].archives, SETS["cifar10"].files,
    ),
    "cifar100": Info(
        _published("cifar100"),
        50000, 10000, 100, (3, 32, 32), SETS["cifar100"].source, "none stated; cite Krizhevsky 2009",
        SETS["cifar100"].archives, SETS["cifar100"].files,
    ),
    "cifar10n": Info(
        _published("cifar10", "cifar10n"),
        50000, 10000, 10, (3, 32, 32), human.SOURCE, "labels CC BY-NC 4.0 (non-commercial)",
        ("CIFAR-10_human.pt",), SETS["cifar10"].files,
    ),
    "cifar100n": Info(
        _published("cifar100", "cifar100n"),
        50000, 10000, 100, (3, 32, 32), human.SOURCE, "labels CC BY-NC 4.0 (non-commercial)",
        ("CIFAR-100_human.pt",), SETS["cifar100"].files,
    ),
    "cnwl_mini_imagenet": Info(
        partial(_controlled, "cnwl_mini_imagenet", "mini-imagenet", 32),
        50000, 5000, 100, (3, 32, 32), _CNWL_SOURCE, "lists CC BY 4.0; images their owners'",
        ("dataset_no_images.zip", "the images of its lists"), ("cnwl/mini-imagenet/split/clean_validation",), listed=True,
    ),
    "cnwl_stanford_cars": Info(
        partial(_controlled, "cnwl_stanford_cars", "stanford_cars", 224),
        8144, 8041, 196, (3, 224, 224), _CNWL_SOURCE, "lists CC BY 4.0; images their owners'",
        ("dataset_no_images.zip", "the images of its lists"), ("cnwl/stanford_cars/split/clean_validation",), listed=True,
    ),
    "webvision_mini": Info(
        partial(_listed, "webvision_mini", "webvision", lists.webvision),
        65944, 2500, 50, (3, 224, 224), _WEBVISION_SOURCE, "terms on its page; images their owners'",
        ("google_resized_256.tar", "val_images_resized.tar", "info.tar"),
        ("webvision/info/train_filelist_google.txt", "webvision/info/val_filelist.txt"), ("given",), listed=True,
    ),
    "clothing1m": Info(
        partial(_listed, "clothing1m", "clothing1m", lists.clothing1m),
        1000000, 10526, 14, (3, 224, 224), "https://github.com/Cysu/noisy_label (on request)", "research, by agreement with the authors",
        ("images", "noisy_label_kv.txt", "clean_label_kv.txt", "the key lists"), _CLOTHING, ("given",), listed=True,
    ),
}  # fmt: skip
