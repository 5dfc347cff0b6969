"""The Ray Tune Trainable: trains a trial epoch by epoch, keeps its checkpoint, and is reused from trial to trial."""

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from raystudy import own
from raystudy.data.noise import Noise
from raystudy.errors import InputError
from raystudy.learn.checkpoint import previous
from raystudy.learn.filtering import prepare
from raystudy.learn.spec import TrialSpec
from raystudy.learn.training import Run, resume
from raystudy.record.checkpoints import Checkpoints
from raystudy.running import keeping, memory
from raystudy.terminal import lenient

STEP_SECONDS = 0.5  # epochs shorter than this are reported together: a driver can take only so many results a second


class TrialActor(tune.Trainable):
    """Runs one trial at a time.

    The config names the trial (``spec``), how many epochs the driver already holds (``recorded``), where rungs lie (``rungs``), the
    checkpoint file, how often it is written and the storage it is copied to, what the trial may use (``gpus``, ``whole``), and the file
    for what a finished trial leaves (``arrays``; ``each``: of every image, too; ``model`` where its weights are wanted, ``whose`` they
    are). One ``step`` is one epoch, or as many as fit in half a second without passing a rung, so that trials are judged at equal epochs. A
    checkpoint carries its records: what it knows and the driver does not is told again, what the driver knows beyond it is trained again,
    identically.
    """

    def setup(self, config: dict[str, Any]) -> None:
        lenient()
        self.checkpoints: Checkpoints | None = None
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        if self.checkpoints:
            self.checkpoints.close()

    def _begin(self, config: dict[str, Any]) -> None:
        self.cleanup()
        self.failure, self.again, self.whole = "", False, config["whole"]
        self.run: Run | None = None
        self.notes: list[str] = []
        self.next: int = config["recorded"]
        try:
            torch.set_num_threads(config["threads"])
            own.provide(config["own"])
            device = "cuda" if torch.cuda.is_available() and config["gpus"] else "cpu"
            if device == "cuda":
                memory.limit(config["gpus"])
            spec = TrialSpec(**config["spec"])
            noise, root = Noise(**spec.noise), Path(config["data_root"])
            data = prepare(spec.dataset, root, noise, spec.val_fraction, device, spec.filter)
            self.run = Run(spec, data, device)
            self.checkpoints = Checkpoints(Path(config["checkpoint"]), config["storage"], config["study"])
            self.arrays: str | None = config.get("arrays")
            self.each: bool = config.get("each", False)
            self.model: str | None = config.get("model")
            self.whose: dict[str, Any] = config.get("whose", {})
            self.checkpoints.fetch()
            resume(self.run, self.checkpoints.file, self.notes.append)
            if not self.run.records and "source" in config:  # the same training of fewer epochs
                with contextlib.suppress(InputError):  # a method whose durations hang on the epochs: from the beginning
                    self.run.load(Path(config["source"]))
            self.lasts: bool = config.get("lasts", False)
        except Exception as e:
            self._failed(e)
        self.rungs, self.every = set(config["rungs"]), config["checkpoint_seconds"]
        self.saved = time.monotonic()

    def step(self) -> dict[str, Any]:
        start, first, records, diverged, repeated = time.monotonic(), self.next, [], False, 0.0
        if self.run is not None and not self.failure:
            try:
                while not diverged and self.next < self.run.spec.epochs:
                    while len(self.run.records) <= self.next and not self.run.diverged:
                        self._epoch()
                        if len(self.run.records) <= first:  # the driver has its record already
                            repeated += self.run.records[-1].get("cost/seconds") or 0.0
                    diverged = self.run.diverged and self.next >= len(self.run.records) - 1
                    records += self.run.records[self.next : self.next + 1]
                    self.next += 1
                    if self.next in self.rungs or time.monotonic() - start > STEP_SECONDS:
                        break
            except Exception as e:
                self._failed(e)
        return {
            "start": first,
            "records": records,
            "diverged": diverged,
            "failure": self.failure,
            "again": self.again,
            "repeated": repeated,
            "notes": self.notes,
            "worker": f"{socket.gethostname()}:{os.getpid()}",
        }

    def _failed(self, e: Exception) -> None:
        """Notes why the trial cannot go on. Where memory ran out, it is freed for the next trial, and this one may have a whole device."""
        self.failure = _told(e)
        if memory.exhausted(e):
            self.failure = (
                f"out of memory on {'a whole device' if self.whole else 'its part of a device'}: {self.failure}"
            )
            self.again = not self.whole
            self.run = None
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _epoch(self) -> None:
        assert self.run is not None
        assert self.checkpoints is not None
        self.run.epoch()
        if time.monotonic() - self.saved >= self.every and len(self.run.records) < self.run.spec.epochs:
            try:
                self.run.save(self.checkpoints.file)
                problem = self.checkpoints.store()
            except (OSError, RuntimeError) as e:  # torch's own writer raises the latter
                problem = f"no checkpoint was written: {_told(e)}"  # costs time if the worker dies, never the trial
            if problem:
                self.notes.append(problem)
            self.saved = time.monotonic()
        if len(self.run.records) == self.run.spec.epochs and not self.run.diverged:
            if self.lasts:
                self._leave_state()
            if self.arrays:
                self._leave(Path(self.arrays))
            if self.model:
                self._leave_model(Path(self.model))

    def _leave_state(self) -> None:
        """Keeps the state after the last epoch where more epochs can go on from it."""
        assert self.run is not None
        assert self.checkpoints is not None
        try:
            if not self.run.bound:
                self.run.save(self.checkpoints.file)
                previous(self.checkpoints.file).unlink(missing_ok=True)
        except (OSError, RuntimeError) as e:
            self.notes.append(f"no last checkpoint was written, more epochs will begin anew: {_told(e)}")

    def _leave(self, path: Path) -> None:
        """Writes the finished trial's arrays, before its last records are told; without them only figures are missing."""
        assert self.run is not None
        assert self.checkpoints is not None
        try:
            with self.checkpoints.leaving(path) as new, new.open("wb") as f:
                np.savez_compressed(f, **self.run.arrays(self.each))
        except Exception as e:
            self.notes.append(f"no arrays written: {_told(e)}")

    def _leave_model(self, path: Path) -> None:
        """Writes the finished trial's weights and their card, before its last records are told."""
        assert self.run is not None
        assert self.checkpoints is not None
        try:
            for ending, data in keeping.files(self.run, self.whose).items():
                with self.checkpoints.leaving(path.with_suffix(ending)) as new:
                    new.write_bytes(data)
        except Exception as e:
            self.notes.append(f"no model written: {_told(e)}")


def _told(e: Exception) -> str:
    """An exception in one line, for the ledger."""
    return f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:500]
