"""What it takes to look at a large study: ``raystudy status`` and ``raystudy report`` on 5,000 trials x 100 epochs.

    python benchmarks/reading.py [FOLDER]      the study is made there, and kept, where a folder is named

Ten methods at ten noise rates, 47 trials of the search and 3 replicates a cell, twelve metrics an epoch, written through the real
ledger. Every command is a process of its own, from its start to its end. Seconds of the clock depend on what else the machine does;
processor seconds, of the command and the processes it starts, are told beside them. Memory is the largest process's peak.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(HERE), str(HERE / "tests")]

import recorded  # noqa: E402

METHODS = ("coteaching", "dividemix", "elr", "gce", "jocor", "mentormix", "mixup", "p_correction", "sce", "self_paced")
RATES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TARGETS = {"status": 3.0, "report": 60.0}  # seconds
MEMORY = 2048  # MiB


def command(name: str, storage: Path) -> tuple[float, float, float]:
    """Runs a command on the study. Seconds, processor seconds, peak MiB."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    call = [sys.executable, "-m", "raystudy", name, "large", "--storage", str(storage)]
    subprocess.run(call, check=True, stdout=subprocess.DEVNULL, cwd=HERE)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, spent, after.ru_maxrss / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        storage = Path(sys.argv[1] if len(sys.argv) > 1 else scratch)
        if not (storage / "large").exists():
            recorded.write(storage / "large", METHODS, RATES, trials=47, replicates=3, epochs=100)
        size = sum(p.stat().st_size for p in (storage / "large" / "cells").iterdir())
        print(f"5,000 trials x 100 epochs x 12 metrics: {size / 1e6:.0f} MB of ledger")
        good = True
        for name, target in TARGETS.items():
            seconds, spent, memory = command(name, storage)
            good &= seconds < target and memory < MEMORY
            print(
                f"{name:8} {seconds:6.1f} s (target {target:.0f}), processor {spent:5.1f} s, {memory:5.0f} MiB (target {MEMORY})"
            )
    print("within the targets:", "yes" if good else "NO")
    sys.exit(not good)


if __name__ == "__main__":
    main()
