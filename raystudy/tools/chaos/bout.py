"""One study in a folder of its own, and the process that runs it: begun, watched, killed, waited for."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raystudy.record.ledger import cells
from raystudy.tools.chaos.processes import descendants, send

ROOT = Path(__file__).resolve().parents[3]
NAME = "s"
SMALL = (
    *("mixup", "--noise", "symmetric:0.3", "--epochs", "60", "--trials", "4", "--replicates", "1", "--name", NAME),
    *("--checkpoint-every", "0.2", "--max-concurrent", "2"),
)
PATIENCE = 600.0  # seconds that a run of the small study may take, on a machine that has much else to do


class Skip(Exception):  # noqa: N818
    """A fault that cannot be made on this machine, and why."""


class Violated(Exception):  # noqa: N818
    """Something that must hold did not."""


class Bout:
    """One study in a folder of its own, and the process that runs it now. What a fault needs besides is changed before ``start``."""

    def __init__(self, folder: Path, undisturbed: "Bout | None" = None, command: Sequence[str] = SMALL) -> None:
        self.folder, self.undisturbed, self.options = folder, undisturbed, [*command]
        self.storage = folder / "studies"
        self.uri = self.store = (
            f"sqlite:///{folder}/mlflow.db"  # what the study is told, and where the runs are in the end
        )
        self.failing: tuple[str, str] | None = None  # the state in which one trial must end, and a part of the reason
        self.cleanup = contextlib.ExitStack()  # of what a fault has set up
        self.log = folder / "out.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self.ended: dict[str, str] = {}  # how trials had ended when a run was last begun
        self.begun_with = 0  # records then
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def study(self) -> Path:
        return self.storage / NAME

    def start(self, *options: str, **environment: str) -> None:
        """Begins the study, or goes on with it."""
        self.ended, self.begun_with = self.ends(), self.records()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        env = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | {"PYTHONPATH": path} | environment
        command = [sys.executable, "-m", "raystudy.sweep", *self.options]
        command += ["--tracking-uri", self.uri, "--storage", str(self.storage), *options]
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def events(self) -> list[dict[str, Any]]:
        """All whole events so far."""
        files = cells(self.study) if self.study.exists() else []
        return [json.loads(line) for path in files for line in path.read_bytes().split(b"\n")[:-1]]

    def records(self) -> int:
        return sum(e["event"] == "record" for e in self.events())

    def ends(self) -> dict[str, str]:
        """How each trial that has ended did."""
        return {e["key"]: e["state"] for e in self.events() if e["event"] == "end"}

    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        """Waits for a condition. Raises Skip if the process ended before: a fault that did not come has shown nothing."""
        end = time.monotonic() + seconds
        while not condition():
            if (code := self.running().poll()) is not None:
                if code:
                    raise Violated(f"the study ended with code {code} by itself and printed: {self.printed()}")
                raise Skip("the study ended before the fault came, so nothing was tried")
            if time.monotonic() > end:
                raise Violated(f"nothing happened for {seconds:.0f} s; the study printed: {self.printed()}")
            time.sleep(0.02)

    def until_records(self, n: int) -> None:
        """Waits for ``n`` more records than there were when this run began."""
        self.until(lambda: self.records() >= self.begun_with + n)

    def printed(self) -> str:
        """What the last run printed."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def workers(self) -> list[int]:
        """The processes that run trials now. Waits for the first."""
        found: list[int] = []

        def look() -> bool:
            below = descendants(self.running().pid)
            found[:] = [p for p, name in below.items() if name.startswith("ray::") and "Trainable" in name]
            return bool(found)

        self.until(look)
        return found

    def kill(self, everything: bool = False) -> None:
        """kill -9 of the driver, or of it and all that it started."""
        below = list(descendants(self.running().pid)) if everything else []
        send([self.running().pid, *below])
        self.running().wait()

    def wait(self, want: int, words: str = "", seconds: float = PATIENCE) -> float:
        """Waits for the process to end by itself, with this exit code and these words printed. Returns the seconds that took."""
        begun = time.monotonic()
        try:
            code = self.running().wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill(everything=True)
            raise Violated(f"the study did not end within {seconds:.0f} s; it printed: {self.printed()}") from None
        said = self.printed()
        if code != want or words not in said or "Traceback" in said:
            raise Violated(f"the study ended with code {code}, not {want} and {words!r}; it printed: {said}")
        return time.monotonic() - begun

    def finish(self) -> str:
        """Brings the study to its end: what runs must end well by itself, and so must the same command, whose words are returned."""
        if self.process and self.process.poll() is None:
            self.wait(0)
        self.start()
        self.wait(0)
        return self.printed()

    def close(self) -> None:
        """Leaves nothing running."""
        if self.process and self.process.poll() is None:
            self.kill(everything=True)
        self.cleanup.close()
