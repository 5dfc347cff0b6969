"""A job script for Slurm that runs a study: Ray on the nodes of the allocation, the sweep, a clean stop, and back into the queue.

The text is a function of the settings. Ray's own ``ray symmetric-run`` starts such nodes, too, but ends them with ``ray stop``, which ends
every Ray of the user on a node that several jobs share, and refuses a node on which there is one.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from raystudy.design.study import study_dir
from raystudy.errors import InputError, shown
from raystudy.running.budget import seconds
from raystudy.tools import jobfiles

WORD = re.compile(r"[\w.,:+@/-]+")  # of partitions and accounts
MEMORY = re.compile(r"\d+[KMGT]?")
CLOCK = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")
TEMPLATE = Path(__file__).with_name("slurm.sh")
CLIENT = (
    " --ray-client-server-port=$((20000 + SLURM_JOB_ID % 10000))"  # the one port that Ray does not choose by itself
)
OWN = {  # what the script cannot do without, and who says it
    **{"--time": "--time", "-t": "--time", "--nodes": "--nodes", "-N": "--nodes", "--signal": "--stop-before"},
    **{"--requeue": "always", "--no-requeue": "always", "--output": "by the study's name", "-o": "by the study's name"},
    **{"--job-name": "by the study's name", "-J": "by the study's name", "--open-mode": "append"},
}
INDENT = "    "
PATIENCE = 300  # seconds that a node may take to join
MOST_IDLE = 3  # attempts in a row that add nothing to the ledger


@dataclass(frozen=True)
class Part:
    """What one driver runs: a study by its name, the words of its ``raystudy sweep``, and the folder that grows while it goes on."""

    name: str
    words: tuple[str, ...]
    cells: Path


def part(name: str, words: Sequence[str], storage: Path) -> Part:
    """A driver of a study in a storage. Raises InputError for words that are not one line."""
    for word in words:
        if not word.isprintable():
            raise InputError(
                f"{shown(word)} is more than one line, or holds what is no text: a job script cannot hold it"
            )
    return Part(name, tuple(words), study_dir(storage, name) / "cells")


@dataclass(frozen=True)
class Job:
    """What Slurm is asked for, and where the job runs."""

    name: str
    folder: Path  # in which the words of the sweep mean what they mean here
    environment: Path  # the folder of python, ray and raystudy
    nodes: int
    time: int  # seconds
    ahead: int  # seconds before that in which the study stops
    partition: str | None = None
    account: str | None = None
    cpus_per_node: int | None = None  # None: whole nodes
    gpus_per_node: int | None = None
    memory: str | None = None  # of a node
    options: tuple[str, ...] = ()  # further lines for sbatch
    setup: tuple[str, ...] = ()  # shell, before anything else
    client: bool = False  # Ray's client server starts with the head, at a port of its own

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be."""
        if self.nodes < 1:
            raise InputError(f"--nodes is {self.nodes}; it must be at least 1")
        for option, count, least in (
            ("--cpus-per-node", self.cpus_per_node, 1),
            ("--gpus-per-node", self.gpus_per_node, 0),
        ):
            if count is not None and count < least:
                raise InputError(f"{option} is {count}; it must be at least {least}")
        if not 0 < self.ahead < self.time:
            raise InputError(
                f"--stop-before is {clock(self.ahead)} and --time {clock(self.time)}: the study is to stop before its time is over"
            )
        for option, word in (("--partition", self.partition), ("--account", self.account)):
            if word is not None and not WORD.fullmatch(word):
                raise InputError(f"{option} is {shown(word)}; it must be one word")
        if self.memory is not None and not MEMORY.fullmatch(self.memory):
            raise InputError(f"--memory is {shown(self.memory)}; write a size such as 64G or 500M")
        for line in self.setup:
            if not line.isprintable():
                raise InputError(f"--setup is {shown(line)}; write one line of shell, and repeat the option for more")
        bash = shutil.which("bash") if self.setup else None
        if (
            bash
            and subprocess.run([bash, "-n"], input="\n".join(self.setup), text=True, capture_output=True).returncode
        ):
            raise InputError(f"--setup is {shown('; '.join(self.setup))}, which bash cannot read")
        for line in self.options:
            if not line.startswith("-") or not line.isprintable():
                raise InputError(f"--sbatch is {shown(line)}; write one option of sbatch, such as --sbatch=--qos=long")
            if (name := line.partition("=")[0].split()[0]) in OWN:
                raise InputError(f"--sbatch is {shown(line)}; the script sets {name} itself: {OWN[name]}")


def duration(text: str, option: str) -> int:
    """Seconds of a time as Slurm writes it (minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes:seconds) or as
    30m, 2h, 1d. Raises InputError."""
    found = CLOCK.fullmatch(text.strip())
    if not found:
        return round(seconds(text, option))
    days, *rest = found.groups()
    told = [int(n) for n in rest if n is not None]
    # days-hours[:minutes[:seconds]], or minutes, minutes:seconds, hours:minutes:seconds
    sizes = (3600, 60, 1) if days is not None or len(told) == 3 else (60, 1)
    total = int(days or 0) * 86400 + sum(n * size for n, size in zip(told, sizes, strict=False))
    if not total:
        raise InputError(f"{option} is {text!r}; it must be above 0")
    return total


def clock(total: int) -> str:
    """Seconds as Slurm reads them."""
    days, rest = divmod(total, 86400)
    hours, minutes, left = rest // 3600, rest % 3600 // 60, rest % 60
    return (f"{days}-" if days else "") + f"{hours:02}:{minutes:02}:{left:02}"


def directives(job: Job, parts: int) -> list[str]:
    """The lines that sbatch reads."""
    several = parts > 1
    asked = [
        f"--job-name={job.name}",
        f"--output={job.name}-{'%A_%a' if several else '%j'}.log",
        "--open-mode=append",  # one log over all attempts
        *([f"--array=0-{parts - 1}"] if several else []),
        f"--nodes={job.nodes}",
        "--ntasks-per-node=1",
        *(["--exclusive"] if job.cpus_per_node is None else [f"--cpus-per-task={job.cpus_per_node}"]),
        *([f"--gpus-per-node={job.gpus_per_node}"] if job.gpus_per_node else []),
        *([f"--mem={job.memory}"] if job.memory else []),
        f"--time={clock(job.time)}",
        f"--signal=B:USR1@{job.ahead}",
        "--requeue",
        *([f"--partition={job.partition}"] if job.partition else []),
        *([f"--account={job.account}"] if job.account else []),
        *job.options,
    ]
    return [f"#SBATCH {line}" for line in asked]


def script(job: Job, parts: Sequence[Part]) -> str:
    """The job script. Several ``parts`` are an array of drivers, a study each."""
    chosen = _study(parts[0])
    if len(parts) > 1:
        cases = [f"{i})\n{indent(_study(part), INDENT)}\n{INDENT};;" for i, part in enumerate(parts)]
        chosen = 'case "$SLURM_ARRAY_TASK_ID" in\n' + "\n".join(cases) + "\nesac"
    told = {
        "NAME": job.name,
        "DIRECTIVES": "\n".join(directives(job, len(parts))),
        "FOLDER": shlex.quote(str(job.folder)),
        "ENVIRONMENT": shlex.quote(str(job.environment)),
        "SETUP": "".join(f"{line}\n" for line in job.setup),
        "STUDY": chosen,
        "MOST": str(MOST_IDLE),
        "PATIENCE": str(PATIENCE),
        "CLIENT": CLIENT if job.client else "",
    }
    return re.sub(r"@([A-Z]+)@", lambda found: told[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def _study(part: Part) -> str:
    words = "".join(f"{INDENT}{line}\n" for line in jobfiles.lines(part.words))
    return f"sweep=(\n{words})\nledger={shlex.quote(str(part.cells))}"


def submit(text: str) -> str:
    """Submits a job script. Returns what sbatch says; raises InputError where there is none, or with what it says where it refuses."""
    if not shutil.which("sbatch"):
        raise InputError(
            "--submit: there is no sbatch on this machine; leave it out and submit the file where Slurm is"
        )
    done = subprocess.run(["sbatch"], input=text, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise InputError(f"sbatch refused the job: {' '.join(done.stderr.split())}")
    return done.stdout.strip()
