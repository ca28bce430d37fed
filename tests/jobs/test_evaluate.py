"""Checkpoints and a dataset to a report."""

import base64
import json
import re
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from fer import Predictor
from fer.data.dataset import open_dataset
from fer.data.emotions import EMOTIONS
from fer.models.ensemble import fusion_weights
from fer.vision.conditions import degrade
from ray_jobs import evaluate
from ray_jobs.config import EvaluateConfig


@pytest.fixture(scope="module")
def networks(save_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_network(folder / "a", "conv1", seed=1, with_graph=True)
    save_network(folder / "b", "conv2", seed=2, with_graph=True)
    return folder / "a", folder / "b"


@pytest.fixture(scope="module")
def report(cluster, dataset, networks, tmp_path_factory):
    output = tmp_path_factory.mktemp("report") / "report"
    evaluate.run(
        EvaluateConfig(
            dataset=str(dataset),
            checkpoint=tuple(map(str, networks)),
            output=str(output),
            tta=True,
            ensemble=True,
            robustness=True,
        )
    )
    return output


def test_predictions_of_every_example_are_the_predictor_s(report, dataset, networks):
    val = open_dataset(str(dataset)).read_split("val")
    table = pq.read_table(report / "predictions")
    assert len(table) == 3 * len(val)
    rows = {(row["checkpoint"], row["source"]): row for row in table.to_pylist()}
    predictors = [Predictor.load(str(folder), engine="float32") for folder in networks]
    a, b = (predictor.predict_probs(val.images, tta=True) for predictor in predictors)
    for name, probs in (("conv1-a", a), ("conv2-b", b), ("ensemble", (a + b) / 2)):
        found = [rows[name, source] for source in val.sources]
        np.testing.assert_allclose([row["probabilities"] for row in found], probs, atol=1e-5)
        assert [row["label"] for row in found] == val.labels.tolist()
        assert [row["emotion"] for row in found] == [EMOTIONS[label] for label in val.labels]


def test_an_ensemble_is_a_checkpoint_of_its_own(report, dataset, networks):
    val = open_dataset(str(dataset)).read_split("val")
    ensemble = Predictor.load(str(report / "ensemble"), engine="float32")
    predictors = [Predictor.load(str(folder), engine="float32") for folder in networks]
    members = [predictor.predict_probs(val.images) for predictor in predictors]
    np.testing.assert_allclose(
        ensemble.predict_probs(val.images), np.mean(members, axis=0), atol=1e-5
    )
    listed = json.loads((report / "report.json").read_text())["checkpoints"][-1]
    assert (listed["name"], listed["id"]) == ("ensemble", ensemble.id)


def test_scores_are_those_of_scikit_learn(report):
    scores = json.loads((report / "report.json").read_text())
    table = pq.read_table(report / "predictions").to_pylist()
    for checkpoint in scores["checkpoints"]:
        rows = [row for row in table if row["checkpoint"] == checkpoint["name"]]
        truth, predicted = zip(*[(row["emotion"], row["predicted"]) for row in rows], strict=True)
        assert checkpoint["accuracy"]["value"] == pytest.approx(accuracy_score(truth, predicted))
        macro = f1_score(truth, predicted, labels=EMOTIONS, average="macro", zero_division=0)
        assert checkpoint["macro_f1"] == pytest.approx(macro)
        matrix = confusion_matrix(truth, predicted, labels=EMOTIONS)
        assert checkpoint["confusion"] == matrix.tolist()


def test_the_report_names_what_each_network_costs(report):
    listed = json.loads((report / "report.json").read_text())["checkpoints"]
    costs = {item["name"]: (item["parameters"], item["multiply_adds"]) for item in listed}
    # Of a convolution, a hidden layer and an output layer; of one more convolution.
    conv1 = 48**2 * 48 * 9 + 24**2 * 48 * 256 + 256 * 7
    conv2 = 48**2 * 48 * 9 + 24**2 * 48 * 96 * 9 + 12**2 * 96 * 256 + 256 * 7
    assert costs["conv1-a"][1] == conv1
    assert costs["conv2-b"][1] == conv2
    both = tuple(map(sum, zip(costs["conv1-a"], costs["conv2-b"], strict=True)))
    assert costs["ensemble"] == both
    assert all(item["images_per_second"] > 0 for item in listed)
    page = (report / "index.html").read_text()
    assert f"{costs['conv1-a'][0]:,}" in page
    assert (report / "pictures" / "cost.png").exists()


def test_the_networks_are_scored_on_degraded_faces_too(report, dataset, networks):
    *listed, ensemble = json.loads((report / "report.json").read_text())["checkpoints"]
    assert ensemble["robustness"] == []
    val = open_dataset(str(dataset)).read_split("val")
    views = [
        [image, *degrade(image, digest)]
        for image, digest in zip(val.images, val.digests, strict=True)
    ]
    for checkpoint, folder in zip(listed, networks, strict=True):
        predictor = Predictor.load(str(folder), engine="float32")
        scores = checkpoint["robustness"]
        assert scores[0]["accuracy"] == checkpoint["without_copies"]["accuracy"]["value"]
        for condition, images in zip(scores, map(np.stack, zip(*views, strict=True)), strict=True):
            probs = predictor.predict_probs(images, tta=True)
            right = np.mean(probs.argmax(axis=1) == val.labels)
            assert condition["accuracy"] == pytest.approx(right, abs=0.02)
            assert condition["confidence"] == pytest.approx(probs.max(axis=1).mean(), abs=1e-4)
    page = (report / "index.html").read_text()
    assert page.count("<td>face width: 16 pixels</td>") == 2
    assert {"conditions.png", "robustness.png"} <= {
        path.name for path in (report / "pictures").iterdir()
    }


def scores_of(rows):
    truth, predicted = zip(*[(row["emotion"], row["predicted"]) for row in rows], strict=True)
    present = sorted(set(truth))
    macro = f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    return len(rows), accuracy_score(truth, predicted), macro


@pytest.mark.slow
def test_scores_are_also_those_without_copies_of_train(
    fer, dataset_with_copies, networks, tmp_path
):
    output = tmp_path / "report"
    flags = ("--ensemble", "--fusion", "exponential", "--output", output)
    run = fer("evaluate", "--dataset", dataset_with_copies, "--checkpoint", *networks, *flags)
    report = json.loads((output / "report.json").read_text())
    assert report["copies_of_train"] == 16
    table = pq.read_table(output / "predictions").to_pylist()
    copies = open_dataset(str(dataset_with_copies)).copies_of_train("val")
    assert all(row["copy_of_train"] == (row["sha256"] in copies) for row in table)
    for listed, printed in zip(report["checkpoints"], run.result["checkpoints"], strict=True):
        rows = [row for row in table if row["checkpoint"] == listed["name"]]
        rest = [row for row in rows if not row["copy_of_train"]]
        assert (len(rows), len(rest)) == (56, 40)
        for block, group in ((listed, rows), (listed["without_copies"], rest)):
            found = block["num_examples"], block["accuracy"]["value"], block["macro_f1"]
            assert found == pytest.approx(scores_of(group))
        _, *expected = scores_of(rest)
        found = printed["accuracy_without_copies"], printed["macro_f1_without_copies"]
        assert found == pytest.approx(tuple(expected))
    assert "16 of 56 images are also in train" in (output / "index.html").read_text()
    # The weights of the ensemble are those of the other images.
    val = open_dataset(str(dataset_with_copies)).read_split("val")
    rest = np.array([digest not in copies for digest in val.digests])
    predictors = [Predictor.load(str(folder), engine="float32") for folder in networks]
    probs = np.stack([predictor.predict_probs(val.images) for predictor in predictors], axis=1)
    weights = fusion_weights(probs[rest], val.labels[rest], "exponential")
    assert report["weights"] == pytest.approx(weights.tolist())


def test_without_copies_both_scores_are_equal(report):
    listed = json.loads((report / "report.json").read_text())
    assert listed["copies_of_train"] == 0
    for checkpoint in listed["checkpoints"]:
        rest = checkpoint["without_copies"]
        assert rest == {name: checkpoint[name] for name in rest}
    assert "also in train" not in (report / "index.html").read_text()


@pytest.mark.slow
def test_train_is_no_copy_of_itself(fer, dataset, networks, tmp_path):
    flags = ("--split", "train", "--output", tmp_path / "report")
    run = fer("evaluate", "--dataset", dataset, "--checkpoint", networks[0], *flags)
    (scores,) = run.result["checkpoints"]
    assert scores["accuracy"] == scores["accuracy_without_copies"]
    assert json.loads((tmp_path / "report" / "report.json").read_text())["copies_of_train"] == 0


def test_the_page_opens_from_disk(report):
    page = (report / "index.html").read_text()
    pictures = re.findall(r'<img[^>]*src="data:image/png;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img") >= 6
    kept = {path.read_bytes() for path in (report / "pictures").glob("*.png")}
    assert {base64.b64decode(picture) for picture in pictures} <= kept
    assert not re.search(r'(src|href)="(https?:)?//', page)
    assert "56.31" in page
    assert "65.55" in page


def test_a_checkpoint_of_other_classes(fer, dataset, save_network, tmp_path):
    save_network(tmp_path / "pets", class_names=("cat", "dog"))
    arguments = ("evaluate", "--dataset", dataset, "--output", tmp_path / "report")
    run = fer(*arguments, "--checkpoint", tmp_path / "pets")
    assert run.code == 2
    assert "has the classes cat, dog, but expected angry, disgust" in run.sentence
    assert not (tmp_path / "report").exists()


def test_what_is_no_checkpoint_or_no_ensemble(fer, dataset, networks, tmp_path):
    arguments = ("evaluate", "--dataset", dataset, "--output", tmp_path / "report")
    run = fer(*arguments, "--checkpoint", tmp_path)
    assert (run.code, "is not a checkpoint" in run.sentence) == (2, True)
    run = fer(*arguments, "--checkpoint", networks[0], "--ensemble")
    assert (run.code, "--ensemble averages several checkpoints" in run.sentence) == (2, True)


def test_weights_that_are_damaged_are_one_sentence(fer, dataset, save_network, tmp_path):
    save_network(tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").write_bytes(b"junk")
    arguments = ("--checkpoint", tmp_path / "net", "--output", tmp_path / "report")
    run = fer("evaluate", "--dataset", dataset, *arguments)
    assert (run.code, "model.safetensors is damaged" in run.sentence) == (2, True)
    assert not (tmp_path / "report" / "report.json").exists()


def test_names_hold_the_whole_name_of_the_architecture(dataset, save_network, tmp_path):
    save_network(tmp_path / "a", "resnet10-w32")
    save_network(tmp_path / "resnet10-w48", "resnet10-w48")
    checkpoints = (str(tmp_path / "a"), str(tmp_path / "resnet10-w48"))
    config = EvaluateConfig(dataset="d", output="o", checkpoint=checkpoints)
    named = evaluate._check_checkpoints(config, open_dataset(str(dataset)))
    assert list(named) == ["resnet10-w32-a", "resnet10-w48"]


def test_long_names_of_checkpoints_fit_into_those_of_pictures(save_network, tmp_path):
    folders = [tmp_path / ("あ" * 80 + end) for end in ("x", "y")]
    for seed, folder in enumerate(folders):
        save_network(folder, "shallow", seed=seed)
    config = EvaluateConfig(dataset="d", output="o", checkpoint=tuple(map(str, folders)))
    named = evaluate._check_checkpoints(config, SimpleNamespace(class_names=EMOTIONS))
    assert list(named) == ["shallow-" + "あ" * 33, "shallow-" + "あ" * 33 + "-2"]


def test_no_two_checkpoints_have_one_name(dataset, save_network, tmp_path):
    """The number that one would get is the folder of another."""
    folders = [tmp_path / name for name in ("x/a", "2", "y/a", "z/a")]
    for seed, folder in enumerate(folders):
        save_network(folder, "shallow", seed=seed)
    config = EvaluateConfig(
        dataset="d", output="o", checkpoint=tuple(map(str, (tmp_path / "x/a-2", *folders)))
    )
    save_network(tmp_path / "x/a-2", "shallow", seed=9)
    named = evaluate._check_checkpoints(config, open_dataset(str(dataset)))
    assert list(named) == ["shallow-a-2", "shallow-a", "shallow-2", "shallow-a-3", "shallow-a-4"]
    assert list(named.values()) == list(config.checkpoint)
