"""Fixtures that most tests use: drawn faces and untrained checkpoints."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from fer import storage
from fer.data.synthetic import draw_faces
from fer.models.checkpoint import pack_checkpoint
from fer.models.convnet import build_model


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
    """Return a function that writes an untrained network as a checkpoint."""

    def save(folder, model="shallow", seed=0, **fields):
        torch.manual_seed(seed)
        arguments = {"num_classes": len(fields.get("class_names", range(7))), "dropout": 0.25}
        network = build_model(model, **arguments).eval()
        architecture = {"name": model, "arguments": arguments}
        for name, content in pack_checkpoint(network, architecture, **fields).items():
            storage.write_bytes(storage.join(str(folder), name), content)
        return network

    return save


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


@pytest.fixture(scope="session")
def kuberay_schemas():
    """KubeRay's schemas of its resources, which are not part of the project."""
    folder = SHARED / "schemas"
    if not folder.exists():
        pytest.skip("KubeRay's schemas are not next to the project")
    return folder
