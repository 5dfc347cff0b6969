"""What users bring: methods, networks and data of their own, found by name. Naming one runs its code, as the user.

A name is ``FILE.py:NAME``, ``PACKAGE.MODULE:NAME``, or the name that an installed package gives an entry point. A file stands for
itself: it is known by its own name without its folder, its text travels to the workers, and it can import only what is installed.
A module is imported wherever it is used. What is found is known by a digest of its source, which is part of a trial's key.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from raystudy.errors import InputError, unknown

KINDS = ("methods", "networks", "datasets", "noise")  # the entry points: raystudy.methods, ...
# Not a network of timm, the stand-in of one, or one of torchvision with its weights.
NAME = re.compile(
    r"(?!timm:|smoke:|[^:]*:pretrained$)(?P<file>[^:]*\.py|(?P<module>[A-Za-z_]\w*(\.\w+)*)):(?P<name>[A-Za-z_]\w*)"
)

_texts: dict[str, str] = {}  # file's own name -> source, of all that were named here or were sent
_folders: dict[str, Path] = {}  # file's own name -> where it was read


def written(name: str) -> bool:
    """Whether a name is that of a file's or a module's content."""
    return NAME.fullmatch(name) is not None


def located(name: str, folder: Path | None = None) -> str:
    """The name as studies have it, a file's without its folder. A file is read, relative to ``folder`` (the working one).

    Raises InputError where there is no such file, or where two of one name are used at once. Runs nothing.
    """
    told = NAME.fullmatch(name)
    if not told or told["module"]:
        return name
    path = Path(told["file"]).expanduser()
    path = ((folder or Path.cwd()) / path).absolute()
    short = f"{path.name}:{told['name']}"
    if not path.exists() and path.name == told["file"] and path.name in _texts:
        return short  # sent, or read before
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{name}: there is no file {path} that can be read ({type(e).__name__})") from None
    before = _folders.get(path.name)
    if before not in (None, path.parent) and _texts[path.name] != text:
        raise InputError(f"two files are called {path.name}, in {before} and in {path.parent}: rename one of them")
    _texts[path.name], _folders[path.name] = text, path.parent
    return short


def provide(texts: Mapping[str, str]) -> None:
    """Takes the sources of files, by their names, as they were sent from where they lie."""
    _texts.update(texts)


def named(name: str) -> bool:
    """Whether a person has named this here: a file that was located or provided in this process."""
    told = NAME.fullmatch(name)
    return told is not None and not told["module"] and Path(told["file"]).name in _texts


def sources(names: Iterable[str]) -> dict[str, str]:
    """The sources of the files among these names, by the files' names: what ``provide`` takes elsewhere."""
    files = {told["file"] for name in names if (told := NAME.fullmatch(name)) and not told["module"]}
    return {Path(file).name: _text(file) for file in sorted(files)}


def beside(name: str) -> Path | None:
    """The TOML of the same name beside a file or a module, where there is one."""
    told = NAME.fullmatch(name)
    if not told:
        return None
    if told["module"]:
        origin = getattr(_imported(told["module"]), "__file__", None)
    else:
        folder = _folders.get(Path(told["file"]).name)
        origin = folder and folder / Path(told["file"]).name
    path = Path(origin).with_suffix(".toml") if origin else None
    return path if path and path.exists() else None


@lru_cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """What installed packages bring of a kind (one of KINDS), by name."""
    return {point.name: point for point in entry_points(group=f"raystudy.{kind}")}


def whose(kind: str, name: str) -> str:
    """Which package brings a name of ``installed``, for people."""
    point = installed(kind)[name]
    return f"of the package {point.dist.name if point.dist else point.value.partition('.')[0]}"


def found(kind: str, name: str) -> Any:
    """What a name stands for; None where it is no name of a file, of a module, or of an entry point of this kind.

    Raises InputError, one line, where that cannot be had.
    """
    if not written(name):
        point = installed(kind).get(name)
        if point is None:
            return None
        name = point.value.replace(" ", "").partition("[")[0]
    told = NAME.fullmatch(name)
    if not told:
        raise InputError(f"{name}: write PACKAGE.MODULE:NAME or FILE.py:NAME")
    module = _imported(told["module"]) if told["module"] else _run(told["file"], _text(told["file"]))
    if not hasattr(module, told["name"]):
        public = [n for n, v in vars(module).items() if not n.startswith("_") and _made_in(module, v)]
        raise unknown(f"name in {told['file']}", told["name"], public)
    return getattr(module, told["name"])


def _made_in(module: ModuleType, value: Any) -> bool:
    """Whether a class or function is a module's own or its package's, not imported from elsewhere."""
    origin = getattr(value, "__module__", None) or ""
    return callable(value) and origin.partition(".")[0] == module.__name__.partition(".")[0]


def code(kind: str, name: str) -> str:
    """A digest, 16 hex digits, of the source of what a name stands for: of a file, or of a package's modules. Empty where there is none."""
    if not written(name):
        point = installed(kind).get(name)
        if point is None:
            return ""
        name = point.value
    told = NAME.match(name)
    if not told:
        return ""
    if not told["module"]:
        return _digest(_text(told["file"]).encode())
    top = _imported(told["module"].partition(".")[0])
    origin = getattr(top, "__file__", None)
    if not origin:
        return ""
    files = sorted(Path(origin).parent.rglob("*.py")) if hasattr(top, "__path__") else [Path(origin)]
    return _digest(*(part for f in files for part in (f.name.encode(), f.read_bytes())))


def _digest(*parts: bytes) -> str:
    told = hashlib.sha256()
    for part in parts:
        told.update(len(part).to_bytes(8, "big") + part)
    return told.hexdigest()[:16]


def _text(file: str) -> str:
    short = Path(file).name
    if short not in _texts:
        located(f"{file}:_")
    return _texts[short]


@lru_cache
def _run(file: str, text: str) -> ModuleType:
    """The module of a file's text, run once for every text."""
    short = Path(file).name
    module = ModuleType(f"raystudy_own_{re.sub(r'[^0-9A-Za-z_]', '_', short[:-3])}_{_digest(text.encode())}")
    module.__file__ = str(_folders.get(short, Path()) / short)
    sys.modules[module.__name__] = module  # inspect and pickle look there
    try:
        tree = ast.parse(text, module.__file__)
        _alone(tree, short)
        exec(compile(tree, module.__file__, "exec"), vars(module))
    except (Exception, SystemExit) as e:
        del sys.modules[module.__name__]
        if isinstance(e, InputError):
            raise
        raise InputError(f"{short} cannot be run: {told(e, module.__file__)}") from None
    return module


def _alone(tree: ast.Module, short: str) -> None:
    """Refuses a file that imports one beside it: that may be found from here, but neither travels nor is a part of the key."""
    folder = _folders.get(short)
    if folder is None:
        return
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    for name in sorted({n.partition(".")[0] for n in names if n} - sys.stdlib_module_names):
        if (folder / f"{name}.py").is_file():
            raise InputError(
                f"{short} imports {name}, the file beside it, which would not travel with it: put both into one file, or into a package"
            )


def _imported(name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # a console script's path has not the working folder, and python -m's has
    try:
        if find_spec(name) is None:
            raise InputError(f"there is no module {name!r}; it must be installed, or lie in the working folder")
        return import_module(name)
    except InputError:
        raise
    except ModuleNotFoundError as e:
        raise InputError(f"module {name!r} cannot be imported: {e}") from None
    except (Exception, SystemExit) as e:
        raise InputError(f"module {name!r} cannot be imported: {told(e, '')}") from None


def told(e: BaseException, file: str) -> str:
    """An exception in one line, with the line of the file where it arose."""
    line, trace = getattr(e, "lineno", None), e.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == file else line
        trace = trace.tb_next
    where = f", line {line}" if line else ""
    return f"{type(e).__name__}: {' '.join(str(e).split())[:200]}{where}"
