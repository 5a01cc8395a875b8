"""Named architectures, and model files that contain everything inference needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.models.architecture import ModelConfig
from ccnet3d.models.ccnet3d import CCNet3D
from ccnet3d.models.model_header import ModelInfo, digest_weights, file_errors, find_model, info_metadata, parse_info
from ccnet3d.resources import shipped_weights

__all__ = [
    "ARCHITECTURES",
    "fingerprint",
    "load_model",
    "save_model",
]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)

ARCHITECTURES: dict[str, ModelConfig] = {
    "ccnet3d_lite": ModelConfig(),
    # The same with class evidence attention after the decoder.
    "ccnet3d_lite_evidence": ModelConfig(evidence_loops=2),
    # EfficientViT-B0 with its own head: the whole network can start from Cityscapes. Class evidence mixes the frames.
    "ccnet3d_b0": ModelConfig(
        backbone="efficientvit_b0",
        head="efficientvit",
        context_levels=(1, 2, 3),
        channels=32,
        loops=0,
        evidence_loops=2,
        evidence_level=1,
        evidence_temperature=14.0,
        skip_levels=(0,),
        skip_channels=(32,),
        auxiliary_level=2,
        input_mean=_IMAGENET_MEAN,
        input_std=_IMAGENET_STD,
    ),
    # As in the paper: ResNet-101 dilated to stride 8, C = 512, classifier at stride 8, no skips.
    "ccnet3d_resnet101": ModelConfig(
        backbone="resnet101",
        output_stride=8,
        context_levels=(4,),
        channels=512,
        initial_gamma=0.0,
        skip_levels=(),
        skip_channels=(),
        input_mean=_IMAGENET_MEAN,
        input_std=_IMAGENET_STD,
    ),
}
"""Architectures by the name that recipes use."""

# The same for images, as in the paper's experiments on them: two loops reach every position of a frame.
ARCHITECTURES["ccnet2d_resnet101"] = replace(ARCHITECTURES["ccnet3d_resnet101"], loops=2)


def save_model(path: Path | str, model: CCNet3D, info: ModelInfo, *, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and info to one safetensors file, atomically.

    Args:
        path: the file.
        model: the model.
        info: stored as JSON in the file's header.
        dtype: the type in which floating-point weights are stored.

    Raises:
        OutputError: the file cannot be written.

    >>> from ccnet3d import CCNet3D, ModelConfig, ModelInfo, load_model, save_model
    >>> config = ModelConfig(num_classes=2, backbone="test_efficientnet", channels=16)
    >>> info = ModelInfo(config, ("road", "other"), ((128, 64, 128), (0, 0, 0)), clip_length=5, input_size=(48, 64))
    >>> save_model("model.safetensors", CCNet3D(config), info)
    >>> load_model("model.safetensors")[1] == info
    True
    """
    tensors = {
        # Copied, because safetensors refuses tensors that share memory.
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    write_atomically(Path(path), save(tensors, metadata=info_metadata(info)))


def load_model(path: Path | str | None = None) -> tuple[CCNet3D, ModelInfo]:
    """Load a model, in evaluation mode, in float32 on the CPU, together with its metadata.

    Args:
        path: a file written by :func:`save_model`, the name of weights in the package, or the address of a file on
            the Hugging Face hub, ``hf://ORG/NAME[/FILE][@REVISION]``; None and ``default`` are the default weights.

    Raises:
        UserError: the file does not exist, is not a ccnet3d model file, or its weights do not match its metadata.

    >>> from ccnet3d import load_model
    >>> model, info = load_model()
    >>> info.class_names[:3]
    ('Sky', 'Building', 'Pole')
    """
    path = find_model(path)
    known = path in shipped_weights().values()
    with file_errors(path):
        with safe_open(path, framework="pt") as file:
            info = parse_info(file.metadata() or {})
            if not known:
                _check_weights(file, info.model)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise UserError(f"{bad[0]} has values that are not finite")
        model = CCNet3D(info.model)
        model.load_state_dict(tensors)
    return model.float().eval(), info


class _NoRandomNumbers(TorchFunctionMode):
    """Leave tensors as they are where random numbers would be written; for the meta device, which has none.

    There PyTorch would import torch.compile's machinery for them.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.__name__ in ("normal_", "uniform_", "trunc_normal_", "kaiming_normal_", "kaiming_uniform_"):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


def _check_weights(file: safe_open, config: ModelConfig) -> None:
    """Compare names, shapes and types with those of the architecture, before either takes memory."""
    with torch.device("meta"), _NoRandomNumbers():
        expected = CCNet3D(config).state_dict()
    names = set(file.keys())
    if names != set(expected):
        name = min(names ^ set(expected))
        raise UserError(f"only {'the weights have' if name in names else 'the architecture has'} {name!r}")
    for name, tensor in expected.items():
        weights = file.get_slice(name)
        if tuple(weights.get_shape()) != tuple(tensor.shape):
            raise UserError(f"{name} has the shape {weights.get_shape()}, the architecture {list(tensor.shape)}")
        if weights.get_dtype().startswith(("F", "BF")) != tensor.is_floating_point():
            raise UserError(f"{name} has the type {weights.get_dtype()}, the architecture {tensor.dtype}")


def fingerprint(model: CCNet3D) -> str:
    """Return the SHA-256 of the weights' names, types and bytes, in hexadecimal."""
    weights = sorted(model.state_dict().items())
    return digest_weights(
        (name, str(tensor.dtype), tuple(tensor.shape), tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        for name, tensor in weights
    )
