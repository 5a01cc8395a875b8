"""Random clips for criss-cross attention, its output with all gradients, and their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def random_inputs(
    size: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0, device: str = "cpu"
) -> list[Tensor]:
    """Return query, key and value, which require gradients; ``size`` is (B, T, H, W, D, Dv), scores have variance 1."""
    generator = torch.Generator().manual_seed(seed)
    *grid, channels, value_channels = size
    shapes = [(*grid, channels), (*grid, channels), (*grid, value_channels)]
    numbers = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    numbers[0] *= channels**-0.5
    return [x.to(device, dtype).requires_grad_() for x in numbers]


def gradient_of(output: Tensor) -> Tensor:
    """Return a gradient for an output, equal for all outputs of the same shape and dtype."""
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return grad.to(output.device, output.dtype)


def output_and_gradients(
    function: Attention, inputs: Sequence[Tensor], gradient: Callable[[Tensor], Tensor] = gradient_of
) -> list[Tensor]:
    """Return the output and the gradients of query, key and value."""
    output = function(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, gradient(output))]


def true_output_and_gradients(function: Attention, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the same computed in float64, from equal inputs and an equal gradient of the output."""
    dtype = inputs[2].dtype
    exact = [x.detach().cpu().double().requires_grad_() for x in inputs]
    return output_and_gradients(function, exact, lambda output: gradient_of(output.to(dtype)).double())


def relative_errors(results: Sequence[Tensor], truth: Sequence[Tensor]) -> list[float]:
    """Return the norm of each tensor's error relative to the norm of the truth."""
    pairs = zip(results, truth, strict=True)
    return [((mine.detach().cpu().double() - true).norm() / true.norm()).item() for mine, true in pairs]
