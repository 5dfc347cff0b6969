"""The ``raystudy`` command. Parses, calls, prints; nothing else."""

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from raystudy import __version__, storage, studyfile, sweep
from raystudy.errors import InputError, unknown
from raystudy.study import NAME, study_dir
from raystudy.terminal import guarded, terminal

URI_HELP = "MLflow store or server (default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db)"


def train(args: argparse.Namespace) -> int:
    """One training without Ray, a line per epoch."""
    console = terminal()
    import torch

    from raystudy import point, space, training
    from raystudy.data.noise import parse

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
    args.dataset = studyfile.located(args.dataset)
    network, epochs = studyfile.default_setting(args.dataset, args.data_root)
    network, epochs = args.network or network, args.epochs if args.epochs is not None else epochs
    if epochs < 1:
        raise InputError(f"--epochs is {epochs}; it must be at least 1")
    here = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    here += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    device = args.device or ("cuda" if "cuda" in here else "cpu")
    if device not in here:
        raise unknown("device here", device, here)
    paper, oracle, source = loaded.paper(args.dataset, noises[0])
    data = training.prepare(args.dataset, args.data_root, noises[0], args.val_fraction, device)
    spec = training.TrialSpec(
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
        found = file if file.exists() else training.previous(file)
        if found.exists():
            run.load(found)
    oracle = tuple(name for name in oracle if name not in values)
    star = f" (ORACLE: {', '.join(oracle)} read off the truth)" if oracle else ""
    console.print(
        f"{args.method} on {args.dataset} {noises[0].label} ({data.effective_rate:.1%} wrong), "
        f"{network}, {epochs} epochs, seed {args.seed}",
        markup=False,
        highlight=False,
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


def methods(args: argparse.Namespace) -> int:
    """The methods, each with its hyperparameters."""
    console = terminal()
    from raystudy import point, space
    from raystudy.methods import METHODS

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
        table.add_column(name)
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
        "npz:PATH  your own: x_train, y_train, x_test, y_test and optionally y_noisy (then --noise given)",
        highlight=False,
    )
    return 0


def _study_folder(args: argparse.Namespace) -> Path:
    folder = study_dir(args.storage.expanduser().absolute(), args.study)
    storage.pull(folder)
    if not (folder / "study.toml").exists():
        raise unknown(f"study in {storage.told(args.storage)}", args.study, storage.studies(args.storage.expanduser()))
    return folder


def status(args: argparse.Namespace) -> int:
    """How far a study is, and its leaderboard so far."""
    console = terminal()
    from analysis import load, tables
    from raystudy.ledger import is_running

    folder = _study_folder(args)
    study, histories = load.study(folder)
    console.print(tables.status(study, histories))
    console.print(tables.leaderboard(study, histories))
    running = is_running(folder) or storage.driven(folder)
    console.print("a sweep is running" if running else "no sweep is running")
    return 0


def sync(args: argparse.Namespace) -> int:
    """Brings MLflow up to the ledger."""
    console = terminal()
    from raystudy import tracking
    from raystudy.ledger import is_running

    folder = _study_folder(args)
    uri = tracking.absolute(args.tracking_uri or tracking.default_uri())
    tracking.check(uri)
    told = tracking.sync(folder, uri, running=is_running(folder) or storage.driven(folder))
    wrote = f"{told.runs} runs created, {told.values} metric values written" if told.changes else "nothing was missing"
    console.print(f"{args.study} -> {uri}: {wrote}", markup=False, highlight=False, soft_wrap=True)
    return 0


def ship(args: argparse.Namespace) -> int:
    """Writes what a cluster's nodes need."""
    from raystudy import provenance

    record = provenance.ship(args.folder.expanduser().absolute())
    code = f"commit {record['commit'] or 'unknown'}, code {record['code']}"
    terminal().print(f"{args.folder}: {code}", markup=False, highlight=False, soft_wrap=True)
    return 0


def ui(args: argparse.Namespace) -> int:
    """Opens the MLflow UI on what was recorded."""
    console = terminal()
    from raystudy import tracking

    uri = tracking.absolute(args.tracking_uri or tracking.default_uri())
    tracking.check(uri)
    if uri.startswith(("http://", "https://")):
        console.print(f"the MLflow server is already there: {uri}", highlight=False)
        return 0
    base = f"http://{args.host}:{args.port}"
    console.print(f"MLflow on {uri}: {base}   (Ctrl-C stops it)", highlight=False, soft_wrap=True)
    for name, page in tracking.studies(uri).items():
        console.print(f"  {name}: {base}{page}", markup=False, highlight=False, soft_wrap=True)
    os.environ |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    options = {"--backend-store-uri": uri, "--host": args.host, "--port": str(args.port), "--workers": "1"}
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "server", *(w for pair in options.items() for w in pair)])


def plan(args: argparse.Namespace) -> int:
    """What a study will take, before it is run."""
    console = terminal()
    from raystudy import plan as planning

    storage = args.storage.expanduser().absolute()
    if len(args.methods) == 1 and not args.study and args.methods[0] not in sweep.RECIPES:
        if NAME.fullmatch(args.methods[0]) and (storage / args.methods[0] / "study.toml").exists():
            args.study = str(storage / args.methods[0] / "study.toml")
        else:
            args.study = args.methods[0]
        args.methods = []
    study, resources = sweep.request(args)
    planning.show(planning.made(study, storage, resources, args, console), console)
    return 0


def _study_options(c: argparse.ArgumentParser) -> None:
    c.add_argument("study", metavar="STUDY", help="name of the study")
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

    def add(
        name: str, function: Callable[[argparse.Namespace], int], help_: str, epilog: str
    ) -> argparse.ArgumentParser:
        c = commands.add_parser(
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
    c.add_argument("--dataset", default="digits", metavar="NAME", help="a data set, or npz:PATH (default: digits)")
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
        "status",
        status,
        "how far a study is, and its leaderboard so far",
        "example:\n  raystudy status dividemix-digits\n",
    )
    _study_options(c)
    c = add(
        "sync",
        sync,
        "bring MLflow up to a study's ledger",
        "example:\n  raystudy sync dividemix-digits --tracking-uri http://127.0.0.1:5000\n",
    )
    _study_options(c)
    c.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)
    c = add(
        "ship",
        ship,
        "write the code and its provenance to a folder, for `ray up cluster.yaml`",
        "example:\n  raystudy ship && ray up cluster.yaml\n",
    )
    c.add_argument("folder", nargs="?", type=Path, default=Path(".ship"), metavar="DIR", help="default: .ship")
    c = add("ui", ui, "open the MLflow UI on what was recorded", "example:\n  raystudy ui --port 5001\n")
    c.add_argument("--tracking-uri", metavar="URI", help=URI_HELP)
    c.add_argument("--host", default="127.0.0.1", metavar="HOST", help="address to listen on (default: 127.0.0.1)")
    c.add_argument("--port", type=int, default=5000, metavar="N", help="port (default: 5000)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    return guarded(lambda args: args.run(args), parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
