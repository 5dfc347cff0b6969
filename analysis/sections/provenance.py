"""Provenance: what it takes to get these numbers again."""

import math
from collections.abc import Iterator

from analysis import words
from analysis.material import Item, Material
from analysis.page import Code
from analysis.sheets import Row, Sheet, num
from raystudy.design.study import SLACK
from raystudy.record.ledger import is_running

AGAIN = """\
# The same trainings, anywhere with the same versions and data (name where it lies by --data-root); study.toml is beside this report:
python -m raystudy.sweep --study study.toml"""


def items(material: Material) -> Iterator[Item]:
    study, headers = material.study, [h.header for h in material.histories.values()]
    yield Code(f"{AGAIN}\n\n{(material.folder / 'study.toml').read_text(encoding='utf-8')}")
    told = {"study": study.name}
    names = ("network", "epochs", "recipe", "trials", "replicates", "sampler", "scheduler", "objective")
    told |= {n.replace("_", " "): str(getattr(study, n)) for n in (*names, "val_fraction", "clean_val")}
    told["evaluated"] = study.evaluate or "every epoch, in full"
    told |= {"filter": study.filter} if study.filter else {}
    told["seed of search and trainings"] = str(study.seed)
    told["seeds of replicates"] = ", ".join(str(study.seed + 1 + r) for r in range(study.replicates)) or "none"
    told["seeds of noise and split"] = ", ".join(sorted({str(n.seed) for n in study.noises}))
    if study.batch:
        told["proposals of a cell out at once"] = str(study.batch)
    else:
        told["virtual workers of a cell"] = f"{study.virtual_workers} (slack {study.slack or SLACK:g})"
    told["commit"] = ", ".join(sorted({h.get("commit") or "not a git checkout" for h in headers})) or "–"
    versions = [(p, v) for h in headers for p, v in h.get("versions", {}).items()]
    told |= {p: ", ".join(sorted({v for q, v in versions if q == p})) for p, _ in versions}
    told["state"] = "a sweep is running" if is_running(material.folder) else "no sweep is running"
    rows: list[Row] = [[k, v] for k, v in told.items()]
    yield Sheet("provenance", "What it takes to get these numbers again", ["what", "value"], rows, words.PROVENANCE)
    rows = []
    for o in material.outcomes:
        digests, wrong = o.history.header.get("digests", {}), o.history.header.get("effective_rate")
        wrong = math.nan if wrong is None else wrong  # the truth is not known
        line: Row = [
            o.condition,
            o.cell.method,
            num(wrong, 1, 100),
            digests.get("data", "–"),
            digests.get("noise", "–"),
        ]
        rows.append([*line, f"cells/{o.cell.key}.jsonl"])
    columns = ["noise", "method", "wrong labels in %", "data digest", "noise digest", "ledger file"]
    yield Sheet("digests", "Data, labels and ledger of every cell", columns, rows, words.DIGESTS)
