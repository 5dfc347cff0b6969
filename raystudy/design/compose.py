"""Composing studies: of named methods over noise levels, or of the blocks of a study file; what is left open is chosen by data set.

Nothing here runs anything; images are opened only to tell their size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raystudy import own
from raystudy.data import smoke
from raystudy.data.noise import Noise, parse
from raystudy.data.spec import base, family, located
from raystudy.design.study import NAME, NO_FILTER, Block, Study, slug
from raystudy.errors import InputError

BASELINE = "ce"
LEVELS = ("symmetric:0.2,0.5,0.8",)  # where nobody names noise


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

    shape = datasets.shape(dataset, root)
    if len(shape) == 1:
        return "mlp", 60
    size = shape[1]
    if name.startswith("cnwl_"):
        return "preact_resnet18" if size < 64 else "resnet18", 200
    return ("resnet18" if size >= 64 else "convnet" if size >= 16 else "mlp"), 60


def blocks_of(
    methods: list[str], sets: list[str], noises: tuple[Noise, ...], told: Mapping[str, Any], root: Path
) -> list[Block]:
    """One block, or one a data set where the network or the epochs are left to be chosen by data set."""
    from raystudy.data import datasets
    from raystudy.learn import filtering
    from raystudy.learn.methods import METHODS  # imports torch, too
    from raystudy.learn.point import method_class

    methods = sorted(METHODS) if methods == ["all"] else [own.located(m) for m in methods]
    for method in methods:
        method_class(method)
    sets = [located(d) for d in sets]
    for d in sets:
        datasets.present(d, root)  # raises for a name that is none
    fixed = {key: told.get(key) for key in ("network", "epochs")}
    chosen = filtering.canonical(told.get("filter") or "")
    parts = [tuple(sets)] if None not in fixed.values() else [(d,) for d in sets]
    found = []
    for part in parts:
        network, epochs = default_setting(part[0], root) if None in fixed.values() else ("", 0)
        network = fixed["network"] if fixed["network"] is not None else network
        network = own.located(network)
        epochs = fixed["epochs"] if fixed["epochs"] is not None else epochs
        if not network:
            raise InputError("network is empty; name one, or leave it out")
        if epochs < 1:
            raise InputError(f"--epochs is {epochs}; it must be from 1")
        unique = tuple(dict.fromkeys(methods)), tuple(dict.fromkeys(part)), tuple(dict.fromkeys(noises))
        found.append(Block(*unique, network, epochs, told.get("recipe") or "shared", chosen))
    return found


def of_blocks(name: str, blocks: list[Block], budget: Mapping[str, Any]) -> Study:
    """A study of these blocks; what the first has (network, epochs, recipe, filter) is the study's. One block is a plain product."""
    first = blocks[0]
    if first.filter:  # of which an empty one would take the study's
        blocks = [replace(b, filter=b.filter or NO_FILTER) for b in blocks]
    values: dict[str, Any] = {**budget, "val_fraction": float(budget["val_fraction"])}
    values["slack"] = None if budget["slack"] is None else float(budget["slack"])
    values["start_from"] = tuple(budget["start_from"])
    return Study(
        name=name,
        methods=first.methods,
        datasets=first.datasets,
        noises=first.noises,
        network=first.network,
        epochs=first.epochs,
        recipe=first.recipe,
        grid=tuple(blocks) if len(blocks) > 1 else (),
        filter=first.filter,
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
        evaluate="",
        grid=tuple(small(b) for b in study.grid),
    )
    assert len(shrunk.cells()) == len(study.cells())
    return shrunk


SMOKE_EPOCHS = (
    3  # of the shortest cells; longer ones get one more each, so that cells that differ in epochs only stay apart
)

SCALES = ("full", "smoke")

BUDGET: dict[str, Any] = {  # and what it is where nobody says otherwise
    "trials": 5,
    "replicates": 2,
    "sampler": "tpe",
    "scheduler": "asha",
    "objective": "val/acc",
    "seed": 0,
    "val_fraction": 0.1,
    "clean_val": 0,
    "keep_models": "",
    "slack": None,
    "start_from": (),
    "evaluate": "",
}


def default_name(methods: Sequence[str], dataset: str) -> str:
    """A study's name where the user gives none: its methods and its data."""
    named = [m.rpartition(":")[2] for m in methods if m != BASELINE] or [BASELINE]
    bare = base(dataset)
    name = f"{'-'.join(named)}-{Path(bare.partition(':')[2] or bare).stem}"
    return (
        name if NAME.fullmatch(name) else slug(name).lstrip("._-")
    )  # the end of a long name may begin with one of these


def of_methods(
    methods: Sequence[str],
    *,
    dataset: str = "digits",
    noise: Sequence[str] = LEVELS,
    noise_seed: int = 0,
    network: str | None = None,
    epochs: int | None = None,
    recipe: str | None = None,
    filter: str | None = None,
    baseline: bool = True,
    root: Path = Path("data"),
    budget: Mapping[str, Any] | None = None,
) -> Study:
    """A study of methods, beside plain cross-entropy unless that is not wanted. ``dataset`` as ``data.spec.located`` gives it; ``budget``:
    what it says of BUDGET. Raises InputError for a name or number that cannot be."""
    every = list(dict.fromkeys(([BASELINE] if baseline else []) + [own.located(m) for m in methods]))
    noises = tuple(n for text in noise for n in parse(text, seed=noise_seed))
    said = {"network": network, "epochs": epochs, "recipe": recipe, "filter": filter}
    blocks = blocks_of(every, [dataset], noises, said, root)
    return of_blocks(default_name(every, dataset), blocks, BUDGET | dict(budget or {}))


def longer(study: Study, epochs: int) -> Study:
    """A study with these epochs in every cell."""
    return replace(study, epochs=epochs, grid=tuple(replace(b, epochs=0) for b in study.grid))
