"""The network in two parts, in standard operators and for any size, as exported graphs contain it.

The frame part needs one frame; the clip part combines what is kept of the frames of one clip. The results equal those
of the network to rounding.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet3d.attention import RecurrentCrissCrossAttention
from ccnet3d.models.ccnet3d import CCNet3D, FrameFeatures
from ccnet3d.models.evidence import ClassEvidence, ClassEvidenceAttention, position_channels
from ccnet3d.models.fuse import fuse_batch_norms

__all__ = ["SIZE_STEP", "ClipPart", "FramePart", "kept_names", "network_parts"]

_PerAxis = tuple[Tensor, Tensor, Tensor]
"""Tensors of the row, column and time axes."""

SIZE_STEP = 32
"""Pixels: height and width of the frames are multiples of it, so that every stride divides them."""


def network_parts(model: CCNet3D, dtype: torch.dtype = torch.float32) -> tuple[FramePart, ClipPart]:
    """Return the two parts of a model, with batch norms fused, in evaluation mode.

    Args:
        model: on the CPU.
        dtype: of the frame part's products; its outputs and the clip part are in float32.

    >>> from ccnet3d.models import ModelConfig
    >>> config = ModelConfig(num_classes=3, backbone="test_efficientnet", channels=16)
    >>> model = CCNet3D(config).eval()
    >>> frame_part, clip_part = network_parts(model)
    >>> with torch.inference_mode():
    ...     kept = frame_part(torch.rand(2, 3, 64, 96))
    ...     clip_part(torch.tensor([1]), *kept).shape  # the logits of the second frame of a clip of two
    torch.Size([1, 3, 32, 48])
    """
    network = fuse_batch_norms(model)
    _fix_padding(network)
    frame_part, clip_part = FramePart(network, dtype).eval(), ClipPart(network).eval()
    if dtype != torch.float32:
        clip_part = network_parts(model)[1]
        in_float32 = set(network.evidence.modules()) if network.evidence else set()
        for module in network.modules():
            if module not in in_float32 and not list(module.children()):
                module.to(dtype)
    return frame_part, clip_part


def kept_names(network: CCNet3D) -> list[str]:
    """Return the names of the frame part's outputs, which the clip part has as inputs."""
    if not network.mixes_before_decoder:
        return ["frame_logits", *([] if network.evidence is None else ClassEvidence._fields)]
    skips = [f"skip_{level}" for level in network.config.skip_levels]
    return ["context", "reduced", *skips, *([] if network.evidence is None else ["level"])]


class FramePart(nn.Module):
    """Frames ``[N, 3, H, W]``, RGB in [0, 1], to what a stream keeps of them: float32, named by :func:`kept_names`."""

    def __init__(self, network: CCNet3D, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        network = self.network
        normalized = ((frames - network.input_mean.float()) / network.input_std.float()).to(self.dtype)
        levels = network.backbone(normalized)
        if getattr(network.backbone, "output_fmt", "NCHW") == "NHWC":
            levels = [level.permute(0, 3, 1, 2) for level in levels]
        features = network.frame_features(levels)
        kept: tuple[Tensor | None, ...]
        if network.mixes_before_decoder:
            kept = (features.context, features.reduced, *features.skips, features.level)
        else:
            decoded = network.decode(features, network.attend(features.reduced, clip_length=1))
            kept = (decoded.logits, *(decoded.evidence or ()))
        return tuple(tensor.float() for tensor in kept if tensor is not None)


class ClipPart(nn.Module):
    """What is kept of the T frames of a clip to logits ``[M, K, h, w]`` of M of them.

    The first argument, int64 ``[M]``, is the offsets of these frames; the others, ``[T, ...]`` each, are the frame
    part's outputs.
    """

    def __init__(self, network: CCNet3D) -> None:
        super().__init__()
        self.network = network

    def forward(self, offsets: Tensor, *kept: Tensor) -> Tensor:
        network = self.network
        if not network.mixes_before_decoder:
            logits, *described = kept
            if network.evidence is None:
                return logits[offsets]
            return _settle(network.evidence, offsets, logits, ClassEvidence(*described))
        context, reduced, *others = kept
        level = others.pop() if network.evidence is not None else None
        attended = _attend(network, reduced)
        if network.evidence is None:
            context, attended, others = context[offsets], attended[offsets], [skip[offsets] for skip in others]
        logits = network.frame_logits(FrameFeatures(context, reduced, tuple(others)), attended)
        if network.evidence is None:
            return logits
        evidence = network.evidence.embed(cast(Tensor, level), logits)
        return _settle(network.evidence, offsets, logits, evidence)


def _attend(network: CCNet3D, reduced: Tensor) -> Tensor:
    """Apply the attention before the decoder to one clip, ``[T, C, h, w]``."""
    attention = network.head.attention
    assert attention is not None
    if not isinstance(attention, RecurrentCrissCrossAttention):
        return attention(reduced.transpose(0, 1)[None])[0].transpose(0, 1)
    convolutions = (attention.query_conv, attention.key_conv, attention.value_conv)
    for _ in range(attention.loops):
        query, key, value = (
            F.conv2d(reduced, conv.weight.squeeze(-1), conv.bias).permute(0, 2, 3, 1) for conv in convolutions
        )
        change = _mix(_cross_weights(query, key), value).permute(0, 3, 1, 2)
        reduced = reduced + attention.gamma * change
    return reduced


def _settle(module: ClassEvidenceAttention, offsets: Tensor, logits: Tensor, evidence: ClassEvidence) -> Tensor:
    """Apply the class evidence attention to one clip; see :meth:`ClassEvidenceAttention.forward`.

    Embeddings are both queries and keys here; scores that depend on the places or the key alone are added to theirs.
    """
    embedding = (evidence.embedding * (0.5 * module.log_temperature).exp()).permute(0, 2, 3, 1)
    weights = _cross_weights(embedding, embedding, _added_scores(module, evidence))
    values = before = evidence.evidence.permute(0, 2, 3, 1)
    for _ in range(module.loops):
        values = _mix(weights, values)
    change = (values - before).permute(0, 3, 1, 2)[offsets]
    return module.revised(logits[offsets], change)


def _added_scores(module: ClassEvidenceAttention, evidence: ClassEvidence) -> _PerAxis:
    """Return the part of the scores that is not the embeddings' product, to be broadcast to each axis's layout."""
    places = position_channels(evidence.embedding)[0].permute(1, 2, 0)  # [h, w, P]
    row, column = places[0], places[:, 0]  # products depend on the difference of two places
    reliability = evidence.reliability.permute(0, 2, 3, 1)  # [T, h, w, 1]
    weight = module.position_weight
    return (
        weight * (row @ row.T) + module.frame_weight + reliability.transpose(2, 3),
        weight * (column @ column.T) + module.frame_weight + reliability.permute(0, 2, 3, 1),
        weight + reliability.permute(1, 2, 3, 0),
    )


def _cross_weights(query: Tensor, key: Tensor, added: _PerAxis | None = None) -> _PerAxis:
    """Return the weights of the row, column and time axes, up to a factor per position, from ``[T, h, w, D]``.

    The weights are ``[T, h, w, w]``, ``[T, w, h, h]`` and ``[h, w, T, T]``, the layouts in which they are products: no
    axis of theirs is moved or joined to another's, because they are most of the memory.

    Args:
        query: what looks at its cross.
        key: what is looked at.
        added: to the products, broadcast to them.
    """
    row = query @ key.transpose(2, 3)
    column = query.transpose(1, 2) @ key.transpose(1, 2).transpose(2, 3)
    time = query.permute(1, 2, 0, 3) @ key.permute(1, 2, 0, 3).transpose(2, 3)
    if added is not None:
        row, column, time = row + added[0], column + added[1], time + added[2]
    # Only the row counts the position itself. A finite number: some runtimes compute inf - inf for a single frame.
    time = time - 1e9 * _diagonal(time)
    largest = torch.maximum(row.amax(-1), column.amax(-1).transpose(1, 2))
    largest = torch.maximum(largest, time.amax(-1).permute(2, 0, 1))
    row = (row - largest[..., None]).exp()
    column = (column - largest.transpose(1, 2)[..., None]).exp() * (1 - _diagonal(column))
    time = (time - largest.permute(1, 2, 0)[..., None]).exp()
    return row, column, time


def _mix(weights: _PerAxis, value: Tensor) -> Tensor:
    """Return the weighted means of values ``[T, h, w, Dv]`` over each position's cross."""
    row, column, time = weights
    counted = torch.cat([value, torch.ones_like(value[..., :1])], dim=-1)  # the last channel sums the weights
    over_columns = (column @ counted.transpose(1, 2)).transpose(1, 2)
    sums = row @ counted + over_columns + (time @ counted.permute(1, 2, 0, 3)).permute(2, 0, 1, 3)
    return sums[..., :-1] / sums[..., -1:]


def _diagonal(scores: Tensor) -> Tensor:
    """Return the unit matrix of the last axis of ``[..., n, n]``."""
    places = torch.arange(scores.shape[-1], device=scores.device)
    return (places[:, None] == places).to(scores.dtype)


def _fix_padding(network: nn.Module) -> None:
    """Replace padding that timm computes from each input's size by that of sizes that the stride divides."""
    from timm.layers import Conv2dSame  # not at the top: most commands need no part of timm but their backbone's family

    for name, module in list(network.named_modules()):
        if not isinstance(module, Conv2dSame):
            continue
        totals = [
            max((k - 1) * d + 1 - s, 0)
            for k, d, s in zip(module.kernel_size, module.dilation, module.stride, strict=True)
        ]
        (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
        fixed = nn.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size[0], dilation=module.dilation[0],
            groups=module.groups, bias=module.bias is not None,
        )  # fmt: skip
        fixed.kernel_size, fixed.stride, fixed.dilation = module.kernel_size, module.stride, module.dilation
        fixed.weight, fixed.bias = module.weight, module.bias
        network.set_submodule(name, nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), fixed))
