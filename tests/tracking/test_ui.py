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

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.skipif(bool(missing()), reason=missing())]


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
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "mlflow.db"


def eventually(look: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"never seen: {what}")


CLOSE = "button[aria-label='Close']"  # of MLflow's assistant, which covers a part of the page
COLOURS = """return [...document.querySelectorAll(".scatterlayer .point")].map(p => getComputedStyle(p).fill)"""
UNFOLD = ".ag-row [col-id*='Run Name'] button"


def test_the_study_as_a_person_sees_it(store: Path, tmp_path: Path) -> None:
    """Opens the study, reads its rows, unfolds trials, opens the saved views and the comparison by their links, and the report."""
    with ui(store, "seen") as (address, printed), chromium(tmp_path, "2400,3000") as driver:
        links = dict(line.strip().split(": ", 1) for line in printed.splitlines() if f": {address}/#/" in line)
        rows = [f"{method} {rate}" for method in ("ce", "mixup") for rate in ("0.2", "0.5")]
        assert links.keys() == {"seen", "cells", "noise", "curves", "compare", *(f"trials of {row}" for row in rows)}

        def text() -> str:
            return str(driver.find_element("tag name", "body").text)

        driver.get(links["seen"])
        eventually(lambda: all(row in text() for row in rows), "a row for each cell")
        assert "Model training" in text()
        for button in driver.find_elements("css selector", CLOSE):
            button.click()
        for column in ("tuned/last10", "tuned/ORACLE", "paper/last10", "cost/seconds"):
            eventually(lambda column=column: column in text(), f"the column {column}")
        assert "#0 paper" not in text()  # trials are folded away below their cells
        assert sum(line.startswith("0.") for line in text().splitlines()) >= 4 * 4  # their numbers
        eventually(lambda: unfold(driver), "what unfolds a cell")
        eventually(lambda: "#0 paper" in text(), "the trials of a cell")
        for box in driver.find_elements("css selector", ".ag-row .ag-selection-checkbox input")[:2]:
            driver.execute_script("arguments[0].click()", box)
        eventually(lambda: "Compare" in text(), "runs can be selected and compared")

        driver.get("about:blank")
        driver.get(links["cells"])
        eventually(lambda: "Parallel Coordinates" in text() and "search/best_val" in text(), "the cells' charts")
        assert all(name in text() for name in ("tuned/noisy_val", "search/test_of_best"))
        assert "rate vs. tuned/last10" in text()  # the first chart
        eventually(lambda: "mixup 0.5" in text(), "a curve by its cell's name")
        colours = driver.execute_script(COLOURS)
        assert len(set(colours)) == 2, colours  # one a method, over all levels
        assert len(colours) >= 4
        driver.get("about:blank")
        driver.get(links["noise"])
        eventually(lambda: "Group: mixup" in text() and "noise/last10" in text(), "accuracy against noise by method")
        driver.get("about:blank")
        driver.get(links["trials of mixup 0.5"])
        eventually(lambda: "#0 paper alpha=" in text() and "val/acc" in text(), "the trials of a cell")
        (cell,) = store.parent.rglob("cells/mixup*-0.5.jsonl")
        trials = cell.read_text().count('"event":"trial"')  # of the search, and replicates of one point or two
        eventually(lambda: f"{trials} matching runs" in text(), "trials of that cell alone")
        driver.get("about:blank")
        driver.get(links["curves"])
        eventually(lambda: "test/acc" in text() and "ce 0.2" in text(), "the tuned curves")
        driver.get("about:blank")
        driver.get(links["compare"])
        eventually(lambda: "Comparing 4 Runs from 1 Experiment" in text(), "the cells side by side")
        assert "Parallel Coordinates Plot" in text()


def unfold(driver: Any) -> bool:
    """Clicks the first row's sign of folded trials."""
    found = driver.find_elements("css selector", UNFOLD)  # the first of a row is its sign of folded rows
    if found:
        driver.execute_script("arguments[0].click()", found[0])
    return bool(found)
