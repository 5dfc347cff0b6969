"""How Optuna proposes: a sampler by name, seeded for one trial, so that proposals follow from the ledger. A new sampler goes here."""

import hashlib
import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from raystudy.design.names import AUTO, SAMPLERS
from raystudy.design.study import Study
from raystudy.errors import unknown

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}
# The rule behind ``auto``. docs/search.md measures all others, over numbers and choices, alone and started from other levels: a study that
# begins takes TPE whatever it searches.
AUTOMATIC = "tpe"
STARTUP = 4  # random proposals before the model-based samplers begin
TPE: dict[str, Any] = {
    "n_startup_trials": STARTUP,
    "multivariate": True,
    "group": True,
}  # docs/search.md has what each is worth
FLAT = ("qmc", "gp", "cmaes")  # these know no conditional parameters
SIGMA = 0.2  # of CMA-ES at its beginning, where every dimension is 1 wide


class _QMC(optuna.samplers.QMCSampler):
    """Quasi-random points numbered by the trial, so that a study rebuilt from the ledger goes on in the sequence."""

    def __init__(self, seed: int, position: int) -> None:
        super().__init__(scramble=True, seed=seed, warn_independent_sampling=False, warn_asynchronous_seeding=False)
        self._position = position

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self._position


class _CMAES(optuna.samplers.BaseSampler):
    """CMA-ES (Hansen 2016, The CMA Evolution Strategy: A Tutorial; package ``cmaes``) begun around the first trial, the published point.

    Optuna's own keeps its state in the trials it asked for itself; this one is made anew from the trials that have ended, in their order,
    a population at a time, so that it follows from the ledger. It moves numbers, two or more; TPE chooses what else there is. Trials
    that were stopped early rank behind those that were not, further ones first.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rest = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=False)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        found = optuna.search_space.intersection_search_space(study.get_trials(deepcopy=False))
        numbers: dict[str, BaseDistribution] = {
            n: d for n, d in found.items() if isinstance(d, FloatDistribution | IntDistribution)
        }
        return numbers if len(numbers) > 1 else {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        told = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
            if search_space.keys() <= t.params.keys()
        ]
        if not search_space or len(told) < STARTUP:
            return {}
        sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1

        def worth(t: FrozenTrial) -> tuple[int, int, float]:
            value = t.value if t.value is not None else t.intermediate_values.get(t.last_step or 0, math.inf)
            return t.state != TrialState.COMPLETE, -(t.last_step or 0), sign * value

        import cmaes  # with scipy.stats, which takes as long to import as half of torch, and nobody else needs

        bounds = np.tile([0.0, 1.0], (len(search_space), 1))
        search = cmaes.CMA(mean=_unit(told[0], search_space), sigma=SIGMA, bounds=bounds, seed=self._seed)
        size = search.population_size
        for i in range(0, len(told) - size + 1, size):
            ranked = sorted(told[i : i + size], key=worth)
            search.tell([(_unit(t, search_space), float(rank)) for rank, t in enumerate(ranked)])
        return {name: _value(d, u) for (name, d), u in zip(sorted(search_space.items()), search.ask(), strict=True)}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._rest.sample_independent(study, trial, param_name, param_distribution)


def _ends(d: Any) -> tuple[float, float]:
    return (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)


def _unit(trial: FrozenTrial, space: dict[str, BaseDistribution]) -> NDArray[np.float64]:
    """A trial's numbers [d], each dimension from 0 to 1."""
    out = []
    for name, d in sorted(space.items()):
        (low, high), v = _ends(d), trial.params[name]
        out.append(((math.log(v) if d.log else v) - low) / (high - low))  # type: ignore[attr-defined]
    return np.array(out)


def _value(d: Any, u: float) -> Any:
    low, high = _ends(d)
    v = low + (high - low) * float(u)
    v = min(max(math.exp(v) if d.log else v, d.low), d.high)
    return round(v) if isinstance(d, IntDistribution) else v


def settled(study: Study) -> Study:
    """The study with the sampler that ``auto`` stands for when it begins."""
    return replace(study, sampler=AUTOMATIC) if study.sampler == AUTO else study


def remark(asked: Study, study: Study) -> str:
    """What is said of a sampler that was left to the rule: which it is, and why; empty where it was not. ``study``: as it is settled."""
    if asked.sampler != AUTO:
        return ""
    why = "no other was measurably sooner" if study.sampler == AUTOMATIC else "with which the study was begun"
    return f"sampler auto: {study.sampler}, {why}"


def draw(*parts: object) -> int:
    """A seed from names: the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:4], "big")


def sampler(name: str, cell_seed: int, number: int, attempt: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial ``number`` of a cell; all its arguments follow from the study."""
    seed = draw(cell_seed, number, attempt)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental and soon deprecated arguments
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "qmc":
            return _QMC(cell_seed, number + attempt * 2**12)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, deterministic_objective=False)
        if name == "cmaes":
            return _CMAES(seed)
        if name != "tpe":
            raise unknown("sampler", name, SAMPLERS)
        return optuna.samplers.TPESampler(seed=seed, warn_independent_sampling=False, **TPE)
