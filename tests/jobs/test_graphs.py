"""Graphs that a checkpoint lacks are made once, by the driver, which also refuses damaged ones."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.checkpoint import load_checkpoint
from ray_jobs import evaluate, label, serve
from ray_jobs.config import EvaluateConfig, LabelConfig, ServeConfig


@pytest.fixture(scope="module")
def lacking(save_network, tmp_path_factory):
    """An ensemble of which one network has no graph."""
    folder = tmp_path_factory.mktemp("ensemble")
    save_network(folder / "0", "conv1", seed=1, with_graph=True)
    save_network(folder / "1", "conv2", seed=2)
    (folder / "config.json").write_text('{"members": ["0", "1"], "weights": [1, 1]}')
    return folder


REPLICA = """
import asyncio, sys
from pathlib import Path
import numpy as np
from ray_jobs.serving.replica import Replica
graph, checkpoint = Path(sys.argv[1]), sys.argv[2]
config = {"checkpoint": checkpoint, "detector": "none"}
replica = Replica(config, None, None, {graph.stem: graph.read_bytes()})
replica.__serve_build_asgi_app__()
probs = asyncio.run(replica.service.classify(np.zeros((3, 48, 48), np.uint8)))
print(len(probs), "torch" in sys.modules)
"""


def test_no_replica_imports_torch_to_make_a_graph(lacking, tmp_path):
    graphs = serve.load_graphs(ServeConfig(checkpoint=str(lacking), detector="none"))
    second = load_checkpoint(str(lacking)).members[1].config.id
    assert list(graphs) == [second]
    graph = tmp_path / f"{second}.onnx"
    graph.write_bytes(graphs[second])
    command = [sys.executable, "-c", REPLICA, str(graph), str(lacking)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "3 False\n"), done.stderr


def test_a_checkpoint_with_its_graphs_needs_no_others():
    assert serve.load_graphs(ServeConfig(detector="none")) == {}


def checks(folder, image):
    """Yield what checks a checkpoint, for each job."""
    data = SimpleNamespace(class_names=EMOTIONS)
    scored = EvaluateConfig(dataset="d", output="o", checkpoint=(str(folder),))
    yield lambda: evaluate._check_checkpoints(scored, data)
    yield lambda: serve.load_graphs(ServeConfig(checkpoint=str(folder), detector="none"))
    flags = {"images": str(image), "detector": "none", "output": "o"}
    yield lambda: label._check(LabelConfig(checkpoint=str(folder), **flags))


def test_a_damaged_graph_is_refused_before_any_process_starts(save_network, faces, png, tmp_path):
    save_network(tmp_path / "net", "conv1", with_graph=True)
    (tmp_path / "face.png").write_bytes(png(faces[0][0]))
    graph = tmp_path / "net" / "graph.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    for check in checks(tmp_path / "net", tmp_path / "face.png"):
        with pytest.raises(InputError, match=r"graph.onnx of conv1-\w+ is damaged; delete it, or"):
            check()
