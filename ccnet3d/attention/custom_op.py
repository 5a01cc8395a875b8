"""Criss-cross attention as a PyTorch operator, ``torch.ops.ccnet3d.criss_cross_attention``.

PyTorch sees the fused backends as one operator: opaque to torch.compile, with a fake implementation for shapes and a
formula for autograd.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ccnet3d.attention.backends import fused_backend
from ccnet3d.attention.flops import register_flops, when_imported

__all__ = ["attention_op", "backward_op"]


@torch.library.custom_op("ccnet3d::criss_cross_attention", mutates_args=())
def attention_op(query: Tensor, key: Tensor, value: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Return the output ``[B, T, H, W, Dv]`` and, for the backward pass, the scores' log-sum-exp ``[B, T, H, W]``."""
    return fused_backend(backend).forward(query, key, value)


@torch.library.custom_op("ccnet3d::criss_cross_attention_backward", mutates_args=())
def backward_op(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor | None, log_sum_exp: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value."""
    return fused_backend(backend).backward(grad, query, key, value, output, log_sum_exp)


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
    # Saved tensors stay in memory until the backward pass, so the output is saved only if that reads it.
    kept_output = output[0] if fused_backend(ctx.backend).backward_needs_output else None
    ctx.save_for_backward(query, key, value, kept_output, output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *backward_op(grad, *ctx.saved_tensors, ctx.backend), None


attention_op.register_autograd(_gradients, setup_context=_save_for_backward)


def _refuse_double_backward(ctx: Any, *_: Tensor) -> tuple[Tensor | None, ...]:
    raise NotImplementedError(
        f"backend {ctx.backend!r} of criss_cross_attention has no second derivatives; "
        "use backend='axial', which has them but needs more memory"
    )


def _remember_backend(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
    ctx.backend = inputs[-1]


backward_op.register_autograd(_refuse_double_backward, setup_context=_remember_backend)


when_imported("torch.utils.flop_counter", register_flops)
