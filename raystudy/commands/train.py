"""``raystudy train``: one training, a line per epoch."""

import os
import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from analysis import collapse
from raystudy.commands.options import (
    DATA,
    FILES,
    DataRoot,
    Dataset,
    Device,
    Files,
    Filter,
    Network,
    Noise,
    NoiseSeed,
    Recipe,
    Threads,
    whole,
)
from raystudy.errors import InputError
from raystudy.terminal import say, terminal

KEPT_SECONDS = 10.0  # between checkpoints


def train(
    method: Annotated[str, Parameter(help="a method of `raystudy methods`, or FILE.py:CLASS of your own")],
    /,
    *,
    set_: Annotated[
        list[str] | None,
        Parameter(
            name="--set",
            help="NAME=VALUE: a hyperparameter of the method or a field of the recipe (lr, batch_size, ...); may be repeated",
        ),
    ] = None,
    dataset: Dataset = "digits",
    files: Files = FILES,
    noise: Noise = "symmetric:0.5",
    noise_seed: NoiseSeed = 0,
    data_root: DataRoot = DATA,
    network: Network = None,
    recipe: Recipe = "shared",
    filter_: Filter = None,
    epochs: Annotated[int | None, Parameter(converter=whole, help="epochs (default: by data set)")] = None,
    val_fraction: Annotated[float, Parameter(help="share held out for validation (default: 0.1)")] = 0.1,
    seed: Annotated[int, Parameter(converter=whole, help="training seed (default: 0)")] = 0,
    device: Device = None,
    threads: Threads = 1,
    evaluate: Annotated[
        str,
        Parameter(
            help="every:K or every:K,N: measure validation and test every K epochs only, then on N test samples; all of both in the last "
            "ten epochs (default: all of both in every epoch)"
        ),
    ] = "",
    checkpoint: Annotated[
        Path | None, Parameter(help="go on from this file if it is there, and keep it up to date")
    ] = None,
) -> int:
    """One training without Ray."""
    from analysis import tables, truth
    from raystudy.data.noise import told_wrong
    from raystudy.learn import checkpoint as checkpoints
    from raystudy.learn import point
    from raystudy.running import alone

    values: dict[str, object] = {}
    for text in set_ or []:
        values |= point.parse_setting(method, text)
    made = alone.prepare(
        method,
        files.located(dataset),
        noise,
        values,
        noise_seed=noise_seed,
        data_root=data_root,
        network=network,
        recipe=recipe or "shared",
        filter=filter_ or "",
        epochs=epochs,
        val_fraction=val_fraction,
        seed=seed,
        device=device,
        threads=threads,
        evaluate=evaluate,
    )
    run, spec = made.run, made.run.spec
    if checkpoint:
        _writable(checkpoint)
        found = checkpoint if checkpoint.exists() else checkpoints.previous(checkpoint)
        if found.exists():
            run.load(found)
    console = terminal()
    for remark in made.remarks:
        say(console, f"note: {remark}", "yellow")
    star = f" (ORACLE: {', '.join(made.oracle)} read off the truth)" if made.oracle else ""
    wrong = told_wrong(run.data.effective_rate)
    say(
        console,
        f"{method} on {spec.dataset} {made.noise.label} ({wrong}), {spec.network}, {spec.epochs} epochs, seed {seed}",
    )
    if told := run.data.filtered:
        shown = ", ".join(f"{k.removeprefix('filter/')} {v:.4g}" for k, v in told.items() if v is not None)
        say(console, f"filter {spec.filter}: {shown}; {len(run.data.y):,} samples are left to train on")
    say(console, f"point: {tables.point(spec.point)}; published: {made.source}{star}")
    saved = time.monotonic()
    while len(run.records) < spec.epochs and not run.diverged:
        record = run.epoch()
        if checkpoint and (time.monotonic() - saved > KEPT_SECONDS or len(run.records) == spec.epochs):
            run.save(checkpoint)
            saved = time.monotonic()
        shown = "  ".join(f"{k} {v:.4g}" for k, v in record.items() if v is not None)
        say(console, f"epoch {len(run.records):>3}  {shown}")
    if run.diverged:
        say(console, "the run diverged: its loss is not finite", "red")
        return 1
    if fallen := collapse.said(r.get(collapse.METRIC) for r in run.records):
        say(console, f"the run collapsed: {fallen} {collapse.WHEN}", "yellow")
    last = [r["test/acc"] or 0.0 for r in run.records[-10:]]
    header = {"effective_rate": run.data.effective_rate, "cell": {"dataset": spec.dataset}}
    header |= {"assumed": run.data.assumed and made.noise.rate > 0}
    against = "" if truth.tested_clean(header) else " against given labels"
    say(console, f"test accuracy{against}, mean of the last {len(last)} epochs: {sum(last) / len(last):.4f}")
    if run.data.imbalance:
        last = [r["test/balanced_acc"] or 0.0 for r in run.records[-10:]]
        say(
            console,
            f"balanced test accuracy{against}, mean of the last {len(last)} epochs: {sum(last) / len(last):.4f}",
        )
    return 0


def _writable(file: Path) -> None:
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise InputError(f"--checkpoint {file}: the folder {file.parent} is not there or cannot be written")
