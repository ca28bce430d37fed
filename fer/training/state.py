"""The state of a training run that a checkpoint lacks, for resuming."""

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn


def pack_training(network: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    """Serialize the tensors of a network in training and of its optimizer.

    The optimizer's settings are left out, because the recipe fixes them.
    """
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": tensor for key, tensor in state.items()}
    return save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()})


def unpack_training(network: nn.Module, optimizer: torch.optim.Optimizer, content: bytes) -> None:
    """Load the output of ``pack_training`` into a newly built network and its optimizer."""
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(content).items():
        owner, _, key = name.partition(".")
        if owner == "network":
            weights[key] = tensor
        else:
            index, _, key = key.partition(".")
            state.setdefault(int(index), {})[key] = tensor
    network.load_state_dict(weights)
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == parameter.shape:
                # In the weights' memory layout, in which a GPU updates all of them at once.
                values[key] = torch.empty_like(parameter).copy_(value)
