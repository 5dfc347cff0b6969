"""The server that ``raystudy ui`` starts: links are printed when it answers, and it ends with its command."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browser import free_port

from raystudy.errors import InputError
from raystudy.tracking import links

ROOT = Path(__file__).parents[2]
UI = """
import sys
from raystudy.tracking import links
links.serve(sys.argv[1], "127.0.0.1", int(sys.argv[2]), ["up", "and here"])
"""


def answers(port: int) -> bool:
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_server_answers_when_it_is_said_to_and_ends_with_its_command(tmp_path: Path, number: int) -> None:
    port, uri = free_port(), f"sqlite:///{tmp_path}/mlflow.db"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"}
    process = subprocess.Popen(
        [sys.executable, "-c", UI, uri, str(port)], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    )
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    assert answers(port)
    assert uri.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()  # it may hold a password
    process.send_signal(number)
    assert process.stdout.read() == b"and here\n"
    assert process.wait(30) == 0
    assert not answers(port)


@pytest.mark.slow
def test_a_server_that_cannot_start_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_text("this is not a database, and long enough to be none" * 10)
    port, began = free_port(), time.monotonic()
    with (
        pytest.raises(InputError, match="ended with code") as e,
        links.server(f"sqlite:///{tmp_path}/mlflow.db", "127.0.0.1", port) as process,
    ):
        links.answered(process, links.address("127.0.0.1", port))
    assert "\n" not in str(e.value)
    assert time.monotonic() - began < 300


@pytest.mark.slow
def test_a_server_that_never_answers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    with (
        pytest.raises(InputError, match="has not answered"),
        links.server(f"sqlite:///{tmp_path}/mlflow.db", "127.0.0.1", port) as process,
    ):
        links.answered(process, links.address("127.0.0.1", free_port()), seconds=1)
    assert process.poll() is not None
    assert not answers(port)


@pytest.mark.parametrize(
    ("host", "base"), [("127.0.0.1", "http://127.0.0.1:5000"), ("::1", "http://[::1]:5000"), ("box", "http://box:5000")]
)
def test_where_a_server_is_found(host: str, base: str) -> None:
    assert links.address(host, 5000) == base
