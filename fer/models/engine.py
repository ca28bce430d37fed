"""A network as one process runs it: the fastest way that this processor has, and still faithful."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fer.models.precision import has_fast_bfloat16
from fer.models.transforms import PREPROCESSING

BATCH_SIZE, CPU_BATCH_SIZE = 512, 32
"""Images that a network takes at once. On a CPU what each layer makes of them must stay below
32 MiB: larger pieces of memory the C library fetches anew each time, for a fifth of all time."""

EngineName = Literal["auto", "float32", "bfloat16", "compiled"]


class Engine:
    """A network, ready to be run on images as they are stored.

    Attributes:
        name: ``float32``, ``bfloat16`` or ``compiled``.
        dtype: What it computes in.
        batch_size: Images that it is best given at once.
    """

    def __init__(
        self, model: nn.Module, preprocessing: str, device: torch.device, name: EngineName
    ) -> None:
        self.name = choose_engine(device) if name == "auto" else name
        self._preprocess = PREPROCESSING[preprocessing]
        self.dtype = _DTYPES.get(self.name) or _DTYPES[choose_engine(device)]
        fused = fold_batch_norm(model).to(device, self.dtype)
        fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_size = CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE
        self._run = _compile(fused, self.batch_size) if self.name == "compiled" else _eager(fused)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Map images uint8 (B, 48, 48) on the engine's device to logits float32 (B, C)."""
        return self._run(self._preprocess(images).to(self.dtype)).float()


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_engine(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the fastest engine that a device runs without further ado.

    ``compiled`` is faster still, but needs a C++ compiler, and ten seconds in every process.
    """
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose batch normalization is part of the layer before it."""
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


def _eager(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        logits: Tensor = model(images.contiguous(memory_format=torch.channels_last))
        return logits

    return run


def _compile(model: nn.Module, batch_size: int) -> Callable[[Tensor], Tensor]:
    import torch._inductor.config as inductor  # noqa: PLC0415 - slow, and seldom needed

    inductor.freezing = True
    compiled = torch.compile(model, dynamic=False)

    def run(images: Tensor) -> Tensor:
        """Fill the batch up: each other size would be compiled anew."""
        num_images = len(images)
        padding = -num_images % batch_size
        filled = nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, padding))
        filled = filled.contiguous(memory_format=torch.channels_last)
        starts = range(0, len(filled), batch_size)
        parts = [compiled(filled[start : start + batch_size]) for start in starts]
        return torch.cat(parts)[:num_images]

    return run
