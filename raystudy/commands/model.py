"""``raystudy model`` and ``raystudy predict``: the models that a study has kept, listed, asked and written for other programs."""

import shlex
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import (
    DATA,
    STUDIES,
    DataRoot,
    Device,
    SkipCorrupt,
    Storage,
    StudyName,
    Threads,
    choice,
)
from raystudy.commands.studies import held, running
from raystudy.errors import InputError
from raystudy.terminal import printable, say, terminal

Code = Annotated[
    list[str] | None,
    Parameter(
        help="FILE.py or PACKAGE.MODULE of your own that the model was made by, and that may be run; may be repeated"
    ),
]
FORMATS = ("torch", "onnx", "mlflow")
PLAIN_SECONDS = 10.0  # how often a line is printed where there is no terminal


def model(
    study: StudyName,
    /,
    *,
    storage: Storage = STUDIES,
    cell: Annotated[
        list[str] | None, Parameter(help="a cell by its key, as the list has it; may be repeated (default: all)")
    ] = None,
    export: Annotated[Path | None, Parameter(help="write the models into this folder")] = None,
    format_: Annotated[
        str,
        Parameter(
            name="--format",
            converter=choice(*FORMATS),
            help="torch: a program of torch.export (.pt2); onnx: .onnx; mlflow: an MLflow model, which is registered, too (default: torch)",
        ),
    ] = "torch",
    tracking_uri: Annotated[
        str | None,
        Parameter(
            help="with --format mlflow: the store to register in; 'none': nowhere (default: where the study is, else as for sweep)"
        ),
    ] = None,
    code: Code = None,
) -> int:
    """Lists the models of a study, or exports them."""
    console = terminal()
    from analysis import models

    folder = held(storage, study, weights=export is not None)
    found = models.chosen(models.found(folder), cell)
    if not found:
        none = f"{study} has no models: {models.why_none(folder)}"
        if export is not None:
            raise InputError(none)
        say(console, none)
        return 0
    console.print(models.table(found, console.width))
    if export is None:
        here = Path.cwd()
        card = next((one.card for one in found if one.winner), found[0].card)
        shown = card.relative_to(here) if card.is_relative_to(here) else card
        say(console, f"next:  raystudy predict {shlex.quote(str(shown))} DATA --out predicted.csv")
        return 0
    from raystudy.tools import exportmodel

    made = {}
    to = export.expanduser()
    for one in found:
        with console.status(f"{format_}: {one.name}"):
            made[one.name] = exportmodel.export(one.card, to, one.name, format_, code or ())
        say(console, f"{made[one.name]}")
    if format_ == "mlflow" and tracking_uri != "none":
        from raystudy.tracking import cursor, store

        uri = store.absolute(tracking_uri or cursor.store_of(folder) or store.default_uri())
        standing = [one for one in found if one.standing]
        with console.status(f"registering in {store.public(uri)}"):
            there = exportmodel.register(
                folder,
                uri,
                {one.cell: (one.card, made[one.name]) for one in standing},
                {exportmodel.alias(one.condition): one.cell for one in standing if one.winner},
                running(folder),
            )
        for one in standing:
            alias = f", {exportmodel.alias(one.condition)}" if one.winner else ""
            say(console, f"models:/{study}/{there[one.cell]}  {one.cell}{alias}")
        say(console, f"in MLflow: {store.public(uri)}")
    return 0


def predict(
    model: Annotated[
        str, Parameter(help="a model's card or weights, or the folder of one; `raystudy model STUDY` lists them")
    ],
    data: Annotated[
        str,
        Parameter(help="an .npz or .npy, a folder or archive of pictures, a picture, or a data set (its test images)"),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="a .csv or .npz for the probabilities")],
    array: Annotated[str | None, Parameter(help="which array of an .npz (default: x, else x_test)")] = None,
    skip_corrupt: SkipCorrupt = False,
    code: Code = None,
    data_root: DataRoot = DATA,
    device: Device = None,
    threads: Threads = 1,
) -> int:
    """Writes a model's probabilities for other data."""
    console = terminal()
    from raystudy.tools import predict as tool

    if threads < 1:
        raise InputError(f"--threads is {threads}; it must be at least 1")
    out = out.expanduser()
    tool.check_out(out)
    asked = tool.opened(model, device, threads, code or ())
    given = tool.inputs(data, asked.card, data_root, array, skip_corrupt)
    told = time.monotonic()
    with console.status("") as status:

        def tell(done: int) -> None:
            nonlocal told
            line = f"{done:,} of {len(given):,}"
            status.update(line)
            if not console.is_terminal and time.monotonic() - told > PLAIN_SECONDS:
                say(console, line)
                told = time.monotonic()

        made = tool.predict(asked, given, out, tell)
    spec = asked.card.spec
    say(
        console,
        printable(f"{spec.method}, {spec.network}, trained on {spec.dataset}: {made.n:,} {asked.card.kind}, {out}"),
    )
    most = sorted(made.counts.items(), key=lambda c: -c[1])
    few = ", ".join(f"{name}: {n:,}" for name, n in most[:8] if n)
    say(console, printable(f"predicted: {few or 'nothing'}{', ...' if sum(n > 0 for _, n in most) > 8 else ''}"))
    if made.left_out:
        say(console, f"note: {made.left_out:,} pictures cannot be decoded and are left out", "yellow")
    if made.accuracy is not None:
        say(console, f"accuracy against the labels there: {made.accuracy:.6g}")
    return 0
