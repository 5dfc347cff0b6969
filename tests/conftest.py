"""Shared fixtures. One torch thread: tiny networks oversubscribe two cores."""

import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start Ray come first, as they take longest."""
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where several processes share the tests, a file's go to one of them, so that what its fixtures made is made once; and all files
    with tests that start Ray go to the same one, so that no two Rays run side by side."""
    from xdist.scheduler import LoadFileScheduling

    @cache
    def with_ray(file: str) -> bool:
        return "pytest.mark.ray" in (config.rootpath / file).read_text(encoding="utf-8")

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if with_ray(file) else file

    return Scheduling(config, log)


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
