"""What the project relies on in Ray's private code; run this first after an upgrade of Ray."""

import inspect
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.train.torch import TorchTrainer

from fer.errors import InputError
from ray_jobs.cluster import autoscaling, internals


def test_the_head_is_the_node_with_its_resource(cluster):
    (node,) = ray.nodes()
    assert internals.is_head(node)
    assert not internals.is_head({"Resources": {"CPU": 4.0, "node:10.0.0.7": 1.0}})


def test_nodes_have_their_id_as_a_label(cluster):
    (node,) = ray.nodes()
    assert node["Labels"]["ray.io/node-id"] == node["NodeID"]


@pytest.mark.slow
def test_attempts_of_a_task_are_counted(cluster):
    def attempt():
        number = internals.task_attempt_number()
        if number < 2:
            os._exit(1)
        return number

    task = ray.remote(num_cpus=0, max_retries=2)(attempt)
    assert ray.get(task.remote()) == 2


def test_the_first_attempt_is_number_0(cluster):
    task = ray.remote(num_cpus=0)(internals.task_attempt_number)
    assert ray.get(task.remote()) == 0


@pytest.mark.parametrize(
    ("is_streamed", "is_own", "needless"),
    [
        (False, True, {"DatasetsCallback", "PlacementGroupCleanerCallback"}),
        (False, False, {"DatasetsCallback"}),
        (True, True, {"PlacementGroupCleanerCallback"}),
    ],
)
def test_a_trainer_starts_only_what_its_run_needs(
    cluster, monkeypatch, is_streamed, is_own, needless
):
    assert internals.starts_cluster()
    monkeypatch.setattr(internals, "starts_cluster", lambda: is_own)
    streams = {"train": lambda: None} if is_streamed else {}
    trainer = TorchTrainer(print, datasets=streams)
    before = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    internals.skip_needless_actors(trainer)
    after = {type(callback).__name__ for callback in trainer._create_default_callbacks()}
    assert (before - after, after - before) == (needless, set())


def test_a_local_cluster_has_no_autoscaler(cluster):
    assert internals.has_autoscaler_v2() is False
    assert not autoscaling.is_autoscaled()


def test_the_autoscaling_state_can_be_read(cluster):
    state = internals.autoscaling_state()
    assert state.autoscaler_state_version == 0
    assert list(state.infeasible_gang_resource_requests) == []
    assert autoscaling._activity(state) == "the autoscaler has not answered yet"


def test_the_autoscaling_state_has_the_fields_that_are_read():
    from ray.core.generated.autoscaler_pb2 import AutoscalingState

    state = AutoscalingState()
    state.infeasible_gang_resource_requests.add(details="group: reason")
    state.pending_instances.add(ray_node_type_name="cpu_worker")
    state.pending_instance_requests.add(ray_node_type_name="cpu_worker", count=2)
    state.failed_instance_requests.add(ray_node_type_name="gpu", reason="old", failed_ts=1)
    state.failed_instance_requests.add(ray_node_type_name="gpu", reason="no capacity", failed_ts=2)
    assert autoscaling._activity(state) == "3 cpu_worker starting, gpu: no capacity"


def test_a_change_is_reported_at_once(capsys):
    wait = autoscaling._Wait([{"CPU": 1}], "Networks", final_from=None)
    for activity in ("1 gpu starting", "1 gpu starting", "1 cpu_worker starting"):
        wait.report(activity)
    prefix = "Waiting for resources: Networks need 1 x (1 CPU); "
    assert capsys.readouterr().err.splitlines() == [
        prefix + "1 gpu starting",
        prefix + "1 cpu_worker starting",
    ]


def test_the_job_supervisor_sets_the_variable_of_submitted_jobs(monkeypatch):
    from ray.dashboard.modules.job import job_supervisor

    assert job_supervisor.RAY_JOB_CONFIG_JSON_ENV_VAR == internals.JOB_VARIABLE
    monkeypatch.delenv(internals.JOB_VARIABLE, raising=False)
    assert not internals.is_submitted_job()
    monkeypatch.setenv(internals.JOB_VARIABLE, "{}")
    assert internals.is_submitted_job()


def test_ray_train_reads_the_interval_of_health_checks():
    from ray.train.v2._internal import constants

    assert constants.HEALTH_CHECK_INTERVAL_S_ENV_VAR in internals.PROCESS_SETTINGS


def test_ray_train_knows_the_setting_of_its_preemption_watcher():
    from ray.train.v2._internal import constants

    assert constants.ENABLE_PREEMPTION_WATCHER_ENV_VAR in internals.OWN_CLUSTER_SETTINGS
    assert constants.DEFAULT_ENABLE_PREEMPTION_WATCHER


def test_the_raylet_knows_the_setting_of_idle_workers():
    raylet = Path(ray.__file__).parent / "core" / "src" / "ray" / "raylet" / "raylet"
    (setting,) = [name for name in internals.PROCESS_SETTINGS if name != name.upper()]
    assert setting.removeprefix("RAY_").encode() in raylet.read_bytes()


def test_ray_data_looks_for_finished_tasks_at_the_interval_that_is_set(monkeypatch):
    from ray.data._internal.execution import streaming_executor_state as state

    monkeypatch.setattr(state, "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S", 0.1)
    internals.look_for_results_often()
    assert state.WAIT_FOR_TASK_COMPLETION_TIMEOUT_S == 0.02
    wait = "timeout=WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"
    assert wait in inspect.getsource(state.process_completed_tasks)


def test_ray_data_starts_no_processes_for_its_own_use(cluster, monkeypatch):
    from ray.data._internal import stats
    from ray.data._internal.cluster_autoscaler import default_autoscaling_coordinator

    started = []
    starts = (
        (stats, "get_or_create_stats_actor"),
        (default_autoscaling_coordinator, "get_or_create_autoscaling_coordinator"),
    )
    for module, name in starts:
        monkeypatch.setattr(module, name, lambda name=name: started.append(name))
    internals.skip_needless_data_actors()
    assert ray.data.range(8, override_num_blocks=2).map_batches(lambda batch: batch).sum("id") == 28
    assert started == []


def test_the_aws_node_provider_has_the_method_that_is_overridden():
    pytest.importorskip("boto3")
    create_node = internals.aws_node_provider().create_node
    assert list(inspect.signature(create_node).parameters) == [
        "self",
        "node_config",
        "tags",
        "count",
    ]


def test_internals_import_nothing_of_ray():
    """Locations are checked, and help is printed, before Ray is imported."""
    code = "import sys, ray_jobs.cluster.internals; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert not {"ray", "boto3"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("Row 1 is test; give others."), "Row 1 is test; give others."),
        (OSError("the store answered 503"), "the store answered 503"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_what_ray_data_adds_to_errors_is_taken_back(error, message):
    from ray.data._internal.util import _annotate_exception_with_retry_context

    times = {"attempts": 1, "max_attempts": 1, "total_backoff_s": 0.0}
    annotated = _annotate_exception_with_retry_context(
        error, description="apply UDF transform", exception_str=str(error), **times
    )
    received = pickle.loads(pickle.dumps(annotated))
    assert str(received) != message
    internals.remove_retry_hint(received)
    assert str(received) == message
