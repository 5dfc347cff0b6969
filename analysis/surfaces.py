"""Hyperparameters: which of them matter (Optuna's importance), where the best ones lie as the noise rate grows, and what follows for
a rate that was not run.

A point is scaled to the unit cube of its search space, logarithmically where the space is. The space is in the header of every cell;
ledgers from before that get the range that was tried.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray

from analysis import truth
from analysis.select import RULES, VAL, chosen, paper, searched, value
from raystudy.design.study import Cell
from raystudy.record.ledger import CellHistory, TrialHistory

Point = Mapping[str, Any]
FEW = 8  # finished trials below which nothing is said about importance
FAR = 0.2  # root mean square distance per dimension of the unit cube, beyond which a trial stands for no other point


class Axis(NamedTuple):
    """One searched hyperparameter: an interval, or choices. Fields as in a search space."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    or_zero: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def unit(self, v: Any) -> float:
        """A value in [0, 1]; the extra value 0 of ``or_zero`` lies a fifth of the range below it."""
        if self.choices:
            return self.choices.index(v) / max(1, len(self.choices) - 1) if v in self.choices else math.nan
        if self.or_zero and v == 0:
            return -0.2
        low, high, v = (math.log(x) if self.log else x for x in (self.low, self.high, v))
        return (v - low) / (high - low) if high > low else 0.5

    def value(self, u: float) -> Any:
        """The inverse of ``unit``, from anywhere on the line."""
        if self.choices:
            return self.choices[min(len(self.choices) - 1, max(0, round(u * (len(self.choices) - 1))))]
        if self.or_zero and u < -0.1:
            return 0 if self.integer else 0.0
        u = min(1.0, max(0.0, u))
        found = self.low * (self.high / self.low) ** u if self.log else self.low + u * (self.high - self.low)
        return round(found) if self.integer else found


def axes(histories: Iterable[CellHistory]) -> list[Axis]:
    """The search space that some cells of one method share, without hyperparameters that never varied."""
    cells = list(histories)
    points = [t.point for c in cells for t in searched(c)]
    space = next((c.header["space"] for c in cells if c.header.get("space")), None)
    if space is not None:
        found = [Axis(**(d | {"choices": tuple(d.get("choices", ()))})) for d in space.values()]
    else:
        found = [_inferred(n, [p[n] for p in points if n in p]) for n in dict.fromkeys(n for p in points for n in p)]
    return [a for a in found if len({repr(p.get(a.name)) for p in points}) > 1]


def _inferred(name: str, values: Sequence[Any]) -> Axis:
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values) or len(set(numbers)) < 2:
        return Axis(name, choices=tuple(dict.fromkeys(values)))
    positive = [v for v in numbers if v > 0]
    or_zero, low = 0 in numbers and len(set(positive)) > 1, min(positive or numbers)
    low = low if or_zero else min(numbers)
    return Axis(
        name, low, max(numbers), low > 0 and max(numbers) > 10 * low, or_zero, all(isinstance(v, int) for v in numbers)
    )


def _distribution(a: Axis) -> optuna.distributions.BaseDistribution:
    if a.choices:
        return optuna.distributions.CategoricalDistribution([repr(c) for c in a.choices])
    if a.integer:
        return optuna.distributions.IntDistribution(int(a.low), int(a.high), log=a.log)
    return optuna.distributions.FloatDistribution(a.low, a.high, log=a.log)


def importance(cells: Sequence[CellHistory], metric: str = VAL) -> dict[str, float]:
    """Optuna's importance (PED-ANOVA, Watanabe et al. 2023) of each hyperparameter for the search objective; sums to 1.

    Over several cells the objective counts from each cell's median. An ``or_zero`` interval has the importance of its switch and
    of its value together. Empty below ``FEW`` finished trials.
    """
    dims = axes(cells)
    trials: list[tuple[TrialHistory, float]] = []
    for c in cells:
        done = [(t, v) for t in searched(c) if t.state == "complete" and math.isfinite(v := value(t, metric))]
        middle = float(np.median([v for _, v in done])) if done else 0.0
        trials += [(t, v - middle) for t, v in done if all(a.name in t.point for a in dims)]
    if len(trials) < FEW or not dims or len({round(v, 9) for _, v in trials}) < 2:
        return {}
    spaces: dict[str, optuna.distributions.BaseDistribution] = {}
    for a in dims:
        spaces[a.name] = _distribution(a)
        if a.or_zero:
            spaces[f"{a.name}>0"] = optuna.distributions.CategoricalDistribution([False, True])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    for t, v in trials:
        params: dict[str, Any] = {}
        for a in dims:
            told = t.point[a.name]
            if a.or_zero:
                params[f"{a.name}>0"] = told != 0
                told = told if told != 0 else a.value(0.5)
            params[a.name] = repr(told) if a.choices else told if a.integer else float(told)
        if all(spaces[n]._contains(spaces[n].to_internal_repr(p)) for n, p in params.items()):
            study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=v))
    n = len(study.get_trials(deepcopy=False))
    if n < FEW:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, 3 / n))
        raw = optuna.importance.get_param_importances(study, evaluator=evaluator)
    out = {a.name: raw.get(a.name, 0.0) + raw.get(f"{a.name}>0", 0.0) for a in dims}
    return dict(sorted(out.items(), key=lambda kv: -kv[1]))


# -- best points over noise rates


class Level(NamedTuple):
    """What a cell says about its rate."""

    rate: float
    best: TrialHistory
    first: TrialHistory | None  # the published point
    top: list[TrialHistory]  # the best quarter of the finished trials by noisy validation, at least two
    done: list[TrialHistory]


class Surface(NamedTuple):
    """Best points of one method on one data set and kind of noise, over its rates."""

    method: str
    dataset: str
    noise: str  # kind and variant, and what is not the study's
    axes: list[Axis]
    levels: list[Level]  # by rate


def surfaces(histories: Mapping[Cell, CellHistory]) -> list[Surface]:
    """The surfaces of a study: of each method that was searched at two rates or more of one kind of noise."""
    groups: dict[tuple[Any, ...], list[tuple[Cell, CellHistory]]] = {}
    for cell, history in histories.items():
        noise = cell.noise
        groups.setdefault((cell.method, cell.dataset, noise.kind, noise.variant, cell.suffix), []).append(
            (cell, history)
        )
    out = []
    for (method, dataset, kind, variant, suffix), members in groups.items():
        levels = []
        for cell, history in members:
            metric = history.header.get("objective", VAL)
            done = [t for t in searched(history) if t.state == "complete" and math.isfinite(value(t, metric))]
            rate = truth.rate(cell.noise, history.header)
            if (best := chosen(history, metric)) and not math.isnan(rate):
                ranked = sorted(done, key=lambda t: (-value(t, metric), t.number))
                top = ranked[: max(2, math.ceil(len(ranked) / 4))]
                levels.append(Level(rate, best, paper(history), top, done))
        dims = axes(h for _, h in members)
        if len(levels) > 1 and dims:
            levels.sort(key=lambda level: level.rate)
            out.append(Surface(method, dataset, ":".join(filter(None, (kind, variant))) + suffix, dims, levels))
    return out


def recommend(dims: Sequence[Axis], levels: Sequence[Level], rate: float) -> dict[str, Any]:
    """The point for a rate: each hyperparameter interpolated between the chosen ones of the two neighbouring rates, linearly on the
    scale of its space; a choice, or a value next to the extra value 0, from the nearer rate. Beyond the outermost rates it is theirs.
    """
    rates = [level.rate for level in levels]
    nearest = levels[min(range(len(rates)), key=lambda i: abs(rates[i] - rate))]
    out = {}
    for a in dims:
        us = [a.unit(level.best.point.get(a.name, a.low)) for level in levels]
        i = int(np.clip(np.searchsorted(rates, rate), 1, len(rates) - 1))
        mixed = a.choices or any(math.isnan(u) or u < 0 for u in us[i - 1 : i + 1])
        plain = nearest.best.point.get(a.name)
        out[a.name] = plain if mixed else a.value(float(np.interp(rate, rates, us)))
    return out


class Transfer(NamedTuple):
    """How a recommendation does at a level it was made without; test accuracies under last10, on the search's own seed."""

    rate: float
    point: dict[str, Any]
    inside: bool  # interpolated, not taken from the outermost level
    near: float  # of the nearest finished trial of that level
    distance: float  # of that trial from the recommendation, see FAR
    predicted: float  # at the recommendation, by a Gaussian process over that level's trials; NaN below FEW
    error: float  # its standard deviation
    tuned: float  # of the point the level's own search chose
    published: float


def leave_one_out(s: Surface) -> list[Transfer]:
    """Each level's recommendation from the other levels, judged by the trials that were run at that level: an estimate without a new
    training, good as far as the nearest trial is near."""
    out: list[Transfer] = []
    rule = RULES["last10"]
    if len(s.levels) < 3:
        return out
    for i, level in enumerate(s.levels):
        others = s.levels[:i] + s.levels[i + 1 :]
        point = recommend(s.axes, others, level.rate)
        target, cube = _units(s.axes, point), np.array([_units(s.axes, t.point) for t in level.done])
        distance = np.sqrt(np.nanmean((cube - target) ** 2, axis=1))
        k = int(np.argmin(distance))
        predicted, error = _regressed(cube, np.array([rule(t) for t in level.done]), target)
        inside = others[0].rate <= level.rate <= others[-1].rate
        published = rule(level.first) if level.first and level.first.state == "complete" else math.nan
        tuned = rule(level.best)
        out.append(
            Transfer(
                level.rate, point, inside, rule(level.done[k]), float(distance[k]), predicted, error, tuned, published
            )
        )
    return out


def _units(dims: Sequence[Axis], point: Point) -> NDArray[np.float64]:
    return np.array([a.unit(point[a.name]) if a.name in point else math.nan for a in dims])


def _regressed(x: NDArray[np.float64], y: NDArray[np.float64], at: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation at a point of a Gaussian process with noise over trials [n, d]."""
    known = ~np.isnan(x).any(1) & ~np.isnan(y)
    if known.sum() < FEW or np.isnan(at).any() or np.ptp(y[known]) == 0:
        return math.nan, math.nan
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0) * RBF(0.5 * math.sqrt(x.shape[1]), (0.1, 10.0)) + WhiteKernel(0.1, (1e-3, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of lengths at the end of their range
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0).fit(x[known], y[known])
        mean, error = process.predict(at[None], return_std=True)
    return float(mean[0]), float(error[0])
