"""Run a network in the fastest way that the processor offers without changing its predictions."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from fer.models.precision import has_fast_bfloat16
from fer.models.transforms import PREPROCESSING

BATCH_SIZE, CPU_BATCH_SIZE = 512, 32
"""Images per batch, on a GPU and on a CPU.

On a CPU, the output of each layer must stay below 32 MiB. The C library requests larger blocks from
the operating system every time, which takes a fifth of the total time.
"""

EngineName = Literal["auto", "float32", "bfloat16", "compiled"]


class Engine:
    """A network that is ready to run on uint8 images.

    Attributes:
        name: ``float32``, ``bfloat16`` or ``compiled``.
        dtype: The data type of the computation.
        preprocess: Turns uint8 images into the network's input.
        batch_size: The fastest number of images per call.
    """

    def __init__(
        self, model: nn.Module, preprocessing: str, device: torch.device, name: EngineName
    ) -> None:
        self.name = choose_engine(device) if name == "auto" else name
        self.preprocess = PREPROCESSING[preprocessing]
        self.dtype = _DTYPES.get(self.name) or _DTYPES[choose_engine(device)]
        folded = fold_batch_norm(model).to(device, self.dtype)
        folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.batch_size = CPU_BATCH_SIZE if device.type == "cpu" else BATCH_SIZE
        self._run = _compile(folded, self.batch_size) if self.name == "compiled" else _eager(folded)

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """Map images uint8 (B, 48, 48) on the engine's device to logits float32 (B, C)."""
        return self.run(self.preprocess(images))

    @torch.no_grad()
    def run(self, images: Tensor) -> Tensor:
        """Map preprocessed images float (B, 1, 48, 48) to logits float32 (B, C)."""
        return self._run(images.to(self.dtype)).float()


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def choose_engine(device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the fastest engine that runs on a device without a compiler.

    ``compiled`` is faster still, but it needs a C++ compiler and ten seconds to start in every
    process.
    """
    return "bfloat16" if has_fast_bfloat16(device) else "float32"


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode with batch normalization folded into the layer before it."""
    folded = copy.deepcopy(model).eval()
    for block in folded.modules():
        if not isinstance(block, nn.Sequential) or len(block) < 2:
            continue
        if isinstance(block[0], nn.Conv2d) and isinstance(block[1], nn.BatchNorm2d):
            block[0] = fuse_conv_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
        if isinstance(block[0], nn.Linear) and isinstance(block[1], nn.BatchNorm1d):
            block[0] = fuse_linear_bn_eval(block[0], block[1])
            block[1] = nn.Identity()
    return folded


def _eager(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        logits: Tensor = model(images.contiguous(memory_format=torch.channels_last))
        return logits

    return run


def _compile(model: nn.Module, batch_size: int) -> Callable[[Tensor], Tensor]:
    import torch._inductor.config as inductor  # noqa: PLC0415 - slow, and rarely needed

    inductor.freezing = True
    compiled = torch.compile(model, dynamic=False)

    def run(images: Tensor) -> Tensor:
        """Pad the images to full batches; any other batch size would be compiled again."""
        num_images = len(images)
        padding = -num_images % batch_size
        padded = nn.functional.pad(images, (0, 0, 0, 0, 0, 0, 0, padding))
        padded = padded.contiguous(memory_format=torch.channels_last)
        starts = range(0, len(padded), batch_size)
        logits = [compiled(padded[start : start + batch_size]) for start in starts]
        return torch.cat(logits)[:num_images]

    return run
