"""Shared fixtures. One torch thread: tiny networks oversubscribe two cores."""

import os
import shutil
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


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests, a file's go to one of them, so that what its fixtures made is made once.

    Marked otherwise: tests that start Ray go one after another, the first of all as they take longest, and the contract of methods
    is shared out method by method.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != ("ray",))


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], str]:
    """Puts an MLflow store with nothing in it into a folder, and returns its URI: a copy, as making one takes seconds."""
    made = tmp_path_factory.mktemp("store") / "mlflow.db"

    def put(folder: Path) -> str:
        from raystudy.tracking import store

        if not made.exists():
            store.connect(f"sqlite:///{made}").search_experiments()
        shutil.copy(made, folder / made.name)
        return f"sqlite:///{folder / made.name}"

    return put


@pytest.fixture(scope="session")
def parity() -> Callable[[str], dict[str, np.ndarray]]:
    """Loads one file of vectors of the official code (see tests/parity/README.md)."""

    def load(name: str) -> dict[str, np.ndarray]:
        with np.load(PARITY / f"{name}.npz", allow_pickle=False) as z:
            return {key: z[key] for key in z.files}

    return load
