"""The commands that the overlays run: their flags exist, and retries continue what was lost."""

import re
import shlex

import pydantic
import pytest
import yaml
from manifests import cluster_of, job_of, overlay, resource

from ray_jobs.__main__ import parse
from ray_jobs.config import IngestConfig, LabelConfig, ServeConfig, TrainConfig

NIGHTLY = ["nightly", "standing"]


def submit_script():
    """Return the script of the CronJob that submits to the cluster that stays."""
    (cron_job,) = [item for item in overlay("standing") if item["kind"] == "CronJob"]
    (container,) = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["bash", "-euc"]
    (script,) = container["args"]
    return script


def words_of(name):
    """Return the command line of an overlay's job as a shell splits it."""
    if name == "standing":
        (line,) = re.findall(r"exec timeout .* \\\n *(python .*)", submit_script())
    else:
        line = job_of(resource(name))["entrypoint"]
    return shlex.split(line)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("ingest", IngestConfig),
        ("train", TrainConfig),
        ("label", LabelConfig),
        ("label-spot", LabelConfig),
        ("nightly", LabelConfig),
        ("standing", LabelConfig),
    ],
)
def test_entrypoints_are_command_lines_of_jobs(name, config):
    words = words_of(name)
    assert words[:3] == ["python", "-m", "ray_jobs"]
    chosen = parse(words[3:])
    assert isinstance(chosen, config)
    assert chosen.output.startswith("s3://bucket/")


@pytest.mark.parametrize("name", ["train", "label", "label-spot"])
def test_each_try_continues_the_one_before(name):
    assert parse(words_of(name)[3:]).resume
    assert job_of(resource(name))["backoffLimit"] > 0


@pytest.mark.parametrize("name", NIGHTLY)
def test_nights_update_labels(name):
    assert parse(words_of(name)[3:]).update


def test_both_ways_to_a_nightly_run_run_the_same():
    assert words_of("nightly") == words_of("standing")


def test_a_night_on_a_cluster_that_stays_ends_before_the_pod_that_follows_it():
    (cron_job,) = [item for item in overlay("standing") if item["kind"] == "CronJob"]
    ((grace, hours),) = re.findall(r"-- exec timeout -k (\d+) (\d+)h ", submit_script())
    deadline = cron_job["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]
    assert 3600 * int(hours) + int(grace) < deadline < 86400


def test_training_fits_its_node_pool():
    config = parse(words_of("train")[3:])
    (pool,) = [
        group
        for group in cluster_of(resource("train"))["workerGroupSpecs"]
        if group["groupName"] == "gpu"
    ]
    (container,) = pool["template"]["spec"]["containers"]
    assert config.use_gpu
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert config.worker_range[1] <= pool["maxReplicas"]
    assert config.cpus_per_worker <= int(pool["rayStartParams"]["num-cpus"])


# Ray Serve 2.60's own models use what pydantic 2 deprecates.
@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")
@pytest.mark.parametrize("name", ["serve", "serve-ha"])
def test_ray_serve_accepts_the_service(name):
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(resource(name)["spec"]["serveConfigV2"])
    assert config.keys() <= ServeDeploySchema.model_fields.keys()
    (application,) = ServeDeploySchema.model_validate(config).applications
    assert application.import_path == "ray_jobs.serve:app"
    config = pydantic.TypeAdapter(ServeConfig).validate_python(application.args)
    (group,) = cluster_of(resource(name))["workerGroupSpecs"]
    smallest, largest = (
        int(group["rayStartParams"]["num-cpus"]) * group[name]
        for name in ("minReplicas", "maxReplicas")
    )
    assert group["minReplicas"] <= config.min_replicas <= smallest / config.cpus_per_replica
    assert config.max_replicas <= largest / config.cpus_per_replica


def test_the_submitter_asks_the_cluster_that_stays():
    (cron_job,) = [item for item in overlay("standing") if item["kind"] == "CronJob"]
    (container,) = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable for variable in container["env"]}
    cluster = resource("standing")["metadata"]["name"]
    assert variables["RAY_ADDRESS"]["value"] == f"http://{cluster}-head-svc:8265"
    assert variables["RAY_AUTH_MODE"]["value"] == "token"
    # KubeRay names the secret of a cluster's token after the cluster.
    secret = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert secret == {"name": cluster, "key": "auth_token"}
    # One submission id for all tries of a night.
    field = variables["SUBMISSION_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.labels['batch.kubernetes.io/job-name']"
    assert cron_job["spec"]["concurrencyPolicy"] == "Forbid"
