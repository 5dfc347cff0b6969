"""Methods with an optimizer of their own beside the recipe's: left in the middle of its work, they go on exactly."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods_contract import run_for, told

SLACK = {"stage1": 0.25, "stage2": 0.25, "revision_lr": 1e-3, "slack_lr": 1e-2}
REFINED = {"warmup": 0.25, "refine_block": 0.5, "refine_head": 0.25}


@pytest.mark.parametrize(
    ("method", "point", "rates"),
    [
        ("volminnet", {"t_optimizer": "sgd", "t_lr": 0.5}, [0.5]),
        ("volminnet", {"t_optimizer": "adam", "t_lr": 0.5}, [0.5]),
        ("t_revision", SLACK, [1e-3, 1e-2]),  # the third of four epochs is the first that revises
        ("pes", REFINED, []),  # the second and the third refine the block
    ],
)
def test_goes_on_with_its_state_and_its_rates(
    method: str, point: dict[str, Any], rates: list[float], tmp_path: Path
) -> None:
    whole = run_for(method, epochs=4, **point)
    for _ in range(3 if method == "t_revision" else 2):
        whole.epoch()
    assert whole.method.optimizers[1].state_dict()["state"]  # it has begun
    whole.save(tmp_path / "c.pt")
    again = run_for(method, epochs=4, **point)
    again.load(tmp_path / "c.pt")
    torch.manual_seed(99)
    for run in (whole, again):
        run.epoch()
    assert told(again.records[-1]) == told(whole.records[-1])
    for (name, a), b in zip(whole.method.state_dict().items(), again.method.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    own = [group["lr"] for group in again.method.optimizers[1].param_groups]
    scale = again.method.optimizers[0].param_groups[0]["lr"] if method == "volminnet" else 1.0
    assert not rates or own == pytest.approx([scale * rate for rate in rates])
