"""Named architectures, and model files that contain everything inference needs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.overrides import TorchFunctionMode

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.models.architecture import ModelConfig
from ccnet3d.models.ccnet3d import CCNet3D
from ccnet3d.models.hub import HUB_PREFIX, download
from ccnet3d.resources import (
    DEFAULT_WEIGHTS,
    DETECTOR_METADATA_KEY,
    MODEL_METADATA_KEY,
    model_file,
    shipped_weights,
)
from ccnet3d.wording import count_of

__all__ = [
    "ARCHITECTURES",
    "DEFAULT_WEIGHTS",
    "ModelInfo",
    "find_model",
    "fingerprint",
    "load_model",
    "save_model",
    "shipped_weights",
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

_FORMAT = 1

_MOST_CLASSES = 255
"""A mask has one byte per pixel, and 255 is void."""
_MOST_FRAMES = 1000
_LARGEST_SIDE = 1 << 14
_MOST_PIXELS = 1 << 26
"""Bounds of the clips and frames that a model file may ask for; 8K video has half as many pixels."""


@dataclass(frozen=True)
class ModelInfo:
    """Metadata of a model file: everything that inference needs in addition to the weights.

    Raises:
        UserError: the number of classes differs between model, names and palette, or a number is out of range.

    >>> from ccnet3d import ModelConfig, ModelInfo
    >>> info = ModelInfo(
    ...     model=ModelConfig(num_classes=2),
    ...     class_names=("road", "other"),
    ...     palette=((128, 64, 128), (0, 0, 0)),
    ...     clip_length=5,
    ...     input_size=(360, 480),
    ... )
    >>> info.class_names[1]
    'other'
    """

    model: ModelConfig
    """The architecture."""
    class_names: tuple[str, ...]
    """Name of each class, by id."""
    palette: tuple[tuple[int, int, int], ...]
    """RGB color of each class, 0 to 255."""
    clip_length: int
    """T, frames per clip at inference."""
    input_size: tuple[int, int]
    """Size in pixels, (height, width), to which frames are resized."""
    dataset: str = ""
    """The data that the weights were trained on."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The training recipe as a table."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Scores by name, measured at the end of training; None where nothing was labeled."""

    def __post_init__(self) -> None:
        if not self.model.num_classes == len(self.class_names) == len(self.palette):
            raise UserError(
                f"the model has {count_of(self.model.num_classes, 'class', 'classes')}, "
                f"but there are {count_of(len(self.class_names), 'name')} "
                f"and {count_of(len(self.palette), 'color')}; the numbers must be equal"
            )
        check_range("the number of classes", len(self.class_names), 2, _MOST_CLASSES)
        for color in self.palette:
            check_range("palette", color, 0, 255)
        check_range("clip_length", self.clip_length, 1, _MOST_FRAMES)
        check_range("input_size", self.input_size, 1, _LARGEST_SIDE)
        if math.prod(self.input_size) > _MOST_PIXELS:
            raise UserError(f"input_size must have at most {_MOST_PIXELS} pixels, got {self.input_size}")


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
    header = json.dumps({"format": _FORMAT, **asdict(info)})
    write_atomically(Path(path), save(tensors, metadata={MODEL_METADATA_KEY: header}))


def find_model(path: Path | str | None) -> Path:
    """Return the file of a model, downloaded if it is on a hub; for the argument see :func:`load_model`.

    Raises:
        UserError: there is none.
    """
    return download(path) if isinstance(path, str) and path.startswith(HUB_PREFIX) else model_file(path)


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
    try:
        with safe_open(path, framework="pt") as file:
            info = _parse_info(file.metadata() or {})
            if not known:
                _check_weights(file, info.model)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise UserError(f"{bad[0]} has values that are not finite")
        model = CCNet3D(info.model)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a ccnet3d model file ({error}); give a .safetensors file that training wrote"
        ) from error
    return model.float().eval(), info


def _parse_info(metadata: Mapping[str, str]) -> ModelInfo:
    if DETECTOR_METADATA_KEY in metadata:
        raise UserError("it is of an instance segmentation model, which ccnet3d-instances runs")
    if MODEL_METADATA_KEY not in metadata:
        raise UserError(f"its header lacks the key {MODEL_METADATA_KEY!r}")
    header = parse_json(metadata[MODEL_METADATA_KEY])
    if header.pop("format", None) != _FORMAT:
        raise UserError(f"its format is not {_FORMAT}")
    return from_table(ModelInfo, header)


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
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
