"""Trainings that start from another network, or learn from one."""

import re

import numpy as np
import pytest
from trainings import FAST, history

from fer import Predictor
from fer.data.dataset import open_dataset
from fer.errors import JobError
from fer.models.checkpoint import read_config
from ray_jobs.config import TrainConfig
from ray_jobs.training import worker


@pytest.mark.slow
def test_training_starts_from_a_checkpoint(fer, trained, dataset, tmp_path):
    start = ("--from-checkpoint", trained["1"][0])
    command = ("train", "--dataset", dataset, "--output", tmp_path / "run")
    run = fer(*command, *start, "--model", "deep")
    assert (run.code, "was trained with --model conv2, not deep; use the same" in run.sentence) == (
        2,
        True,
    )
    assert fer(*command, *start, *FAST, "--num-epochs", "1").code == 0
    assert history(tmp_path / "run")[0]["train_loss"] < history(trained["1"][0])[0]["train_loss"]


@pytest.mark.nightly
@pytest.mark.slow
def test_training_learns_from_a_teacher(fer, trained, dataset, sources, tmp_path):
    """The network of a fixture says what is learned, in place of the labels."""
    teacher, output = trained["1"][0], tmp_path / "run"
    taught = ("train", "--dataset", dataset, "--teacher", teacher, "--teacher-weight", "1")
    # Each of two workers asks about its half.
    run = fer(*taught, "--output", output, *FAST, "--num-workers", "2")
    assert run.code == 0, run.sentence
    images = open_dataset(str(dataset)).read_split("train").images
    told = Predictor.load(str(teacher)).predict_probs(images, tta=True)
    least = -(told * np.log(told)).sum(axis=1).mean()  # their entropy: no network gets below it
    losses = [epoch["train_loss"] for epoch in history(output)]
    assert losses[0] > losses[1] > least
    events = sorted(path.name for path in (output / "tensorboard").iterdir())
    assert events == [f"events.out.tfevents.00000{epoch}.fer" for epoch in (1, 2)]
    run = fer(*taught, "--output", output, *FAST, "--resume", "--teacher", trained["2"][0])
    assert (run.code, "was started with --teacher " in run.sentence) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "memory_limit",
    [
        pytest.param("4", id="in memory", marks=pytest.mark.nightly),
        pytest.param("0", id="streamed"),
    ],
)
def test_a_residual_network_learns_from_a_teacher_of_augmented_images(
    fer, trained, dataset, tmp_path, memory_limit
):
    """Two workers, every part of the augmentation, and a checkpoint that exports and resumes."""
    teacher, _ = trained["1"]
    output, images = tmp_path / "taught", open_dataset(str(dataset)).read_split("val").images
    arguments = ("--model", "resnet6-w32", "--num-epochs", "2", "--batch-size", "32")
    arguments += ("--erase-fraction", "0.5", "--mixup", "0.2", "--memory-limit", memory_limit)
    arguments += ("--teacher", teacher, "--teacher-view", "augmented", "--num-workers", "2")
    run = fer("train", "--dataset", dataset, "--output", output, *arguments)
    assert run.result["id"].startswith("resnet6-w32-")
    first, second = history(output)
    assert second["train_loss"] < first["train_loss"]
    exported = fer("export", "--checkpoint", output, "--output", tmp_path / "onnx")
    assert exported.code == 0
    probs = Predictor.load(str(output)).predict_probs(images)
    assert probs.shape == (len(images), 7)
    again = fer("train", "--dataset", dataset, "--output", output, *arguments, "--resume")
    assert again.result["id"] == run.result["id"]


def test_a_checkpoint_that_is_replaced_while_it_is_used(save_network, monkeypatch, tmp_path):
    monkeypatch.setattr(worker.ray_train, "get_checkpoint", lambda: None)
    save_network(tmp_path / "net", seed=1)
    teacher = read_config(str(tmp_path / "net")).id
    config = TrainConfig(dataset="d", output="o", teacher=str(tmp_path / "net"))
    worker._check_unchanged(config, {"dataset": "d", "teacher": teacher})
    save_network(tmp_path / "net", seed=2)
    with pytest.raises(JobError, match=f"was {teacher} when the job started and is shallow-"):
        worker._check_unchanged(config, {"dataset": "d", "teacher": teacher})


def test_a_teacher_of_other_classes(fer, trained, other_dataset, tmp_path):
    counts = {split: {"joyful": 30, "sad": 20} for split in ("train", "val")}
    data = other_dataset(class_names=["joyful", "sad"], counts=counts)
    command = ("train", "--dataset", data, "--output", tmp_path / "run", "--batch-size", "16")
    run = fer(*command, "--teacher", trained["1"][0])
    assert (run.code, "expected joyful, sad; choose a checkpoint" in run.sentence) == (2, True)


@pytest.mark.slow
def test_a_network_is_tuned_to_a_user_s_own_classes(fer, trained, sources, tmp_path):
    """Three folders of the archive under names of the user's, the others rejected."""
    data, output, labels = tmp_path / "data", tmp_path / "run", tmp_path / "labels"
    ingest = ("ingest", "--source", sources / "faces.zip", "--output", data)
    classes = ("--classes", "joyful=happy", "sad", "astonished=surprise")
    run = fer(*ingest, *classes)
    assert run.code == 1
    assert re.search(r"no class folder \(\d+\); .*/faces.zip!/\S+: no folder of '", run.sentence)
    assert fer(*ingest, *classes, "--max-reject-fraction", "0.9", "--overwrite").code == 0
    assert open_dataset(str(data)).class_names == ("joyful", "sad", "astonished")
    start = ("--from-checkpoint", trained["1"][0])
    assert fer("train", "--dataset", data, "--output", output, *start, *FAST).code == 0
    assert read_config(str(output)).class_names == ("joyful", "sad", "astonished")
    label = ("label", "--images", sources / "faces.zip", "--detector", "none")
    assert fer(*label, "--checkpoint", output, "--output", labels).result["images"] == 280
    report = ("--checkpoint", output, "--output", tmp_path / "report")
    (scored,) = fer("evaluate", "--dataset", data, *report).result["checkpoints"]
    assert scored["accuracy"] == pytest.approx(
        read_config(str(output)).scores["val_accuracy"], abs=0.05
    )
