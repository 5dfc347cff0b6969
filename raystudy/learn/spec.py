"""What decides one training: the same spec is the same run, and its key names the run everywhere."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
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
    code: str = ""  # digest of what the user brings: a method or a network of their own
    evaluate: dict[str, Any] = field(default_factory=dict)  # an Evaluation; empty: every epoch in full
    filter: str = ""  # before the method, see ``filtering``; empty: none

    @property
    def key(self) -> str:
        """16 hex digits. Data and noise enter by their digests, not by where they lie, and so does code that is not ours."""
        told = asdict(self)
        del told["dataset"], told["noise"]
        for name in ("code", "evaluate", "filter"):  # in the key only where they are used
            if not told[name]:
                del told[name]
        schedules = {self.point.get("schedule"), self.recipe.get("schedule")}  # of a point: perhaps the method's own
        if changed := {name: count for name, count in CHANGED.items() if name in schedules}:
            told["changed"] = changed
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
