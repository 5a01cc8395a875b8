"""The alternatives that bench_attention.py compares criss-cross attention with, written from their definitions."""

from __future__ import annotations

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
