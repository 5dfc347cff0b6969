"""Packing trials on devices: bytes to shares, caps, which failures are worth a whole device. Nothing here needs a GPU."""

from pathlib import Path

import pytest
import torch

from raystudy.data.noise import Noise
from raystudy.learn.celldata import prepare
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run
from raystudy.running import memory
from raystudy.running.memory import CONTEXT, MARGIN, MIB, MOST, cap, exhausted, share

GIB = 2**30


@pytest.mark.parametrize(
    ("peak", "total", "want"),
    [
        (4 * GIB, 24 * GIB, 0.25),  # 4 * 1.25 + 0.7 = 5.7 GiB: four fit into 24
        (10 * GIB, 24 * GIB, 1.0),  # 13.2 GiB: one
        (9 * GIB, 24 * GIB, 0.5),  # 11.9 GiB: two
        (30 * GIB, 24 * GIB, 1.0),  # the probe itself would not fit again: all there is
        (0, 80 * GIB, 0.0625),  # never more than sixteen
        (6 * GIB, 25 * GIB, 0.3333),  # three, rounded down so that three are at most one
    ],
)
def test_share(peak: int, total: int, want: float) -> None:
    assert share(peak, total) == want


def test_what_is_packed_fits() -> None:
    for total in (8 * GIB, 24 * GIB, 80 * GIB):
        for peak in range(0, total, 97 * MIB):
            part = share(peak, total)
            k = int(1 / part)
            assert 1 <= k <= MOST
            assert k * part <= 1
            if k > 1:
                assert k * (peak * MARGIN + CONTEXT) <= total
                assert peak <= cap(part, total) * total  # a trial as large as the probe is not stopped by its cap
                assert k * (cap(part, total) * total + CONTEXT) <= total * 1.0001  # all at their caps still fit


def test_a_whole_device_is_not_capped() -> None:
    assert cap(1.0, 24 * GIB) == 1.0
    assert cap(2.0, 24 * GIB) == 1.0
    assert 0 < cap(0.05, 8 * GIB) < 0.05


def test_which_failures_say_that_memory_ran_out() -> None:
    assert exhausted(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert exhausted(MemoryError())
    assert not exhausted(ValueError("bad batch"))
    assert not exhausted(RuntimeError("CUDA error: device-side assert triggered"))
    with pytest.raises(RuntimeError) as e:  # what torch really says on a CPU
        torch.empty(2**60, dtype=torch.uint8)
    assert exhausted(e.value)


@pytest.mark.parametrize("method", ["ce", "coteaching", "dividemix", "incv"])
def test_the_probe_runs_every_phase_of_a_training(method: str) -> None:
    """The part of the probe that is not CUDA: the same calls on the CPU."""
    from raystudy.design import space
    from raystudy.learn import point

    noise = Noise("symmetric", 0.4)
    data = prepare("digits", Path("data"), noise, 0.1)
    recipe = space.recipe_for("shared", method, "digits", "mlp").to_dict()
    spec = TrialSpec(
        method,
        point.method_class(method).version,
        {},
        "digits",
        data.data_digest,
        noise.to_dict(),
        data.noise_digest,
        "mlp",
        recipe,
        9,
        0,
        0.1,
        0,
    )
    run = Run(spec, data)
    memory.exercise(run)
    assert run.records == []
