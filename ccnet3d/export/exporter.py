"""A model file to a folder that other runtimes read, checked against PyTorch on frames."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ccnet3d
from ccnet3d.errors import UserError
from ccnet3d.export.graphs import quantize, to_onnx, to_openvino, to_torch
from ccnet3d.export.parity import compare_segmenters
from ccnet3d.files import write_atomically
from ccnet3d.inference import (
    ExportedModel,
    ExportedSegmenter,
    ExportInfo,
    StreamingSegmenter,
    VideoSegmenter,
    resize_frame,
)
from ccnet3d.journal import claimed_folder
from ccnet3d.models import SIZE_STEP, CCNet3D, ModelInfo, fingerprint, kept_names, load_model, save_model
from ccnet3d.resources import EXPORT_METADATA, EXPORTED_WEIGHTS

__all__ = ["DEFAULT_MIN_EQUAL", "PRECISIONS", "TARGETS", "export_model"]

TARGETS = {
    "onnx": ("frame.onnx", "clip.onnx"),
    "openvino": ("frame.xml", "frame.bin", "clip.xml", "clip.bin"),
    "torch": ("frame.pt2", "clip.pt2"),
}
"""Formats, and the files of each."""

PRECISIONS = ("fp32", "fp16", "int8")

DEFAULT_MIN_EQUAL = {"fp32": 0.999, "fp16": 0.995, "int8": 0.95}
"""Least share of pixels, by precision, that must have the same class as in PyTorch."""

_FORMAT = 1


def export_model(
    path: Path | str | None,
    folder: Path,
    target: str,
    frames: Sequence[np.ndarray],
    *,
    precision: str = "fp32",
    calibration: Sequence[np.ndarray] = (),
    input_size: tuple[int, int] | None = None,
    min_equal: float | None = None,
) -> ExportInfo:
    """Export a model in two parts and compare its predictions with PyTorch's, before anything is written.

    Args:
        path: the model; see :func:`ccnet3d.models.load_model`.
        folder: for the files.
        target: a key of :data:`TARGETS`.
        frames: uint8 ``[H, W, 3]``, RGB, of one size; consecutive ones of a video, for the comparison.
        precision: one of :data:`PRECISIONS`.
        calibration: frames from which int8 takes the ranges of activations.
        input_size: working size instead of the model's own, multiples of 32 pixels.
        min_equal: least share of equal pixels; :data:`DEFAULT_MIN_EQUAL` when None.

    Returns:
        What was written to ``model.json``.

    Raises:
        UserError: an argument that cannot be used, a package that is missing, or predictions that differ too much.
    """
    _check(target, precision, calibration, frames)
    model, info = load_model(path)
    info = replace(info, input_size=input_size or info.input_size)
    if any(side % SIZE_STEP for side in info.input_size):
        raise UserError(
            f"the working size must be multiples of {SIZE_STEP} pixels, got {info.input_size}; give --input-size HxW"
        )
    described = {"format": _FORMAT, **asdict(info)}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        segmenter = VideoSegmenter(model, info, dtype=torch.float32)
        size = segmenter.working_size((frames[0].shape[0], frames[0].shape[1]))
        dtype = torch.float16 if precision == "fp16" else torch.float32
        programs = _write_graphs(model, info, work, target, precision, dtype, described, size, calibration)
        files = {file: hashlib.sha256((work / file).read_bytes()).hexdigest() for file in TARGETS[target]}
        result = ExportInfo(
            _FORMAT, target, precision, fingerprint(model), info, files, tuple(kept_names(model)), versions=_versions()
        )
        _write_info(work, result)
        others = _segmenters(work, info, programs)
        parity = {runtime: compare_segmenters(segmenter, other, frames, size) for runtime, other in others.items()}
        least = DEFAULT_MIN_EQUAL[precision] if min_equal is None else min_equal
        for runtime, found in parity.items():
            if not found.equal_pixels >= least:
                raise UserError(
                    f"in {runtime}, only {100 * found.equal_pixels:.3f} % of pixels have the same class as in PyTorch "
                    f"(logits differ by up to {found.largest_difference:.3g}), less than {100 * least:g} %; nothing "
                    "was written; use another --precision, more --calibrate frames, or a lower --min-equal"
                )
        result = replace(result, parity={runtime: found._asdict() for runtime, found in parity.items()})
        _write_info(work, result)
        save_model(work / EXPORTED_WEIGHTS, model, info, dtype=torch.float32)
        names = [*TARGETS[target], EXPORTED_WEIGHTS, EXPORT_METADATA]  # the last one says that all are there
        with claimed_folder(folder, names):
            for file in names:
                write_atomically(folder / file, (work / file).read_bytes())
    return result


def _check(target: str, precision: str, calibration: Sequence[np.ndarray], frames: Sequence[np.ndarray]) -> None:
    if target not in TARGETS or precision not in PRECISIONS:
        raise UserError(
            f"expected one of {', '.join(TARGETS)} and of {', '.join(PRECISIONS)}, got {target}, {precision}"
        )
    if target == "torch" and precision == "int8":
        raise UserError("int8 is for onnx and openvino; give --to onnx, or --precision fp16")
    if (precision == "int8") != bool(len(calibration)):
        raise UserError("int8 needs frames of your own for the ranges of activations, and only int8: --calibrate VIDEO")
    if not len(frames):
        raise UserError("the comparison with PyTorch needs at least one frame")
    needed = () if target == "torch" else ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in needed if not find_spec(name)]:
        raise UserError(f"--to {target} needs {missing[0]}; pip install 'ccnet3d[onnx]'")


def _write_graphs(
    model: CCNet3D,
    info: ModelInfo,
    folder: Path,
    target: str,
    precision: str,
    dtype: torch.dtype,
    described: dict[str, Any],
    size: tuple[int, int],
    calibration: Sequence[np.ndarray],
) -> tuple[Any, Any] | None:
    if target == "torch":
        return to_torch(model, folder, dtype, size, info.clip_length)
    to_onnx(model, folder, dtype, described)
    if precision == "int8":
        quantize(folder / "frame.onnx", lambda: _inputs(calibration, VideoSegmenter(model, info)))
    if target == "openvino":
        to_openvino(folder, described, half=precision == "fp16")
    return None


def _inputs(frames: Sequence[np.ndarray], segmenter: VideoSegmenter) -> Iterator[np.ndarray]:
    """Yield the inputs of the frame part, float32 ``[1, 3, H, W]``, for frames that may differ in size."""
    for frame in frames:
        picture = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)
        size = segmenter.working_size((frame.shape[0], frame.shape[1]))
        yield resize_frame(picture, size)[None].float().div_(255).numpy()


def _write_info(folder: Path, info: ExportInfo) -> None:
    (folder / EXPORT_METADATA).write_text(json.dumps(asdict(info), indent=1) + "\n")


def _segmenters(folder: Path, info: ModelInfo, programs: tuple[Any, Any] | None) -> dict[str, StreamingSegmenter]:
    if programs is not None:
        return {"torch.export": _ProgramSegmenter(info, *programs)}
    exported = ExportedModel(folder)
    return {runtime: ExportedSegmenter(exported, runtime, dtype=torch.float32) for runtime in exported.runtimes()}


class _ProgramSegmenter(StreamingSegmenter):
    """Masks from programs of torch.export that were written just now."""

    def __init__(self, info: ModelInfo, frame_part: Callable[..., Any], clip_part: Callable[..., Any]) -> None:
        self._set_schedule(
            info, torch.device("cpu"), clip_length=None, clip_stride=None, causal=False, smoothing=0, input_size=None,
            keep_aspect=None, batch_size=None,
        )  # fmt: skip
        self._frame_part, self._clip_part = frame_part, clip_part

    @torch.no_grad()
    def _encode(self, pictures: Sequence[Tensor]) -> list[Any]:
        return [self._frame_part(picture[None].float().div_(255)) for picture in pictures]

    def _network_settings(self) -> dict[str, Any]:
        return {"runtime": "torch.export"}

    @torch.no_grad()
    def _predict_clip(self, clip: Sequence[Any], offsets: Sequence[int]) -> list[Tensor]:
        kept = [torch.cat(parts) for parts in zip(*clip, strict=True)]
        return [*self._clip_part(torch.arange(len(clip)), *kept)[list(offsets)]]


def _versions() -> dict[str, str]:
    found = {"ccnet3d": ccnet3d.__version__}
    for name in ("torch", "onnx", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
