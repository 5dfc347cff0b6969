"""What a stranger's study, data set or server may try: its text is shown as text, its names stay in their folder, its links lead nowhere;
and the servers we start listen on loopback.
"""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import free_port
from PIL import Image
from rich.console import Console

from analysis import load, report, tables
from raystudy import cli
from raystudy.data.noise import Noise
from raystudy.design.study import Study
from raystudy.errors import InputError
from raystudy.record import ledger
from raystudy.terminal import printable
from raystudy.tracking import files

NASTY = "<script>alert(1)</script>&amp;\"'[bold red]x[/bold red][/nothing]$\\frac$ $%_#{}\\"


def hostile(folder: Path) -> Path:
    """A study whose data set, network, points and reasons are made to be obeyed rather than read."""
    noises = tuple(Noise("symmetric", rate) for rate in (0.2, 0.5))
    grid = Study("nasty", ("ce", "mixup"), (f"npz:/x/{NASTY}.npz",), noises, 2, 0, 3, NASTY)
    study = folder / "studies" / "nasty"
    study.mkdir(parents=True)
    (study / "study.toml").write_text(grid.to_toml())
    book = ledger.Ledger(study)
    for cell in grid.cells():
        book.open(
            cell.key,
            {"cell": cell.to_dict(), "network": NASTY, "epochs": 3, "commit": NASTY, "versions": {NASTY: NASTY}},
        )
        for number in range(3):
            key = f"{number:016x}"
            trial = {"key": key, "number": number, "origin": "search" if number else "paper", "seed": 0}
            book.append(
                cell.key, {"event": "trial", **trial, "point": {NASTY: NASTY, "lr": 0.1 + number}, "oracle": [NASTY]}
            )
            for epoch in range(3):
                metrics = {
                    "val/acc": 0.5 + number / 10,
                    "test/acc": 0.6,
                    "train/loss": 1.0,
                    "cost/seconds": 1.0,
                    f"method/{NASTY}": 1.0,
                }
                book.append(cell.key, {"event": "record", "key": key, "epoch": epoch, "metrics": metrics})
            state = "failed" if number == 2 else "complete"
            book.append(cell.key, {"event": "end", "key": key, "state": state, "reason": NASTY})
    book.close()
    return study


def test_tables_show_markup_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = hostile(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["status", "nasty"]) == 0
    told, histories = load.study(study)
    console = Console(width=2000, record=True)
    for table in (tables.status(told, histories), tables.leaderboard(told, histories)):
        console.print(table)
    assert NASTY in console.export_text()
    assert cli.main(["plan", "studies/nasty/study.toml", "--probe-seconds=0"]) in (0, 2)
    assert cli.main(["export", "nasty"]) == 0


def test_an_error_says_what_a_terminal_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", "ce", "--dataset", "x\x1b[2Jy"]) == 2
    assert "x\\x1b[2Jy" in capsys.readouterr().err
    assert printable("a\x1b]0;b\x07é") == "a\\x1b]0;b\\x07é"


class Tags(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_a_report_shows_html_as_text(tmp_path: Path) -> None:
    study = hostile(tmp_path)
    page = report.build(study, tmp_path / "out")[0].read_text(encoding="utf-8")
    found = Tags()
    found.feed(page)
    assert found.tags.count("script") == 4  # our own: the tabs, the data of the first one, Vega, and what draws with it
    assert "<script>alert" not in page
    assert "alert(1)" in found.text


def test_class_names_are_drawn_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What matplotlib would take for broken mathematics, too."""
    monkeypatch.chdir(tmp_path)
    names = ["$\\bad{$", "<script>", "[/red]$^$"]
    lines = ["path,label"]
    for i in range(36):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{names[i % 3]}")
    (tmp_path / "x.csv").write_text("\n".join(lines))
    argv = [
        "data",
        "show",
        "folder:.",
        "--labels=x.csv",
        "--size=8",
        "--out=out",
        "--images=4",
        "--noise=symmetric:0.3",
    ]
    assert cli.main(argv) == 0
    assert set(names) <= {row["name"] for row in csv.DictReader((tmp_path / "out" / "classes.csv").open())}


def test_a_trials_key_cannot_leave_the_folder(tmp_path: Path) -> None:
    """It is a part of the names of checkpoints and arrays, which a merge copies."""
    study = hostile(tmp_path)
    path = next((study / "cells").iterdir())
    secret = tmp_path / "studies" / "secret.pt"
    secret.write_text("ours")
    path.write_bytes(path.read_bytes().replace(b"0000000000000000", b"../../secret"))
    with pytest.raises(InputError, match="key is"):
        ledger.replay(path)
    hostile(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    for argv in (
        ["merge", str(tmp_path / "other/studies/nasty"), str(study)],
        ["merge", "nasty", str(tmp_path / "other/studies/nasty"), "--into=u"],
    ):
        assert cli.main([*argv, "--storage", str(tmp_path / "studies")]) == 2
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before and p.name != "lock"] == []


def test_links_in_a_strangers_study_are_not_followed(tmp_path: Path) -> None:
    """Neither a merge nor MLflow takes a file of ours that a stranger's study points at."""
    secret = tmp_path / "secret"
    secret.write_text("ours")
    mine, theirs = hostile(tmp_path / "a"), hostile(tmp_path / "b")
    (theirs / "artifacts" / "study").mkdir(parents=True)
    (theirs / "artifacts" / "study" / "x.txt").symlink_to(secret)
    (theirs / "artifacts" / "study" / "y.txt").write_text("theirs")
    assert files.below(theirs / "artifacts") == [theirs / "artifacts" / "study" / "y.txt"]
    assert cli.main(["merge", str(mine), str(theirs)]) == 0
    assert [p.name for p in (mine / "artifacts" / "study").iterdir()] == ["y.txt"]


def listening(pids: set[int]) -> set[str]:
    """The addresses on which processes accept connections, as /proc tells them."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                inodes.add(os.readlink(fd))
            except OSError:
                continue
    found = set()
    for name, size in (("tcp", 8), ("tcp6", 32)):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[i] for i in (1, 3, 9))
            if state == "0A" and f"socket:[{inode}]" in inodes:
                found.add(local[:size])
    return found


def family(pid: int) -> set[int]:
    """A process and what it has started."""
    found = {pid}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        found |= family(int(child))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks at /proc")
def test_the_ui_listens_on_loopback(tmp_path: Path) -> None:
    """Really: of all sockets of the server's processes none accepts connections from elsewhere. Nor is the store's URI in `ps`."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "raystudy",
        "ui",
        "--tracking-uri",
        f"sqlite:///{tmp_path}/secret-name.db",
        "--port",
        str(port),
    ]
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
    try:
        end, found = time.monotonic() + 120, set[str]()
        while not found:
            assert process.poll() is None, (tmp_path / "log.txt").read_text()
            assert time.monotonic() < end, (tmp_path / "log.txt").read_text()
            time.sleep(0.3)
            found = listening(family(process.pid))
        assert found == {"0100007F"}  # 127.0.0.1
        words = b" ".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in family(process.pid))
        assert b"secret-name" not in words  # a store's URI may hold a password
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_the_clusters_server_and_dashboard_stay_on_loopback() -> None:
    """`tests/test_ray_up.py` starts them for real; here no file of ours opens them to others."""
    root = Path(__file__).parents[2]
    assert re.findall(r"--host (\S+)", (root / "mlflow_server.sh").read_text()) == ["127.0.0.1"]
    for name in ("cluster.yaml", "cluster-onprem.yaml"):
        text = (root / name).read_text()
        assert "0.0.0.0" not in re.sub(r"#.*", "", text)
        for line in text.splitlines():
            if "ray start" in line and "--head" in line:
                assert (
                    "--dashboard-host" not in line
                    or "--dashboard-host=127.0.0.1" in line
                    or "--dashboard-host 127.0.0.1" in line
                )
