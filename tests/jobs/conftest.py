"""A local cluster and an S3 server for the tests of jobs, and the outputs that many look at."""

import io
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
import numpy as np
import pytest
import ray
from botocore.exceptions import BotoCoreError, ClientError
from fault_proxy import fault_proxy
from PIL import Image
from trainings import Trainings

from fer import storage
from fer.data.emotions import SPLITS
from fer.data.synthetic import Faces, draw_faces, to_csv, to_zip
from fer.storage import s3 as s3_store
from ray_jobs.__main__ import main
from ray_jobs.cluster import internals, session

NUM_FACES = 280
NUM_COPIES = 16
STORE_CACHES = (
    storage.paths._open_store,
    *(s3_store.open_bucket_read_only, s3_store._make_client, s3_store._has_credentials),
)
OWNER = {"accessKey": "OWNERKEY", "secretKey": "owner-secret"}
READER = {"accessKey": "READERKEY", "secretKey": "reader-secret"}
IDENTITIES = {
    "identities": [
        {
            "name": "owner",
            "credentials": [OWNER],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {"name": "reader", "credentials": [READER], "actions": ["Read:open", "List:open"]},
        {"name": "anonymous", "actions": ["Read:public", "List:public"]},
    ]
}


@dataclass(frozen=True)
class Run:
    """What a person sees of a job: its exit code, its RESULT line, and what it said of errors."""

    code: int
    result: dict[str, Any] | None
    errors: str

    @property
    def sentence(self) -> str:
        """The one line that tells what went wrong."""
        told = [line for line in self.errors.splitlines() if line.startswith("fer: ")]
        assert len(told) == 1, self.errors
        assert "Traceback" not in self.errors
        assert self.errors.rstrip().endswith(told[0]), "nothing follows what went wrong"
        return told[0].removeprefix("fer: ")


@pytest.fixture
def fer(cluster, capfd):
    """Run a job in this process, on the shared cluster."""

    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        lines = [line for line in captured.out.splitlines() if line.startswith("RESULT ")]
        result = json.loads(lines[0].removeprefix("RESULT ")) if lines else None
        assert (code == 0) == (result is not None)
        return Run(code, result, captured.err)

    return run


@pytest.fixture(scope="session")
def cluster(s3_server):
    """A cluster of four logical CPUs, whose processes know the S3 server."""
    os.environ |= {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        **internals.OWN_CLUSTER_SETTINGS,
        # As jobs have it on clusters of their own: the next task need not wait for a new process.
        "RAY_idle_worker_killing_time_threshold_ms": "60000",
    }
    # A short path: those of sockets have at most 107 bytes.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        # As label and evaluate start theirs.
        memory = session.inherited(session.INFERENCE_MEMORY["env_vars"])
        with internals.agent_at_free_port(), memory:
            context = ray.init(
                address="local",
                num_cpus=4,
                object_store_memory=512 * 2**20,
                include_dashboard=True,
                log_to_driver=False,
                _temp_dir=folder,
            )
        # As ray start does it. Without this file, a submitted job joins any cluster of the machine.
        Path(folder, "ray_current_cluster").write_text(context.address_info["gcs_address"])
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def programs():
    """Find this environment's programs, as it does who has activated it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session")
def s3_proxy(programs, tmp_path_factory):
    """SeaweedFS on this machine, behind a proxy that the usual environment variables name."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / "s3.json").write_text(json.dumps(IDENTITIES))
    ports = free_ports(8)
    with ExitStack() as cleanup:
        server = subprocess.Popen(
            weed_command(folder, ports),
            stdout=cleanup.enter_context((folder / "log").open("w")),
            stderr=subprocess.STDOUT,
        )
        cleanup.callback(server.wait)
        cleanup.callback(server.kill)
        proxy = cleanup.enter_context(fault_proxy(f"http://127.0.0.1:{ports[0]}"))
        patch = cleanup.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.endpoint,
            "AWS_ACCESS_KEY_ID": OWNER["accessKey"],
            "AWS_SECRET_ACCESS_KEY": OWNER["secretKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        wait_for_bucket(server, folder)
        yield proxy


@pytest.fixture(scope="session")
def s3_server(s3_proxy):
    """Where the store is reached."""
    return s3_proxy.endpoint


@pytest.fixture
def faults(s3_proxy):
    """The faults that befall requests of every process, for one test."""
    yield s3_proxy.faults
    s3_proxy.faults.clear()


def weed_command(folder, ports):
    s3, s3_rpc, master, master_rpc, volume, volume_rpc, filer, filer_rpc = map(str, ports)
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3.config": folder / "s3.json",
        "s3.port": s3,
        "s3.port.grpc": s3_rpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "master.port": master,
        "master.port.grpc": master_rpc,
        "master.telemetry": "false",
        "volume.port": volume,
        "volume.port.grpc": volume_rpc,
        "volume.max": 100,
        "filer.port": filer,
        "filer.port.grpc": filer_rpc,
        "webdav": "false",
        "admin.ui": "false",
    }
    (folder / "data").mkdir()
    return ["weed", f"-logdir={folder}", "mini", *(f"-{name}={options[name]}" for name in options)]


def free_ports(number):
    """Return ports below those that Linux gives out by itself, which are free now."""
    ports = []
    with ExitStack() as cleanup:
        while len(ports) < number:
            probe, port = (
                cleanup.enter_context(closing(socket.socket())),
                random.randint(10_000, 32_000),
            )
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    return ports


def wait_for_bucket(server, folder):
    """Make the bucket that all tests share, as soon as the server takes it."""
    client = boto3.client("s3")
    for _ in range(300):
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            client.create_bucket(Bucket="open")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError((folder / "log").read_text()[-2000:])


@pytest.fixture(scope="session")
def s3(s3_server):
    """A client of the S3 server."""
    return boto3.client("s3")


@pytest.fixture
def fresh_client():
    """Look at the environment's credentials anew, before and after a test that changes them."""
    for cached in STORE_CACHES:
        cached.cache_clear()
    yield
    for cached in STORE_CACHES:
        cached.cache_clear()


@pytest.fixture(scope="session")
def drawn():
    """Faces of all splits, each class in each of them."""
    images, labels = draw_faces(NUM_FACES, seed=2)
    splits = [SPLITS[0 if row % 10 < 6 else 1 + row % 2] for row in range(NUM_FACES)]
    return Faces(images, labels, splits)


@pytest.fixture(scope="session")
def sources(drawn, tmp_path_factory):
    """The faces as FER2013's CSV file, and as an archive of PNG files by split and class."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "fer2013.csv").write_bytes(to_csv(drawn))
    (folder / "faces.zip").write_bytes(to_zip(drawn))
    return folder


@pytest.fixture(scope="session")
def dataset(cluster, sources, tmp_path_factory):
    """The faces, ingested."""
    output = tmp_path_factory.mktemp("dataset") / "data"
    assert main(["ingest", "--source", str(sources / "fer2013.csv"), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def dataset_with_copies(cluster, drawn, tmp_path_factory):
    """A dataset whose ``val`` holds ``NUM_COPIES`` images of ``train`` too, labeled otherwise."""
    images, labels, splits = drawn.images.copy(), drawn.labels.copy(), np.array(drawn.splits)
    val, train = (np.flatnonzero(splits == split)[:NUM_COPIES] for split in ("val", "train"))
    images[val], labels[val] = images[train], (labels[train] + 1) % 7
    folder = tmp_path_factory.mktemp("copies")
    (folder / "a.csv").write_bytes(to_csv(Faces(images, labels, drawn.splits)))
    source, output = str(folder / "a.csv"), folder / "data"
    assert main(["ingest", "--source", source, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="session")
def trained(cluster, dataset, tmp_path_factory):
    """Trainings by one worker and by two: see ``Trainings``."""
    return Trainings(dataset, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def other_dataset(dataset, tmp_path):
    """Return a copy of the dataset whose summary says something else."""

    def copy(**fields):
        data = tmp_path / "data"
        shutil.copytree(dataset, data)
        summary = json.loads((data / "summary.json").read_text())
        (data / "summary.json").write_text(json.dumps({**summary, **fields}))
        return data

    return copy


@pytest.fixture(scope="session")
def photographs(faces, png, tmp_path_factory):
    """Good images and bad ones, at several depths."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "a" / "b").mkdir(parents=True)
    for number in range(6):
        (folder / "a" / f"{number}.png").write_bytes(png(faces[0][number]))
    (folder / "a" / "b" / "broken.jpg").write_bytes(b"junk")
    (folder / "empty.png").write_bytes(b"")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 10_000)).save(bomb, "PNG")
    (folder / "bomb.png").write_bytes(bomb.getvalue())
    (folder / "README.md").write_text("Not an image.")
    return folder


@pytest.fixture(scope="session")
def checkpoint(save_network, tmp_path_factory):
    """An untrained network of two convolutions."""
    folder = tmp_path_factory.mktemp("checkpoints") / "conv2"
    save_network(folder, "conv2", with_graph=True)
    return folder


@pytest.fixture
def label(fer, checkpoint):
    """Return a function that labels crops with the untrained network."""

    def run(images, output, *flags):
        named = ("--detector", "none", "--engine", "float32", "--checkpoint", checkpoint)
        return fer("label", "--images", images, *named, "--output", output, *flags)

    return run


@pytest.fixture(scope="session")
def expected_counts(drawn):
    """Number of faces of each class, by split."""
    splits = np.array(drawn.splits)
    return {
        split: np.bincount(drawn.labels[splits == split], minlength=7).tolist() for split in SPLITS
    }
