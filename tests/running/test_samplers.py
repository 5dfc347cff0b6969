"""What samplers propose: the same from the same trials, and, where they learn, ever nearer to what is good."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from raystudy import cli
from raystudy.data.noise import Noise
from raystudy.design.names import AUTO
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.running import samplers
from raystudy.running.samplers import remark, sampler, settled
from raystudy.running.sweep import grown

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = {"a": FloatDistribution(1e-3, 1.0, log=True), "b": FloatDistribution(-1.0, 1.0)}


def told(n: int, name: str) -> optuna.Study:
    """A study whose trials are best at a = 0.1, b = 0.5, each proposed from those before it."""
    study = optuna.create_study(direction="maximize")
    for number in range(n):
        study.sampler = sampler(name, 7, number, 0)
        trial = study.ask(SPACE)
        a, b = trial.params["a"], trial.params["b"]
        study.tell(trial, -((math.log10(a) + 1) ** 2) - (b - 0.5) ** 2)
    return study


def test_cmaes_comes_near_what_is_best_and_stays_inside() -> None:
    study = told(60, "cmaes")
    late = study.trials[-12:]
    assert all(1e-3 <= t.params["a"] <= 1 and -1 <= t.params["b"] <= 1 for t in study.trials)
    early = sorted(t.value for t in study.trials[:12])[6]  # type: ignore[type-var]
    assert sorted(t.value for t in late)[6] > early  # type: ignore[type-var, operator]
    assert study.best_value > -0.05


@pytest.mark.parametrize("name", ["cmaes", "tpe"])
def test_a_proposal_follows_from_the_trials_that_have_ended(name: str) -> None:
    """A study rebuilt from how its trials ended proposes the same next point."""
    first = told(15, name)
    again = optuna.create_study(direction="maximize")
    for t in first.trials:
        again.add_trial(create_trial(params=t.params, distributions=t.distributions, value=t.value))

    def following(study: optuna.Study) -> dict[str, Any]:
        study.sampler = sampler(name, 7, 15, 0)
        return study.ask(SPACE).params

    assert following(first) == following(again)


def test_cmaes_ranks_what_was_stopped_behind_what_was_not() -> None:
    """Ten trials, nine of them stopped with better values: the complete one leads."""

    def proposals(kept: float) -> list[float]:
        study = optuna.create_study(direction="maximize")
        for i in range(6):
            b = (-0.9, -0.5, -0.1, 0.1, 0.5, 0.9)[i]
            params = {"a": 0.03, "b": b}
            whole = b == kept
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE if whole else TrialState.PRUNED,
                    params=params,
                    distributions=SPACE,
                    value=0.1 if whole else None,
                    intermediate_values={9: 0.1} if whole else {2: 0.9},
                )
            )
        # a space that complete trials share is needed
        out = []
        for number in range(40):
            study.sampler = sampler("cmaes", 7, number, 0)
            trial = study.ask(SPACE)
            out.append(trial.params["b"])
            study.tell(trial, state=TrialState.FAIL)
        return out

    low, high = proposals(-0.9), proposals(0.9)
    assert sum(low) / 40 < sum(high) / 40


def test_tpe_is_asked_as_documented() -> None:
    assert samplers.TPE["n_startup_trials"] == samplers.STARTUP == 4


def left() -> Study:
    """A study whose sampler is left to the rule."""
    return Study("s", ("mixup",), ("digits",), (Noise("symmetric", 0.4),), 20, 1, 9, "mlp", sampler=AUTO)


def test_auto_is_settled_when_a_study_begins_and_stays(tmp_path: Path) -> None:
    """Whatever the rule would say of it now."""
    begun, there = grown(left(), tmp_path)
    assert (begun.sampler, there) == ("tpe", False)
    assert remark(left(), begun) == "sampler auto: tpe, no other was measurably sooner"
    (tmp_path / "study.toml").write_text(replace(begun, sampler="qmc").to_toml())
    again, there = grown(left(), tmp_path)
    assert (again.sampler, there) == ("qmc", True)
    assert remark(left(), again) == "sampler auto: qmc, with which the study was begun"
    with pytest.raises(InputError, match="begun with sampler='qmc', now 'gp'"):
        grown(replace(left(), sampler="gp"), tmp_path)


def test_a_sampler_that_is_named_is_not_touched() -> None:
    named = replace(left(), sampler="qmc")
    assert settled(named) is named
    assert remark(named, named) == ""


@pytest.mark.parametrize("command", [("sweep", "--dry-run"), ("plan", "--probe-seconds", "0")])
def test_what_auto_stands_for_is_said_before_anything_runs(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [command[0], "mixup", "--noise", "symmetric:0.4", "--sampler", "auto", *command[1:]]
    assert cli.main(asked) == 0
    assert "sampler auto: tpe, no other was measurably sooner" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_sweep_imports_no_sampler_that_it_does_not_use() -> None:
    """cmaes brings scipy.stats, a second on the way to the first record."""
    told = "import sys, raystudy.running.search; print({'cmaes', 'scipy.stats', 'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
