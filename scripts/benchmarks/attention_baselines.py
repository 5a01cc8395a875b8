"""The alternatives that bench_attention.py compares criss-cross attention with, written from their definitions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.attention import criss_cross_attention


def seed_style(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute criss-cross attention of ``[B, C, T, H, W]`` as public implementations do.

    For each axis the tensors are permuted and copied so that the axis is last, multiplied in one batch and copied back;
    one softmax covers the concatenated scores of the three axes.
    """
    axes = (4, 3, 2)  # width, height, time
    scores, rows = [], []
    for axis in axes:
        others = [a for a in (2, 3, 4) if a != axis]
        order = [0, *others, axis, 1]
        q, k, v = (x.permute(order).contiguous() for x in (query, key, value))
        length = q.shape[3]
        energy = torch.bmm(q.flatten(0, 2), k.flatten(0, 2).transpose(1, 2))
        if axis != 4:  # only the width axis counts the position itself
            energy = energy + torch.diag(torch.full((length,), float("-inf"), device=energy.device)).to(energy.dtype)
        # [B, others, axis, L] -> [B, T, H, W, L]
        back = [0, *(1 + [*others, axis].index(a) for a in (2, 3, 4)), 4]
        scores.append(energy.view(*q.shape[:4], length).permute(back).contiguous())
        rows.append((v, [0, *(a - 1 for a in [*others, axis]), 4], [0, 4, *(b for b in back[1:4])]))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1)
    output = torch.zeros_like(value)
    for part, (v, to_rows, to_output) in zip(weights.split([s.shape[-1] for s in scores], -1), rows, strict=True):
        along = part.permute(to_rows).contiguous()
        product = torch.bmm(along.flatten(0, 2), v.flatten(0, 2)).view(v.shape)
        output = output + product.permute(to_output).contiguous()
    return output


def per_frame(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute 2D criss-cross attention of each frame of ``[B, T, H, W, .]``, to show the cost of the time axis."""
    frames = criss_cross_attention(*(x.flatten(0, 1).unsqueeze(1) for x in (query, key, value)))
    return frames.view(value.shape)


def non_local(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from every position of ``[B, T, H, W, .]`` to every other (Wang et al., CVPR 2018)."""
    q, k, v = (x.flatten(1, 3).unsqueeze(1) for x in (query, key, value))  # [B, 1, N, .]
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).squeeze(1).unflatten(1, value.shape[1:4])


def in_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Flatten the positions and give every head equal queries and keys, and as many of the value's channels as those.

    Kernels that store no map want few value channels; they compute the scores once for every head.
    """
    heads = value.shape[-1] // query.shape[-1]
    q, k = (x.flatten(1, 3).unsqueeze(1).expand(-1, heads, -1, -1) for x in (query, key))
    return q, k, value.flatten(1, 3).unflatten(-1, (heads, -1)).transpose(1, 2)


def non_local_flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute ``non_local`` without storing a map."""
    attended = F.scaled_dot_product_attention(*in_heads(query, key, value), scale=1.0)
    return attended.transpose(1, 2).reshape(value.shape)


@functools.cache
def cross_blocks(time: int, height: int, width: int, device: torch.device) -> Any:
    """Return the block mask of all crosses: of two positions on one line, two coordinates are equal."""
    from torch.nn.attention.flex_attention import create_block_mask

    def on_cross(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        frame = query // (height * width) == key // (height * width)
        row = query // width % height == key // width % height
        column = query % width == key % width
        return (row & column) | (frame & column) | (frame & row)

    positions = time * height * width
    with torch.inference_mode(False):  # the mask is kept, and may not be of inference mode in a backward pass
        return create_block_mask(on_cross, None, None, positions, positions, device=str(device))


@functools.cache
def compiled_flex_attention() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute criss-cross attention of ``[B, T, H, W, .]`` by PyTorch's FlexAttention with a block mask."""
    blocks = cross_blocks(*value.shape[1:4], value.device)
    attended: Tensor = compiled_flex_attention()(*in_heads(query, key, value), block_mask=blocks, scale=1.0)
    return attended.transpose(1, 2).reshape(value.shape)


def axial(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Add the attentions along each axis of ``[B, T, H, W, .]``, each with its own softmax.

    This is the axial attention of Ho et al. (arXiv 1912.12180) with parallel axes.
    """
    output = torch.zeros_like(value)
    for axis in (1, 2, 3):
        lines = [x.movedim(axis, 3).contiguous() for x in (query, key, value)]  # [B, ., ., axis, .]
        q, k, v = (x.flatten(0, 2).unsqueeze(1) for x in lines)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        output = output + attended.view(lines[2].shape).movedim(3, axis)
    return output
