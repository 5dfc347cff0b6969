"""``python -m raystudy.sweep METHOD...``: builds a study, runs it to its end, shows live progress and the leaderboard."""

import argparse
import math
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from raystudy.data.noise import parse, told_wrong
from raystudy.data.spec import STREAM, base, located
from raystudy.design import studyfile
from raystudy.design.study import NAME, OBJECTIVES, RECIPES, SAMPLERS, SCHEDULERS, Study, slug, study_dir
from raystudy.design.studyfile import BUDGET
from raystudy.errors import InputError
from raystudy.record import mirror as mirrors
from raystudy.record import storage as storages
from raystudy.record.ledger import Ledger
from raystudy.run.budget import PRICES, Budget, price, seconds
from raystudy.terminal import guarded, printable, terminal

# torch, ray and optuna take seconds to import: functions that need them import them, so that help and mistakes are answered at once.
if TYPE_CHECKING:
    from raystudy.run.build import Builder
    from raystudy.run.execute import Resources

BASELINE = "ce"
TRACKING_SECONDS = 120.0  # how long the end of a sweep waits for MLflow; it goes on in the background after that
FEW_UPDATES = 1000  # below this many updates a network, methods that mix are not given a fair chance

EPILOG = textwrap.dedent("""\
    examples:
      python -m raystudy.sweep dividemix
          DivideMix beside plain cross-entropy on digits, symmetric noise 0.2 / 0.5 / 0.8
      python -m raystudy.sweep dividemix coteaching --noise symmetric:exclusive:0.2,0.4 --noise pair:0.45 --trials 20
      python -m raystudy.sweep mixup --dataset npz:images.npz --noise given --network convnet
      python -m raystudy.sweep dividemix --dataset cifar10 --data-root ~/data --epochs 300 --gpus-per-trial 0.5
      python -m raystudy.sweep --study dividemix-table1 --scale smoke
          a whole published table in miniature; without --scale smoke it is the table
      python -m raystudy.sweep dividemix --dry-run
          what would be run, and where the search may look

    The same command again goes on where the study stopped; more --trials, rates or --replicates run only what is missing.
    """)


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of a sweep."""
    p.add_argument("methods", nargs="*", metavar="METHOD", help="methods to study; `raystudy methods` lists them")
    g = p.add_argument_group("what is studied")
    g.add_argument(
        "--study",
        metavar="NAME|FILE.toml",
        help=f"a whole grid from a study file, instead of methods: {', '.join(studyfile.shipped())}, or a file of your own",
    )
    g.add_argument(
        "--scale",
        default="full",
        choices=studyfile.SCALES,
        help="smoke: the same grid in minutes on two cores, with stand-ins for data sets and networks (default: full)",
    )
    g.add_argument(
        "--dataset",
        metavar="NAME",
        help="a data set of `raystudy datasets`, npz:PATH or folder:PATH (default: digits)",
    )
    add_data_options(g)
    g.add_argument(
        "--noise",
        action="append",
        metavar="KIND[:VARIANT]:RATE,...",
        help="label noise and its levels: symmetric, pair, asymmetric, instance, openset, human, web, given, ... (docs/noise.md); "
        "may be repeated (default: symmetric:0.2,0.5,0.8)",
    )
    g.add_argument(
        "--noise-seed",
        type=int,
        metavar="N",
        help="seed of the flips and of the validation split, the same for every method",
    )
    g.add_argument(
        "--data-root",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="where data sets lie or are downloaded to (default: data)",
    )
    g.add_argument(
        "--network",
        metavar="NAME",
        help="mlp, convnet, cnn9, preact_resnet18 or a torchvision classifier (default: by data set)",
    )
    g.add_argument(
        "--recipe",
        choices=RECIPES,
        metavar="NAME",
        help="shared: one recipe for all methods; paper: each method's own; or a method, whose paper's recipe all have (default: shared)",
    )
    g.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="epochs of every trial; warm-ups and ramps are fractions of it (default: by data set)",
    )
    g.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="share of the noisy training set held out for validation (default: 0.1)",
    )
    g.add_argument(
        "--clean-val",
        type=int,
        metavar="N",
        help="also score N validation images against clean labels; shown as a rule of its own (default: 0)",
    )
    g = p.add_argument_group("search")
    g.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="hyperparameter points per cell, the published one included (default: 5)",
    )
    g.add_argument(
        "--replicates",
        type=int,
        metavar="N",
        help="fresh seeds on which the chosen and the published point are trained again (default: 2)",
    )
    g.add_argument("--sampler", metavar="NAME", help=f"how Optuna proposes: {', '.join(SAMPLERS)} (default: tpe)")
    g.add_argument(
        "--scheduler",
        metavar="NAME",
        help=f"early stopping within a cell: {', '.join(SCHEDULERS)} (default: asha)",
    )
    g.add_argument(
        "--objective",
        metavar="METRIC",
        help=f"what the search looks at: {', '.join(OBJECTIVES)} (default: val/acc)",
    )
    g.add_argument("--seed", type=int, metavar="N", help="seed of trainings and proposals (default: 0)")
    g.add_argument(
        "--no-baseline",
        action="store_true",
        help=f"do not run plain cross-entropy ({BASELINE}) beside the named methods",
    )
    g = p.add_argument_group("where it is run and recorded")
    g.add_argument(
        "--name",
        metavar="NAME",
        help="the study's name and folder (default: the study file's, or from methods and data set)",
    )
    g.add_argument(
        "--storage",
        type=storages.folder,
        default=Path("studies"),
        metavar="DIR|URL",
        help="folder that holds studies, or a URL: s3://, gs://, file://, ... (default: studies)",
    )
    g.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store or server; 'none' records nothing there (default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db)",
    )
    g.add_argument(
        "--address",
        metavar="ADDRESS",
        help="a running Ray cluster, e.g. auto (default: a Ray of its own on this machine)",
    )
    g.add_argument(
        "--cpus-per-trial",
        type=float,
        default=1,
        metavar="N",
        help="CPU cores, and torch threads, of a trial (default: 1)",
    )
    g.add_argument(
        "--gpus-per-trial",
        type=gpu_share,
        default=None,
        metavar="F|auto",
        help="GPUs of a trial, may be a fraction; auto measures what each method needs (default: 1 where this machine has one, else 0)",
    )
    g.add_argument(
        "--max-concurrent",
        type=int,
        metavar="N",
        help="at most so many trials at once (default: what the machine holds)",
    )
    g.add_argument(
        "--checkpoint-every",
        type=float,
        default=None,
        metavar="SECONDS",
        help="how often a running trial is checkpointed (default: 10; 120 where --storage is a URL)",
    )
    g.add_argument(
        "--trial-timeout",
        type=float,
        metavar="SECONDS",
        help="a trial without a new record for so long has failed, and the study goes on; allow for loading and a first epoch "
        "(default: wait for ever)",
    )
    g.add_argument("--dry-run", action="store_true", help="print what would be run, and stop")
    g = p.add_argument_group("what it may take (docs/studies.md)")
    g.add_argument(
        "--time-budget",
        metavar="TIME",
        help="stop cleanly after this long, e.g. 30m or 2h; the same command goes on for as long again",
    )
    g.add_argument(
        "--max-cost",
        type=float,
        metavar="MONEY",
        help="stop cleanly when this run has cost so much by the price table; the same command goes on",
    )
    g.add_argument(
        "--confirm-above",
        type=float,
        metavar="HOURS",
        help="ask before a sweep that is planned to take more device-hours (see raystudy plan); without a terminal: refuse it",
    )
    g.add_argument("--yes", action="store_true", help="do not ask")
    g.add_argument("--prices", type=Path, default=PRICES, metavar="FILE", help="a price table of your own")
    g.add_argument("--machine", metavar="NAME", help="a machine of the price table (default: the table's)")
    g.add_argument(
        "--probe-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="how long a plan may measure what no ledger tells; 0: not at all (default: 60)",
    )


def add_data_options(g: "argparse._ActionsContainer") -> None:
    """What may be said of a data set of image files, beside its name."""
    g.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="labels of folder:PATH, a .csv or .parquet with the columns path, label",
    )
    g.add_argument(
        "--size", type=int, metavar="PIXELS", help="height and width of images from files (default: the data set's own)"
    )
    g.add_argument(
        "--skip-corrupt",
        action="store_true",
        help="leave out image files that are missing or cannot be decoded, and count them",
    )
    g.add_argument(
        "--stream",
        choices=STREAM,
        help="image files: decode them while training (always), or hold all in memory (never) (default: auto, by their size)",
    )


def dataset_of(args: argparse.Namespace) -> str:
    """The data set a command line names, with its options, as it is written in a study."""
    skip = True if args.skip_corrupt else None
    return located(
        args.dataset or "digits",
        labels=args.labels and str(args.labels),
        size=args.size,
        skip_corrupt=skip,
        stream=args.stream,
    )


def gpu_share(text: str) -> float | str:
    """What --gpus-per-trial takes: a number, or auto."""
    return text if text == "auto" else float(text)


def default_name(methods: Sequence[str], dataset: str) -> str:
    """A study's name where the user gives none: its methods and its data."""
    named = [m for m in methods if m != BASELINE] or [BASELINE]
    bare = base(dataset)
    name = f"{'-'.join(named)}-{Path(bare.partition(':')[2] or bare).stem}"
    return (
        name if NAME.fullmatch(name) else slug(name).lstrip("._-")
    )  # the end of a long name may begin with one of these


def requested(args: argparse.Namespace) -> Study:
    """The study that a command line asks for: of a file, or of named methods; what it says of the budget counts before the file."""
    budget = {key: value for key in BUDGET if (value := getattr(args, key)) is not None}
    grid = ("dataset", "labels", "size", "skip_corrupt", "stream", "noise", "network", "recipe", "no_baseline")
    if args.study:
        if args.methods:
            raise InputError(
                f"methods are named on the command line or in the study, not both: {' '.join(args.methods)}"
            )
        if extra := [f"--{name.replace('_', '-')}" for name in grid if getattr(args, name)]:
            raise InputError(f"{', '.join(extra)} cannot be given with --study: the grid is the study's")
        study = studyfile.load(args.study, args.data_root, args.noise_seed)
    elif not args.methods:
        raise InputError(
            f"name a METHOD (`raystudy methods` lists them) or a --study: {', '.join(studyfile.shipped())}"
        )
    else:
        methods = list(dict.fromkeys(([] if args.no_baseline else [BASELINE]) + args.methods))
        seed, dataset = args.noise_seed or 0, dataset_of(args)
        noises = tuple(n for text in args.noise or ["symmetric:0.2,0.5,0.8"] for n in parse(text, seed=seed))
        said = {"network": args.network, "epochs": args.epochs, "recipe": args.recipe}
        blocks = studyfile.blocks_of(methods, [dataset], noises, said, args.data_root)
        study = studyfile.of_blocks(default_name(methods, dataset), blocks, BUDGET | budget)
    if args.scale == "smoke":
        study = studyfile.miniature(study)
    if args.study and args.epochs is not None:
        study = replace(study, epochs=args.epochs, grid=tuple(replace(b, epochs=0) for b in study.grid))
    return replace(study, **budget, **({"name": args.name} if args.name is not None else {}))


def request(args: argparse.Namespace) -> tuple[Study, "Resources"]:
    """The study and the resources that a command line asks for. Raises InputError before anything is written."""
    checkpoint_every = args.checkpoint_every
    if checkpoint_every is None:  # a network's upload takes longer than a disk's write
        checkpoint_every = 120.0 if storages.url(args.storage) else 10.0
    for what, value in (("--cpus-per-trial", args.cpus_per_trial), ("--checkpoint-every", checkpoint_every)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{what} is {value:g}; it must be above 0")
    measure = args.gpus_per_trial == "auto"
    if measure:
        args.gpus_per_trial = None
    if args.gpus_per_trial is not None and not (math.isfinite(args.gpus_per_trial) and args.gpus_per_trial >= 0):
        raise InputError(f"--gpus-per-trial is {args.gpus_per_trial:g}; it must be 0 or more")
    if args.trial_timeout is not None and not (math.isfinite(args.trial_timeout) and args.trial_timeout > 0):
        raise InputError(f"--trial-timeout is {args.trial_timeout:g}; it must be above 0")
    if args.max_concurrent is not None and args.max_concurrent < 1:
        raise InputError(f"--max-concurrent is {args.max_concurrent}; it must be at least 1")
    study = requested(args)

    import torch

    from raystudy.run.execute import Resources

    held = torch.cuda.device_count()
    gpus = float(held > 0 or (measure and bool(args.address))) if args.gpus_per_trial is None else args.gpus_per_trial
    if gpus > 1 and not gpus.is_integer():
        raise InputError(f"--gpus-per-trial is {gpus:g}; above 1 it must be a whole number")
    if not (args.address or args.dry_run):  # Ray would wait for ever for a machine that is large enough
        for what, asked, most in (("cpus", args.cpus_per_trial, os.cpu_count() or 1), ("gpus", gpus, held)):
            if asked > most:
                raise InputError(f"--{what}-per-trial is {asked:g}; this machine has {most}")
    return study, Resources(
        address=args.address,
        cpus=args.cpus_per_trial,
        gpus=gpus,
        measure=measure,
        max_concurrent=args.max_concurrent,
        checkpoint_every=checkpoint_every,
        data_root=args.data_root.expanduser().absolute(),
        trial_timeout=math.inf if args.trial_timeout is None else args.trial_timeout,
    )


def dry_run(builder: "Builder", console: Console) -> None:
    """Prints cells, budget and spaces."""
    from analysis.tables import point

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    study = builder.study
    search = f"{study.sampler} + {study.scheduler} on {study.objective}"
    line(f"study {study.name}: {study.network}, {study.epochs} epochs, recipe {study.recipe}, {search}")
    for cell in study.cells():
        space = builder.spaces[cell.method]
        paper, oracle, source = space.paper(cell.dataset, cell.noise)
        n = study.trials if space.dimensions else 1
        rate = builder.data[cell.dataset, cell.noise].effective_rate
        star = f" (ORACLE: {', '.join(oracle)} read off the truth)" if oracle else ""
        budget = f"{n} trial{'s' * (n > 1)}, {study.replicates} replicates"
        line(
            f"  {cell.method:12} {cell.condition} ({told_wrong(rate)}): {budget}; trial 0: {point(paper)}{star} [{source}]"
        )
    for method in study.methods:
        ranges = ", ".join(f"{d.name} {d.describe()}" for d in builder.spaces[method].dimensions)
        line(f"space of {method}: {ranges or 'nothing to search'}")


def run(
    study: Study,
    storage: Path,
    resources: "Resources",
    tracking_uri: str | None,
    console: Console,
    budget: Budget | None = None,
) -> int:
    """Runs a study to its end, or goes on with it. Returns the exit code: 0 finished, 130 interrupted or its budget used up."""
    from raystudy.run.beside import beside
    from raystudy.run.build import Builder
    from raystudy.run.execute import capacity, execute, reach
    from raystudy.tracking import cursor, follower, store, sync

    folder = study_dir(storage, study.name)
    mirrors.pull(folder)
    told = folder / "study.toml"
    if told.exists():
        study = study.grown_from(Study.from_toml(told))
    builder = Builder(study, resources.data_root)
    uri = None if tracking_uri == "none" else store.absolute(tracking_uri or store.default_uri())
    if uri:
        store.check(uri)
    if not told.exists():
        reach(resources)  # before there is anything of the study
    ledger, mirror = Ledger(folder), None
    try:
        mirror = mirrors.mirror(folder)
        if not told.exists() and not study.batch:  # the study.toml of another machine brings its own
            searched = sum(bool(builder.spaces[c.method].dimensions) for c in study.cells())
            study = replace(study, batch=max(1, math.ceil(capacity(resources) / max(1, searched))))
        _write(told, study.to_toml())
        searches = builder.searches(study, ledger)
        builder.store_masks(folder)
        following, behind = None, None
        if not all(s.finished() for s in searches):
            few = min(builder.updates(c) for c in study.cells())
            if few < FEW_UPDATES:
                note = f"note: {few} updates a network is little; methods that mix samples need {FEW_UPDATES} or more: raise --epochs"
                console.print(note, style="yellow", soft_wrap=True)
            following = follower.start(folder, uri) if uri else None
            try:
                with beside(folder, builder.data, resources.data_root, study.val_fraction):
                    execute(study.name, searches, resources, console, budget)
            finally:
                ledger.close()  # so that the follower's last pass sees a study that is not running
                if following:
                    with console.status("bringing MLflow up to date"):
                        behind = follower.finish(following, TRACKING_SECONDS)
        elif uri and cursor.behind(folder, uri):
            with console.status("bringing MLflow up to date"):
                behind = follower.finish(follower.start(folder, uri), TRACKING_SECONDS)
    finally:
        ledger.close()
        if mirror:
            mirror.close()
    if behind:
        note = f"MLflow lacks a part of the study: {printable(behind)}; brought there by: {sync.command(folder, tracking_uri)}"
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    if left := sum(not s.finished() for s in searches):
        why = f"{budget.reason}; " if budget and budget.reason else ""
        note = f"{why}stopped with {left} of {len(searches)} cells unfinished; the same command goes on from here"
        console.print(note, style="yellow", markup=False, soft_wrap=True)
        return 130
    finish(folder, tracking_uri, console)
    return 0


def _write(path: Path, text: str) -> None:
    """Writes a file in one step: a reader sees the old text or the new."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)


def finish(folder: Path, tracking_uri: str | None, console: Console) -> None:
    """The leaderboard, and what to do next."""
    from analysis import load, tables
    from raystudy.tracking.store import public

    study, histories = load.study(folder)
    console.print(tables.leaderboard(study, histories))
    for trial in [t for h in histories.values() for t in h.trials.values() if t.state in ("failed", "diverged")][:5]:
        note = printable(f"{trial.state}: trial {trial.number} ({tables.point(trial.point)}): {trial.reason}")
        console.print(note, style="red", markup=False, highlight=False, soft_wrap=True)
    store = f" --tracking-uri {public(tracking_uri)}" if tracking_uri else ""
    where = "" if folder.parent == Path("studies").absolute() else f" --storage {storages.told(folder.parent)}"
    steps = [f"raystudy status {study.name}{where}", f"raystudy report {study.name}{where} --open"]
    steps += [] if tracking_uri == "none" else [f"raystudy ui{store}"]
    console.print("next:  " + "   ".join(steps), markup=False, highlight=False, soft_wrap=True)


def sweep(args: argparse.Namespace) -> int:
    """Runs a parsed command line."""
    study, resources = request(args)
    limit = None
    if args.time_budget is not None or args.max_cost is not None:
        if args.max_cost is not None and not args.max_cost > 0:
            raise InputError(f"--max-cost is {args.max_cost:g}; it must be above 0")
        most = math.inf if args.time_budget is None else seconds(args.time_budget, "--time-budget")
        charge = price(args.prices, args.machine, resources.cpus, resources.gpus)
        limit = Budget(most, args.max_cost or math.inf, charge)
    if args.dry_run:
        from raystudy.run.build import Builder

        dry_run(Builder(study, resources.data_root), terminal())
        return 0
    storage, console = args.storage.expanduser().absolute(), terminal()
    if args.confirm_above is not None and not args.yes:
        from raystudy.run import plan

        if not plan.confirmed(plan.made(study, storage, resources, args, console), args.confirm_above, console):
            return 1
    return run(study, storage, resources, args.tracking_uri, console, limit)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m raystudy.sweep",
        description="Search each method's hyperparameters in every cell of a grid of noise levels, and compare the methods.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    return guarded(sweep, parser, argv)


if __name__ == "__main__":
    sys.exit(main())
