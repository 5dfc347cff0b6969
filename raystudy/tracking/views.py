"""How a study is looked at in MLflow's UI: saved views of its experiment, each one click away.

Here belongs what the UI of MLflow 3.17 keeps of a view, and nothing else; ``projection`` writes it, ``raystudy ui`` prints the links.

A saved view is an experiment tag ``mlflow.sharedViewState.<id>``: an envelope (name, createdAt, updatedAt, state) around the state of the
runs page as the UI itself writes it (search, columns, sections, charts). The page's list of saved views offers it, and the parameter
``viewStateShareKey=<id>`` opens it. Our views are written anew when they change, so changes of your own belong in a view of your own.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from raystudy.tracking.places import BUSY, GONE, THERE

TAG = "mlflow.sharedViewState."
STUDY, CELLS, NOISE, CURVES, TRIALS = "study", "cells", "noise", "curves", "trials-"
PLACES = "places"
MOST = 100  # runs in one comparison: beyond that MLflow's plots become slow or break
MOST_VIEWS = 60  # cells of which each has a saved view of its trials: MLflow loads all of them with each page
LISTED = 12  # cells of which each has a link of its own beside those of the study
SUMMARY = ("tuned/noisy_val", "tuned/last", "tuned/last10", "paper/noisy_val", "paper/last10", "tuned/ORACLE")
SEARCH = ("search/best_val", "search/test_of_best")  # over the trials of a cell, by number
TRAINING = ("test/acc", "val/acc", "train/loss", "label/memorised", "select/auroc")
BY_NOISE = "noise/last10"  # of a training behind a cell's tuned numbers; its step is the noise level in percent


def page(experiment: str) -> str:
    """Where an experiment is in MLflow's UI. In 3.17 this parameter, not the experiment's kind, picks the view."""
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning"


def links(experiment: str, cells: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """What can be looked at, with its place in the UI: the table, the saved views, and the cells side by side.

    ``cells``: name and run's id by the cell's key; a comparison of more than ``MOST`` is left out, and the trials of each of more than
    ``LISTED``.
    """
    found = {STUDY: f"{page(experiment)}&viewStateShareKey={STUDY}"}
    for view in (CELLS, NOISE, CURVES):
        found[view] = f"{page(experiment)}&viewStateShareKey={view}&compareRunsMode=CHART"
    if 1 < len(cells) <= MOST:
        ids = [run for _, run in cells.values()]
        told = (quote(json.dumps(list(i), separators=(",", ":"))) for i in (ids, [experiment]))
        found["compare"] = "/#/compare-runs?runs={}&experiments={}".format(*told)
    if len(cells) <= LISTED:
        found |= {f"trials of {name}": trials(experiment, key, len(cells)) for key, (name, _) in cells.items()}
    return found


def trials(experiment: str, cell: str, cells: int) -> str:
    """Where the trials of one cell of so many are: a saved view, or of very many cells MLflow's own charts of those runs."""
    if cells <= MOST_VIEWS:
        return f"{page(experiment)}&viewStateShareKey={quote(trials_of(cell))}&compareRunsMode=CHART"
    which = quote(_trials(cell), safe="")
    sorted_by = quote("metrics.`val/acc`", safe="")
    return f"{page(experiment)}&searchFilter={which}&orderByKey={sorted_by}&orderByAsc=false&compareRunsMode=CHART"


def trials_of(cell: str) -> str:
    """The id of the view on a cell's trials; MLflow's tags have room for 250 characters."""
    return TRIALS + (cell if len(cell) <= 150 else hashlib.sha256(cell.encode()).hexdigest()[:20])


def _trials(cell: str) -> str:
    return f"tags.`raystudy.role` = 'trial' and tags.`raystudy.cell` = '{cell}'"


def saved(
    begun: int, cells: Mapping[str, tuple[str, Sequence[str]]], by: Sequence[str] = ("method",)
) -> dict[str, str]:
    """The tags that save a study's views.

    ``begun`` is when the experiment was made (ms), ``cells`` name, and hyperparameters that all points have, by the key of each cell whose
    trials get a view. ``by``: the tags by which a study's conditions differ beside the level. The same arguments give the same text.
    """
    charts = [
        _scatter("accuracy against noise", "rate", "tuned/last10"),
        *(_bar(m) for m in SUMMARY),
        _parallel("cells", ["method", "rate"], ["paper/last10", "tuned/last10"]),
        *(_line(m) for m in SEARCH),
    ]
    columns = ["params.`method`", "params.`rate`"]
    columns += [f"metrics.`{m}`" for m in (*SUMMARY, "cost/seconds", "trials/complete", "trials/pruned")]
    views = {
        STUDY: ("Study: a row a cell, its trials folded below", _state("", columns, charts)),
        CELLS: ("Cells: the numbers to compare", _state("tags.`raystudy.role` = 'cell'", columns, charts)),
    }
    tuned = "tags.`raystudy.tuned` != ''"
    columns = [f"metrics.`{m}`" for m in (BY_NOISE, *TRAINING[:2])]
    charts = [_line(BY_NOISE, "accuracy against noise in percent: mean and range over replicates")]
    views[NOISE] = ("Noise: accuracy against noise, a line a method", _state(tuned, columns, charts, BY_NOISE, by=by))
    columns = [f"metrics.`{m}`" for m in TRAINING]
    state = _state(tuned, columns, [_line(m) for m in TRAINING], "val/acc", by=["raystudy.tuned"])
    views[CURVES] = ("Curves: the tuned trainings, mean of each cell", state)
    for cell, (name, hyperparameters) in cells.items():
        known = [*(f"params.`{n}`" for n in hyperparameters), *(f"metrics.`{m}`" for m in TRAINING[:2])]
        charts = [_line("val/acc"), _line("test/acc")]
        if hyperparameters:
            charts.insert(0, _parallel(f"points of {name}", list(hyperparameters), ["test/acc", "val/acc"]))
        views[trials_of(cell)] = (f"Trials of {name}", _state(_trials(cell), known, charts, "val/acc"))
    charts = [_line(THERE, "", THERE, BUSY), _line(GONE)]
    views[PLACES] = (
        "Places: how many there were, and how many were busy",
        _state(f"metrics.`{THERE}` > 0", [], charts),
    )
    return {
        TAG + view: json.dumps({"name": name, "createdAt": begun, "updatedAt": begun, "state": json.dumps(state)})
        for view, (name, state) in views.items()
    }


def _state(
    which: str, columns: list[str], charts: list[dict[str, Any]], sort: str = "", by: Sequence[str] = ()
) -> dict[str, Any]:
    """A runs page: which runs, which columns, our charts in a section above those that MLflow makes by itself.

    Runs sorted by a metric (``sort``, highest first) are a flat list; sorted by time they are folded below their parents.
    """
    section = {"uuid": "raystudy", "name": "comparison", "display": True, "isReordered": True}
    keys = [{"mode": "tag", "groupByData": tag} for tag in by]
    group = {"aggregateFunction": "average", "groupByKeys": keys} if by else None
    return {
        "searchFilter": which,
        **({"orderByKey": f"metrics.`{sort}`", "orderByAsc": False} if sort else {}),
        "selectedColumns": columns,
        "compareRunCharts": charts,
        "compareRunSections": [{**section, "deleted": False, "isGenerated": False}],
        "isAccordionReordered": True,  # or sections would stand by name
        "runsHiddenMode": "SHOW_ALL",
        "groupBy": group,
    }


def _chart(kind: str, name: str, **told: Any) -> dict[str, Any]:
    common = {"metricSectionId": "raystudy", "deleted": False, "isGenerated": False, "runsCountToCompare": MOST}
    return {"uuid": f"raystudy {kind} {name}", "type": kind, "displayName": name, **common, **told}


def _parallel(name: str, params: list[str], metrics: list[str]) -> dict[str, Any]:
    return _chart("PARALLEL", name, selectedParams=params, selectedMetrics=metrics, showAllRuns=True)


def _bar(metric: str) -> dict[str, Any]:
    return _chart("BAR", metric, metricKey=metric)


def _scatter(name: str, param: str, metric: str) -> dict[str, Any]:
    return _chart("SCATTER", name, xaxis={"key": param, "type": "PARAM"}, yaxis={"key": metric, "type": "METRIC"})


def _line(metric: str, name: str = "", *together: str) -> dict[str, Any]:
    scales = {"xAxisScaleType": "linear", "scaleType": "linear", "xAxisKey": "step", "yAxisKey": "metric"}
    ranges: dict[str, Any] = {"range": {}, "yAxisExpressions": [], "ignoreOutliers": False}
    common = {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "lineSmoothness": 0}
    return _chart(
        "LINE",
        name or metric,
        metricKey=metric,
        selectedMetricKeys=list(together) or [metric],
        selectedXAxisMetricKey="",
        **scales,
        **ranges,
        **common,
    )
