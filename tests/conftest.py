"""Fixtures that most tests use: drawn faces and untrained checkpoints."""

import gc
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
import torch
from PIL import Image
from plates import draw_plates, plate_detector
from xdist.scheduler import LoadScopeScheduling

from fer import storage
from fer.data.synthetic import draw_faces
from fer.models.architectures import build_model
from fer.models.checkpoint import GRAPH, load_checkpoint
from fer.models.graph import make_graph
from fer.models.networks import pack_checkpoint
from fer.vision.shape import FER2013_SHAPE

LABELING = {
    *("test_label.py", "test_label_selection.py", "test_label_stores.py", "test_label_videos.py"),
    *("test_s3.py", "test_worklist.py"),
}
OWN_CLUSTERS = {"test_session.py", "test_survival.py", "test_isolation.py"}
"""Files of job tests that start clusters of their own."""


ALONE = OWN_CLUSTERS | {"test_exactly_once.py", "test_serve_survival.py", "test_demo.py"}
"""Files whose slow tests want the machine for themselves: many nodes, or a load on a server."""

SLOW_SECONDS = 900
"""After this time a slow test counts as hung, on a machine of any speed."""


class _FilesAndClusters(LoadScopeScheduling):
    """Runs each file's tests in one process, and those of jobs in two, with a cluster each."""

    def _split_scope(self, nodeid):
        file = PurePosixPath(nodeid.split("::")[0])
        if "jobs" not in file.parts:
            return str(file)
        if file.name in OWN_CLUSTERS:
            return "own clusters"
        if file.name in LABELING:
            return "labeling"
        # The slow ones take minutes a file, and are dealt out one by one.
        return "jobs" if "not slow" in self.config.option.markexpr else str(file)


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
            if item.path.name in ALONE:
                item.add_marker(pytest.mark.alone)


def pytest_xdist_make_scheduler(config, log):
    return _FilesAndClusters(config, log)


def pytest_addoption(parser):
    parser.addoption(
        "--chaos-runs",
        type=int,
        default=1,
        help="How many labelings to disturb at random, and half as many trainings; each number "
        "from 0 is the seed of one.",
    )


def pytest_generate_tests(metafunc):
    runs = metafunc.config.getoption("--chaos-runs")
    for name, number in (("labeling_seed", runs), ("training_seed", (runs + 1) // 2)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, range(number))


@pytest.fixture(scope="session", autouse=True)
def _imported_for_good():
    """A job that fails collects garbage: not that of all that tests import, time and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def faces():
    return draw_faces(60, seed=1)


@pytest.fixture(scope="session")
def png():
    """Return a function that encodes an image uint8 (H, W) as a PNG file."""

    def encode(image):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def save_network():
    """Return a function that writes an untrained network as a checkpoint.

    Without its graph, each process that runs it on a processor makes one, which takes seconds.
    """

    def save(
        folder,
        model="shallow",
        seed=0,
        layers=None,
        with_graph=False,
        shape=FER2013_SHAPE,
        **fields,
    ):
        torch.manual_seed(seed)
        num_classes = len(fields.get("class_names", range(7)))
        arguments = {"num_classes": num_classes, "dropout": 0.25, **(layers or {})}
        network = build_model(model, shape=shape, **arguments).eval()
        architecture = {"name": model, "arguments": arguments}
        for name, content in pack_checkpoint(network, architecture, **fields).items():
            storage.write_bytes(storage.join(str(folder), name), content)
        if with_graph:
            (member,) = load_checkpoint(str(folder)).members
            storage.write_bytes(storage.join(str(folder), GRAPH), make_graph(member))
        return network

    return save


@pytest.fixture(scope="session")
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no NVIDIA GPU")
    return torch.device("cuda")


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def yunet():
    """YuNet's weights, which are not part of the project."""
    file = SHARED / "models" / "face_detection_yunet_2023mar.onnx"
    if not file.exists():
        pytest.skip("YuNet's weights are not next to the project")
    return file.read_bytes()


@pytest.fixture(scope="session")
def real_photographs():
    """Photographs of people, which are not part of the project."""
    folder = SHARED / "data" / "photos"
    if not folder.exists():
        pytest.skip("the photographs are not next to the project")
    return folder


@dataclass(frozen=True)
class Crowd:
    """A photograph of three faces, and the detector that finds them.

    Attributes:
        weights: The detector's, an ONNX file.
        file: The photograph, a JPEG file of 500 by 375 pixels.
        width: Some of the faces are wider, and some narrower, in pixels.
    """

    weights: bytes
    file: bytes
    width: float


THREE = ((90, 100, 44, 54, 0), (300, 130, 56, 56, 25), (440, 300, 34, 40, -30))
"""Plates that stand for three faces: see ``draw_plates``."""


@pytest.fixture(scope="session", params=["plates", "yunet"])
def crowd(request):
    """Three plates and a network that finds such; where they are at hand, people and YuNet."""
    if request.param == "yunet":
        weights = request.getfixturevalue("yunet")
        folder = request.getfixturevalue("real_photographs")
        file = folder / "dlib" / "examples_faces_2008_002506.jpg"
        return Crowd(weights, file.read_bytes(), width=85)
    buffer = io.BytesIO()
    Image.fromarray(draw_plates((500, 375), THREE)).save(buffer, "JPEG", quality=95)
    return Crowd(plate_detector(), buffer.getvalue(), width=40)


@pytest.fixture(scope="session")
def kuberay_schemas():
    """Schemas of KubeRay 1.7, which are not part of the project."""
    folder = SHARED / "schemas" / "kuberay-1.7.0"
    if not folder.exists():
        pytest.skip("KubeRay's schemas are not next to the project")
    return folder
