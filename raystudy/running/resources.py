"""Where and how trials are run: what a user asks for, checked against what this machine has. Nothing here changes a result."""

import math
import os
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from raystudy.errors import InputError


@dataclass(frozen=True)
class Resources:
    """Where and how trials are run: nothing here changes their results."""

    address: str | None  # of a running Ray; None: one of its own on this machine
    cpus: float  # per trial
    gpus: float  # per trial, of a device
    measure: bool  # find out by a probe how much of a device each method takes, rather than ``gpus``
    max_concurrent: int | None
    checkpoint_every: float  # seconds
    data_root: Path
    trial_timeout: float = math.inf  # seconds without a record after which a trial has failed

    @property
    def threads(self) -> int:
        """torch's, of a trial."""
        return max(1, int(self.cpus))


def capacity(resources: Resources) -> float:
    """How many trials can run at once on this machine."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    asked = resources if gpus else replace(resources, gpus=0)
    return min(max(1.0, fitting(os.cpu_count() or 1, gpus, asked)), resources.max_concurrent or math.inf)


def fitting(cpus: float, gpus: float, resources: Resources) -> int:
    """How many trials a machine with so many cores and devices holds at once. A trial is on one device: 0.4 of it leave 0.2 idle."""
    slots = math.floor(round(cpus / resources.cpus, 9))
    return min(slots, math.floor(gpus) * math.floor(round(1 / resources.gpus, 9))) if resources.gpus else slots


def reach(resources: Resources) -> None:
    """Raises InputError, one line, where nothing listens at ``--address HOST:PORT``: Ray itself would try for minutes."""
    host, colon, port = (resources.address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), 10).close()
        except (OSError, OverflowError) as e:
            raise InputError(f"cannot start or reach Ray on {resources.address}: {e}") from None


def resources(
    data_root: Path,
    *,
    address: str | None = None,
    cpus: float = 1,
    gpus: float | str | None = None,
    max_concurrent: int | None = None,
    checkpoint_every: float | None = None,
    trial_timeout: float | None = None,
    remote: bool = False,
    here: bool = True,
) -> Resources:
    """Checked resources. ``gpus``: of a trial, "auto" to measure them, None for one where this machine has any; ``checkpoint_every``:
    seconds, None for 10, or 120 where the storage is ``remote``. ``here``: trials will run on this machine, unless there is an ``address``.
    Raises InputError for what cannot be.
    """
    if checkpoint_every is None:  # a network's upload takes longer than a disk's write
        checkpoint_every = 120.0 if remote else 10.0
    for what, value in (("--cpus-per-trial", cpus), ("--checkpoint-every", checkpoint_every)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{what} is {value:g}; it must be above 0")
    measure = gpus == "auto"
    asked = None if measure or gpus is None else float(gpus)
    if asked is not None and not (math.isfinite(asked) and asked >= 0):
        raise InputError(f"--gpus-per-trial is {asked:g}; it must be 0 or more")
    if trial_timeout is not None and not (math.isfinite(trial_timeout) and trial_timeout > 0):
        raise InputError(f"--trial-timeout is {trial_timeout:g}; it must be above 0")
    if max_concurrent is not None and max_concurrent < 1:
        raise InputError(f"--max-concurrent is {max_concurrent}; it must be at least 1")

    import torch

    held = torch.cuda.device_count()
    share = float(held > 0 or (measure and bool(address))) if asked is None else asked
    if share > 1:
        raise InputError(
            f"--gpus-per-trial is {share:g}; a trial trains on one GPU, and the rest would be idle: choose 1, a fraction or auto, and each "
            "further GPU takes a trial of its own"
        )
    if here and not address:  # Ray would wait for ever for a machine that is large enough
        for what, wanted, most in (("cpus", cpus, os.cpu_count() or 1), ("gpus", share, held)):
            if wanted > most:
                less = "choose less" if most else "leave it out"
                raise InputError(
                    f"--{what}-per-trial is {wanted:g}; this machine has {most}: {less}, or name a cluster with --address"
                )
    return Resources(
        address=address,
        cpus=cpus,
        gpus=share,
        measure=measure,
        max_concurrent=max_concurrent,
        checkpoint_every=checkpoint_every,
        data_root=data_root.expanduser().absolute(),
        trial_timeout=math.inf if trial_timeout is None else trial_timeout,
    )
