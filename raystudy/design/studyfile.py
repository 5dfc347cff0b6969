"""Study files: TOML -> Study, every key and value checked; the shipped ones by name.

A study file holds a grid, once at the top or as a list of ``[[grid]]`` blocks that take from the top what they do not say, and one
budget. ``docs/studies.md`` has the format for people. Nothing here loads images or runs anything.
"""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import search_spaces
from raystudy import own
from raystudy.data.noise import parse
from raystudy.data.spec import code_of
from raystudy.design.compose import BUDGET, blocks_of, of_blocks
from raystudy.design.study import Block, Study
from raystudy.errors import InputError, unknown

FOLDER = Path(search_spaces.__path__[0]) / "studies"
GRID: dict[str, type] = {
    "methods": list,
    "datasets": list,
    "noise": list,
    "network": str,
    "epochs": int,
    "recipe": str,
    "filter": str,
}
KINDS = (
    GRID
    | {k: list if v == () else type(v) for k, v in BUDGET.items()}
    | {"name": str, "noise_seed": int, "grid": list, "slack": float}
)
TOLD = {str: "a text", int: "a whole number", float: "a number", list: "a list"}


def shipped() -> list[str]:
    """The names of the studies that come with raystudy."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def find(study: str) -> Path:
    """The file of a shipped study's name, or of a path (which ends in .toml or has a folder in it)."""
    if study.endswith(".toml") or "/" in study:
        return Path(study).expanduser()
    if study not in shipped():
        raise unknown("study", study, [*shipped(), "FILE.toml"])
    return FOLDER / f"{study}.toml"


def read(path: Path) -> dict[str, Any]:
    """A study file's keys and values, each of the right type and each name known. Raises InputError, one line with the file."""
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no study file {path}; shipped studies: {', '.join(shipped())}") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise InputError(f"{path}: {e}") from None
    _typed(told, KINDS, f"{path}")
    for i, block in enumerate(told.get("grid", []), 1):
        where = f"{path}, grid {i}"
        if not isinstance(block, dict):
            raise InputError(f"{path}: grid must be a list of [[grid]] tables, not {block!r}")
        _typed(block, GRID, where)
        if missing := [k for k in ("methods", "datasets", "noise") if not (told | block).get(k)]:
            raise InputError(f"{where}: no {' and no '.join(missing)}, neither here nor at the top of the file")
    if "grid" in told and not told["grid"]:
        raise InputError(f"{path}: grid is empty; leave it out, or give it a block")
    if "grid" not in told and (missing := [k for k in ("methods", "datasets", "noise") if not told.get(k)]):
        raise InputError(f"{path}: no {' and no '.join(missing)}")
    return told


def _typed(told: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> None:
    for key, value in told.items():
        if key not in kinds:
            raise unknown(f"key in {where}:", key, kinds)
        kind = kinds[key]
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"{where}: {key} must be {TOLD[kind]}, not {value!r}")
        if kind is list and key != "grid" and any(not isinstance(v, str) for v in told[key]):
            raise InputError(f"{where}: {key} must be a list of texts, not {value!r}")


def _trusted(names: Iterable[str], path: Path, trust: bool) -> None:
    """Finds the files that a study file names, beside it or where a study keeps them. Raises InputError where it is not trusted."""
    for name in names:
        if not trust:
            raise InputError(f"{path} names {name}, which would run as you: look at it first, then add --trust")
        file = Path(name.rpartition(":")[0])
        kept = path.parent / "own"
        own.located(name, kept if (kept / file).is_file() and not (path.parent / file).is_file() else path.parent)


def load(study: str, root: Path, noise_seed: int | None = None, trust: bool = False) -> Study:
    """The study of a file or a shipped name, as the file says it; the ``study.toml`` of a study that was run is read, too.

    ``trust``: methods and networks that it names as files (beside it) or modules may run. Raises InputError, one line with the file, for
    anything wrong."""
    path = find(study)
    if path.name == "study.toml" and path.exists() and "noises" in path.read_text(encoding="utf-8", errors="replace"):
        if noise_seed is not None:
            raise InputError(f"--noise-seed cannot be given with {path}: it is a study whose noise is resolved")
        resolved = Study.from_toml(path)  # as the folder of a study has it
        _trusted(resolved.brought, path, trust)
        return resolved
    told = read(path)
    blocks_told = [told | block for block in told.get("grid", [{}])]
    names = [n for b in blocks_told for n in (*b["methods"], b.get("network", "")) if own.written(n)]
    told_sets = [n for b in blocks_told for n in map(code_of, b["datasets"]) if n]
    _trusted([*names, *told_sets], path, trust)
    try:
        seed = told.get("noise_seed", 0) if noise_seed is None else noise_seed
        top = {key: told[key] for key in GRID if key in told}
        blocks: list[Block] = []
        for part in told.get("grid", [{}]):
            block = top | part
            noises = tuple(n for text in block["noise"] for n in parse(text, seed=seed))
            blocks += blocks_of(block["methods"], block["datasets"], noises, block, root)
        return of_blocks(told.get("name", path.stem), blocks, BUDGET | {k: told[k] for k in BUDGET if k in told})
    except InputError as e:
        raise InputError(f"{path}: {e}") from None
