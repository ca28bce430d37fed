"""Computation in bfloat16: a context that enables it, and whether a device is fast at it."""

import torch


def autocast(device: torch.device, *, enabled: bool) -> torch.autocast:
    """Return a context that, if enabled, computes convolutions and matrix products in bfloat16."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices faster in bfloat16 than in float32.

    Two kinds of x86 processors do: those with matrix tiles (AMX), and AMD's with bfloat16 vector
    instructions (AVX512_BF16, from Zen 4 on), on which the deep network trains 1.8 times as fast.
    On another processor that has only the vector instructions, the network trained at 0.6 times its
    float32 speed.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities()
    is_amd = str(capabilities.get("cpu_name", "")).startswith("AMD")
    return bool(capabilities.get("amx_bf16") or (is_amd and capabilities.get("avx512_bf16")))
