"""Study files: TOML -> Study, every key and value checked; the shipped ones by name; the same study in miniature.

A study file holds a grid, once at the top or as a list of ``[[grid]]`` blocks that take from the top what they do not say, and one
budget. ``docs/studies.md`` has the format for people. Nothing here loads images or runs anything.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import search_spaces
from raystudy.data import smoke
from raystudy.data.noise import Noise, parse
from raystudy.data.spec import family, located
from raystudy.design.study import Block, Study
from raystudy.errors import InputError, unknown

FOLDER = Path(search_spaces.__path__[0]) / "studies"
GRID: dict[str, type] = {"methods": list, "datasets": list, "noise": list, "network": str, "epochs": int, "recipe": str}
BUDGET: dict[str, Any] = {  # and what it is where nobody says otherwise
    "trials": 5,
    "replicates": 2,
    "sampler": "tpe",
    "scheduler": "asha",
    "objective": "val/acc",
    "seed": 0,
    "val_fraction": 0.1,
    "clean_val": 0,
}
KINDS = GRID | {k: type(v) for k, v in BUDGET.items()} | {"name": str, "noise_seed": int, "grid": list}
TOLD = {str: "a text", int: "a whole number", float: "a number", list: "a list"}
SCALES = ("full", "smoke")
SMOKE_EPOCHS = (
    3  # of the shortest cells; longer ones get one more each, so that cells that differ in epochs only stay apart
)


def shipped() -> list[str]:
    """The names of the studies that come with raystudy."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def default_setting(dataset: str, root: Path) -> tuple[str, int]:
    """Network and epochs for a data set where the user names none."""
    name = family(dataset)
    if name == "digits":
        return "mlp", 90  # 1,710 updates: with the published settings, DivideMix needs that many
    if name in ("cifar10", "cifar100"):
        return "preact_resnet18", 300
    if name in ("webvision", "clothing1m"):
        return "resnet50", 100 if name == "webvision" else 10
    from raystudy.data import datasets  # imports torch

    size = datasets.image_size(dataset, root)
    if name.startswith("cnwl_"):
        return "preact_resnet18" if size < 64 else "resnet18", 200
    return ("resnet18" if size >= 64 else "convnet" if size >= 16 else "mlp"), 60


def find(study: str) -> Path:
    """The file of a shipped study's name, or of a path (which ends in .toml or has a folder in it)."""
    if study.endswith(".toml") or "/" in study:
        return Path(study).expanduser()
    if study not in shipped():
        raise unknown("study", study, [*shipped(), "FILE.toml"])
    return FOLDER / f"{study}.toml"


def read(path: Path) -> dict[str, Any]:
    """A study file's keys and values, each of the right type and each name known. Raises InputError, one line with the file."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no study file {path}; shipped studies: {', '.join(shipped())}") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: {e}") from None
    _typed(told, KINDS, f"{path}")
    for i, block in enumerate(told.get("grid", []), 1):
        where = f"{path}, grid {i}"
        if not isinstance(block, dict):
            raise InputError(f"{path}: grid must be a list of [[grid]] tables, not {block!r}")
        _typed(block, GRID, where)
        if missing := [k for k in ("methods", "datasets", "noise") if not (told | block).get(k)]:
            raise InputError(f"{where}: no {' and no '.join(missing)}, neither here nor at the top of the file")
    if "grid" in told and not told["grid"]:
        raise InputError(f"{path}: grid is empty; leave it out, or give it a block")
    if "grid" not in told and (missing := [k for k in ("methods", "datasets", "noise") if not told.get(k)]):
        raise InputError(f"{path}: no {' and no '.join(missing)}")
    return told


def _typed(told: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for key, value in told.items():
        if key not in kinds:
            raise unknown(f"key in {where}:", key, kinds)
        kind = kinds[key]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"{where}: {key} must be {TOLD[kind]}, not {value!r}")
        if kind is list and key != "grid" and any(not isinstance(v, str) for v in told[key]):
            raise InputError(f"{where}: {key} must be a list of texts, not {value!r}")


def load(study: str, root: Path, noise_seed: int | None = None) -> Study:
    """The study of a file or a shipped name, as the file says it; the ``study.toml`` of a study that
    was run is read, too. Raises InputError, one line with the file, for anything wrong."""
    path = find(study)
    if path.name == "study.toml" and path.exists() and "noises" in path.read_text(encoding="utf-8", errors="replace"):
        if noise_seed is not None:
            raise InputError(f"--noise-seed cannot be given with {path}: it is a study whose noise is resolved")
        return Study.from_toml(path)  # as the folder of a study has it
    told = read(path)
    try:
        seed = told.get("noise_seed", 0) if noise_seed is None else noise_seed
        top = {key: told[key] for key in GRID if key in told}
        blocks: list[Block] = []
        for own in told.get("grid", [{}]):
            block = top | own
            noises = tuple(n for text in block["noise"] for n in parse(text, seed=seed))
            blocks += blocks_of(block["methods"], block["datasets"], noises, block, root)
        return of_blocks(told.get("name", path.stem), blocks, BUDGET | {k: told[k] for k in BUDGET if k in told})
    except InputError as e:
        raise InputError(f"{path}: {e}") from None


def blocks_of(
    methods: list[str], sets: list[str], noises: tuple[Noise, ...], told: Mapping[str, Any], root: Path
) -> list[Block]:
    """One block, or one a data set where the network or the epochs are left to be chosen by data set."""
    from raystudy.data import datasets
    from raystudy.learn.methods import METHODS  # imports torch, too
    from raystudy.learn.point import method_class

    methods = sorted(METHODS) if methods == ["all"] else methods
    for method in methods:
        method_class(method)
    sets = [located(d) for d in sets]
    for d in sets:
        datasets.present(d, root)  # raises for a name that is none
    fixed = {key: told.get(key) for key in ("network", "epochs")}
    parts = [tuple(sets)] if None not in fixed.values() else [(d,) for d in sets]
    found = []
    for part in parts:
        network, epochs = default_setting(part[0], root) if None in fixed.values() else ("", 0)
        network = fixed["network"] if fixed["network"] is not None else network
        epochs = fixed["epochs"] if fixed["epochs"] is not None else epochs
        if not network:
            raise InputError("network is empty; name one, or leave it out")
        if epochs < 1:
            raise InputError(f"--epochs is {epochs}; it must be from 1")
        unique = tuple(dict.fromkeys(methods)), tuple(dict.fromkeys(part)), tuple(dict.fromkeys(noises))
        found.append(Block(*unique, network, epochs, told.get("recipe") or "shared"))
    return found


def of_blocks(name: str, blocks: list[Block], budget: Mapping[str, Any]) -> Study:
    """A study of these blocks; what the first has (network, epochs, recipe) is the study's. One block is a plain product."""
    first = blocks[0]
    values: dict[str, Any] = {**budget, "val_fraction": float(budget["val_fraction"])}
    return Study(
        name=name,
        methods=first.methods,
        datasets=first.datasets,
        noises=first.noises,
        network=first.network,
        epochs=first.epochs,
        recipe=first.recipe,
        grid=tuple(blocks) if len(blocks) > 1 else (),
        **values,
    )


def miniature(study: Study) -> Study:
    """The same grid in minutes: stand-ins for all but the smallest data sets and networks, a few epochs, one trial, one replicate."""
    lengths = {e: SMOKE_EPOCHS + i for i, e in enumerate(sorted({study.epochs_of(c) for c in study.cells()}))}

    def small(block: Block) -> Block:
        return replace(
            block,
            datasets=tuple(d if d == "digits" else smoke.PREFIX + d for d in block.datasets),
            network=block.network and smoke.network(block.network),
            epochs=block.epochs and lengths[block.epochs],
        )

    shrunk = replace(
        study,
        name=f"{study.name[:94]}-smoke",
        datasets=small(study.blocks()[0]).datasets,
        network=smoke.network(study.network),
        epochs=lengths[study.epochs],
        trials=1,
        replicates=1,
        clean_val=min(study.clean_val, 10),
        grid=tuple(small(b) for b in study.grid),
    )
    assert len(shrunk.cells()) == len(study.cells())
    return shrunk
