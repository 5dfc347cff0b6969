"""Published: our numbers beside published ones, with what differs between the protocols."""

from collections.abc import Iterator
from typing import Any

from analysis import literature, names, words
from analysis.material import Item, Material
from analysis.page import Picture
from analysis.select import score
from analysis.sheets import Row, Sheet, percent


def items(material: Material) -> Iterator[Item]:
    rows: dict[bool, list[Row]] = {True: [], False: []}
    long: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    known = {p.dataset for p in literature.published()}
    for o in material.outcomes:
        network = o.history.header.get("network", material.study.network)
        for p in literature.beside(o.cell) or literature.beside(o.cell, known):
            same, rule = literature.same_data(p, o.cell), literature.RULE_OF[p.statistic]
            ours, differ = score(o.tuned, rule), literature.differences(network, o.cell, p)
            line: Row = [
                o.condition,
                o.method,
                percent(ours),
                material.label(rule),
                p.text,
                p.statistic,
                p.published_as,
            ]
            rows[same].append([*line, names.told(differ, material.study) or "none stated", p.source])
            told = {f"published_{k}": v for k, v in p._asdict().items()}
            numbers = {"rule": rule, "ours": 100 * ours.mean, "ours_std": 100 * ours.std}
            long[same].append(o.keys() | numbers | told | {"differences": differ})
    columns = [
        "noise",
        "method",
        "ours",
        "our rule",
        "published",
        "statistic",
        "as",
        "protocol differences",
        "source",
    ]
    note = f"{literature.protocol(material.study)} {literature.LEGEND}"
    title = f"Ours beside the published numbers, {material.measured} in %"
    if rows[True]:
        yield Sheet("published", title, columns, rows[True], note, long[True])
    else:
        why = f"no published numbers for these methods at these levels of this data set; there are some for {', '.join(sorted(known))}"
        yield Picture("published", title, why, None)
    if rows[False]:
        title = "Published at the same nominal noise, on other data sets"
        yield Sheet("published-elsewhere", title, columns, rows[False], words.ELSEWHERE + note, long[False])
