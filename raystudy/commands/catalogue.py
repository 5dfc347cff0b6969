"""``raystudy methods`` and ``raystudy datasets``: what there is."""

from typing import Annotated

from cyclopts import Parameter
from rich import box
from rich.markup import escape
from rich.table import Table

from raystudy.commands.options import DATA, DataRoot
from raystudy.errors import InputError
from raystudy.terminal import say, terminal


def methods(method: Annotated[str | None, Parameter(help="show this one's card")] = None, /) -> int:
    """The methods, each with its hyperparameters."""
    console = terminal()
    from raystudy import own
    from raystudy.design import space
    from raystudy.learn import point
    from raystudy.learn.methods import METHODS

    if method:
        method = own.located(method)
        loaded, known = space.load(method), point.hyperparameters(method)
        print(point.card(method))
        table = Table(box=box.SIMPLE_HEAD, title="hyperparameters", title_justify="left")
        for name in ("name", "default", "searched in"):
            table.add_column(name)
        ranges = {d.name: d.describe() for d in loaded.dimensions}
        for name, parameter in known.items():
            table.add_row(name, str(parameter.default), ranges.get(name, "fixed"))
        console.print(table)
        if method in METHODS:
            say(console, f"docs/methods.md has the published settings and recipes of {method}, each with its source")
        return 0
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method", "what it is", "searched"):
        table.add_column(name)
    for name in [*sorted(METHODS), *sorted(own.installed("methods"))]:
        try:
            searched = ", ".join(d.name for d in space.load(name).dimensions) or "nothing"
            table.add_row(name, point.card(name).partition("\n\n")[0].replace("\n", " "), searched)
        except InputError as e:  # of a package's that cannot be had: the others are shown
            table.add_row(name, escape(str(e)), "")
    console.print(table)
    say(console, "raystudy methods NAME shows a method's card and its hyperparameters")
    return 0


def datasets(*, data_root: DataRoot = DATA) -> int:
    """The data sets, and whether they are here."""
    console = terminal()
    from raystudy import own
    from raystudy.data import datasets as sets

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("data set", "here", "train", "test", "classes", "image", "source", "licence"):
        table.add_column(name, overflow="fold")
    for name, info in sets.DATASETS.items():
        here = "yes" if sets.present(name, data_root) else "no"
        counts = (f"{info.train:,}", f"{info.test:,}", str(info.n_classes))
        table.add_row(name, here, *counts, "x".join(map(str, info.shape)), info.source, info.licence)
    for name in own.installed("datasets"):
        table.add_row(name, "yes", "", "", "", "", own.whose("datasets", name), "")
    console.print(table)
    for line in (
        "npz:PATH  your own images, or vectors [N, d]: x_train, y_train and optionally x_test, y_test, y_noisy (then --noise given), "
        "y_noisy_NAME, class_names",
        "csv:PATH, parquet:PATH  a table: a column of labels (?target=COLUMN), the others are features (docs/datasets.md)",
        "folder:PATH --labels FILE  your own images, or an archive of them; a .csv or .parquet with the columns path, label and "
        "optionally clean_label, split",
        "hf:FOLDER, hf:NAME  a data set of Hugging Face datasets, saved to disk or on the hub: images, vectors or a table",
        "FILE.py:FUNCTION, PACKAGE.MODULE:FUNCTION  what a function of yours returns (docs/your-own.md)",
        "what to put where: docs/datasets.md",
    ):
        say(console, line)
    return 0
