"""Jobs for Slurm and Kubernetes: what is written, what is refused, and that a command line comes through it as it was."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
import yaml

from raystudy import cli
from raystudy.commands import app
from raystudy.commands.options import Grid, Limits, Prices, Search, Where
from raystudy.commands.reading import words
from raystudy.errors import InputError
from raystudy.tools import jobfiles, slurm

# KubeRay's own definition of a RayJob, helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml; no part of this project.
CRD = os.environ.get("RAYSTUDY_KUBERAY_CRD")
SLURM = ("slurm", "ce", "--noise", "symmetric:0.2")
KUBE = ("kube", "ce", "--noise", "symmetric:0.2", "--image", "example.org/raystudy:1")
S3 = ("--storage", "s3://bucket/studies")
AWKWARD = ["a b", "it's", 'say "no"', "$HOME", "`ls`", "a;b&c", "x,y", "*", "\\", "~", "#", "é", "!", "-x", ""]


class Told(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Told]:
    def call(*argv: str) -> Told:
        return Told(cli.main(argv), *capsys.readouterr())

    return call


def job(**settings: Any) -> slurm.Job:
    told = {"name": "s", "folder": Path("/a b"), "environment": Path("/e"), "nodes": 2, "time": 7200, "ahead": 300}
    return slurm.Job(**(told | settings))


def printed(script: str) -> list[list[str]]:
    """The words of the sweep as bash has them, for each task of an array of three."""
    begin, end = script.index("\n", script.index("export PATH")), script.index("# Here, where all nodes")
    shown = 'for word in "${sweep[@]}"; do printf "%s\\0" "$word"; done'
    found = []
    for task in range(3):
        text = f"set -eu; SLURM_ARRAY_TASK_ID={task}\n{script[begin:end]}\n{shown}"
        done = subprocess.run(["bash", "-c", text], capture_output=True, check=True)
        found.append(done.stdout.decode().split("\0")[:-1])
    return found


# -- command lines


def parsed(argv: Sequence[str]) -> tuple[Any, ...]:
    _, bound, _ = app.sweep().parse_args(list(argv), exit_on_error=False, print_error=False)
    groups = {"grid": Grid(), "search": Search(), "where": Where(), "limits": Limits(), "prices": Prices()}
    return bound.args, *(bound.kwargs.get(name, default) for name, default in groups.items())


@pytest.mark.parametrize(
    "argv",
    [
        ["ce"],
        ["dividemix", "my file.py:Own", "--noise", "symmetric:0.2,0.5", "--noise", "pair:0.45", "--no-baseline"],
        ["--study", "my study.toml", "--storage", "s3://bucket/a b", "--gpus-per-trial", "0.5", "--time-budget=2h"],
        ["ce", "--seed=-3", "--filter", "simifeat:k=5,rounds=2", "--start-from", "a", "--start-from", "b"],
        ["ce", "--dataset", "csv:a.csv?target=x&sep=;", "--data-root", "/data", "--gpus-per-trial", "auto"],
        ["ce", "--prices", "p.toml", "--max-cost", "3.5", "--labels", "l.csv", "--size", "32", "--skip-corrupt"],
    ],
)
def test_a_command_line_is_told_again(argv: list[str]) -> None:
    methods, *groups = parsed(argv)
    assert parsed(words(methods, *groups)) == (methods, *groups)


def test_every_word_comes_through_both_shells(tmp_path: Path) -> None:
    told = ["ce", *(f"--name={word}" for word in AWKWARD), "--noise", "a,b"]
    part = slurm.part("s", told, Path("/a b's"))
    script = slurm.script(job(), [part])
    assert printed(script)[0] == told
    line = " ".join(jobfiles.lines(told))
    done = subprocess.run(
        ["sh", "-c", f'for w in {line}; do printf "%s\\0" "$w"; done'], capture_output=True, check=True
    )
    assert done.stdout.decode().split("\0")[:-1] == told
    with pytest.raises(InputError, match="more than one line"):
        slurm.part("s", ["--name=a\nb"], tmp_path)


def test_a_line_an_option() -> None:
    told = ["ce", "mixup", "--noise", "symmetric:0.2,0.5", "--no-baseline", "--name", "a b"]
    assert jobfiles.lines(told) == ["ce mixup", "--noise 'symmetric:0.2,0.5'", "--no-baseline", "--name 'a b'"]


# -- Slurm


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("90", 5400),  # minutes, as sbatch has it
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-12:30:05", 131405),
        ("4h", 14400),
        ("1h30m", 5400),
        ("2d", 172800),
    ],
)
def test_times_as_slurm_writes_them(text: str, want: int) -> None:
    assert slurm.duration(text, "--time") == want
    assert slurm.duration(slurm.clock(want), "--time") == want


@pytest.mark.parametrize("text", ["", "0", "0:00", "-5", "4 hours", "1:2:3:4", "nan", "1-"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InputError, match="--time is"):
        slurm.duration(text, "--time")


def test_what_slurm_is_asked_for() -> None:
    told = slurm.directives(
        job(partition="gpu", account="lab", cpus_per_node=8, gpus_per_node=2, memory="64G", options=("--qos=long",)), 3
    )
    assert told == [
        "#SBATCH --job-name=s",
        "#SBATCH --output=s-%A_%a.log",
        "#SBATCH --open-mode=append",
        "#SBATCH --array=0-2",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --mem=64G",
        "#SBATCH --time=02:00:00",
        "#SBATCH --signal=B:USR1@300",
        "#SBATCH --requeue",
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=long",
    ]
    assert "#SBATCH --exclusive" in slurm.directives(job(), 1)


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("client", [False, True])
def test_shellcheck(parts: int, client: bool) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("needs shellcheck (Debian: shellcheck)")
    every = [slurm.part(f"s{i}", ["ce", "--noise", "a,b", f"--name=x {i}"], Path("/a b")) for i in range(parts)]
    script = slurm.script(job(client=client, setup=("module load cuda",)), every)
    done = subprocess.run(["shellcheck", "-"], input=script, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "@" not in script.replace("@300", "").replace('@"', "").replace("[@]", "")  # all places are filled


def test_the_script_of_a_study(run: Callable[..., Told], tmp_path: Path) -> None:
    options = ("--nodes", "3", "--time", "4h", "--setup", "umask 022", "--trials", "7", "--name", "s")
    done = run(*SLURM, *options)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "next:  sbatch s.sbatch"
    script = (tmp_path / "s.sbatch").read_text()
    assert printed(script)[0] == [*SLURM[1:], "--name", "s", "--trials", "7", "--tracking-uri", "none"]
    assert f"cd {tmp_path}\n" in script
    assert "\numask 022\n" in script
    assert f"ledger={tmp_path}/studies/s/cells\n" in script
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.sbatch"]


@pytest.mark.parametrize(
    ("command", "file", "more"),
    [((*SLURM, "--time", "4h"), "s.sbatch", ("--nodes", "4")), ((*KUBE, *S3), "s.yaml", ("--workers", "4"))],
    ids=["slurm", "kube"],
)
def test_another_script_is_written_over_where_that_is_asked_for(
    run: Callable[..., Told], tmp_path: Path, command: tuple[str, ...], file: str, more: tuple[str, ...]
) -> None:
    command, place = (*command, "--name", "s"), tmp_path / file
    first = run(*command)
    assert (first.code, run(*command)) == (0, first)  # the same once more
    text = place.read_text()
    done = run(*command, *more)
    assert (done.code, done.out) == (2, "")
    assert (
        done.err
        == f"raystudy: {file} is there already and is another: name another --out, or --force to write over it\n"
    )
    place.write_text(text + "# edited\n")
    assert run(*command).code == 2
    assert place.read_text() == text + "# edited\n"
    assert run(*command, *more, "--force").code == 0
    assert place.read_text() not in (text, text + "# edited\n")
    place.write_text("mine")
    assert "was not written by raystudy" in run(*command, "--force").err
    assert place.read_text() == "mine"


def test_an_array_has_a_study_for_each_method(run: Callable[..., Told], tmp_path: Path) -> None:
    done = run("slurm", "mixup", "gce", "--array", "--time", "1h", "--noise", "symmetric:0.2", "--out", "job.sh")
    assert done.code == 0, done.err
    told = printed((tmp_path / "job.sh").read_text())
    assert [t[:1] for t in told] == [["ce"], ["mixup"], ["gce"]]
    assert all("--no-baseline" in t for t in told)
    assert [t[t.index("--name") + 1] for t in told] == [f"mixup-gce-digits-{m}" for m in ("ce", "mixup", "gce")]
    merge = done.out.splitlines()[-1]
    assert "raystudy merge mixup-gce-digits-ce mixup-gce-digits-mixup --into mixup-gce-digits " in merge
    assert merge.endswith("raystudy merge mixup-gce-digits mixup-gce-digits-gce")


def test_mlflow_is_written_where_a_server_is_named(run: Callable[..., Told], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")  # the job has it from its environment
    assert run(*SLURM, "--time", "1h", "--out", "job.sh").code == 0
    assert "secret" not in (tmp_path / "job.sh").read_text()
    assert "--tracking-uri" not in printed((tmp_path / "job.sh").read_text())[0]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "--time is missing"),
        (("--time", "soon"), "--time is 'soon'"),
        (("--time", "4m"), "--stop-before is 00:05:00 and --time 00:04:00"),
        (("--time", "1h", "--nodes", "0"), "--nodes is 0"),
        (("--time", "1h", "--partition", "a b"), "--partition is 'a b'"),
        (("--time", "1h", "--memory", "much"), "--memory is 'much'"),
        (("--time", "1h", "--sbatch", "qos"), "--sbatch is 'qos'"),
        (("--time", "1h", "--sbatch=--time=5"), "the script sets --time itself"),
        (("--time", "1h", "--setup", "if then ("), "which bash cannot read"),
        (("--time", "1h", "--setup", "a\nb"), "--setup is 'a\\nb'"),
        (("--time", "1h", "--address", "auto"), "--address cannot be given here"),
        (("--time", "1h", "--yes"), "--confirm-above and --yes"),
        (("--time", "1h", "--gpus-per-trial", "0.5"), "--gpus-per-trial 0.5 needs --gpus-per-node"),
        (("--time", "1h", "--gpus-per-trial", "2", "--gpus-per-node", "1"), "--gpus-per-trial is 2"),
        (("--time", "1h", "--cpus-per-trial", "4", "--cpus-per-node", "2"), "--cpus-per-trial is 4"),
        (("--time", "1h", "--tracking-uri", "http://u:p@h"), "--tracking-uri http://h comes with a password"),
        (("--time", "1h", "--array", "--no-baseline"), "--array is a study for each of several METHODs"),
        (("--time", "1h", "--out", "no/where"), "there is no folder no"),
        (("--time", "1h", "--out", "mine.txt"), "mine.txt is there already"),
        (("--time", "1h", "--sampler", "tp"), "did you mean 'tpe'"),
        (("--time", "1h", "--noise", "symmetrc:0.2"), "did you mean 'symmetric'"),
        (("--time", "1h", "--max-cost", "0"), "--max-cost is 0"),
        (("--time", "1h", "--name", "../x"), "../x"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    run: Callable[..., Told], tmp_path: Path, more: tuple[str, ...], says: str
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = run(*SLURM, *more)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert says in line
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_wrong_method_is_refused_at_once(run: Callable[..., Told], tmp_path: Path) -> None:
    for command in (("slurm", "dividemx", "--time", "1h"), ("kube", "dividemx", *KUBE[-2:], *S3)):
        done = run(*command)
        assert done.code == 2
        assert "did you mean 'dividemix'" in done.err
    assert list(tmp_path.iterdir()) == []


def test_submit_without_slurm(run: Callable[..., Told], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run(*SLURM, "--time", "1h", "--submit")
    assert done.code == 2
    assert "there is no sbatch on this machine" in done.err
    assert list(tmp_path.iterdir()) == []


def test_dry_run_shows_the_script_and_writes_nothing(run: Callable[..., Told], tmp_path: Path) -> None:
    done = run(*SLURM, "--time", "1h", "--dry-run")
    assert done.code == 0
    assert "trial 0: " in done.out
    assert "\n#SBATCH --time=01:00:00\n" in done.out
    assert "dry-run" not in done.out
    assert list(tmp_path.iterdir()) == []


# -- Kubernetes


def strict(schema: Any) -> Any:
    """A schema that refuses the fields it does not list, as `kubectl apply --validate=strict` does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    told = {key: strict(value) for key, value in schema.items()}
    listed = isinstance(told.get("properties"), dict) and "type" in told
    return {"additionalProperties": False, **told} if listed else told


@cache
def published() -> jsonschema.Draft202012Validator | None:
    """The published schema, where RAYSTUDY_KUBERAY_CRD names its file."""
    if not CRD:
        return None
    versions = yaml.safe_load(Path(CRD).read_text())["spec"]["versions"]
    found = next(v for v in versions if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    return jsonschema.Draft202012Validator(strict(found))


def documents(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap and the RayJob, which the published schema takes where it is at hand."""
    config, made = yaml.safe_load_all(file.read_text())
    if schema := published():
        schema.validate({key: value for key, value in made.items() if key != "metadata"})
    return config, made


@pytest.mark.skipif(not CRD, reason="RAYSTUDY_KUBERAY_CRD names no definition of KubeRay's RayJob")
def test_the_schema_refuses_what_kuberay_would() -> None:
    schema = published()
    assert schema
    for wrong in (
        {"kind": "RayJob", "spec": {"entrypnt": "x"}},
        {
            "kind": "RayJob",
            "spec": {"rayClusterSpec": {"headGroupSpec": {"template": {}}, "authOptions": {"mode": "x"}}},
        },
        {"kind": "RayJob", "spec": {"rayClusterSpec": {}}},
    ):
        assert list(schema.iter_errors(wrong))


def test_the_manifest_of_a_study(run: Callable[..., Told], tmp_path: Path) -> None:
    gpus = ("--gpus-per-worker", "2", "--gpus-per-trial", "0.5", "--cpus-per-worker", "8", "--memory", "64Gi")
    more = ("--workers", "1", "--max-workers", "4", "--namespace", "lab", "--claim", "cifar:/data", "--keep", "5m")
    secrets = ("--token-secret", "ray-token", "--env-secret", "keys", "--service-account", "studies")
    done = run(*KUBE, *S3, *gpus, *more, *secrets, "--deadline", "2d", "--name", "My_study.1")
    assert done.code == 0, done.err
    assert "1 to 4 workers, up to 16 trials at once" in done.out
    file = tmp_path / "My_study.1.yaml"
    config, made = documents(file)
    assert config["metadata"] == made["metadata"] == {"name": "my-study-1", "namespace": "lab"}
    spec, ray = made["spec"], made["spec"]["rayClusterSpec"]
    assert spec["entrypoint"] == "bash /etc/raystudy/sweep.sh"
    assert (spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (True, 300)
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (172800, 2)
    assert ray["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert ray["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}  # no trial beside the driver
    (workers,) = ray["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["maxReplicas"]) == (1, 4)
    pod = workers["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert limits == {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert pod["serviceAccountName"] == "studies"
    assert pod["containers"][0]["volumeMounts"] == [{"name": "claim-0", "mountPath": "/data"}]
    head = ray["headGroupSpec"]["template"]["spec"]
    assert {v["mountPath"] for v in head["containers"][0]["volumeMounts"]} == {"/data", "/etc/raystudy"}
    # Four workers, each two of the g5.xlarge with one GPU (1.006 an hour); the head, half a c7i.xlarge (0.1785).
    assert f"Cost: at most {4 * 2 * 1.006 + 0.1785 / 2:.2f} USD an hour" in file.read_text()


def test_the_command_in_the_pods(run: Callable[..., Told], tmp_path: Path) -> None:
    """As bash there has it, with a python that tells its words."""
    odd = "csv:/data/a b.csv?target=it's&sep=;"
    (tmp_path / "python").write_text('#!/bin/sh\nfor w in "$@"; do printf "%s\\0" "$w"; done\n')
    (tmp_path / "python").chmod(0o755)
    script = jobfiles.lines(["ce", "--dataset", odd])
    from raystudy.tools import kube

    cluster = kube.Cluster("s", "example.org/i:1", "2.60.0", most=1)
    config, _ = yaml.safe_load_all(kube.manifest(cluster, ["ce", "--dataset", odd]))
    done = subprocess.run(
        ["bash", "-c", config["data"]["sweep.sh"]],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    told = done.stdout.decode().split("\0")[:-1]
    assert told == ["-m", "raystudy", "sweep", "--address", "auto", "ce", "--dataset", odd], script


def test_a_study_file_goes_along(run: Callable[..., Told], tmp_path: Path) -> None:
    text = 'methods = ["ce"]\ndatasets = ["digits"]\nnoise = ["symmetric:0.2"]\n'
    (tmp_path / "mine.toml").write_text(text)
    done = run("kube", "--study", "mine.toml", *KUBE[-2:], "--claim", "c:/held", "--storage", "/held/studies")
    assert done.code == 0, done.err
    config, made = documents(tmp_path / "mine.yaml")
    assert config["data"]["mine.toml"] == text
    assert "--study /etc/raystudy/mine.toml \\\n" in config["data"]["sweep.sh"]
    assert "--storage /held/studies \\\n" in config["data"]["sweep.sh"]
    assert made["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}  # KubeRay's own token


def test_gpus_are_used_where_workers_have_them(run: Callable[..., Told], tmp_path: Path) -> None:
    """The driver's pod has none, and would take none by itself."""
    assert run(*KUBE, *S3, "--gpus-per-worker", "1", "--name", "s").code == 0
    config, _ = documents(tmp_path / "s.yaml")
    assert "--gpus-per-trial 1.0 \\\n" in config["data"]["sweep.sh"]
    assert "--max-concurrent 8\n" in config["data"]["sweep.sh"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "--storage is missing: the study would end with them"),
        (("--storage", "/data/studies"), "--storage /data/studies is a folder of the pods"),
        (("--storage", "/data/studies", "--claim", "c:/dat"), "--storage /data/studies is a folder of the pods"),
        (("--claim", "c"), "--claim is 'c'; write CLAIM:/PATH"),
        ((*S3, "--claim", "c:data"), "must be a path from /"),
        ((*S3, "--workers", "9", "--max-workers", "8"), "--workers is 9"),
        ((*S3, "--max-workers", "0"), "--max-workers is 0"),
        ((*S3, "--memory", "big"), "--memory is 'big'"),
        ((*S3, "--namespace", "A b"), "--namespace is 'A b'"),
        ((*S3, "--image", "a b"), "--image is 'a b'"),
        ((*S3, "--gpus-per-trial", "1"), "needs --gpus-per-worker"),
        ((*S3, "--cpus-per-trial", "8"), "holds no trial of --cpus-per-trial 8"),
        ((*S3, "--name", "1-study"), "give --job-name"),
        ((*S3, "--keep", "long"), "--keep is 'long'"),
        (("--storage", "s3://key:secret@bucket/x"), "comes with a password"),
        ((*S3, "--machine", "abacus"), "unknown machine"),
    ],
)
def test_a_mistake_in_a_manifest(run: Callable[..., Told], tmp_path: Path, more: tuple[str, ...], says: str) -> None:
    done = run(*KUBE, *more)
    assert (done.code, done.out) == (2, "")
    (line,) = done.err.splitlines()
    assert says in line
    assert "secret@" not in line
    assert list(tmp_path.iterdir()) == []


def test_without_an_image(run: Callable[..., Told]) -> None:
    done = run("kube", "ce", *S3)
    assert done.code == 2
    assert "--image is missing" in done.err
