"""Where a study is kept when that is no folder of this machine: any file system that pyarrow or fsspec opens.

Here belong names of storages and a folder in one (``Place``); pulling and mirroring a ledger is in ``mirror``, moving checkpoints in
``checkpoints``.

    s3://bucket/studies     working copy ~/.cache/raystudy/s3%3A%2F%2Fbucket%2Fstudies, the same for every command
    /nfs/studies            no URL: a folder that is used as it is

A storage holds what a study's folder holds (``study.toml``, ``cells/*.jsonl``, ``masks/*``, ``report/*``, ``arrays/*``,
``checkpoints/*.pt``) and, while a sweep runs, its ledger in ``pieces`` and ``driver.json``, by which a second driver on another machine
sees the first. Arrays and checkpoints are brought there by the workers that made them; whoever wants arrays pulls them.
"""

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from raystudy.errors import InputError, unknown

OBJECT_STORES = ("s3", "gcs", "abfs")  # what is written there appears when it is whole


def folder(text: str) -> Path:
    """The folder in which commands find the studies of ``--storage``: the folder itself, or a URL's working copy."""
    if not text:
        raise InputError("--storage names no folder: ''")
    return _copies() / quote(text.rstrip("/"), safe="") if "://" in text else Path(text)


def _copies() -> Path:
    """The folder of all working copies."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute()
    return cache / "raystudy"


def url(storage: Path) -> str | None:
    """The URL of which ``storage`` is the working copy; None for a folder that is used as it is, whatever it is called."""
    found = unquote(storage.name)
    return found if "://" in found and storage.parent == _copies() else None


def told(storage: Path) -> str:
    """A storage as the user names it."""
    return url(storage) or str(storage)


class Place(NamedTuple):
    """A folder in a file system of pyarrow."""

    fs: Any
    path: str

    def __truediv__(self, name: str) -> "Place":
        return Place(self.fs, f"{self.path}/{name}")

    def write(self, data: bytes) -> None:
        """Writes a small file in one step: a reader sees the old bytes or the new."""
        with self._replaced() as out:
            out.write(data)

    def upload(self, file: Path) -> None:
        """Copies a file of this machine here, in one step."""
        with file.open("rb") as f, self._replaced() as out:
            shutil.copyfileobj(f, out, 1 << 24)

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[Any]:
        if self.fs.type_name in OBJECT_STORES:
            with self.fs.open_output_stream(self.path) as out:
                yield out
            return
        self.fs.create_dir(self.path.rpartition("/")[0], recursive=True)
        new = f"{self.path}.{socket.gethostname()}.{os.getpid()}.new"
        with self.fs.open_output_stream(new) as out:
            yield out
        self.fs.move(new, self.path)

    def read(self, start: int = 0, end: int | None = None) -> bytes:
        with self.fs.open_input_file(self.path) as f:
            f.seek(start)
            return f.read() if end is None else f.read(end - start)

    def download(self, file: Path) -> None:
        """Copies this to a file of this machine, in one step."""
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f"{file.name}.{os.getpid()}.new")
        with self.fs.open_input_stream(self.path) as f, new.open("wb") as out:
            shutil.copyfileobj(f, out, 1 << 24)
        os.replace(new, file)

    def size(self) -> int | None:
        """Bytes, None where there is no file."""
        info = self.fs.get_file_info(self.path)
        return info.size if info.is_file else None

    def files(self) -> dict[str, int]:
        """Names and sizes of the files in this folder."""
        from pyarrow.fs import FileSelector

        found = self.fs.get_file_info(FileSelector(self.path, allow_not_found=True))
        return {i.base_name: i.size for i in found if i.is_file and not i.base_name.endswith(".new")}

    def folders(self) -> list[str]:
        """Names of the folders in this folder."""
        from pyarrow.fs import FileSelector, FileType

        found = self.fs.get_file_info(FileSelector(self.path, allow_not_found=True))
        return [i.base_name for i in found if i.type == FileType.Directory]

    def remove(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            if self.size() is not None:
                self.fs.delete_file(self.path)


@lru_cache(maxsize=16)
def place(address: str) -> Place:
    """Opens a URL. Raises InputError, one line, where nothing opens it."""
    import fsspec
    import pyarrow
    from pyarrow import fs

    try:
        return Place(*fs.FileSystem.from_uri(_prompt(address)))
    except pyarrow.ArrowInvalid as e:
        if "Unrecognized filesystem type" not in str(e):
            raise InputError(f"--storage {address}: {line_of(e)}") from None
    except OSError as e:
        raise InputError(f"--storage {address} cannot be opened: {line_of(e)}") from None
    scheme = address.partition("://")[0]
    if scheme not in fsspec.available_protocols():
        raise unknown("kind of --storage", scheme, {"file", "s3", "gs", "abfs", *fsspec.available_protocols()})
    try:
        found, path = fsspec.core.url_to_fs(address)
    except Exception as e:  # each of fsspec's file systems has its own
        raise InputError(f"--storage {address} cannot be opened: {line_of(e)}") from None
    return Place(fs.PyFileSystem(fs.FSSpecHandler(found)), path)


def _prompt(address: str) -> str:
    """The same place; a small file is written to S3 with one request, where pyarrow by itself makes three."""
    if not address.startswith("s3://") or "allow_delayed_open" in address:
        return address
    return f"{address}{'&' if '?' in address else '?'}allow_delayed_open=true"


def line_of(e: BaseException) -> str:
    """An exception in one line."""
    return " ".join(str(e).split())[:300] or type(e).__name__


def studies(storage: Path) -> list[str]:
    """Names of the studies that a storage holds."""
    here = [p.parent.name for p in storage.glob("*/study.toml")]
    address = url(storage)
    if address:
        root = place(address)
        with reached(address):
            here += [name for name in root.folders() if (root / name / "study.toml").size() is not None]
    return sorted(set(here))


@contextlib.contextmanager
def reached(address: str) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InputError(f"--storage {address} cannot be read: {line_of(e)}") from None
