import re

import numpy as np
import pytest
import torch

from fer import Predictor, storage
from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.ensemble import ensemble_files
from fer.models.shipped import SHIPPED
from fer.models.transforms import equalize
from fer.vision.decode import ImageError
from fer.vision.reshape import convert_images
from fer.vision.shape import ImageShape


@pytest.fixture(scope="module")
def predictor(tmp_path_factory, save_network):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_network(folder)
    return Predictor.load(str(folder), engine="float32")


def test_arrays_bytes_and_paths_of_a_face_agree(predictor, faces, png, tmp_path):
    face = faces[0][0]
    (tmp_path / "face.png").write_bytes(png(face))
    answers = predictor.predict(
        [face, png(face), tmp_path / "face.png", str(tmp_path / "face.png")]
    )
    assert len({answer.emotion for answer in answers}) == 1
    assert np.ptp([answer.confidence for answer in answers]) < 1e-6
    assert list(answers[0].probabilities) == list(EMOTIONS)
    assert sum(answers[0].probabilities.values()) == pytest.approx(1)
    assert max(answers[0].probabilities.values()) == answers[0].confidence


def test_probabilities_do_not_depend_on_the_batch(predictor, faces):
    images = np.concatenate([faces[0]] * 3)
    probs = predictor.predict_probs(images)
    assert (probs.shape, probs.dtype) == ((180, 7), np.float32)
    np.testing.assert_allclose(probs[150], predictor.predict_probs(images[150:151])[0], atol=1e-5)


def test_tta_is_the_mean_of_an_image_and_its_mirror_image(predictor, faces):
    images = faces[0]
    mean = (predictor.predict_probs(images) + predictor.predict_probs(images[:, :, ::-1])) / 2
    np.testing.assert_allclose(predictor.predict_probs(images, tta=True), mean, atol=1e-6)


def test_predictor_uses_the_preprocessing_of_the_checkpoint(save_network, faces, tmp_path):
    network = save_network(tmp_path / "net", preprocessing="equalize")
    images = torch.tensor(faces[0])
    with torch.inference_mode():
        expected = network(equalize(images)).softmax(dim=1)
    probs = Predictor.load(str(tmp_path / "net"), engine="float32").predict_probs(faces[0])
    np.testing.assert_allclose(probs, expected, atol=1e-5)


def test_members_of_different_shapes_see_the_same_faces(save_network, faces, tmp_path):
    shapes = (ImageShape(48), ImageShape(32, 3))
    folders = [str(tmp_path / str(number)) for number in range(2)]
    for folder, shape in zip(folders, shapes, strict=True):
        save_network(folder, "resnet4-w32", shape=shape, with_graph=True)
    for name, content in ensemble_files(folders, (3, 1)):
        storage.write_bytes(str(tmp_path / "both" / name), content)
    ensemble = Predictor.load(str(tmp_path / "both"), engine="float32")
    assert ensemble.shape == ImageShape(48, 3)
    tint = np.array([1.0, 0.8, 0.6])
    images = (faces[0][:8, ..., None] * tint).astype(np.uint8)
    gray, color = (
        Predictor.load(folder, engine="float32").predict_probs(convert_images(images, shape))
        for folder, shape in zip(folders, shapes, strict=True)
    )
    expected = 0.75 * gray + 0.25 * color
    np.testing.assert_allclose(ensemble.predict_probs(images), expected, atol=1e-6)


KINDS = {"bundled": "resnet10-w48", "paper-deep": "deep"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_and_described(name):
    folder, predictor = SHIPPED[name], Predictor.load(name)
    (config,) = predictor.checkpoint.configs
    assert (folder / "README.md").read_text().startswith(f"# Model card: {config.id}\n")
    assert config.architecture["name"] == KINDS[name]
    # Weights in half precision, and an int8 form.
    assert sum(file.stat().st_size for file in folder.iterdir()) < 14e6
    assert not re.search(r"(^|[\"\s])/\w", (folder / "config.json").read_text())


def test_all_shipped_weights_together_are_small():
    files = [file for folder in {*SHIPPED.values()} for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in files) < 25e6


def test_predicts_nothing_from_no_images(predictor):
    assert predictor.predict([]) == []
    assert predictor.predict_probs(np.empty((0, 48, 48), np.uint8)).shape == (0, 7)


def test_rejects_inputs_that_are_not_faces(predictor):
    with pytest.raises(
        InputError, match=r"uint8 array of shape \(48, 48\), but found float64 \(2, 2\)"
    ):
        predictor.predict([np.zeros((2, 2))])
    with pytest.raises(ImageError, match="can't be decoded"):
        predictor.predict([b"junk"])


def test_rejects_missing_checkpoints(tmp_path):
    with pytest.raises(InputError, match="is not a checkpoint"):
        Predictor.load(str(tmp_path))
