"""What is printed where the terminal has only some characters: plain stand-ins, and never a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import recorded

ROOT = Path(__file__).parents[2]
ASCII = (
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "ascii:strict"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
)


def run(folder: Path, environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[bytes]:
    known = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONIO", "PYTHONUTF8"))}
    known |= {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *command], cwd=folder, env=known, capture_output=True, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("environment", ASCII)
def test_the_leaderboard_of_a_terminal_without_plus_minus(tmp_path: Path, environment: dict[str, str]) -> None:
    recorded.write(tmp_path / "studies" / "demo", ("ce", "elr"), (0.5,), arrays=False)
    done = run(tmp_path, environment, "-m", "raystudy", "status", "demo")
    assert done.returncode == 0, done.stderr
    assert b"+/-" in done.stdout
    assert done.stdout.isascii()
    for command in (["status", "demö"], ["methods", "elr"], ["--help"]):
        done = run(tmp_path, environment, "-m", "raystudy", *command)
        assert done.returncode == (2 if "demö" in command else 0)
        assert b"Traceback" not in done.stderr
        assert (done.stdout + done.stderr).isascii()


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", "+/- - ... . e c ?"), ("latin-1", "± - ... · é ç ?")])
def test_stand_ins(tmp_path: Path, encoding: str, shown: str) -> None:
    """Of what is printed by a console and plainly, to standard output and as an error."""
    text = "± – … · é ç ✓"
    code = (
        "import sys; from raystudy.terminal import terminal; "
        f"terminal().print({text!r}); print({text!r}); print({text!r}, file=sys.stderr)"
    )
    done = run(tmp_path, {"PYTHONIOENCODING": encoding}, "-c", code)
    assert done.stdout.decode(encoding).split("\n") == [shown, shown, ""]
    assert done.stderr.decode(encoding).strip() == shown


def test_what_no_terminal_can_show(tmp_path: Path) -> None:
    """A file's name that is no text in UTF-8."""
    code = "from raystudy.terminal import terminal; terminal().print('a\\udcffb')"
    assert run(tmp_path, {"PYTHONIOENCODING": "utf-8"}, "-c", code).stdout == b"a?b\n"
