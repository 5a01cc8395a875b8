"""Exported models: what their folder contains, and a segmenter that runs them."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.inference.frame_workers import FrameWorkers
from ccnet3d.inference.runtimes import Graph, explained, installed_runtimes, open_graph
from ccnet3d.inference.streaming import StreamingSegmenter
from ccnet3d.models import SIZE_STEP, ModelInfo
from ccnet3d.resources import EXPORT_METADATA

__all__ = ["ExportInfo", "ExportedModel", "ExportedSegmenter", "fastest_runtime", "is_exported", "seconds_per_frame"]

EXPORT_FORMAT = 1
FILES = {"onnx": ("frame.onnx", "clip.onnx"), "openvino": ("frame.xml", "frame.bin", "clip.xml", "clip.bin")}
"""The graphs of each format that a runtime reads."""

_LARGEST_METADATA = 1 << 22
_LARGEST_GRAPH = 1 << 31
_TRIES = 3


@dataclass(frozen=True)
class ExportInfo:
    """What ``model.json`` of an exported model says.

    Raises:
        UserError: a value out of its range.
    """

    format: int
    target: str
    """``onnx``, ``openvino`` or ``torch``."""
    precision: str
    """``fp32``, ``fp16`` or ``int8``."""
    weights_sha256: str
    """Fingerprint of the weights in PyTorch."""
    info: ModelInfo
    """As in the header of a model file."""
    files: Mapping[str, Any]
    """SHA-256 of each graph, by the name of its file."""
    kept: tuple[str, ...]
    """Outputs of the frame part, which are inputs of the clip part."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """How its predictions differ from PyTorch's."""
    versions: Mapping[str, Any] = field(default_factory=dict)
    """Of the packages that wrote it."""

    def __post_init__(self) -> None:
        check_range("format", self.format, EXPORT_FORMAT, EXPORT_FORMAT)
        if self.target not in (*FILES, "torch"):
            raise UserError(f"target must be onnx, openvino or torch, got {self.target[:80]!r}")


def is_exported(path: Path | str | None) -> bool:
    """Return whether a path is the folder of an exported model."""
    return path is not None and "://" not in str(path) and (Path(path) / EXPORT_METADATA).is_file()


class ExportedModel:
    """The files of an exported model, checked.

    Args:
        folder: that ``ccnet3d-export`` wrote.

    Raises:
        UserError: it is not one of those, or its files have changed.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        try:
            self.info = from_table(ExportInfo, parse_json(_read(self.folder / EXPORT_METADATA, _LARGEST_METADATA)))
        except ValueError as error:
            raise UserError(
                f"{self.folder} is not an exported model ({error}); give a folder that ccnet3d-export wrote"
            ) from error
        self._bytes: dict[str, bytes] = {}
        for name in FILES.get(self.info.target, ()):
            data = _read(self.folder / name, _LARGEST_GRAPH)
            if hashlib.sha256(data).hexdigest() != self.info.files.get(name):
                raise UserError(f"{self.folder / name} is not the file that {EXPORT_METADATA} names; export it again")
            self._bytes[name] = data

    def runtimes(self) -> list[str]:
        """Return the runtimes that are installed and read its format; OpenVINO also reads ONNX files."""
        readers = {"onnx": ("onnxruntime", "openvino"), "openvino": ("openvino",)}.get(self.info.target, ())
        return [name for name in installed_runtimes() if name in readers]

    def open_part(self, part: str, runtime: str, *, bfloat16: bool, threads: int, streams: int = 1) -> Graph:
        """Prepare ``frame`` or ``clip`` to run; see :func:`ccnet3d.inference.runtimes.open_graph`.

        Raises:
            UserError: the format has no runtime here, or the runtime cannot read it.
        """
        if self.info.target == "torch":
            raise UserError(
                f"{self.folder} contains programs of torch.export, and loading one can execute code in it; give "
                "--runtime torch, which runs the model.safetensors in the folder"
            )
        suffix = "onnx" if self.info.target == "onnx" else "xml"
        graph, weights = self._bytes[f"{part}.{suffix}"], self._bytes.get(f"{part}.bin")
        return open_graph(runtime, graph, weights, bfloat16=bfloat16, threads=threads, streams=streams)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > most:
        raise UserError(f"{path} is larger than the {most} bytes that an exported model may have")
    return data


class ExportedSegmenter(StreamingSegmenter):
    """Masks from an exported model, frame by frame as :class:`ccnet3d.inference.VideoSegmenter` does it; on a CPU.

    Args:
        exported: the model.
        runtime: ``onnxruntime`` or ``openvino``.
        dtype: float32, or with OpenVINO bfloat16; float32 if None, whatever the CPU has.
        **schedule: ``clip_length``, ``clip_stride``, ``causal``, ``smoothing``, ``input_size`` and ``keep_aspect``; see
            :class:`StreamingSegmenter`.

    Raises:
        UserError: an argument out of its range, or the runtime is missing or cannot read the files.
    """

    def __init__(
        self, exported: ExportedModel, runtime: str, *, dtype: torch.dtype | None = None, **schedule: Any
    ) -> None:
        device = torch.device("cpu")
        defaults = dict.fromkeys(("clip_length", "clip_stride", "input_size", "keep_aspect", "batch_size"))
        self._set_schedule(exported.info.info, device, **{**defaults, "causal": False, "smoothing": 0, **schedule})
        _check_size(self.input_size)
        dtype = torch.float32 if dtype is None else dtype
        if dtype not in (torch.float32, torch.bfloat16):
            raise UserError(f"exported models run in fp32 or bf16, got {dtype}; --precision of the export is another")
        self.dtype, self.runtime, self._exported = dtype, runtime, exported
        self._concurrent = True
        self._threads, self._most_streams = torch.get_num_threads(), FrameWorkers().count
        self._frame_parts: dict[int, Graph] = {}
        self._open_frame_part()
        # Attention over classes adds to logits, which bfloat16 would round to 8 bits; PyTorch has it in float32, too.
        bfloat16 = dtype == torch.bfloat16 and not exported.info.info.model.evidence_loops
        self._clip_part = exported.open_part("clip", runtime, bfloat16=bfloat16, threads=self._threads)

    def _open_frame_part(self) -> None:
        """Prepare the frame part for as many calls at a time as there are frames encoded at a time."""
        self._streams = 1 if self.causal else self._most_streams
        if self._streams not in self._frame_parts:
            self._frame_parts[self._streams] = self._exported.open_part(
                "frame",
                self.runtime,
                bfloat16=self.dtype == torch.bfloat16,
                threads=self._threads,
                streams=self._streams,
            )

    def with_causal(self, causal: bool) -> Self:
        """See :meth:`StreamingSegmenter.with_causal`."""
        other = super().with_causal(causal)
        other._open_frame_part()
        return other

    def with_input_size(self, size: tuple[int, int]) -> Self:
        """See :meth:`StreamingSegmenter.with_input_size`.

        Raises:
            UserError: the graphs do not accept the size.
        """
        _check_size(size)
        return super().with_input_size(size)

    def allowed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the working size next to a wanted one."""
        height, width = (SIZE_STEP * max(1, round(side / SIZE_STEP)) for side in size)
        return height, width

    def _network_settings(self) -> dict[str, Any]:
        info = self._exported.info
        digest = hashlib.sha256("".join(str(info.files[name]) for name in sorted(info.files)).encode()).hexdigest()
        return {"runtime": self.runtime, "precision": info.precision, "weights_sha256": digest}

    def _encode(self, pictures: Sequence[Tensor]) -> list[Any]:
        kept, frame_part = [], self._frame_parts[self._streams]
        for picture in pictures:
            _check_size((picture.shape[-2], picture.shape[-1]))
            frames = picture[None].float().div_(255).numpy()
            kept.append(explained(partial(frame_part, {"frames": frames}), self.runtime, "run"))
        return kept

    def _predict_clip(self, clip: Sequence[Any], offsets: Sequence[int]) -> list[Tensor]:
        def compute() -> np.ndarray:
            arrays = {
                name: np.concatenate([frame[name] for frame in clip])
                for name in self._clip_part.inputs
                if name != "offsets"
            }
            return self._clip_part({**arrays, "offsets": np.array(offsets, np.int64)})["logits"]

        logits = cast(np.ndarray, explained(compute, self.runtime, "run"))
        if logits.ndim != 4 or logits.shape[:2] != (len(offsets), len(self.info.class_names)):
            raise UserError(f"the exported model returned logits of the shape {logits.shape}; export it again")
        return [*torch.from_numpy(logits)]


def _check_size(size: tuple[int, int]) -> None:
    if any(side % SIZE_STEP for side in size):
        raise UserError(
            f"frames of an exported model have sides that are multiples of {SIZE_STEP} pixels, got {size[0]}x{size[1]} "
            "(HxW); give another --input-size, or --runtime torch"
        )


def seconds_per_frame(segmenter: StreamingSegmenter) -> float:
    """Return the time per frame of a segmenter, the median of a few short clips after a first one."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (segmenter.clip_length, *segmenter.input_size, 3), np.uint8)
    seconds = []
    for _ in range(_TRIES + 1):
        began = time.perf_counter()
        for _ in segmenter.predict(frames):
            pass
        seconds.append((time.perf_counter() - began) / len(frames))
    return statistics.median(seconds[1:])


def fastest_runtime(
    segmenters: Mapping[str, Callable[[], StreamingSegmenter]],
) -> tuple[StreamingSegmenter, dict[str, float]]:
    """Return the segmenter that is fastest here, and the seconds per frame of all, fastest first.

    Args:
        segmenters: functions that make them, by name; one that raises a UserError is left out, unless all do.
    """
    made: dict[str, StreamingSegmenter] = {}
    problem: UserError | None = None
    for name, make in segmenters.items():
        try:
            made[name] = make()
        except UserError as error:
            problem = error
    if not made:
        raise problem or UserError("no runtime for the model is installed; pip install 'ccnet3d[onnx]'")
    seconds = {name: seconds_per_frame(segmenter) for name, segmenter in made.items()}
    ranked = dict(sorted(seconds.items(), key=lambda item: item[1]))
    return made[next(iter(ranked))], ranked
