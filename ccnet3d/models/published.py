"""Published 2D CCNet checkpoints as models with the same outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.files import is_file, load_tensors
from ccnet3d.models.architecture import ModelConfig
from ccnet3d.models.backbone import input_normalization
from ccnet3d.models.ccnet3d import CCNet3D
from ccnet3d.models.published_names import AUTHORS, PublishedWeights, rename_published
from ccnet3d.wording import count_of

__all__ = ["PublishedModel", "load_published"]

_RESNETS = {(3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}
"""By the number of bottleneck blocks in each stage."""


class PublishedModel(NamedTuple):
    """The result of :func:`load_published`."""

    model: CCNet3D
    """In evaluation mode, in float32 on the CPU."""
    source: str
    """Whose code wrote the file."""
    class_names: tuple[str, ...]
    """By id, as the file says; empty if it does not."""
    palette: tuple[tuple[int, int, int], ...]
    """RGB of each class, as the file says; empty if it does not."""
    notes: tuple[str, ...]
    """What was assumed because the file does not say it, one line each."""


def load_published(path: Path, *, loops: int | None = None, align_corners: bool | None = None) -> PublishedModel:
    """Load a published 2D CCNet as a model with the same outputs.

    Two kinds are known, each with a dilated ResNet-50, 101 or 152 of output stride 8:

    - mmsegmentation's ``CCHead`` on a ResNetV1c;
    - the network of CCNet's authors (``speedinghzl/CCNet``), with In-Place ABN or batch norms. Its images are BGR, 0 to
      255 less a mean: the first convolution becomes one of RGB, and the model's normalization does the rest.

    Outputs are equal up to rounding for frames whose sides are multiples of 8; with aligned corners for all sizes.

    Args:
        path: safetensors, or a PyTorch file with only tensors and plain values.
        loops: R, which the weights do not show; None for what the file says, or 2 if it says nothing.
        align_corners: how logits are enlarged; None for what the file says. If it says nothing, it is False for
            mmsegmentation (whose configurations for 769x769 have True) and True for the authors.

    Raises:
        UserError: no such file, one with other contents, or another network.

    >>> load_published(Path("absent.pth"))
    Traceback (most recent call last):
    ccnet3d.errors.UserError: there is no file absent.pth
    """
    state, meta = _read(path)
    try:
        found = rename_published(state)
        config, notes = _configure(found, meta, loops, align_corners)
        model = CCNet3D(config)
        notes += _load(model, found)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return PublishedModel(model.eval(), found.source, *_classes(meta, config.num_classes), tuple(notes))


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """Return the weights of a file, without the prefixes of wrappers, and what it says about itself."""
    if not is_file(path):
        raise UserError(f"there is no file {path}")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except Exception as error:
        raise UserError(
            f"{path} cannot be read as tensors and plain values alone; files with other objects can run code. If you "
            "trust it, save its weights: torch.save(torch.load(FILE, weights_only=False)['state_dict'], 'weights.pth')"
        ) from error
    meta = content.get("meta") if isinstance(content, dict) else None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UserError(f"{path} contains a {type(content).__name__}, expected weights by name")
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    while state and all(key.startswith("module.") for key in state):  # of DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, meta if isinstance(meta, dict) else {}


def _configure(
    found: PublishedWeights, meta: Mapping[str, Any], loops: int | None, align_corners: bool | None
) -> tuple[ModelConfig, list[str]]:
    """Return the architecture that the shapes and the file's own configuration show, and what was assumed."""
    weights, notes = found.weights, []
    for name in ("head.reduce.0.weight", "head.attention.query_conv.weight", "classifier.weight"):
        if name not in weights:
            raise UserError(f"the weight that becomes {name} is missing; {found.expected}")
    counts = tuple(_count_blocks(weights, stage) for stage in range(1, 5))
    if counts not in _RESNETS or "backbone.layer1.0.conv3.weight" not in weights:
        raise UserError(f"its backbone is not a ResNet-50, 101 or 152; its stages have {counts} blocks")
    written = str(meta.get("config") or meta.get("cfg") or "")
    if loops is None:
        recurrence = re.search(r"recurrence['\"]?\s*[=:]\s*(\d{1,3})\b", written)
        loops = int(recurrence[1]) if recurrence else 2
        if not recurrence:
            notes.append("the file does not say how many loops the attention has; assumed 2")
    if align_corners is None:
        corners = re.findall(r"align_corners['\"]?\s*[=:]\s*(True|False)", written)
        align_corners = "True" in corners or (not corners and found.source == AUTHORS)
        if not corners:
            notes.append(f"the file does not say how logits are enlarged; assumed align_corners={align_corners}")
    backbone = f"{_RESNETS[counts]}{found.stem}"
    mean, std = input_normalization(backbone)
    channels, auxiliary = len(weights["head.reduce.0.weight"]), weights.get("auxiliary.0.0.weight")
    config = ModelConfig(
        num_classes=len(weights["classifier.weight"]),
        backbone=backbone,
        output_stride=8,
        context_levels=(4,),
        channels=channels,
        reduction=max(1, channels // max(1, len(weights["head.attention.query_conv.weight"]))),
        loops=loops,
        initial_gamma=0.0,
        skip_levels=(),
        skip_channels=(),
        auxiliary_channels=0 if auxiliary is None else len(auxiliary),
        negative_slope=found.negative_slope,
        align_corners=align_corners,
        input_mean=(mean[0], mean[1], mean[2]),
        input_std=(std[0], std[1], std[2]),
    )
    return config, notes


def _count_blocks(weights: Mapping[str, Tensor], stage: int) -> int:
    found = (re.match(rf"backbone\.layer{stage}\.(\d{{1,3}})\.", key) for key in weights)
    return max((int(match[1]) + 1 for match in found if match), default=0)


@torch.no_grad()
def _load(model: CCNet3D, found: PublishedWeights) -> list[str]:
    """Load all weights, and return what the file lacks although training needs it.

    Raises:
        UserError: weights that are missing, unexpected, or of another shape.
    """
    expected, weights, notes = model.state_dict(), dict(found.weights), []
    # In-Place ABN and old versions of PyTorch do not have it; it has no influence on the outputs.
    optional = [key for key in expected if key.endswith("num_batches_tracked")]
    if not any(key.startswith("auxiliary.") for key in weights):
        optional += [key for key in expected if key.startswith("auxiliary.")]
        notes.append("the file has no auxiliary classifier, which only training uses; its weights are random")
    weights = {key: expected[key] for key in optional} | weights
    missing, unexpected = sorted(expected.keys() - weights), sorted(weights.keys() - expected)
    if missing or unexpected:
        parts = [f"{count_of(len(missing), 'weight')} missing, such as {missing[0]}"] if missing else []
        parts += [f"{count_of(len(unexpected), 'weight')} too many, such as {unexpected[0]}"] if unexpected else []
        raise UserError(f"by the names that weights get here: {'; '.join(parts)}; {found.expected}")
    for key, tensor in expected.items():
        value = weights[key].unsqueeze(2) if tensor.dim() == weights[key].dim() + 1 == 5 else weights[key]
        if value.shape != tensor.shape:
            raise UserError(
                f"the weight that becomes {key} has the shape {list(value.shape)}, not {list(tensor.shape)}"
            )
        if not value.isfinite().all():
            raise UserError(f"the weight that becomes {key} has values that are not finite")
        tensor.copy_(value)
    return notes


def _classes(meta: Mapping[str, Any], count: int) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Return names and colors of the classes; empty unless the file has exactly one for each class."""
    own = meta.get("dataset_meta")
    own = own if isinstance(own, dict) else {"classes": meta.get("CLASSES"), "palette": meta.get("PALETTE")}
    names, colors = own.get("classes"), own.get("palette")
    if not isinstance(names, list | tuple) or len(names) != count or not all(isinstance(name, str) for name in names):
        return (), ()
    try:
        palette = tuple((int(r), int(g), int(b)) for r, g, b in colors)  # type: ignore[union-attr]
    except (TypeError, ValueError):
        return tuple(names), ()
    valid = len(palette) == count and all(0 <= channel <= 255 for color in palette for channel in color)
    return tuple(names), palette if valid else ()
