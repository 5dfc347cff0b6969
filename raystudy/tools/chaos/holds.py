"""What must hold of a study that has come to its end, whatever was done to it on the way."""

from collections import Counter
from pathlib import Path
from typing import Any

from raystudy.errors import InputError
from raystudy.record.ledger import cells, replay
from raystudy.tools.chaos.bout import Bout

BAD = ("failed", "diverged")


def outcome(study: Path) -> dict[str, Any]:
    """Per cell what was tried, decided and measured, without the clock. Raises InputError where there is no study."""
    found = {}
    for path in cells(study):
        found[path.stem] = sorted(
            (
                t.number,
                t.origin,
                sorted(t.point.items()),
                t.seed,
                t.state,
                t.reason,
                {k: str(list(v)) for k, v in sorted(t.curves.items()) if k != "cost/seconds"},
            )
            for t in replay(path).trials.values()
        )
    if not found:
        raise InputError(f"there is no study in {study}")
    return found


def leaderboard(study: Path) -> list[list[str]]:
    """The columns of the leaderboard as it is printed, without the clock's."""
    from analysis import load, tables

    columns = tables.leaderboard(*load.study(study)).columns
    return [[str(c.header), *map(str, c.cells)] for c in columns if c.header != "s/run"]


def lost_or_repeated(bout: Bout) -> list[str]:
    """What is wrong with the ledger itself."""
    told = Counter((e["event"], e.get("key"), e.get("epoch")) for e in bout.events() if e["event"] != "cell")
    wrong = [f"{n} times in the ledger: {what}" for what, n in told.items() if n > 1]
    now = bout.ends()
    wrong += [
        f"trial {k} had ended ({state}) and is now {now.get(k)}"
        for k, state in bout.ended.items()
        if now.get(k) != state
    ]
    started = {key for what, key, _ in told if what == "trial"}
    return wrong + [f"trial {key} never ended" for key in started - set(now)]


def amiss_in_mlflow(study: Path, uri: str) -> list[str]:
    """How MLflow differs from the ledger."""
    from raystudy.tracking import projection, store

    client = store.connect(uri)
    experiment = client.get_experiment_by_name(study.name)
    if experiment is None:
        return ["MLflow has no experiment of the study"]
    runs = list(client.search_runs([experiment.experiment_id], max_results=1000))
    trials = {t.key: t for path in cells(study) for t in replay(path).trials.values()}
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    wrong = []
    have = Counter(r.data.tags["raystudy.key"] for r in children)
    if have != Counter(list(trials)):
        wrong.append(f"MLflow has {sum(have.values())} runs of {len(have)} trials, the ledger {len(trials)}")
    if len(runs) - len(children) != len(cells(study)):
        wrong.append(f"MLflow has {len(runs) - len(children)} runs for {len(cells(study))} cells")
    if open_ := [r.info.run_name for r in runs if r.info.status not in projection.ENDS]:
        wrong.append(f"not ended in MLflow: {', '.join(open_)}")
    for run in children:
        curve = client.get_metric_history(run.info.run_id, "val/acc")
        want = list(trials[run.data.tags["raystudy.key"]].curves.get("val/acc", ()))
        if [m.value for m in sorted(curve, key=lambda m: m.step)] != want:
            wrong.append(f"the curve of {run.info.run_name} in MLflow is not the ledger's")
    return wrong


def violations(bout: Bout) -> list[str]:
    """All that does not hold of a study that has come to its end."""
    wrong = lost_or_repeated(bout)
    failed = [(e["state"], e["reason"]) for e in bout.events() if e["event"] == "end" and e["state"] in BAD]
    if bout.failing:
        state, words = bout.failing
        if len(failed) != 1 or failed[0][0] != state or words not in failed[0][1]:
            wrong.append(f"wanted one trial {state} for {words!r}, found {failed}")
    elif bout.undisturbed:
        found, want = outcome(bout.study), outcome(bout.undisturbed.study)
        differ = [name for name in sorted({*found, *want}) if found.get(name) != want.get(name)]
        differ += ["the leaderboard"] * (leaderboard(bout.study) != leaderboard(bout.undisturbed.study))
        wrong += [f"not what an undisturbed run has: {', '.join(differ)}"] * bool(differ)
    return wrong + amiss_in_mlflow(bout.study, bout.store)
