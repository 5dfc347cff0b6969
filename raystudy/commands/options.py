"""Options that several commands share, each written once: its type, its help and how a word of the command line becomes its value."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter, Token

from raystudy.design.names import AUTO, MODELS, OBJECTIVES, RECIPES, SAMPLERS, SCHEDULERS, SHIPPED
from raystudy.errors import InputError, unknown
from raystudy.record import storage as storages

# In the order in which help shows them.
_STUDIED = Group.create_ordered("What is studied")
_SEARCH = Group.create_ordered("Search")
_WHERE = Group.create_ordered("Where it is run and recorded")
_TAKES = Group.create_ordered("What it may take (docs/studies.md)")


def _storage(type_: object, tokens: Sequence[Token]) -> Path:
    return storages.folder(tokens[0].value)


def _share(type_: object, tokens: Sequence[Token]) -> float | str:
    """What --gpus-per-trial takes: a number, or auto."""
    try:
        return "auto" if tokens[0].value == "auto" else float(tokens[0].value)
    except ValueError:
        raise InputError(f"{tokens[0].keyword} is {tokens[0].value!r}; it must be a number or auto") from None


def whole(type_: object, tokens: Sequence[Token]) -> int:
    """A whole number, written as one: 2.9 is none."""
    word = tokens[0]
    if not re.fullmatch(r"[+-]?[0-9]+", word.value):
        raise InputError(f"{word.keyword or 'value'} is {word.value!r}; it must be a whole number")
    return int(word.value)


def choice(*choices: str) -> Any:
    """A converter that takes one of these words, and names them and the nearest one for any other."""

    def convert(type_: object, tokens: Sequence[Token]) -> str:
        if tokens[0].value not in choices:
            raise unknown(f"value of {tokens[0].keyword}", tokens[0].value, choices)
        return tokens[0].value

    return convert


DatasetArgument = Annotated[
    str, Parameter(help="a data set of `raystudy datasets`, or npz:, csv:, parquet:, folder:PATH or hf:NAME")
]
Dataset = Annotated[
    str,
    Parameter(
        help="a data set of `raystudy datasets`, or npz:, csv:, parquet:, folder:PATH or hf:NAME (default: digits)"
    ),
]
Labels = Annotated[
    Path | None, Parameter(help="labels of folder:PATH, a .csv or .parquet with the columns path, label")
]
Size = Annotated[
    int | None,
    Parameter(converter=whole, help="height and width of images from files, in pixels (default: the data set's own)"),
]
SkipCorrupt = Annotated[
    bool, Parameter(help="leave out image files that are missing or cannot be decoded, and count them")
]
Stream = Annotated[
    str | None,
    Parameter(
        converter=choice("auto", "always", "never"),
        help="image files: decode them while training (always), or hold all in memory (never) (default: auto, by their size)",
    ),
]
Imbalance = Annotated[
    str | None,
    Parameter(
        help="keep fewer training images class by class: exp:R or step:R, the largest class R times the smallest"
    ),
]
Noise = Annotated[str, Parameter(help="label noise, KIND[:VARIANT]:RATE (docs/noise.md) (default: symmetric:0.5)")]
NoiseSeed = Annotated[int, Parameter(converter=whole, help="seed of the flips (default: 0)")]
DataRoot = Annotated[Path, Parameter(help="where data sets lie or are downloaded to (default: data)")]
Network = Annotated[
    str | None,
    Parameter(
        help="mlp, convnet, cnn9, preact_resnet18, a torchvision classifier, or FILE.py:FUNCTION of your own (default: by data set)"
    ),
]
Recipe = Annotated[
    str | None,
    Parameter(
        converter=choice(*RECIPES),
        help="shared: one recipe for all methods; paper: each method's published one for the data set; "
        "or a method, whose published one all have (default: shared)",
    ),
]
Filter = Annotated[
    str | None,
    Parameter(
        name="--filter",
        help="what is done to the training labels before any method, from features alone: simifeat or knn_relabel, with options as "
        "NAME:KEY=VALUE,... (docs/filters.md) (default: nothing)",
    ),
]
Device = Annotated[str | None, Parameter(help="cpu or cuda (default: cuda where there is one)")]
Threads = Annotated[int, Parameter(converter=whole, help="torch threads (default: 1)")]
Storage = Annotated[
    Path,
    Parameter(
        converter=_storage,
        help="folder that holds studies, or a URL: s3://, gs://, file://, ... (default: studies)",
    ),
]
TrackingUri = Annotated[
    str | None, Parameter(help="MLflow store or server (default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db)")
]
StudyName = Annotated[str, Parameter(help="name of the study")]

DATA = Path("data")
STUDIES = Path("studies")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Files:
    """What may be said of a data set beside its name."""

    labels: Labels = None
    size: Size = None
    skip_corrupt: SkipCorrupt = False
    stream: Stream = None
    imbalance: Imbalance = None

    def located(self, dataset: str) -> str:
        """The data set with these options, as it is written in a study."""
        from raystudy.data.spec import located

        labels = self.labels and str(self.labels)
        return located(
            dataset,
            labels=labels,
            size=self.size,
            skip_corrupt=self.skip_corrupt or None,
            stream=self.stream,
            imbalance=self.imbalance,
        )


@Parameter(name="*", group=_STUDIED)
@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is studied: a study file, or data, noise, network and recipe for the methods that are named."""

    study: Annotated[
        str | None,
        Parameter(
            help=f"a whole grid from a study file, instead of methods: {', '.join(SHIPPED)}, or FILE.toml of your own"
        ),
    ] = None
    scale: Annotated[
        str,
        Parameter(
            converter=choice("full", "smoke"),
            help="smoke: the same grid in minutes on two cores, with stand-ins for data sets and networks (default: full)",
        ),
    ] = "full"
    dataset: Annotated[
        str | None,
        Parameter(
            help="a data set of `raystudy datasets`, or npz:, csv:, parquet:, folder:PATH or hf:NAME (default: digits)"
        ),
    ] = None
    labels: Labels = None
    size: Size = None
    skip_corrupt: SkipCorrupt = False
    stream: Stream = None
    imbalance: Imbalance = None
    noise: Annotated[
        list[str] | None,
        Parameter(
            help="label noise and its levels, KIND[:VARIANT]:RATE,...: symmetric, pair, asymmetric, instance, openset, human, web, given, "
            "... (docs/noise.md); may be repeated (default: symmetric:0.2,0.5,0.8)"
        ),
    ] = None
    noise_seed: Annotated[
        int | None,
        Parameter(converter=whole, help="seed of the flips and of the validation split, the same for every method"),
    ] = None
    data_root: DataRoot = DATA
    network: Network = None
    recipe: Recipe = None
    filter_: Filter = None
    epochs: Annotated[
        int | None,
        Parameter(
            converter=whole, help="epochs of every trial; warm-ups and ramps are fractions of it (default: by data set)"
        ),
    ] = None
    no_baseline: Annotated[bool, Parameter(help="do not run plain cross-entropy (ce) beside the named methods")] = False
    trust: Annotated[
        bool, Parameter(help="methods and networks that the study file names as files or modules may run, as you")
    ] = False
    name: Annotated[
        str | None,
        Parameter(help="the study's name and folder (default: the study file's, or from methods and data set)"),
    ] = None


@Parameter(name="*", group=_SEARCH)
@dataclass(frozen=True, kw_only=True)
class Search:
    """The budget of the search, and how it is spent; None: the study file's, or the default."""

    trials: Annotated[
        int | None,
        Parameter(converter=whole, help="hyperparameter points per cell, the published one included (default: 5)"),
    ] = None
    replicates: Annotated[
        int | None,
        Parameter(
            converter=whole,
            help="fresh seeds on which the chosen and the published point are trained again (default: 2)",
        ),
    ] = None
    sampler: Annotated[
        str | None,
        Parameter(
            help=f"how Optuna proposes: {', '.join(SAMPLERS)}, or {AUTO}: the one that was measured best, tpe at present, fixed "
            "when the study begins (docs/search.md) (default: tpe)"
        ),
    ] = None
    scheduler: Annotated[
        str | None, Parameter(help=f"early stopping within a cell: {', '.join(SCHEDULERS)} (default: asha)")
    ] = None
    start_from: Annotated[
        list[str] | None,
        Parameter(
            help="studies whose best points a cell tries first, after the published one: names in --storage, folders, a .json of "
            "`raystudy recommend`, or `reference`, what comes with raystudy; fixed when the study begins (docs/search.md); may be repeated "
            "(default: none)"
        ),
    ] = None
    slack: Annotated[
        float | None,
        Parameter(
            help="virtual workers of a search for each real one: with more of them fewer places are idle, and a proposal sees fewer of the "
            "trials before it (docs/search.md) (default: 2)"
        ),
    ] = None
    objective: Annotated[
        str | None, Parameter(help=f"what the search looks at: {', '.join(OBJECTIVES)} (default: val/acc)")
    ] = None
    seed: Annotated[int | None, Parameter(converter=whole, help="seed of trainings and proposals (default: 0)")] = None
    val_fraction: Annotated[
        float | None,
        Parameter(help="share of the noisy training set held out for validation (default: 0.1)"),
    ] = None
    clean_val: Annotated[
        int | None,
        Parameter(
            converter=whole,
            help="also score N validation images against clean labels; shown as a rule of its own (default: 0)",
        ),
    ] = None
    evaluate: Annotated[
        str | None,
        Parameter(
            help="every:K or every:K,N: measure validation and test every K epochs only, then on N test samples; all of both in the last "
            "ten epochs and where trials are compared (default: all of both in every epoch)"
        ),
    ] = None
    keep_models: Annotated[
        str | None,
        Parameter(
            group=_WHERE,
            converter=choice(*MODELS),
            help="whose weights stay in the study: the best replicate's of each cell by noisy validation (best), all finished trainings', "
            "or none (default: best, or what the study was begun with)",
        ),
    ] = None


@Parameter(name="*", group=_WHERE)
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where a study is run and recorded: nothing here changes a result."""

    storage: Storage = STUDIES
    tracking_uri: Annotated[
        str | None,
        Parameter(
            help="MLflow store or server; 'none' records nothing there (default: $MLFLOW_TRACKING_URI or sqlite:///mlflow.db)"
        ),
    ] = None
    address: Annotated[
        str | None, Parameter(help="a running Ray cluster, e.g. auto (default: a Ray of its own on this machine)")
    ] = None
    cpus_per_trial: Annotated[float, Parameter(help="CPU cores, and torch threads, of a trial (default: 1)")] = 1.0
    gpus_per_trial: Annotated[
        float | str | None,
        Parameter(
            converter=_share,
            help="a trial's GPU: 1 or a fraction; auto measures what each method needs (default: 1 where this machine has one, else 0)",
        ),
    ] = None
    max_concurrent: Annotated[
        int | None, Parameter(converter=whole, help="at most so many trials at once (default: what the machine holds)")
    ] = None
    checkpoint_every: Annotated[
        float | None,
        Parameter(help="seconds between checkpoints of a running trial (default: 10; 120 where --storage is a URL)"),
    ] = None
    trial_timeout: Annotated[
        float | None,
        Parameter(
            help="seconds: a trial without a new record for so long has failed, and the study goes on; allow for loading and a first "
            "epoch (default: wait for ever)"
        ),
    ] = None


@Parameter(name="*", group=_TAKES)
@dataclass(frozen=True, kw_only=True)
class Prices:
    """What an hour costs, and how long a plan may measure."""

    prices: Annotated[Path | None, Parameter(help="a price table of your own")] = None
    machine: Annotated[str | None, Parameter(help="a machine of the price table (default: the table's)")] = None
    probe_seconds: Annotated[
        float, Parameter(help="how long a plan may measure what no ledger tells; 0: not at all (default: 60)")
    ] = 60.0


@Parameter(name="*", group=_TAKES)
@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a sweep stops, or asks before it begins."""

    time_budget: Annotated[
        str | None,
        Parameter(help="stop cleanly after this long, e.g. 30m or 2h; the same command goes on for as long again"),
    ] = None
    max_cost: Annotated[
        float | None,
        Parameter(help="stop cleanly when this run has cost so much by the price table; the same command goes on"),
    ] = None
    confirm_above: Annotated[
        float | None,
        Parameter(
            help="ask before a sweep that is planned to take more device-hours (see raystudy plan); without a terminal: refuse it"
        ),
    ] = None
    yes: Annotated[bool, Parameter(help="do not ask")] = False
    dry_run: Annotated[bool, Parameter(help="print what would be run, and stop")] = False


# Where a command line says nothing of them.
FILES, GRID, SEARCH, WHERE, PRICES, LIMITS = Files(), Grid(), Search(), Where(), Prices(), Limits()
