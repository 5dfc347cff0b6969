"""``raystudy clean``: which labels of a data set are wrong, and what they should be."""

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from raystudy.commands.options import (
    DATA,
    FILES,
    DataRoot,
    DatasetArgument,
    Device,
    Files,
    Network,
    Threads,
    choice,
    whole,
)
from raystudy.terminal import say, terminal


def clean(
    dataset: DatasetArgument,
    /,
    *,
    out: Annotated[Path, Parameter(help="folder to write to")],
    files: Files = FILES,
    noise: Annotated[
        str | None,
        Parameter(
            help="the labels to look at, KIND[:VARIANT]:RATE: given, or noise that is drawn (default: the noisy labels that came with "
            "the data, else its labels as they are)"
        ),
    ] = None,
    noise_seed: Annotated[int, Parameter(converter=whole, help="seed of drawn noise (default: 0)")] = 0,
    data_root: DataRoot = DATA,
    method: Annotated[
        str,
        Parameter(
            help="whose networks are asked beside a linear model, a kernel and the neighbours: a method, none, or auto: ce for colour "
            "images from 16 pixels on, else none; or a filter alone: simifeat, knn_relabel (docs/filters.md) (default: auto)"
        ),
    ] = "auto",
    network: Network = None,
    epochs: Annotated[
        int | None, Parameter(converter=whole, help="most epochs of a network (default: by data set)")
    ] = None,
    folds: Annotated[int, Parameter(converter=whole, help="folds of the cross-validation (default: 5)")] = 5,
    neighbours: Annotated[int, Parameter(converter=whole, help="nearest others that are asked (default: 60)")] = 60,
    unsure: Annotated[
        str,
        Parameter(
            converter=choice("drop", "keep"),
            help="what the cleaned data do with a label that is neither right nor wrong for sure (0.8): drop it, or keep it as given "
            "(default: drop)",
        ),
    ] = "drop",
    seed: Annotated[int, Parameter(converter=whole, help="seed of folds and trainings (default: 0)")] = 0,
    device: Device = None,
    threads: Threads = 1,
    force: Annotated[bool, Parameter(help="write over what an earlier cleaning wrote to --out")] = False,
) -> int:
    """Judges every label, writes what was found, and sums it up."""
    console = terminal()
    from raystudy.tools.clean import outputs
    from raystudy.tools.clean.examine import examine

    outputs.refuse(out, force)
    found = examine(
        files.located(dataset),
        noise,
        noise_seed=noise_seed,
        data_root=data_root,
        method=method,
        network=network,
        epochs=epochs,
        folds=folds,
        neighbours=neighbours,
        seed=seed,
        device=device,
        threads=threads,
        tell=lambda text: say(console, text),
    )
    written = outputs.write(found, out, unsure)
    say(console, "")
    say(console, outputs.summary(found))
    if found.truth is None:
        say(console, "Nobody knows the truth of these labels, so how well that is done cannot be said.")
    elif told := found.measured():
        say(
            console,
            f"The truth, which nothing above has seen: {told['wrong']:.1%} wrong; AUROC {told['auroc']:.3f}, average precision "
            f"{told['average_precision']:.3f}, F1 of the issues {told['f1']:.3f}; {told['wrong_after']:.1%} wrong with --unsure drop.",
        )
    if text := outputs.lost(found, unsure):
        say(console, f"note: {text}", "yellow")
    say(console, f"written: {', '.join(map(str, written))}")
    say(console, f"which methods to train on such labels: raystudy recommend {shlex.quote(found.dataset)}")
    return 0
