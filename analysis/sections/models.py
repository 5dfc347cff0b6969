"""Models: whose weights the study has kept, and how to ask them."""

from collections.abc import Iterator

from analysis import models, words
from analysis.material import Item, Material
from analysis.page import Code
from analysis.sheets import Row, Sheet, Value, num


def items(material: Material) -> Iterator[Item]:
    found = models.of(material.folder, material.study, material.histories)
    if not found:
        yield Code(f"# This study has no models: {models.why_none(material.folder)}.")
        return
    rows: list[Row] = []
    for m in found:
        trained = f"{m.origin} seed {m.seed}" + "*" * m.oracle
        name = Value(m.condition + " (best)" * m.winner, m.condition, bold=m.winner and not m.oracle)
        file = f"models/{m.cell}/{m.key}.json"
        rows.append([name, m.method, trained, num(m.val, 2, 100), num(m.test, 2, 100), num(m.size, 1, 1e-6), file])
    columns = ["noise", "method", "trained as", "val", "test", "MB", "card"]
    yield Sheet("models", "The models that were kept", columns, rows, models.note(found))
    first = next((m for m in found if m.winner), found[0])
    yield Code(words.ASK.format(card=f"STUDY_FOLDER/models/{first.cell}/{first.key}.json", study=material.study.name))
