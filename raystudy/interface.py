"""The Python interface: studies, trainings, noise and what there is, for notebooks and scripts. What the commands do, they do by the same
functions below; here belong names and defaults that a person types, and pandas frames. Mistakes are ``InputError`` (a ValueError)."""

import math
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from raystudy import own
from raystudy.data import noise as noises
from raystudy.data.spec import located
from raystudy.design import compose, request
from raystudy.design import study as design
from raystudy.errors import InputError, shown, unknown

if TYPE_CHECKING:
    from raystudy.learn.model import Model
    from raystudy.running.plan import Plan
    from raystudy.running.resources import Resources
    from raystudy.tools.clean.examine import Examined
    from raystudy.tools.recommend import Advice

Names = str | Sequence[str]


def _several(name: str, given: Names) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Sequence) or not all(isinstance(text, str) for text in given):
        raise InputError(f"{name} is {shown(given)}; it must be a text, or a list of texts")
    return tuple(given)


Kind = tuple[type, ...]
TEXT: Kind = (str,)
PATH: Kind = (str, PathLike)
WHOLE: Kind = (int, np.integer)
NUMBER: Kind = (int, float, np.integer, np.floating)
TOLD: dict[Kind, str] = {
    TEXT: "a text",
    PATH: "a path",
    WHOLE: "a whole number",
    NUMBER: "a number",
    (bool,): "True or False",
}
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            "dataset",
            "name",
            "network",
            "recipe",
            "filter",
            "stream",
            "imbalance",
            "scale",
            "sampler",
            "scheduler",
            "objective",
            "keep_models",
            "evaluate",
        ),
        TEXT,
    ),
    **dict.fromkeys(("method", "noise", "address", "time_budget", "tracking_uri", "device"), TEXT),
    **dict.fromkeys(("file", "path", "data_root", "labels", "storage"), PATH),
    **dict.fromkeys(
        (
            "epochs",
            "noise_seed",
            "size",
            "folds",
            "neighbours",
            "trials",
            "replicates",
            "seed",
            "clean_val",
            "threads",
            "max_concurrent",
        ),
        WHOLE,
    ),
    **dict.fromkeys(
        ("val_fraction", "slack", "cpus_per_trial", "checkpoint_every", "trial_timeout", "probe_seconds", "noise_rate"),
        NUMBER,
    ),
    **dict.fromkeys(("baseline", "skip_corrupt", "progress", "trust"), (bool,)),
}


def _checked(**told: Any) -> None:
    """Raises InputError for an argument that is not of its kind; None says nothing of it."""
    for name, value in told.items():
        kind = KINDS[name]
        if value is None or (isinstance(value, kind) and not (isinstance(value, bool) and kind != (bool,))):
            continue
        raise InputError(f"{name} is {shown(value)}; it must be {TOLD[kind]}")


class Study:
    """What is to be run: a grid of methods over noise levels and a search budget, or a study file. Nothing runs before ``run``.

    ``methods``: names of ``methods()``, or FILE.py:CLASS of your own; plain cross-entropy is run beside them unless ``baseline`` is False.
    ``dataset``: a name of ``datasets()``, or npz:, csv:, parquet:, folder:PATH or hf:NAME; None for digits. ``noise``: one or several of
    ``KIND[:VARIANT]:RATE,...``. ``imbalance``: exp:R or step:R. ``filter``: simifeat or knn_relabel, with options as
    ``NAME:KEY=VALUE,...``, before every method. ``file``: a shipped study or a .toml, instead of methods, data, noise,
    network and recipe; ``trust``: methods and networks that it names as files or modules may run. What is None is the study file's, or
    chosen by data set.
    ``trials``, ``replicates``, ``sampler``, ``scheduler``, ``objective``, ``seed``, ``val_fraction``, ``clean_val``, ``slack``,
    ``keep_models``, ``evaluate`` and ``start_from`` (studies by name or folder, or "reference") are the options of ``raystudy sweep``.
    Raises InputError for anything that cannot be.
    """

    def __init__(
        self,
        methods: Names = (),
        dataset: str | None = None,
        noise: Names | None = None,
        *,
        file: str | PathLike[str] | None = None,
        name: str | None = None,
        network: str | None = None,
        epochs: int | None = None,
        recipe: str | None = None,
        filter: str | None = None,
        baseline: bool = True,
        noise_seed: int | None = None,
        scale: str = "full",
        data_root: str | PathLike[str] = "data",
        labels: str | PathLike[str] | None = None,
        size: int | None = None,
        skip_corrupt: bool = False,
        stream: str | None = None,
        imbalance: str | None = None,
        trust: bool = False,
        **budget: Any,
    ) -> None:
        if budget.get("start_from") is not None:
            budget["start_from"] = _several("start_from", budget["start_from"])
        for key in budget:
            if key not in compose.BUDGET:
                raise unknown("argument of Study", key, compose.BUDGET)
        _checked(
            file=file, name=name, dataset=dataset, network=network, epochs=epochs, recipe=recipe, baseline=baseline
        )
        _checked(noise_seed=noise_seed, scale=scale, data_root=data_root, labels=labels, size=size, stream=stream)
        _checked(filter=filter, skip_corrupt=skip_corrupt, imbalance=imbalance, trust=trust)
        _checked(**{key: value for key, value in budget.items() if key != "start_from"})
        if noise is not None and not len(_several("noise", noise)):
            raise InputError("noise is empty; name a kind and a rate, such as symmetric:0.2")
        self.data_root, self.named, self.longer = Path(data_root), name is not None, epochs is not None
        self.design = request.requested(
            _several("methods", methods),
            file=None if file is None else str(file),
            scale=scale,
            dataset=dataset,
            labels=None if labels is None else str(labels),
            size=size,
            skip_corrupt=skip_corrupt,
            stream=stream,
            imbalance=imbalance,
            noise=None if noise is None else _several("noise", noise),
            noise_seed=noise_seed,
            network=network,
            epochs=epochs,
            recipe=recipe,
            filter=filter,
            baseline=baseline,
            name=name,
            root=self.data_root,
            trust=trust,
            budget={key: value for key, value in budget.items() if value is not None},
        )

    @property
    def name(self) -> str:
        """Of the study's folder."""
        return self.design.name

    @property
    def cells(self) -> list[design.Cell]:
        """Its grid: method, data set and noise of each cell."""
        return self.design.cells()

    def plan(self, storage: str | PathLike[str] = "studies", probe_seconds: float = 60.0, **resources: Any) -> "Plan":
        """What it will take (``raystudy plan``), what ``storage`` already holds left out. ``resources`` as ``run`` takes them."""
        return _plan(self.design, self.data_root, storage, probe_seconds, resources, self.longer)

    def __repr__(self) -> str:
        d = self.design
        return f"Study({d.name!r}: {len(self.cells)} cells, {d.trials} trials and {d.replicates} replicates each)"


class Results:
    """A study that was run, or is being run: its folder, read anew by every call."""

    def __init__(self, folder: Path, data_root: Path = Path("data")) -> None:
        self.folder, self.data_root = folder, data_root
        self.name = folder.name

    def leaderboard(self) -> pd.DataFrame:
        """A row a cell: test accuracy of the tuned point under every selection rule (mean and ``_std`` over replicates), gap and gain."""
        from analysis import leaderboard, load

        return pd.DataFrame(leaderboard.frame(*load.study(self.folder)))

    def trials(self) -> pd.DataFrame:
        """A row a trial: its place in the grid, its point (``hp.NAME``), how it ended, test accuracy under every rule (``test.RULE``)."""
        from analysis import load
        from raystudy.tools import export

        return export.trials(*load.study(self.folder))

    def records(self) -> pd.DataFrame:
        """A row an epoch of a trial, a column a measure."""
        from analysis import load
        from raystudy.tools import export

        return export.records(load.study(self.folder)[1])

    @property
    def models(self) -> "dict[str, Model]":
        """The model of each cell that has one, by the cell's key; weights are read when it is first asked."""
        from analysis import models
        from raystudy.learn.model import Model
        from raystudy.record import mirror

        mirror.pull_models(self.folder, weights=True)
        return {m.cell: Model(m.card) for m in models.found(self.folder) if m.standing}

    def suspects(self) -> pd.DataFrame:
        """A row an image and cell: how far the replicates of its chosen point trust the given label, the most distrusted first."""
        from analysis import load
        from raystudy.tools import export

        return export.suspects(*load.study(self.folder), self.folder)

    def report(self, out: str | PathLike[str] | None = None) -> Path:
        """Writes the report (one page, tables, figures) and returns its page. ``out``: default the folder ``report`` of the study."""
        from analysis import report

        return report.build(self.folder, Path(out).expanduser() if out else self.folder / "report")[0]

    def plan(self, probe_seconds: float = 60.0, **resources: Any) -> "Plan":
        """What is left to run."""
        told = design.Study.from_toml(self.folder / "study.toml")
        return _plan(told, self.data_root, self.folder.parent, probe_seconds, resources)

    def __repr__(self) -> str:
        from analysis import load

        _, histories = load.study(self.folder, only=())
        trials = [t for h in histories.values() for t in h.trials.values()]
        ended = sum(t.state != "running" for t in trials)
        return f"Results({self.name!r}: {ended} of {len(trials)} trials begun have ended, in {self.folder})"


def run(
    study: Study | str,
    storage: str | PathLike[str] = "studies",
    *,
    tracking_uri: str | None = None,
    time_budget: str | None = None,
    progress: bool = True,
    **resources: Any,
) -> Results:
    """Runs a study to its end, or goes on with it; a name is a shipped study's or a .toml. The same call again runs what is missing.

    ``storage``: a folder or URL. ``tracking_uri``: an MLflow, "none" for none, None for $MLFLOW_TRACKING_URI or ``mlflow.db``.
    ``time_budget``: stop cleanly after e.g. "30m". ``progress``: in a notebook a table that is kept up to date, else as ``raystudy sweep``.
    ``resources``: cpus_per_trial, gpus_per_trial, max_concurrent, address, checkpoint_every, trial_timeout. Interrupted (Ctrl-C, the
    notebook's stop) it ends its trials cleanly and returns what there is.
    """
    from raystudy.commands.live import audience
    from raystudy.record import storage as storages
    from raystudy.running.audience import Audience
    from raystudy.running.budget import Budget, seconds
    from raystudy.running.sweep import run as whole
    from raystudy.tracking import store

    _checked(storage=storage, tracking_uri=tracking_uri, time_budget=time_budget, progress=progress)
    asked = study if isinstance(study, Study) else Study(file=study)
    held = storages.folder(str(storage))
    uri = None if tracking_uri == "none" else store.absolute(tracking_uri or store.default_uri())
    limit = Budget(seconds(time_budget, "time_budget")) if time_budget else None
    found = _resources(asked.data_root, resources, remote=storages.url(held) is not None)
    seen = audience() if progress else Audience()
    place = held.expanduser().absolute()
    outcome = whole(asked.design, place, found, uri, seen, limit, named=asked.named, longer=asked.longer)
    if outcome.unfinished:
        why = f"{outcome.reason}; " if outcome.reason else ""
        seen.line(
            f"{why}stopped: {outcome.ended} of {outcome.trials} trials begun have ended; the same call goes on from here"
        )
    return Results(outcome.folder, asked.data_root)


def load(name: str, storage: str | PathLike[str] = "studies", data_root: str | PathLike[str] = "data") -> Results:
    """A study by its name in a storage (a folder or URL). Raises InputError, with the nearest name, where there is none."""
    from raystudy.commands.studies import held
    from raystudy.record import storage as storages

    _checked(name=name, storage=storage, data_root=data_root)
    return Results(held(storages.folder(str(storage)), name, arrays=True), Path(data_root))


def load_model(
    path: str | PathLike[str], device: str = "cpu", code: Sequence[str] = (), threads: int | None = None
) -> "Model":
    """A model that a study has kept: its card, its weights, or the folder of one. It has ``predict_proba``, ``predict``, ``classes`` and
    ``card``. ``code``: files and modules of your own that it was made by. InputError, one line, for one that is damaged or foreign."""
    from raystudy.tools import predict

    _checked(path=path, device=device, threads=threads)
    return predict.opened(str(path), device, threads, _several("code", code) if code else ())


def train(
    method: str,
    dataset: str = "digits",
    noise: str = "symmetric:0.5",
    *,
    noise_seed: int = 0,
    network: str | None = None,
    recipe: str = "shared",
    filter: str | None = None,
    epochs: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    evaluate: str = "",
    data_root: str | PathLike[str] = "data",
    imbalance: str | None = None,
    **hyperparameters: Any,
) -> Iterator[dict[str, float]]:
    """One training without Ray: yields a record an epoch (``epoch`` from 0, ``val/acc``, ``test/acc``, ``train/loss``, ...).

    ``hyperparameters``: of the method, or fields of the recipe (``lr``, ``batch_size``, ...), in place of the published point's.
    ``imbalance``: exp:R or step:R. ``filter``: simifeat or knn_relabel, before the method. ``threads``: torch's, None as they are.
    ``evaluate``: every:K[,N]. Everything is checked before the first record is asked for; InputError tells a mistake.
    """
    from raystudy.learn import point
    from raystudy.running import alone

    _checked(
        method=method,
        dataset=dataset,
        noise=noise,
        noise_seed=noise_seed,
        network=network,
        recipe=recipe,
        epochs=epochs,
    )
    _checked(filter=filter, val_fraction=val_fraction, seed=seed, device=device, threads=threads, data_root=data_root)
    _checked(imbalance=imbalance)
    _checked(evaluate=evaluate)
    made = alone.prepare(
        method,
        located(dataset, imbalance=imbalance),
        noise,
        point.checked(method, hyperparameters, "train"),
        noise_seed=noise_seed,
        data_root=Path(data_root),
        network=network,
        recipe=recipe,
        filter=filter or "",
        epochs=epochs,
        val_fraction=val_fraction,
        seed=seed,
        device=device,
        threads=threads,
        evaluate=evaluate,
    )

    def records() -> Iterator[dict[str, float]]:
        run = made.run
        while len(run.records) < run.spec.epochs and not run.diverged:
            told = run.epoch()
            yield {"epoch": len(run.records) - 1} | {k: math.nan if v is None else v for k, v in told.items()}

    return records()


class Cleaned:
    """What ``clean`` found. ``labels``: a row a label (given, suggested, quality, issue, reason), in the order of the data set."""

    def __init__(self, found: "Examined") -> None:
        from raystudy.tools.clean import outputs

        self._found = found
        head, *rows = outputs.rows(found)
        frame = pd.DataFrame(rows, columns=head)
        self.labels = frame.assign(quality=found.judged.quality, issue=found.judged.issue)
        self.summary = outputs.summary(found)
        self.rate, self.rate_interval = found.judged.estimate.rate, found.judged.estimate.rate_interval
        self.matrix = found.judged.estimate.matrix

    def measured(self) -> dict[str, float] | None:
        """AUROC, average precision and more against the truth; None where nobody knows it, or nothing is wrong."""
        return self._found.measured()

    def write(self, out: str | PathLike[str], unsure: str = "drop", force: bool = False) -> list[Path]:
        """labels.csv, the cleaned labels and suspects.html, into a folder.

        ``unsure``: "drop" or "keep" what is neither right nor wrong for sure.
        """
        from raystudy.tools.clean import outputs

        if unsure not in outputs.UNSURE:
            raise unknown("value of unsure", unsure, outputs.UNSURE)
        outputs.refuse(Path(out), force)
        return outputs.write(self._found, Path(out), unsure)

    def __repr__(self) -> str:
        return f"Cleaned({self.summary})"


def clean(
    dataset: str,
    noise: str | None = None,
    *,
    method: str = "auto",
    network: str | None = None,
    epochs: int | None = None,
    folds: int = 5,
    neighbours: int = 60,
    noise_seed: int = 0,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    data_root: str | PathLike[str] = "data",
    progress: bool = False,
) -> Cleaned:
    """Which training labels of a data set are wrong, and what they should be (``raystudy clean``); nothing is written.

    ``noise``: the labels to look at, None for those that came with the data. ``method``: whose networks are asked beside the evidence
    that needs none, or "auto", "none"; or a filter alone, "simifeat" or "knn_relabel". Raises InputError.
    """
    from raystudy.tools.clean.examine import examine

    _checked(dataset=dataset, noise=noise, method=method, network=network, epochs=epochs, folds=folds)
    _checked(neighbours=neighbours, noise_seed=noise_seed, seed=seed, device=device, threads=threads)
    _checked(data_root=data_root, progress=progress)
    found = examine(
        located(dataset),
        noise,
        noise_seed=noise_seed,
        data_root=Path(data_root),
        method=method,
        network=network,
        epochs=epochs,
        folds=folds,
        neighbours=neighbours,
        seed=seed,
        device=device,
        threads=threads,
        tell=print if progress else lambda text: None,
    )
    return Cleaned(found)


def recommend(
    dataset: str,
    noise: str | None = None,
    *,
    studies: Names = (),
    storage: str | PathLike[str] = "studies",
    noise_rate: float | None = None,
    noise_seed: int = 0,
    seed: int = 0,
    device: str | None = None,
    threads: int = 1,
    data_root: str | PathLike[str] = "data",
    progress: bool = False,
) -> "Advice":
    """Which methods to try on a data set (``raystudy recommend``); nothing is written and nothing is run.

    ``noise``: the labels to look at, None for those that came with the data. ``studies``: of your own, by name in ``storage`` or folder,
    beside the reference results. ``noise_rate``: the share of wrong labels where you know it. ``.methods`` has the three best, ``.where``
    the condition as it was found, ``.nearest`` what is known nearest, ``.far`` whether that is too far, ``.command()`` the study to run.
    """
    from raystudy.record import storage as storages
    from raystudy.tools import recommend as tool

    _checked(dataset=dataset, noise=noise, storage=storage, noise_seed=noise_seed, seed=seed, device=device)
    _checked(noise_rate=noise_rate, threads=threads, data_root=data_root, progress=progress)
    return tool.recommend(
        located(dataset),
        noise,
        names=_several("studies", studies),
        storages=storages.folder(str(storage)),
        noise_rate=noise_rate,
        noise_seed=noise_seed,
        data_root=Path(data_root),
        seed=seed,
        device=device,
        threads=threads,
        tell=print if progress else lambda text: None,
    )


def methods(name: str | None = None) -> pd.DataFrame:
    """The methods, a row each; or the hyperparameters of one, with its card in ``.attrs["card"]``."""
    from raystudy.design import space
    from raystudy.learn import point
    from raystudy.learn.methods import METHODS

    if name is None:
        rows = [
            {
                "title": point.card(m).partition("\n")[0],
                "searched": ", ".join(d.name for d in space.load(m).dimensions),
            }
            for m in sorted(METHODS)
        ]
        return pd.DataFrame(rows, index=pd.Index(sorted(METHODS), name="method"))
    ranges = {d.name: d.describe() for d in space.load(name).dimensions}
    known = point.hyperparameters(name)
    rows = [{"default": p.default, "searched in": ranges.get(n, "")} for n, p in known.items()]
    found = pd.DataFrame(rows, index=pd.Index(list(known), name="hyperparameter"), columns=["default", "searched in"])
    found.attrs["card"] = point.card(name)
    return found


def datasets(data_root: str | PathLike[str] = "data") -> pd.DataFrame:
    """The data sets that are known by name, a row each, and whether they are here."""
    from raystudy.data import datasets as sets

    rows = [
        {
            "here": sets.present(name, Path(data_root)),
            "train": info.train,
            "test": info.test,
            "classes": info.n_classes,
            "shape": info.shape,
            "source": info.source,
            "licence": info.licence,
        }
        for name, info in sets.DATASETS.items()
    ]
    rows += [{"here": True, "source": own.whose("datasets", name)} for name in own.installed("datasets")]
    return pd.DataFrame(rows, index=pd.Index([*sets.DATASETS, *own.installed("datasets")], name="data set"))


def noise(text: str | None = None, seed: int = 0) -> Any:
    """The kinds of noise, a row each; or one setting from its text, such as ``pair:0.45``, as the library holds it."""
    if text is None:
        names = [*noises.NOISES, *own.installed("noise")]
        rows = [{"usage": kind.usage, "needs": kind.needs, "about": kind.about} for kind in map(noises.row, names)]
        return pd.DataFrame(rows, index=pd.Index(names, name="kind"))
    return _one(text, seed)


def corrupt(labels: ArrayLike, noise: str, seed: int = 0, classes: Sequence[Any] | None = None) -> NDArray[Any]:
    """Labels [n] with noise, of the same kind and type: numbers, strings, what NumPy can sort.

    ``noise``: a kind with a transition matrix, such as ``symmetric:0.4`` or ``pair:0.45``. ``classes``: all there are, in their order,
    where the labels do not show them all. The same seed flips the same labels as in a study. Raises InputError for kinds that need images.
    """
    _checked(noise=noise, seed=seed)
    given = np.asarray(labels)
    if given.dtype == object:
        raise InputError("labels are of several kinds, or have gaps; they are all numbers or all texts")
    if given.ndim != 1:
        raise InputError(f"labels have the shape {given.shape}; they are one label a sample, [n]")
    known = np.unique(given) if classes is None else np.asarray(classes)
    order = {value: i for i, value in enumerate(known.tolist())}
    if len(order) < 2:
        raise InputError(f"labels of {len(order)} class cannot be flipped; name all classes")
    if missing := [value for value in given.tolist() if value not in order][:1]:
        raise InputError(f"label {missing[0]!r} is none of the classes")
    ids = np.array([order[value] for value in given.tolist()], dtype=np.int64)
    setting = _one(noise, seed)
    if setting.kind in noises.NOISES:
        flipped = noises.corrupt(ids, setting, len(known))
    else:
        from raystudy.data import brought

        flipped, _ = brought.given(ids, setting, len(known))
    out: NDArray[Any] = known[flipped]
    return out


def _one(text: str, seed: int) -> noises.Noise:
    _checked(noise=text, seed=seed)
    found = noises.parse(text, seed=seed)
    if len(found) != 1:
        raise InputError(f"one noise level is asked for, not {len(found)}: {text}")
    return found[0]


_RESOURCES = {
    "cpus_per_trial": "cpus",
    "gpus_per_trial": "gpus",
    "max_concurrent": "max_concurrent",
    "address": "address",
    "checkpoint_every": "checkpoint_every",
    "trial_timeout": "trial_timeout",
}


def _resources(data_root: Path, asked: dict[str, Any], remote: bool = False, here: bool = True) -> "Resources":
    from raystudy.running.resources import resources

    for key in asked:
        if key not in _RESOURCES:
            raise unknown("argument", key, _RESOURCES)
    _checked(**{key: value for key, value in asked.items() if key != "gpus_per_trial"})
    gpus = asked.get("gpus_per_trial")
    if gpus not in (None, "auto") and (isinstance(gpus, bool) or not isinstance(gpus, NUMBER)):
        raise InputError(f"gpus_per_trial is {shown(gpus)}; it must be a number or 'auto'")
    return resources(data_root, remote=remote, here=here, **{_RESOURCES[key]: value for key, value in asked.items()})


def _plan(
    study: design.Study,
    data_root: Path,
    storage: str | PathLike[str],
    probe_seconds: float,
    asked: dict[str, Any],
    longer: bool = False,
) -> "Plan":
    from raystudy.record import storage as storages
    from raystudy.running import plan
    from raystudy.running.budget import PRICES, price

    _checked(storage=storage, probe_seconds=probe_seconds)
    found = _resources(data_root, asked, here=False)
    charge = price(PRICES, None, found.cpus, found.gpus)
    return plan.made(
        study, storages.folder(str(storage)).expanduser().absolute(), found, charge, probe_seconds, longer=longer
    )
