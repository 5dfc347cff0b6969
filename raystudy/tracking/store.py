"""Which MLflow: its address, whether it can be used, whether it lets us in, and a client of it.

MLflow itself is imported by ``connect`` alone.
"""

import base64
import contextlib
import fcntl
import gc
import glob
import http.client
import importlib.util
import os
import re
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from raystudy.errors import InputError

CHOICES = "sqlite:///FILE.db, http(s)://HOST:PORT, or postgresql|mysql|mssql://..."
# Our own retries go on for the whole study; MLflow's could hold up its end for minutes, and create a run twice.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # it would for each run that ends on a server
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else ``mlflow.db`` in the working directory."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return absolute(given) if given else sqlite_uri(Path("mlflow.db").absolute())


def absolute(uri: str) -> str:
    """The same store, whatever the working directory."""
    file = sqlite_file(uri)
    return sqlite_uri(file, uri.partition(":")[0]) if file else uri.rstrip("/")


def sqlite_uri(file: Path, scheme: str = "sqlite") -> str:
    """The URI of a SQLite file, as SQLAlchemy reads it: ``%`` and ``?`` are quoted, all else stands for itself.

    MLflow makes the folder of a plain ``sqlite:///`` by the name as it stands in the URI, a quoted one beside the real one. With the
    driver in the scheme it makes none.
    """
    path = str(file).replace("%", "%25").replace("?", "%3F")
    return f"{scheme if path == str(file) else 'sqlite+pysqlite'}:///{path}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, None for any other store. Raises InputError where the URI goes on after its file."""
    scheme, _, name = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite" or not name or name == ":memory:":
        return None
    if "?" in name:
        raise InputError(
            f"MLflow store {uri!r}: a ? in the name of a file is written %3F in a URI, and options are not taken"
        )
    return Path(unquote(name)).absolute()


def artifacts(uri: str, name: str) -> str | None:
    """Where an experiment keeps its files: beside a SQLite file, else where its server says (None)."""
    file = sqlite_file(uri)
    return (file.parent / "mlartifacts" / name).as_uri() if file else None


def check(uri: str) -> None:
    """Raises InputError for a store that cannot be used, in a moment and without importing MLflow."""
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    file = sqlite_file(uri)
    if file is not None:
        _check_sqlite(file)
    elif scheme == "sqlite":
        raise InputError(f"MLflow store {uri!r} names no file; choose from: {CHOICES}")
    elif scheme in ("http", "https"):
        _check_server(uri.rstrip("/"))
    elif scheme == "file" or ("://" not in uri and scheme != "databricks"):
        raise InputError(f"MLflow store {uri!r} is a folder, which MLflow no longer writes to; choose from: {CHOICES}")
    elif scheme not in ("postgresql", "mysql", "mssql"):
        raise InputError(f"MLflow store of kind {scheme!r} is not known; choose from: {CHOICES}")
    elif uri.lower().startswith("postgresql://") and importlib.util.find_spec("psycopg") is None:
        raise InputError("MLflow on PostgreSQL needs the package psycopg: pip install 'raystudy[postgres]'")


def check_models(uri: str) -> None:
    """The same, for a store that is to hold a model. From a folder whose name reads as quoted MLflow would not find it again."""
    check(uri)
    file = sqlite_file(uri)
    if file and unquote(str(file)) != str(file):
        raise InputError(
            f"MLflow finds no model below {file.parent}, for the % in its name; choose another store: {CHOICES}"
        )


def _check_sqlite(file: Path) -> None:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise InputError(f"MLflow cannot keep its store in {file}: the name is no text in UTF-8") from None
    folder = next(p for p in file.parents if p.exists())  # MLflow creates what is missing
    if not folder.is_dir():
        raise InputError(f"cannot create the MLflow store {file}: {folder} is not a folder")
    for place in (folder, file):
        if place.exists() and not os.access(place, os.W_OK):
            raise InputError(f"cannot write the MLflow store {file}: no permission to write {place}")
    if file.is_dir():
        raise InputError(f"the MLflow store {file} is a folder; choose from: {CHOICES}")
    if file.exists():
        with file.open("rb") as f:
            if f.read(16) not in (b"", b"SQLite format 3\0"):
                raise InputError(f"the MLflow store {file} is not a SQLite database; choose from: {CHOICES}")


def _check_server(uri: str) -> None:
    place, headers = _credentials(uri)
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{place}/health", headers=headers), timeout=3):
            pass
        _check_welcome(uri)
        return
    except urllib.error.HTTPError as e:
        if e.code == 401:
            raise InputError(_stranger(uri)) from None
        why = f"answers {e.code} to /health" + ("; is this host name in its --allowed-hosts?" if e.code == 403 else "")
    except (OSError, ValueError, http.client.HTTPException) as e:
        reason = getattr(e, "reason", e)
        if isinstance(reason, ssl.SSLError):
            return  # it is there; whom to trust is MLflow's own setting
        why = f"does not answer ({reason})"
    raise InputError(f"the MLflow server at {public(uri)} {why}; start it, or choose from: {CHOICES}")


def _check_welcome(uri: str) -> None:
    """Raises InputError where the server wants to know who we are and does not take our answer: /health is open to all."""
    elsewhere = ("MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4")  # answers that only MLflow can give
    if any(os.environ.get(name) for name in elsewhere) or Path("~/.mlflow/credentials").expanduser().exists():
        return
    place, headers = _credentials(uri)
    question = urllib.request.Request(f"{place}/api/2.0/mlflow/experiments/search?max_results=1", headers=headers)
    try:
        with urllib.request.urlopen(question, timeout=10):
            return
    except urllib.error.HTTPError as e:
        if e.code == 401:
            raise InputError(_stranger(uri)) from None
    except OSError:
        return  # slow, and yet it is there


def _credentials(uri: str) -> tuple[str, dict[str, str]]:
    """The server's address without user and password, and the header by which it knows us, as MLflow's client would send it."""
    user, password = (os.environ.get(name) for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"))
    if found := re.match(r"(https?://)([^/\s]*)@", uri):
        user, _, password = (unquote(part) for part in found[2].partition(":"))
    if user and password:
        told = base64.b64encode(f"{user}:{password}".encode()).decode()
        return public(uri), {"Authorization": f"Basic {told}"}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return public(uri), {"Authorization": f"Bearer {token}"} if token else {}


def _stranger(uri: str) -> str:
    """What to do about a server's 401, in one line."""
    ours = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    if _credentials(uri)[1]:
        return f"the MLflow server at {public(uri)} does not take this user and password (401); set {ours} to an account that it has"
    return f"the MLflow server at {public(uri)} asks who you are (401): set {ours}"


def public(text: str) -> str:
    """A URI, or a message with one in it, without user and password."""
    return re.sub(r"//[^/\s]*@", "//", text)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


_inodes: dict[str, int] = {}  # of the SQLite files this process has opened


def replaced(uri: str) -> bool:
    """Whether the SQLite file was deleted since this process opened it: MLflow would go on in the deleted one."""
    file = sqlite_file(uri)
    return uri in _inodes and (file is None or not file.exists() or file.stat().st_ino != _inodes[uri])


def connect(uri: str) -> Any:
    """An MlflowClient."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    gc.disable()  # else it walks all of MLflow's objects again and again, which takes a sixth of the time
    try:
        from mlflow.tracking import MlflowClient

        file = sqlite_file(uri)
        client = MlflowClient(uri) if file is None else _sqlite_client(file, uri, MlflowClient)
        gc.freeze()
    finally:
        gc.enable()
    return client


def _sqlite_client(file: Path, uri: str, client_class: Any) -> Any:
    """The client of a SQLite store, created if need be: by one process at a time, because MLflow's migrations race, and
    with a write-ahead log, so that the UI reads while we write."""
    with locked(file.with_name(file.name + ".lock")):
        if not file.exists() or not file.stat().st_size:
            _make(file, client_class)
        with contextlib.closing(_opened(file)):
            pass  # where that fails, MLflow would try again and again for minutes
        client = client_class(uri)
        with contextlib.closing(_opened(file)) as db, contextlib.suppress(sqlite3.OperationalError):
            db.execute("PRAGMA journal_mode=WAL")  # persists; if the file is busy right now, the next start sets it
    _inodes[uri] = file.stat().st_ino
    return client


def _make(file: Path, client_class: Any) -> None:
    """Makes a store, whole or not at all: MLflow does it in dozens of migrations, and cannot go on from between two of them."""
    new = file.with_name(file.name + ".new")
    for left in file.parent.glob(f"{glob.escape(new.name)}*"):  # of one that was killed, with its journal
        left.unlink()
    with contextlib.closing(_opened(new)):
        pass
    client_class(sqlite_uri(new))
    if file.exists() and file.stat().st_size:  # somebody else's, made meanwhile
        new.unlink()
    else:
        os.replace(new, file)


def _opened(file: Path) -> sqlite3.Connection:
    try:
        return sqlite3.connect(file, timeout=5)
    except sqlite3.OperationalError as e:
        raise InputError(f"cannot open the MLflow store {file}: {e}") from None


def trouble(uri: str, e: Exception) -> str:
    """Why a store could not be written, in one line: what a look at it tells, else what MLflow said."""
    if isinstance(e, InputError):
        return str(e)
    try:
        check(uri)
    except InputError as told:
        return str(told)
    return f"MLflow at {public(uri)}: {one_line(e)}"


def one_line(e: BaseException) -> str:
    """What went wrong, for people; of a server's page that says who may not come in, what to do about it."""
    if "error code 401" in str(e):
        return (
            "it does not take this user and password (401); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        )
    text = next((line for line in str(e).splitlines() if line.strip()), "")
    return public(text or type(e).__name__)[:500]
