"""The spec of one training that belongs to no study: a method on prepared data, with what nobody says filled in as a study would."""

from typing import Any

from raystudy.data import evaluation
from raystudy.data.noise import Noise
from raystudy.design.space import recipe_for
from raystudy.learn.celldata import CellData
from raystudy.learn.point import code, method_class
from raystudy.learn.recipe import Recipe
from raystudy.learn.spec import TrialSpec


def single(
    method: str,
    data: CellData,
    dataset: str,
    noise: Noise,
    network: str,
    epochs: int,
    *,
    val_fraction: float,
    point: dict[str, Any] | None = None,
    recipe: str | Recipe = "shared",
    seed: int = 0,
    evaluate: str = "",
    filter: str = "",
) -> TrialSpec:
    """``point``: what differs from the method's defaults; ``recipe``: a kind of ``space.recipe_for``, or one that is there;
    ``evaluate`` as ``evaluation.parse`` reads it."""
    chosen = recipe_for(recipe, method, dataset, network) if isinstance(recipe, str) else recipe
    return TrialSpec(
        method=method,
        version=method_class(method).version,
        point=point or {},
        dataset=dataset,
        data_digest=data.data_digest,
        noise=noise.to_dict(),
        noise_digest=data.noise_digest,
        network=network,
        recipe=chosen.to_dict(),
        epochs=epochs,
        seed=seed,
        val_fraction=val_fraction,
        clean_val=0,
        code=code(method, network),
        evaluate=evaluation.parse(evaluate).to_dict(),
        filter=filter,
    )
