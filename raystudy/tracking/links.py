"""Where a study is looked at in MLflow's UI: the links that ``raystudy ui`` prints, and the server that answers on them.

Here belong asking a store what studies it holds and the way to their pages; what a page shows is in ``views``.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from raystudy.errors import InputError
from raystudy.tracking import store, views
from raystudy.tracking.sync import OURS, environment

TOLD = "RAYSTUDY_UI"  # the variable by which ``serve`` tells the process in its place what to do


def studies(uri: str, study: str | None = None) -> dict[str, dict[str, str]]:
    """What can be looked at of each study in a store (``views.links``), or of one, by the name of its experiment, newest first.

    Raises InputError, one line, if the store does not answer.
    """
    found: dict[str, dict[str, str]] = {}
    file = store.sqlite_file(uri)
    if file and not file.exists():
        return found
    try:
        client = store.connect(uri)
        for experiment in client.search_experiments(order_by=["last_update_time DESC"]):
            name = experiment.tags.get("raystudy.study")
            if name is None or study not in (None, name, experiment.name):
                continue
            told = client.search_runs([experiment.experiment_id], "tags.`raystudy.role` = 'cell'", max_results=1000)
            runs = sorted(told, key=lambda r: (r.info.start_time, r.info.run_name))
            cells = {r.data.tags["raystudy.cell"]: (r.info.run_name, r.info.run_id) for r in runs}
            found[experiment.name] = views.links(experiment.experiment_id, cells)
    except Exception as e:
        raise InputError(f"MLflow at {store.public(uri)}: {store.one_line(e)}") from e
    return found


def serve(uri: str, host: str, port: int, lines: Sequence[str], page: str | None = None) -> NoReturn:
    """Goes on as the process that keeps a server: prints the lines and opens the page when it answers.

    A new process in this one's place: the command line of this one may name the store, with a password, and others can read it.
    """
    told = json.dumps({"host": host, "port": port, "lines": list(lines), "page": page})
    sys.stdout.flush()
    os.execve(sys.executable, [*OURS, "serve"], {**environment(uri), TOLD: told})


def address(host: str, port: int) -> str:
    """Where a server that listens there is found."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def server(uri: str, host: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server on a store, for as long as the block lasts. Ctrl-C, SIGTERM and SIGHUP end the block and the server with it."""
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings["MLFLOW_BACKEND_STORE_URI"] = uri  # others can read command lines, and it may hold a password
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    process = subprocess.Popen(
        command,
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        stdout=2,  # standard output is the command's own
        start_new_session=True,  # it has workers of its own: they are stopped together
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield process
    finally:
        _stop(process)
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes], patience: float = 10) -> None:
    """Ends a server and its workers."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)


def answered(process: subprocess.Popen[bytes], base: str, seconds: float = 180) -> None:
    """Waits until a server that was just started answers. Raises InputError, one line, if it ends before, or never does."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if process.poll() is not None:
            raise InputError(
                f"MLflow's server ended with code {process.returncode} before it answered; above is what it said"
            )
        try:
            direct.open(f"{base}/health", timeout=2).close()
            return
        except urllib.error.HTTPError:  # it answers, if not to this
            return
        except OSError:
            time.sleep(0.2)
    raise InputError(f"MLflow's server has not answered on {base} for {seconds:.0f} seconds; it was stopped")


def kept(process: subprocess.Popen[bytes]) -> None:
    """Waits for as long as a server runs. Raises InputError, one line, when it ends by itself."""
    raise InputError(f"MLflow's server ended by itself with code {process.wait()}; above is what it said")
