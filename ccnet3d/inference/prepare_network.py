"""The network made ready for inference in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, fuse_activations, fuse_batch_norms

__all__ = ["compiled", "prepare_network"]


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
