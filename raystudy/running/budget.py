"""What a study may take: durations, the price table, and the end of a run that has used up its time or its money."""

import math
import re
import time
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystudy.errors import InputError, unknown

PRICES = Path(__file__).with_name("prices.toml")
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in UNITS))


def seconds(text: str, option: str) -> float:
    """``30m``, ``2h``, ``1h30m``, ``1d``, ``90s`` in seconds. Raises InputError for anything else."""
    found = _DURATION.fullmatch(text.strip().replace(" ", ""))
    total = sum(float(n) * size for n, size in zip(found.groups(), UNITS.values(), strict=True) if n) if found else 0.0
    if not total > 0:
        raise InputError(f"{option} is {text!r}; write a time above 0 such as 30m, 2h, 1h30m or 1d")
    return total


@dataclass(frozen=True)
class Price:
    """What an hour of one trial costs on a machine."""

    machine: str
    hour: float  # of one trial: its share of the machine
    currency: str
    date: str  # of the table

    @property
    def source(self) -> str:
        return f"{self.machine}, {self.hour:.4g} {self.currency} an hour and trial, prices of {self.date}"


def price(path: Path, machine: str | None, cpus: float, gpus: float) -> Price:
    """The price of one trial's hour from a table. Raises InputError, one line with the file, for anything wrong in it."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
        machines, currency, date = told["machine"], str(told["currency"]), str(told["date"])
        name = machine if machine is not None else told["gpu" if gpus else "cpu"]
    except FileNotFoundError:
        raise InputError(f"there is no price table {path}") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: {e}") from None
    except KeyError as e:
        raise InputError(
            f"{path} is no price table: no {e.args[0]} (needed: date, currency, gpu, cpu, machine)"
        ) from None
    if not isinstance(machines, dict) or name not in machines:
        raise unknown(f"machine in {path.name}", name, machines if isinstance(machines, dict) else ())
    row: Any = machines[name]
    for key in ("price", "cpus", "gpus"):
        value = row.get(key) if isinstance(row, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
            raise InputError(f"{path}: {key} of machine {name!r} must be a number from 0, not {value!r}")
    if not row["cpus"] > 0:
        raise InputError(f"{path}: cpus of machine {name!r} must be above 0")
    if gpus and not row["gpus"]:
        raise InputError(
            f"machine {name!r} of {path.name} has no GPU, and trials are to use one; name another --machine"
        )
    share = max(cpus / row["cpus"], gpus / row["gpus"] if row["gpus"] else 0.0)
    return Price(name, row["price"] * share, currency, date)


class Budget:
    """Time and money of one run of the command. ``spent`` is asked again and again, with the number of trials that run."""

    def __init__(self, time_limit: float = math.inf, money_limit: float = math.inf, price: Price | None = None) -> None:
        self.time_limit, self.money_limit, self.price = time_limit, money_limit, price
        self.begun = self._looked = time.monotonic()
        self.money = 0.0
        self.reason = ""  # why the run was stopped, for people

    def spent(self, running: int, now: Callable[[], float] = time.monotonic) -> bool:
        """Whether to stop now. Money runs while trials do."""
        looked, self._looked = self._looked, now()
        if self.price:
            self.money += running * self.price.hour * (self._looked - looked) / 3600
        if not self.reason and self._looked - self.begun >= self.time_limit:
            self.reason = f"the time budget of {self.time_limit:.0f} s is used up"
        if not self.reason and self.price and self.money >= self.money_limit:
            self.reason = (
                f"the {self.money_limit:g} {self.price.currency} of --max-cost are used up ({self.price.source})"
            )
        return bool(self.reason)
