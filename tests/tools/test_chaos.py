"""``raystudy chaos`` itself: the faults that test_sweep.py does not do, through the real command."""

import subprocess
import sys
from pathlib import Path

import pytest

from raystudy.cli import main
from raystudy.tools.chaos.faults import FAULTS

KINDS = ("torn", "disk", "hang")


@pytest.mark.ray
@pytest.mark.slow
def test_a_study_survives_faults(tmp_path: Path) -> None:
    """Each fault must have struck, or say why it cannot be made on this machine (a full disk takes root)."""
    folder = tmp_path / "chaos"
    command = [sys.executable, "-m", "raystudy", "chaos", "--kinds", ",".join(KINDS), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in KINDS:
        (verdict,) = (line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if f"-{kind} " in line)
        assert verdict.startswith("held") or (kind == "disk" and "tmpfs" in verdict), done.stdout
    assert {path.name for path in folder.iterdir()} <= {"undisturbed", "003-disk"}  # what held is removed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--kinds", "fire"), f"choose from: {', '.join(sorted(FAULTS))}"),
        (("--kinds", ","), f"choose from: {', '.join(FAULTS)}"),
        (("--minutes", "0"), "--minutes is 0; it must be above 0"),
        (("--kills", "0"), "--kills is 0; it must be from 1 to 10000"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    options: tuple[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chaos", *options]) == 2
    out, told = capsys.readouterr()
    assert not out
    assert len(told.splitlines()) == 1
    assert words in told


def test_help_names_every_kind_of_fault() -> None:
    from raystudy.tools.chaos import KINDS
    from raystudy.tools.chaos.faults import FAULTS

    assert set(KINDS) == set(FAULTS)
