"""ResNets of published CCNet models that timm does not name: their stem has three 3x3 convolutions."""

from __future__ import annotations

import re
from typing import NamedTuple

from torch import nn

from ccnet3d.models.timm_families import timm_with

__all__ = ["DEEP_STEMS", "DeepStem", "build_deep_stem", "deep_stem_name", "deep_stem_of"]


class DeepStem(NamedTuple):
    """What differs from timm's ResNet of the same depth."""

    stem_width: int
    """Channels of the first two convolutions; the third has twice as many."""
    contracted: bool
    """Whether the first block of a dilated stage has the dilation of the stage before, as timm's."""
    ceil_pool: bool
    """Whether the pooling after the stem keeps an incomplete last cell."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Mean and standard deviation of RGB in [0, 1] that the public weights were trained with."""


DEEP_STEMS = {
    # ResNetV1c of OpenMMLab (He et al., Bag of Tricks, arXiv 1812.01187, without the other changes there).
    "v1c": DeepStem(32, True, False, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # That of CCNet's authors, after MIT CSAIL's. Its images are 0 to 255 less the mean of ImageNet, without a division.
    "ccnet": DeepStem(64, False, True, (122.67891434 / 255, 116.66876762 / 255, 104.00698793 / 255), (1 / 255,) * 3),
}
"""By the end of the backbone's name, as in ``resnet101_v1c``."""

_NAME = re.compile(rf"(resnet(?:50|101|152))_({'|'.join(DEEP_STEMS)})")

_TIMM_STEM = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
_STEM_LAYERS = {
    "v1c": dict(zip(("stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7"), _TIMM_STEM, strict=True)),
    "ccnet": dict(zip(("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"), _TIMM_STEM, strict=True)),
}
"""Convolutions and norms of the stem in public files, and those of timm."""


def deep_stem_of(name: str) -> DeepStem | None:
    """Return what differs in the backbone of a name, None for backbones of timm.

    >>> deep_stem_of("resnet101_v1c").stem_width, deep_stem_of("resnet101")
    (32, None)
    """
    match = _NAME.fullmatch(name)
    return DEEP_STEMS[match[2]] if match else None


def build_deep_stem(name: str, output_stride: int) -> nn.Module:
    """Return the feature extractor of a name that :func:`deep_stem_of` knows, with random weights.

    >>> build_deep_stem("resnet50_v1c", 8).conv1[0].weight.shape
    torch.Size([32, 3, 3, 3])
    """
    stem = deep_stem_of(name)
    assert stem is not None
    timm_name = name.partition("_")[0]
    backbone = timm_with(timm_name).create_model(
        timm_name,
        features_only=True,
        output_stride=output_stride,
        stem_type="deep",
        stem_width=stem.stem_width,
    )
    backbone.maxpool.ceil_mode = stem.ceil_pool
    if not stem.contracted:
        for stage in (backbone.layer3, backbone.layer4):
            first, second = stage[0].conv2, stage[1].conv2
            if second.dilation != (1, 1):
                first.dilation, first.padding = second.dilation, second.padding
    return backbone


def deep_stem_name(key: str, kind: str) -> str | None:
    """Return timm's name of a weight of a public ResNet, None for weights of other parts.

    Args:
        key: its name in the file, without a prefix.
        kind: a key of ``DEEP_STEMS``.

    >>> deep_stem_name("stem.3.weight", "v1c"), deep_stem_name("bn3.bias", "ccnet"), deep_stem_name("fc.bias", "v1c")
    ('conv1.3.weight', 'bn1.bias', None)
    """
    layer, _, parameter = key.rpartition(".")
    if layer in _STEM_LAYERS[kind]:
        return f"{_STEM_LAYERS[kind][layer]}.{parameter}"
    return key if re.match(r"layer[1-4]\.", key) else None
