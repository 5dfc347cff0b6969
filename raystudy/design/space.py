"""Search spaces: ``search_spaces/*.toml`` -> Optuna parameters, paper points and recipes, every name and value checked.

A space file holds ``[space]`` (where hyperparameters may lie), ``[recipe]`` (how the published runs were trained, and in ``source``
whose runs these were; ``[recipe.cifar100]`` and the like what is otherwise on a data set) and ``[[paper]]`` rows (published
settings; ``rate`` and ``noise`` may list several). Names are the keyword arguments of the method's constructor; a point may also
name fields of the recipe.
"""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from torch import nn

import search_spaces
from raystudy import own
from raystudy.data.datasets import DATASETS
from raystudy.data.noise import NOISES, Noise
from raystudy.data.smoke import PREFIX
from raystudy.data.spec import PATHS, family
from raystudy.errors import InputError, unknown
from raystudy.learn.method import Method, Task
from raystudy.learn.methods import METHODS
from raystudy.learn.point import RECIPE_FIELDS, Point, checked, checked_recipe, hyperparameters, method_class, split
from raystudy.learn.recipe import Recipe

FOLDER = Path(search_spaces.__path__[0])
# What a published recipe says beside the fields of Recipe: for people, since a study has its own.
BESIDE: dict[str, type] = {"epochs": int, "network": str, "source": str}
# The share of wrong labels that published points are looked up at where nobody knows it, as of labels as they came: between the 8 to 40 %
# of data sets that people or the web labelled. At 0, which such labels have for a rate, it would be the rows of clean labels; and rows of
# other data sets that came with their labels say nothing of these: Clothing1M's are of ten epochs on weights of ImageNet.
MIDDLE = 0.3


@dataclass(frozen=True)
class Dimension:
    """Where one hyperparameter may lie: an interval (linear or log, perhaps with an extra value 0), or a choice."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    or_zero: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def switch(self) -> str:
        """The Optuna parameter that says whether an ``or_zero`` dimension is not 0."""
        return f"{self.name}>0"

    def suggest(self, trial: optuna.Trial, flat: bool) -> Any:
        """One value. The interval of an ``or_zero`` dimension is a conditional parameter: asked for only where it is used.

        Samplers that know no conditions (QMC, GP) get the ``flat`` space, in which it is always asked for.
        """
        if self.choices:
            return trial.suggest_categorical(self.name, list(self.choices))
        used = not self.or_zero or trial.suggest_categorical(self.switch, [False, True])
        value: Any = 0 if self.integer else 0.0
        if used or flat:
            if self.integer:
                value = trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
            else:
                value = trial.suggest_float(self.name, self.low, self.high, log=self.log)
        return value if used else type(value)(0)

    def params(self, value: Any, flat: bool) -> Point:
        """The Optuna parameters that ``suggest`` turns into this value; an unused interval stands at its middle."""
        if not self.or_zero:
            return {self.name: value}
        if value != 0:
            return {self.switch: True, self.name: value}
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return {self.switch: False} | ({self.name: round(middle) if self.integer else middle} if flat else {})

    def check(self, value: Any, where: str) -> None:
        if self.choices:
            if value not in self.choices:
                raise InputError(f"{where}: {self.name}={value!r} is not one of {', '.join(map(repr, self.choices))}")
        elif not (self.low <= value <= self.high or (self.or_zero and value == 0)):
            raise InputError(
                f"{where}: {self.name}={value!r} lies outside [{self.low:g}, {self.high:g}]{' and is not 0' if self.or_zero else ''}"
            )

    def to_dict(self) -> dict[str, Any]:
        """What is not a default, for a record."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def describe(self) -> str:
        """The range for people."""
        if self.choices:
            return "{" + ", ".join(map(str, self.choices)) + "}"
        return f"{'0 or ' if self.or_zero else ''}{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


def coordinates(dimensions: Iterable[Dimension], points: Iterable[Point]) -> NDArray[np.float64]:
    """Points as numbers [n, d]: within the interval 0 to 1, NaN for a 0 that stands for itself; of a choice its place in the list."""
    return np.array([[_coordinate(d, p[d.name]) for d in dimensions] for p in points])


def _coordinate(d: Dimension, v: Any) -> float:
    if d.choices:
        return float(d.choices.index(v))
    if d.or_zero and v == 0:
        return math.nan
    low, high, v = (math.log(x) for x in (d.low, d.high, v)) if d.log else (d.low, d.high, v)
    return (v - low) / (high - low)


def distances(dimensions: Iterable[Dimension], a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far points a [n, d] are from points b [m, d] (``coordinates``), squared [n, m]: each dimension counts 1 from end to end, and so
    do different choices, and 0 against another value where 0 stands for itself."""
    total = np.zeros((len(a), len(b)))
    for k, d in enumerate(dimensions):
        x, y = a[:, k, None], b[None, :, k]
        if d.choices:
            total += x != y
        else:
            total += np.where(np.isnan(x) != np.isnan(y), 1.0, np.nan_to_num(x - y) ** 2)
    return total


@dataclass(frozen=True)
class Paper:
    """A published setting: for which data, noise and rate; the point; where it is published; what was read off the truth."""

    dataset: str
    noise: str
    rate: float
    point: Point
    source: str
    variant: str = ""
    oracle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Space:
    """A method's search space, paper points and published recipe; ``recipes``: what of it is otherwise on a data set, by its family."""

    method: str
    dimensions: tuple[Dimension, ...]
    papers: tuple[Paper, ...]
    recipe: dict[str, Any]
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def suggest(self, trial: optuna.Trial, flat: bool = False) -> Point:
        """A point, from an Optuna trial."""
        return {d.name: d.suggest(trial, flat) for d in self.dimensions}

    def params(self, point: Point, flat: bool = False) -> Point:
        """The Optuna parameters of a point: the inverse of ``suggest``."""
        return {k: v for d in self.dimensions for k, v in d.params(point[d.name], flat).items()}

    def complete(self, point: Point) -> Point:
        """A point with the default of every searched hyperparameter that it does not name."""
        known = hyperparameters(self.method)
        defaults = {
            d.name: known[d.name].default if d.name in known else RECIPE_FIELDS[d.name].default for d in self.dimensions
        }
        return defaults | point

    def settled(self, point: Point) -> float:
        """The fraction of the budget after which a trial with this point may be compared with others."""
        values, _ = split(self.method, point)
        if self.method in METHODS and method_class(self.method).settled is Method.settled:
            return (
                0.0  # without a method made to ask: the first optimizer imports torch's compiler, which takes a second
            )
        task = Task(2, 2, 1, lambda dropout=0.0: nn.Linear(1, 2), lambda net: torch.optim.SGD(net.parameters()))
        try:
            return float(method_class(self.method)(task, **values).settled())
        except Exception as e:
            if self.method in METHODS:
                raise
            raise InputError(
                f"{self.method} cannot be made ({type(e).__name__}: {e}); `raystudy check` tells more"
            ) from None

    def recipe_on(self, dataset: str) -> dict[str, Any]:
        """The published recipe for a data set: that of its family, where there is one, laid over the general one."""
        return self.recipe | self.recipes.get(family(dataset.removeprefix(PREFIX)), {})

    def paper(self, dataset: str, noise: Noise) -> tuple[Point, tuple[str, ...], str]:
        """The published point for the nearest setting: (complete point, names filled from the truth, source).

        Nearest: rows of this data set before others, rows of this noise kind before others, then the rate; of the same data set and kind
        rows of this variant before others; the first listed wins ties. Without any row it is the method's defaults.
        ``given`` names no kind of noise: labels as they came are matched by the rows of their own data set, else as human labels of the
        rate that was told; where none was, any row of human labels will do, else one nearest ``MIDDLE``, and the source says so.
        """
        dataset = dataset.removeprefix(PREFIX)  # a study in miniature has the points of the study
        if not self.papers:
            return self.complete({}), (), "the method's defaults"

        name, kind, rate = family(dataset), noise.kind, noise.level
        if as_human := kind == "given" and not any((row.dataset, row.noise) == (name, kind) for row in self.papers):
            kind = "human"
        untold = as_human and not rate

        def distance(row: Paper) -> tuple[bool, bool, float, bool]:
            apart = abs(row.rate - (MIDDLE if untold else rate)) if not untold or row.noise != kind else 0.0
            other = (row.dataset, row.noise) == (name, kind) and row.variant not in ("", noise.variant)
            return (row.dataset != name, row.noise != kind, round(apart, 3), other)

        row = min(self.papers, key=distance)
        if not untold:
            return self.complete(row.point), row.oracle, row.source
        where = "" if row.noise == kind else f"nearest {MIDDLE:.0%} "
        told = f"{row.source}; labels as they came: the row {where}of {row.noise} noise at {row.rate:.3g}"
        return self.complete(row.point), (), told  # what was read off a truth there was not read off this data's


def _dimension(method: str, name: str, told: Any, where: str) -> Dimension:
    known = hyperparameters(method)
    if name not in known and name not in RECIPE_FIELDS:
        raise unknown(f"hyperparameter of {method} in {where}", name, [*known, *RECIPE_FIELDS])
    if not isinstance(told, dict):
        raise InputError(
            f"{where}: {name} must be a table such as {{ low = 0.1, high = 0.9 }} or {{ choices = [1, 2] }}, not {told!r}"
        )
    allowed = ("low", "high", "log", "or_zero", "choices")
    for key in told:
        if key not in allowed:
            raise unknown(f"key of {name} in {where}", key, allowed)
    if "choices" in told:
        if len(told) > 1 or not isinstance(told["choices"], list) or not told["choices"]:
            raise InputError(f"{where}: {name} must have either choices = [...], not empty, or low and high")
        choices = tuple(checked(method, {name: c}, where)[name] for c in told["choices"])
        return Dimension(name, choices=choices)
    if not {"low", "high"} <= told.keys():
        raise InputError(f"{where}: {name} needs low and high, or choices")
    default = known[name].default if name in known else RECIPE_FIELDS[name].default
    if not isinstance(default, int | float) or isinstance(default, bool):
        raise InputError(f"{where}: {name} is no number, so it needs choices = [...], not low and high")
    low, high = (checked(method, {name: told[k]}, where)[name] for k in ("low", "high"))
    if not low < high:
        raise InputError(f"{where}: the range of {name} is the wrong way round: low={low:g} is not below high={high:g}")
    for flag in ("log", "or_zero"):
        if not isinstance(told.get(flag, False), bool):
            raise InputError(f"{where}: {name}.{flag} must be true or false, not {told[flag]!r}")
    if told.get("log") and low <= 0:
        raise InputError(
            f"{where}: {name} is log-scaled, so low={low:g} must be above 0 (or_zero = true adds the value 0)"
        )
    return Dimension(name, low, high, told.get("log", False), told.get("or_zero", False), isinstance(default, int))


def _table(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: {e}") from None


def _only(keys: Iterable[str], allowed: Iterable[str], where: str) -> None:
    for key in keys:
        if key not in (names := list(allowed)):
            raise unknown(f"key in {where}", key, names)


def load(method: str, folder: Path = FOLDER) -> Space:
    """Reads and checks ``<folder>/<method>.toml``. Raises InputError with one line for anything wrong in it."""
    told, where = _told(method, folder)
    _only(told, ("space", "recipe", "paper"), where)
    tables, rows = (told.get("space", {}), told.get("recipe", {})), told.get("paper", [])
    if not isinstance(rows, list) or not all(isinstance(t, dict) for t in (*tables, *rows)):
        raise InputError(f"{where}: [space] and [recipe] must be tables and [[paper]] a list of tables")
    dimensions = tuple(_dimension(method, name, d, where) for name, d in told.get("space", {}).items())
    recipe, recipes = _recipes(told.get("recipe", {}), where)
    papers = tuple(paper for row in rows for paper in _papers(method, row, dimensions, f"[[paper]] of {where}"))
    return Space(method, dimensions, papers, recipe, recipes)


def _recipes(told: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The general recipe, and by family of data sets what is otherwise there; each is checked as it will be used."""
    recipe = {k: v for k, v in told.items() if not isinstance(v, dict)}
    recipes = {k: v for k, v in told.items() if isinstance(v, dict)}
    families = sorted({family(d) for d in DATASETS})
    for name, more in {"": recipe, **recipes}.items():
        table = f"[recipe{'.' * bool(name)}{name}] of {where}"
        if name and name not in families and name.partition(":")[0] not in PATHS:
            raise unknown(f"data set or key in [recipe] of {where}", name, [*families, *RECIPE_FIELDS])
        _only(more, [*RECIPE_FIELDS, *BESIDE], table)
        for key, kind in BESIDE.items():
            if key in more and type(more[key]) is not kind:
                raise InputError(f"{table}: {key}={more[key]!r} is of the wrong type")
        checked_recipe({k: v for k, v in (recipe | more).items() if k in RECIPE_FIELDS}, table)
    return recipe, recipes


def _told(method: str, folder: Path) -> tuple[dict[str, Any], str]:
    """What is said of a method's space, and where: in our file; of a user's own in the one beside it, or in its class (``SPACE``)."""
    found = method_class(method)
    if method in METHODS:
        return _table(folder / f"{method}.toml"), f"{method}.toml"
    said = getattr(found, "SPACE", None)
    if said is not None:
        if not isinstance(said, dict):
            raise InputError(f"{method}: SPACE is {said!r}; it is a dict as of a space file: space, recipe, paper")
        return said, f"SPACE of {method}"
    path = own.beside(method)
    return ({}, method) if path is None else (_table(path), path.name)


def _papers(method: str, row: dict[str, Any], dimensions: Iterable[Dimension], where: str) -> list[Paper]:
    """A checked row, once for each of its kinds of noise and rates (one or a list). Data sets may be ones that only the paper has."""
    kinds = {
        "dataset": str,
        "noise": str | list,
        "rate": int | float | list,
        "point": dict,
        "source": str,
        "variant": str,
        "oracle": list,
    }
    _only(row, kinds, where)
    row = {"point": {}, "variant": "", "oracle": []} | row
    if missing := [name for name in kinds if name not in row]:
        raise InputError(f"{where}: a row has no {', '.join(missing)}")
    for name, value in row.items():
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise InputError(f"{where}: {name}={value!r} is of the wrong type")
    rates, noises = ([v] if not isinstance(v, list) else v for v in (row["rate"], row["noise"]))
    if not rates or not noises:
        raise InputError(f"{where}: {'noise' if rates else 'rate'} is an empty list")
    for noise in noises:
        if str(noise) not in NOISES:
            raise unknown(f"noise kind in {where}", str(noise), NOISES)
    for rate in rates:
        if not isinstance(rate, int | float) or isinstance(rate, bool):
            raise InputError(f"{where}: rate={rate!r} is of the wrong type")
        if not 0 <= rate <= 1:
            raise InputError(f"{where}: rate={rate:g} lies outside [0, 1]")
    point = checked(method, row["point"], where)
    for d in dimensions:
        if d.name in point:
            d.check(point[d.name], where)
    for name in row["oracle"]:
        if name not in list(point):
            raise unknown(f"name in oracle of {where}", name, point)
    told = {**row, "point": point, "oracle": tuple(row["oracle"])}
    return [Paper(**{**told, "noise": noise, "rate": rate}) for noise in noises for rate in rates]


def recipe_for(kind: str, method: str, dataset: str, network: str, folder: Path = FOLDER) -> Recipe:
    """The recipe of a cell: ``shared`` (one per data set and network, ``recipes.toml``), ``paper`` (the method's published one for this
    data set) or the published one of the method that ``kind`` names."""
    dataset, network = dataset.removeprefix(PREFIX), network.removeprefix(PREFIX)
    if kind != "shared":
        owner = method if kind == "paper" else kind
        values, where = load(owner, folder).recipe_on(dataset), f"{owner}.toml"
    else:
        where = "recipes.toml"
        told = _table(folder / where)
        _only(told, ("default", "network", "dataset"), where)
        try:
            values = {
                **told.get("default", {}),
                **told.get("network", {}).get(network, {}),
                **told.get("dataset", {}).get(family(dataset), {}),
            }
        except (AttributeError, TypeError):
            raise InputError(f"{where}: [default], [network.NAME] and [dataset.NAME] must be tables") from None
        _only(values, RECIPE_FIELDS, where)
    return checked_recipe({k: v for k, v in values.items() if k in RECIPE_FIELDS}, where)
