"""How a study is looked at in MLflow's UI: saved views of its experiment, each one click away.

Here belongs what the UI of MLflow 3.17 keeps of a view, and nothing else; ``projection`` writes it, ``raystudy ui`` prints the links.

A saved view is an experiment tag ``mlflow.sharedViewState.<id>``: an envelope (name, createdAt, updatedAt, state) around the state of the
runs page as the UI itself writes it (search, columns, sections, charts). The page's list of saved views offers it, and the parameter
``viewStateShareKey=<id>`` opens it. Our views are written anew when they change, so changes of your own belong in a view of your own.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from raystudy.tracking.places import BUSY, GONE, THERE

TAG = "mlflow.sharedViewState."
STUDY, CELLS, CURVES = "study", "cells", "curves"
PLACES = "places"
MOST = 100  # runs in one comparison: beyond that MLflow's plots become slow or break
SUMMARY = ("tuned/noisy_val", "tuned/last", "tuned/last10", "paper/noisy_val", "paper/last10", "tuned/ORACLE")
SEARCH = ("search/best_val", "search/test_of_best")  # over the trials of a cell, by number
TRAINING = ("test/acc", "val/acc", "train/loss", "label/memorised", "select/auroc")


def page(experiment: str) -> str:
    """Where an experiment is in MLflow's UI. In 3.17 this parameter, not the experiment's kind, picks the view."""
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning"


def links(experiment: str, methods: Iterable[str], runs: Sequence[str]) -> dict[str, str]:
    """What can be looked at, with its place in the UI: the table, the saved views, and the cells side by side.

    ``runs`` are the ids of the cells' runs; a comparison of more than ``MOST`` is left out.
    """
    found = {STUDY: f"{page(experiment)}&viewStateShareKey={STUDY}"}
    for view in (CELLS, CURVES, *map(trials_of, methods)):
        found[view] = f"{page(experiment)}&viewStateShareKey={quote(view)}&compareRunsMode=CHART"
    if 1 < len(runs) <= MOST:
        told = (quote(json.dumps(list(ids), separators=(",", ":"))) for ids in (runs, [experiment]))
        found["compare"] = "/#/compare-runs?runs={}&experiments={}".format(*told)
    return found


def trials_of(method: str) -> str:
    """The id of the view on a method's trials."""
    return f"trials-{method}"


def saved(begun: int, hyperparameters: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The tags that save a study's views.

    ``begun`` is when the experiment was made (ms), ``hyperparameters`` the names that all points of a method have, by method. The
    same arguments give the same text.
    """
    charts = [
        _parallel("cells", ["method", "rate"], ["paper/last10", "tuned/last10"]),
        *(_line(m) for m in SEARCH),
        *(_bar(m) for m in SUMMARY),
    ]
    columns = ["params.`method`", "params.`rate`"]
    columns += [f"metrics.`{m}`" for m in (*SUMMARY, "cost/seconds", "trials/complete", "trials/pruned")]
    views = {
        STUDY: ("Study: a row a cell, its trials folded below", _state("", columns, charts)),
        CELLS: ("Cells: the numbers to compare", _state("tags.`raystudy.role` = 'cell'", columns, charts)),
    }
    columns = [f"metrics.`{m}`" for m in TRAINING]
    charts = [_line(m) for m in TRAINING]
    state = _state("tags.`raystudy.tuned` != ''", columns, charts, "val/acc", by="raystudy.tuned")
    views[CURVES] = ("Curves: the tuned trainings, mean of each cell", state)
    for method, names in hyperparameters.items():
        known = [*(f"params.`{n}`" for n in names), *(f"metrics.`{m}`" for m in TRAINING[:2])]
        charts = [_line("val/acc"), _line("test/acc")]
        if names:
            charts.insert(0, _parallel(f"points of {method}", list(names), ["test/acc", "val/acc"]))
        which = f"tags.`raystudy.role` = 'trial' and tags.`method` = '{method}'"
        views[trials_of(method)] = (f"Trials of {method}", _state(which, ["tags.`rate`", *known], charts, "val/acc"))
    charts = [_line(THERE, THERE, BUSY), _line(GONE)]
    views[PLACES] = (
        "Places: how many there were, and how many were busy",
        _state(f"metrics.`{THERE}` > 0", [], charts),
    )
    return {
        TAG + view: json.dumps({"name": name, "createdAt": begun, "updatedAt": begun, "state": json.dumps(state)})
        for view, (name, state) in views.items()
    }


def _state(
    which: str, columns: list[str], charts: list[dict[str, Any]], sort: str = "", by: str = ""
) -> dict[str, Any]:
    """A runs page: which runs, which columns, our charts in a section above those that MLflow makes by itself.

    Runs sorted by a metric (``sort``, highest first) are a flat list; sorted by time they are folded below their parents.
    """
    section = {"uuid": "raystudy", "name": "comparison", "display": True, "isReordered": True}
    group = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": by}]} if by else None
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


def _line(metric: str, *all_: str) -> dict[str, Any]:
    scales = {"xAxisScaleType": "linear", "scaleType": "linear", "xAxisKey": "step", "yAxisKey": "metric"}
    ranges: dict[str, Any] = {"range": {}, "yAxisExpressions": [], "ignoreOutliers": False}
    common = {"useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "lineSmoothness": 0}
    return _chart(
        "LINE",
        metric,
        metricKey=metric,
        selectedMetricKeys=list(all_) or [metric],
        selectedXAxisMetricKey="",
        **scales,
        **ranges,
        **common,
    )
