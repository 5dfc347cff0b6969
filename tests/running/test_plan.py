"""Plans: what is left by hand, what the ledger holds, what the pace rests on, when a sweep asks. Nothing is written by a plan."""

import contextlib
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import options, request
from rich.console import Console

from raystudy import cli
from raystudy.commands.plan import confirmed
from raystudy.commands.reading import charge
from raystudy.data.noise import Noise
from raystudy.design import space
from raystudy.design.study import Cell, Study
from raystudy.errors import InputError
from raystudy.record.ledger import CellHistory, Ledger
from raystudy.running import plan
from raystudy.running.pace import Range
from raystudy.running.plan import work

NOISE = Noise("symmetric", 0.5)
STUDY = Study("s", ("elr", "ce"), ("digits",), (NOISE,), trials=4, replicates=2, epochs=27, network="mlp")
ELR, CE = (Cell(m, "digits", NOISE) for m in ("elr", "ce"))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def history(*trials: tuple[str, int, str], seconds: float = 2.0, points: int = 2) -> CellHistory:
    """Of trials (origin, epochs, state) of so many points in turn."""
    cell = CellHistory("c")
    for n, (origin, epochs, state) in enumerate(trials):
        key = str(n)
        cell.apply(
            {
                "event": "trial",
                "time": 0,
                "key": key,
                "number": n,
                "origin": origin,
                "point": {"beta": n % points},
                "seed": n,
            }
        )
        for e in range(epochs):
            cell.apply({"event": "record", "time": 0, "key": key, "epoch": e, "metrics": {"cost/seconds": seconds}})
        if state != "running":
            cell.apply({"event": "end", "time": 0, "key": key, "state": state})
    return cell


def told(study: Study, cell: Cell, history: CellHistory | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    left = work(study, cell, space.load(cell.method), history)
    return tuple(left.trials), tuple(left.epochs)


def test_what_is_left_by_hand() -> None:
    # rungs at 3 and 9 of 27 epochs: the first two trials run through, a stopped one takes 3 to 27, on average 3 + 6/3 + 18/9
    assert told(STUDY, ELR, None) == ((6, 7, 8), (2 * 27 + 2 * 3 + 2 * 27, 2 * 27 + 2 * 7 + 3 * 27, 4 * 27 + 4 * 27))
    assert told(STUDY, CE, None) == ((3, 3, 3), (81, 81, 81))  # nothing to search: one trial and its replicates
    assert told(replace(STUDY, scheduler="none", replicates=0), ELR, None) == ((4, 4, 4), (108, 108, 108))


def test_what_the_ledger_holds_is_not_counted() -> None:
    begun = history(("paper", 27, "complete"), ("search", 5, "running"))
    assert told(STUDY, ELR, begun) == ((5, 6, 7), (22 + 2 * 3 + 54, 22 + 2 * 7 + 81, 22 + 54 + 108))
    searched = (("paper", 27, "complete"), ("search", 27, "complete"), ("search", 3, "pruned"), ("search", 9, "pruned"))
    both = [
        ("replicate", 27, "complete"),
        ("replicate", 27, "complete"),
        ("replicate", 27, "complete"),
        ("replicate", 7, "running"),
    ]
    assert told(STUDY, ELR, history(*searched, *both)) == ((1, 1, 1), (20, 20, 20))
    done = history(*searched, *(("replicate", 27, "complete"),) * 4)
    assert told(STUDY, ELR, done) == ((0, 0, 0), (0, 0, 0))
    assert told(replace(STUDY, replicates=3), ELR, done) == ((2, 2, 2), (54, 54, 54))  # grown by a seed, for two points


def test_a_finished_cell_without_a_search_needs_nothing() -> None:
    one = history(("paper", 27, "complete"), ("replicate", 27, "complete"), ("replicate", 27, "complete"), points=1)
    assert told(STUDY, CE, one) == ((0, 0, 0), (0, 0, 0))
    assert told(replace(STUDY, trials=1), ELR, one) == ((0, 0, 0), (0, 0, 0))


def test_what_replicates_leave_of_every_image_is_told() -> None:
    def leaving(study: Study, cell: Cell, *trials: tuple[str, int, str]) -> tuple[float, ...]:
        return tuple(work(study, cell, space.load(cell.method), history(*trials, points=1) if trials else None).leaving)

    assert leaving(STUDY, ELR) == (2, 3, 4)  # of one or two points
    assert leaving(STUDY, CE) == (2, 2, 2)
    assert leaving(STUDY, CE, ("paper", 27, "complete"), ("replicate", 27, "complete")) == (1, 1, 1)
    assert leaving(STUDY, CE, ("paper", 27, "complete"), ("replicate", 5, "running")) == (2, 2, 2)
    assert leaving(replace(STUDY, replicates=0), ELR) == (4, 4, 4)  # then it is the trials of the search
    each = 1212 * (4 + 2 + 2 + 2 + 2) + 135 * (4 + 2 + 10 * 2)
    assert made(*SMALL, "--probe-seconds", "0").left.mid == 2 * each  # two noise levels, a replicate each


def made(*argv: str) -> plan.Plan:
    told = options(*argv)
    study, resources = request(*argv)
    storage, prices = told["where"].storage.absolute(), told["prices"]
    return plan.made(study, storage, resources, charge(prices, resources), prices.probe_seconds)


SMALL = ("ce", "--noise", "symmetric:0.2,0.5", "--epochs", "4", "--name", "s", "--replicates", "1")


def test_the_pace_of_records() -> None:
    study, _ = request(*SMALL)
    cell = study.cells()[0]
    folder = Path("studies/s")
    ledger = Ledger(folder)
    (folder / "study.toml").write_text(study.to_toml())
    ledger.open(cell.key, {"cell": cell.to_dict(), "network": "mlp"})
    for n, seconds in enumerate((1.0, 2.0, 3.0)):
        ledger.append(
            cell.key, {"event": "trial", "key": str(n), "number": n, "origin": "paper", "point": {}, "seed": n}
        )
        for e in range(4):
            ledger.append(
                cell.key, {"event": "record", "key": str(n), "epoch": e, "metrics": {"cost/seconds": seconds}}
            )
        ledger.append(cell.key, {"event": "end", "key": str(n), "state": "complete"})
    ledger.close()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    found = made(*SMALL, "--probe-seconds", "0")
    assert found.done == (3, 0, 12, 24.0)
    assert [p.source for p in found.rows[0].paces] == [
        "3 trials of this study",
        "3 trials of this study at other noise",
    ]
    assert tuple(found.work.epochs) == (12, 12, 12)  # a replicate here, trial and replicate there
    assert found.hours.mid == pytest.approx(12 * 2.0 / 3600)
    assert found.hours.low == pytest.approx(12 * 1.2 / 3600)  # the 10 % quantile of 1, 2, 3
    other = made(*SMALL[:-4], "--name", "other", "--probe-seconds", "0")
    assert [p.source for p in other.rows[0].paces] == ["3 trials of other studies in the storage"]
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert not Path("studies/other").exists()


def test_a_probe_measures_what_no_ledger_tells_and_writes_nothing() -> None:
    found = made("ce", "--noise", "symmetric:0.5", "--epochs", "40", "--replicates", "0")
    assert [p.source for p in found.rows[0].paces] == ["probe of 8 epochs here"]
    assert 0 < found.hours.low < found.hours.mid < found.hours.high < 0.1
    big = made(
        "ce",
        "--dataset",
        "cifar10",
        "--noise",
        "symmetric:0.5",
        "--epochs",
        "2",
        "--network",
        "convnet",
        "--replicates",
        "0",
    )
    (pace,) = big.rows[0].paces  # no image of CIFAR-10 is needed
    assert pace.source == "probe here: 3.0 passes an image and epoch"
    assert pace.seconds.high > 4 * pace.seconds.low > 0
    assert not list(Path().iterdir())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*argv: str) -> tuple[int, str, str]:
        return cli.main(argv), *capsys.readouterr()

    return call


def test_the_command_tells_all_of_it(run: Callable[..., Any], tmp_path: Path) -> None:
    code, out, err = run(
        "plan", "mixup", "--noise", "symmetric:0.5", "--probe-seconds", "0", "--prices", "nowhere.toml"
    )
    assert (code, out) == (2, "")
    assert "there is no price table nowhere.toml" in err
    code, out, _ = run("plan", "mixup-table2", "--scale", "smoke")
    assert code == 0
    assert "study mixup-table2-smoke: 9 cells, up to 1 trials and 1 replicates each" in out
    assert "in the ledger, not repeated: 0 trials ended" in out
    assert re.search(r"CPU-hours: [\d.e-]+ \([\d.e-]+ to [\d.e-]+\); with \d+ trials at once", out)
    assert re.search(r"money: .* USD \(c7i.xlarge, .* prices of 20\d\d-\d\d\)", out)
    code, out, _ = run("plan", "mixup-table2", "--scale", "smoke", "--probe-seconds", "0")
    assert "unknown; 3 of 3 rows are not measured" in out
    code, _, err = run("plan", "mixpu-table2")
    assert code == 2
    assert "did you mean 'mixup-table2'?" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_gpus_of_another_machine_are_planned_and_said_to_be_elsewhere(run: Callable[..., Any]) -> None:
    options = ("plan", "ce", "--noise", "symmetric:0.5", "--epochs", "2", "--gpus-per-trial", "0.5")
    code, out, _ = run(*options, "--max-concurrent", "16")
    assert code == 0
    told = " ".join(out.split())
    assert re.search(
        r"GPU-hours and money: unknown; no GPU is here, and one after the other the trials take .* hours at the paces",
        told,
    )
    code, _, err = run(*options[:-1], "2")
    assert code == 2
    assert "a trial trains on one GPU" in err


def test_a_study_of_the_storage_is_planned_by_its_name(run: Callable[..., Any]) -> None:
    folder = Path("studies/mine")
    folder.mkdir(parents=True)
    (folder / "study.toml").write_text(replace(STUDY, name="mine").to_toml())
    code, out, _ = run("plan", "mine", "--probe-seconds", "0")
    assert code == 0
    assert "study mine: 2 cells, up to 4 trials" in out


def test_a_sweep_above_the_limit_is_refused_where_nobody_can_be_asked(run: Callable[..., Any]) -> None:
    for option in (("--probe-seconds", "0"), ()):  # not known, and known
        code, out, err = run("sweep", *SMALL, "--confirm-above", "0", *option)
        assert (code, out) == (2, "")
        assert "--yes runs it all the same" in err
        assert len(err.splitlines()) == 1
    assert not list(Path().iterdir())
    for argv, words in (
        (("--confirm-above", "nan"), "--confirm-above is nan"),
        (("--time-budget", "5"), "--time-budget is '5'"),
        (("--max-cost", "0"), "--max-cost is 0"),
        (("--max-cost", "1", "--machine", "x"), "unknown machine"),
        (("--probe-seconds", "-1", "--confirm-above", "1"), "--probe-seconds is -1"),
    ):
        code, _, err = run("sweep", *SMALL, *argv)
        assert (code, len(err.splitlines())) == (2, 1)
        assert words in err
    assert not list(Path().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("", 1), ("y", 2)])
def test_at_a_terminal_it_asks(tmp_path: Path, answer: str, code: int) -> None:
    """A yes goes on, here to a cluster that is not there (2); anything else begins nothing."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "raystudy.sweep", *SMALL, "--confirm-above", "0", "--probe-seconds", "0"]
    command += ["--address", "127.0.0.1:1", "--tracking-uri", "none"]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen, asked = b"", False
    with contextlib.suppress(OSError):  # the terminal ends with the command
        while new := os.read(ours, 4096):
            seen += new
            if not asked and b"y/N" in seen:
                os.write(ours, f"{answer}\n".encode())
                asked = True
    assert (process.wait(60), asked) == (code, True), seen.decode()
    assert b"Traceback" not in seen
    assert answer == "y" or not list(tmp_path.iterdir())


def test_it_goes_on_below_the_limit() -> None:
    found = made(*SMALL)
    assert confirmed(found, 1.0, Console())
    with pytest.raises(InputError, match=r"planned to take .* CPU-hours, above --confirm-above 0"):
        confirmed(found, 0.0, Console())


def test_ranges() -> None:
    assert Range(1, 2, 3).plus(Range(1, 1, 1)) == Range(2, 3, 4)
    assert Range(1, 2, 3).times(Range(2, 2, 4)) == Range(2, 4, 12)


def test_a_probe_runs_with_the_threads_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch's default is here: with more threads than cores to spare a small network is many times slower."""
    import torch

    from raystudy.running.pace import Probe

    seen: list[int] = []
    monkeypatch.setattr(Probe, "_pace", lambda self, cell: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    for threads in (1, 2):
        Probe(STUDY, Path("data"), 0, 60.0, threads).pace(CE)
    assert seen == [1, 2]
    assert torch.get_num_threads() == before
