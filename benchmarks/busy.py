"""How busy a search keeps its workers: the real search with invented durations, beside one in batches and one without any order.

    python benchmarks/busy.py [--seeds 3] [--rows 0,1,2,3,4,5] [--slack 1,1.5,2]
    python benchmarks/busy.py --ray [--seconds 20]
    python benchmarks/busy.py --seeing POOLS.jsonl [--workers 4] [--seeds 6]

Nothing is trained and no Ray is started: a list of events takes its place, and ``StudySearch`` hands out trials of the real
``CellSearch`` as it does to Ray. How long a trial takes is log-normal with sigma 0.3; 40 % of the trials are to be stopped at a ninth
of their epochs, 25 % at a third (by their values, of which ASHA makes that; the first two of a cell have nothing to be compared with
and are never stopped). All searches get the same trials. ``no order`` is no search that repeats itself: a free worker takes the next
trial of the cell with most left to do, and a trial that is to stop does so at once.

Busy is the share of workers x time, from the start of the study to its end, that went into epochs up to where trials are to stop. What a
trial trained on while its rung could not be judged does not count, nor what the first batch trains on, which batches compare with nothing.

``--ray`` runs the row of 16 workers on a real local Ray: trials sleep, each in a worker of its own with a sixteenth of the processors,
and the busy share from the first start of a trial on is compared with the simulated one.

``--seeing`` asks what it costs that a proposal sees less: the searches of recorded pools (``benchmarks/pools.py``) as ``raystudy simulate``
replays them, ``--workers`` trials of a cell at once, until one is within half a point of the best recorded trial.
"""

import argparse
import heapq
import itertools
import json
import math
import random
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import optuna  # noqa: E402
from ray import tune  # noqa: E402

from raystudy.data.noise import Noise  # noqa: E402
from raystudy.design import space  # noqa: E402
from raystudy.design.study import SLACK, Cell, Study  # noqa: E402
from raystudy.learn.spec import TrialSpec  # noqa: E402
from raystudy.record.ledger import CellHistory, TrialHistory  # noqa: E402
from raystudy.running.clock import virtual_workers  # noqa: E402
from raystudy.running.search import CellSearch  # noqa: E402
from raystudy.running.tune import StudySearch  # noqa: E402
from raystudy.tools.simulate import Memory, Replay, replay  # noqa: E402

ROWS = (
    (2, 6, 5),
    (8, 4, 20),
    (16, 12, 20),
    (64, 12, 40),
    (64, 100, 20),
    (256, 40, 50),
)  # workers, cells, trials a cell
EPOCHS, SIGMA, NINTH, THIRD = 90, 0.3, 0.4, 0.25
RAY = (16, 12, 20)
NEAR, TWICE, AGREE = 0.95, 2.0, 0.05  # of no order in every row; of batches in the last; between Ray and the simulation


def duration(seed: int, cell: int, number: int) -> float:
    """How long all epochs of a trial take; 1 in the middle."""
    return random.Random(f"{seed} {cell} {number} duration").lognormvariate(0, SIGMA)


def epochs(seed: int, cell: int, number: int) -> int:
    """At how many epochs a trial is to stop."""
    drawn = random.Random(f"{seed} {cell} {number} end").random()
    return EPOCHS if number < 2 or drawn > NINTH + THIRD else EPOCHS // 9 if drawn < NINTH else EPOCHS // 3


def value(epoch: int, last: int, number: int) -> float:
    """Validation accuracy of an epoch: where the trial is to stop it is below that of all before it."""
    return 1 / (3 + number) if epoch == last - 1 and last < EPOCHS else 0.5


def study(cells: int, trials: int) -> Study:
    noises = tuple(Noise("symmetric", round((i + 1) / (cells + 1), 6)) for i in range(cells))
    return Study("busy", ("mixup",), ("digits",), noises, trials, 0, EPOCHS, "mlp", sampler="random")


def searches(told: Study) -> list[CellSearch]:
    """The real searches, on a ledger in memory."""
    found, made = space.load("mixup"), []
    for cell in told.cells():
        history = CellHistory(cell.key)

        def spec(point: dict[str, Any], seed: int) -> TrialSpec:
            return TrialSpec("mixup", 1, point, "", "", {}, "", "", {}, EPOCHS, seed, 0.1, 0)

        made.append(CellSearch(told, cell, found, Memory(history), history, spec))  # type: ignore[arg-type]
    return made


def ordered(told: Study, workers: int, seed: int) -> tuple[float, float]:
    """Busy share of the real search, and its seconds of CPU a trial."""
    began = time.process_time()
    cells = searches(told)
    index = {id(c): i for i, c in enumerate(cells)}
    hand = StudySearch(cells, lambda cell, trial: {"cell": cell, "trial": trial}, workers)
    queue: list[tuple[float, int, str, int]] = []  # when a trial tells its next epochs, and up to which
    now, kept, handed = 0.0, 0.0, 0

    def tells(cell: CellSearch, key: str, come: int) -> int:
        """Up to which epoch a trial trains until it tells something that matters: a rung, or each epoch while it waits for its rung's."""
        held = come > cell.history.trials[key].epochs or come in cell.rungs
        return come + 1 if held else next((r for r in cell.rungs if r > come), EPOCHS)

    while True:
        while len(hand.live) < workers and isinstance(found := hand.suggest(str(handed)), dict):
            cell, trial = found["cell"], found["trial"]
            until = tells(cell, trial.key, 0)
            length = duration(seed, index[id(cell)], trial.number)
            heapq.heappush(queue, (now + length * until / EPOCHS, handed, trial.key, until))
            handed += 1
        if not queue:
            break
        now, number, key, come = heapq.heappop(queue)
        cell, _ = hand.live[str(number)]
        trial = cell.history.trials[key]
        i, start = index[id(cell)], trial.epochs + len(cell._held[key].records if key in cell._held else ())
        last = epochs(seed, i, trial.number)
        records = [{"val/acc": value(e, last, trial.number)} for e in range(start, come)]
        if cell.report(key, start, records, False, ""):
            hand.on_trial_complete(str(number))
            continue
        until = tells(cell, key, come)
        heapq.heappush(queue, (now + duration(seed, i, trial.number) * (until - come) / EPOCHS, number, key, until))
    for i, c in enumerate(cells):
        assert c.finished()
        for t in c.history.trials.values():
            last = epochs(seed, i, t.number)
            assert t.epochs == last or told.batch > t.number, (t.number, t.epochs)
            kept += duration(seed, i, t.number) * last / EPOCHS
    return kept / (workers * now), (time.process_time() - began) / handed


def unordered(workers: int, cells: int, trials: int, seed: int) -> float:
    """Busy share where a free worker takes the next trial of the cell with most left."""
    left = [trials] * cells
    free = [0.0] * workers
    heapq.heapify(free)
    kept = end = 0.0
    while any(left):
        i = max(range(cells), key=lambda i: left[i])
        number = trials - left[i]
        left[i] -= 1
        length = duration(seed, i, number) * epochs(seed, i, number) / EPOCHS
        began = heapq.heappop(free)
        heapq.heappush(free, began + length)
        kept, end = kept + length, max(end, began + length)
    return kept / (workers * end)


def row(workers: int, cells: int, trials: int, slacks: list[float], seeds: int) -> dict[str, float]:
    """Busy shares by kind of search, means over the seeds; ``cpu``: the most milliseconds of CPU that a trial took."""
    told, found, cpu = study(cells, trials), defaultdict[str, list[float]](list), 0.0
    for seed in range(seeds):
        kinds = {"batches": replace(told, batch=math.ceil(workers / cells))}
        kinds |= {f"slack {s:g}": replace(told, virtual_workers=virtual_workers(s, workers, cells)) for s in slacks}
        for kind, one in kinds.items():
            share, each = ordered(one, workers, seed)
            found[kind].append(share)
            cpu = max(cpu, 1000 * each)
        found["no order"].append(unordered(workers, cells, trials, seed))
    return {kind: sum(shares) / len(shares) for kind, shares in found.items()} | {"cpu": cpu}


# -- on a real Ray


class Sleeper(tune.Trainable):
    """Tells what a trial's actor does, and sleeps as long as its epochs are to take."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.next, self.told = new_config["recorded"], new_config["spec"]["noise"]
        self.rungs = [*new_config["rungs"], EPOCHS]
        return True

    def step(self) -> dict[str, Any]:
        """Up to the next rung, but a second at most: what is to stop is to be told so."""
        each, start, records = self.told["seconds"] / EPOCHS, self.next, list[dict[str, float]]()
        while not records or (self.next not in self.rungs and len(records) * each < 1):
            records.append({"val/acc": value(self.next, self.told["last"], self.told["number"]), "cost/seconds": each})
            self.next += 1
        time.sleep(len(records) * each)
        same: dict[str, Any] = {
            "diverged": False,
            "failure": "",
            "again": False,
            "repeated": 0.0,
            "notes": [],
            "worker": "",
        }
        return same | {"start": start, "records": records}


def on_ray(seconds: float, slack: float) -> float:
    """Busy share of the row of 16 workers on a real Ray, from the first start of a trial on."""
    import os

    import raystudy.running.execute
    from raystudy.record.ledger import Ledger
    from raystudy.running.audience import Audience
    from raystudy.running.resources import Resources
    from raystudy.running.session import session

    workers, cells, trials = RAY
    raystudy.running.execute.TrialActor = Sleeper  # type: ignore[misc, assignment]
    told = replace(study(cells, trials), virtual_workers=virtual_workers(slack, workers, cells))
    cpus = (os.cpu_count() or 1) / workers
    resources = Resources(
        address=None, cpus=cpus, gpus=0, measure=False, max_concurrent=workers, checkpoint_every=1e9, data_root=Path()
    )
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "busy")
        found = []
        for i, cell in enumerate(told.cells()):
            history = ledger.open(cell.key, {"cell": cell.to_dict()})

            def spec(point: dict[str, Any], seed: int, i: int = i, history: CellHistory = history) -> TrialSpec:
                known = [t.point for t in history.trials.values()]
                number = known.index(point) if point in known else len(known)
                told = {"seconds": seconds * duration(0, i, number), "last": epochs(0, i, number), "number": number}
                return TrialSpec("mixup", 1, point, "", "", told, "", "", {}, EPOCHS, seed, 0.1, 0)

            found.append(CellSearch(told, cell, space.load("mixup"), ledger, history, spec))
        with session(resources, Audience()) as places:
            raystudy.running.execute.execute(ledger.dir, found, resources, places, Audience())
        ledger.close()
    all_ = [t for c in found for t in c.history.trials.values()]
    assert all(t.state in ("complete", "pruned") for t in all_)
    kept = sum(sum(t.curves["cost/seconds"]) for t in all_)
    firsts = [t.times[0] / 1000 - t.curves["cost/seconds"][0] for t in all_]
    return kept / (workers * (max(t.ended for t in all_) / 1000 - min(firsts)))


# -- what seeing less costs


def seeing(path: Path, workers: int, slacks: list[float], seeds: int, minutes: float) -> None:
    """Prints trials and epochs until the winner is found, by order: medians over cells and seeds, and ratios to the first slack."""
    pools: dict[tuple[str, str, float], dict[int, TrialHistory]] = defaultdict(dict)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["fraction"] == 1 and space.load(row["method"]).dimensions:
            t = TrialHistory(row["key"], row["number"], "search", row["point"], 0)
            t.state = "diverged" if row["diverged"] else "complete"
            t.add([{"val/acc": v} for v in row["val/acc"]], [0] * len(row["val/acc"]))
            pools[row["dataset"], row["method"], row["rate"]][t.number] = t
    orders = [(1, 1.0), (workers, 0.0), *((workers, s) for s in slacks)]
    found: dict[tuple[int, float], list[Replay]] = {order: [] for order in orders}
    began = time.monotonic()
    for seed, ((dataset, method, rate), trials) in itertools.product(range(seeds), sorted(pools.items())):
        if time.monotonic() - began > 60 * minutes:
            print(f"the time is up in seed {seed}")
            break
        pool = [trials[n] for n in sorted(trials)]
        cell = Cell(method, dataset, Noise("symmetric", rate))
        told = Study("pools", (method,), (dataset,), (cell.noise,), 1, 0, max(t.epochs for t in pool), "mlp")
        for order in orders:
            found[order].append(replay(told, cell, pool, "tpe", "asha", seed, 0.005, *order))
    print(f"{workers} workers a cell, {len(pools)} cells, {len(found[orders[0]])} searches each")
    print(
        "| search | found | trials: median | mean | of one after the other | epochs: median | mean | of one after the other |"
    )
    print("| --- " * 8 + "|")
    first = found[orders[0]]
    for rows in found.values():
        name = rows[0].order or "one after the other"
        both = [(a, b) for a, b in zip(rows, first, strict=True) if a.found and b.found]
        texts = [name, f"{sum(r.found for r in rows)} of {len(rows)}"]
        for what in ("trials", "epochs"):
            own = [getattr(r, what) for r in rows if r.found]
            ratio = math.exp(statistics.fmean(math.log(getattr(a, what) / getattr(b, what)) for a, b in both))
            texts += [f"{statistics.median(own):.0f}", f"{statistics.fmean(own):.1f}", f"{ratio:.2f}"]
        print("| " + " | ".join(texts) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="0,1,2,3,4,5", metavar="N,...", help="of the table")
    parser.add_argument("--slack", default="1,1.5,2", metavar="S,...")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--ray", action="store_true", help="the row of 16 workers on a real Ray")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a whole trial with --ray")
    parser.add_argument("--seeing", type=Path, metavar="POOLS.jsonl", help="what seeing less costs, on recorded pools")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="of a cell, with --seeing")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which --seeing begins no other cell")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if args.ray:
        workers, cells, trials = RAY
        want = ordered(
            replace(study(cells, trials), virtual_workers=virtual_workers(SLACK, workers, cells)), workers, 0
        )[0]
        free, got = unordered(*RAY, 0), on_ray(args.seconds, SLACK)
        good = abs(got - want) / free <= AGREE
        shares = f"{got:.3f} on Ray, {want:.3f} simulated, {free:.3f} without order"
        print(
            f"slack {SLACK:g}, busy: {shares}; of no order {got / free:.3f} and {want / free:.3f}: {'yes' if good else 'NO'}"
        )
        sys.exit(not good)
    slacks = [float(s) for s in args.slack.split(",")]
    if args.seeing:
        seeing(args.seeing, args.workers, slacks, args.seeds, args.minutes)
        return
    kinds = ["batches", *(f"slack {s:g}" for s in slacks), "no order"]
    print("| workers | cells | trials a cell | " + " | ".join(kinds) + " | ms of CPU a trial |", flush=True)
    print("| --- " * (len(kinds) + 4) + "|")
    good, said = True, f"slack {SLACK:g}"
    for n in args.rows.split(","):
        workers, cells, trials = ROWS[int(n)]
        found = row(workers, cells, trials, slacks, args.seeds)
        shares = " | ".join(f"{found[kind]:.2f}" for kind in kinds)
        print(f"| {workers} | {cells} | {trials} | {shares} | {found['cpu']:.1f} |", flush=True)
        if said in found:
            good &= found[said] >= NEAR * found["no order"] and (
                workers < 256 or found[said] >= TWICE * found["batches"]
            )
    print(
        f"slack {SLACK:g}: {NEAR:g} of no order in every row, {TWICE:g} x batches at 256 workers: {'yes' if good else 'NO'}"
    )


if __name__ == "__main__":
    main()
