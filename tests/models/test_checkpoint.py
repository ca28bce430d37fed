import json
import math

import numpy as np
import pytest
import torch

from fer.data.emotions import EMOTIONS
from fer.errors import InputError
from fer.models.checkpoint import check_classes, load_checkpoint, read_config
from fer.models.networks import load_networks
from fer.models.predictor import Predictor


def edit(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_loads_the_network_that_was_saved(tmp_path, save_network):
    network = save_network(tmp_path, "deep", scores={"val_accuracy": 0.5})
    config = read_config(str(tmp_path))
    assert config.id.startswith("deep-")
    assert (config.parameters, config.class_names) == (4_474_759, EMOTIONS)
    assert config.scores == {"val_accuracy": 0.5}
    images = torch.rand(3, 1, 48, 48)
    with torch.inference_mode():
        assert torch.equal(load_networks(str(tmp_path))[0](images), network(images))


def test_an_ensemble_averages_its_members_by_weight(tmp_path, save_network, faces):
    images = faces[0]
    save_network(tmp_path / "a", seed=1)
    save_network(tmp_path / "b", "conv1", seed=2)
    ensemble = {"members": ["a", "b"], "weights": [3, 1], "class_names": EMOTIONS}
    (tmp_path / "config.json").write_text(json.dumps(ensemble))
    a, b, both = (
        Predictor.load(str(folder)).predict_probs(images)
        for folder in (tmp_path / "a", tmp_path / "b", tmp_path)
    )
    np.testing.assert_allclose(both, 0.75 * a + 0.25 * b, atol=1e-6)
    loaded = load_checkpoint(str(tmp_path))
    assert loaded.id == "+".join(read_config(str(tmp_path / name)).id for name in "ab")
    assert loaded.class_names == EMOTIONS


def test_temperature_divides_the_logits(tmp_path, save_network, faces):
    save_network(tmp_path / "plain")
    save_network(tmp_path / "hot", temperature=2.0)
    plain, hot = (
        Predictor.load(str(tmp_path / name)).predict_probs(faces[0]) for name in ("plain", "hot")
    )
    expected = np.sqrt(plain)
    np.testing.assert_allclose(hot, expected / expected.sum(axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"schema_version": 2, "shears": 1}, "later version .* is 2, and this version reads 1"),
        ({"schema_version": 2, "architecture": None}, "install the version that wrote it, or a"),
        ({"schema_version": 0}, "has the schema_version 0; this version supports 1"),
        ({"image_size": 225}, "has the image_size 225; this version supports 24 to 224"),
        ({"channels": 2}, "has the channels 2; this version supports 1 and 3"),
        ({"architecture": "deep"}, "expected an object with a name as archi"),
        ({"temperature": 0}, "has the temperature 0; expected a finite number above 0"),
        ({"temperature": math.inf}, "has the temperature inf; expected a finite number above 0"),
        ({"temperature": math.nan}, "has the temperature nan; expected a finite number above 0"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_rejects_checkpoints_that_this_version_cannot_run(tmp_path, save_network, fields, sentence):
    save_network(tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(InputError, match=sentence) as caught:
        load_checkpoint(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"preprocessing": "none"}, "the preprocessing 'none'; this version supports standardize"),
        ({"architecture": {"name": "wide", "arguments": {}}}, "the network 'wide'; this version"),
        ({"architecture": {"name": "deep", "arguments": {"wings": 2}}}, "can't build: .*wings"),
        ({"architecture": {"name": "deep", "arguments": {"activation": "x"}}}, "can't build: 'x'"),
        ({"architecture": {"name": "deep", "arguments": {}}}, "do not fit a deep network of 7"),
    ],
)
def test_rejects_networks_that_this_version_cannot_build(tmp_path, save_network, fields, sentence):
    save_network(tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(InputError, match=sentence) as caught:
        load_networks(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_rejects_weights_that_are_damaged_or_of_another_network(tmp_path, save_network):
    save_network(tmp_path / "a")
    save_network(tmp_path / "b", "deep")
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="a/model.safetensors"):
        load_checkpoint(str(tmp_path / "a"))
    damaged = bytearray((tmp_path / "b" / "model.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "b" / "model.safetensors").write_bytes(damaged)
    with pytest.raises(InputError, match="b/model.safetensors is damaged or belongs to another"):
        load_checkpoint(str(tmp_path / "b"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="a/model.safetensors"):
        load_checkpoint(str(tmp_path / "a"))
    weights.unlink()
    with pytest.raises(InputError, match="a/model.safetensors"):
        load_checkpoint(str(tmp_path / "a"))


def test_rejects_folders_that_are_not_checkpoints(tmp_path):
    with pytest.raises(InputError, match="is not a checkpoint; expected a folder with config.json"):
        load_checkpoint(str(tmp_path))


def test_rejects_other_classes():
    with pytest.raises(InputError, match="has the classes cat, dog, but expected angry"):
        check_classes("runs/deep", ("cat", "dog"), EMOTIONS)
