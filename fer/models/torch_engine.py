"""Run a network in torch: on a GPU, and as a teacher on whatever device trains."""

import copy
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fer.models.precision import has_fast_bfloat16
from fer.models.transforms import PREPROCESSING

BATCH_SIZE = 512
"""Images per batch on a GPU."""

Precision = Literal["float32", "bfloat16"]


class TorchEngine:
    """A network that is ready to run on a device.

    Attributes:
        name: The data type of the computation.
        preprocess: Turns uint8 images into the network's input.
        batch_size: The fastest number of images per call.
    """

    batch_size = BATCH_SIZE

    def __init__(
        self,
        model: nn.Module,
        preprocessing: str,
        device: torch.device,
        name: Precision | None = None,
    ) -> None:
        """Fold batch normalization and move the network to a device.

        Args:
            model: The network.
            preprocessing: A key of ``PREPROCESSING``.
            device: Where to run it.
            name: The data type; by default the fastest one of the device.
        """
        self.name = name or fastest_precision(device)
        self.preprocess = PREPROCESSING[preprocessing]
        self._device, self._dtype = device, getattr(torch, self.name)
        self._model = fold_batch_norm(model).to(device, self._dtype)
        self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """Map images uint8 (B, *shape) to logits float32 (B, C)."""
        # A copy, because torch warns of arrays that are read-only, as those from Ray are.
        batch = torch.tensor(images).to(self._device)
        logits: np.ndarray = self.run(self.preprocess(batch)).cpu().numpy()
        return logits

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """Map preprocessed images float (B, C, S, S), on the device, to logits float32."""
        batch = images.to(self._dtype).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self._model(batch).float()
        return logits


def fastest_precision(device: torch.device) -> Precision:
    """Return the data type in which a device runs networks fastest."""
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with batch normalization folded into the layer before it.

    Modules must define a layer and its batch normalization one after the other.
    """
    folded = copy.deepcopy(model).eval()
    for block in list(folded.modules()):
        for (name, layer), (norm_name, norm) in pairwise(list(block.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(block, name, fuse_conv_bn_eval(layer, norm))
                setattr(block, norm_name, nn.Identity())
            if isinstance(layer, nn.Linear) and isinstance(norm, nn.BatchNorm1d):
                setattr(block, name, fuse_linear_bn_eval(layer, norm))
                setattr(block, norm_name, nn.Identity())
    return folded
