"""Real servers for tests: MLflow, and PostgreSQL of Debian's package. Each in a folder of its own, on loopback, gone afterwards."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from browser import free_port

PASSWORD = "a password of the test"


def wait_for(what: Callable[[], Any], process: subprocess.Popen[bytes], log: Path, seconds: float = 180) -> None:
    """Until it is true. Fails with what the process has said, at once if it has ended."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if what():
                return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.2)


@contextlib.contextmanager
def mlflow(folder: Path, store: str, *options: str, **environment: str) -> Iterator[str]:
    """An MLflow server on a store; its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *options]
    command += ["--host", "127.0.0.1", "--port", str(port), "--artifacts-destination", str(folder / "artifacts")]
    settings = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log, address = folder / "server.txt", f"http://127.0.0.1:{port}"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=os.environ | settings | environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(lambda: urllib.request.urlopen(f"{address}/health", timeout=2).status == 200, process, log)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def no_postgres() -> str:
    """Why there can be no PostgreSQL here; empty if there can."""
    if not _binaries():
        return "needs PostgreSQL's initdb (Debian: postgresql)"
    return (
        ""
        if os.getuid() or _account()
        else "PostgreSQL does not run as root, and there is no account postgres or nobody"
    )


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    other = shutil.which("initdb")
    return found[-1].parent if found else Path(other).parent if other else None


def _account() -> pwd.struct_passwd | None:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """A fresh cluster with a database ``mlflow`` and a user of that name; its URI, with the password."""
    binaries, port = _binaries(), free_port()
    assert binaries
    folder = Path(
        tempfile.mkdtemp(prefix="raystudy-postgres-", dir="/tmp")
    )  # pytest's own folders are closed to others
    who: dict[str, Any] = {}
    if not os.getuid() and (account := _account()):
        os.chown(folder, account.pw_uid, account.pw_gid)
        who = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    secret, data, log = folder / "secret", folder / "data", folder / "log.txt"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    options = ["--username=mlflow", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(folder), "PGPASSWORD": PASSWORD}
    try:
        subprocess.run(
            [binaries / "initdb", "-D", data, *options],
            cwd=folder,
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            **who,
        )
        settings = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        flags = [word for k, v in settings.items() for word in ("-c", f"{k}={v}")]
        with log.open("wb") as out:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", data, *flags], cwd=folder, env=environment, stdout=out, stderr=out, **who
            )
        try:
            server = ["-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
            ready = [binaries / "pg_isready", *server, "-q"]
            wait_for(lambda: subprocess.run(ready, check=False).returncode == 0, process, log)
            subprocess.run([binaries / "createdb", *server, "mlflow"], env=environment, check=True)
            yield f"postgresql://mlflow:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/mlflow"
        finally:
            process.send_signal(signal.SIGINT)  # fast shutdown
            process.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
