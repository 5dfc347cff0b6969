"""What MLflow's runs are called and tagged, and their parameters: made of the ledger's histories, and of nothing in MLflow."""

import contextlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import truth
from analysis.names import shortened
from analysis.tables import point
from raystudy.record.ledger import CellHistory, TrialHistory
from raystudy.tracking import views

Point = tuple[int, int, float]  # step, time and value of a metric's newest point

OWN = ("network", "epochs", "recipe", "filter")  # of a cell where they are not the study's
LONGEST = 200  # characters of a run's name; MLflow's tables take 250
NAME, COLOUR, NOTE = "mlflow.runName", "mlflow.runColor", "mlflow.note.content"  # tags that MLflow's UI reads


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


@dataclass(frozen=True)
class Names:
    """What a study's runs are called: only what tells them from each other, so that nothing of it is cut off where a list is narrow.

    ``kinds``: whether there are several kinds of noise; ``datasets``: short names of the data sets by their own, empty of only one.
    """

    kinds: bool = True
    datasets: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, cells: Iterable[dict[str, Any]]) -> "Names":
        """For the cells of a study, as their headers tell them."""
        cells = list(cells)
        datasets = {cell["dataset"] for cell in cells}
        short = shortened(datasets) if len(datasets) > 1 else {}
        return cls(len({_kind(cell)[0] for cell in cells}) > 1, tuple(sorted(short.items())))

    def cell(self, cell: dict[str, Any]) -> str:
        """Method and level first: MLflow's lists show no more than the beginning."""
        kind, level = _kind(cell)
        own = [f"{v} epochs" if name == "epochs" else v for name in OWN if (v := cell.get(name))]
        seed = [f"seed {cell['noise']['seed']}"] if cell["noise"].get("seed") else []
        words = (cell["method"], level, kind * self.kinds, *seed, dict(self.datasets).get(cell["dataset"], ""), *own)
        return " ".join(word for word in words if word)

    def axes(self) -> list[str]:
        """The tags of runs by which conditions differ, beside the level."""
        return ["method", *(["noise", "variant"] * self.kinds), *(["dataset"] * bool(self.datasets))]


def _kind(cell: dict[str, Any]) -> tuple[str, str]:
    """Kind and level of a cell's noise."""
    kind, _, level = noise_label(cell["noise"]).rpartition(":")
    return kind.removesuffix(":inclusive"), level


def trial_name(history: CellHistory, trial: TrialHistory) -> str:
    """Number and origin, then what tells it from the other trials of its cell: its point, or of a replicate its seed and whose point."""
    told = [f"#{trial.number}", trial.origin]
    if trial.origin == "replicate":
        same = (t.number for t in history.trials.values() if t.origin != "replicate" and t.point == trial.point)
        told += [f"of #{number}" for number in [next(same, None)] if number is not None] + [f"seed {trial.seed}"]
    told += ["(oracle)"] * bool(trial.oracle)
    told += [point(trial.point).replace(", ", " ")] if trial.point and trial.origin != "replicate" else []
    return " ".join(told)[:LONGEST]


def by_noise(history: CellHistory, trial: TrialHistory) -> Any:
    """A training's accuracy as one point over noise levels, a percent of noise a step; None where there is no number.

    MLflow draws metrics over steps alone, so this is how accuracy stands against noise there.
    """
    from mlflow.entities import Metric

    from analysis.select import MAIN, RULES

    rate, reached = history.header["cell"]["noise"]["rate"], RULES[MAIN](trial)
    if not (isinstance(rate, int | float) and math.isfinite(rate) and math.isfinite(reached)):
        return None
    return Metric(views.BY_NOISE, reached, ended(trial), round(100 * rate))


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
