"""Which code is running: its commit, its digest, the versions it runs with; and what is shipped to machines that have no checkout.

Standard library only: nodes and commands ask before anything else is imported.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import raystudy
from raystudy.errors import InputError

PACKAGES = ("raystudy", "ray", "torch", "torchvision", "optuna", "mlflow", "numpy", "scikit-learn")
CODE = ("raystudy", "analysis", "search_spaces")
SHIPPED = (*CODE, "pyproject.toml", "constraints.txt", "README.md", "mlflow_server.sh")
RECORD = "PROVENANCE.json"


def root() -> Path:
    """The folder that holds the packages: a checkout, what was shipped, or site-packages."""
    return Path(raystudy.__file__).parent.parent


def digest(folder: Path) -> str:
    """16 hex digits of the code and the search spaces below ``folder``, the same wherever they lie."""
    found = hashlib.sha256()
    for name in CODE:
        for file in sorted(p for p in (folder / name).rglob("*") if p.suffix in (".py", ".toml", ".npz", ".csv")):
            found.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def commit() -> str:
    """The git commit of this code, with ``+`` where it differs from the commit; empty where that is not known.

    Outside a checkout it is the commit that was shipped (``PROVENANCE.json``), with ``+`` where the code was changed since.
    """
    here = root()
    git = ["git", "-C", str(here)]
    if (here / ".git").exists():
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", check=True).stdout
            changed = [*git, "status", "--porcelain", "-uno"]
            dirty = subprocess.run(changed, capture_output=True, encoding="utf-8", check=True).stdout.strip()
            return head.strip() + ("+" if dirty else "")
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads((here / RECORD).read_text(encoding="utf-8"))
        changed_since = told["code"] != digest(here) and not told["commit"].endswith("+")
        return told["commit"] + ("+" if changed_since and told["commit"] else "")
    return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def ship(to: Path) -> dict[str, str]:
    """Writes what a cluster's nodes need to ``to``: the packages, the pinned versions, and PROVENANCE.json with commit and digest.

    The folder is small and holds nothing else, so that a launcher that hashes and copies it never meets data, studies or environments.
    Returns the record. Raises InputError where this is no checkout, or ``to`` holds something that was not written here.
    """
    here = root()
    if not (here / "pyproject.toml").exists():
        raise InputError(f"{here} holds no pyproject.toml: ship from a checkout of raystudy")
    if to.exists() and not (to / RECORD).exists():
        raise InputError(f"{to} is not a folder that was written by `raystudy ship`; choose another")
    record = {"commit": commit(), "code": digest(here)}
    to.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{to.name}.", dir=to.parent))  # a name that nobody has
    for name in SHIPPED:
        if (here / name).is_dir():
            shutil.copytree(
                here / name, new / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc", "*.egg-info")
            )
        else:
            shutil.copy2(here / name, new / name)
    (new / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    new.chmod(0o755)
    shutil.rmtree(to, ignore_errors=True)
    new.rename(to)
    return record
