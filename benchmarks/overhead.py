"""What tracking costs a study: the default sweep with MLflow on and off, measured in one run.

    python benchmarks/overhead.py [--pairs N] [sweep options]

Both are the real command, ``python -m raystudy.sweep dividemix``, in the order on, off, off, on, ... so that a machine that grows
slower or faster favours neither. What is compared is the whole command, from start to leaderboard, in the medians. Beside it stands
the cores' time: seconds of CPU used by everything the command started (its follower and Ray's processes included). It does not
hang on who else uses the machine, and says what tracking costs when it is not hidden by idle cores.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TARGET = 1.05
ROOT = Path(__file__).resolve().parent.parent


def sweep(uri: str, options: list[str]) -> tuple[float, float]:
    """Runs the command in a fresh folder. Returns its seconds of wall time, and of CPU."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        command = [sys.executable, "-m", "raystudy.sweep", "dividemix", "--tracking-uri", uri, *options]
        before, began = _children(), time.perf_counter()
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"the sweep failed:\n{done.stdout}\n{done.stderr}")
        return time.perf_counter() - began, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3, metavar="N", help="how often both are run (default: 3)")
    args, options = parser.parse_known_args()
    found: dict[str, list[tuple[float, float]]] = {"sqlite:///mlflow.db": [], "none": []}
    for pair in range(args.pairs):
        for uri in list(found) if pair % 2 == 0 else reversed(list(found)):
            found[uri].append(sweep(uri, options))
            print(f"pair {pair + 1}, {uri}: {found[uri][-1][0]:.1f} s, {found[uri][-1][1]:.1f} s of CPU", flush=True)
    on, off = found.values()
    wall, cpu = (median(run[i] for run in on) / median(run[i] for run in off) for i in (0, 1))
    print(f"on/off, medians of {args.pairs}: wall time {wall:.3f}, CPU {cpu:.3f}")
    print(f"target: wall time at most {TARGET}:", "yes" if wall <= TARGET else "NO")


if __name__ == "__main__":
    main()
