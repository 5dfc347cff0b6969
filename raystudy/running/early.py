"""Whether Ray may come up before a study is known: while torch is imported, options are read and data are prepared.

Each of them takes seconds on a core of its own. Only what can be told without any of them is asked here; nothing heavy is imported.
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from raystudy import learn

if TYPE_CHECKING:
    from raystudy.running.local import LocalRay


@contextlib.contextmanager
def early(
    methods: tuple[str, ...], here: bool, cpus: float = 1, max_concurrent: int | None = None
) -> "Iterator[LocalRay | None]":
    """A Ray of this machine's own that comes up while the block runs, or None; at its end nothing is left of it.

    None where it is not ``here`` that trials will run, where a name or a number is a mistake that will be refused, and where torch is
    imported already: then little is left to do beside Ray's start. ``cpus``, ``max_concurrent``: of a trial, and of trials.
    """
    ours = Path(learn.__file__).parent / "methods"
    named = all(":" in name or (ours / f"{name}.py").exists() for name in methods)
    possible = math.isfinite(cpus) and 0 < cpus <= (os.cpu_count() or 1)
    if not (here and named and possible) or "torch" in sys.modules:
        yield None
        return
    from raystudy.running.local import LocalRay, eager, gpus

    rising = LocalRay(max(1, int(cpus)), eager(cpus, max_concurrent, gpus()))
    try:
        yield rising
    finally:
        rising.end()
