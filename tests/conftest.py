"""Shared fixtures. One torch thread: tiny networks oversubscribe two cores."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
PARITY = Path(os.environ.get("RAYSTUDY_PARITY") or Path(__file__).parent / "parity")


settings.register_profile(
    "few", max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.register_profile("more", settings.get_profile("few"), max_examples=25)
settings.register_profile("many", settings.get_profile("few"), max_examples=300, derandomize=False)
settings.load_profile("few")


@pytest.fixture(scope="session")
def parity() -> Callable[[str], dict[str, np.ndarray]]:
    """Loads one file of vectors of the official code (see tests/parity/README.md)."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(PARITY / f"{name}.npz", allow_pickle=False) as z:
            return {key: z[key] for key in z.files}

    return load
