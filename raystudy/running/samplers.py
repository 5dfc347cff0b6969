"""How Optuna proposes: a sampler by name, seeded for one trial, so that proposals follow from the ledger. A new sampler goes here."""

import hashlib
import warnings
from typing import Any

import optuna
from optuna.trial import TrialState

from raystudy.design.names import SAMPLERS
from raystudy.errors import unknown

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "diverged": TrialState.FAIL,
    "failed": TrialState.FAIL,
}


class _QMC(optuna.samplers.QMCSampler):
    """Quasi-random points numbered by the trial, so that a study rebuilt from the ledger goes on in the sequence."""

    def __init__(self, seed: int, position: int) -> None:
        super().__init__(scramble=True, seed=seed, warn_independent_sampling=False, warn_asynchronous_seeding=False)
        self._position = position

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, Any]) -> int:
        return self._position


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
        if name != "tpe":
            raise unknown("sampler", name, SAMPLERS)
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True, warn_independent_sampling=False
        )


STARTUP = 4  # random proposals before the model-based samplers begin
