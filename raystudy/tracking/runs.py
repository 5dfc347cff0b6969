"""What MLflow's runs are called and tagged, and their parameters: made of the ledger's histories, and of nothing in MLflow."""

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis import truth
from raystudy.record.ledger import CellHistory, TrialHistory
from raystudy.tracking import views

Point = tuple[int, int, float]  # step, time and value of a metric's newest point

OWN = ("network", "epochs", "recipe", "filter")  # of a cell where they are not the study's


def ended(trial: TrialHistory) -> int:
    """When a trial's run ends: with its trial, or with the last that was heard of it."""
    return trial.ended or (trial.times[-1] if trial.epochs else trial.started)


def points(trial: TrialHistory, last: Mapping[str, Point]) -> dict[tuple[str, int], tuple[int, float]]:
    """What the ledger tells in place of a run's newest points: time and value by metric and epoch, as far as it tells them."""
    return {
        (name, epoch): (trial.times[epoch], trial.curves[name][epoch])
        for name, (epoch, _, _) in last.items()
        if name in trial.curves and epoch < trial.epochs
    }


def agree(last: Mapping[str, Point], told: Mapping[tuple[str, int], tuple[int, float]]) -> bool:
    """Whether a run's newest points are those that the ledger tells, where it tells any."""
    for name, (step, time, value) in last.items():
        when, what = told.get((name, step), (time, value))
        if when != time or not math.isclose(what, value, rel_tol=1e-9):
            return False
    return True


def last_time(history: CellHistory) -> int:
    times = [max(t.started, t.ended, t.times[-1] if t.epochs else 0) for t in history.trials.values()]
    return max([history.header["time"], *times])


def progress(history: CellHistory, known: int) -> list[Any]:
    """Metrics of the search, a step a trial: the best noisy validation so far, and the test accuracy of the point that has it.

    Trials count in the order of their numbers up to the first that has not ended, so that what was told never changes.
    """
    from mlflow.entities import Metric

    from analysis.select import RULES, VAL, value

    metric, out, best, when = history.header.get("objective", VAL), [], None, 0
    searched = sorted((t for t in history.trials.values() if t.origin != "replicate"), key=lambda t: t.number)
    for step, trial in enumerate(searched):
        if trial.state == "running":
            break
        when = max(when, trial.ended)
        known_value = trial.state == "complete" and not math.isnan(value(trial, metric))
        if known_value and (best is None or value(trial, metric) > value(best, metric)):
            best = trial
        if best is not None and step >= known:
            shown = (abs(value(best, metric)), RULES["noisy_val"](best))
            out += [Metric(n, v, when, step) for n, v in zip(views.SEARCH, shown, strict=True) if math.isfinite(v)]
    return out


def noise_label(noise: dict[str, Any]) -> str:
    from raystudy.data.noise import Noise

    with contextlib.suppress(ValueError, TypeError):
        return Noise(**noise).label
    return f"{noise.get('kind')}:{noise.get('rate')}"  # a kind that this version does not know (any more)


def condition(cell: dict[str, Any]) -> str:
    return f"{cell['dataset']} {noise_label(cell['noise'])}"


def cell_name(history: CellHistory) -> str:
    """Method and level first: MLflow's lists show no more than the beginning."""
    cell = history.header["cell"]
    kind, _, level = noise_label(cell["noise"]).rpartition(":")
    own = [f"{v} epochs" if name == "epochs" else v for name in OWN if (v := cell.get(name))]
    return " ".join(word for word in (cell["method"], level, kind, cell["dataset"], *own) if word)


def trial_name(trial: TrialHistory) -> str:
    seed = f" seed {trial.seed}" if trial.origin == "replicate" else ""
    return f"#{trial.number} {trial.origin}{seed}{' (oracle)' if trial.oracle else ''}"


def cell_tags(study_dir: Path, history: CellHistory) -> dict[str, str]:
    """The tags that all runs of a cell have."""
    header, cell = history.header, history.header["cell"]
    tags = {
        "raystudy.study": study_dir.absolute().name,
        "raystudy.cell": history.key,
        "method": cell["method"],
        "dataset": cell["dataset"],
        "noise": cell["noise"]["kind"],
        "rate": f"{cell['noise']['rate']:g}",
    }
    if cell["noise"].get("variant"):
        tags["variant"] = cell["noise"]["variant"]
    if header.get("effective_rate") is not None:
        tags["effective_rate"] = f"{header['effective_rate']:.4g}"
    if not truth.tested_clean(header):
        tags["test_labels"] = "given"
    if header.get("assumed"):
        tags["noise.relative_to"] = "labels as they came"
    if header.get("filter"):
        tags["filter"] = header["filter"]
    if header.get("commit"):
        tags["mlflow.source.git.commit"] = header["commit"]
    return tags | {f"version.{name}": str(version) for name, version in header.get("versions", {}).items()}


def trial_tags(trial: TrialHistory) -> dict[str, str]:
    tags = {"raystudy.role": "trial", "raystudy.key": trial.key, "raystudy.number": str(trial.number)}
    tags["raystudy.origin"] = trial.origin
    return tags | ({"raystudy.oracle": ", ".join(trial.oracle)} if trial.oracle else {})


def end_tags(trial: TrialHistory) -> dict[str, str]:
    if trial.state == "running":
        return {}
    return {"raystudy.state": trial.state} | ({"raystudy.reason": trial.reason[:5000]} if trial.reason else {})


def cell_params(history: CellHistory) -> dict[str, str]:
    """What cells are compared by: the axes of a plot over cells."""
    header, cell = history.header, history.header["cell"]
    told = {"method": cell["method"], "dataset": cell["dataset"], "noise": cell["noise"]["kind"]}
    told |= {"rate": f"{cell['noise']['rate']:g}", "network": header.get("network"), "epochs": header.get("epochs")}
    told |= {"recipe": cell.get("recipe"), "evaluate": header.get("evaluate")}
    return {name: str(value)[:6000] for name, value in told.items() if value is not None}


def params(history: CellHistory, trial: TrialHistory) -> dict[str, str]:
    header = history.header
    told = {f"recipe.{name}": value for name, value in header.get("recipe", {}).items()}
    told |= {name: header[name] for name in ("network", "epochs", "evaluate") if name in header}
    told |= trial.point | {"seed": trial.seed} | ({"epochs": trial.planned} if trial.planned else {})
    return {name: str(value)[:6000] for name, value in told.items()}
