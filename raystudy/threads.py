"""How OpenMP's threads wait, settled before torch loads them. Only what must be so before the first import belongs here.

Between two pieces of work a thread of OpenMP spins for milliseconds. On a machine with other work the thread that it waits for may have no
core in that time, and an epoch takes several times as long (docs/scale.md). Passive threads sleep.
"""

import os

# libgomp, of torch's Linux wheels, reads the first; LLVM's and Intel's libomp, of those for macOS and of conda, the last as well.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
SAID = (*PASSIVE, "GOMP_SPINCOUNT", "KMP_LIBRARY")  # by any of which a user says how threads are to wait


def passive() -> None:
    """Threads sleep while they wait, in this process and those that it starts; unless the user has said otherwise.

    A runtime reads this once, when it is loaded: in a process that has imported torch already only its children heed it.
    """
    if not any(name in os.environ for name in SAID):
        os.environ.update(PASSIVE)
