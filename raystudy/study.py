"""What is to be run: studies, cells, trials, their keys and their files. Nothing here runs anything."""

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from raystudy.data.noise import Noise
from raystudy.errors import InputError, unknown

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def bad_name(name: str) -> InputError:
    """The error for a study name that could leave its storage folder, or is no good file name."""
    rule = "letters, digits, '.', '_' and '-', not beginning with '.', '_' or '-', at most 100"
    return InputError(f"study name {name!r} is not usable as a folder: {rule}")


def slug(text: str) -> str:
    """A text as part of a file name; a text that had to be changed gets a short hash so that names stay distinct."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[-60:]
    return plain if plain == text else f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


@dataclass(frozen=True)
class Cell:
    """One point of a study's grid."""

    method: str
    dataset: str
    noise: Noise

    @property
    def key(self) -> str:
        """Names the cell and its ledger file."""
        return f"{slug(self.method)}_{self.data_key}"

    @property
    def data_key(self) -> str:
        """Names what cells of different methods share, and the file of its mask."""
        seed = f"-seed{self.noise.seed}" if self.noise.seed else ""
        return f"{slug(self.dataset)}_{slug(self.noise.slug)}{seed}"

    @property
    def condition(self) -> str:
        """What cells of different methods share: data set and noise, for people."""
        seed = f" seed {self.noise.seed}" if self.noise.seed else ""
        return f"{self.dataset} {self.noise.label}{seed}"

    def to_dict(self) -> dict[str, Any]:
        return {"method": self.method, "dataset": self.dataset, "noise": self.noise.to_dict()}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Cell":
        return cls(d["method"], d["dataset"], Noise(**d["noise"]))


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
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Study:
    """A grid of cells, a search budget and a number of replicates.

    ``trials``, ``replicates`` and the grid may grow when the study is run again; everything else is
    fixed by its first run, because it changes what a trial is.
    """

    name: str
    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    noises: tuple[Noise, ...]
    trials: int
    replicates: int
    epochs: int
    network: str
    recipe: str = "shared"
    sampler: str = "tpe"
    scheduler: str = "asha"
    objective: str = "val/acc"
    seed: int = 0
    val_fraction: float = 0.1
    clean_val: int = 0
    batch: int = 1  # proposals of a cell that are out at once

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise bad_name(self.name)
        if self.objective.startswith(("test/", "truth/")):
            why = "reads the test set or the truth, and training never selects on those"
            raise InputError(f"objective {self.objective!r} {why}; choose from: {', '.join(OBJECTIVES)}")
        for what, name, choices in (
            ("objective", self.objective, OBJECTIVES),
            ("sampler", self.sampler, SAMPLERS),
            ("scheduler", self.scheduler, SCHEDULERS),
            ("recipe", self.recipe, RECIPES),
        ):
            if name not in choices:
                raise unknown(what, name, choices)
        for what, value, low, high in (
            ("trials", self.trials, 1, 10**6),
            ("replicates", self.replicates, 0, 10**4),
            ("epochs", self.epochs, 1, 10**6),
            ("seed", self.seed, 0, 2**31 - 1),
            ("clean-val", self.clean_val, 0, 10**9),
            ("batch", self.batch, 1, 10**6),
        ):
            if not low <= value <= high:
                raise InputError(f"--{what} is {value}; it must be from {low} to {high}")
        if not 0 < self.val_fraction < 1:
            raise InputError(f"--val-fraction is {self.val_fraction:g}; it must lie between 0 and 1")

    def cells(self) -> list[Cell]:
        """The grid, conditions outermost, so that a condition's methods stand together."""
        return [Cell(m, d, n) for d, n, m in itertools.product(self.datasets, self.noises, self.methods)]

    def to_toml(self) -> str:
        return tomli_w.dumps({**asdict(self), "noises": [n.to_dict() for n in self.noises]})

    @classmethod
    def from_toml(cls, path: Path) -> "Study":
        """Reads a resolved study. Raises InputError with one line for a broken file or an unknown name."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            kinds = {f.name: f.type for f in fields(cls)}
            for name, value in told.items():
                if name not in kinds:
                    raise unknown("setting", name, kinds)
                kind: Any = kinds[name] if kinds[name] in (str, int, float) else list
                if type(value) is not kind:
                    raise TypeError(f"{name} must be {kind.__name__}, not {value!r}")
            told["noises"] = tuple(Noise(**n) for n in told["noises"])
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
            return cls(**values)
        except FileNotFoundError:
            raise InputError(f"there is no study at {path.parent}") from None
        except InputError as e:
            raise InputError(f"{path}: {e}") from None
        except (tomllib.TOMLDecodeError, TypeError, KeyError, OSError, UnicodeDecodeError) as e:
            raise InputError(f"{path} is not a study file: {e}") from None

    def grown_from(self, old: "Study") -> "Study":
        """This study united with what its folder already holds. Raises InputError where they are different studies."""
        free = {"methods", "datasets", "noises", "trials", "replicates", "batch"}
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(old, f.name)
            if f.name not in free and mine != theirs:
                raise InputError(
                    f"study {self.name!r} was begun with {f.name}={theirs!r}, now {mine!r}: choose another --name, or the old value"
                )
        union: dict[str, Any] = {
            name: tuple(dict.fromkeys(getattr(old, name) + getattr(self, name)))
            for name in ("methods", "datasets", "noises")
        }
        return replace(
            self,
            **union,
            batch=old.batch,
            trials=max(self.trials, old.trials),
            replicates=max(self.replicates, old.replicates),
        )


OBJECTIVES = ("val/acc", "val/loss")
SAMPLERS = ("tpe", "random", "qmc", "gp")
SCHEDULERS = ("asha", "none")
RECIPES = ("shared", "paper")


def study_dir(storage: Path, name: str) -> Path:
    """Where a study lies. Raises InputError for a name that would leave the storage folder."""
    if not NAME.fullmatch(name):
        raise bad_name(name)
    return storage / name
