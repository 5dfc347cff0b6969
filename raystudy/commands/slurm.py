"""``raystudy slurm``: a sweep as a job of Slurm."""

import os
import shlex
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from raystudy.commands.options import (
    GRID,
    LIMITS,
    PRICES,
    SEARCH,
    WHERE,
    Grid,
    Limits,
    Prices,
    Search,
    Where,
    whole,
)
from raystudy.commands.reading import asked, budget, built, for_later, words
from raystudy.commands.sweep import Methods, dry_run
from raystudy.errors import InputError
from raystudy.terminal import say, terminal

if TYPE_CHECKING:
    from raystudy.running.resources import Resources
    from raystudy.tools.slurm import Part

STOP_BEFORE = (
    "5m"  # the last records of MLflow and of a storage may take two minutes, Slurm's signal comes up to one too early
)


@Parameter(name="*", group=Group.create_ordered("The job (docs/slurm.md)"))
@dataclass(frozen=True, kw_only=True)
class Batch:
    """What Slurm is asked for."""

    nodes: Annotated[int, Parameter(converter=whole, help="nodes of the job (default: 1)")] = 1
    time: Annotated[
        str | None,
        Parameter(
            help="time limit of one run of the job, as Slurm writes it or as 30m, 4h, 2d; the job queues itself again until the study is "
            "done (needed)"
        ),
    ] = None
    stop_before: Annotated[
        str, Parameter(help=f"how long before the time limit the study stops cleanly (default: {STOP_BEFORE})")
    ] = STOP_BEFORE
    partition: Annotated[str | None, Parameter(help="partition, or several as a,b (default: the cluster's)")] = None
    account: Annotated[str | None, Parameter(help="account that is charged (default: yours)")] = None
    cpus_per_node: Annotated[
        int | None, Parameter(converter=whole, help="CPU cores of each node (default: whole nodes, with --exclusive)")
    ] = None
    gpus_per_node: Annotated[int | None, Parameter(converter=whole, help="GPUs of each node (default: none)")] = None
    memory: Annotated[str | None, Parameter(help="memory of each node, e.g. 64G (default: the cluster's)")] = None
    sbatch: Annotated[
        list[str] | None,
        Parameter(help="one more option of sbatch, e.g. --sbatch=--qos=long; may be repeated (default: none)"),
    ] = None
    setup: Annotated[
        list[str] | None,
        Parameter(
            help="a line of shell before all else, e.g. --setup 'module load cuda'; may be repeated (default: none)"
        ),
    ] = None
    array: Annotated[
        bool, Parameter(help="an array of drivers, each with a study of one method, to be merged (docs/slurm.md)")
    ] = False
    out: Annotated[Path | None, Parameter(help="the file to write (default: NAME.sbatch)")] = None
    force: Annotated[bool, Parameter(help="write over another script that raystudy wrote there")] = False
    submit: Annotated[bool, Parameter(help="submit it, too")] = False


BATCH = Batch()


def slurm(
    *methods: Methods,
    batch: Batch = BATCH,
    grid: Grid = GRID,
    search: Search = SEARCH,
    where: Where = WHERE,
    limits: Limits = LIMITS,
    prices: Prices = PRICES,
) -> int:
    """Writes the job script of a sweep."""
    from raystudy.tools import jobfiles
    from raystudy.tools import slurm as jobs

    if batch.time is None:
        raise InputError("--time is missing: how long one run of the job may take, such as 4h")
    where = for_later(where, limits)
    if untracked := where.tracking_uri is None and not os.environ.get("MLFLOW_TRACKING_URI"):
        where = replace(where, tracking_uri="none")
    study, resources = asked(methods, grid, search, where, here=False)
    _fits(batch, where, resources)
    here, storage = Path.cwd(), where.storage.expanduser().absolute()
    job = jobs.Job(
        name=study.name,
        folder=here,
        environment=Path(sys.executable).parent,
        nodes=batch.nodes,
        time=jobs.duration(batch.time, "--time"),
        ahead=jobs.duration(batch.stop_before, "--stop-before"),
        partition=batch.partition,
        account=batch.account,
        cpus_per_node=batch.cpus_per_node,
        gpus_per_node=batch.gpus_per_node,
        memory=batch.memory,
        options=tuple(batch.sbatch or ()),
        setup=tuple(batch.setup or ()),
        client=find_spec("grpc") is not None,
    )
    budget(limits, prices, resources)
    builder, _ = built(study, grid, storage, resources)
    later = replace(limits, dry_run=False)
    parts: list[Part] = []
    if not batch.array:
        said = words(methods, grid, search, where, later, prices)
        parts.append(jobs.part(study.name, said, storage))
    else:
        if grid.study or len(study.methods) < 2:
            raise InputError("--array is a study for each of several METHODs that are named; a --study is one study")
        for method in study.methods:
            name = f"{study.name}-{method.rpartition(':')[2]}"
            own = replace(grid, name=name, no_baseline=True)
            parts.append(jobs.part(name, words((method,), own, search, where, later, prices), storage))
    text = jobs.script(job, parts)

    console = terminal()
    if limits.dry_run:
        dry_run(builder, console)
        print(text, end="")
        return 0
    file = batch.out or Path(f"{study.name}.sbatch")
    jobfiles.check(file, text, batch.force)
    told = jobs.submit(text) if batch.submit else f"next:  sbatch {shlex.quote(str(file))}"
    jobfiles.write(file, text, batch.force)
    times = f"{job.nodes} node{'s' * (job.nodes > 1)}, {jobs.clock(job.time)} at a time"
    drivers = f"{len(parts)} drivers, each with " if batch.array else ""
    say(console, f"{file}: study {study.name}, {drivers}{times}, queued again until it is done")
    if untracked:
        say(
            console,
            "note: the job writes no MLflow, whose SQLite is not for file systems that nodes share; afterwards: raystudy sync",
            "yellow",
        )
    if limits.time_budget is not None or limits.max_cost is not None:
        say(console, "note: --time-budget and --max-cost count from anew each time the job is queued again", "yellow")
    say(console, told)
    if batch.array:
        first, second, *rest = (part.name for part in parts)
        held = "" if storage == here / "studies" else f" --storage {shlex.quote(str(where.storage))}"
        steps = [f"{first} {second} --into {study.name}", *(f"{study.name} {name}" for name in rest)]
        say(console, "then:  " + "   ".join(f"raystudy merge {step}{held}" for step in steps))
    return 0


def _fits(batch: Batch, where: Where, resources: "Resources") -> None:
    """Raises InputError for trials that no node could hold: Ray would wait for ever."""
    wanted = resources.gpus or float(where.gpus_per_trial == "auto")
    if where.gpus_per_trial and wanted and not batch.gpus_per_node:
        raise InputError(
            f"--gpus-per-trial {where.gpus_per_trial} needs --gpus-per-node: how many GPUs each node is to have"
        )
    if where.gpus_per_trial and batch.gpus_per_node and wanted > batch.gpus_per_node:
        raise InputError(f"--gpus-per-trial is {wanted:g}; a node has --gpus-per-node {batch.gpus_per_node}")
    if batch.cpus_per_node and resources.cpus > batch.cpus_per_node:
        raise InputError(f"--cpus-per-trial is {resources.cpus:g}; a node has --cpus-per-node {batch.cpus_per_node}")
