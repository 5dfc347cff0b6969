"""``raystudy embed``: a data set of images or texts as vectors."""

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from raystudy.commands.options import (
    DATA,
    DataRoot,
    DatasetArgument,
    Device,
    Labels,
    SkipCorrupt,
    Stream,
    Threads,
    whole,
)
from raystudy.terminal import duration, printable, say, terminal

PLAIN_SECONDS = 10.0  # how often a line is printed where there is no terminal


def embed(
    dataset: DatasetArgument,
    /,
    *,
    backbone: Annotated[
        str,
        Parameter(
            help="torchvision:NAME, timm:NAME, sentence-transformers:NAME or a folder, or a function of your own, FILE.py:FUNCTION: "
            "of uint8 images [B, C, H, W], or of a list of texts, [B, d]"
        ),
    ],
    out: Annotated[Path, Parameter(help="the .npz to write, for npz:FILE")],
    views: Annotated[
        int,
        Parameter(
            converter=whole,
            help="vectors of each training image: the plain one, and crops (and mirror images) of it (default: 1)",
        ),
    ] = 1,
    weights: Annotated[
        Path | None,
        Parameter(help="weights of torchvision: or timm:, a .safetensors, .pt or .pth (default: the library's own)"),
    ] = None,
    size: Annotated[
        int | None,
        Parameter(
            converter=whole, help="pixels to which images are enlarged (default: what the backbone was made for)"
        ),
    ] = None,
    text: Annotated[str | None, Parameter(help="of csv:, parquet: or hf:, the column of texts")] = None,
    labels: Labels = None,
    skip_corrupt: SkipCorrupt = False,
    stream: Stream = None,
    batch: Annotated[
        int, Parameter(converter=whole, help="images or texts that the backbone gets at once (default: 64)")
    ] = 64,
    seed: Annotated[int, Parameter(converter=whole, help="seed of the views (default: 0)")] = 0,
    force: Annotated[bool, Parameter(help="write the file anew where it is there already")] = False,
    data_root: DataRoot = DATA,
    device: Device = None,
    threads: Threads = 1,
) -> int:
    """Makes vectors of all images or texts, and says what is in the file."""
    console = terminal()
    from raystudy.data.spec import located
    from raystudy.tools import embed as tool

    job = tool.prepared(
        located(dataset, labels=labels and str(labels), skip_corrupt=skip_corrupt or None, stream=stream),
        backbone,
        out,
        views=views,
        weights=weights,
        size=size,
        text=text,
        batch=batch,
        seed=seed,
        force=force,
        root=data_root,
        device=device,
        threads=threads,
    )
    for note in job.source.notes:
        say(console, printable(f"note: {note}"), "yellow")
    if job.done:
        say(console, f"{job.out}: done already")
    else:
        with Shown(console) as shown:
            tool.run(job, shown.tell)
        of = f"{job.views} views of " if job.views > 1 else ""
        n, m = len(job.source.train), len(job.source.test)
        say(
            console,
            printable(
                f"{job.out}: {job.features} numbers of {of}{n:,} training and {m:,} test samples, {job.backbone.name}"
            ),
        )
    say(console, f"next:  raystudy train ce --dataset npz:{job.out} --noise symmetric:0.5")
    return 0


class Shown:
    """How far it is: a bar with the time left, or a line now and then where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("", total=None, left="")
        self._begun: tuple[float, int] | None = None  # when this run began, and how many vectors there were then
        self._told = time.monotonic()

    def __enter__(self) -> "Shown":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def tell(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._begun is None:
            self._begun = now, done
            if done:
                say(self._console, f"{done:,} of {total:,} vectors are there already")
        then, before = self._begun
        left = f"{duration((now - then) / (done - before) * (total - done))} left" if done > before else ""
        self._bar.update(self._task, completed=done, total=total, left=left)
        if not self._console.is_terminal and now - self._told > PLAIN_SECONDS:
            say(self._console, f"{done:,} of {total:,} vectors, {left}")
            self._told = now
