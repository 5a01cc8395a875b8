"""The network made ready for inference in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, fuse_activations, fuse_batch_norms

__all__ = ["compiled", "default_dtype", "prepare_network"]


def default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it natively, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # Older versions of torch do not report the capabilities of the CPU.
    report: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    capabilities = report() if device.type == "cpu" else {}
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16")
    return torch.bfloat16 if native else torch.float32


def prepare_network(model: CCNet3D, dtype: torch.dtype, *, fuse_all: bool) -> CCNet3D:
    """Return a copy for inference, with the weights of convolutions cast once instead of at every call.

    ``fuse_all``: fuse activations too, which torch.compile does itself.
    """
    network = fuse_batch_norms(model)
    in_float32 = set(network.evidence.modules()) if network.evidence else set()
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module not in in_float32:
            module.to(dtype)
    if fuse_all:
        fuse_activations(network)
    return network


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function compiled at its first call.

    Raises:
        UserError: at the first call, there is no C++ compiler.
    """
    fast = torch.compile(function)

    def call(*arguments: Any) -> Any:
        try:
            return fast(*arguments)
        except RuntimeError as error:
            if "C++ compiler" not in str(error):
                raise
            raise UserError("--compile needs a C++ compiler; install one such as g++, or omit --compile") from error

    return call
