"""Criss-cross attention over class evidence: the scores of single frames, revised with the rest of the clip.

Axes: N = B*T frames, C feature channels, K classes, E embedding channels, h and w the grid (stride 8 or 16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ccnet3d.attention import criss_cross_attention
from ccnet3d.models.blocks import average_like, resize_like

__all__ = ["ClassEvidence", "ClassEvidenceAttention", "position_channels"]

_FREQUENCIES = (1, 2, 4, 8)
"""Half periods of the position channels along an axis."""


class ClassEvidence(NamedTuple):
    """The inputs of the attention for N frames; the first axis of each is N."""

    embedding: Tensor
    """``[N, E, h, w]``, unit length: what a position looks like and which classes it may be."""
    reliability: Tensor
    """``[N, 1, h, w]``, added to every score of the position as a key; smooth, learned, 0 before training."""
    evidence: Tensor
    """``[N, K, h, w]``, logits averaged over the cells of the grid."""


class _RunningNorm(nn.Module):
    """Normalize channels by their running mean and variance, in training too.

    Statistics of a batch of two scenes would make the embedding depend on the company that a frame keeps; here a batch
    only updates the running ones, as a mean of the first hundred batches and exponentially from there on.
    """

    mean: Tensor
    variance: Tensor
    batches: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize ``[N, C, h, w]``."""
        if self.training:
            with torch.no_grad():
                variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
                self.batches += 1
                momentum = 1 / self.batches.clamp(max=100)
                self.mean.lerp_(mean.to(self.mean), momentum)
                self.variance.lerp_(variance.to(self.variance), momentum)
        scale = (self.variance + 1e-5).rsqrt()
        return (x - self.mean.to(x.dtype).view(-1, 1, 1)) * scale.to(x.dtype).view(-1, 1, 1)


class ClassEvidenceAttention(nn.Module):
    """Criss-cross attention that revises the class scores of every position by those of its cross, R times.

    The score of a position u and a key i on its cross is ``temperature * <e_u, e_i> + position_weight * <p_u, p_i> +
    frame_weight * [u and i are of one frame] + r_i``: e are unit embeddings of features and logits, p sines and cosines
    of height and width, r a reliability computed for each key. Values are the class logits; the attention weights are
    the same in all loops. The change of the evidence is resized and added to the logits.

    Of the T + H + W - 2 positions of a cross only T - 1 are in other frames, so without ``frame_weight``, which starts
    below 0, they hardly count.

    This has the form of mean-field inference in a CRF (Kraehenbuehl and Koltun, NeurIPS 2011) on the criss-cross graph,
    without a compatibility matrix. It differs from CCNet (arXiv 1811.11721, section 3) in its place, after the decoder
    instead of before the classifier, and in its values, class logits instead of features.

    Args:
        feature_channels: C of the features on the attention's grid.
        num_classes: K.
        loops: R, at least 1.
        temperature: initial weight of the embeddings' cosine; learned.
        reliability_cells: side, odd, of the square over which reliability is averaged. It is meant for damage, which
            covers areas; judging single cells favors large classes over thin ones.

    Raises:
        ValueError: ``loops`` is less than 1, or ``reliability_cells`` is not an odd number.

    >>> module = ClassEvidenceAttention(feature_channels=8, num_classes=3)
    >>> features, logits = torch.randn(5, 8, 6, 8), torch.randn(5, 3, 24, 32)  # one clip of T = 5 frames
    >>> module(logits, module.embed(features, logits), clip_length=5).shape
    torch.Size([5, 3, 24, 32])
    """

    def __init__(
        self,
        feature_channels: int,
        num_classes: int,
        *,
        loops: int = 2,
        temperature: float = 10.0,
        reliability_cells: int = 9,
    ) -> None:
        super().__init__()
        if loops < 1:
            raise ValueError(f"loops must be at least 1, got {loops}")
        if reliability_cells < 1 or reliability_cells % 2 == 0:
            raise ValueError(f"reliability_cells must be an odd number, got {reliability_cells}")
        cells, margin = reliability_cells, reliability_cells // 2
        self.smooth = nn.Sequential(  # along height, then width: together the mean over a square
            nn.AvgPool2d((cells, 1), 1, (margin, 0), count_include_pad=False),
            nn.AvgPool2d((1, cells), 1, (0, margin), count_include_pad=False),
        )
        self.loops = loops
        channels = feature_channels + num_classes
        self.feature_norm = _RunningNorm(feature_channels)
        self.evidence_norm = _RunningNorm(num_classes)
        self.embedding = nn.Conv2d(channels, channels, 1)
        self.reliability = nn.Sequential(
            nn.Conv2d(channels + 2, 32, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(32, 1, 1)
        )
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.position_weight = nn.Parameter(torch.tensor(0.0))
        self.frame_weight = nn.Parameter(torch.tensor(-1.0))
        self.gamma = nn.Parameter(torch.tensor(1.0))
        nn.init.dirac_(self.embedding.weight)  # before training the embedding is its input
        nn.init.zeros_(self.embedding.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.reliability[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.reliability[-1].bias)  # type: ignore[arg-type]

    def embed(self, features: Tensor, logits: Tensor) -> ClassEvidence:
        """Compute what the attention needs of each frame, independently of the clips that it will be part of.

        Args:
            features: ``[N, C, h, w]``.
            logits: ``[N, K, H, W]``, at least as fine.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._embed(_at_least_float32(features), _at_least_float32(logits))

    def _embed(self, features: Tensor, logits: Tensor) -> ClassEvidence:
        evidence = average_like(logits, features)
        parts = (self.feature_norm(features), self.evidence_norm(evidence))
        described = torch.cat([F.normalize(part, dim=1) for part in parts], dim=1) / math.sqrt(2)
        probabilities = evidence.softmax(1)
        doubt = torch.cat([probabilities.amax(1, keepdim=True), features.square().mean(1, keepdim=True).log1p()], dim=1)
        reliability = self.smooth(self.reliability(torch.cat([described, doubt], dim=1)))
        return ClassEvidence(F.normalize(self.embedding(described), dim=1), reliability, evidence)

    def forward(self, logits: Tensor, evidence: ClassEvidence, clip_length: int) -> Tensor:
        """Revise the logits of whole clips.

        Args:
            logits: ``[B*T, K, H, W]``, frames of a clip one after the other.
            evidence: of the same frames, from :meth:`embed`.
            clip_length: T.

        Returns:
            ``[B*T, K, H, W]``.
        """
        with torch.autocast(logits.device.type, enabled=False):  # bfloat16 would round logits to 8 bits
            query, key = self.queries_and_keys(evidence, clip_length)
            values = before = _to_clips([evidence.evidence], clip_length)
            for _ in range(self.loops):
                values = criss_cross_attention(query, key, values)
        return self.revised(logits, (values - before).flatten(0, 1).permute(0, 3, 1, 2))

    def revised(self, logits: Tensor, change: Tensor) -> Tensor:
        """Return the logits ``[N, K, H, W]`` with a change of the evidence ``[N, K, h, w]`` added."""
        return logits + resize_like(self.gamma * change, logits)

    def queries_and_keys(self, evidence: ClassEvidence, clip_length: int) -> tuple[Tensor, Tensor]:
        """Return the queries and keys of every loop, ``[B, T, h, w, D]`` each, whose products are the scores.

        Args:
            evidence: of B*T frames, those of a clip one after the other, from :meth:`embed`.
            clip_length: T.
        """
        embedding, reliability = evidence.embedding, evidence.reliability
        positions = _repeated(position_channels(embedding), len(embedding))
        frames = _frames(embedding, clip_length)
        query = [self.log_temperature.exp() * embedding, self.position_weight * positions, self.frame_weight * frames]
        return (
            _to_clips([*query, torch.ones_like(reliability)], clip_length),
            _to_clips([embedding, positions, frames, reliability], clip_length),
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def position_channels(like: Tensor) -> Tensor:
    """Return ``[1, P, h, w]``: unit vectors, whose products depend on differences of height and width alone.

    Args:
        like: ``[N, C, h, w]``.
    """
    channels = []
    for axis in (-2, -1):
        length = like.shape[axis]
        place = (torch.arange(length, device=like.device, dtype=like.dtype) + 0.5) / length
        angles = torch.pi * place * torch.tensor(_FREQUENCIES, device=like.device, dtype=like.dtype)[:, None]
        waves = torch.cat([angles.sin(), angles.cos()])  # [2 * frequencies, length]
        shape = (len(waves), length, 1) if axis == -2 else (len(waves), 1, length)
        channels.append(waves.view(shape).expand(-1, *like.shape[-2:]))
    return torch.cat(channels)[None] / math.sqrt(2 * len(_FREQUENCIES))


def _repeated(x: Tensor, count: int) -> Tensor:
    """Repeat ``[1, C, h, w]`` in memory with channels last: what only seems to be repeated is slow to join."""
    return x.expand(count, -1, -1, -1).contiguous(memory_format=torch.channels_last)


def _frames(like: Tensor, clip_length: int) -> Tensor:
    """``[B*T, T, h, w]``: which frame of its clip, one-hot, so that products are 1 within a frame and 0 between two."""
    one_hot = torch.eye(clip_length, device=like.device, dtype=like.dtype).repeat(len(like) // clip_length, 1)
    return one_hot[:, :, None, None].expand(-1, -1, *like.shape[-2:]).contiguous(memory_format=torch.channels_last)


def _to_clips(parts: Sequence[Tensor], clip_length: int) -> Tensor:
    """Join ``[B*T, C, h, w]`` along their channels, as the operator's ``[B, T, h, w, C]`` in one copy."""
    return torch.cat([part.permute(0, 2, 3, 1) for part in parts], dim=-1).unflatten(0, (-1, clip_length))
