"""How OpenMP's threads wait, beside other work: seconds an epoch with one torch thread, and with two that sleep or spin.

    python benchmarks/threads.py [--rounds 5] [--images 5000]

``convnet_small`` on random images of 32x32 pixels by our own training loop, each time in a fresh process. ``passive`` is what
raystudy sets, ``spinning`` OpenMP's own default (torch imported first, and nothing set). The runs of a round are in shuffled order, the
busy process is an endless loop in Python, and what is compared are medians over the rounds. A number is the second epoch of a training.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1.25  # of one thread, beside a busy process: what a second thread may cost where it has no core to itself
RUNS = ((1, "passive"), (2, "passive"), (2, "spinning"))
NAMES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "KMP_LIBRARY", "OMP_NUM_THREADS")


def epoch(threads: int, policy: str, file: str) -> float:
    """Seconds of the second epoch, in this process."""
    if policy == "spinning":
        import torch  # noqa: F401 - before raystudy can settle how its threads wait
    sys.path.insert(0, str(ROOT))
    from raystudy.running.alone import prepare

    run = prepare("ce", f"npz:{file}", "symmetric:0.2", {}, network="convnet_small", epochs=3, threads=threads).run
    run.epoch()
    return float(run.epoch()["cost/seconds"] or 0.0)


def measured(threads: int, policy: str, file: str) -> float:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--one", f"{threads}:{policy}", "--file", file]
    env = {k: v for k, v in os.environ.items() if k not in NAMES}
    return float(json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=5000, help="training images (default: 5000)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        threads, _, policy = args.one.partition(":")
        print(json.dumps(epoch(int(threads), policy, args.file)))
        return
    found: dict[tuple[int, int, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file, draw = f"{folder}/images.npz", np.random.default_rng(0)
        arrays: dict[str, Any] = {"y_train": np.arange(args.images) % 10, "y_test": np.arange(100) % 10}
        for name, n in (("x_train", args.images), ("x_test", 100)):
            arrays[name] = draw.integers(256, size=(n, 32, 32, 3), dtype=np.uint8)
        np.savez(file, **arrays)
        for turn in range(args.rounds):
            for busy in (0, 1):
                others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
                try:
                    for threads, policy in random.Random(turn).sample(RUNS, len(RUNS)):
                        seconds = measured(threads, policy, file)
                        found.setdefault((busy, threads, policy), []).append(seconds)
                        print(f"busy {busy}, {threads} {policy}: {seconds:.2f} s", file=sys.stderr, flush=True)
                finally:
                    for other in others:
                        other.kill()
                        other.wait()
            print(
                f"round {turn + 1} of {args.rounds}, load average {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True
            )
    medians = {key: statistics.median(seconds) for key, seconds in found.items()}
    for busy in (0, 1):
        for threads, policy in RUNS:
            all_ = found[busy, threads, policy]
            ratio = medians[busy, threads, policy] / medians[busy, 1, "passive"]
            print(
                f"{busy} busy process{'es' * (busy != 1)}  {threads} thread{'s' * (threads > 1):<1} {policy:<9}"
                f"{medians[busy, threads, policy]:7.2f} s an epoch ({min(all_):.2f} to {max(all_):.2f}), {ratio:.2f} of one thread"
            )
    good = medians[1, 2, "passive"] <= TARGET * medians[1, 1, "passive"]
    print(
        f"target (two passive threads beside a busy process at most {TARGET} of one thread): {'yes' if good else 'NO'}"
    )


if __name__ == "__main__":
    main()
