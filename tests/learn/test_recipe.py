"""Recipes: learning rates by hand, what is refused, and optimizers that hold what they were told."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import nn

from raystudy.errors import InputError
from raystudy.learn.recipe import OPTIMIZERS, SCHEDULES, Recipe
from raystudy.learn.spec import TrialSpec


def rates(**told: Any) -> list[float]:
    recipe = Recipe(lr=1.0, **told)
    return [recipe.rate(epoch, 4) for epoch in range(4)]


def test_cosine_falls_from_the_first_epoch_on() -> None:
    half = math.sqrt(0.5)
    assert rates(schedule="cosine") == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_steps() -> None:
    assert rates(schedule="step", milestones=(0.25, 0.75), gamma=0.5) == pytest.approx([1, 0.5, 0.5, 0.25])
    assert rates(schedule="step", milestones=(0.26,), gamma=0.5) == pytest.approx([1, 1, 0.5, 0.5])
    assert rates(schedule="step", milestones=()) == [1, 1, 1, 1]


def test_linear_is_kept_then_falls() -> None:
    assert rates(schedule="linear", milestones=(0.5,)) == pytest.approx([1, 1, 0.5, 0.5])
    assert rates(schedule="linear", milestones=(0,)) == pytest.approx([0.75, 0.5, 0.25, 0.25])


def test_linear_is_what_co_teaching_has_in_its_epoch() -> None:
    """bhanML/Co-teaching main.py: alpha_plan[e] = lr (200 - e) / (200 - 80) from e = 80 on; our epoch t is its e = t + 1, up to 199."""
    recipe = Recipe(lr=1e-3, schedule="linear", milestones=(0.4,))
    told = [recipe.rate(t, 200) for t in range(200)]
    assert told[:199] == pytest.approx([1e-3 if e < 80 else 1e-3 * (200 - e) / 120 for e in range(1, 200)])
    assert told[199] == told[198] == pytest.approx(1e-3 / 120)


def test_the_key_of_a_trial_tells_a_schedule_that_has_changed() -> None:
    told = {"data_digest": "d", "noise": {}, "noise_digest": "n", "network": "mlp", "epochs": 4, "seed": 0}
    spec = TrialSpec("ce", 1, {}, "digits", recipe=Recipe().to_dict(), val_fraction=0.1, clean_val=0, **told)
    assert spec.key == "f3a3a99c7a6bec9b"  # of cosine: as ever
    linear = Recipe(schedule="linear").to_dict()
    for changed in (
        replace(spec, recipe=linear),
        replace(spec, point={"schedule": "linear"}),
        replace(spec, method="coteaching_plus", point={"schedule": "type_1"}, recipe=linear),  # one of its own
    ):
        before = asdict(changed)
        del before["dataset"], before["noise"], before["code"]
        assert changed.key != hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"lr": 0.0}, "lr=0 must be above 0"),
        ({"lr": math.nan}, "lr=nan must be above 0"),
        ({"weight_decay": -1.0}, "weight_decay=-1 at least 0"),
        ({"momentum": 1.0}, r"momentum=1 in \[0, 1\)"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum above 0"),
        ({"gamma": 0.0}, "gamma=0 must be above 0"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"milestones": (0.5, 1.0)}, r"milestones=\[0.5, 1.0\] must be fractions of the budget in \[0, 1\)"),
        ({"milestones": (-0.1,)}, "milestones"),
        ({"milestones": (math.nan,)}, "milestones"),
        ({"milestones": ("a",)}, "milestones"),
        ({"schedule": "linear", "milestones": ()}, "'linear' needs a milestone"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'.*" + ", ".join(sorted(SCHEDULES))),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'.*" + ", ".join(sorted(OPTIMIZERS))),
    ],
)
def test_a_recipe_that_cannot_be(told: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as e:
        Recipe(**told)
    assert "\n" not in str(e.value)


def test_a_recipe_survives_its_record() -> None:
    recipe = Recipe(schedule="step", milestones=(0.5, 0.75), nesterov=True)
    assert Recipe(**recipe.to_dict()) == recipe
    assert recipe.to_dict()["milestones"] == [0.5, 0.75]
    assert hash(Recipe(milestones=[0.5])) == hash(Recipe(milestones=(0.5,)))  # type: ignore[arg-type]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_by_hand(nesterov: bool) -> None:
    """w = 1, gradient 1: v = g + decay w, then w - lr v (Nesterov: w - lr (v + momentum v) from the second buffer on)."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.ones_(net.weight)
    recipe = Recipe(lr=0.1, momentum=0.5, weight_decay=0.2, nesterov=nesterov)
    optimizer, w, v = recipe.optimizer_for(net), 1.0, 0.0
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(1, 1)).sum().backward()
        optimizer.step()
        g = 1 + 0.2 * w
        v = 0.5 * v + g
        w -= 0.1 * (g + 0.5 * v if nesterov else v)
        assert net.weight.item() == pytest.approx(w, abs=1e-6)


def test_adam_holds_its_settings() -> None:
    (group,) = Recipe(optimizer="adam", lr=1e-3, weight_decay=0.01).optimizer_for(nn.Linear(2, 2)).param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (1e-3, 0.01, (0.9, 0.999))
