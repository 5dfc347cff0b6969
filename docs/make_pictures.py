"""Makes the README's pictures from a finished study: the leaderboard as the terminal shows it, and MLflow's UI on its runs.

python docs/make_pictures.py [STUDY_FOLDER [MLFLOW_DB]]      default: studies/dividemix-digits mlflow.db
"""

import io
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from browser import chromium, ui  # noqa: E402

from analysis import load, tables  # noqa: E402

CLOSE = "button[aria-label='Close']"  # of MLflow's assistant, which covers a third of the page


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "studies/dividemix-digits")
    store = Path(sys.argv[2] if len(sys.argv) > 2 else "mlflow.db").absolute()
    console = Console(record=True, width=142, file=io.StringIO(), force_terminal=True)
    console.print(tables.leaderboard(*load.study(folder)))
    console.save_svg(str(HERE / "leaderboard.svg"), title=f"python -m raystudy.sweep {folder.name.split('-')[0]}")
    with (
        ui(store, folder.name) as (_, printed),
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as driver,
    ):
        links = dict(line.strip().split(": ", 1) for line in printed.splitlines() if "/#/" in line)
        driver.get(links[folder.name])  # what `raystudy ui STUDY --open` opens
        time.sleep(8)
        for button in driver.find_elements("css selector", CLOSE):
            button.click()
        time.sleep(4)
        driver.save_screenshot(str(HERE / "mlflow.png"))
        driver.get("about:blank")  # or the page would keep the view it has
        driver.get(links["cells"])
        time.sleep(15)
        driver.save_screenshot(str(HERE / "mlflow-cells.png"))


if __name__ == "__main__":
    main()
