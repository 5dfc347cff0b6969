"""Tune's own folder beside the ledger: whose it is, its lock tells."""

import tempfile
from pathlib import Path

import pytest

from raystudy.running.execute import SCRATCH, scratch


def test_a_killed_drivers_folder_goes_and_a_living_ones_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver in another container may have any number, also one that no process has here."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed = tmp_path / f"{SCRATCH}killed"
    killed.mkdir()
    with scratch() as first:
        assert not killed.exists()
        (Path(first) / "experiment").mkdir()
        with scratch() as second:
            assert {p.name for p in tmp_path.iterdir()} == {Path(first).name, Path(second).name}
        assert [p.name for p in Path(first).iterdir()] == ["experiment"]
    assert not list(tmp_path.iterdir())
