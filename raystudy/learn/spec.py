"""What decides one training: the same spec is the same run, and its key names the run everywhere."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from raystudy.learn.recipe import CHANGED


@dataclass(frozen=True)
class TrialSpec:
    """All that decides what one training does: the same spec is the same run."""

    method: str
    version: int
    point: dict[str, Any]  # hyperparameters of the method that differ from its defaults, and recipe overrides
    dataset: str
    data_digest: str
    noise: dict[str, Any]
    noise_digest: str
    network: str
    recipe: dict[str, Any]
    epochs: int
    seed: int
    val_fraction: float
    clean_val: int

    @property
    def key(self) -> str:
        """16 hex digits. Data and noise enter by their digests, not by where they lie."""
        told = asdict(self)
        del told["dataset"], told["noise"]
        if changed := CHANGED.get(self.point.get("schedule", self.recipe.get("schedule", ""))):
            told["schedule"] = changed
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
