"""The ``raystudy`` command. Parses, calls, prints; nothing else."""

import argparse
import os
import socket
import sys
import textwrap
import time
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from raystudy import __version__, sweep
from raystudy.design import studyfile
from raystudy.design.study import NAME, study_dir
from raystudy.errors import InputError, unknown
from raystudy.record import mirror, storage
from raystudy.terminal import guarded, terminal
from raystudy.tools import chaos

URI_HELP = "MLflow store or server (default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db)"


def train(args: argparse.Namespace) -> int:
    """One training without Ray, a line per epoch."""
    console = terminal()
    import torch

    from raystudy.data.noise import parse, told_wrong
    from raystudy.design import space
    from raystudy.learn import checkpoint, point, training
    from raystudy.learn.celldata import prepare
    from raystudy.learn.spec import TrialSpec

    for what, number, low in (("--threads", args.threads, 1), ("--seed", args.seed, 0)):
        if number < low:
            raise InputError(f"{what} is {number}; it must be at least {low}")
    if not 0 < args.val_fraction < 1:
        raise InputError(f"--val-fraction is {args.val_fraction:g}; it must lie between 0 and 1")
    torch.set_num_threads(args.threads)
    values: point.Point = {}
    for text in args.set or []:
        values |= point.parse_setting(args.method, text)
    loaded = space.load(args.method)
    noises = parse(args.noise, seed=args.noise_seed)
    if len(noises) != 1:
        raise InputError(f"train runs one noise level, not {len(noises)}: {args.noise}")
    args.dataset = sweep.dataset_of(args)
    network, epochs = studyfile.default_setting(args.dataset, args.data_root)
    network, epochs = args.network or network, args.epochs if args.epochs is not None else epochs
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}; it must be at least 1")
    device = training.device_here(args.device)
    paper, oracle, source = loaded.paper(args.dataset, noises[0])
    data = prepare(args.dataset, args.data_root, noises[0], args.val_fraction, device)
    spec = TrialSpec(
        method=args.method,
        version=point.method_class(args.method).version,
        point=paper | values,
        dataset=args.dataset,
        data_digest=data.data_digest,
        noise=noises[0].to_dict(),
        noise_digest=data.noise_digest,
        network=network,
        recipe=space.recipe_for(args.recipe, args.method, args.dataset, network).to_dict(),
        epochs=epochs,
        seed=args.seed,
        val_fraction=args.val_fraction,
        clean_val=0,
    )
    run = training.Run(spec, data, device)
    file: Path | None = args.checkpoint
    if file:
        _writable(file)
        found = file if file.exists() else checkpoint.previous(file)
        if found.exists():
            run.load(found)
    oracle = tuple(name for name in oracle if name not in values)
    star = f" (ORACLE: {', '.join(oracle)} read off the truth)" if oracle else ""
    console.print(
        f"{args.method} on {args.dataset} {noises[0].label} ({told_wrong(data.effective_rate)}), "
        f"{network}, {epochs} epochs, seed {args.seed}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    from analysis import tables

    console.print(
        f"point: {tables.point(spec.point)}; published: {source}{star}", markup=False, highlight=False, soft_wrap=True
    )
    saved = time.monotonic()
    while len(run.records) < epochs and not run.diverged:
        record = run.epoch()
        if file and (time.monotonic() - saved > 10 or len(run.records) == epochs):
            run.save(file)
            saved = time.monotonic()
        shown = "  ".join(f"{k} {v:.4g}" for k, v in record.items() if v is not None)
        console.print(f"epoch {len(run.records):>3}  {shown}", highlight=False, soft_wrap=True)
    if run.diverged:
        console.print("the run diverged: its loss is not finite", style="red")
        return 1
    last = [r["test/acc"] or 0.0 for r in run.records[-10:]]
    console.print(f"test accuracy, mean of the last {len(last)} epochs: {sum(last) / len(last):.4f}", highlight=False)
    return 0


def _writable(file: Path) -> None:
    if not file.parent.is_dir() or not os.access(file.parent, os.W_OK):
        raise InputError(f"--checkpoint {file}: the folder {file.parent} is not there or cannot be written")


def train_mentor(args: argparse.Namespace) -> int:
    """A MentorNet for mentornet_dd, learned from a source study."""
    from raystudy.tools import mentor

    return mentor.train_mentor(args)


def methods(args: argparse.Namespace) -> int:
    """The methods, each with its hyperparameters."""
    console = terminal()
    from raystudy.design import space
    from raystudy.learn import point
    from raystudy.learn.methods import METHODS

    if args.method:
        loaded, known = space.load(args.method), point.hyperparameters(args.method)
        print((sys.modules[METHODS[args.method].__module__].__doc__ or "").strip())
        table = Table(box=box.SIMPLE_HEAD, title="hyperparameters", title_justify="left")
        for name in ("name", "default", "searched in"):
            table.add_column(name)
        ranges = {d.name: d.describe() for d in loaded.dimensions}
        for name, parameter in known.items():
            table.add_row(name, str(parameter.default), ranges.get(name, "fixed"))
        console.print(table)
        return 0
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method", "what it is", "searched"):
        table.add_column(name)
    for name, cls in sorted(METHODS.items()):
        card = (sys.modules[cls.__module__].__doc__ or "").strip().splitlines()
        table.add_row(
            name, card[0] if card else "", ", ".join(d.name for d in space.load(name).dimensions) or "nothing"
        )
    console.print(table)
    console.print("raystudy methods NAME shows a method's card and its hyperparameters")
    return 0


def list_datasets(args: argparse.Namespace) -> int:
    """The data sets, and whether they are here."""
    console = terminal()
    from raystudy.data import datasets

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("data set", "here", "train", "test", "classes", "image", "source", "licence"):
        table.add_column(name, overflow="fold")
    for name, info in datasets.DATASETS.items():
        here = "yes" if datasets.present(name, args.data_root) else "no"
        table.add_row(
            name,
            here,
            f"{info.train:,}",
            f"{info.test:,}",
            str(info.n_classes),
            "x".join(map(str, info.shape)),
            info.source,
            info.licence,
        )
    console.print(table)
    console.print(
        "npz:PATH  your own: x_train, y_train, x_test, y_test and optionally y_noisy (then --noise given), y_noisy_NAME\n"
        "folder:PATH --labels FILE  your own images, or an archive of them; a .csv or .parquet with the columns path, label and "
        "optionally clean_label, split\nwhat to put where: docs/datasets.md",
        highlight=False,
    )
    return 0


def data_show(args: argparse.Namespace) -> int:
    """Pictures of a data set under noise."""
    from raystudy.tools import show

    return show.command(args)


def noise_estimate(args: argparse.Namespace) -> int:
    """The noise of labels whose truth is unknown."""
    from raystudy.tools import estimate

    return estimate.command(args)


def _study_folder(args: argparse.Namespace, arrays: bool = False) -> Path:
    folder = study_dir(args.storage.expanduser().absolute(), args.study)
    mirror.pull(folder, arrays)
    if not (folder / "study.toml").exists():
        raise unknown(f"study in {storage.told(args.storage)}", args.study, storage.studies(args.storage.expanduser()))
    return folder


def status(args: argparse.Namespace) -> int:
    """How far a study is, and its leaderboard so far."""
    console = terminal()
    from analysis import load, tables
    from raystudy.record.ledger import is_running

    folder = _study_folder(args)
    study, histories = load.study(folder, only=tables.READ)
    console.print(tables.status(study, histories))
    console.print(tables.leaderboard(study, histories))
    running = is_running(folder) or mirror.driven(folder)
    console.print("a sweep is running" if running else "no sweep is running")
    return 0


def report(args: argparse.Namespace) -> int:
    """Writes a study's report."""
    folder = _study_folder(args, arrays=True)
    console = terminal()
    from analysis import report
    from raystudy.record.ledger import is_running
    from raystudy.tracking.sync import logged

    def line(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    with console.status(f"writing the report of {args.study}"):
        files = report.build(folder, args.out.expanduser() if args.out else folder / "report")
    line(f"{args.study}: {len(files)} files, {files[0]}")
    if args.open:
        webbrowser.open(files[0].absolute().as_uri())
    if not args.out:
        line(logged(folder, is_running(folder) or mirror.driven(folder)))
    return 0


def sync(args: argparse.Namespace) -> int:
    """Brings MLflow up to the ledger."""
    console = terminal()
    from raystudy.record.ledger import is_running
    from raystudy.tracking import store
    from raystudy.tracking.sync import sync as brought

    folder = _study_folder(args)
    uri = store.absolute(args.tracking_uri or store.default_uri())
    store.check(uri)
    told = brought(folder, uri, running=is_running(folder) or mirror.driven(folder))
    wrote = f"{told.runs} runs created, {told.values} metric values written" if told.changes else "nothing was missing"
    console.print(f"{args.study} -> {store.public(uri)}: {wrote}", markup=False, highlight=False, soft_wrap=True)
    return 0


def merge(args: argparse.Namespace) -> int:
    """Unites the ledgers of two machines."""
    console = terminal()
    from raystudy.record import merge as m

    first, second, into = m.resolve(args.first, args.second, args.into, args.storage.expanduser().absolute())
    done = m.merge(first, second, into, args.on_conflict)
    for conflict in done.conflicts:
        console.print(f"note: {conflict}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    told = f"{done.new} trials were new, of {done.further} the other copy was further along"
    console.print(f"{first} + {second} -> {done.folder}: {told}", markup=False, highlight=False, soft_wrap=True)
    return 0


def export(args: argparse.Namespace) -> int:
    """Writes a study for other programs."""
    console = terminal()
    from raystudy.tools import export as e

    folder = _study_folder(args)
    for file, what in e.export(folder, args.out or folder / "export").items():
        console.print(f"{file}: {what}", markup=False, highlight=False, soft_wrap=True)
    return 0


def simulate(args: argparse.Namespace) -> int:
    """Says which search would have found the winner soonest."""
    console = terminal()
    from raystudy.tools import simulate as s

    folder = _study_folder(args)
    told = s.options(args.samplers, args.schedulers, args.repeats, args.epsilon)
    rows = s.simulate(folder, told, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True))
    out = args.out or folder / "simulate.csv"
    s.write(rows, out)
    console.print(s.table(rows, told))
    console.print(s.verdict(rows), markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(rows)} searches in {out}", markup=False, highlight=False, soft_wrap=True)
    return 0


def ship(args: argparse.Namespace) -> int:
    """Writes what a cluster's nodes need."""
    from raystudy.record import provenance

    record = provenance.ship(args.folder.expanduser().absolute())
    code = f"commit {record['commit'] or 'unknown'}, code {record['code']}"
    terminal().print(f"{args.folder}: {code}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _check_free(host: str, port: int) -> None:
    """Raises InputError where no server can listen there: MLflow's own would say so in forty lines."""
    if not 0 < port < 2**16:
        raise InputError(f"--port is {port}; it must be from 1 to 65535")
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as e:
        why = str(e.strerror).partition(" (while")[0]
        raise InputError(f"cannot listen on {host}:{port}: {why}; choose another --port or --host") from None


def ui(args: argparse.Namespace) -> int:
    """Opens the MLflow UI on what was recorded."""
    console = terminal()
    from raystudy.tracking import cursor, links, store

    given = args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if args.study and not given:
        given = cursor.store_of(study_dir(args.storage.expanduser().absolute(), args.study))
    uri = store.absolute(given or store.default_uri())
    store.check(uri)
    server = uri.startswith(("http://", "https://"))
    if not server:
        _check_free(args.host, args.port)
    base = store.public(uri) if server else f"http://{args.host}:{args.port}"
    found = links.studies(uri, args.study)
    if args.study and not found:
        raise unknown(
            f"study in MLflow at {store.public(uri)} (`raystudy sync` brings it there)",
            args.study,
            links.studies(uri),
        )
    told = "is already there" if server else f"on {store.public(uri)}: {base}   (Ctrl-C stops it)"
    console.print(f"MLflow {told}", markup=False, highlight=False, soft_wrap=True)
    for name, pages in found.items():
        console.print(f"  {name}: {base}{pages['study']}", markup=False, highlight=False, soft_wrap=True)
        for view, link in pages.items():
            if view != "study" and (args.study or len(found) == 1):
                console.print(f"    {view}: {base}{link}", markup=False, highlight=False, soft_wrap=True)
    if args.open:
        first = next(iter(found.values()), {"study": ""})
        links.open_when_up(base, first["study"])
    if server:
        return 0
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    os.environ["MLFLOW_BACKEND_STORE_URI"] = uri  # others can read command lines, and it may hold a password
    options = {"--host": args.host, "--port": str(args.port), "--workers": "1"}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *(w for pair in options.items() for w in pair)])


def plan(args: argparse.Namespace) -> int:
    """What a study will take, before it is run."""
    console = terminal()
    from raystudy.run import plan as planning

    held = args.storage.expanduser().absolute()
    if len(args.methods) == 1 and not args.study and args.methods[0] not in sweep.RECIPES:
        if NAME.fullmatch(args.methods[0]) and (held / args.methods[0] / "study.toml").exists():
            args.study = str(held / args.methods[0] / "study.toml")
        else:
            args.study = args.methods[0]
        args.methods = []
    study, resources = sweep.request(args)
    planning.show(planning.made(study, held, resources, args, console), console)
    return 0


def _study_options(c: argparse.ArgumentParser, optional: bool = False) -> None:
    c.add_argument("study", metavar="STUDY", nargs="?" if optional else None, help="name of the study")
    c.add_argument(
        "--storage",
        type=storage.folder,
        default=Path("studies"),
        metavar="DIR|URL",
        help="folder or URL that holds studies (default: studies)",
    )


def parser() -> argparse.ArgumentParser:
    """The command line of ``raystudy``."""
    raw = argparse.RawDescriptionHelpFormatter
    p = argparse.ArgumentParser(
        prog="raystudy",
        description="Controlled studies of learning with noisy labels: Ray Tune runs them, Optuna searches, MLflow shows.",
        epilog=textwrap.dedent("""\
            examples:
              raystudy sweep dividemix                      the main job: a study on digits, within minutes
              raystudy train dividemix --noise symmetric:0.5 --set lambda_u=50
              raystudy status dividemix-digits
              raystudy ui
            """),
        formatter_class=raw,
    )
    p.add_argument("--version", action="version", version=f"raystudy {__version__}")
    commands = p.add_subparsers(metavar="COMMAND", required=True)

    def group(name: str, help_: str) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
        within = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        return within.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        function: Callable[[argparse.Namespace], int],
        help_: str,
        epilog: str,
        within: "argparse._SubParsersAction[argparse.ArgumentParser]" = commands,
    ) -> argparse.ArgumentParser:
        c = within.add_parser(
            name,
            help=help_,
            description=help_[0].upper() + help_[1:] + ".",
            epilog=textwrap.dedent(epilog),
            formatter_class=raw,
        )
        c.set_defaults(run=function, parser=c)
        return c

    c = add("sweep", sweep.sweep, "search and compare methods over noise levels", sweep.EPILOG)
    sweep.add_arguments(c)

    c = add(
        "plan",
        plan,
        "what a study will take: cells, trials, epochs, device-hours and money",
        """\
        examples:
          raystudy plan dividemix-table1 --gpus-per-trial 0.5 --data-root ~/data
          raystudy plan my-study.toml --prices my-prices.toml --machine my-server
          raystudy plan dividemix --noise symmetric:0.2,0.5 --trials 20
        """,
    )
    sweep.add_arguments(c)

    c = add(
        "train",
        train,
        "one training of one method, without Ray",
        """\
        examples:
          raystudy train ce --noise symmetric:0.5
          raystudy train dividemix --noise symmetric:0.8 --set lambda_u=50 --set p_threshold=0.6
          raystudy train coteaching --set forget_rate=0.45 --noise pair:0.45 --checkpoint run.pt
        """,
    )
    c.add_argument("method", metavar="METHOD", help="a method of `raystudy methods`")
    c.add_argument(
        "--set",
        action="append",
        metavar="NAME=VALUE",
        help="a hyperparameter of the method or a field of the recipe (lr, batch_size, ...)",
    )
    c.add_argument(
        "--dataset", default="digits", metavar="NAME", help="a data set, npz:PATH or folder:PATH (default: digits)"
    )
    sweep.add_data_options(c)
    c.add_argument(
        "--noise", default="symmetric:0.5", metavar="KIND[:VARIANT]:RATE", help="label noise (default: symmetric:0.5)"
    )
    c.add_argument("--noise-seed", type=int, default=0, metavar="N", help="seed of the flips (default: 0)")
    c.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default: data)"
    )
    c.add_argument("--network", metavar="NAME", help="network (default: by data set)")
    c.add_argument(
        "--recipe",
        default="shared",
        choices=sweep.RECIPES,
        metavar="NAME",
        help="shared, the paper's own, or that of another method's paper (default: shared)",
    )
    c.add_argument("--epochs", type=int, metavar="N", help="epochs (default: by data set)")
    c.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="F", help="share held out for validation (default: 0.1)"
    )
    c.add_argument("--seed", type=int, default=0, metavar="N", help="training seed (default: 0)")
    c.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one)")
    c.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (default: 1)")
    c.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="go on from this file if it is there, and keep it up to date"
    )

    c = add(
        "train-mentor",
        train_mentor,
        "learn a MentorNet from a source study whose labels are known",
        """\
        examples:
          raystudy train-mentor --dataset cifar10 --noise symmetric:0.2 --out mentor-cifar10.npz
          raystudy train mentornet_dd --set mentor=$PWD/mentor-cifar10.npz
        """,
    )
    c.add_argument(
        "--out", type=Path, default=Path("mentor.npz"), metavar="FILE", help="where it goes (default: mentor.npz)"
    )
    c.add_argument("--dataset", default="digits", metavar="NAME", help="source data set, or npz:PATH (default: digits)")
    c.add_argument(
        "--noise",
        default="symmetric:0.2",
        metavar="KIND[:VARIANT]:RATE",
        help="its label noise (default: symmetric:0.2)",
    )
    c.add_argument(
        "--students", type=int, default=4, metavar="N", help="students whose losses are recorded (default: 4)"
    )
    c.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the first student and its flips (default: 0)"
    )
    c.add_argument("--epochs", type=int, metavar="N", help="epochs that 18 %% are trained of (default: by data set)")
    c.add_argument("--network", metavar="NAME", help="the students' network (default: by data set)")
    c.add_argument("--steps", type=int, default=30_000, metavar="N", help="updates of the MentorNet (default: 30000)")
    c.add_argument(
        "--percentile",
        type=float,
        default=0.9,
        metavar="P",
        help="of a student's losses that diff starts from (default: 0.9)",
    )
    c.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default: data)"
    )
    c.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (default: 1)")
    c.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)
    c.add_argument("--no-tracking", action="store_true", help="keep it out of MLflow")

    c = add(
        "methods",
        methods,
        "the methods, or one method's card and hyperparameters",
        "examples:\n  raystudy methods\n  raystudy methods dividemix\n",
    )
    c.add_argument("method", nargs="?", metavar="METHOD", help="show this one's card")

    c = add(
        "datasets",
        list_datasets,
        "the data sets, their licences, and whether they are here",
        "example:\n  raystudy datasets --data-root ~/data\n",
    )
    c.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default: data)"
    )

    c = add(
        "show",
        data_show,
        "pictures of a data set under noise: images with their labels, the transition matrix, class counts",
        """\
        examples:
          raystudy data show digits --noise pair:0.45
          raystudy data show npz:images.npz --noise given --images 100 --out pictures
        """,
        group("data", "look at a data set"),
    )
    c.add_argument("dataset", metavar="DATASET", help="a data set of `raystudy datasets`, npz:PATH or folder:PATH")
    sweep.add_data_options(c)
    c.add_argument(
        "--noise", default="symmetric:0.5", metavar="KIND[:VARIANT]:RATE", help="label noise (default: symmetric:0.5)"
    )
    c.add_argument("--noise-seed", type=int, default=0, metavar="N", help="seed of the flips (default: 0)")
    c.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default: data)"
    )
    c.add_argument("--out", type=Path, default=Path("show"), metavar="DIR", help="folder to write to (default: show)")
    c.add_argument("--images", type=int, default=60, metavar="N", help="images on the contact sheet (default: 60)")

    c = add(
        "estimate",
        noise_estimate,
        "the noise rate and transition matrix of labels whose truth is unknown",
        """\
        examples:
          raystudy noise estimate npz:mine.npz
          raystudy noise estimate digits --noise pair:0.3      how well it does where the truth is known
          raystudy noise estimate npz:mine.npz --network convnet --epochs 20 --folds 3 --out mine/noise
        """,
        group("noise", "find out about label noise"),
    )
    c.add_argument("dataset", metavar="DATASET", help="a data set of `raystudy datasets`, npz:PATH or folder:PATH")
    sweep.add_data_options(c)
    c.add_argument(
        "--noise",
        metavar="KIND[:VARIANT]:RATE",
        help="the labels to look at: given, or noise that is drawn (default: the noisy labels that came with the data, "
        "else its labels as they are)",
    )
    c.add_argument("--noise-seed", type=int, default=0, metavar="N", help="seed of drawn noise (default: 0)")
    c.add_argument(
        "--data-root", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default: data)"
    )
    c.add_argument("--network", metavar="NAME", help="network (default: by data set)")
    c.add_argument("--epochs", type=int, metavar="N", help="most epochs of a fold (default: by data set)")
    c.add_argument("--folds", type=int, default=5, metavar="N", help="folds of the cross-validation (default: 5)")
    c.add_argument("--bootstrap", type=int, default=200, metavar="N", help="resamples of the intervals (default: 200)")
    c.add_argument("--seed", type=int, default=0, metavar="N", help="seed of folds and trainings (default: 0)")
    c.add_argument("--device", metavar="NAME", help="cpu or cuda (default: cuda where there is one)")
    c.add_argument("--threads", type=int, default=1, metavar="N", help="torch threads (default: 1)")
    c.add_argument(
        "--out",
        type=Path,
        default=Path("noise-estimate"),
        metavar="FILE",
        help="beginning of the files' names: FILE.json, and the matrix as FILE.npy and FILE.csv (default: noise-estimate)",
    )

    c = add(
        "status",
        status,
        "how far a study is, and its leaderboard so far",
        "example:\n  raystudy status dividemix-digits\n",
    )
    _study_options(c)
    c = add(
        "report",
        report,
        "write a study's report: one HTML page, tables (CSV, Markdown, LaTeX) and figures (PNG, PDF)",
        "examples:\n  raystudy report dividemix-digits --open\n  raystudy report dividemix-digits --out ~/paper/report\n",
    )
    _study_options(c)
    c.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the folder report/ of the study)")
    c.add_argument("--open", action="store_true", help="open the page in a browser")
    c = add(
        "sync",
        sync,
        "bring MLflow up to a study's ledger",
        "example:\n  raystudy sync dividemix-digits --tracking-uri http://127.0.0.1:5000\n",
    )
    _study_options(c)
    c.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)
    c = add(
        "export",
        export,
        "write a study as tables, as an Optuna storage and as a tabular benchmark",
        "examples:\n  raystudy export dividemix-digits\n  optuna-dashboard studies/dividemix-digits/export/optuna.log\n",
    )
    _study_options(c)
    c.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the folder export/ of the study)")
    c = add(
        "simulate",
        simulate,
        "replay a study's trials under other searches: which would have found the winner soonest",
        "example:\n  raystudy simulate dividemix-digits --samplers tpe,random --schedulers asha,none --repeats 20\n",
    )
    _study_options(c)
    c.add_argument("--samplers", default="tpe,random,qmc,gp", metavar="NAMES", help="default: tpe,random,qmc,gp")
    c.add_argument("--schedulers", default="asha,none", metavar="NAMES", help="default: asha,none")
    c.add_argument("--repeats", type=int, default=10, metavar="N", help="searches with fresh seeds each (default: 10)")
    c.add_argument(
        "--epsilon",
        type=float,
        default=0.005,
        metavar="F",
        help="a point this close to the best recorded one, in units of the objective, counts as found (default: 0.005)",
    )
    c.add_argument("--out", type=Path, metavar="FILE", help="CSV of all searches (default: simulate.csv of the study)")
    c = add(
        "merge",
        merge,
        "unite the ledgers of two machines",
        "examples:\n  raystudy merge dividemix-digits /mnt/other/studies/dividemix-digits\n"
        "  raystudy merge run-a run-b --into both\n",
    )
    c.add_argument("first", metavar="A", help="a study, or its folder")
    c.add_argument("second", metavar="B", help="another, of the same settings")
    c.add_argument("--into", metavar="NAME", help="a new study for the union (default: A takes B's trials in)")
    c.add_argument(
        "--storage",
        type=Path,
        default=Path("studies"),
        metavar="DIR",
        help="folder that holds studies (default: studies)",
    )
    c.add_argument(
        "--on-conflict",
        choices=("refuse", "keep"),
        default="refuse",
        help="where two copies of a trial tell different things: merge nothing, or keep the one further along (default: refuse)",
    )
    c = add(
        "ship",
        ship,
        "write the code and its provenance to a folder, for `ray up cluster.yaml`",
        "example:\n  raystudy ship && ray up cluster.yaml\n",
    )
    c.add_argument("folder", nargs="?", type=Path, default=Path(".ship"), metavar="DIR", help="default: .ship")
    c = add(
        "ui",
        ui,
        "open the MLflow UI on what was recorded",
        "examples:\n  raystudy ui --port 5001\n  raystudy ui dividemix-digits --open\n",
    )
    _study_options(c, optional=True)
    c.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)
    c.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen on (default: 127.0.0.1)")
    c.add_argument("--port", type=int, default=5000, metavar="N", help="port (default: 5000)")
    c.add_argument("--open", action="store_true", help="open the browser, on the study if one is named")
    c = add(
        "chaos",
        chaos.chaos,
        "run a small study under faults, and check that it comes out as if undisturbed",
        """\
        examples:
          raystudy chaos --minutes 30
          raystudy chaos --kinds driver,raylet,disk
          raystudy chaos --kills 20
        """,
    )
    chaos.add_arguments(c)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda args: args.run(args), parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
