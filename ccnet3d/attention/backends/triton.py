"""The backend for CUDA: Triton kernels along each axis, the axes merged by their log-sum-exp.

Nothing larger than the inputs is ever stored: the forward pass keeps the output and one log-sum-exp per position, and
the backward pass recomputes the weights from them. The order is time, height, width; width counts the position itself.
Between axes, the output and the value's gradient are stored in the inputs' precision, everything else in float32.

Triton is imported when the backend computes, together with :mod:`.triton_kernels`.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ccnet3d.attention.backends.backend import FusedBackend

__all__ = ["BACKEND", "Axis", "Tiling", "triton_backward", "triton_forward"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def _is_interpreted() -> bool:
    """Return whether Triton kernels run in Triton's interpreter, which accepts CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def _why_unavailable() -> str | None:
    if find_spec("triton") is None:
        return "Triton is not installed"
    if _is_interpreted():
        return None
    if not torch.cuda.is_available():
        return "PyTorch finds no CUDA device"
    if torch.cuda.get_device_capability() < (8, 0):
        return f"needs compute capability 8.0, {torch.cuda.get_device_name()} is older"
    return None


def _why_unsupported(query: Tensor) -> str | None:
    if not query.is_cuda and not _is_interpreted():
        return f"it needs CUDA tensors, got one on {query.device}"
    if query.dtype not in _DTYPES:
        return f"it computes in float16, bfloat16 and float32, got {query.dtype}"
    return None


@dataclass(frozen=True)
class Tiling:
    """Sizes of a kernel's tiles; they depend only on shape and dtype, so results are reproducible."""

    rows: int
    columns: int
    block_d: int
    block_v: int
    packed: bool
    num_warps: int

    @classmethod
    def of(cls, dtype: torch.dtype, length: int, channels: int, value_channels: int) -> Tiling:
        """Return the tiling for lines of ``length``, sized for Hopper's tensor cores and shared memory."""
        half = dtype != torch.float32
        packed = length <= (32 if half else 16)  # rows // length lines share a tile
        if packed:
            rows, columns, block_d, block_v, num_warps = (64, 64, 32, 64, 8) if half else (32, 32, 32, 32, 4)
        elif half:
            rows, columns, block_d, block_v, num_warps = (
                (64, 64, 128, 128, 4) if length <= 64 else (128, 64, 128, 128, 8)
            )
        else:
            rows, columns, block_d, block_v, num_warps = 64, 32, 32, 64, 4
        block_d = min(block_d, max(16, _next_power_of_2(channels)))
        block_v = min(block_v, max(16, _next_power_of_2(value_channels)))
        return cls(rows, columns, block_d, block_v, packed, num_warps)

    def tiles(self, axis: Axis) -> int:
        """Return the number of tiles of an axis; no tile spans two clips."""
        clips, length = axis.shape[0], axis.length
        lines = axis.lines_per_clip
        per_clip = _ceil_div(lines, self.rows // length) if self.packed else lines * _ceil_div(length, self.rows)
        return clips * per_clip

    def constants(self) -> dict[str, Any]:
        """Return the kernels' keyword arguments."""
        return {
            "ROWS": self.rows, "COLUMNS": self.columns, "BLOCK_D": self.block_d, "BLOCK_V": self.block_v,
            "PACKED": self.packed, "num_warps": self.num_warps, "num_stages": 2,
        }  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One of the axes of ``[B, T, H, W]``."""

    dim: int
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        return self.shape[self.dim]

    @property
    def others(self) -> tuple[int, int, int]:
        outer, middle, inner = (d for d in range(4) if d != self.dim)
        return outer, middle, inner

    @property
    def lines_per_clip(self) -> int:
        _, middle, inner = (self.shape[d] for d in self.others)
        return middle * inner

    def sizes(self) -> tuple[int, int, int]:
        """Return length, middle and inner size, in the order of the kernels' arguments."""
        return self.length, self.shape[self.others[1]], self.shape[self.others[2]]

    def strides(self, x: Tensor) -> tuple[int, ...]:
        """Return the strides of ``[B, T, H, W, ...]`` along outer, middle, inner and axis."""
        return tuple(x.stride(d) for d in (*self.others, self.dim))


def _axes(x: Tensor) -> list[Axis]:
    """Return time and height if longer than 1, and width, which counts the position itself."""
    shape = tuple(x.shape[:4])
    return [Axis(dim, shape) for dim in (1, 2, 3) if shape[dim] > 1 or dim == 3]


def _precision(x: Tensor) -> str:
    """Return the kernels' input precision: PyTorch's setting for float32; tensor cores are exact in other dtypes."""
    if x.dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    allowed = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if allowed else "ieee"


def _on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _with_contiguous_channels(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Copy only tensors with gaps between channels; positions may have any strides."""
    return tuple(x if x.stride(-1) == 1 else x.contiguous() for x in tensors)


def _next_power_of_2(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def triton_forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the output ``[B, T, H, W, Dv]`` and the log-sum-exp of every position's scores, float32 ``[B, T, H, W]``.

    :func:`ccnet3d.attention.criss_cross_attention` documents the inputs.
    """
    from ccnet3d.attention.backends import triton_kernels as kernels

    query, key, value = _with_contiguous_channels(query, key, value)
    output = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    before, after = (torch.empty(query.shape[:4], dtype=torch.float32, device=query.device) for _ in range(2))
    channels, value_channels = query.shape[-1], value.shape[-1]
    with _on_device(query):
        for i, axis in enumerate(_axes(query)):
            tiling = Tiling.of(query.dtype, axis.length, channels, value_channels)
            grid = (tiling.tiles(axis), _ceil_div(value_channels, tiling.block_v))
            kernels.forward_kernel[grid](
                query, key, value, output, before, after, *axis.sizes(), channels, value_channels,
                *axis.strides(query), *axis.strides(key), *axis.strides(value), *axis.strides(after),
                EXCLUDE_SELF=axis.dim != 3, MERGE=i > 0, PRECISION=_precision(query), **tiling.constants(),
            )  # fmt: skip
            before, after = after, before
    return output, before


def triton_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor | None, log_sum_exp: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value from the output's gradient and the forward pass's results.

    The formula is documented in :func:`ccnet3d.attention.backends.tiled.tiled_backward`.
    """
    from ccnet3d.attention.backends import triton_kernels as kernels

    assert output is not None
    grad, query, key, value = _with_contiguous_channels(grad, query, key, value)
    grad_query, grad_key = (torch.empty(query.shape, dtype=torch.float32, device=query.device) for _ in range(2))
    grad_value = torch.empty(value.shape, dtype=value.dtype, device=value.device)
    delta = torch.empty_like(log_sum_exp)
    channels, value_channels = query.shape[-1], value.shape[-1]
    with _on_device(query):
        rows, positions = 32, delta.numel()
        kernels.delta_kernel[(_ceil_div(positions, rows),)](
            grad, output, delta, positions, *delta.shape[1:], value_channels, *grad.stride()[:4],
            ROWS=rows, BLOCK_V=min(128, max(16, _next_power_of_2(value_channels))),
        )  # fmt: skip
        for i, axis in enumerate(_axes(query)):
            tiling = Tiling.of(query.dtype, axis.length, channels, value_channels)
            tiles = tiling.tiles(axis)
            constants = tiling.constants() | {
                "EXCLUDE_SELF": axis.dim != 3, "MERGE": i > 0, "PRECISION": _precision(query),
            }  # fmt: skip
            sizes = *axis.sizes(), channels, value_channels
            of_query, of_key, of_value, of_grad, of_positions = (
                axis.strides(x) for x in (query, key, value, grad, delta)
            )
            kernels.value_gradient_kernel[(tiles, _ceil_div(value_channels, tiling.block_v))](
                query, key, grad, log_sum_exp, grad_value, *sizes,
                *of_query, *of_key, *of_grad, *of_positions, **constants,
            )  # fmt: skip
            del constants["BLOCK_V"]
            grid = (tiles, _ceil_div(channels, tiling.block_d))
            kernels.score_gradient_kernel[grid](
                query, key, grad, value, log_sum_exp, delta, grad_query, *sizes,
                *of_query, *of_key, *of_grad, *of_value, *of_positions, OWN_QUERIES=True, **constants,
            )  # fmt: skip
            kernels.score_gradient_kernel[grid](
                key, query, value, grad, log_sum_exp, delta, grad_key, *sizes,
                *of_key, *of_query, *of_value, *of_grad, *of_positions, OWN_QUERIES=False, **constants,
            )  # fmt: skip
    return grad_query.to(query.dtype), grad_key.to(key.dtype), grad_value


BACKEND = FusedBackend(
    name="triton",
    description="fused kernels for CUDA tensors in float16, bfloat16 and float32",
    why_unavailable=_why_unavailable,
    why_unsupported=_why_unsupported,
    auto_devices=("cuda",),  # the interpreter accepts CPU tensors too, but is there for tests
    forward=triton_forward,
    backward=triton_backward,
    backward_needs_output=True,
)
