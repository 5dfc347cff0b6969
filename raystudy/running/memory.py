"""How much of a device a trial takes, and what happens when it takes more: measuring, packing, a cap, and one more try.

The arithmetic is pure; what speaks to CUDA is ``probe`` and ``limit``, a few calls each.
"""

import itertools
import math
from pathlib import Path

import torch

from raystudy import own
from raystudy.data.noise import Noise
from raystudy.learn.filtering import prepare
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run

MIB = 2**20
CONTEXT = 700 * MIB  # what CUDA, its libraries and kernels hold in a process, beside torch's allocator
MARGIN = 1.25  # over the measured peak: other points of a space, and fragments
MOST = 16  # trials on one device: beyond that they wait for each other, and for the CPU
STEPS = 3  # updates of an epoch in the probe
TOLD = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
)  # how torch's CPU allocator and C++ say it


def share(peak: int, total: int) -> float:
    """The fraction of a device for trials that take ``peak`` bytes of its ``total``: 1/k for the k trials that fit, rounded down.

    Equal fractions of one device leave no remainder that nothing fits into. A trial for which the device is too small gets all of it.
    """
    k = min(MOST, int(total / (peak * MARGIN + CONTEXT)))
    return math.floor(10_000 / k) / 10_000 if k > 1 else 1.0


def cap(part: float, total: int) -> float:
    """What torch's allocator may take of a device of ``total`` bytes in a process that was given ``part`` of it."""
    return 1.0 if part >= 1 else max(0.001, part - CONTEXT / total)


def exhausted(e: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a device or on the machine."""
    return isinstance(e, torch.OutOfMemoryError | MemoryError) or any(t in str(e).lower() for t in TOLD)


def exercise(run: Run) -> None:
    """A few updates at the beginning, in the middle and at the end of a training, and one evaluation: where methods differ in memory."""
    epochs = run.spec.epochs
    with torch.autocast(run.device.type, torch.bfloat16, enabled=run.on_gpu, cache_enabled=False):
        for t in sorted({0, epochs // 2, epochs - 1}):
            run.train_set.at(t)
            for _ in itertools.islice(run.method.epoch(t, run.train_set), STEPS):
                pass
        run.measure(None)


def probe(spec: TrialSpec, data_root: Path, texts: dict[str, str]) -> float:
    """Runs a short training on a free device, in a process of its own. Returns the share it needs."""
    total = torch.cuda.get_device_properties(0).total_memory
    own.provide(texts)
    try:
        data = prepare(spec.dataset, data_root, Noise(**spec.noise), spec.val_fraction, "cuda", spec.filter)
        exercise(Run(spec, data, "cuda"))
    except torch.OutOfMemoryError:
        return 1.0
    return share(torch.cuda.max_memory_reserved(), total)


def limit(part: float) -> None:
    """Keeps this process within its part of the device, so that a trial that grows fails alone and not its neighbours."""
    torch.cuda.set_per_process_memory_fraction(cap(part, torch.cuda.get_device_properties(0).total_memory))
