"""What is to be run: studies, cells, trials, their keys and their files. Nothing here runs anything."""

import hashlib
import itertools
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import tomli_w

from raystudy import own
from raystudy.data import evaluation
from raystudy.data.noise import Noise
from raystudy.data.spec import code_of
from raystudy.design.names import AUTO, MODELS, OBJECTIVES, RECIPES, SAMPLERS, SCHEDULERS
from raystudy.errors import InputError, unknown

# Virtual workers of a search for each real one where nobody says otherwise; docs/search.md has what it costs and brings.
SLACK = 2.0
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
    network: str = ""  # this and what follows: only where it is not the study's
    epochs: int = 0
    recipe: str = ""
    filter: str = ""  # "none": none, where the study has one

    @property
    def key(self) -> str:
        """Names the cell and its ledger file."""
        own = "".join(f"_{slug(text)}" for text in self._own())
        return f"{slug(self.method)}_{self.data_key}{own}"

    @property
    def data_key(self) -> str:
        """Names what cells of different methods share, and the file of its mask."""
        seed = f"-seed{self.noise.seed}" if self.noise.seed else ""
        return f"{slug(self.dataset)}_{slug(self.noise.slug)}{seed}"

    @property
    def condition(self) -> str:
        """What cells of different methods share: data set, noise and what is not the study's, for people."""
        return f"{self.dataset} {self.noise.label}{self.suffix}"

    @property
    def suffix(self) -> str:
        """The noise seed, network, epochs, recipe and filter for people, each only where it is out of the ordinary."""
        seed = f" seed {self.noise.seed}" if self.noise.seed else ""
        own = ", ".join(self._own())
        return seed + (f" ({own})" if own else "")

    def _own(self) -> list[str]:
        epochs = f"{self.epochs} epochs" if self.epochs else ""
        recipe, kept = self.recipe and f"{self.recipe} recipe", {"": "", NO_FILTER: "no filter"}
        return [text for text in (self.network, epochs, recipe, kept.get(self.filter, self.filter)) if text]

    def to_dict(self) -> dict[str, Any]:
        own = {"network": self.network, "epochs": self.epochs, "recipe": self.recipe, "filter": self.filter}
        told = {"method": self.method, "dataset": self.dataset, "noise": self.noise.to_dict()}
        return told | {name: value for name, value in own.items() if value}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> "Cell":
        return cls(**{**d, "noise": Noise(**d["noise"])})


@dataclass(frozen=True)
class Block:
    """A part of a grid: the full product of methods, data sets and noises, with a network, epochs, recipe and filter of its own or the
    study's."""

    methods: tuple[str, ...]
    datasets: tuple[str, ...]
    noises: tuple[Noise, ...]
    network: str = ""
    epochs: int = 0
    recipe: str = ""
    filter: str = ""

    def __post_init__(self) -> None:
        for name in ("methods", "datasets", "noises"):
            if not getattr(self, name):
                raise InputError(f"a grid has no {name}")
        if not 0 <= self.epochs <= MOST_EPOCHS:
            raise InputError(f"epochs is {self.epochs} in a grid; it must be from 1 to {MOST_EPOCHS}")
        if self.recipe and self.recipe not in RECIPES:
            raise unknown("recipe", self.recipe, RECIPES)

    def cells(self) -> list[Cell]:
        own = (self.network, self.epochs, self.recipe, self.filter)
        return [Cell(m, d, n, *own) for d, n, m in itertools.product(self.datasets, self.noises, self.methods)]

    def to_dict(self) -> dict[str, Any]:
        told = {**asdict(self), "noises": [n.to_dict() for n in self.noises]}
        return {name: value for name, value in told.items() if value}


@dataclass(frozen=True)
class Study:
    """A grid of cells, a search budget and a number of replicates.

    The grid is the full product of ``methods``, ``datasets`` and ``noises``, or a list of blocks (``grid``) that
    each are one; then those three are what occurs in the blocks. ``network``, ``epochs``, ``recipe`` and ``filter`` hold for
    every cell whose block names none.

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
    slack: float | None = None  # virtual workers for each real one; None: not said, SLACK for a study that begins
    virtual_workers: int = 0  # of a cell; 0: told by slack and the machine when the study begins
    batch: int = 0  # of studies from before there were virtual workers: proposals of a cell that are out at once
    keep_models: str = ""  # whose weights are kept, of MODELS; empty: nobody has said, so the best of each cell
    evaluate: str = ""  # every:K or every:K,N; empty: every epoch in full
    final_epochs: int = 0  # of the replicates, where they are trained longer than the search; 0: as long
    grid: tuple[Block, ...] = ()
    start_from: tuple[str, ...] = ()  # studies whose best points are tried first
    start: str = ""  # digest of what was taken from them when the study began
    filter: str = (
        ""  # what is done to training labels before any method, as ``filtering.canonical`` writes it; empty: nothing
    )

    def __post_init__(self) -> None:
        if self.grid:
            blocks = tuple(dict.fromkeys(self._plain(b) for b in self.grid))
            object.__setattr__(self, "grid", blocks)
            for part in ("methods", "datasets", "noises"):
                object.__setattr__(self, part, tuple(dict.fromkeys(v for b in blocks for v in getattr(b, part))))
        if not NAME.fullmatch(self.name):
            raise bad_name(self.name)
        if self.objective.startswith(("test/", "truth/")):
            why = "reads the test set or the truth, and training never selects on those"
            raise InputError(f"objective {self.objective!r} {why}; choose from: {', '.join(OBJECTIVES)}")
        for what, name, choices in (
            ("objective", self.objective, OBJECTIVES),
            ("sampler", self.sampler, (AUTO, *SAMPLERS)),
            ("scheduler", self.scheduler, SCHEDULERS),
            ("recipe", self.recipe, RECIPES),
            ("keep-models", self.keeps, MODELS),
        ):
            if name not in choices:
                raise unknown(what, name, choices)
        for what, value, low, high in (
            ("trials", self.trials, 1, 10**6),
            ("replicates", self.replicates, 0, 10**4),
            ("epochs", self.epochs, 1, MOST_EPOCHS),
            ("final-epochs", self.final_epochs, 0, MOST_EPOCHS),
            ("seed", self.seed, 0, 2**31 - 1),
            ("clean-val", self.clean_val, 0, 10**9),
            ("virtual-workers", self.virtual_workers, 0, 10**6),
            ("batch", self.batch, 0, 10**6),
        ):
            if not low <= value <= high:
                raise InputError(f"--{what} is {value}; it must be from {low} to {high}")
        if self.slack is not None and not 0 < self.slack <= MOST_SLACK:
            raise InputError(f"--slack is {self.slack:g}; it must be above 0 and at most {MOST_SLACK}")
        object.__setattr__(self, "evaluate", evaluation.parse(self.evaluate).text)
        if not 0 < self.val_fraction < 1:
            raise InputError(f"--val-fraction is {self.val_fraction:g}; it must lie between 0 and 1")

    def _plain(self, block: Block) -> Block:
        """A block without what it has in common with the study."""
        same = {
            name: type(v)()
            for name in ("network", "epochs", "recipe", "filter")
            if (v := getattr(block, name)) == (getattr(self, name) or (NO_FILTER if name == "filter" else ""))
        }
        return replace(block, **same)

    def blocks(self) -> tuple[Block, ...]:
        """The parts of the grid."""
        return self.grid or (Block(self.methods, self.datasets, self.noises),)

    def cells(self) -> list[Cell]:
        """The grid, conditions outermost, so that a condition's methods stand together. A cell of two blocks is one."""
        conditions: dict[str, dict[Cell, None]] = {}
        for block in self.blocks():
            for cell in block.cells():
                conditions.setdefault(cell.condition, {})[cell] = None
        return [cell for cells in conditions.values() for cell in cells]

    @property
    def brought(self) -> tuple[str, ...]:
        """The methods, networks and data sets that are files or modules of a user's own."""
        networks = (self.network, *(b.network for b in self.grid))
        return tuple(
            dict.fromkeys(n for n in (*self.methods, *networks) if own.written(n))
            | dict.fromkeys(filter(None, map(code_of, self.datasets)))
        )

    @property
    def keeps(self) -> str:
        """Whose weights are kept: "none", "best" or "all"."""
        return self.keep_models or "best"

    @property
    def evaluated(self) -> str:
        """What is unusual in what its trainings record, in sentences: how often they evaluate, and replicates that are longer."""
        longer = f"Replicates: {self.final_epochs} epochs; the search: {self.epochs}." if self.final_epochs else ""
        return " ".join(filter(None, (evaluation.parse(self.evaluate).sentence, longer)))

    def final_epochs_of(self, cell: Cell) -> int:
        """Epochs of a cell's replicates."""
        return max(self.final_epochs, self.epochs_of(cell))

    def network_of(self, cell: Cell) -> str:
        """A cell's network: its own or the study's."""
        return cell.network or self.network

    def epochs_of(self, cell: Cell) -> int:
        """A cell's epochs: its own or the study's."""
        return cell.epochs or self.epochs

    def recipe_of(self, cell: Cell) -> str:
        """A cell's recipe: its own or the study's."""
        return cell.recipe or self.recipe

    def filter_of(self, cell: Cell) -> str:
        """A cell's filter: its own or the study's; empty for none."""
        asked = cell.filter or self.filter
        return "" if asked == NO_FILTER else asked

    def to_toml(self) -> str:
        told = {**asdict(self), "noises": [n.to_dict() for n in self.noises], "grid": [b.to_dict() for b in self.grid]}
        may = ("grid", "filter", "start_from", "start", "evaluate", "final_epochs")
        unsaid = {name for name in may if not told[name]}
        unsaid |= {"slack", "virtual_workers"} if self.batch else {"batch"}
        unsaid |= {"slack"} if self.slack is None else set()
        return tomli_w.dumps({k: v for k, v in told.items() if k not in unsaid})

    @classmethod
    def from_toml(cls, path: Path) -> "Study":
        """Reads a resolved study. Raises InputError with one line for a broken file or an unknown name."""
        try:
            told = tomllib.loads(path.read_text(encoding="utf-8"))
            kinds = {f.name: float if f.type == float | None else f.type for f in fields(cls)}
            for name, value in told.items():
                if name not in kinds:
                    raise unknown("setting", name, kinds)
                kind: Any = kinds[name] if kinds[name] in (str, int, float) else list
                if type(value) is not kind or (name in TEXTS and not all(isinstance(v, str) for v in value)):
                    raise TypeError(
                        f"{name} must be {kind.__name__}{' of texts' if name in TEXTS else ''}, not {value!r}"
                    )
            told["noises"] = tuple(Noise(**n) for n in told["noises"])
            told["grid"] = [_block(b) for b in told.get("grid", [])]
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in told.items()}
            return cls(**values)
        except FileNotFoundError:
            raise InputError(f"there is no study at {path.parent}") from None
        except InputError as e:
            raise InputError(f"{path}: {e}") from None
        except (tomllib.TOMLDecodeError, TypeError, KeyError, OSError, UnicodeDecodeError) as e:
            raise InputError(f"{path} is not a study file: {e}") from None

    def grown_from(self, old: "Study", longer: bool = False) -> "Study":
        """This study united with what its folder already holds. Raises InputError where they are different studies.

        ``longer``: its epochs were said, and where they are more than those it was begun with they are meant for what was chosen."""
        if longer and self.epochs > old.epochs:
            if any(b.epochs for b in old.blocks()):
                raise InputError(
                    f"study {self.name!r} has cells with epochs of their own: choose another --name for more"
                )
            return replace(self, epochs=old.epochs, final_epochs=self.epochs).grown_from(old)
        if not self.start_from:
            self = replace(self, start_from=old.start_from)
        if self.sampler == AUTO:  # was chosen then
            self = replace(self, sampler=old.sampler)
        if self.slack is None:  # nobody said it, and the default may have been another then
            self = replace(self, slack=old.slack)
        elif old.batch:
            raise InputError(
                f"study {self.name!r} was begun in batches, before there was a --slack: leave it away, or choose another --name"
            )
        free = {"methods", "datasets", "noises", "grid", "trials", "replicates", "batch", "virtual_workers"}
        free |= {"keep_models", "start", "final_epochs"}
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
        if self.grid or old.grid:
            union["grid"] = tuple(dict.fromkeys(old.blocks() + self.blocks()))
        return replace(
            self,
            **union,
            batch=old.batch,
            start=old.start,
            virtual_workers=old.virtual_workers,
            trials=max(self.trials, old.trials),
            replicates=max(self.replicates, old.replicates),
            keep_models=self.keep_models or old.keep_models,
            final_epochs=max(self.final_epochs, old.final_epochs),
        )


def _block(told: Mapping[str, Any]) -> Block:
    """A block as ``to_dict`` wrote it. Raises TypeError or KeyError for anything else."""
    values: dict[str, Any] = {**told, "noises": tuple(Noise(**n) for n in told["noises"])}
    values |= {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    for f in fields(Block):
        wanted: Any = f.type if f.type in (str, int) else tuple
        if type(values.get(f.name, wanted())) is not wanted:
            raise TypeError(f"{f.name} of a grid is {values[f.name]!r}")
    if not all(isinstance(v, str) for name in TEXTS[:2] for v in values[name]):
        raise TypeError(f"{' and '.join(TEXTS[:2])} of a grid must be lists of texts")
    return Block(**values)


TEXTS = ("methods", "datasets", "start_from")  # lists of texts
MOST_EPOCHS = 10**6
NO_FILTER = "none"  # of a block, where the study has a filter
MOST_SLACK = 100


def study_dir(storage: Path, name: str) -> Path:
    """Where a study lies. Raises InputError for a name that would leave the storage folder."""
    if not NAME.fullmatch(name):
        raise bad_name(name)
    return storage / name
