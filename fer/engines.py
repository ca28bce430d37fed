"""A network as one process runs it: the fastest way that this processor has, and still faithful."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fer.precision import has_fast_bfloat16
from fer.transforms import NORMALISATIONS

EngineName = Literal["auto", "float32", "bfloat16", "compiled"]


class Engine:
    """A network, ready to be run on images as they are stored.

    Attributes:
        name: ``float32``, ``bfloat16`` or ``compiled``.
    """

    def __init__(
        self, model: nn.Module, normalisation: str, device: torch.device, name: EngineName
    ) -> None:
        self.name = choose_engine(device) if name == "auto" else name
        self._normalise = NORMALISATIONS[normalisation]
        self._dtype = torch.float32
        if self.name != "float32" and has_fast_bfloat16(device):
            self._dtype = torch.bfloat16
        fused = fuse(model).to(device, self._dtype)
        fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._run: Callable[[Tensor], Tensor] = fused
        if self.name == "compiled":
            self._run = _compile(fused)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Map images uint8 (B, 48, 48) on the engine's device to logits float32 (B, C)."""
        normalised = self._normalise(images).to(self._dtype)
        return self._run(normalised.contiguous(memory_format=torch.channels_last)).float()


def choose_engine(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the fastest engine that a device runs without further ado.

    ``compiled`` is faster still, but needs a C++ compiler, and half a minute in every process.
    """
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def fuse(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose batch normalisation is part of the layer before it."""
    fused = copy.deepcopy(model).eval()
    for block in fused.modules():
        if not isinstance(block, nn.Sequential) or len(block) < 2:
            continue
        if isinstance(block[0], nn.Conv2d) and isinstance(block[1], nn.BatchNorm2d):
            block[0] = fuse_conv_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
        if isinstance(block[0], nn.Linear) and isinstance(block[1], nn.BatchNorm1d):
            block[0] = fuse_linear_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
    return fused


def _compile(model: nn.Module) -> Callable[[Tensor], Tensor]:
    import torch._inductor.config as inductor  # noqa: PLC0415 - slow, and seldom needed

    inductor.freezing = True
    compiled: Callable[[Tensor], Tensor] = torch.compile(model, dynamic=False)
    return compiled
