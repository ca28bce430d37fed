import json

import numpy as np
import pytest

from fer import storage
from fer.errors import InputError
from fer.models.checkpoint import load_checkpoint, read_id
from fer.models.ensemble import combine_probs, ensemble_files, fusion_weights, top1_accuracy


def members(labels, *accuracies, confidence=0.9):
    """Probabilities of members that are right about the first examples, as their accuracy says."""
    probs = np.full((len(labels), len(accuracies), 7), (1 - confidence) / 6, np.float32)
    for member, accuracy in enumerate(accuracies):
        is_right = np.arange(len(labels)) < accuracy * len(labels)
        preds = np.where(is_right, labels, (labels + 1 + member) % 7)
        probs[np.arange(len(labels)), member, preds] = confidence
    return probs


@pytest.fixture
def labels():
    return np.arange(100) % 7


def test_average_gives_members_equal_weights(labels):
    probs = members(labels, 0.9, 0.5)
    assert fusion_weights(probs, labels, "average").tolist() == [0.5, 0.5]
    np.testing.assert_allclose(
        combine_probs(probs, np.array([1.0, 1.0])), probs.mean(axis=1), rtol=1e-6
    )


def test_exponential_weights_favor_accurate_members_if_that_helps(labels):
    # The two weak members make the same mistakes and outvote the strong one.
    probs = members(labels, 0.9, 0.5, 0.5)
    probs[:, 2] = probs[:, 1]
    weights = fusion_weights(probs, labels, "exponential")
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.5 > weights[1] == weights[2]
    equal = fusion_weights(probs, labels, "average")
    assert top1_accuracy(combine_probs(probs, weights), labels) == 0.9
    assert top1_accuracy(combine_probs(probs, equal), labels) == 0.5


def test_exponential_weights_are_equal_if_they_do_not_help(labels):
    weights = fusion_weights(members(labels, 0.9, 0.9), labels, "exponential")
    assert weights.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "wrong",
    [
        {"weights": None},
        {"weights": [1]},
        {"weights": [0, 0]},
        {"weights": [1, -1]},
        {"members": []},
        {"members": [".", "0"]},
        {"members": ["../0", "0"]},
        {"schema_version": 0},
    ],
)
def test_rejects_invalid_ensembles(tmp_path, save_network, wrong):
    save_network(tmp_path / "0")
    config = {"schema_version": 1, "members": ["0", "0"], "weights": [1, 1], **wrong}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"config\.json is not the configuration of an ensemble; expected"
    ):
        load_checkpoint(str(tmp_path))


def test_rejects_an_ensemble_of_a_later_version(tmp_path, save_network):
    save_network(tmp_path / "0")
    config = {"schema_version": 2, "members": {"0": {"share": 1}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="was written by a later version of fer-on-ray"):
        load_checkpoint(str(tmp_path))


def test_an_ensemble_in_an_ensemble_divides_its_share(tmp_path, save_network):
    for seed, name in enumerate("abc"):
        save_network(tmp_path / name, seed=seed)
    for folder, of, weights in (("pair", "ab", [0.5, 0.5]), ("all", ("pair", "c"), [0.8, 0.2])):
        for name, content in ensemble_files([str(tmp_path / each) for each in of], weights):
            storage.write_bytes(str(tmp_path / folder / name), content)
    loaded = load_checkpoint(str(tmp_path / "all"))
    assert [member.share for member in loaded.members] == pytest.approx([0.4, 0.4, 0.2])
    alone = [load_checkpoint(str(tmp_path / name)).id for name in "abc"]
    assert [config.id for config in loaded.configs] == alone
    assert loaded.id.startswith("ensemble-")
    assert read_id(str(tmp_path / "all")) == loaded.id
    assert json.loads((tmp_path / "all" / "config.json").read_text())["members"] == ["0", "1"]
