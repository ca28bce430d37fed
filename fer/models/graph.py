"""A network as a graph of ONNX operators whose weights stay in ``model.safetensors``.

A graph is a few kilobytes, and each weight stands once: ONNX calls such references external data.
Any ONNX runtime can open the file from the checkpoint's folder.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fer.data.synthetic import draw_faces
from fer.errors import InputError, JobError
from fer.models.architectures import build_model
from fer.models.checkpoint import WEIGHTS, Member
from fer.models.networks import build_network
from fer.models.onnx_engine import ID_KEY, INPUT, OUTPUT, OnnxEngine
from fer.models.seal import seal
from fer.models.transforms import PREPROCESSING
from fer.vision.reshape import convert_images
from fer.vision.shape import ImageShape

OPSET = 18

PREFIX = "network."
"""What a graph puts before a weight's name in ``model.safetensors``."""

NUM_CHECKED = 16
"""Drawn faces on which a new graph is compared with its network."""

TOLERANCE = 1e-4
"""Largest allowed difference between a probability of an exported network and the original."""


def make_graph(member: Member) -> bytes:
    """Return the graph of a member's network, checked against the network on drawn faces.

    Raises:
        InputError: The network can't be built, or the packages that make graphs are missing.
        JobError: The graph does not answer as the network does.
    """
    network, config = build_network(member), member.config
    graph = _make(json.dumps(config.architecture), config.shape, config.preprocessing)
    graph = seal(_refer(graph, member))
    _check(replace(member, graph=graph), network)
    return graph


def preprocessed_network(member: Member) -> nn.Module:
    """Return a module that maps images uint8 (N, *shape) to a member's logits float32 (N, C)."""
    return _Preprocessed(build_network(member), member.config.preprocessing)


class _Preprocessed(nn.Module):
    """A network together with what turns images into its input."""

    def __init__(self, network: nn.Module, preprocessing: str) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Map images uint8 (N, *shape) to logits float32 (N, C)."""
        logits: Tensor = self.network(PREPROCESSING[self.preprocessing](images))
        return logits


@cache
def _make(architecture: str, shape: ImageShape, preprocessing: str) -> bytes:
    """Return the graph of an architecture, in JSON, whose weights are nowhere yet."""
    fields = json.loads(architecture)
    network = build_model(fields["name"], shape=shape, **fields["arguments"]).eval()
    graph = export(_Preprocessed(network, preprocessing), shape, OUTPUT, fold=False)
    for tensor in graph.graph.initializer:
        if tensor.name.startswith(PREFIX):
            tensor.ClearField("raw_data")
    serialized: bytes = graph.SerializeToString()
    return serialized


def export(module: nn.Module, shape: ImageShape, output: str, *, fold: bool) -> Any:  # noqa: ANN401 - onnx is untyped
    """Return a module that maps images uint8 (N, *shape.array) to one output as ``ModelProto``.

    Args:
        module: The module, in evaluation mode.
        shape: Shape of the images.
        output: Name of the output.
        fold: Whether to fold batch normalization and other constants into new weights. Without it,
            each weight keeps the module's name of it.

    Raises:
        InputError: The packages that ONNX needs are missing.
    """
    try:
        from onnxscript.optimizer import fold_constants, remove_unused_nodes  # noqa: PLC0415
    except ImportError as error:
        raise InputError(
            "Graphs are made with onnxscript, which is not installed; install fer-on-ray again, "
            "with its dependencies."
        ) from error
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            (torch.zeros(2, *shape.array, dtype=torch.uint8),),
            input_names=[INPUT],
            output_names=[output],
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            optimize=fold,
        )
    assert program is not None
    if not fold:
        # Of what an optimization does, what leaves the weights alone.
        fold_constants(program.model)
        remove_unused_nodes(program.model)
    proto = program.model_proto
    # Descriptions for debuggers, ten times as long as the graph.
    del proto.metadata_props[:]
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return proto


def _refer(graph: bytes, member: Member) -> bytes:
    """Make the weights of a graph references into a member's ``model.safetensors``.

    Weights in half precision get a cast to float32, which is done once, when the graph is opened.
    """
    import onnx  # noqa: PLC0415 - slow, and rarely needed

    proto = onnx.ModelProto.FromString(graph)
    header_size = int.from_bytes(member.weights[:8], "little")
    header = json.loads(member.weights[8 : 8 + header_size])
    casts = []
    for tensor in proto.graph.initializer:
        if not tensor.name.startswith(PREFIX):
            continue
        name, stored = tensor.name, header[tensor.name.removeprefix(PREFIX)]
        if stored["dtype"] == "F16":
            tensor.name, tensor.data_type = f"{name}.half", onnx.TensorProto.FLOAT16
            casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], to=1))
        _set_place(tensor, stored, 8 + header_size)
    # Each operator must come after those whose results it takes.
    nodes = [*casts, *proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.helper.set_model_props(proto, {ID_KEY: member.config.id})
    serialized: bytes = proto.SerializeToString()
    return serialized


def _set_place(tensor: Any, stored: Mapping[str, Any], data_start: int) -> None:  # noqa: ANN401
    """Make an initializer a reference to the bytes of a stored tensor."""
    start, end = stored["data_offsets"]
    place = {"location": WEIGHTS, "offset": data_start + start, "length": end - start}
    tensor.data_location = 1
    for key, value in place.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


@torch.inference_mode()
def _check(member: Member, network: nn.Module) -> None:
    """Compare a graph with its network on drawn faces.

    Raises:
        JobError: A probability differs by more than ``TOLERANCE``.
    """
    faces = convert_images(draw_faces(NUM_CHECKED, seed=0)[0], member.config.shape)
    logits = torch.from_numpy(OnnxEngine(member).logits(faces))
    expected = network(PREPROCESSING[member.config.preprocessing](torch.from_numpy(faces)))
    difference = float((logits.softmax(1) - expected.softmax(1)).abs().max())
    if not difference <= TOLERANCE or not np.isfinite(difference):
        raise JobError(
            f"The graph of {member.config.id} answers other probabilities than its network, by up "
            f"to {difference:.2g}; expected at most {TOLERANCE:g}."
        )
