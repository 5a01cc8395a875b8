"""Criss-cross attention as a PyTorch operator, ``torch.ops.ccnet3d.criss_cross_attention``.

The backends that compute gradients by hand are one operator to PyTorch: opaque to torch.compile, with a fake
implementation for shapes and a formula for autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ccnet3d.attention.backends.tiled import tiled_backward, tiled_forward


def _implementation(backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return a backend's forward and backward; Triton is imported when it is used."""
    if backend == "triton":
        from ccnet3d.attention.backends.triton import fused_backward, fused_forward

        return fused_forward, fused_backward
    return tiled_forward, tiled_backward


@torch.library.custom_op("ccnet3d::criss_cross_attention", mutates_args=())
def attention_op(query: Tensor, key: Tensor, value: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Return the output ``[B, T, H, W, Dv]`` and the scores' log-sum-exp ``[B, T, H, W]``, for the backward pass."""
    return _implementation(backend)[0](query, key, value)


@torch.library.custom_op("ccnet3d::criss_cross_attention_backward", mutates_args=())
def backward_op(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor | None, log_sum_exp: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value; only triton reads the output."""
    return _implementation(backend)[1](grad, query, key, value, output, log_sum_exp)


@attention_op.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, backend: str) -> tuple[Tensor, Tensor]:  # noqa: ARG001
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    return value.new_empty(value.shape), query.new_empty(query.shape[:4], dtype=dtype)


@backward_op.register_fake
def _(
    grad: Tensor,  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor | None,  # noqa: ARG001
    log_sum_exp: Tensor,  # noqa: ARG001
    backend: str,  # noqa: ARG001
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    # What is saved stays in memory: tiled does without the output.
    ctx.save_for_backward(query, key, value, output[0] if ctx.backend == "triton" else None, output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *backward_op(grad, *ctx.saved_tensors, ctx.backend), None


attention_op.register_autograd(_gradients, setup_context=_save_for_backward)


def _refuse_double_backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        f"backend {ctx.backend!r} of criss_cross_attention has no second derivatives; "
        "use backend='axial', which has them at the price of memory"
    )


def _remember_backend(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    ctx.backend = inputs[-1]


backward_op.register_autograd(_refuse_double_backward, setup_context=_remember_backend)


def _products(query_shape: tuple[int, ...], value_shape: tuple[int, ...]) -> tuple[int, int]:
    """FLOPs of one product of all scores and of one with all values, two a multiply-add."""
    batch, time, height, width, channels = query_shape
    pairs = batch * time * height * width * (time + height + width - 2)
    return 2 * pairs * channels, 2 * pairs * value_shape[-1]


@register_flop_formula(torch.ops.ccnet3d.criss_cross_attention)
def _forward_flops(query: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], *_: Any, **__: Any) -> int:  # noqa: ARG001
    scores, values = _products(query, value)
    return scores + values


@register_flop_formula(torch.ops.ccnet3d.criss_cross_attention_backward)
def _backward_flops(
    grad: tuple[int, ...],  # noqa: ARG001
    query: tuple[int, ...],
    key: tuple[int, ...],  # noqa: ARG001
    value: tuple[int, ...],
    *_: Any,
    **__: Any,
) -> int:
    """Scores again, the gradients of query, key, weights and value: what any backend must do."""
    scores, values = _products(query, value)
    return 3 * scores + 2 * values
