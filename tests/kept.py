"""What a shipped study in miniature came to: its cells and the accuracies of its report, kept in ``smoke/NAME.csv`` for tests.

python tests/kept.py STUDY_FOLDER...     keeps the finished studies in these folders (``--scale smoke`` names them NAME-smoke)
"""

import csv
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from analysis import load  # noqa: E402
from analysis.select import chosen, replicates, score  # noqa: E402
from raystudy.design.study import Cell  # noqa: E402
from raystudy.record.ledger import CellHistory  # noqa: E402

RULES = (
    "noisy_val",
    "last",
    "last10",
    "oracle_test",
)  # accuracies in percent, as the leaderboards of a report have them
TOLERANCE = (
    15.0  # percentage points another machine may be off: there are 160 test images, and rounding grows over epochs
)

Row = dict[str, str]


def rows(histories: Mapping[Cell, CellHistory]) -> list[Row]:
    """One row a cell, in the order of the grid: what must be the same on every machine, then accuracies."""
    found = []
    for cell, history in histories.items():
        trials, digests = list(history.trials.values()), history.header["digests"]
        top = replicates(history, chosen(history))
        same = {
            "method": cell.method,
            "condition": cell.condition,
            "data": digests["data"],
            "noise": digests["noise"],
            "trials": " ".join(f"{t.origin}:{t.state}:{t.epochs}" for t in trials),
        }
        found.append(same | {rule: f"{100 * score(top, rule).mean:.1f}" for rule in RULES})
    return found


def kept(name: str) -> list[Row]:
    """The rows kept of a shipped study."""
    with (HERE / "smoke" / f"{name}.csv").open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def differences(now: list[Row], before: list[Row]) -> list[str]:
    """One line for each cell that is not what it was, accuracies within ``TOLERANCE``."""
    told = [f"{len(now)} cells, {len(before)} were kept"] if len(now) != len(before) else []
    for a, b in zip(now, before, strict=False):
        off = [k for k in b if (abs(float(a[k]) - float(b[k])) > TOLERANCE if k in RULES else a[k] != b[k])]
        told += [f"{b['method']} {b['condition']}: {k} is {a[k]}, was {b[k]}" for k in off]
    return told


def main(folders: list[str]) -> None:
    for folder in map(Path, folders):
        found = rows(load.study(folder)[1])
        path = HERE / "smoke" / f"{folder.name.removesuffix('-smoke')}.csv"
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as f:
            writer = csv.DictWriter(f, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)
        print(f"{path}: {len(found)} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
