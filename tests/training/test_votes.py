"""A second last layer learns the votes beside the labels, and leaves no trace in the checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from recipes import CPU, RECIPE, small_network, training_batches

from fer.data.dataset import NUM_VOTES, Examples
from fer.errors import InputError
from fer.models.networks import pack_checkpoint
from fer.models.transforms import AugmentationSettings
from fer.training.batches import DeviceExamples, InMemoryBatches
from fer.training.run import Run
from fer.training.targets import TargetBuilder
from fer.training.votes import TwoHeaded, network_in, vote_shares

LEARNED = replace(RECIPE, votes_head_weight=0.5, ema_decay=0.9)
ARCHITECTURE = {"name": "resnet4-w32", "arguments": {"num_classes": 7}}


@pytest.fixture(scope="module")
def voted(faces):
    images, labels = faces
    votes = np.random.default_rng(0).multinomial(10, np.full(NUM_VOTES, 0.1), len(labels))
    return Examples(images, labels.astype(np.int64), votes=votes.astype(np.int8))


def device_examples(voted, recipe):
    builder = TargetBuilder.fit(recipe, voted.labels, voted.votes, 7, CPU)
    plain = DeviceExamples.from_examples(voted, 7, CPU)
    return replace(plain, targets=builder.build(voted), votes=builder.build_votes(voted))


def train(voted, recipe, num_epochs=2, restored_from=None):
    examples = device_examples(voted, recipe)
    run = Run.create(recipe, ARCHITECTURE, CPU)
    if restored_from is not None:
        run.restore(restored_from)
    epochs = run.epochs(run.trained, InMemoryBatches(recipe, examples, examples), lambda *_: None)
    return run, [next(epochs) for _ in range(num_epochs)]


def test_both_layers_see_the_same(faces):
    network, images = small_network(), torch.rand(4, 1, 48, 48)
    both = TwoHeaded(network)
    logits, votes = both(images)
    torch.testing.assert_close(logits, network(images))
    torch.testing.assert_close(votes, both.votes(network.hidden(images)))
    assert not network.output._forward_pre_hooks
    assert network_in(both) is network_in(network) is network


def test_shares_of_votes():
    votes = np.array([[8, 2] + [0] * 8, [0] * 10], np.int8)
    expected = torch.tensor([[0.8, 0.2] + [0.0] * 8, [0.0] * 10])
    torch.testing.assert_close(vote_shares(votes), expected)


def test_votes_are_mixed_as_the_images_are(voted):
    recipe = replace(LEARNED, augmentation=AugmentationSettings(mixup=1.0))
    examples = device_examples(voted, recipe)
    (batch, *_) = training_batches(examples, recipe, 0)
    share = batch.augmentation.partner_shares.unsqueeze(1)
    expected = (1 - share) * batch.votes + share * batch.partners.votes
    torch.testing.assert_close(batch.mixed_votes(), expected)


def test_the_checkpoint_is_that_of_the_network_alone(voted):
    learned, _ = train(voted, LEARNED)
    plain, _ = train(voted, replace(LEARNED, votes_head_weight=0.0))
    files = [pack_checkpoint(run.eval_model, ARCHITECTURE) for run in (learned, plain)]
    assert files[0].keys() == files[1].keys()
    weights = [run.eval_model.state_dict() for run in (learned, plain)]
    assert weights[0].keys() == weights[1].keys()
    assert not weights[0]["stem.0.weight"].equal(weights[1]["stem.0.weight"])


def test_a_restored_run_continues_with_its_second_layer(voted, tmp_path):
    recipe = replace(LEARNED, num_epochs=3)
    undisturbed, expected = train(voted, recipe, 3)
    interrupted, _ = train(voted, recipe, 2)
    files = {**pack_checkpoint(interrupted.eval_model, ARCHITECTURE), **interrupted.pack()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    restored, (last,) = train(voted, recipe, 1, str(tmp_path))
    assert last["train_loss"] == pytest.approx(expected[-1]["train_loss"], rel=1e-4)
    torch.testing.assert_close(
        restored.trained.votes.weight, undisturbed.trained.votes.weight, rtol=1e-3, atol=1e-5
    )


def test_a_dataset_without_votes_is_refused(voted):
    with pytest.raises(InputError, match="no FER"):
        TargetBuilder.fit(LEARNED, voted.labels, None, 7, CPU)
