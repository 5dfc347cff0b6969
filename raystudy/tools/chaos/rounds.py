"""One fault after the other, each done to a study of its own, and how many held."""

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from raystudy.errors import InputError, unknown
from raystudy.tools.chaos.bout import Bout, Skip, Violated
from raystudy.tools.chaos.faults import FAULTS, Fault, kills
from raystudy.tools.chaos.holds import violations


@dataclass(frozen=True)
class Options:
    """What is done."""

    kinds: tuple[str, ...] = ()  # these faults, once each; none: all, again and again
    minutes: float = 10.0  # no fault is begun after them
    seed: int = 0
    kills: int = 0  # not 0: one study instead, killed so many times in a row


@dataclass(frozen=True)
class Outcome:
    """How it went."""

    verdicts: Counter[str]  # of the undisturbed study and of each fault: how many held, were skipped, VIOLATED
    begun: bool  # False where the undisturbed study was not as it must be, so that no fault was tried

    @property
    def good(self) -> bool:
        return self.begun and not self.verdicts["VIOLATED"]


def options(kinds: str | None, minutes: float, seed: int, kills: int | None) -> Options:
    """The command line's words, checked. Raises InputError."""
    if not 0 < minutes < 1e6:
        raise InputError(f"--minutes is {minutes:g}; it must be above 0")
    if kills is not None and not 1 <= kills <= 10_000:
        raise InputError(f"--kills is {kills}; it must be from 1 to 10000")
    named = tuple(k for k in kinds.split(",") if k) if kinds is not None else ()
    for kind in named:
        if kind not in FAULTS:
            raise unknown("fault", kind, FAULTS)
    if kinds is not None and not named:
        raise InputError(f"--kinds names no fault; choose from: {', '.join(FAULTS)}")
    if not Path("/proc/self").exists():
        raise InputError("chaos finds its victims in /proc, which this machine has not")
    return Options(named, minutes, seed, kills or 0)


def run(told: Options, folder: Path | None, tell: Callable[[str], None]) -> Outcome:
    """Does faults in a folder, which is left with what was VIOLATED in it; without one in a temporary folder, which is removed."""
    if folder is not None:
        return _rounds(told, folder.absolute(), tell)
    own = Path(tempfile.mkdtemp(prefix="raystudy-chaos-"))
    try:
        return _rounds(told, own, tell)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _rounds(told: Options, folder: Path, tell: Callable[[str], None]) -> Outcome:
    begun, verdicts = time.monotonic(), Counter[str]()

    def attempt(name: str, fault: Fault, bout: Bout) -> bool:
        verdict, line = attempted(name, fault, bout, Random(f"{told.seed}-{name}"))
        verdicts[verdict] += 1
        tell(line)
        return verdict == "held"

    tell(f"chaos in {folder}, seed {told.seed}; first the study undisturbed")
    undisturbed = Bout(folder / "undisturbed")
    if not attempt("undisturbed", lambda bout, random: "all that must hold does", undisturbed):
        return Outcome(verdicts, begun=False)
    for number, (kind, fault) in enumerate(_faults(told, tell), 1):
        name = f"{number:03}-{kind}"
        if attempt(name, fault, Bout(folder / name, undisturbed)):
            shutil.rmtree(folder / name, ignore_errors=True)
        if time.monotonic() - begun > 60 * told.minutes:
            break
    return Outcome(verdicts, begun=True)


def _faults(told: Options, tell: Callable[[str], None]) -> Iterator[tuple[str, Fault]]:
    """What is done, one after the other; without an end where no kinds were named."""
    if told.kills:
        yield "kills", partial(kills, times=told.kills, tell=tell)
    elif told.kinds:
        yield from ((kind, FAULTS[kind]) for kind in told.kinds)
    else:
        random = Random(told.seed)
        while True:
            yield from ((kind, FAULTS[kind]) for kind in random.sample(list(FAULTS), len(FAULTS)))


def attempted(name: str, fault: Fault, bout: Bout, random: Random) -> tuple[str, str]:
    """One fault: its verdict (held, skipped, VIOLATED), and a line that tells it."""
    since = time.monotonic()
    try:
        did, verdict = strike(fault, bout, random), "held"
    except Skip as e:
        did, verdict = str(e), "skipped"
    except Violated as e:
        did, verdict = str(e), "VIOLATED"
    return verdict, f"{name:<15} {verdict} in {time.monotonic() - since:.0f} s: {did}"


def strike(fault: Fault, bout: Bout, random: Random) -> str:
    """A fault, the end of the study, and the check. Returns what the fault did."""
    with contextlib.closing(bout):
        try:
            did = fault(bout, random)
            bout.finish()
        except Violated:
            if "cannot start or reach Ray" in bout.printed():
                raise Skip(f"this machine has too much to do: {bout.printed().strip().splitlines()[-1]}") from None
            raise
        if wrong := violations(bout):
            raise Violated("; ".join(wrong))
    return did
