"""What is expected of methods from what was measured elsewhere: by hand, at its limits, and what the shipped results hold."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import recorded

from analysis import load, recommend
from analysis.conditions import CHOSEN, COLUMNS, PUBLISHED, Condition, concentration, known, of_study
from analysis.reference import RESULTS, results
from analysis.select import cell_summary, chosen
from raystudy.data import masks
from raystudy.data.noise import corrupt, pair_matrix, symmetric_matrix
from raystudy.learn.methods import METHODS


def where(rate: float = 0.2, spread: float = 0.0, kind: str = "vectors", n: int = 1000, classes: int = 10) -> Condition:
    return Condition(kind, n, classes, rate, spread)


def row(method: str, values: list[float], rate: float = 0.2, selection: str = PUBLISHED, **more):
    told = {"source": "s", "dataset": "d", "kind": "vectors", "n": 1000, "classes": 10, "network": "mlp", "epochs": 3}
    told |= {"noise": "symmetric", "rate": rate, "effective": rate, "concentration": 0.0, "seconds": 2.0, "oracle": ""}
    told |= {"seen_rate": None, "seen_concentration": None, "point": "{}", "method": method, "selection": selection}
    return told | {"values": values} | more


def test_concentration_by_hand():
    """Evenly 0, all to one 1. [[.8, .15, .05], [0, 1, 0], [.1, .1, .8]]: (.15 + .1) / .4 = .625, from [.5, 1] to .25."""
    assert concentration(symmetric_matrix(10, 0.4, "inclusive")) == pytest.approx(0)
    assert concentration(pair_matrix(10, 0.4)) == pytest.approx(1)
    assert concentration(np.array([[0.8, 0.15, 0.05], [0, 1, 0], [0.1, 0.1, 0.8]])) == pytest.approx(0.25)
    assert concentration(np.eye(3)) == 0  # no noise
    assert concentration(np.array([[0.7, 0.3], [0.2, 0.8]])) == 0  # there is but one other class


def test_distance_by_hand():
    """RATE .15: .2 and .35 are 1 apart; another kind 3; ten times the samples .5; the structure counts as much as there is noise."""
    here = where(0.2)
    far = recommend.distances(
        [here, where(0.35), where(kind="small images"), where(n=10_000), where(0.3, 0.5), where(0.0, 1.0)], here
    )
    by_hand = [0, 1, 3, 0.5, math.hypot(0.1 / 0.15, 0.15 / 0.15), 0.2 / 0.15]
    assert far == pytest.approx(by_hand)
    assert recommend.distances([where(100)], where(100))[0] == 0
    assert recommend.distances([where(classes=100)], here)[0] == pytest.approx(1.5)


def test_expected_by_hand():
    """Two conditions, 0 and 2 away: kernels 1 and e^-2. Gains of b .04 of .05 to gain and .01 of .01, with LITTLE .01 each."""
    gains = np.array([[0.04, 0.05], [0.01, np.nan]])
    k = np.array([1, math.exp(-2)])
    scales, shares = np.array([0.06, 0.02]), np.array([[2 / 3, 5 / 6], [1 / 2, np.nan]])
    mean = np.array([(2 / 3 + 1 / 2) / 3, 5 / 6 / 2])  # drawn to 0 by one condition more
    below = np.array([(2 / 3 - mean[0] + 5 / 6 - mean[1]) / 2, 1 / 2 - mean[0]])
    prior = mean + k @ below / (k.sum() + 0.3)
    b = (k @ shares[:, 0] + 0.3 * prior[0]) / (k.sum() + 0.3)
    c = (shares[0, 1] + 0.3 * prior[1]) / 1.3
    scale = (k @ scales + 0.3 * scales.mean()) / (k.sum() + 0.3)
    assert recommend.expected(gains, np.array([0.0, 2.0])) == pytest.approx([b * scale, c * scale])


def test_far_away_the_mean_decides():
    gains = np.array([[0.10, 0.02], [-0.5, 0.02]])
    found = recommend.expected(gains, np.array([9.0, 9.0]))
    assert found[1] > 0 > found[0]
    assert found[0] > -0.1  # a failure counts for no more than WORST
    near = recommend.expected(gains, np.array([0.0, 9.0]))
    assert near[0] > near[1]


def test_a_method_that_was_tried_seldom_promises_less():
    gains = np.array([[0.1, 0.1], [0.1, np.nan], [0.1, np.nan]])
    often, seldom = recommend.expected(gains, np.full(3, 3.0))
    assert often > seldom > 0


def test_a_method_that_was_not_tried_where_the_others_fail_is_not_thought_better_for_it():
    """a and b gain under two conditions far away; here, where a fails, b was not tried: nothing is expected of it."""
    gains = np.array([[0.1, 0.1], [0.1, 0.1], [-0.05, np.nan]])
    a, b = recommend.expected(gains, np.array([9.0, 9.0, 0.0]))
    assert a < 0
    assert b < 0


def test_errors_look_at_nothing_nearer():
    """Three conditions on a line, one unit apart: with 1.5 as the least distance, the middle one is predicted from nothing."""
    gains = np.array([[0.1], [0.2], [0.3]])
    between = np.abs(np.subtract.outer(np.arange(3.0), np.arange(3.0)))
    found = recommend.errors(gains, between, 1.5)
    assert np.isnan(found[1]).all()
    assert found[0, 0] == pytest.approx(0.1 - recommend.expected(gains[2:], np.array([2.0]))[0])


def test_quantile_by_hand():
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 2.0])
    assert [recommend.quantile(values, weights, s) for s in (0.25, 0.5, 0.75, 1.0)] == [1, 2, 2, 3]


def test_known_takes_the_chosen_point_and_the_estimated_noise():
    rows = [
        row("ce", [0.5, 0.7], seen_rate=0.3, seen_concentration=0.1),
        row("elr", [0.6], seen_rate=0.3, seen_concentration=0.1),
        row("elr", [0.9, 0.9], selection=CHOSEN, seconds=4.0, seen_rate=0.3, seen_concentration=0.1),
        row("elr", [0.9], rate=0.5),  # of a condition without cross-entropy: there is no gain to tell
    ]
    (found,) = known(rows)
    assert found.where == where(0.3, 0.1)
    assert known(rows, seen=False)[0].where == where(0.2)
    assert found.gains == pytest.approx({"ce": 0, "elr": 0.3})
    assert found.seconds == {"ce": 1, "elr": 2}
    assert known([row("ce", [0.5]), row("elr", [])])[0].where.rate == 0.2  # the true one where none was estimated


def test_ranked_prefers_what_was_best_near_by():
    rows = []
    for rate in (0.0, 0.1, 0.2, 0.6, 0.7, 0.8):
        low, high = (0.02, 0.0) if rate < 0.5 else (0.0, 0.2)
        rows += [row("ce", [0.5], rate), row("mixup", [0.5 + low], rate), row("dividemix", [0.5 + high], rate)]
    conditions = known(rows)
    few, many = recommend.ranked(conditions, where(0.05)), recommend.ranked(conditions, where(0.75))
    assert (few[0].method, many[0].method) == ("mixup", "dividemix")
    assert recommend.order(conditions, where(0.75)) == [p.method for p in many]
    assert many[0].low < many[0].gain < many[0].high
    assert many[0].conditions == 6
    assert next(p for p in many if p.method == "ce").high == 0


def test_one_condition_has_no_interval():
    found = recommend.ranked(known([row("ce", [0.5]), row("elr", [0.6])]), where())
    assert found[0].method == "elr"
    assert math.isinf(found[0].high)


def test_points_are_the_nearest_and_a_rate_is_filled_anew():
    rows = []
    for rate, lam in ((0.2, 1.0), (0.5, 2.0)):
        point = f'{{"forget_rate": {rate}, "lam": {lam}}}'
        rows += [row("ce", [0.5], rate), row("coteaching", [0.6], rate, point=point, oracle="forget_rate")]
    first, second = recommend.points(known(rows), where(0.45), "coteaching")
    assert first[1] == {"forget_rate": 0.45, "lam": 2.0}
    assert second[1] == {"forget_rate": 0.45, "lam": 1.0}
    assert first[0].where.rate == 0.5


def test_rows_of_a_study(tmp_path: Path):
    """A recorded study and masks of its noise: a row a cell and way of choosing; of cells that no mask describes, none."""
    folder = tmp_path / "s"
    study = recorded.write(folder, methods=("ce", "elr"), rates=(0.2, 0.5))
    assert of_study(folder) == []
    clean = np.arange(40) % 4
    noise = study.noises[0]
    mask = masks.Mask(noise, "digits", "", "", corrupt(clean, noise, 4), clean, pair_matrix(4, 0.2), 0)
    masks.save(mask, folder / "masks" / f"{study.cells()[0].data_key}.npz")
    rows = of_study(folder, "small images")
    assert {(r["method"], r["rate"]) for r in rows} == {("ce", 0.2), ("elr", 0.2)}
    assert {r["selection"] for r in rows} == {PUBLISHED, CHOSEN}
    assert all((r["n"], r["classes"], r["kind"], r["concentration"]) == (40, 4, "small images", 1) for r in rows)
    _, histories = load.study(folder)
    history = next(h for c, h in histories.items() if (c.method, c.noise) == ("elr", noise))
    told = next(r for r in rows if (r["method"], r["selection"]) == ("elr", CHOSEN))
    assert told["mean"] == pytest.approx(cell_summary(history)["tuned/last10"], abs=1e-5)
    assert json.loads(told["point"]) == chosen(history).point
    (found,) = known(rows)
    assert found.gains["elr"] == pytest.approx(told["mean"] - found.results["ce"].mean, abs=1e-5)


def test_the_shipped_results():
    table = results()
    assert list(table.columns) == list(COLUMNS)
    assert set(table["method"]) <= set(METHODS)
    assert RESULTS.stat().st_size < 1 << 20
    assert not table["dataset"].str.contains("/").any()  # no paths of the machine that measured
    conditions = known(table.to_dict("records"))
    assert len(conditions) >= 20
    assert all(0 <= k.where.rate < 1 and 0 <= k.where.concentration <= 1 for k in conditions)
