"""Weights of published 2D CCNets under the names of ours: mmsegmentation's, and those of CCNet's authors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.models.deep_stem import deep_stem_name
from ccnet3d.wording import count_of

__all__ = ["AUTHORS", "MMSEGMENTATION", "PublishedWeights", "rename_published"]

MMSEGMENTATION = "mmsegmentation"
AUTHORS = "CCNet's authors"

_EXPECTED = {
    MMSEGMENTATION: "backbone.stem.*, backbone.layer1.* to layer4.*, decode_head.convs.0.*, decode_head.convs.1.*, "
    "decode_head.cca.*, decode_head.conv_cat.*, decode_head.conv_seg.* and auxiliary_head.*",
    AUTHORS: "conv1.* to bn3.*, layer1.* to layer4.*, head.conva.*, head.cca.*, head.convb.*, head.bottleneck.* and "
    "dsn.*",
}

_DECODE_HEAD = {
    "convs.0.conv": "head.reduce.0",
    "convs.0.bn": "head.reduce.1",
    "cca.query_conv": "head.attention.query_conv",
    "cca.key_conv": "head.attention.key_conv",
    "cca.value_conv": "head.attention.value_conv",
    "convs.1.conv": "head.refine.0",
    "convs.1.bn": "head.refine.1",
    "conv_cat.conv": "head.fuse.0.0",
    "conv_cat.bn": "head.fuse.0.1",
    "conv_seg": "classifier",
}
_AUXILIARY_HEAD = {"convs.0.conv": "auxiliary.0.0", "convs.0.bn": "auxiliary.0.1", "conv_seg": "auxiliary.2"}

_AUTHORS_PARTS = {
    "head.conva": "head.reduce",
    "head.conv1a": "head.reduce",  # as in the first version
    "head.cca": "head.attention",
    "head.pc": "head.attention",
    "head.convb": "head.refine",
    "head.conv1b": "head.refine",
    "head.bottleneck": "head.fuse.0",
    "dsn": "auxiliary.0",
}
_AUTHORS_CLASSIFIERS = {"head.bottleneck": "classifier", "dsn": "auxiliary.2"}

_ABN_EPSILON = 1e-5
_ABN_SLOPE = 0.01
"""Of In-Place ABN (Rota Bulo et al., CVPR 2018), which scales by |weight| + epsilon and then applies a leaky ReLU."""


class PublishedWeights(NamedTuple):
    """The result of :func:`rename_published`."""

    source: str
    """``MMSEGMENTATION`` or ``AUTHORS``."""
    weights: dict[str, Tensor]
    """By the names of ours."""
    stem: str
    """The end of the backbone's name, such as ``_v1c``; empty for timm's own ResNets."""
    negative_slope: float
    """Of the activations of the heads."""

    @property
    def expected(self) -> str:
        """What such files have, for messages."""
        return f"{self.source} has {_EXPECTED[self.source]}"


def rename_published(state: Mapping[str, Tensor]) -> PublishedWeights:
    """Return the weights of a published network under our names, changed where the layers compute something else.

    Raises:
        UserError: weights of another network, or of these with other parts.
    """
    if "decode_head.cca.query_conv.weight" in state:
        source, rename = MMSEGMENTATION, _from_mmsegmentation
    elif "head.cca.query_conv.weight" in state or "head.pc.query_conv.weight" in state:
        source, rename = AUTHORS, _from_authors
    else:
        example = f"{', '.join(sorted(state)[:3])}, ..." if state else "no weights"
        expected = "; ".join(f"{name} has {keys}" for name, keys in _EXPECTED.items())
        raise UserError(f"not a CCNet of a known kind, it has {example}; {expected}")
    try:
        return rename(state)
    except UserError as error:
        raise UserError(f"{error}; {source} has {_EXPECTED[source]}") from error


def _from_mmsegmentation(state: Mapping[str, Tensor]) -> PublishedWeights:
    if "backbone.layer1.0.downsample.2.weight" in state:
        raise UserError("its backbone pools in its shortcuts (ResNetV1d), ours does not")
    plain = "backbone.conv1.weight" in state  # a stem of one 7x7 convolution, as timm's

    def name_of(key: str) -> str | None:
        part, _, rest = key.partition(".")
        layer, _, parameter = rest.rpartition(".")
        if part == "backbone":
            name = rest if plain else deep_stem_name(rest, "v1c")
            return name and f"backbone.{name}"
        if key == "decode_head.cca.gamma.scale":
            return "head.attention.gamma"
        layers = {"decode_head": _DECODE_HEAD, "auxiliary_head": _AUXILIARY_HEAD}.get(part, {})
        return f"{layers[layer]}.{parameter}" if layer in layers else None

    return PublishedWeights(MMSEGMENTATION, _renamed(state, name_of), "" if plain else "_v1c", 0.0)


def _from_authors(state: Mapping[str, Tensor]) -> PublishedWeights:
    state = {key: value for key, value in state.items() if not key.startswith("criterion.")}  # of the loss
    # In-Place ABN includes its activation; a batch norm is followed by a ReLU, so that the classifier is a layer later.
    separate = "head.bottleneck.4.weight" in state
    in_place = not separate and not any(key.endswith("num_batches_tracked") for key in state)  # which ABN does not have
    classifiers = {f"{part}.{4 if separate else 3}": name for part, name in _AUTHORS_CLASSIFIERS.items()}

    def name_of(key: str) -> str | None:
        layer, _, parameter = key.rpartition(".")
        place = layer.removesuffix(".bn")  # of a sequence of norm and activation
        part, _, number = place.rpartition(".")
        if place in classifiers:
            return f"{classifiers[place]}.{parameter}"
        if part in _AUTHORS_PARTS:
            return f"{_AUTHORS_PARTS[part]}.{number}.{parameter}"
        if key in ("head.cca.gamma", "head.pc.gamma"):
            return "head.attention.gamma"
        name = deep_stem_name(key, "ccnet")
        return name and f"backbone.{name}"

    weights = _renamed(state, name_of)
    if "backbone.conv1.0.weight" in weights:
        weights["backbone.conv1.0.weight"] = weights["backbone.conv1.0.weight"].flip(1)  # of BGR
    for key in [key for key in weights if in_place and key.endswith(".running_var")]:
        weight = f"{key.removesuffix('running_var')}weight"
        if weight in weights:
            weights[weight] = weights[weight].abs() + _ABN_EPSILON
    bias = weights.pop("auxiliary.0.0.bias", None)
    if bias is not None and "auxiliary.0.1.running_mean" in weights:  # ours has none before a norm: less mean instead
        weights["auxiliary.0.1.running_mean"] = weights["auxiliary.0.1.running_mean"] - bias
    sequence = any(re.fullmatch(r"head\.conv1?a\.1\.bn\.weight", key) for key in state)
    relu = separate or (sequence and not in_place)
    return PublishedWeights(AUTHORS, weights, "_ccnet", 0.0 if relu else _ABN_SLOPE)


def _renamed(state: Mapping[str, Tensor], name_of: Callable[[str], str | None]) -> dict[str, Tensor]:
    names = {key: name_of(key) for key in state}
    if other := sorted(key for key, name in names.items() if name is None):
        raise UserError(f"it has {count_of(len(other), 'weight')} of other parts, such as {other[0]}")
    weights = {str(name): state[key] for key, name in names.items()}
    gamma = "head.attention.gamma"
    return weights | ({gamma: weights[gamma].reshape(-1)} if gamma in weights else {})
