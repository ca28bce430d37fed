"""A run, without the processes that it is divided among."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipes import CPU, RECIPE

from fer.data.dataset import Examples
from fer.data.synthetic import draw_faces
from fer.errors import JobError
from fer.models import imagenet
from fer.models.architectures import build_model
from fer.models.networks import pack_checkpoint
from fer.models.transforms import PREPROCESSING, AugmentationSettings
from fer.training.batches import DeviceExamples, InMemoryBatches
from fer.training.run import Run
from fer.vision.shape import ImageShape


@pytest.mark.parametrize(
    ("bfloat16", "remedy"), [(False, "a lower --lr"), (True, "a lower --lr or --precision float32")]
)
def test_weights_that_explode_in_the_last_step(faces, bfloat16, remedy):
    """The loss of an epoch's only step is that of the weights before."""
    images, labels = faces
    examples = DeviceExamples.from_examples(Examples(images, labels.astype(np.int64)), 7, CPU)
    recipe = replace(RECIPE, batch_size=len(labels), lr=1e30, bfloat16=bfloat16)
    architecture = {"name": "conv1", "arguments": {"num_classes": 7}}
    run = Run.create(recipe, architecture, CPU)
    batches = InMemoryBatches(recipe, examples, examples, 0, 1)
    with pytest.raises(JobError) as caught:
        list(run.epochs(run.trained, batches, lambda *_: None))
    assert str(caught.value) == f"Loss became non-finite in epoch 1; retrain with {remedy}."
    assert run.history == []


RESIDUAL = {"name": "resnet4-w32", "arguments": {"num_classes": 7, "dropout": 0.1}}


@pytest.fixture(scope="module")
def batches(faces):
    images, labels = faces
    examples = DeviceExamples.from_examples(Examples(images, labels.astype(np.int64)), 7, CPU)
    augmentation = AugmentationSettings(erase_fraction=0.5, mixup=0.2)
    recipe = replace(RECIPE, num_epochs=3, ema_decay=0.9, augmentation=augmentation)
    return InMemoryBatches(recipe, examples, examples, 0, 1)


def train(run, batches, num_epochs):
    epochs = run.epochs(run.trained, batches, lambda *_: None)
    return [next(epochs) for _ in range(num_epochs)]


def test_a_residual_network_that_is_restored_continues_as_if_undisturbed(batches, tmp_path):
    undisturbed = Run.create(batches.recipe, RESIDUAL, CPU)
    expected = train(undisturbed, batches, 3)
    interrupted = Run.create(batches.recipe, RESIDUAL, CPU)
    train(interrupted, batches, 2)
    files = {**pack_checkpoint(interrupted.eval_model, RESIDUAL), **interrupted.pack()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    restored = Run.create(batches.recipe, RESIDUAL, CPU)
    restored.restore(str(tmp_path))
    (metrics,) = train(restored, batches, 1)
    assert metrics["epoch"] == 3
    for name in ("train_loss", "val_loss", "val_accuracy"):
        assert metrics[name] == pytest.approx(expected[-1][name], rel=1e-4)
    weights = undisturbed.eval_model.state_dict()
    for name, tensor in restored.eval_model.state_dict().items():
        torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-5)


def test_a_residual_network_learns_a_few_faces(batches):
    recipe = replace(batches.recipe, num_epochs=12, augmentation=None, lr=0.05)
    architecture = {**RESIDUAL, "name": "resnet10-w32"}
    history = train(
        Run.create(recipe, architecture, CPU), replace(batches, recipe=recipe), recipe.num_epochs
    )
    assert history[0]["val_accuracy"] < 0.5
    assert history[-1]["val_accuracy"] > 0.95


@pytest.mark.parametrize(("name", "size"), [("alexnet", 64), ("vgg16", 32)])
def test_a_network_learns_from_a_file_in_torchvision_s_layout(name, size, monkeypatch, tmp_path):
    monkeypatch.setattr(imagenet, "HIDDEN", 32)
    shape, recipe = ImageShape(size, 3), replace(RECIPE, num_epochs=3, num_frozen_epochs=1)
    published = build_model(name, 1000, shape).state_dict()
    torch.save(published, tmp_path / "weights.pth")
    run = Run.create(recipe, {"name": name, "arguments": {"num_classes": 7}}, CPU, shape=shape)
    run.load_pretrained(str(tmp_path / "weights.pth"))
    images = np.random.default_rng(0).integers(0, 256, (16, *shape.array)).astype(np.uint8)
    examples = DeviceExamples.from_examples(Examples(images, np.arange(16) % 7), 7, CPU)
    epochs = run.epochs(run.trained, InMemoryBatches(recipe, examples, examples), lambda *_: None)
    trunk = [key for key in published if not key.startswith("classifier.6.")]
    next(epochs)
    assert all(run.network.state_dict()[key].equal(published[key]) for key in trunk)
    next(epochs)
    assert not any(run.network.state_dict()[key].equal(published[key]) for key in trunk)


def test_bundled_learns_other_classes_from_ten_images_each():
    images, labels = draw_faces(120, seed=4)
    rows = np.concatenate([np.flatnonzero(labels == label)[:10] for label in (3, 4, 5)])
    split = Examples(images[rows], np.repeat(np.arange(3), 10))
    examples = DeviceExamples.from_examples(split, 3, CPU)
    recipe = replace(RECIPE, num_epochs=4, batch_size=10, ema_decay=0.9)
    architecture = {"name": "resnet10-w48", "arguments": {"num_classes": 3, "dropout": 0.2}}
    accuracies = []
    for checkpoint in ("bundled", None):
        run = Run.create(recipe, architecture, CPU)
        if checkpoint:
            run.load_weights(checkpoint, ("joy", "grief", "awe"))
        history = train(run, InMemoryBatches(recipe, examples, examples, 0, 1), recipe.num_epochs)
        accuracies.append(history[-1]["val_accuracy"])
    assert accuracies[0] > 0.9 > accuracies[1], "from random weights, that is too little to learn"


def new_run(batches):
    """Return a run whose network has guessed, and is sure of, a class for each face."""
    torch.manual_seed(0)
    run = Run.create(batches.recipe, {"name": "conv1", "arguments": {"num_classes": 7}}, CPU)
    with torch.no_grad():
        run.eval_model.output.weight.mul_(4)
    return run


def evaluate(batches, val):
    return new_run(batches)._evaluate(replace(batches, val_examples=val))


@pytest.fixture(scope="module")
def val(batches):
    """Faces with the label that the network guesses; but every fifth has another one."""
    network, faces = new_run(batches).eval_model.eval(), batches.val_examples
    with torch.no_grad():
        guesses = network(PREPROCESSING["standardize"](faces.images)).argmax(dim=1)
    labels = (guesses + (torch.arange(len(faces)) % 5 == 0)) % 7
    return replace(faces, labels=labels, targets=torch.eye(7)[labels])


def test_copies_of_train_count_in_scores_and_not_in_what_is_chosen(batches, val):
    is_copy = torch.arange(len(val)) % 5 > 2
    all_of_it, rest = evaluate(batches, val), evaluate(batches, val[~is_copy])
    found = evaluate(batches, replace(val, is_copy=is_copy))
    for name in ("val_accuracy", "val_macro_f1"):
        assert found[name] == all_of_it[name] == all_of_it[f"{name}_without_copies"]
        assert found[f"{name}_without_copies"] == rest[name] != all_of_it[name]
    assert found["val_loss"] == pytest.approx(all_of_it["val_loss"])
    assert found["temperature"] == rest["temperature"] != all_of_it["temperature"]


def test_a_val_split_that_train_holds_is_what_there_is_to_choose_by(batches, val):
    found = evaluate(batches, replace(val, is_copy=torch.ones(len(val), dtype=torch.bool)))
    assert found == pytest.approx(evaluate(batches, val))
