"""The files of a study that are logged in MLflow: which they are, and whether they have changed.

Here belongs looking at folders, and nothing of MLflow. Files of a cell lie in ``artifacts/<cell key>/`` of the study's folder, the cards
of its models in ``models/<cell key>/``, those of the study as a whole in ``report/``, ``data/``, ``masks/`` and ``artifacts/study/``.
"""

import hashlib
from pathlib import Path


def study_folders(study_dir: Path) -> list[Path]:
    """The folders with files of the study as a whole."""
    folders = (study_dir / "report", study_dir / "data", study_dir / "masks", study_dir / "artifacts" / "study")
    return [f for f in folders if below(f)]


def below(folder: Path) -> list[Path]:
    """The files below a folder, but not what is being written (``.NAME``, ``NAME.new``, ``NAME.tmp``), and not the weights of models:
    those are large, and come to MLflow where somebody registers them.

    Nor links: a study of a stranger could point at any file of ours, which would then be on the server.
    """
    found = [f for f in folder.rglob("*") if f.is_file() and not f.is_symlink()] if folder.is_dir() else []
    return sorted(f for f in found if not f.name.startswith(".") and f.suffix not in (".new", ".tmp", ".safetensors"))


def state(study_dir: Path) -> str:
    """Changes when a file to log is written: a look at the folders, no more. Empty without files."""
    folders = [*study_folders(study_dir), study_dir / "artifacts", study_dir / "models"]
    told = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for folder in folders for f in below(folder)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16] if told else ""


def digest(folders: list[Path]) -> str:
    """Of the names and contents of the files below; empty without files."""
    told = [(str(f.relative_to(d.parent)), _content(f)) for d in folders for f in below(d)]
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16] if told else ""


def _content(file: Path) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
