"""What a trial tells of epochs that are trained again: their seconds, and none of their records."""

import math
from dataclasses import asdict
from pathlib import Path

from raystudy.data.noise import Noise
from raystudy.design.single import single
from raystudy.learn.celldata import prepare
from raystudy.running.trial import TrialActor


def test_epochs_that_the_driver_has_are_trained_again_and_told_as_seconds(tmp_path: Path) -> None:
    """The driver has three epochs of four, and the checkpoint is gone with its node."""
    noise = Noise("symmetric", 0.5)
    spec = single("ce", prepare("digits", Path("data"), noise, 0.1), "digits", noise, "mlp", 4, val_fraction=0.1)
    told = {"spec": asdict(spec), "rungs": [], "checkpoint": str(tmp_path / "k.pt"), "storage": None, "study": "s"}
    told |= {"checkpoint_seconds": math.inf, "data_root": "data", "threads": 1, "gpus": 0, "whole": False, "own": {}}
    actor = TrialActor(told | {"recorded": 3})
    result = actor.step()
    assert (result["start"], len(result["records"])) == (3, 1)
    assert result["repeated"] > 0
    again = actor.run.records if actor.run else []
    assert result["repeated"] == sum(r["cost/seconds"] or 0.0 for r in again[:3])
    assert TrialActor(told | {"recorded": 0}).step()["repeated"] == 0
