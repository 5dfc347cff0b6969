"""A job of `raystudy slurm` on a real Slurm: controller, munge and two nodes on this machine.

All of it in namespaces of its own (processes, network), so that ports are free and whatever a failure leaves behind ends with them. The
job is stopped once by the signal that Slurm sends ahead of a time limit (time limits themselves have minutes for their unit), puts itself
back into the queue, and ends with the study.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from raystudy.record.ledger import cells, replay

ROOT = Path(__file__).parents[2]
NAMESPACES = ["unshare", "--pid", "--net", "--mount", "--mount-proc", "--fork", "--kill-child"]
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "ip")
WHERE = "/usr/sbin:/sbin:" + os.environ.get("PATH", "")
STUDY = "mixup --no-baseline --noise symmetric:0.2 --epochs 120 --trials 2 --replicates 1 --name s --max-concurrent 2"

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1200)]

CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={here}/munge.socket,cred_expire=5
StateSaveLocation={here}/state
SlurmdSpoolDir={here}/spool-%n
SlurmctldPidFile={here}/slurmctld.pid
SlurmdPidFile={here}/slurmd-%n.pid
SlurmctldLogFile={here}/slurmctld.log
SlurmdLogFile={here}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=17001 CPUs={cpus}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=17002 CPUs={cpus}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""
SCRIPT = """\
set -eu
PATH={path}
ip link set lo up
ip address add 10.0.0.1/32 dev lo  # where there is none but 127.0.0.1, glibc gives Slurm no address at all
export SLURM_CONF={here}/slurm.conf
munged --force --socket={here}/munge.socket --key-file={here}/munge.key --seed-file={here}/munge.seed \\
    --log-file={here}/munged.log --pid-file={here}/munged.pid
slurmctld -i
slurmd -N n1
slurmd -N n2
cd {here}/job
for _ in $(seq 60); do [ "$(sinfo -h -t idle -o %D)" = 2 ] && break; sleep 0.5; done
{python} -m raystudy slurm {study} --nodes 2 --time 30 --submit
until grep -qs '"record"' studies/s/cells/*.jsonl || [ -z "$(squeue -h)" ]; do sleep 0.3; done
ps -eo args= | grep -e 'token' >token-on-a-command-line || true
stat -c %a .raystudy-slurm/*/token >mode
scancel --batch --signal=USR1 1
until grep -qs 'queued again' s-1.log || [ -z "$(squeue -h)" ]; do sleep 0.3; done
until [ -z "$(squeue -h)" ]; do sleep 0.5; done
scontrol show job 1 >job
ps -eo args= | grep -E 'raylet|gcs_server|ray::|ray start|raystudy' | grep -v -e grep -e bash >left || true
ls -d /tmp/raystudy-1 .raystudy-slurm >>left 2>/dev/null || true
cd {here}/plain
{python} -m raystudy sweep {study} --tracking-uri none
"""


def missing() -> str:
    """Why this cannot be run here."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, for a Slurm of its own"
    if lacking := [tool for tool in TOOLS if not shutil.which(tool, path=WHERE)]:
        return f"needs {', '.join(lacking)} (Debian: slurmctld, slurmd, slurm-client, munge, iproute2)"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "needs the right to make namespaces"
    return ""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if why := missing():
        pytest.skip(why)
    here = tmp_path_factory.mktemp("slurm")
    for name in ("state", "job", "plain"):
        (here / name).mkdir()
    (here / "munge.key").write_bytes(os.urandom(128))
    (here / "munge.key").chmod(0o600)
    host = os.uname().nodename.partition(".")[0]
    (here / "slurm.conf").write_text(CONF.format(here=here, host=host, cpus=os.cpu_count()))
    script = SCRIPT.format(here=here, path=WHERE, python=sys.executable, study=STUDY)
    told = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [*NAMESPACES, "bash", "-c", script],
        env=told | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1100,
    )
    log = here / "job" / "s-1.log"
    assert done.returncode == 0, (done.stdout, done.stderr, log.read_text() if log.exists() else "no log")
    return here


def trials(study: Path) -> dict[str, Any]:
    """What was tried and measured, without the clock."""
    found = {}
    for path in cells(study):
        for key, trial in replay(path).trials.items():
            curves = {name: values for name, values in trial.curves.items() if not name.startswith("cost/")}
            found[key] = (path.stem, trial.number, trial.origin, trial.point, trial.state, curves)
    return found


def test_a_job_that_was_stopped_ends_with_the_study(ran: Path) -> None:
    log = (ran / "job" / "s-1.log").read_text()
    assert log.count("2 nodes: ") == 2, log  # both attempts had both nodes
    stop, again, done = (log.index(told) for told in ("to be stopped", "queued again", "the study is done"))
    assert stop < log.index("the same command goes on from here") < again < done
    job = (ran / "job" / "job").read_text()
    assert "JobState=COMPLETED" in job
    assert "Restarts=1" in job


def test_it_measured_what_an_undisturbed_study_does(ran: Path) -> None:
    found = trials(ran / "job" / "studies" / "s")
    assert {state for _, _, _, _, state, _ in found.values()} <= {"complete", "pruned"}
    assert found == trials(ran / "plain" / "studies" / "s")


def test_nothing_is_left_and_no_secret_was_shown(ran: Path) -> None:
    assert (ran / "job" / "left").read_text() == ""
    assert (ran / "job" / "mode").read_text() == "600\n"
    assert "auth_token" not in (ran / "job" / "token-on-a-command-line").read_text()
    assert sorted(p.name for p in (ran / "job").glob(".*")) == []
