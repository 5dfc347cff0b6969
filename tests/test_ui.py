"""What a person sees in MLflow's UI: a real study, the real server, a real browser."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, missing, ui

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui")
    options = [
        "mixup",
        "--noise",
        "symmetric:0.2,0.5",
        "--epochs",
        "4",
        "--trials",
        "2",
        "--replicates",
        "1",
        "--name",
        "seen",
    ]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "raystudy.sweep", *options]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "mlflow.db"


def eventually(look: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"never seen: {what}")


def test_the_ui_opens_on_the_study_with_one_row_per_cell(store: Path, tmp_path: Path) -> None:
    with ui(store) as (address, printed), chromium(tmp_path) as driver:
        page = next(line.split(": ", 1)[1] for line in printed.splitlines() if line.strip().startswith("seen: "))
        assert page.startswith(address)
        driver.get(page)

        def text() -> str:
            return str(driver.find_element("tag name", "body").text)

        rows = [f"{method} {rate} symmetric" for method in ("ce", "mixup") for rate in ("0.2", "0.5")]
        eventually(lambda: all(row in text() for row in rows), "a row for each cell")
        assert "Model training" in text()
        assert "#0 paper" not in text()  # trials are folded away below their cells
        driver.get(f"{page}&compareRunsMode=CHART")
        eventually(lambda: "tuned/last10" in text() or "cost/seconds" in text(), "the charts of the summary numbers")
