"""Training on a GPU does what it does on a processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipes import CPU, RECIPE

from fer.data.dataset import Examples
from fer.models.networks import pack_checkpoint
from fer.models.precision import has_fast_bfloat16
from fer.models.transforms import AugmentationSettings, standardize
from fer.training.batches import DeviceExamples, InMemoryBatches
from fer.training.run import Run
from fer.training.teacher import Teacher

pytestmark = pytest.mark.gpu
NETWORK = {"name": "resnet4-w32", "arguments": {"num_classes": 7, "dropout": 0.0}}
DEEP = {"name": "deep", "arguments": {"num_classes": 7, "dropout": 0.25}}
AUGMENTED = AugmentationSettings(erase_fraction=0.5, mixup=0.2, degrade_fraction=0.5)
AVERAGED = replace(RECIPE, ema_decay=0.9, augmentation=AUGMENTED)


def batches_on(device, faces, recipe):
    images, labels = faces
    examples = Examples(images, labels.astype(np.int64), digests=list(map(str, range(len(labels)))))
    copies = {"1", "2"}
    on_device = DeviceExamples.from_examples(examples, 7, device, copies)
    train = replace(on_device, is_copy=None)
    return InMemoryBatches(recipe, train, on_device)


def train_on(device, faces, recipe, architecture=NETWORK):
    run = Run.create(recipe, architecture, device)
    batches = batches_on(device, faces, recipe)
    list(run.epochs(run.trained, batches, lambda *_: None))
    return run


def test_the_same_training(gpu, faces):
    on_gpu, on_cpu = (train_on(device, faces, AVERAGED).history for device in (gpu, CPU))
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        for name in ("train_loss", "val_loss"):
            assert found[name] == pytest.approx(expected[name], rel=0.05)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_hinge"])
def test_training_in_bfloat16_with_dropout_and_images_that_grow(gpu, faces, loss):
    recipe = replace(AVERAGED, bfloat16=has_fast_bfloat16(gpu), loss=loss)
    assert train_on(gpu, faces, recipe, DEEP).history[-1]["epoch"] == 2
    growing = replace(recipe, initial_size=32, num_frozen_epochs=1, preprocessing="equalize")
    assert train_on(gpu, faces, growing).history[-1]["epoch"] == 2


def test_a_restored_run_goes_on(gpu, faces, tmp_path):
    recipe = replace(AVERAGED, num_epochs=3)
    expected = train_on(gpu, faces, recipe).history
    begun = train_on(gpu, faces, recipe)
    interrupted = Run.create(recipe, NETWORK, gpu)
    batches = batches_on(gpu, faces, recipe)
    epochs = interrupted.epochs(interrupted.network, batches, lambda *_: None)
    next(epochs), next(epochs)
    files = {**pack_checkpoint(interrupted.eval_model, NETWORK), **interrupted.pack()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    restored = Run.create(recipe, NETWORK, gpu)
    restored.restore(str(tmp_path))
    (last,) = restored.epochs(restored.network, batches, lambda *_: None)
    assert last["epoch"] == 3
    # As near as two trainings that nothing disturbed.
    noise = abs(begun.history[-1]["train_loss"] - expected[-1]["train_loss"])
    assert last["train_loss"] == pytest.approx(expected[-1]["train_loss"], abs=0.02 + 2 * noise)


def test_batches_do_not_depend_on_the_device(gpu, faces):
    pairs = zip(
        batches_on(gpu, faces, AVERAGED).train_batches(1),
        batches_on(CPU, faces, AVERAGED).train_batches(1),
        strict=True,
    )
    for found, expected in pairs:
        assert found.images.cpu().equal(expected.images)
        assert found.step == expected.step
        noises = found.augmentation.degradations.noise, expected.augmentation.degradations.noise
        assert noises[0].seed == noises[1].seed
        torch.testing.assert_close(found.mixed_targets().cpu(), expected.mixed_targets())


def test_a_teacher_answers_as_on_a_processor(gpu, faces):
    def views(device):
        images = torch.tensor(faces[0]).to(device)
        return Teacher("bundled", device).view_probs(lambda preprocess: preprocess(images)).cpu()

    assert standardize(torch.tensor(faces[0]).to(gpu)).device.type == gpu.type
    torch.testing.assert_close(views(gpu), views(CPU), rtol=0, atol=0.06)


def test_a_teacher_s_probabilities_are_learned(gpu, faces):
    recipe = replace(AVERAGED, teacher="bundled", teacher_view="augmented")
    assert len(train_on(gpu, faces, recipe).history) == 2
