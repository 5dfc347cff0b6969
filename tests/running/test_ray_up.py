"""cluster-onprem.yaml for real: `ray up` over sshd on 127.0.0.1, a study with the MLflow server the file starts, `ray down`.

All of it in namespaces of its own (processes, network, mounts): `ray stop`, which ends every Ray it can see, sees only this one; ports are
free; and whatever a failure leaves behind ends with the namespace. HOME is a temporary folder on both sides. The file is used as it is,
with this machine's address, user and key; only pip, which has no network in there, is a script that notes how it was called.
"""

import getpass
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystudy.record import provenance
from raystudy.record.ledger import cells, replay

ROOT = Path(__file__).parents[2]
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", ""))
NAMESPACES = ["unshare", "--pid", "--net", "--mount", "--mount-proc", "--fork", "--kill-child"]

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def missing() -> str:
    """Why this cannot be run here."""
    if os.name != "posix" or os.geteuid() != 0:
        return "needs root, for sshd and namespaces of its own"
    for tool, found in (
        ("sshd", SSHD),
        *((t, shutil.which(t)) for t in ("ssh", "ssh-keygen", "rsync", "unshare", "ip")),
    ):
        if not found:
            return f"needs {tool} (Debian: openssh-server, rsync, iproute2)"
    if subprocess.run([*NAMESPACES, "true"], capture_output=True).returncode:
        return "needs the right to make namespaces"
    return ""


SCRIPT = """\
set -eu
mount -t tmpfs none /tmp/ray
ip link set lo up
mkdir -p /run/sshd
{sshd} -f {home}/sshd_config -E {home}/sshd.log
step() {{ echo "== $1"; echo "$1 $SECONDS s" >> {home}/steps; }}
ray() {{ HOME={laptop} {python} -m ray.scripts.scripts "$@"; }}
cd {laptop}
step up;     ray up -y --no-config-cache cluster.yaml
step ports;  cat /proc/net/tcp
step token;  ray exec cluster.yaml 'RAY_AUTH_MODE=disabled timeout 60 ray status' && echo "a stranger was let in" || echo refused
step sweep;  ray exec cluster.yaml '{sweep}'
step mlflow; ray exec cluster.yaml 'cat ~/pip.log; raystudy sync s --storage {storage}'
step down;   ray down -y cluster.yaml
running() {{ ps -eo args= | grep -E 'mlflow|gcs_server|raylet|ray::|raystudy' | grep -v -e grep -e bash; }}
for _ in $(seq 20); do running >/dev/null || break; sleep 1; done
step left;   running || true
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("up")
    home, laptop, storage = folder / "home", folder / "laptop", f"file://{folder}/storage"
    laptop.mkdir()
    environment = home / ".raystudy" / "bin"
    environment.mkdir(parents=True)
    here = Path(sys.executable).parent
    for name in ("python", "ray", "mlflow"):
        (environment / name).write_text(f'#!/bin/sh\nexport PYTHONPATH=$HOME/raystudy\nexec {here / name} "$@"\n')
    (environment / "raystudy").write_text(
        f'#!/bin/sh\nexport PYTHONPATH=$HOME/raystudy\nexec {here}/python -m raystudy "$@"\n'
    )
    (environment / "pip").write_text('#!/bin/sh\necho "$@" >> ~/pip.log\n')
    for script in environment.iterdir():
        script.chmod(0o755)

    key = laptop / "key"
    for file in (key, home / "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    shutil.copy(key.with_suffix(".pub"), home / "authorized_keys")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    (home / "sshd_config").write_text(
        f"Port 22\nListenAddress 127.0.0.1\nHostKey {home}/host_key\nAuthorizedKeysFile {home}/authorized_keys\n"
        f"PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\nSetEnv HOME={home} PATH={path}\n"
    )
    told = yaml.safe_load((ROOT / "cluster-onprem.yaml").read_text())
    told["provider"] |= {"head_ip": "127.0.0.1", "worker_ips": []}
    told["auth"] = {"ssh_user": getpass.getuser(), "ssh_private_key": str(key)}
    (laptop / "cluster.yaml").write_text(yaml.safe_dump(told))
    record = provenance.ship(laptop / ".ship")
    token = laptop / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)

    options = "--noise symmetric:0.3 --epochs 2 --trials 2 --replicates 0 --name s --address auto --max-concurrent 2"
    sweep = f"raystudy sweep elr --no-baseline {options} --storage {storage}"
    script = SCRIPT.format(sshd=SSHD, home=home, laptop=laptop, python=sys.executable, sweep=sweep, storage=storage)
    Path("/tmp/ray").mkdir(exist_ok=True)  # a mount point; the namespace has its own below it
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_", "PYTHONPATH"))}
    done = subprocess.run(
        [*NAMESPACES, "bash", "-c", script],
        env=clean | {"RAY_UP_enable_autoscaler_v2": "1", "RAY_USAGE_STATS_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    for name in ("sshd.log", "mlflow.log", "steps"):
        if (home / name).exists():
            print(f"-- {name}\n{(home / name).read_text()[-2000:]}")
    assert done.returncode == 0, done.stdout
    parts = dict(p.partition("\n")[::2] for p in done.stdout.split("== ")[1:])
    return {"home": home, "storage": folder / "storage", "record": record, "out": parts}


def test_the_study_ended_and_lies_in_the_storage(session: dict[str, Any]) -> None:
    found = cells(session["storage"] / "s")
    assert [p.stem.split("_")[0] for p in found] == ["elr"]
    history = replay(found[0])
    assert [t.state for t in history.trials.values()].count("complete") >= 1
    assert all(t.state in ("complete", "pruned") for t in history.trials.values())
    assert len(history.trials) == 2
    assert "next:  raystudy status s --storage file://" in session["out"]["sweep"]
    assert not list((session["storage"] / "s").glob("driver.json"))


def test_the_shipped_code_ran_and_says_which_commit_it_is(session: dict[str, Any]) -> None:
    shipped = json.loads((session["home"] / "raystudy" / "PROVENANCE.json").read_text())
    assert shipped == session["record"]
    header = replay(cells(session["storage"] / "s")[0]).header
    assert header["commit"] == shipped["commit"]


def test_mlflow_has_the_runs(session: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{session['home']}/mlflow.db")
    experiment = client.get_experiment_by_name("s")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert {r.data.tags.get("raystudy.key") for r in runs if "mlflow.parentRunId" in r.data.tags} == set(
        replay(cells(session["storage"] / "s")[0]).trials
    )
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert "nothing was missing" in session["out"]["mlflow"]


def test_dependencies_were_installed_as_pinned(session: dict[str, Any]) -> None:
    assert (
        f"-c {session['home']}/raystudy/constraints.txt -e {session['home']}/raystudy[cluster]"
        in session["out"]["mlflow"]
    )


def test_servers_listen_on_loopback_and_strangers_are_refused(session: dict[str, Any]) -> None:
    listening = [line.split()[1] for line in session["out"]["ports"].splitlines()[1:] if line.split()[3] == "0A"]
    loopback = {p.partition(":")[2] for p in listening if p.startswith("0100007F")}
    everywhere = {p.partition(":")[2] for p in listening if not p.startswith("0100007F")}
    assert f"{5000:04X}" in loopback
    assert not {f"{5000:04X}", f"{8265:04X}"} & everywhere
    assert "refused" in session["out"]["token"]
    assert "a stranger was let in" not in session["out"]["token"]


def test_nothing_is_left_running(session: dict[str, Any]) -> None:
    assert session["out"]["left"].strip() == ""
