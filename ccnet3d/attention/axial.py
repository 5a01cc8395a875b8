"""The fast backend in stock PyTorch: three axial matrix products under one softmax, a frame at a time.

Channels stay last, so that the D (or Dv) numbers of a position are contiguous and every product below
runs on strided views of the inputs: nothing is permuted into a copy. A frame at a time keeps the
scores, their softmax and the values they weigh in cache. Under autograd the weights of every frame, N x L in all,
are kept for the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _mask_self(scores: Tensor) -> Tensor:
    """Mask the diagonal of ``[..., n, n]``: the position itself is counted along the width only."""
    diagonal = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill(diagonal, float("-inf"))


def axial_criss_cross_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """See :func:`ccnet3d.attention.criss_cross_attention` for shapes and errors.

    An axis of length 1 holds nothing but the position itself and is left out, so that no softmax
    ever sees a row of -inf only.
    """
    batch, time, height, width, _ = query.shape
    frames = []
    # Without autograd the frames are written in place: a copy of the whole output costs as much as a fifth of the rest.
    differentiable = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    output = None if differentiable else torch.empty_like(value, memory_format=torch.contiguous_format)
    for b in range(batch):
        # Scores along time for the whole clip: [H*W, T, D] x [H*W, D, T] -> [H*W, T, T].
        q_time, k_time, v_time = (x[b].flatten(1, 2).transpose(0, 1) for x in (query, key, value))
        time_scores = _mask_self(q_time @ k_time.transpose(1, 2)) if time > 1 else None
        for t in range(time):
            q, k, v = query[b, t], key[b, t], value[b, t]  # [H, W, D or Dv]
            scores = [q @ k.transpose(1, 2)]  # width: [H, W, W]
            if height > 1:  # height: [W, H, H] -> [H, W, H]
                column_scores = _mask_self(q.transpose(0, 1) @ k.permute(1, 2, 0))
                scores.append(column_scores.transpose(0, 1))
            if time_scores is not None:  # time: [H, W, T]
                scores.append(time_scores[:, t].unflatten(0, (height, width)))
            weights = torch.cat(scores, dim=-1).softmax(dim=-1)  # [H, W, L]
            place = None if output is None else output[b, t]
            frame = torch.bmm(weights[..., :width], v, out=place)  # [H, W, Dv]
            if height > 1:
                column_weights = weights[..., width : width + height].transpose(0, 1)  # [W, H, H]
                frame += (column_weights @ v.transpose(0, 1)).transpose(0, 1)
            if time > 1:
                time_weights = weights[..., -time:].flatten(0, 1).unsqueeze(1)  # [H*W, 1, T]
                frame += (time_weights @ v_time).view(frame.shape)
            frames.append(frame)
    return torch.stack(frames).unflatten(0, (batch, time)) if output is None else output
