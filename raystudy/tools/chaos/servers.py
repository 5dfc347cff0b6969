"""A real MLflow server that can be killed, and a proxy before it that can be slow or answer 500."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from raystudy.tools.chaos.bout import Violated


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[None]:
    """A real MLflow server on loopback, on a SQLite file in ``folder``, that is killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    log = folder / "server.txt"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise Violated(
                        f"MLflow did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class Proxy:
    """Stands in front of a server on loopback and hands on what is asked, in a ``mood``: as it is, slow, or answering 500."""

    def __init__(self, target: int) -> None:
        self.mood, self.asked = "", 0
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                proxy.asked += 1
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if proxy.mood == "500":
                    return self.answer(500, b"{}", "application/json")
                if proxy.mood == "slow":
                    time.sleep(1)
                keep = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "authorization")}
                url = f"http://127.0.0.1:{target}{self.path}"
                asked = urllib.request.Request(url, body or None, keep, method=self.command)
                try:
                    with urllib.request.urlopen(asked, timeout=60) as told:
                        self.answer(told.status, told.read(), told.headers.get("Content-Type", ""))
                except urllib.error.HTTPError as e:
                    self.answer(e.code, e.read(), e.headers.get("Content-Type", ""))
                except OSError:
                    self.answer(502, b"{}", "application/json")

            def answer(self, code: int, body: bytes, kind: str) -> None:
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = handle_any  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
