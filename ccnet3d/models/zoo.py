"""Named architectures, and model files that carry all that inference needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ccnet3d.config import from_table
from ccnet3d.files import write_atomically
from ccnet3d.models.architecture import ModelConfig
from ccnet3d.models.ccnet3d import CCNet3D

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

ARCHITECTURES: dict[str, ModelConfig] = {
    "ccnet3d_lite": ModelConfig(),
    # The paper's: ResNet-101 dilated to stride 8, C = 512, classifier at stride 8, no skips.
    "ccnet3d_resnet101": ModelConfig(
        backbone="resnet101",
        output_stride=8,
        context_levels=(4,),
        channels=512,
        initial_gamma=0.0,
        skip_levels=(),
        skip_channels=(),
        input_mean=IMAGENET_MEAN,
        input_std=IMAGENET_STD,
    ),
}

DEFAULT_WEIGHTS = Path(__file__).parents[1] / "weights" / "ccnet3d_lite_camvid.safetensors"

_METADATA_KEY = "ccnet3d"
_FORMAT = 1


@dataclass(frozen=True)
class ModelInfo:
    """All that inference and a reader of the weights need to know beside the tensors."""

    model: ModelConfig
    """The architecture."""
    class_names: tuple[str, ...]
    """Name of each class, by id."""
    palette: tuple[tuple[int, int, int], ...]
    """RGB colour of each class, 0 to 255."""
    clip_length: int
    """T, frames in a clip at inference."""
    input_size: tuple[int, int]
    """Working size in pixels, (height, width), to which frames are resized."""
    dataset: str = ""
    """What the weights were trained on."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The training recipe as a table."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores by name, as measured at the end of training."""

    def __post_init__(self) -> None:
        if not self.model.num_classes == len(self.class_names) == len(self.palette):
            raise ValueError(
                f"the model has {self.model.num_classes} classes, but there are {len(self.class_names)} names "
                f"and {len(self.palette)} colours; they must agree"
            )
        if self.clip_length < 1 or min(self.input_size) < 1:
            raise ValueError(
                f"clip_length and input_size must be positive, got {self.clip_length} and {self.input_size}"
            )


def save_model(path: Path, model: CCNet3D, info: ModelInfo, *, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and info to one safetensors file, atomically.

    Args:
        path: the file.
        model: its floating-point weights are stored as ``dtype``.
        info: stored as JSON in the file's header.
        dtype: of the stored weights.
    """
    tensors = {
        # A copy each: safetensors refuses tensors that share memory.
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    header = json.dumps({"format": _FORMAT, **asdict(info)})
    write_atomically(path, save(tensors, metadata={_METADATA_KEY: header}))


def load_model(path: Path | None = None) -> tuple[CCNet3D, ModelInfo]:
    """Read a model in evaluation mode, in float32 on the CPU.

    Args:
        path: a file that :func:`save_model` wrote; the default weights in the package when None.

    Raises:
        ValueError: the file is missing, is no model file of this project or does not fit its own description.
    """
    path = DEFAULT_WEIGHTS if path is None else path
    if not path.is_file():
        raise ValueError(f"no model file at {path}; give a .safetensors file that training wrote")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        header = json.loads(metadata[_METADATA_KEY])
        if header.pop("format") != _FORMAT:
            raise ValueError(f"its format is not {_FORMAT}")
        info = from_table(ModelInfo, header)
        model = CCNet3D(info.model)
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not a ccnet3d model file ({error}); give a .safetensors file that training wrote"
        ) from error
    return model.float().eval(), info


def fingerprint(model: CCNet3D) -> str:
    """SHA-256 of the weights' names, types and bytes, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
