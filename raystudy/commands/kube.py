"""``raystudy kube``: a sweep as a job of Kubernetes."""

import shlex
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from raystudy.commands.options import (
    GRID,
    LIMITS,
    PRICES,
    SEARCH,
    STUDIES,
    WHERE,
    Grid,
    Limits,
    Prices,
    Search,
    Where,
    whole,
)
from raystudy.commands.reading import asked, budget, for_later, words
from raystudy.commands.sweep import Methods
from raystudy.errors import InputError
from raystudy.terminal import say, terminal

if TYPE_CHECKING:
    from raystudy.running.resources import Resources
    from raystudy.tools.kube import Cluster

MOST_WORKERS = 8


@Parameter(name="*", group=Group.create_ordered("The job (docs/kubernetes.md)"))
@dataclass(frozen=True, kw_only=True)
class Pods:
    """What Kubernetes is asked for."""

    image: Annotated[str | None, Parameter(help="image with Ray and raystudy, of head and workers (needed)")] = None
    workers: Annotated[int, Parameter(converter=whole, help="workers that are there all the time (default: 0)")] = 0
    max_workers: Annotated[
        int | None,
        Parameter(converter=whole, help=f"workers at most, the cap on cost (default: {MOST_WORKERS}, or --workers)"),
    ] = None
    cpus_per_worker: Annotated[int, Parameter(converter=whole, help="CPU cores of a worker (default: 4)")] = 4
    gpus_per_worker: Annotated[int, Parameter(converter=whole, help="GPUs of a worker (default: 0)")] = 0
    memory: Annotated[str, Parameter(help="memory of a worker (default: 16Gi)")] = "16Gi"
    idle: Annotated[str, Parameter(help="how long a worker without work stays (default: 20m)")] = "20m"
    keep: Annotated[str, Parameter(help="how long the cluster stays when the study is done (default: 10m)")] = "10m"
    deadline: Annotated[str | None, Parameter(help="end all of it after this long, done or not (default: never)")] = (
        None
    )
    retries: Annotated[
        int,
        Parameter(
            converter=whole, help="new clusters where one has failed; each goes on from the storage (default: 2)"
        ),
    ] = 2
    namespace: Annotated[str | None, Parameter(help="namespace (default: kubectl's)")] = None
    job_name: Annotated[str | None, Parameter(help="name of the RayJob (default: the study's)")] = None
    token_secret: Annotated[
        str | None,
        Parameter(
            help="a Secret whose auth_token is Ray's token, for KubeRay from 1.6 (default: KubeRay makes one for this cluster)"
        ),
    ] = None
    env_secret: Annotated[
        str | None, Parameter(help="a Secret that becomes the pods' environment: keys of the storage, of MLflow")
    ] = None
    service_account: Annotated[
        str | None, Parameter(help="the pods' service account, where that opens the storage")
    ] = None
    claim: Annotated[
        list[str] | None,
        Parameter(
            help="CLAIM:/PATH, a PersistentVolumeClaim that all pods mount there, for data or storage; may be repeated"
        ),
    ] = None
    out: Annotated[Path | None, Parameter(help="the file to write (default: NAME.yaml)")] = None
    force: Annotated[bool, Parameter(help="write over another manifest that raystudy wrote there")] = False


PODS = Pods()


def kube(
    *methods: Methods,
    pods: Pods = PODS,
    grid: Grid = GRID,
    search: Search = SEARCH,
    where: Where = WHERE,
    limits: Limits = LIMITS,
    prices: Prices = PRICES,
) -> int:
    """Writes the manifest of a sweep."""
    from raystudy.design.study import study_dir
    from raystudy.running.budget import seconds
    from raystudy.tools import jobfiles
    from raystudy.tools import kube as manifests

    if pods.image is None:
        raise InputError("--image is missing: an image with Ray and raystudy (docs/kubernetes.md says how to make it)")
    claims = tuple(manifests.claimed(text) for text in pods.claim or ())
    where = for_later(where, limits)
    _outlives(where, claims)
    if untracked := where.tracking_uri is None:
        where = replace(where, tracking_uri="none")
    if pods.gpus_per_worker and where.gpus_per_trial is None:
        where = replace(where, gpus_per_trial=1.0)  # the driver's pod has none, and would take none
    study, resources = asked(methods, grid, search, where, here=False)
    study_dir(where.storage, study.name)
    budget(limits, prices, resources)
    most = pods.max_workers if pods.max_workers is not None else max(MOST_WORKERS, pods.workers)
    cluster = manifests.Cluster(
        name=study.name.lower().replace("_", "-").replace(".", "-") if pods.job_name is None else pods.job_name,
        image=pods.image,
        ray_version=version("ray"),
        most=most,
        least=pods.workers,
        cpus=pods.cpus_per_worker,
        gpus=pods.gpus_per_worker,
        memory=pods.memory,
        idle=round(seconds(pods.idle, "--idle")),
        keep=round(seconds(pods.keep, "--keep")),
        retries=pods.retries,
        deadline=None if pods.deadline is None else round(seconds(pods.deadline, "--deadline")),
        namespace=pods.namespace,
        token_secret=pods.token_secret,
        env_secret=pods.env_secret,
        service_account=pods.service_account,
        claims=claims,
    )
    at_once = _places(cluster, where, resources)
    if where.max_concurrent is None and where.gpus_per_trial != "auto":
        where = replace(where, max_concurrent=at_once)  # what the autoscaler is asked for
    files: dict[str, str] = {}
    if grid.study and (own := Path(grid.study).expanduser()).suffix == ".toml":
        files[own.name] = own.read_text(encoding="utf-8")
        grid = replace(grid, study=f"{manifests.FILES}/{own.name}")
    cost = _cost(cluster, prices)
    said = words(methods, grid, search, where, replace(limits, dry_run=False), prices)
    remarks = [f"Study {study.name}, {jobfiles.MARK} kube`, for KubeRay. Start: kubectl apply -f THIS-FILE", cost]
    text = manifests.manifest(cluster, said, remarks, files)

    console = terminal()
    if limits.dry_run:
        print(text, end="")
        return 0
    file = pods.out or Path(f"{study.name}.yaml")
    jobfiles.write(file, text, pods.force)
    workers = f"{cluster.least} to {cluster.most} workers" if cluster.least < most else f"{most} workers"
    say(console, f"{file}: study {study.name}, {workers}, up to {at_once} trials at once")
    say(console, cost)
    if untracked:
        say(
            console,
            "note: the job writes no MLflow, which would end with the pods; afterwards: raystudy sync, or give --tracking-uri",
            "yellow",
        )
    say(console, f"next:  kubectl apply -f {shlex.quote(str(file))}")
    return 0


def _outlives(where: Where, claims: tuple[tuple[str, str], ...]) -> None:
    """Raises InputError for a storage that would end with the pods."""
    from raystudy.record import storage as storages

    if storages.url(where.storage):
        return
    if not any(PurePosixPath(str(where.storage)).is_relative_to(path) for _, path in claims):
        told = (
            "--storage is missing" if where.storage == STUDIES else f"--storage {where.storage} is a folder of the pods"
        )
        raise InputError(
            f"{told}: the study would end with them; give a URL (s3://, gs://, ...), or a folder on a --claim"
        )


def _places(cluster: "Cluster", where: Where, resources: "Resources") -> int:
    """How many trials there may be at once. Raises InputError for trials that no worker could hold."""
    from raystudy.tools.kube import places

    gpus = float(where.gpus_per_trial or 0) if where.gpus_per_trial != "auto" else 0.0
    if where.gpus_per_trial and not cluster.gpus:
        raise InputError(
            f"--gpus-per-trial {where.gpus_per_trial} needs --gpus-per-worker: how many GPUs each worker is to have"
        )
    found = places(cluster, resources.cpus, gpus)
    if not found:
        raise InputError(
            f"a worker of {cluster.cpus} CPUs and {cluster.gpus} GPUs holds no trial of --cpus-per-trial {resources.cpus:g} and "
            f"--gpus-per-trial {gpus:g}"
        )
    return found


def _cost(cluster: "Cluster", prices: Prices) -> str:
    """What an hour of the largest cluster costs by the price table."""
    from raystudy.running.budget import PRICES as TABLE
    from raystudy.running.budget import price

    worker = price(prices.prices or TABLE, prices.machine, cluster.cpus, cluster.gpus)
    head = price(prices.prices or TABLE, None, 2, 0)
    hour = cluster.most * worker.hour + head.hour
    workers = f"{cluster.most} workers of {worker.hour:.3g} by {worker.machine}"
    return f"Cost: at most {hour:.2f} {worker.currency} an hour, {workers} and the head, prices of {worker.date}; storage and disks besides"
