"""The two parts of a model as ONNX files, OpenVINO files and programs of torch.export."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.models import CONTEXTS, CCNet3D, ClipPart, FramePart, kept_names, network_parts
from ccnet3d.resources import MODEL_METADATA_KEY

__all__ = ["quantize", "to_onnx", "to_openvino", "to_torch"]

_OPSET = 18
_SENSITIVE = ("context_module", "classifier", "detail", "reliability", "embedding")
"""Parts of the names of layers that int8 leaves in float32; the first is the attention of EfficientViT."""

_FIXED_SIZE_CONTEXTS = ("local_window", "ppm")
"""Context modules whose operations depend on the numbers of rows and columns."""

_EXAMPLE = (2, 96, 160)
"""Frames, height and width of the example; the graphs accept any, in steps of 32 pixels."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' warnings to themselves: the parity report shows whether they matter."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@torch.no_grad()
def to_onnx(model: CCNet3D, folder: Path, dtype: torch.dtype, metadata: dict[str, Any]) -> None:
    """Write ``frame.onnx`` and ``clip.onnx``; N, T, height and width are dynamic.

    The tracing exporter is used: sizes stay symbols without being reasoned about, which takes torch.export minutes.

    Raises:
        UserError: the model's context module cannot be exported.
    """
    if model.config.context in _FIXED_SIZE_CONTEXTS:
        known = ", ".join(name for name in CONTEXTS if name not in _FIXED_SIZE_CONTEXTS)
        raise UserError(
            f"model.context {model.config.context} has no form for graphs of any size; export a model with one of "
            f"{known}, or use --to torch"
        )
    frame_part, clip_part = network_parts(model, dtype)
    names = kept_names(model)
    frames = torch.rand(_EXAMPLE[0], 3, *_EXAMPLE[1:])
    kept = frame_part(frames)
    axes = {name: {0: "T", 2: f"{name}_height", 3: f"{name}_width"} for name in names}
    _trace(
        frame_part, (frames,), folder / "frame.onnx", ["frames"], names,
        {"frames": {0: "N", 2: "height", 3: "width"}, **{name: {**axes[name], 0: "N"} for name in names}},
    )  # fmt: skip
    _trace(
        clip_part, (torch.tensor([0, 1]), *kept), folder / "clip.onnx", ["offsets", *names], ["logits"],
        {"offsets": {0: "M"}, **axes, "logits": {0: "M", 2: "logits_height", 3: "logits_width"}},
    )  # fmt: skip
    for part in ("frame", "clip"):
        describe_onnx(folder / f"{part}.onnx", metadata)


def _trace(
    part: FramePart | ClipPart,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: dict[str, dict[int, str]],
) -> None:
    with _quiet():
        torch.onnx.export(
            part, example, str(path), dynamo=False, opset_version=_OPSET, input_names=list(inputs),
            output_names=list(outputs), dynamic_axes=axes,
        )  # fmt: skip


def describe_onnx(path: Path, metadata: dict[str, Any]) -> None:
    """Store the metadata in an ONNX file, under the key that model files have."""
    import onnx

    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {MODEL_METADATA_KEY: json.dumps(metadata)})
    onnx.save(graph, path)


def quantize(path: Path, run_frames: Callable[[], Iterator[np.ndarray]]) -> None:
    """Replace a frame part in ONNX by one whose full convolutions compute in 8 bits.

    Weights have a scale per channel; inputs have ranges that cover what the calibration frames produce. QDQ nodes,
    which ONNX Runtime and OpenVINO read. Grouped convolutions, attention, the first layer and what computes logits
    stay in float32: they cost little time, and in 8 bits most of the accuracy. So do outputs, whose activation follows.

    Args:
        path: of ``frame.onnx``.
        run_frames: returns the calibration frames, float32 ``[1, 3, H, W]`` in [0, 1].
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            self.frames = run_frames()

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.frames, None)
            return None if frame is None else {"frames": frame}

    prepared = path.with_suffix(".prepared")
    with _quiet():
        # ONNX Runtime's optimization would take HardSwish apart, which other runtimes have in one piece.
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True, skip_optimization=True)
        quantize_static(
            str(prepared), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
            nodes_to_quantize=_robust_convolutions(prepared),
            extra_options={"OpTypesToExcludeOutputQuantization": ["Conv"]},
        )  # fmt: skip
    prepared.unlink()


def _robust_convolutions(path: Path) -> list[str]:
    """Return the names of the convolutions that lose little in 8 bits."""
    import onnx

    nodes = [node for node in onnx.load(path).graph.node if node.op_type == "Conv"]
    return [
        node.name
        for node in nodes[1:]
        if not any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        and not any(name in node.name for name in _SENSITIVE)
    ]


def to_openvino(folder: Path, metadata: dict[str, Any], *, half: bool) -> None:
    """Write the ONNX files of a folder also in OpenVINO's format.

    Raises:
        UserError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise UserError("--to openvino needs OpenVINO; pip install 'ccnet3d[onnx,openvino]'") from error
    for part in ("frame", "clip"):
        model = openvino.convert_model(str(folder / f"{part}.onnx"))
        model.set_rt_info(json.dumps(metadata), [MODEL_METADATA_KEY])
        openvino.save_model(model, str(folder / f"{part}.xml"), compress_to_fp16=half and part == "frame")


@torch.no_grad()
def to_torch(
    model: CCNet3D, folder: Path, dtype: torch.dtype, size: tuple[int, int], clip_length: int
) -> tuple[Any, Any]:
    """Write ``frame.pt2`` and ``clip.pt2`` for one frame and one clip of fixed size; return the programs as loaded."""
    frame_part, clip_part = network_parts(model, dtype)
    frames = torch.rand(1, 3, *size)
    kept = [tensor.expand(clip_length, -1, -1, -1).contiguous() for tensor in frame_part(frames)]
    programs = []
    for name, part, example in (
        ("frame", frame_part, (frames,)),
        ("clip", clip_part, (torch.arange(clip_length), *kept)),
    ):
        path = folder / f"{name}.pt2"
        with _quiet():
            torch.export.save(torch.export.export(part, example, strict=False), path)
            programs.append(torch.export.load(path).module())
    return programs[0], programs[1]
