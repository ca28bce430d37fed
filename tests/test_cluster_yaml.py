"""cluster.yaml: Ray's schema, rules that the schema does not check, and spot nodes."""

import copy
import re
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs

import pytest
import ray
import yaml

ROOT = Path(__file__).parents[1]
RAY = "2.60.0"
CONFIG = yaml.safe_load((ROOT / "cluster.yaml").read_text())
TYPES = CONFIG["available_node_types"]
HEAD = TYPES[CONFIG["head_node_type"]]
WORKERS = [node for name, node in TYPES.items() if name != CONFIG["head_node_type"]]


def validated(**changes):
    """Fill in Ray's defaults and validate a configuration with Ray's schema."""
    assert ray.__version__ == RAY, (
        f"This check uses private modules of Ray {RAY}; review it for another version."
    )
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config({**copy.deepcopy(CONFIG), **changes})
    validate_config(config)
    return config


def test_ray_accepts_it():
    assert set(validated()["available_node_types"]) == set(TYPES)


@pytest.mark.parametrize(
    "changes",
    [{"head_node_type": "other"}, {"workers": 3}, {"docker": {"image": "ray"}}],
    ids=["head", "key", "docker"],
)
def test_ray_rejects_mistakes(changes):
    from jsonschema import ValidationError

    with pytest.raises((ValidationError, ValueError, AssertionError)):
        validated(**changes)


def test_every_key_of_the_aws_defaults_is_set():
    """An external provider has no defaults, and Ray notices a missing key late."""
    import ray.autoscaler.aws

    defaults = yaml.safe_load(
        (Path(ray.autoscaler.aws.__path__[0]) / "defaults.yaml").read_text()
    ).keys()
    assert defaults <= CONFIG.keys()


def test_the_head_runs_no_tasks():
    assert HEAD["resources"] == {"CPU": 0, "GPU": 0}
    (start,) = [line for line in CONFIG["head_start_ray_commands"] if "--head" in line]
    assert "--num-cpus=0" in start


def test_workers_are_added_and_removed():
    assert 0 < CONFIG["max_workers"] <= 64
    assert 0 < CONFIG["idle_timeout_minutes"] <= 15
    for node in WORKERS:
        assert node["min_workers"] == 0
        assert 0 < node["max_workers"] <= CONFIG["max_workers"]
        assert node["resources"]["CPU"] > 0
    assert any(node["resources"].get("GPU") for node in WORKERS)
    assert CONFIG["provider"]["cache_stopped_nodes"] is False
    assert CONFIG["provider"]["availability_zone"].count(",") >= 2


def test_only_workers_are_spot_instances():
    assert "InstanceMarketOptions" not in HEAD["node_config"]
    for node in WORKERS:
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert CONFIG["provider"]["type"] == "external"
    assert CONFIG["provider"]["module"] == "ray_jobs.cluster.spot.SpotOrOnDemand"


def test_nodes_access_s3_by_instance_profiles_without_keys():
    profiles = [node["node_config"]["IamInstanceProfile"] for node in TYPES.values()]
    assert all(profile["Name"] for profile in profiles)
    # Code on a worker must not be able to start instances.
    assert HEAD["node_config"]["IamInstanceProfile"] not in profiles[1:]
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"AKIA|AWS_SECRET|aws_credentials|AWS_ACCESS_KEY", text)


@pytest.mark.parametrize("node", TYPES.values(), ids=TYPES)
def test_instances_have_disks_tags_and_a_protected_metadata_service(node):
    settings = node["node_config"]
    (disk,) = settings["BlockDeviceMappings"]
    assert disk["Ebs"]["VolumeSize"] >= 150
    assert disk["Ebs"]["DeleteOnTermination"]
    # The metadata service requires tokens and allows one hop for the container.
    assert settings["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
    tags = {tag["ResourceType"]: tag["Tags"] for tag in settings["TagSpecifications"]}
    assert {"Key": "project", "Value": "fer-on-ray"} in tags["instance"]
    assert tags["volume"] == tags["instance"]


def test_nodes_run_the_pinned_version_of_ray():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = [name for name in project["dependencies"] if name.startswith("ray[")]
    assert pinned.endswith(f"=={RAY}")
    assert CONFIG["docker"]["image"].startswith(f"rayproject/ray:{RAY}-py311")
    assert project["requires-python"] == ">=3.11"
    commands = [*CONFIG["setup_commands"], *CONFIG["head_setup_commands"]]
    assert any("-c /home/ray/fer-on-ray/constraints.txt" in command for command in commands)
    assert not any(".whl" in command or "dev0" in command for command in commands)
    assert validated()["setup_commands"] == CONFIG["setup_commands"]


def test_the_dashboard_is_not_public_and_tokens_are_required():
    starts = [*CONFIG["head_start_ray_commands"], *CONFIG["worker_start_ray_commands"]]
    starts = [line for line in starts if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in "".join(starts)
    assert CONFIG["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_uploaded_working_folder_is_small(tmp_path):
    """`ray job submit --working-dir .` uploads the code and the shipped weights."""
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import _zip_files

    package = tmp_path / "package.zip"
    _zip_files(str(ROOT), [], str(package), include_gitignore=True)
    with ZipFile(package) as packed:
        names = set(packed.namelist())
    assert package.stat().st_size < 24 * 2**20
    assert {
        "ray_jobs/__main__.py",
        "fer/weights/paper-deep/model.safetensors",
        "pyproject.toml",
    } <= names
    unwanted = ("tests/", "docs/", ".git/", ".venv/", "runs/", "benchmarks/")
    assert not [name for name in names if name.startswith(unwanted)]


# Spot or on demand, with a fake of EC2's API.


class Ec2(BaseHTTPRequestHandler):
    """Answers RunInstances, and refuses the markets in ``refused``."""

    def do_POST(self):
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        market = body.get("InstanceMarketOptions.MarketType", ["on-demand"])[0]
        self.server.requested.append(market)
        code = self.server.refused.get(market)
        status, answer = (400, ERROR.format(code)) if code else (200, LAUNCHED)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *_):
        pass


ERROR = "<Response><Errors><Error><Code>{}</Code><Message>no</Message></Error></Errors></Response>"
LAUNCHED = """<RunInstancesResponse><instancesSet><item><instanceId>i-1</instanceId>
<instanceState><code>0</code><name>pending</name></instanceState>
<stateReason><code>pending</code><message>pending</message></stateReason>
</item></instancesSet></RunInstancesResponse>"""


@pytest.fixture
def ec2(monkeypatch):
    with ThreadingHTTPServer(("127.0.0.1", 0), Ec2) as server:
        server.requested, server.refused = [], {}
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield server
        server.shutdown()


@pytest.fixture
def provider(ec2, monkeypatch):
    from ray.autoscaler._private.aws import utils
    from ray.autoscaler._private.providers import _get_node_provider

    # Ray caches its clients by region, together with the address of their requests.
    for cached in (utils.resource_cache, utils.client_cache):
        cached.cache_clear()
    yield _get_node_provider(CONFIG["provider"], CONFIG["cluster_name"], use_cache=False)
    for cached in (utils.resource_cache, utils.client_cache):
        cached.cache_clear()


def launch(provider, kind="cpu_worker"):
    settings = {**TYPES[kind]["node_config"], "SubnetIds": ["subnet-a", "subnet-b"]}
    before = copy.deepcopy(settings)
    created = provider.create_node(settings, {"ray-node-type": "worker"}, 1)
    assert settings == before
    return created


def test_a_spot_node_is_requested_first(provider, ec2):
    assert set(launch(provider)) == {"i-1"}
    assert ec2.requested == ["spot"]


def test_a_node_without_spot_capacity_is_launched_on_demand(provider, ec2, capsys):
    ec2.refused["spot"] = "InsufficientInstanceCapacity"
    assert set(launch(provider)) == {"i-1"}
    assert ec2.requested[-1] == "on-demand"
    assert set(ec2.requested[:-1]) == {"spot"}
    # Once in each zone.
    assert len(ec2.requested) > 2
    assert "No spot capacity (InsufficientInstanceCapacity)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [("cpu_worker", "UnauthorizedOperation"), ("head", "InsufficientInstanceCapacity")],
)
def test_other_refusals_are_raised(provider, ec2, kind, code):
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    ec2.refused = {"spot": code, "on-demand": code}
    with pytest.raises(NodeLaunchException, match=code):
        launch(provider, kind)
    assert set(ec2.requested) == {"on-demand" if kind == "head" else "spot"}
