"""Decoded frames and labels in one file, which is memory-mapped to read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ccnet3d.data.items import LabelledFrame
from ccnet3d.data.spec import DatasetSpec, LayoutSpec, added_settings
from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path

__all__ = ["FrameCache", "data_fingerprint", "frame_cache_path", "write_frame_cache"]

_FORMAT = 2
"""Of the files and of the rules that frames are decoded by; changed with either, so that no older file is read."""


_SAMPLED_FRAMES = 8


class FrameCache:
    """Decoded frames of a dataset.

    Args:
        path: a file that :func:`write_frame_cache` wrote.

    Raises:
        UserError: it is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        try:
            self._open()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read as a frame cache ({error}); remove it") from error

    def image(self, index: int) -> Tensor:
        """Return an image, uint8 ``[H, W, 3]``: a view of the file, which must not be written to."""
        return self._open().get_tensor(f"image {index}")

    def label(self, index: int) -> Tensor:
        """Return a label, uint8 ``[H, W]``, class ids and IGNORE_INDEX: a view of the file, likewise."""
        return self._open().get_tensor(f"label {index}")

    def _open(self) -> Any:
        if self._file is None:
            self._file = safe_open(self.path, framework="pt")
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None}  # a DataLoader worker opens the file itself


def frame_cache_path(folder: Path, frames: Sequence[LabelledFrame], spec: DatasetSpec, layout: LayoutSpec) -> Path:
    """Return the file in ``folder`` for the decoded frames of a dataset.

    Its name is a hash of all that the pixels depend on: name, size and modification time of each source, and the
    description of the dataset. If one of them changes, another file is used.
    """
    sources = [
        [str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
        for frame in frames
        for path in (frame.image, frame.label)
    ]
    added = added_settings(spec, layout)
    text = json.dumps([_FORMAT, repr(spec), repr(layout), sources, *([added] if added else [])])
    return folder / f"frames-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def data_fingerprint(frames: Sequence[LabelledFrame], spec: DatasetSpec, layout: LayoutSpec) -> str:
    """Return a hash of a dataset that does not depend on where it lies or when it was copied.

    It covers the classes, how labels become class ids, the name and size of every file, and the contents of a few
    images and labels, or of the annotation files with their labels.
    """
    colors = spec.source_colors or {one.name: one.color for one in spec.classes}
    classes = [[one.name, one.merges] for one in spec.classes]
    encoding = sorted(colors.items()) if layout.label_encoding == "color" else sorted(spec.void_ids)
    files = [
        [frame.sequence, frame.number, *((path.name, path.stat().st_size) for path in (frame.image, frame.label))]
        for frame in frames
    ]
    added = added_settings(spec, layout)
    if layout.label_encoding not in ("id", "color"):
        added["label_encoding"] = layout.label_encoding
    described = [classes, encoding, spec.max_gap_frames, files, *([added] if added else [])]
    digest = hashlib.sha256(json.dumps(described).encode())
    sampled = frames[:: max(1, len(frames) // _SAMPLED_FRAMES)]
    for path in dict.fromkeys(path for frame in sampled for path in (frame.image, frame.label)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def write_frame_cache(path: Path, sizes: Sequence[tuple[int, ...]], frames: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Write decoded frames to one file, atomically, with one frame in memory at a time.

    Args:
        path: the file; its folder is created if it does not exist.
        sizes: height and width of each frame.
        frames: image uint8 ``[3, H, W]`` and label int64 ``[H, W]`` of each frame.
    """
    header: dict[str, Any] = {}
    end = 0
    for index, size in enumerate(sizes):
        for name, shape in ((f"image {index}", (*size, 3)), (f"label {index}", size)):
            length = shape[0] * shape[1] * (3 if len(shape) == 3 else 1)
            header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + length]}
            end += length
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for image, label in frames:
            file.write(image.permute(1, 2, 0).contiguous().numpy().tobytes())
            file.write(label.byte().numpy().tobytes())
