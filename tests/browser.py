"""A headless Chromium and a real MLflow server for tests and for the README's pictures."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def missing() -> str:
    """Why there can be no browser here; empty if there can."""
    return (
        ""
        if shutil.which("chromium") and shutil.which("chromedriver")
        else "needs chromium and chromedriver (Debian: chromium chromium-driver)"
    )


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def ui(store: Path, *study: str) -> Iterator[tuple[str, str]]:
    """``raystudy ui [STUDY]`` on a SQLite store: (address of the server, what the command printed of studies' pages)."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "raystudy",
        "ui",
        "--tracking-uri",
        f"sqlite:///{store}",
        "--port",
        str(port),
        *study,
    ]
    log = store.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while "(Ctrl-C stops it)" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.3)
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()  # what is printed is there
        yield f"http://127.0.0.1:{port}", log.read_text()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


@contextlib.contextmanager
def chromium(profile: Path, size: str = "1600,1000") -> Iterator[Any]:
    """A headless Chromium with a profile of its own, kept from talking to anyone but the page."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for flag in (
        *(
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={profile}", f"--window-size={size}", "--force-device-scale-factor=1"),
    ):
        options.add_argument(flag)
    options.binary_location = shutil.which("chromium") or ""
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
