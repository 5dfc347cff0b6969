"""Time and money: durations, price tables, when a run has used up its budget."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from raystudy.errors import InputError
from raystudy.running.budget import PRICES, Budget, Price, price, seconds

TABLE: dict[str, Any] = {
    "date": "2026-01",
    "currency": "EUR",
    "gpu": "big",
    "cpu": "small",
    "machine": {"small": {"price": 0.4, "cpus": 4, "gpus": 0}, "big": {"price": 8, "cpus": 16, "gpus": 2}},
}


def table(folder: Path, **changes: Any) -> Path:
    path = folder / "prices.toml"
    path.write_text(tomli_w.dumps({k: v for k, v in (TABLE | changes).items() if v is not None}))
    return path


@pytest.mark.parametrize(
    ("text", "want"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1d 2h", 93600), ("0.5m", 30)],
)
def test_durations(text: str, want: float) -> None:
    assert seconds(text, "--time-budget") == want


@pytest.mark.parametrize("text", ["", "30", "m", "30x", "30m2h", "-5m", "0s", "infh", "1e3s", "h1"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InputError, match=r"--time-budget is '.*'; write a time above 0 such as 30m"):
        seconds(text, "--time-budget")


def test_a_trial_is_charged_for_its_share_of_the_machine(tmp_path: Path) -> None:
    path = table(tmp_path)
    assert price(path, None, cpus=1, gpus=0) == Price("small", 0.1, "EUR", "2026-01")
    assert price(path, None, cpus=1, gpus=0.5).hour == 2.0  # a quarter of the GPUs, a sixteenth of the cores
    assert price(path, None, cpus=12, gpus=0.5).hour == 6.0
    assert price(path, "big", cpus=16, gpus=0).hour == 8.0
    assert "big" in price(path, "big", 1, 1).source
    assert "2026-01" in price(path, "big", 1, 1).source


@pytest.mark.parametrize(
    ("changes", "machine", "words"),
    [
        ({}, "bog", ["'bog'", "did you mean 'big'?", "small"]),
        ({"gpu": "small"}, None, ["'small'", "no GPU"]),
        ({"machine": None}, None, ["no machine", "needed: date"]),
        ({"date": None}, None, ["no date"]),
        ({"machine": 3}, None, ["machine"]),
        ({"machine": {"big": {"price": "8", "cpus": 1, "gpus": 1}}}, None, ["price of machine 'big'", "'8'"]),
        ({"machine": {"big": {"price": -8, "cpus": 1, "gpus": 1}}}, None, ["price of machine 'big'", "-8"]),
        ({"machine": {"big": {"price": 8, "cpus": 0, "gpus": 1}}}, None, ["cpus of machine 'big'", "above 0"]),
        ({"machine": {"big": 8}}, None, ["price of machine 'big'"]),
    ],
)
def test_a_mistake_in_a_price_table(
    tmp_path: Path, changes: dict[str, Any], machine: str | None, words: list[str]
) -> None:
    with pytest.raises(InputError) as e:
        price(table(tmp_path, **changes), machine, 1, 1)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value)


def test_the_shipped_table_is_dated_and_every_machine_can_be_priced() -> None:
    told = tomllib.loads(PRICES.read_text())
    assert told["date"]
    for name, row in told["machine"].items():
        assert 0 < price(PRICES, name, 1, min(1, row["gpus"])).hour <= row["price"]
    assert price(PRICES, None, 1, 0).machine == told["cpu"]
    assert price(PRICES, None, 1, 1).machine == told["gpu"]
    with pytest.raises(InputError, match="there is no price table"):
        price(Path("nowhere.toml"), None, 1, 0)


def test_time_runs_out() -> None:
    budget = Budget(time_limit=10)
    assert not budget.spent(2, lambda: budget.begun + 9)
    assert budget.spent(2, lambda: budget.begun + 10)
    assert "time budget of 10 s" in budget.reason
    assert budget.spent(0, lambda: budget.begun + 11)


def test_money_runs_while_trials_do() -> None:
    budget = Budget(money_limit=1.0, price=Price("big", 3600.0, "EUR", "2026-01"))  # one a second
    assert not budget.spent(0, lambda: budget.begun + 5)
    assert budget.money == 0
    assert not budget.spent(2, lambda: budget.begun + 5.25)
    assert math.isclose(budget.money, 0.5)
    assert budget.spent(2, lambda: budget.begun + 5.5)
    assert "1 EUR of --max-cost" in budget.reason
