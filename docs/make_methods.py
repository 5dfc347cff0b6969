"""Makes ``docs/methods.md`` from the cards (module docstrings), the signatures and the search spaces of all methods.

python docs/make_methods.py            writes the page
python docs/make_methods.py --check    writes nothing; exit code 1 where the page is not what would be written (CI runs this)
"""

import argparse
import inspect
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from raystudy.design import space  # noqa: E402
from raystudy.design.space import Paper, Space  # noqa: E402
from raystudy.learn.methods import METHODS  # noqa: E402
from raystudy.learn.point import hyperparameters  # noqa: E402
from raystudy.learn.recipe import Recipe  # noqa: E402

PAGE = HERE / "methods.md"
HEAD = """\
# The methods

Made by `python docs/make_methods.py` from the docstring cards, the signatures and `search_spaces/*.toml`; CI checks that it is up to date.

How to read it: *searched* is the range the search proposes from, *fixed* what only a point names (`raystudy train METHOD --set
NAME=VALUE`, or a line in the search space). Durations are fractions of the epochs. *Published settings* are the points a cell's trial 0
is taken from: the row of the nearest setting (data set, then kind of noise, then rate, then, within these, variant; the first listed
wins ties). Labels as they came on a data set without a row of its own are taken for human labels, 30 % of them wrong where nobody told
how many. *oracle* names what
the original read off the truth. *Recipes* are those of published runs, each with whose it is, often of another paper's tables; on the
data sets that have one of their own, that one holds. A study uses them with `--recipe paper`, and else one for all methods.
"""


def meanings(cls: type) -> dict[str, str]:
    """What each hyperparameter means, from the class docstring: ``name``[, ``other``]: text, else the sentence that names it."""
    text = " ".join((inspect.getdoc(cls) or "").split())
    found: dict[str, str] = {}
    label = r"``\w+``(?:, ``\w+``)*(?: and ``\w+``)?: "
    for match in re.finditer(rf"({label})(.*?)(?=(?:[.;)] {label})|$)", text):
        for name in re.findall(r"``(\w+)``", match[1]):
            found[name] = match[2].rstrip(".")
    for sentence in re.split(r"(?<=\.) ", text):
        for name in re.findall(r"``(\w+)``", sentence):
            found.setdefault(name, sentence.rstrip("."))
    return found


def row(*cells: Any) -> str:
    return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"


def value(x: Any) -> str:
    return f"{x:.4g}" if isinstance(x, float) else str(x).lower() if isinstance(x, bool) else str(x) or '""'


def point(p: dict[str, Any]) -> str:
    return ", ".join(f"{k} = {value(v)}" for k, v in p.items()) or "the defaults"


def table_of_hyperparameters(name: str, loaded: Space) -> list[str]:
    known, told = hyperparameters(name), meanings(METHODS[name])
    ranges = {d.name: d.describe() for d in loaded.dimensions}
    lines = [row("hyperparameter", "default", "searched", "meaning"), row(*["---"] * 4)]
    for n, p in known.items():
        lines.append(row(f"`{n}`", value(p.default), ranges.get(n, "fixed"), told.get(n, "")))
    for n in ranges.keys() - known.keys():
        lines.append(row(f"`{n}`", value(getattr(Recipe(), n)), ranges[n], "a field of the recipe"))
    return lines if len(lines) > 2 else ["No hyperparameters of its own."]


def table_of_papers(papers: tuple[Paper, ...]) -> list[str]:
    if not papers:
        return ["No published settings: trial 0 is the defaults."]

    def same(p: Paper) -> tuple[Any, ...]:
        return p.dataset, p.noise, p.variant, str(p.point), p.source, p.oracle

    lines = [row("data set", "noise", "rate", "setting", "source", "oracle"), row(*["---"] * 6)]
    for _, group in groupby(papers, same):
        rows = list(group)
        first = rows[0]
        noise = f"{first.noise}:{first.variant}" if first.variant else first.noise
        rates = "" if first.noise == "given" else ", ".join(f"{p.rate:g}" for p in rows)
        lines.append(row(first.dataset, noise, rates, point(first.point), first.source, ", ".join(first.oracle)))
    return lines


def table_of_recipes(loaded: Space) -> list[str]:
    """Whose recipe it is, and what is otherwise on a data set."""
    if not loaded.recipe:
        return ["No published recipe."]
    lines = [row("recipe", "whose", "settings"), row(*["---"] * 3)]
    for name, told in {"in general": loaded.recipe, **loaded.recipes}.items():
        settings = ", ".join(f"{k} {value(v)}" for k, v in told.items() if k != "source")
        lines.append(row(name, (loaded.recipe | told).get("source", "not said"), settings))
    return lines


def remarks(name: str) -> list[str]:
    """The comment at the head of a search space."""
    lines = []
    for line in (space.FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return [*lines, ""] if lines else []


def section(name: str) -> str:
    loaded = space.load(name)
    card = (sys.modules[METHODS[name].__module__].__doc__ or "").strip()
    lines = [f"## {name}", "", card, "", *table_of_hyperparameters(name, loaded), "", *remarks(name)]
    lines += [*table_of_recipes(loaded), "", *table_of_papers(loaded.papers), ""]
    return "\n".join(lines)


def page() -> str:
    contents = [f"- [`{name}`](#{name}): {_title(name)}" for name in sorted(METHODS)]
    return "\n".join([HEAD, *contents, "", *map(section, sorted(METHODS))]).rstrip() + "\n"


def _title(name: str) -> str:
    return (sys.modules[METHODS[name].__module__].__doc__ or "").strip().partition("\n\n")[0].replace("\n", " ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page():
        return 0
    print(f"{PAGE.name} is not up to date: run python docs/make_methods.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
