"""Networks, degradations and augmentation on a GPU do what they do on a processor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fer.data.synthetic import draw_faces
from fer.models.checkpoint import load_checkpoint
from fer.models.degradations import Degradations
from fer.models.networks import load_networks
from fer.models.onnx_engine import softmax
from fer.models.precision import autocast, has_fast_bfloat16
from fer.models.predictor import Predictor, default_device
from fer.models.torch_engine import TorchEngine, fastest_precision
from fer.models.transforms import PREPROCESSING, Augmentation, AugmentationSettings, to_channels

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    return draw_faces(64, seed=5)[0]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 5e-3), ("bfloat16", 0.06)])
def test_a_network_answers_as_on_a_processor(gpu, images, precision, tolerance):
    (network,) = load_networks("bundled")
    on_gpu = TorchEngine(network, "standardize", gpu, precision).logits(images)
    on_cpu = TorchEngine(network, "standardize", CPU, "float32").logits(images)
    assert on_gpu.dtype == np.float32
    drift = np.abs(softmax(on_gpu) - softmax(on_cpu))
    assert drift.max() < tolerance
    assert (on_gpu.argmax(1) == on_cpu.argmax(1)).mean() >= 0.95


def test_the_fastest_way_is_chosen(gpu):
    is_recent = torch.cuda.get_device_capability(gpu) >= (8, 0)
    assert has_fast_bfloat16(gpu) == is_recent
    assert fastest_precision(gpu) == ("bfloat16" if is_recent else "float32")
    assert default_device() == "cuda"
    with autocast(gpu, enabled=True):
        product = torch.ones(8, 8, device=gpu) @ torch.ones(8, 8, device=gpu)
    assert product.dtype == torch.bfloat16


def test_a_predictor_runs_on_arrays_that_are_read_only(gpu, images):
    images = np.frombuffer(images.tobytes(), np.uint8).reshape(images.shape)
    predictor = Predictor(load_checkpoint("bundled"), gpu.type)
    expected = Predictor(load_checkpoint("bundled"), "cpu", "float32").predict_probs(images)
    np.testing.assert_allclose(predictor.predict_probs(images), expected, atol=0.06)
    assert predictor.predict_probs(images[:0]).shape == (0, 7)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PREPROCESSING)
def test_preprocessing_is_the_same(gpu, images, name, channels):
    images = to_channels(torch.tensor(images), channels)
    on_gpu = PREPROCESSING[name](to_channels(images.to(gpu), channels))
    torch.testing.assert_close(on_gpu.cpu(), PREPROCESSING[name](images), rtol=1e-4, atol=1e-3)
    grays = to_channels(images.to(gpu), 1).cpu().float()
    assert (grays - to_channels(images, 1).float()).abs().max() <= 1


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_degradations_are_the_same(gpu, images, fraction):
    images = torch.tensor(images)
    drawn = Degradations.draw(len(images), torch.Generator().manual_seed(1), fraction)
    # Each kind of device has random numbers of its own.
    drawn = replace(drawn, noise=replace(drawn.noise, deviations=torch.zeros(len(images))))
    differences = (drawn.apply(images.to(gpu)).cpu().float() - drawn.apply(images).float()).abs()
    # A coefficient of a JPEG file that lies between two steps may fall to either.
    assert (differences > 1).float().mean() < 0.01
    assert not differences[~drawn.is_degraded].any()


def test_augmentation_is_the_same(gpu, images):
    settings = AugmentationSettings(erase_fraction=0.5, mixup=0.4)
    drawn = Augmentation.draw(len(images), torch.Generator().manual_seed(1), settings)
    floats = torch.tensor(images).float().unsqueeze(1)
    partners = floats[drawn.partners]
    moved = drawn.apply(floats.to(gpu), partners.to(gpu)).cpu()
    torch.testing.assert_close(moved, drawn.apply(floats, partners), rtol=1e-3, atol=0.1)
