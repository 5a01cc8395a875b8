"""2D backbones from timm, applied to each frame of a clip."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from ccnet3d.errors import UserError
from ccnet3d.models.deep_stem import build_deep_stem, deep_stem_of
from ccnet3d.models.timm_families import timm_with

__all__ = ["build_backbone", "feature_channels", "feature_strides", "input_normalization"]


def build_backbone(name: str, output_stride: int = 32) -> nn.Module:
    """Return a timm model that maps ``[N, 3, H, W]`` to its feature pyramid, a list with the finest level first.

    Args:
        name: a timm model that supports ``features_only``, or a ResNet of published CCNet models, ``resnet50_v1c`` or
            ``resnet50_ccnet`` (also 101 and 152); see :mod:`ccnet3d.models.deep_stem`.
        output_stride: stride of the last level, 8, 16 or 32; stages beyond it are dilated instead of strided.

    Returns:
        The module with random weights; :func:`feature_channels` returns the channels of its levels.

    Raises:
        UserError: timm does not know the model or cannot build it at this stride.
    """
    if deep_stem_of(name):
        return build_deep_stem(name, output_stride)
    timm = _timm_with_model(name)
    # Models whose stages cannot be dilated do not accept the argument; most have stride 32 without it.
    stride = {} if output_stride == 32 else {"output_stride": output_stride}
    # Transformers accept other image sizes only with one of two options; other models have neither option.
    for any_size in ({"strict_img_size": False}, {"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, features_only=True, **stride, **any_size)
        except TypeError as error:
            reason: Exception = error
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
            reason = error
            break
    raise UserError(
        f"timm cannot build {name!r} as a feature extractor at output stride {output_stride} ({reason}); "
        "choose a model from timm.list_models() and a stride of 8, 16 or 32"
    ) from reason


def input_normalization(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of RGB in [0, 1] with which timm's weights of a model were trained.

    Raises:
        UserError: timm does not know the model or its weights.

    >>> from ccnet3d.models import input_normalization
    >>> input_normalization("resnet18")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    if stem := deep_stem_of(name):
        return stem.mean, stem.std
    timm = _timm_with_model(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise UserError(f"timm does not know these weights: {error}") from error
    if config is None:
        raise UserError(f"timm has no weights for {name!r} and so does not know its normalization")
    return tuple(config.mean), tuple(config.std)


def feature_channels(backbone: nn.Module) -> list[int]:
    """Return the channels of each level of a :func:`build_backbone` module, finest first."""
    feature_info: Any = backbone.feature_info
    return list(feature_info.channels())


def feature_strides(backbone: nn.Module) -> list[int]:
    """Return the stride in pixels of each level of a :func:`build_backbone` module, finest first."""
    feature_info: Any = backbone.feature_info
    return list(feature_info.reduction())


def _timm_with_model(name: str) -> Any:
    """Return timm, after a check that the name is one of its own models, optionally with the tag of its weights.

    timm also accepts names such as ``hf_hub:...`` and ``local-dir:...``, for which it asks a server or reads a folder;
    a name in a file of unknown origin must not make it do so.

    Raises:
        UserError: timm has no such model.
    """
    plain = re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", name)
    timm = timm_with(name) if plain else None
    if timm and timm.is_model(name):
        return timm
    raise UserError(f"timm does not know the model {name[:80]!r}; choose one from timm.list_models()")
