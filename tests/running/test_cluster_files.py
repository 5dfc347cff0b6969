"""cluster.yaml and cluster-onprem.yaml: what Ray's own checks say, and that no default that bites is left in."""

import copy
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystudy.record import provenance

ROOT = Path(__file__).parents[2]
FILES = ("cluster.yaml", "cluster-onprem.yaml")
COMMANDS = ("setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def raw(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / name).read_text())


def prepared(name: str) -> dict[str, Any]:
    """The file as `ray up` sees it, defaults filled in, and validated."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    found = prepare_config(copy.deepcopy(raw(name)))
    validate_config(found)
    return found


@pytest.fixture(scope="module")
def aws() -> dict[str, Any]:
    return prepared("cluster.yaml")


@pytest.fixture(scope="module")
def onprem() -> dict[str, Any]:
    return prepared("cluster-onprem.yaml")


def pinned(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert found
    return found[1]


def workers(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {n: t for n, t in config["available_node_types"].items() if n != config["head_node_type"]}


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_file(name: str) -> None:
    prepared(name)


@pytest.mark.parametrize("name", FILES)
def test_every_command_is_shell(name: str) -> None:
    """Also that YAML left the command whole: a '#' or ': ' in a plain scalar would cut it."""
    for kind in COMMANDS:
        for command in raw(name)[kind]:
            assert isinstance(command, str)
            subprocess.run(["bash", "-n", "-c", command], check=True, capture_output=True)


def test_the_mlflow_script_is_shell() -> None:
    subprocess.run(["bash", "-n", str(ROOT / "mlflow_server.sh")], check=True)


def test_images_equal_our_ray_and_python(aws: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = re.search(r"\d\.\d+", project["requires-python"])
    assert python
    for kind in ("head_image", "worker_image"):
        version = re.fullmatch(r"rayproject/ray:([\d.]+)-py(\d)(\d+)-(cpu|gpu)", aws["docker"][kind])
        assert version
        assert version[1] == pinned("ray")
        assert f"{version[2]}.{version[3]}" == python[0]
    assert aws["docker"]["worker_image"].endswith("-gpu")
    assert "python3.11 -m venv" in raw("cluster-onprem.yaml")["setup_commands"][0]


def test_no_trial_on_the_head_and_the_driver_asks_for_nothing_there(aws: dict[str, Any]) -> None:
    head = aws["available_node_types"][aws["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    assert "InstanceMarketOptions" not in head["node_config"]  # never spot


def test_spot_first_then_on_demand_and_none_when_idle(aws: dict[str, Any]) -> None:
    kinds = workers(aws)
    spot = [t for t in kinds.values() if t["node_config"].get("InstanceMarketOptions") == {"MarketType": "spot"}]
    demand = [t for t in kinds.values() if "InstanceMarketOptions" not in t["node_config"]]
    assert len(spot) == len(demand) == 1
    assert spot[0]["priority"] > demand[0]["priority"]
    assert spot[0]["resources"] == demand[0]["resources"]  # a better fit would win over the priority
    assert spot[0]["resources"]["GPU"] >= 1
    assert all(t["min_workers"] == 0 for t in kinds.values())
    assert sum(t["min_workers"] for t in kinds.values()) <= aws["max_workers"]
    assert "," in aws["provider"]["availability_zone"]  # spot is short in one zone at a time


def test_spot_is_what_rays_scheduler_chooses_until_it_fails() -> None:
    """Ray's own autoscaler asked for eight GPUs at once: all at once, all spot; on demand once spot has failed."""
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, Provider
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import GangResourceRequest

    config = AutoscalingConfig(prepared("cluster.yaml"), skip_content_hash=True)
    assert config.provider == Provider.AWS
    wanted = [GangResourceRequest(requests=[ResourceRequestUtil.make({"CPU": 4, "GPU": 0.5})]) for _ in range(16)]

    def launched(**more: Any) -> dict[str, int]:
        request = SchedulingRequest(
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            gang_resource_requests=wanted,
            disable_launch_config_check=True,
            **more,
        )
        reply = ResourceDemandScheduler(None).schedule(request)
        return {r.instance_type: r.count for r in reply.to_launch}

    assert launched() == {"gpu_spot": 8}
    assert launched(recoverable_resource_availabilities={"gpu_spot": 0.0}) == {"gpu_on_demand": 8}
    assert launched(recoverable_resource_availabilities={"gpu_spot": 1.0}) == {"gpu_spot": 8}  # recovered


def test_idle_nodes_outlive_a_nodes_start_and_stopped_ones_cost_nothing(aws: dict[str, Any]) -> None:
    assert aws["idle_timeout_minutes"] >= 15
    assert aws["provider"]["cache_stopped_nodes"] is False
    assert all(t.get("idle_timeout_s") is None for t in aws["available_node_types"].values())
    assert aws["upscaling_speed"] >= aws["max_workers"]


def test_no_default_of_rays_aws_file_is_left(aws: dict[str, Any]) -> None:
    assert not [c for kind in COMMANDS for c in aws[kind] if "ray-3.0.0.dev0" in c or "s3-us-west-2" in c]
    for kind in aws["available_node_types"].values():
        image = kind["node_config"]["ImageId"]
        assert image.startswith(("resolve:ssm:", "ami-"))
        assert "18.04" not in image
        assert kind["node_config"]["IamInstanceProfile"]["Name"].startswith("raystudy-")
        assert kind["node_config"]["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"] is True
    assert (
        aws["head_setup_commands"][: len(raw("cluster.yaml")["setup_commands"])]
        == raw("cluster.yaml")["setup_commands"]
    )


@pytest.mark.parametrize("name", FILES)
def test_token_on_every_node_and_servers_on_loopback(name: str) -> None:
    config = raw(name)
    assert any(
        remote.endswith(".ray/auth_token") and local == "~/.ray/auth_token"
        for remote, local in config["file_mounts"].items()
    )
    assert any("RAY_AUTH_MODE=token" in c and ".raystudy.env" in c for c in config["setup_commands"])
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [c for c in config[kind] if "ray start" in c]
        assert len(starts) == 1
        assert starts[0].index(".raystudy.env") < starts[0].index("ray start")
        assert "--disable-usage-stats" in starts[0]
    head = next(c for c in config["head_start_ray_commands"] if "ray start" in c)
    assert "--dashboard-host=127.0.0.1" in head
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert config["head_start_ray_commands"][-1].endswith("mlflow_server.sh")  # after Ray
    script = (ROOT / "mlflow_server.sh").read_text()
    assert "--host 127.0.0.1" in script
    assert "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false" in script
    assert "0.0.0.0" not in script + str(config)
    assert "pgrep" not in script  # would find the shell that asks


@pytest.mark.parametrize("name", FILES)
def test_code_is_shipped_with_its_provenance_and_dependencies_pinned(name: str, tmp_path: Path) -> None:
    config = raw(name)
    assert ".ship" in config["file_mounts"].values()
    assert not [
        v for v in config["file_mounts"].values() if v in (".", "./")
    ]  # would hash data, studies and environments
    assert {"**/.git", "**/__pycache__"} <= set(config["rsync_exclude"])
    shipped = {p.name for folder in provenance.CODE for p in (ROOT / folder).rglob("*")}
    assert not {e.removeprefix("**/") for e in config["rsync_exclude"]} & shipped - {"__pycache__"}
    assert config["rsync_filter"] == [".gitignore"]
    assert any("pip install" in c and "-c ~/raystudy/constraints.txt" in c for c in config["setup_commands"])
    provenance.ship(tmp_path / ".ship")
    for shipped in ("PROVENANCE.json", "constraints.txt", "pyproject.toml", "mlflow_server.sh", "raystudy/cli.py"):
        assert (tmp_path / ".ship" / shipped).is_file()


def test_storage_is_durable(aws: dict[str, Any]) -> None:
    assert any("RAYSTUDY_STORAGE=s3://raystudy-" in c for c in aws["setup_commands"])
    stack = yaml.load((ROOT / "cluster-aws-stack.yaml").read_text(), Loader=_Loader)["Resources"]
    assert stack["Bucket"]["DeletionPolicy"] == "Retain"
    assert stack["Bucket"]["Properties"]["BucketName"] == "raystudy-${AWS::AccountId}"
    assert all(stack["Bucket"]["Properties"]["PublicAccessBlockConfiguration"].values())
    profiles = {
        r["Properties"]["InstanceProfileName"] for r in stack.values() if r["Type"] == "AWS::IAM::InstanceProfile"
    }
    assert profiles == {t["node_config"]["IamInstanceProfile"]["Name"] for t in aws["available_node_types"].values()}


class _Loader(yaml.SafeLoader):
    """CloudFormation's !Sub, !Ref and !GetAtt as plain text."""


for tag in ("!Sub", "!Ref", "!GetAtt"):
    _Loader.add_constructor(tag, lambda loader, node: loader.construct_scalar(node))


def test_own_machines_are_all_used_and_never_asked_of_a_cloud(onprem: dict[str, Any]) -> None:
    assert "available_node_types" not in raw("cluster-onprem.yaml")  # Ray refuses it for provider local
    assert list(onprem["available_node_types"]) == ["local.cluster.node"]
    kind = onprem["available_node_types"]["local.cluster.node"]
    assert kind["min_workers"] == kind["max_workers"] == len(onprem["provider"]["worker_ips"])


@pytest.mark.slow
def test_ray_prepares_aws_as_the_file_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`ray up`'s own preparation against an AWS of moto's: the head keeps its role, nothing but ssh is open to the world."""
    import boto3
    from moto import mock_aws

    for name, value in (
        ("AWS_ACCESS_KEY_ID", "t"),
        ("AWS_SECRET_ACCESS_KEY", "t"),
        ("AWS_DEFAULT_REGION", "us-west-2"),
        ("HOME", str(tmp_path)),
    ):
        monkeypatch.setenv(name, value)
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        from ray.autoscaler._private.aws.config import bootstrap_aws

        found = bootstrap_aws(prepared("cluster.yaml"))
        for kind in found["available_node_types"].values():
            assert kind["node_config"]["IamInstanceProfile"]["Name"].startswith("raystudy-")
            assert len(kind["node_config"]["SubnetIds"]) >= 2
            assert kind["node_config"]["KeyName"]
        group = boto3.resource("ec2").SecurityGroup(
            found["available_node_types"]["head"]["node_config"]["SecurityGroupIds"][0]
        )
        world = [(r["FromPort"], r["ToPort"]) for r in group.ip_permissions if r["IpRanges"]]
        assert world == [(22, 22)]
