"""Batch norms and activations fused into the preceding convolutions, for inference."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ccnet3d.models.ccnet3d import CCNet3D

__all__ = ["fuse_activations", "fuse_batch_norms"]

_PROBE_SIZES = (64, 128, 256)
"""Sizes in pixels to try for the probe clip, because some backbones do not accept small images."""

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Hardswish: "hardswish", nn.SiLU: "swish"}
"""oneDNN's names of the activations that it applies to results of a convolution before it writes them."""


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
    for convolution, norm in _pairs(fused, nn.BatchNorm2d):
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


def fuse_activations(model: CCNet3D) -> None:
    """Let oneDNN compute the convolutions of a model on a CPU, with the activations that follow them; in place.

    An activation then costs no pass over memory. PyTorch has no public function for it: this is the operator that
    torch.compile uses for such pairs. Where PyTorch is built without oneDNN, nothing changes. It also avoids PyTorch's
    own convolution, which it prefers for single frames when it has one thread, and which is slower.

    Args:
        model: from :func:`fuse_batch_norms`; its weights are in float32 or bfloat16.
    """
    if not torch.backends.mkldnn.is_available() or model.input_mean.device.type != "cpu":
        return
    names = {module: name for name, module in model.named_modules()}
    plain = [module for module in names if _is_plain(module) and _has_kernel(module.weight.dtype)]
    in_bfloat16 = any(convolution.weight.dtype == torch.bfloat16 for convolution in plain)
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
        activations = {first: second for first, second in _pairs(model, *_ACTIVATIONS) if type(second) in _ACTIVATIONS}
    for convolution in plain:
        activation = activations.get(convolution)
        fused = _OneDnnConvolution(convolution, "none" if activation is None else _ACTIVATIONS[type(activation)])
        model.set_submodule(names[convolution], fused)
        if activation is not None:
            model.set_submodule(names[activation], nn.Identity())


def _is_plain(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    if type(module) is not nn.Conv2d:  # others may have methods that the model calls
        return False
    return module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _has_kernel(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _OneDnnConvolution(nn.Module):
    """A convolution and its activation in one call, with weights in the layout that oneDNN wants for an input's size.

    Weights in PyTorch's layout would be brought into it at every call. The results are the same bits.
    """

    def __init__(self, convolution: nn.Conv2d, activation: str) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._settings: tuple[Any, ...] = (
            list(convolution.padding), list(convolution.stride), list(convolution.dilation), convolution.groups,
        )  # fmt: skip
        self._activation: tuple[Any, ...] = (activation, [], "")
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)  # as autocast does for PyTorch's convolutions
        packed = self._packed  # another thread may set it
        if packed is None or packed[0] != x.shape:
            weight = torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._settings, list(x.shape))
            packed = self._packed = x.shape, weight
        run = torch.ops.mkldnn._convolution_pointwise.default
        result: Tensor = run(x, packed[1], self.bias, *self._settings, *self._activation)
        return result


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
def _pairs(model: CCNet3D, *kinds: type[nn.Module]) -> list[tuple[nn.Conv2d, Any]]:
    """Return convolutions and the modules of some kinds that are the only use of their output.

    One run on a small clip shows it.
    """
    from timm.layers import Conv2dSame

    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # with the tensor, so that its id is not reused
    pairs: dict[nn.Conv2d, tuple[nn.Module, int]] = {}
    calls: Counter[nn.Module] = Counter()
    uses = _Uses()
    in_place: dict[int, int] = {}  # later uses of what a module changed are uses of its result

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] += 1
        if isinstance(module, nn.Conv2d):
            outputs[id(output)] = (module, output)
            uses.count[id(output)] = 0
        elif output is inputs[0]:
            in_place[id(output)] = uses.count[id(output)]

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in outputs and isinstance(module, kinds):
            pairs[outputs[id(inputs[0])][0]] = module, id(inputs[0])

    layers = [module for module in model.modules() if isinstance(module, (nn.Conv2d, *kinds))]
    hooks = [module.register_forward_hook(after) for module in layers]
    hooks += [module.register_forward_pre_hook(before) for module in layers]
    for size in _PROBE_SIZES:
        for found in (calls, pairs, in_place):
            found.clear()
        try:
            with uses:
                model(torch.rand(1, 1, 3, size, size, device=model.input_mean.device, dtype=model.input_mean.dtype))
            break
        except RuntimeError:
            pairs.clear()
    for hook in hooks:
        hook.remove()
    return [
        (convolution, module)
        for convolution, (module, key) in pairs.items()
        if calls[convolution] == calls[module] == in_place.get(key, uses.count[key]) == 1
        if type(convolution).forward in (nn.Conv2d.forward, Conv2dSame.forward)
    ]
