"""A checkpoint as ONNX: the same answers from a runtime that knows nothing of this package."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest

from fer import Predictor
from fer.data.dataset import open_dataset
from fer.data.synthetic import draw_faces
from fer.models import onnx


def answers(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (probs,) = session.run(["probabilities"], {"images": images})
    return session.get_modelmeta().custom_metadata_map, probs


def test_onnx_answers_as_the_checkpoint_does(fer, checkpoint, tmp_path):
    output = tmp_path / "exported"
    run = fer("export", "--checkpoint", checkpoint, "--output", output)
    assert run.result["model"] == f"{output}/model.onnx"
    images, _ = draw_faces(70, seed=9)
    predictor = Predictor.load(str(checkpoint), engine="float32")
    told, probs = answers(output / "model.onnx", images)
    np.testing.assert_allclose(probs, predictor.predict_probs(images), atol=1e-5)
    assert answers(output / "model.onnx", images[:1])[1].shape == (1, 7)
    assert (told["id"], json.loads(told["class_names"])) == (
        predictor.id,
        list(predictor.class_names),
    )
    summary = json.loads((output / "summary.json").read_text())
    assert summary["largest_difference"] < 1e-4
    run = fer("export", "--checkpoint", checkpoint, "--output", output)
    assert (run.code, "already holds a result" in run.sentence) == (2, True)


@pytest.mark.slow
def test_an_ensemble_is_one_file(fer, save_network, tmp_path):
    for name, seed, preprocessing in (("0", 1, "standardize"), ("1", 2, "equalize")):
        save_network(tmp_path / "both" / name, "conv1", seed=seed, preprocessing=preprocessing)
    (tmp_path / "both" / "config.json").write_text('{"members": ["0", "1"], "weights": [3, 1]}')
    output = tmp_path / "exported"
    fer("export", "--checkpoint", tmp_path / "both", "--output", output)
    images, _ = draw_faces(20, seed=9)
    expected = Predictor.load(str(tmp_path / "both"), engine="float32").predict_probs(images)
    np.testing.assert_allclose(answers(output / "model.onnx", images)[1], expected, atol=1e-5)


def test_a_file_that_answers_otherwise_is_not_written(fer, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    run = fer("export", "--checkpoint", checkpoint, "--output", tmp_path / "exported")
    assert (run.code, "The exported network's probabilities differ" in run.sentence) == (1, True)
    assert [path.name for path in (tmp_path / "exported").iterdir()] == ["job.json"]


def test_int8_is_calibrated_on_a_dataset(fer, checkpoint, dataset, tmp_path):
    output = tmp_path / "exported"
    run = fer("export", "--checkpoint", checkpoint, "--int8", dataset, "--output", output)
    scores = run.result["int8"]
    assert scores["num_images"] == len(open_dataset(str(dataset)).read_split("val"))
    shutil.copytree(checkpoint, tmp_path / "network")
    shutil.copy(output / "graph.int8.onnx", tmp_path / "network")
    images, _ = draw_faces(70, seed=9)
    float32, int8 = (
        Predictor.load(str(tmp_path / "network"), "cpu", engine).predict_probs(images)
        for engine in ("float32", "int8")
    )
    assert 0 < np.abs(int8 - float32).max() < 0.05
    assert (scores["is_proven"], scores["agreement"] > 0.9) == (scores["agreement"] >= 0.98, True)


def test_int8_of_an_ensemble_is_refused(fer, save_network, dataset, tmp_path):
    for name in "01":
        save_network(tmp_path / "both" / name, "conv1")
    (tmp_path / "both" / "config.json").write_text('{"members": ["0", "1"], "weights": [3, 1]}')
    flags = ("--checkpoint", tmp_path / "both", "--int8", dataset, "--output", tmp_path / "out")
    run = fer("export", *flags)
    assert (run.code, run.sentence) == (
        2,
        f"--int8 takes a single network, but {tmp_path}/both is an ensemble; export its members "
        f"one by one, such as {tmp_path}/both/0.",
    )
