"""The processes below one, and signals to them."""

import contextlib
import os
import signal
from pathlib import Path


def descendants(pid: int) -> dict[int, str]:
    """Living processes below ``pid``, by number, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
                )
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
    found: dict[int, str] = {}
    grown = True
    while grown:
        new = {p: names[p] for p, q in parents.items() if p not in found and (q == pid or q in found) and p in names}
        grown = bool(new)
        found |= new
    return found


def send(pids: list[int], which: signal.Signals = signal.SIGKILL) -> None:
    """A signal to processes, of which some may be gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)
