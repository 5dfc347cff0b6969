"""Virtual time: the same study on any number of workers, at any speed, killed at any moment, has the same ledger event for event."""

import heapq
import json
import math
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from searched import CELL, accuracy, opened, study

from raystudy.design.study import SLACK, Study
from raystudy.errors import InputError
from raystudy.running.clock import Batches, Clock, Turn, virtual_workers
from raystudy.running.search import CellSearch

# -- the rules, by hand


@pytest.mark.parametrize(
    ("slack", "workers", "cells", "each"),
    [(1, 2, 6, 1), (1, 8, 4, 2), (1.5, 8, 4, 3), (1.5, 16, 12, 2), (1.1, 10, 1, 11), (2, 0.5, 1, 1), (1, 4, 0, 4)],
)
def test_virtual_workers_by_hand(slack: float, workers: float, cells: int, each: int) -> None:
    assert virtual_workers(slack, workers, cells) == each


def test_a_proposal_sees_what_has_ended_by_its_virtual_start() -> None:
    """Two virtual workers; trials take 9, 3, 3, 1 and 9."""
    clock = Clock(2)
    assert clock.turn({}) == Turn(0, [])
    clock.begin(0)
    assert clock.turn({0: 3}) == Turn(0, [])
    clock.begin(0)
    assert clock.turn({0: 3, 1: 3}) is None  # neither has ended
    clock.end(1, 3)
    assert clock.turn({0: 3}) is None  # trial 0 may end at 3, too, and is the first of the two then
    assert clock.turn({0: 9}) == Turn(3, [1])
    clock.begin(3)
    clock.end(2, 3)
    assert clock.turn({0: 9}) == Turn(6, [1, 2])
    clock.begin(6)
    clock.end(0, 9)  # really ended, and not seen by trial 4, which starts at 7
    clock.end(3, 1)
    assert clock.turn({}) == Turn(7, [1, 2, 3])
    clock.begin(7)
    assert clock.turn({4: 8}) is None  # trial 0 has ended at 9, trial 4 may before
    assert clock.turn({4: 9}) == Turn(9, [1, 2, 3, 0])  # a tie: 0 is before 4


def test_trials_that_end_together_free_their_workers_one_after_the_other() -> None:
    clock = Clock(3)
    for _ in range(3):
        clock.begin(0)
    clock.end(0, 9)
    assert clock.turn({1: 9, 2: 9}) == Turn(9, [0])
    clock.begin(9)
    assert clock.turn({1: 9, 2: 9, 3: 10}) is None
    clock.end(1, 9)
    assert clock.turn({2: 9, 3: 10}) == Turn(9, [0, 1])


def test_batches_wait_for_the_whole_last_one() -> None:
    clock = Batches(2)
    for n in range(2):
        assert clock.turn({i: 1 for i in range(n)}) == Turn(0, [])
        clock.begin(0)
    clock.end(1, 1)
    assert clock.turn({0: 9}) is None
    clock.end(0, 9)
    assert clock.turn({}) == Turn(9, [0, 1])
    clock.begin(9)
    assert clock.turn({2: 10}) == Turn(9, [0, 1])
    assert list(clock.peers(3)) == [0, 1]


def test_slack_is_checked_and_kept_in_the_study() -> None:
    for wrong in (0.0, -1.0, math.nan, math.inf, 101.0):
        with pytest.raises(InputError, match=r"--slack is .* above 0 and at most 100"):
            study(slack=wrong)
    old = study(slack=2.0, virtual_workers=5)
    assert study(slack=2.0, trials=20).grown_from(old).virtual_workers == 5
    with pytest.raises(InputError, match=r"begun with slack=2\.0, now 1\.0"):
        study(slack=1.0).grown_from(old)
    told = study(slack=1.5, virtual_workers=3)  # and what is left out stays as it was begun
    assert study(trials=20).grown_from(told).slack == 1.5
    with pytest.raises(InputError, match=r"begun with slack=1\.5, now 2\.0"):  # the default said is said
        study(slack=SLACK, trials=20).grown_from(told)
    batched = study(batch=4)
    assert study(trials=20).grown_from(batched).batch == 4
    with pytest.raises(InputError, match="begun in batches"):
        study(slack=SLACK).grown_from(batched)


def test_the_file_of_a_study_has_its_own_rule_alone(tmp_path: Path) -> None:
    begun = study(virtual_workers=4, slack=SLACK)
    for told, has in (
        (study(batch=4), {"batch"}),
        (study(), {"virtual_workers"}),
        (begun, {"slack", "virtual_workers"}),
    ):
        (tmp_path / "study.toml").write_text(told.to_toml())
        assert {k for k in ("batch", "slack", "virtual_workers") if f"\n{k} = " in told.to_toml()} == has
        assert Study.from_toml(tmp_path / "study.toml") == told


# -- the search


def told(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of a ledger by trial, in the order in which trials were opened, without times and workers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / "cells" / f"{CELL.key}.jsonl").read_text().splitlines():
        event = {k: v for k, v in json.loads(line).items() if k not in ("time", "worker")}
        found.setdefault(event.get("key", "cell"), []).append(event)
    return found


def score(point: dict[str, Any], seed: int, epoch: int) -> float:
    """As in ``searched``; about one point in eight diverges."""
    broken = int(1e6 * point["p_threshold"]) % 8 == 3 and epoch == int(1e6 * point["p_threshold"]) % 27
    return math.nan if broken else accuracy(point, seed, epoch)


def execute(search: CellSearch, workers: int, draw: random.Random, most: float = math.inf) -> bool:
    """Runs what waits on so many workers of random speeds, at most so many results long. Returns whether all has ended."""
    queue: list[tuple[float, str, int]] = []  # when a worker tells its next epochs, of which trial, from which on
    now, results = 0.0, 0
    while True:
        for trial in search.waiting():
            if len(queue) < workers:
                search.started.add(trial.key)
                heapq.heappush(queue, (now + draw.lognormvariate(0, 1), trial.key, trial.epochs))
        if not queue:
            return search.finished()
        if results >= most:
            return False
        now, key, epoch = heapq.heappop(queue)
        results += 1
        trial = search.history.trials[key]
        fails = {5: 5, 6: search.rungs[0] if search.rungs else 0}.get(int(1e6 * trial.point["p_threshold"]) % 16, 99)
        if epoch == fails:
            over = search.report(key, epoch, [], False, "it failed")
        else:
            end = min(e for e in (fails, *search.rungs, 27) if e > epoch)  # no report passes it
            values = [score(trial.point, trial.seed, e) for e in range(epoch, min(end, epoch + draw.choice([1, 2, 4])))]
            gone = [i for i, v in enumerate(values) if math.isnan(v)]
            values = values[: gone[0] + 1] if gone else values
            records = [{"val/acc": None if math.isnan(v) else v} for v in values]
            over = search.report(key, epoch, records, bool(gone), "")
            epoch += len(values)
        if not over:
            heapq.heappush(queue, (now + draw.lognormvariate(0, 1), key, epoch))


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc", pytest.param("gp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("scheduler", ["asha", "none"])
@settings(phases=[Phase.generate])  # what fails is a search of a hundred steps, which takes minutes to shrink
@given(data=st.data())
def test_event_for_event_whatever_the_workers_and_kills(sampler: str, scheduler: str, data: st.DataObject) -> None:
    each, seed = data.draw(st.sampled_from([1, 2, 4, 7])), data.draw(st.integers(0, 99))
    trials = 7 if sampler == "gp" else 14
    made = study(sampler=sampler, scheduler=scheduler, trials=trials, virtual_workers=each, seed=seed, replicates=1)
    with TemporaryDirectory() as place:
        whole = opened(Path(place) / "whole", made)
        assert execute(whole, 1, random.Random(0))
        want = told(Path(place) / "whole")
        assert len(whole.searched()) == trials
        for workers in (2, 8):
            folder, draw = Path(place) / str(workers), random.Random(data.draw(st.integers(0, 2**32)))
            for kill in data.draw(st.lists(st.integers(0, 90), max_size=3)):
                search = opened(folder, made)
                execute(search, workers, draw, kill)
                search.ledger.close()
                file = folder / "cells" / f"{CELL.key}.jsonl"
                with file.open("r+b") as f:
                    f.truncate(max(0, file.stat().st_size - draw.randrange(400)))
            search = opened(folder, made)
            assert execute(search, workers, draw)
            search.ledger.close()
            found = told(folder)
            assert list(found) == list(want)  # opened in the same order
            assert found == want
