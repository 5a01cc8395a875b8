"""What a model file says about itself: its header, and its weights as arrays, without PyTorch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.models.architecture import ModelConfig
from ccnet3d.models.hub import HUB_PREFIX, download
from ccnet3d.resources import DETECTOR_METADATA_KEY, MODEL_METADATA_KEY, model_file
from ccnet3d.wording import count_of

__all__ = [
    "ModelInfo",
    "WeightsSummary",
    "digest_weights",
    "file_errors",
    "find_model",
    "info_metadata",
    "parse_info",
    "read_info",
    "summarize_weights",
]

_FORMAT = 1

_MOST_CLASSES = 255
"""A mask has one byte per pixel, and 255 is void."""
_MOST_FRAMES = 1000
_LARGEST_SIDE = 1 << 14
_MOST_PIXELS = 1 << 26
"""Bounds of the clips and frames that a model file may ask for; 8K video has half as many pixels."""

_STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
"""NumPy's names of types in a file; BF16 has none."""

_BUFFERS = frozenset({"running_mean", "running_var", "num_batches_tracked", "mean", "variance", "batches"})
"""Last parts of the names of weights that are not parameters: statistics of batches."""


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


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Report that a file is not one of ours, whatever reading it raised.

    Raises:
        UserError: reading raised an error.
    """
    try:
        yield
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a ccnet3d model file ({error}); give a .safetensors file that training wrote"
        ) from error


def info_metadata(info: ModelInfo) -> dict[str, str]:
    """Return the info as metadata of a safetensors file."""
    return {MODEL_METADATA_KEY: json.dumps({"format": _FORMAT, **asdict(info)})}


def find_model(path: Path | str | None) -> Path:
    """Return the file of a model, downloaded if it is on a hub; for the argument see :func:`load_model`.

    Raises:
        UserError: there is none.
    """
    return download(path) if isinstance(path, str) and path.startswith(HUB_PREFIX) else model_file(path)


def parse_info(metadata: Mapping[str, str]) -> ModelInfo:
    """Return the info of a safetensors file's metadata.

    Raises:
        UserError: there is none, or it is invalid.
    """
    if DETECTOR_METADATA_KEY in metadata:
        raise UserError("it is of an instance segmentation model, which ccnet3d-instances runs")
    if MODEL_METADATA_KEY not in metadata:
        raise UserError(f"its header lacks the key {MODEL_METADATA_KEY!r}")
    header = parse_json(metadata[MODEL_METADATA_KEY])
    if header.pop("format", None) != _FORMAT:
        raise UserError(f"its format is not {_FORMAT}")
    return from_table(ModelInfo, header)


def read_info(path: Path) -> ModelInfo:
    """Return the info in a model file's header; its weights are not read.

    Raises:
        UserError: it is not a model file.

    >>> from ccnet3d.resources import model_file
    >>> read_info(model_file()).clip_length
    5
    """
    with file_errors(path), safe_open(path, framework="numpy") as file:
        return parse_info(file.metadata() or {})


@dataclass(frozen=True)
class WeightsSummary:
    """What :func:`summarize_weights` found."""

    parameters: int
    """Numbers that training learns, without statistics of batches."""
    sha256: str
    """Fingerprint of the loaded weights, equal to :func:`ccnet3d.models.fingerprint` of the model."""


def summarize_weights(path: Path) -> WeightsSummary:
    """Count the parameters of a model file and compute the fingerprint of its weights, one tensor at a time.

    Raises:
        UserError: it is not a model file, or has values that are not finite.
    """
    with file_errors(path):
        with safe_open(path, framework="numpy") as file:  # checks the header and all offsets
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        parameters = sum(math.prod(shape) for name, shape in shapes.items() if name.split(".")[-1] not in _BUFFERS)
        return WeightsSummary(parameters, digest_weights(_loaded_weights(path)))


def digest_weights(weights: Iterable[tuple[str, str, tuple[int, ...], Any]]) -> str:
    """Return the SHA-256 of weights in hexadecimal.

    Args:
        weights: name, PyTorch's name of the type, shape and bytes of each, sorted by name.
    """
    digest = hashlib.sha256()
    for name, dtype, shape, data in weights:
        digest.update(f"{name} {dtype} {shape}".encode())
        digest.update(data)
    return digest.hexdigest()


def _loaded_weights(path: Path) -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
    """Yield the weights as a loaded model has them: float32 and int64."""
    import numpy as np

    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        table = json.loads(file.read(length))
        for name, entry in sorted(table.items()):
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            file.seek(8 + length + start)
            data = file.read(end - start)
            if entry["dtype"] == "BF16":  # the upper half of a float32
                values = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
            elif entry["dtype"] in _STORED:
                values = np.frombuffer(data, _STORED[entry["dtype"]])
            else:
                raise UserError(f"{name} has the type {entry['dtype']}, of which no weights are")
            if not np.isfinite(values).all():
                raise UserError(f"{name} has values that are not finite")
            dtype = "float32" if values.dtype.kind == "f" else "int64"
            yield name, f"torch.{dtype}", tuple(entry["shape"]), values.astype(dtype)
