"""From the command to the first record, and to the end: a study of two seconds, beside a bare Ray Tune experiment, measured in one run.

    python benchmarks/startup.py [--rounds N] [sweep options]

``ours`` is the real command, ``python -m raystudy.sweep ce``, on digits: the published point and one replicate of it, about a second
each, with MLflow in a fresh SQLite file, pictures and the leaderboard. ``bare`` is a script of Ray Tune alone: ``Tuner(...).fit()`` of a
trainable that loads the same data, trains with the same loop and reports every epoch, two trials; no ledger, no MLflow, nothing shown. They
run in turns in fresh folders. Told are medians of wall time to the first record (ours: the first in the ledger; bare: the first epoch that
was trained), of wall time to the end of the command, and of processor time of all processes that it started, which other work on the
machine hardly changes.
"""

import argparse
import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 30
FIRST, END = 9.0, 12.0  # seconds, on a quiet machine with two cores
TICKS = os.sysconf("SC_CLK_TCK")
LOOK_SECONDS = 0.05
ORPHANS = 36  # PR_SET_CHILD_SUBREAPER: processes whose parent dies become ours, so that their time is counted

BARE = f"""
    import os, pathlib, ray
    from ray import tune
    from raystudy.data.noise import Noise
    from raystudy.design import space
    from raystudy.learn.celldata import prepare
    from raystudy.learn.point import method_class
    from raystudy.learn.spec import TrialSpec
    from raystudy.learn.training import Run

    FIRST = pathlib.Path("first").absolute()
    NOISE = Noise("symmetric", 0.3)

    class Bare(tune.Trainable):
        def setup(self, config):
            import torch
            torch.set_num_threads(1)
            data = prepare("digits", pathlib.Path("data"), NOISE, 0.1)
            recipe = space.recipe_for("shared", "ce", "digits", "mlp")
            spec = TrialSpec(
                method="ce", version=method_class("ce").version, point={{}}, dataset="digits", data_digest=data.data_digest,
                noise=NOISE.to_dict(), noise_digest=data.noise_digest, network="mlp", recipe=recipe.to_dict(), epochs={EPOCHS},
                seed=config["seed"], val_fraction=0.1, clean_val=0, code="",
            )
            self.run = Run(spec, data, "cpu")

        def step(self):
            self.run.epoch()
            FIRST.touch()
            return {{"done": len(self.run.records) == {EPOCHS}}}

    if __name__ == "__main__":
        ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False)
        run = tune.RunConfig(storage_path=str(pathlib.Path("tune").absolute()), verbose=0,
                             checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False))
        found = tune.Tuner(
            tune.with_resources(Bare, {{"cpu": 1}}), param_space={{"seed": tune.grid_search([0, 1])}}, run_config=run
        ).fit()
        assert not found.errors
"""


def processes() -> dict[int, tuple[int, str, float]]:
    """Of every process its parent, its start (with its id it names it) and its seconds of processor time."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                told = (entry / "stat").read_text().rpartition(")")[2].split()
                found[int(entry.name)] = int(told[1]), told[19], (int(told[11]) + int(told[12])) / TICKS
    return found


def of_ours(found: dict[int, tuple[int, str, float]]) -> dict[tuple[int, str], float]:
    """The processor time of every process that descends from this one."""
    ours, more = {os.getpid()}, {os.getpid()}
    while more:
        more = {pid for pid, (parent, _, _) in found.items() if parent in ours} - ours
        ours |= more
    return {(pid, found[pid][1]): found[pid][2] for pid in ours - {os.getpid()} if pid in found}


def measured(command: list[str], folder: Path, first: str) -> dict[str, float]:
    """Runs a command. ``first``: the files one of which tells of the first record, as a pattern; in a ledger there are others before."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    began, told, seen = time.monotonic(), 0.0, dict[tuple[int, str], float]()
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": path}, stdout=said, stderr=said)
        while process.poll() is None:
            seen |= of_ours(processes())
            if not told and any(f.suffix != ".jsonl" or '"record"' in f.read_text() for f in folder.glob(first)):
                told = time.monotonic() - began
            time.sleep(LOOK_SECONDS)
    if process.returncode or not told:
        sys.exit(f"{' '.join(command)} failed:\n{(folder / 'said').read_text()}")
    return {"first": told, "end": time.monotonic() - began, "CPU": sum(seen.values())}


def once(kind: str, options: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if kind == "bare":
            (folder / "bare.py").write_text(textwrap.dedent(BARE))
            return measured([sys.executable, "bare.py"], folder, "first")
        study = ["--noise", "symmetric:0.3", "--trials", "1", "--replicates", "1", "--epochs", str(EPOCHS)]
        command = [sys.executable, "-m", "raystudy.sweep", "ce", *study, "--tracking-uri", "sqlite:///mlflow.db"]
        return measured([*command, *options], folder, "studies/*/cells/*.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often both are run (default: 5)")
    args, options = parser.parse_known_args()
    ctypes.CDLL(None).prctl(ORPHANS, 1, 0, 0, 0)
    found: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
    for turn in range(args.rounds):
        for kind in list(found) if turn % 2 == 0 else reversed(list(found)):
            found[kind].append(told := once(kind, options))
            shown = ", ".join(f"{what} {seconds:.1f} s" for what, seconds in told.items())
            print(f"{kind}: {shown}; load {os.getloadavg()[0]:.1f}", flush=True)
    middle = {kind: {what: median(run[what] for run in runs) for what in runs[0]} for kind, runs in found.items()}
    for what, ours in middle["ours"].items():
        bare = middle["bare"][what]
        print(f"{what}: ours {ours:.1f} s, bare {bare:.1f} s, ratio {ours / bare:.2f} (medians of {args.rounds})")
    good = middle["ours"]["first"] <= FIRST and middle["ours"]["end"] <= END
    print(
        f"target on a quiet machine: first record within {FIRST:.0f} s, end within {END:.0f} s:",
        "yes" if good else "NO",
    )


if __name__ == "__main__":
    main()
