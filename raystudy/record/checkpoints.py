"""Where a trial's checkpoints, and what a finished one leaves, lie, and how they travel to a storage.

What is in a checkpoint, and when one is refused, is in ``learn/checkpoint.py``.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from raystudy.record.storage import line_of, place


def checkpoint_path(study_dir: Path, key: str) -> Path:
    """Where a trial's newest checkpoint lies."""
    return study_dir / "checkpoints" / f"{key}.pt"


def arrays_path(folder: Path, key: str) -> Path:
    """Where a finished trial leaves its histograms and matrices (``training.Run.arrays``): a by-product that may be absent."""
    return folder / "arrays" / f"{key}.npz"


def checkpoint_names(key: str) -> tuple[str, str]:
    """A trial's newest checkpoint, and the one before."""
    return f"{key}.pt", f"{key}.pt.prev"


class Checkpoints:
    """A trial's checkpoints on a worker: files of this machine, each also in the storage, so that another node can go on."""

    def __init__(self, file: Path, address: str | None, study: str) -> None:
        self.here = file.parent.parent
        self.study = place(address) / study if address else None
        self.there = self.study / "checkpoints" if self.study else None
        self._scratch = tempfile.TemporaryDirectory(prefix="raystudy-checkpoint-") if address else None
        self.file = Path(self._scratch.name) / file.name if self._scratch else file
        self.names = checkpoint_names(file.stem)
        if not self._scratch:
            self.file.parent.mkdir(parents=True, exist_ok=True)

    def fetch(self) -> None:
        """Brings what the storage holds to this machine. Raises OSError where the storage cannot be read."""
        if self.there:
            for name in self.names:
                if (self.there / name).size() is not None:
                    (self.there / name).download(self.file.with_name(name))

    def store(self) -> str:
        """Copies a checkpoint that was just saved to the storage, where the one before is kept. Returns what went wrong, or ""."""
        if self.there:
            newest, before = (self.there / name for name in self.names)
            try:
                if newest.size() is not None:
                    before.remove()
                    newest.fs.move(newest.path, before.path)
                newest.upload(self.file)
            except Exception as e:  # costs time if the node is lost, never the trial
                return f"the checkpoint was not stored: {line_of(e)}"
        return ""

    @contextlib.contextmanager
    def leaving(self, file: Path) -> Iterator[Path]:
        """Where to write what a finished trial leaves at ``file`` of the study, which gets its place in one step: in the storage, where
        there is one."""
        if self._scratch and self.study:
            new = Path(self._scratch.name) / file.name
            yield new
            (self.study / file.relative_to(self.here).as_posix()).upload(new)
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        yield new
        os.replace(new, file)

    def close(self) -> None:
        if self._scratch:
            self._scratch.cleanup()
