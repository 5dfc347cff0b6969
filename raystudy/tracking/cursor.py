"""What is in MLflow already: a small file in the study's own folder, one for each store the study was brought to.

Here belong that file and what can be told from it without asking MLflow. It is a shortcut, never a truth: it is believed only while the
experiment in MLflow carries its token, and without it all is found out anew.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raystudy.record import ledger
from raystudy.tracking import files

VERSION = 4  # of what we write to MLflow: another version's cursor is not believed, so that what is new is brought in

TAIL = 4096  # bytes


@dataclass
class Cursor:
    """What is in MLflow already: the files of cells that are done, as they were then (``mark``), and how many runs of each cell."""

    token: str = ""
    done: dict[str, str] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    files: str = ""  # the state of the artifacts' files
    uri: str = ""  # the store, for `raystudy ui STUDY`; without user and password
    version: int = 0
    names: str = ""  # what tells the names of runs apart; of other names none is believed


def mark(path: Path, size: int) -> str:
    """A ledger file as far as it was read: how long it is, and its last lines, of which no two have the same times."""
    with path.open("rb") as f:
        f.seek(max(0, size - TAIL))
        return f"{size}-{hashlib.sha256(f.read(min(size, TAIL))).hexdigest()[:16]}"


def place(study_dir: Path, uri: str) -> Path:
    """The file of a study's cursor in a store."""
    return study_dir / "tracking" / f"{hashlib.sha256(uri.encode()).hexdigest()[:12]}.json"


def read(file: Path) -> Cursor:
    """The cursor in a file; an empty one where there is none that can be believed."""
    try:
        told = Cursor(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Cursor()
    return told if told.version == VERSION else Cursor()


def write(file: Path, cursor: Cursor) -> None:
    """Writes a cursor in one step."""
    scratch = file.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(cursor)), encoding="utf-8")
    scratch.replace(file)


def behind(study_dir: Path, uri: str) -> bool:
    """Whether a study that is not running has something that may not be in MLflow yet. A look at files, no more."""
    told = read(place(study_dir, uri))
    grown = any(told.done.get(path.stem) != mark(path, path.stat().st_size) for path in ledger.cells(study_dir))
    return not told.token or grown or told.files != files.state(study_dir)


def store_of(study_dir: Path) -> str | None:
    """The store that a study was brought to last, as far as its own folder tells."""
    cursors = sorted((study_dir / "tracking").glob("*.json"), key=lambda p: p.stat().st_mtime)
    for file in reversed(cursors):
        with contextlib.suppress(OSError, ValueError, TypeError):
            if uri := Cursor(**json.loads(file.read_text(encoding="utf-8"))).uri:
                return uri
    return None
