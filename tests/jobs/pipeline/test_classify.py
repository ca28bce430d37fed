"""The stage that runs networks: its processes and their devices."""

import os
import sys

import numpy as np
import pyarrow as pa
import pytest
import ray
import torch

from fer.data.synthetic import draw_faces
from fer.errors import JobError
from fer.models.checkpoint import load_checkpoint
from fer.models.predictor import Predictor
from fer.vision.shape import FER2013_SHAPE, ImageShape
from ray_jobs.pipeline.classify import Classifier, Inference, classify, images_per_batch


@pytest.mark.parametrize(
    ("shape", "crops_per_image", "number"),
    [(FER2013_SHAPE, 24, 512), (ImageShape(224, 3), 1, 445), (ImageShape(224, 3), 24, 18)],
)
def test_batches_of_large_crops_hold_fewer_images(shape, crops_per_image, number):
    assert images_per_batch(shape, crops_per_image) == number


def test_classifying_processes_keep_the_memory_of_a_batch(cluster, checkpoint):
    # Defined inside the function: Ray would import a module-level class from this file.
    class Reporting:
        batch_size = Classifier.batch_size

        def __init__(self, **_):
            pass

        def __call__(self, images):
            thresholds = [os.environ.get("MALLOC_TRIM_THRESHOLD_")] * len(images)
            return images.append_column("threshold", pa.array(thresholds))

    rows = ray.data.from_items([{"row": row} for row in range(3)])
    inference = Inference((load_checkpoint(str(checkpoint)),), FER2013_SHAPE)
    classified = classify(rows, inference, Reporting).take_all()
    assert [int(row["threshold"]) for row in classified] == [2**28] * 3


def test_a_photograph_without_faces_and_one_with_five_hundred(monkeypatch):
    monkeypatch.setattr(ray, "get", lambda checkpoints: checkpoints)
    monkeypatch.setattr(ray, "get_gpu_ids", list)
    network = load_checkpoint("bundled")
    faces = np.tile(draw_faces(50, seed=3)[0], (10, 1, 1))
    crops = [[], [face.tobytes() for face in faces], None, [faces[1].tobytes()]]
    images = pa.table({"crops": pa.array(crops, pa.list_(pa.binary()))})
    classifier = Classifier((network,), FER2013_SHAPE, "auto", tta=False)
    found = classifier(images)["probs_0"].to_pylist()
    assert list(map(len, found)) == [0, 500, 0, 1]
    expected = Predictor(network, "cpu", num_threads=1).predict_probs(faces)
    np.testing.assert_allclose(found[1], expected, atol=1e-6)
    np.testing.assert_allclose(found[3], expected[1:2], atol=1e-5)
    assert classifier(images[:1])["probs_0"].to_pylist() == [[]]


def test_rejects_a_gpu_that_torch_cannot_use(monkeypatch):
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: [0])
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(JobError, match=r"The node 10\.0\.0\.7 offers a GPU that torch cannot use"):
        Classifier([], FER2013_SHAPE, "auto", tta=False)


def test_all_processes_run_the_network_that_the_job_began_with(cluster, save_network, tmp_path):
    """Processes start throughout a job: late ones do not see a folder that was overwritten."""
    save_network(tmp_path, "conv2", with_graph=True)
    network = load_checkpoint(str(tmp_path))
    faces, _ = draw_faces(4, seed=3)
    crops = pa.array([[face.tobytes()] for face in faces], pa.list_(pa.binary()))
    classified = classify(
        ray.data.from_arrow(pa.table({"crops": crops})), Inference((network,), FER2013_SHAPE)
    )
    save_network(tmp_path, "conv2", seed=5)
    found = np.array([row["probs_0"][0] for row in classified.take_all()])
    np.testing.assert_allclose(found, Predictor(network).predict_probs(faces), atol=1e-5)


def test_a_process_on_a_processor_imports_no_torch(cluster, checkpoint):
    class Reporting(Classifier):
        def __call__(self, images):
            classified = super().__call__(images)
            loaded = [",".join({"torch", "onnxruntime"} & {*sys.modules})] * len(images)
            return classified.append_column("loaded", pa.array(loaded))

    crops = [[face.tobytes()] for face in draw_faces(2, seed=3)[0]]
    rows = ray.data.from_arrow(pa.table({"crops": pa.array(crops, pa.list_(pa.binary()))}))
    network = load_checkpoint(str(checkpoint))
    classified = classify(rows, Inference((network,), FER2013_SHAPE), Reporting).take_all()
    found = {(row["loaded"], row["engine"]) for row in classified}
    assert found == {("onnxruntime", "float32")}
