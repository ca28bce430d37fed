"""Copies to the device that computes."""

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor in a device's memory, without waiting for what the device still computes.

    A GPU copies page-locked memory in turn with its other work. Before it copies other memory, the
    processor waits until the GPU is idle.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
