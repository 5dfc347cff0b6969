"""What is shipped says which commit it is, and says so no more once it was changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raystudy.cli import main
from raystudy.errors import InputError
from raystudy.record import provenance


def asked(folder: Path) -> str:
    """The commit that code in ``folder`` takes itself for."""
    command = [
        sys.executable,
        "-c",
        "from raystudy.record import provenance; print(provenance.root(), provenance.commit(), sep='|')",
    ]
    done = subprocess.run(
        command, cwd="/", env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True
    )
    root, _, commit = done.stdout.strip().partition("|")
    assert root == str(folder), done.stderr
    return commit


def test_shipped_code_knows_its_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / ".ship"
    assert main(["ship", str(to)]) == 0
    record = json.loads((to / "PROVENANCE.json").read_text())
    assert record == {"commit": provenance.commit(), "code": provenance.digest(provenance.root())}
    assert record["code"] in capsys.readouterr().out
    assert asked(to) == record["commit"]
    assert not [p for p in to.rglob("*") if "__pycache__" in str(p) or p.name.startswith(".git")]
    assert sum(p.stat().st_size for p in to.rglob("*")) < 5 * 2**20
    changed = to / "raystudy" / "learn" / "losses.py"
    changed.write_text(changed.read_text() + "\n# edited on the node\n")
    assert asked(to) == record["commit"].rstrip("+") + "+"
    (to / "PROVENANCE.json").write_text("{")
    assert asked(to) == ""
    (to / "PROVENANCE.json").unlink()
    with pytest.raises(InputError, match="not a folder that was written by"):
        provenance.ship(to)
