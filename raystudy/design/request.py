"""A study from what a person asks for, at a command line or from Python: the one place where that is read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from raystudy.data.spec import located
from raystudy.design import studyfile
from raystudy.design.compose import LEVELS, SCALES, longer, miniature, of_methods
from raystudy.design.names import SHIPPED
from raystudy.design.study import Study
from raystudy.errors import InputError, unknown


def requested(
    methods: Sequence[str] = (),
    *,
    file: str | None = None,
    scale: str = "full",
    dataset: str | None = None,
    labels: str | None = None,
    size: int | None = None,
    skip_corrupt: bool = False,
    stream: str | None = None,
    imbalance: str | None = None,
    noise: Sequence[str] | None = None,
    noise_seed: int | None = None,
    network: str | None = None,
    epochs: int | None = None,
    recipe: str | None = None,
    filter: str | None = None,
    baseline: bool = True,
    name: str | None = None,
    root: Path = Path("data"),
    budget: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Study:
    """The study that a person asks for, by a command line or from Python: of named methods, or of a study file, whose grid is its own.

    What is None is the file's, or chosen by data set; what ``budget`` says counts before the file. Raises InputError.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    said = dict(budget or {})
    own = {"dataset": dataset, "labels": labels, "size": size, "skip_corrupt": skip_corrupt, "stream": stream}
    own |= {"imbalance": imbalance}
    grid = own | {"noise": noise, "network": network, "recipe": recipe, "filter": filter, "no_baseline": not baseline}
    if file:
        if methods:
            raise InputError(f"methods are named on the command line or in the study, not both: {' '.join(methods)}")
        if extra := [f"--{key.replace('_', '-')}" for key, value in grid.items() if value]:
            raise InputError(f"{', '.join(extra)} cannot be given with --study: the grid is the study's")
        study = studyfile.load(file, root, noise_seed, trust)
    elif not methods:
        raise InputError(f"name a METHOD (`raystudy methods` lists them) or a --study: {', '.join(SHIPPED)}")
    else:
        study = of_methods(
            methods,
            dataset=located(dataset or "digits", **{k: v or None for k, v in own.items() if k != "dataset"}),
            noise=noise or LEVELS,
            noise_seed=noise_seed or 0,
            network=network,
            epochs=epochs,
            recipe=recipe,
            filter=filter,
            baseline=baseline,
            root=root,
            budget=said,
        )
    if scale == "smoke":
        study = miniature(study)
    if file and epochs is not None:
        study = longer(study, epochs)
    said |= {key: tuple(value) for key, value in said.items() if isinstance(value, list)}  # as a study has them
    return replace(study, **said, name=study.name if name is None else name)
