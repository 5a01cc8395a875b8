"""Batch norms fused into the preceding convolutions, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ccnet3d.models.ccnet3d import CCNet3D

__all__ = ["fuse_batch_norms"]

_PROBE_SIZES = (64, 128, 256)
"""Sizes in pixels to try for the probe clip, because some backbones do not accept small images."""


def fuse_batch_norms(model: CCNet3D) -> CCNet3D:
    """Return a copy in evaluation mode that computes the same logits, up to rounding, in less time.

    A batch norm is fused into a convolution if its input is the convolution's output, which one run of the model shows.
    All others stay, as do those whose convolution is used twice, whose convolution's output has another use, or whose
    convolution computes its weights at each call.

    >>> import torch
    >>> from ccnet3d.models import CCNet3D, ModelConfig, fuse_batch_norms
    >>> model = CCNet3D(ModelConfig(num_classes=3, backbone="test_efficientnet", channels=16)).eval()
    >>> clip = torch.rand(1, 2, 3, 48, 64)
    >>> torch.allclose(fuse_batch_norms(model)(clip), model(clip), atol=1e-4)
    True
    """
    fused = copy.deepcopy(model).eval()
    names = {module: name for name, module in fused.named_modules()}
    for convolution, norm in _pairs(fused):
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:  # it normalizes with its input's own statistics
            continue
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        parent, _, name = names[norm].rpartition(".")
        # timm's batch norms contain the layers that follow them.
        following = [m for m in (getattr(norm, "drop", None), getattr(norm, "act", None)) if m is not None]
        setattr(fused.get_submodule(parent), name, nn.Sequential(*following))
    return fused.eval().requires_grad_(False)


class _Uses(TorchFunctionMode):
    """Count how often each tensor is an argument of a function that returns tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # a query of a shape does not count
            self.count.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        return result


@torch.inference_mode()
def _pairs(model: CCNet3D) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Return convolutions and the batch norms that are the only use of their output, from one run on a small clip."""
    from timm.layers import Conv2dSame

    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensor, so that its id is not reused
    pairs: dict[nn.Conv2d, tuple[nn.BatchNorm2d, int]] = {}
    calls: Counter[nn.Module] = Counter()
    uses = _Uses()

    def after(module: nn.Module, _: Any, output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (module, output)
            uses.count[id(output)] = 0

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in outputs and isinstance(module, nn.BatchNorm2d):
            pairs[outputs[id(inputs[0])][0]] = module, id(inputs[0])

    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(after) for module in layers]
    hooks += [module.register_forward_pre_hook(before) for module in layers]
    for size in _PROBE_SIZES:
        calls.clear()
        pairs.clear()
        try:
            with uses:
                model(torch.rand(1, 1, 3, size, size, device=model.input_mean.device, dtype=model.input_mean.dtype))
            break
        except RuntimeError:
            pairs.clear()
    for hook in hooks:
        hook.remove()
    return [
        (convolution, norm)
        for convolution, (norm, key) in pairs.items()
        if calls[convolution] == calls[norm] == uses.count[key] == 1
        if type(convolution).forward in (nn.Conv2d.forward, Conv2dSame.forward)
    ]
