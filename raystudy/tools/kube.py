"""A manifest for KubeRay that runs a study: a RayJob with the sweep, a Ray cluster of its own that grows and shrinks, and its tear-down.

The manifest is a function of the settings. The sweep's command lies in a ConfigMap: an entrypoint goes through two shells on its way,
which take the quotes off a word with a space or an ampersand in it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import yaml

from raystudy.errors import InputError, shown
from raystudy.tools import jobfiles

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,45}[a-z0-9])?")  # KubeRay takes 47 characters
QUANTITY = re.compile(r"\d+(\.\d+)?([kMGTP]i?)?")
IMAGE = re.compile(r"[\w.:/@-]+")
FILES = "/etc/raystudy"  # where the ConfigMap is mounted
MOST_FILES = 1 << 20  # bytes of a ConfigMap
NOTHING: Mapping[str, str] = MappingProxyType({})
HEAD = {"cpu": "2", "memory": "8Gi"}  # of driver, autoscaler and dashboard; no trial is placed there


@dataclass(frozen=True)
class Cluster:
    """What Kubernetes is asked for."""

    name: str
    image: str
    ray_version: str
    most: int  # workers at once
    least: int = 0
    cpus: int = 4  # of a worker
    gpus: int = 0
    memory: str = "16Gi"
    idle: int = 1200  # seconds after which a worker without work ends
    keep: int = 600  # seconds that the cluster stays when the study is done
    retries: int = 2  # new clusters, each of which goes on from the storage
    deadline: int | None = None  # seconds after which all of it ends
    namespace: str | None = None
    token_secret: str | None = None  # None: KubeRay makes a token for this cluster
    env_secret: str | None = None  # environment of all pods
    service_account: str | None = None
    claims: tuple[tuple[str, str], ...] = ()  # volume claims, and where they are mounted

    def __post_init__(self) -> None:
        """Raises InputError for what cannot be."""
        if not LABEL.fullmatch(self.name):
            raise InputError(
                f"{shown(self.name)} cannot name a RayJob: up to 47 lower-case letters, digits and -, a letter first; give --job-name"
            )
        if not IMAGE.fullmatch(self.image):
            raise InputError(
                f"--image is {shown(self.image)}; it must be one word such as registry.example.org/raystudy:1"
            )
        if self.most < 1:
            raise InputError(f"--max-workers is {self.most}; it must be at least 1")
        if not 0 <= self.least <= self.most:
            raise InputError(f"--workers is {self.least}; it must be from 0 to --max-workers, {self.most}")
        for option, count, floor in (
            ("--cpus-per-worker", self.cpus, 1),
            ("--gpus-per-worker", self.gpus, 0),
            ("--retries", self.retries, 0),
        ):
            if count < floor:
                raise InputError(f"{option} is {count}; it must be at least {floor}")
        if not QUANTITY.fullmatch(self.memory):
            raise InputError(f"--memory is {shown(self.memory)}; write a size such as 32Gi")
        named = [("--namespace", self.namespace), ("--token-secret", self.token_secret)]
        named += [("--env-secret", self.env_secret), ("--service-account", self.service_account)]
        for option, name in [*named, *(("--claim", claim) for claim, _ in self.claims)]:
            if name is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", name):
                raise InputError(f"{option} is {shown(name)}; Kubernetes takes lower-case letters, digits and -")
        for claim, path in self.claims:
            if not PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or not path.isprintable():
                raise InputError(f"--claim {claim}:{path}: where it is mounted must be a path from /")


def claimed(text: str) -> tuple[str, str]:
    """``CLAIM:/PATH`` taken apart. Raises InputError."""
    claim, colon, path = text.partition(":")
    if not (claim and colon and path):
        raise InputError(
            f"--claim is {shown(text)}; write CLAIM:/PATH, a PersistentVolumeClaim and where it is mounted"
        )
    return claim, path


def places(cluster: Cluster, cpus: float, gpus: float) -> int:
    """How many trials the largest cluster holds at once; 0 where a worker holds none."""
    each = int(cluster.cpus / cpus + 1e-9)
    return cluster.most * (min(each, int(cluster.gpus / gpus + 1e-9)) if gpus else each)


def manifest(
    cluster: Cluster, words: Sequence[str], remarks: Sequence[str] = (), files: Mapping[str, str] = NOTHING
) -> str:
    """The YAML: comments, a ConfigMap with the command and ``files``, and the RayJob. ``words``: of ``raystudy sweep``.

    Raises InputError where the files are more than a ConfigMap holds.
    """
    lines = "".join(f" \\\n    {line}" for line in jobfiles.lines(words))
    data = {"sweep.sh": f"set -eu\nexec python -m raystudy sweep --address auto{lines}\n", **files}
    if sum(len(text.encode()) for text in data.values()) > MOST_FILES:
        raise InputError(
            "the study file is larger than a ConfigMap of Kubernetes, 1 MiB: put it into the image or on a --claim"
        )
    place = {"namespace": cluster.namespace} if cluster.namespace else {}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": cluster.name, **place}, "data": data}
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": cluster.name, **place},
        "spec": {
            "entrypoint": f"bash {FILES}/sweep.sh",
            "backoffLimit": cluster.retries,
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": cluster.keep,
            **({"activeDeadlineSeconds": cluster.deadline} if cluster.deadline else {}),
            "rayClusterSpec": _ray(cluster),
        },
    }
    head = "".join(f"# {line}\n" for line in remarks)
    return head + yaml.dump_all([config, job], Dumper=_Dumper, sort_keys=False, explicit_start=True, width=10**6)


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are read."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _ray(cluster: Cluster) -> dict[str, Any]:
    """The Ray cluster."""
    auth = {"mode": "token"} | ({"secretName": cluster.token_secret} if cluster.token_secret else {})
    worker = {"cpu": str(cluster.cpus), "memory": cluster.memory}
    worker |= {"nvidia.com/gpu": str(cluster.gpus)} if cluster.gpus else {}
    return {
        "rayVersion": cluster.ray_version,
        "authOptions": auth,
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"idleTimeoutSeconds": cluster.idle, "upscalingMode": "Default"},
        "headGroupSpec": {"rayStartParams": {"num-cpus": "0"}, "template": _pod(cluster, "ray-head", HEAD, study=True)},
        "workerGroupSpecs": [
            {
                "groupName": "workers",
                "replicas": cluster.least,
                "minReplicas": cluster.least,
                "maxReplicas": cluster.most,
                "rayStartParams": {},
                "template": _pod(cluster, "ray-worker", worker),
            }
        ],
    }


def _pod(cluster: Cluster, name: str, resources: Mapping[str, str], study: bool = False) -> dict[str, Any]:
    """A pod of one container. ``study``: with the command."""
    mounts = [{"name": f"claim-{i}", "mountPath": path} for i, (_, path) in enumerate(cluster.claims)]
    volumes: list[dict[str, Any]] = [
        {"name": f"claim-{i}", "persistentVolumeClaim": {"claimName": claim}}
        for i, (claim, _) in enumerate(cluster.claims)
    ]
    if study:
        mounts.append({"name": "study", "mountPath": FILES})
        volumes.append({"name": "study", "configMap": {"name": cluster.name}})
    container: dict[str, Any] = {
        "name": name,
        "image": cluster.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
    }
    container |= {"envFrom": [{"secretRef": {"name": cluster.env_secret}}]} if cluster.env_secret else {}
    container |= {"volumeMounts": mounts} if mounts else {}
    told: dict[str, Any] = {"serviceAccountName": cluster.service_account} if cluster.service_account else {}
    return {"spec": told | {"containers": [container]} | ({"volumes": volumes} if volumes else {})}
