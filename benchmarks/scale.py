"""How the driver carries many trials: no-op trainings of three epochs, against a bare Ray Tune experiment, measured in one run.

    python benchmarks/scale.py [--trials 500,1000,2000,5000] [--cells 50]

``bare`` is Ray Tune alone: the same no-op trainable with reused actors, random points, nothing recorded. ``random`` is a study of so
many trials over so many cells with the random sampler and no tracking; ``tpe`` one with TPE, an MLflow store on SQLite and its
follower. Each is a process of its own on a Ray of its own; the clock runs while the experiment does, start-up of Ray apart.
On a machine with other work on it, the driver's seconds of CPU a trial say more than the clock does.
``memory`` is the driver's largest resident size. ``restart`` is what a second start of the finished study takes until it knows that nothing
is left to do: data, spaces, ledger and the searches of all cells. Rates are trials a second, and what is compared is their ratio to bare,
of the largest size: our workers import torch, bare ones do not, and of a small study that is a large part.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ray import tune  # noqa: E402

TARGETS = {"random": 0.8, "tpe": 0.5}
MEMORY_GIB, RESTART_SECONDS = 1.0, 10.0
EPOCHS = 3


class Noop(tune.Trainable):
    """Reports ``EPOCHS`` results, as a trial's actor does, and trains nothing."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.next, self.value = new_config.get("recorded", 0), hash(str(new_config)) % 1000 / 1000
        return True

    def step(self) -> dict[str, Any]:
        record = {"train/loss": 1.0, "val/acc": self.value, "val/loss": 1 - self.value, "test/acc": self.value}
        record |= {"cost/seconds": 0.001, "cost/passes": 1.0}
        self.next += 1
        return {
            "start": self.next - 1,
            "records": [record],
            "diverged": False,
            "failure": "",
            "repeated": 0.0,
            "notes": [],
            "worker": "",
            "again": False,
        }


class Bare(Noop):
    """The same, told to end by itself: there is no scheduler to end it."""

    def step(self) -> dict[str, Any]:
        return super().step() | {"done": self.next >= EPOCHS}


def bare(trials: int) -> dict[str, float]:
    import ray

    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",
        "RAY_AIR_NEW_OUTPUT": "0",
    }
    ray.init(
        address="local",
        num_cpus=os.cpu_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    with tempfile.TemporaryDirectory() as folder:
        began, cpu = time.monotonic(), time.process_time()
        tune.Tuner(
            tune.with_resources(Bare, {"cpu": 1}),
            param_space={"a": tune.uniform(0, 1), "b": tune.loguniform(0.25, 16)},
            tune_config=tune.TuneConfig(num_samples=trials, reuse_actors=True),
            run_config=tune.RunConfig(
                storage_path=folder, verbose=0, checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False)
            ),
        ).fit()
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    ray.shutdown()
    return {"seconds": seconds, "cpu": cpu}


def study(kind: str, trials: int, cells: int) -> dict[str, float]:
    """A real study in the working directory, but for what its actors do."""

    import raystudy.running.execute
    from raystudy.data.noise import Noise
    from raystudy.design.study import Study
    from raystudy.record.ledger import Ledger
    from raystudy.running.audience import Audience
    from raystudy.running.build import Builder
    from raystudy.running.resources import Resources
    from raystudy.running.session import session
    from raystudy.tracking import follower, store

    raystudy.running.execute.TrialActor = Noop  # type: ignore[misc, assignment]
    rates = tuple(Noise("symmetric", round((i + 1) / (cells + 1), 6)) for i in range(cells))
    told = Study(
        name="scale", methods=("mixup",), datasets=("digits",), noises=rates, trials=trials // cells, replicates=0,
        epochs=EPOCHS, network="mlp", sampler=kind, scheduler="none",
    )  # fmt: skip
    folder = Path("scale").absolute()
    resources = Resources(
        address=None, cpus=1, gpus=0, measure=False, max_concurrent=None, checkpoint_every=10.0, data_root=Path("data")
    )

    def start() -> tuple[Ledger, list[Any], float]:
        began = time.monotonic()
        ledger = Ledger(folder)
        searches = Builder(told, Path("data")).searches(replace(told, batch=1), ledger)
        return ledger, searches, time.monotonic() - began

    ledger, searches, _ = start()
    (folder / "study.toml").write_text(told.to_toml(), encoding="utf-8")
    uri = store.absolute("sqlite:///mlflow.db")
    following = follower.start(folder, uri) if kind == "tpe" else None
    began, cpu = time.monotonic(), time.process_time()
    with session(resources, Audience()) as places:
        raystudy.running.execute.execute(folder, searches, resources, places, Audience())
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    ledger.close()
    if following:
        follower.finish(following, 600)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    synced = time.monotonic() - began - seconds
    ledger, searches, restart = start()
    if not all(s.finished() for s in searches) or sum(len(s.history.trials) for s in searches) != trials:
        sys.exit(f"the study did not end with its {trials} trials")
    ledger.close()
    return {"seconds": seconds, "cpu": cpu, "memory": memory, "restart": restart, "behind": synced}


def measured(kind: str, trials: int, cells: int) -> dict[str, float]:
    """One measurement in a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", kind, "--trials", str(trials), "--cells", str(cells)]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", default="500,1000,2000,5000", metavar="N,...", help="sizes of the study")
    parser.add_argument("--cells", type=int, default=50, metavar="N", help="cells the trials are divided over")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = [int(n) for n in args.trials.split(",")]
    if args.one:
        print(json.dumps(bare(sizes[0]) if args.one == "bare" else study(args.one, sizes[0], args.cells)))
        return
    good = True
    for trials in sizes:
        rates = {}
        for kind in ("bare", "random", "tpe"):
            told = measured(kind, trials, args.cells)
            rates[kind] = trials / told["seconds"]
            line = f"{trials:>5} trials  {kind:<7}{rates[kind]:6.1f} trials/s"
            line += f", {1000 * told['cpu'] / trials:.0f} ms of the driver's CPU a trial"
            if kind != "bare":
                ratio = rates[kind] / rates["bare"]
                good &= told["memory"] <= MEMORY_GIB and told["restart"] <= RESTART_SECONDS
                good &= trials < max(sizes) or ratio >= TARGETS[kind]  # small ones are mostly the start of the workers
                line += f"  {ratio:.2f} of bare (target {TARGETS[kind]}), driver {told['memory']:.2f} GiB, restart {told['restart']:.1f} s"
                line += f", MLflow {told['behind']:.0f} s behind at the end" if kind == "tpe" else ""
            print(line, flush=True)
    print(
        f"targets (and driver under {MEMORY_GIB:g} GiB, restart under {RESTART_SECONDS:g} s): {'yes' if good else 'NO'}"
    )


if __name__ == "__main__":
    main()
