"""cluster.yaml: Ray's own schema, what the schema misses, and spot nodes bought on demand."""

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
WORKERS = [each for name, each in TYPES.items() if name != CONFIG["head_node_type"]]


def validated(**changes):
    """Fill in Ray's defaults and hold a configuration against Ray's schema."""
    assert ray.__version__ == RAY, (
        f"Ray's check of a cluster.yaml is a private module, known of {RAY}: look at it again."
    )
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config({**copy.deepcopy(CONFIG), **changes})
    validate_config(config)
    return config


def test_ray_takes_it():
    assert set(validated()["available_node_types"]) == set(TYPES)


@pytest.mark.parametrize(
    "changes",
    [{"head_node_type": "other"}, {"workers": 3}, {"docker": {"image": "ray"}}],
    ids=["head", "key", "docker"],
)
def test_ray_would_tell_of_a_mistake(changes):
    from jsonschema import ValidationError

    with pytest.raises((ValidationError, ValueError, AssertionError)):
        validated(**changes)


def test_nothing_is_left_to_the_defaults_of_the_provider():
    """An external provider has none of its own, and a key that is missing is found out late."""
    import ray.autoscaler.aws

    defaults = yaml.safe_load(
        (Path(ray.autoscaler.aws.__path__[0]) / "defaults.yaml").read_text()
    ).keys()
    assert defaults <= CONFIG.keys()


def test_the_head_runs_no_work():
    assert HEAD["resources"] == {"CPU": 0, "GPU": 0}
    (start,) = [line for line in CONFIG["head_start_ray_commands"] if "--head" in line]
    assert "--num-cpus=0" in start


def test_workers_come_and_go():
    assert 0 < CONFIG["max_workers"] <= 64
    assert 0 < CONFIG["idle_timeout_minutes"] <= 15
    for each in WORKERS:
        assert each["min_workers"] == 0
        assert 0 < each["max_workers"] <= CONFIG["max_workers"]
        assert each["resources"]["CPU"] > 0
    assert any(each["resources"].get("GPU") for each in WORKERS)
    assert CONFIG["provider"]["cache_stopped_nodes"] is False
    assert CONFIG["provider"]["availability_zone"].count(",") >= 2


def test_workers_alone_are_on_the_spot_market():
    assert "InstanceMarketOptions" not in HEAD["node_config"]
    for each in WORKERS:
        assert each["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert CONFIG["provider"]["type"] == "external"
    assert CONFIG["provider"]["module"] == "ray_jobs.cluster.spot.SpotOrOnDemand"


def test_s3_is_reached_by_profiles_and_no_key_lies_about():
    profiles = [each["node_config"]["IamInstanceProfile"] for each in TYPES.values()]
    assert all(profile["Name"] for profile in profiles)
    # What a worker runs may not start instances.
    assert HEAD["node_config"]["IamInstanceProfile"] not in profiles[1:]
    text = (ROOT / "cluster.yaml").read_text()
    assert not re.search(r"AKIA|AWS_SECRET|aws_credentials|AWS_ACCESS_KEY", text)


@pytest.mark.parametrize("node", TYPES.values(), ids=TYPES)
def test_instances_have_room_tags_and_a_guarded_metadata_service(node):
    settings = node["node_config"]
    (disk,) = settings["BlockDeviceMappings"]
    assert disk["Ebs"]["VolumeSize"] >= 150
    assert disk["Ebs"]["DeleteOnTermination"]
    # Tokens for the metadata service, and a hop for the container.
    assert settings["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
    tags = {tag["ResourceType"]: tag["Tags"] for tag in settings["TagSpecifications"]}
    assert {"Key": "project", "Value": "fer-on-ray"} in tags["instance"]
    assert tags["volume"] == tags["instance"]


def test_nodes_run_the_ray_that_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = [each for each in project["dependencies"] if each.startswith("ray[")]
    assert pinned.endswith(f"=={RAY}")
    assert CONFIG["docker"]["image"].startswith(f"rayproject/ray:{RAY}-py311")
    assert project["requires-python"] == ">=3.11"
    commands = [*CONFIG["setup_commands"], *CONFIG["head_setup_commands"]]
    assert any("-c /home/ray/fer-on-ray/constraints.txt" in command for command in commands)
    assert not any(".whl" in command or "dev0" in command for command in commands)
    assert validated()["setup_commands"] == CONFIG["setup_commands"]


def test_the_dashboard_is_closed_and_tokens_are_asked_for():
    starts = [*CONFIG["head_start_ray_commands"], *CONFIG["worker_start_ray_commands"]]
    starts = [line for line in starts if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in "".join(starts)
    assert CONFIG["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_an_upload_of_the_working_copy_is_small(tmp_path):
    """What `ray job submit --working-dir .` packs: the code and the bundled weights."""
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import _zip_files

    package = tmp_path / "package.zip"
    _zip_files(str(ROOT), [], str(package), include_gitignore=True)
    with ZipFile(package) as packed:
        names = set(packed.namelist())
    assert package.stat().st_size < 20 * 2**20
    assert {"ray_jobs/__main__.py", "fer/weights/model.safetensors", "pyproject.toml"} <= names
    unwanted = ("tests/", "docs/", ".git/", ".venv/", "runs/", "benchmarks/")
    assert not [name for name in names if name.startswith(unwanted)]


# Spot or on demand, against a stand-in for EC2's API.


class Ec2(BaseHTTPRequestHandler):
    """Answers RunInstances, and refuses what it is told to refuse."""

    def do_POST(self):
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        market = body.get("InstanceMarketOptions.MarketType", ["on-demand"])[0]
        self.server.asked.append(market)
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
        server.asked, server.refused = [], {}
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

    # Ray keeps clients by region, and with them where they send their requests.
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


def test_a_spot_node_is_asked_for_first(provider, ec2):
    assert set(launch(provider)) == {"i-1"}
    assert ec2.asked == ["spot"]


def test_what_the_spot_market_refuses_is_bought_on_demand(provider, ec2, capsys):
    ec2.refused["spot"] = "InsufficientInstanceCapacity"
    assert set(launch(provider)) == {"i-1"}
    assert ec2.asked[-1] == "on-demand"
    assert set(ec2.asked[:-1]) == {"spot"}
    # In each zone.
    assert len(ec2.asked) > 2
    assert "No spot capacity (InsufficientInstanceCapacity)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [("cpu_worker", "UnauthorizedOperation"), ("head", "InsufficientInstanceCapacity")],
)
def test_another_refusal_stays_one(provider, ec2, kind, code):
    from ray.autoscaler.node_launch_exception import NodeLaunchException

    ec2.refused = {"spot": code, "on-demand": code}
    with pytest.raises(NodeLaunchException, match=code):
        launch(provider, kind)
    assert set(ec2.asked) == {"on-demand" if kind == "head" else "spot"}
