"""Frames and labels in one file of decoded pixels, which is read by mapping it into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path

if TYPE_CHECKING:
    from ccnet3d.data.datasets import LabelledSequences

_FORMAT = 1


class Pack:
    """Decoded frames of a dataset.

    Args:
        path: the file, as :func:`write_pack` wrote it.

    Raises:
        ValueError: it is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        try:
            self._open()
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} cannot be read as decoded frames ({error})") from error

    def image(self, index: int) -> Tensor:
        """uint8 ``[H, W, 3]``, a view of the file: not to be written to."""
        return self._open().get_tensor(f"image {index}")

    def label(self, index: int) -> Tensor:
        """uint8 ``[H, W]``, class ids and IGNORE_INDEX, likewise."""
        return self._open().get_tensor(f"label {index}")

    def _open(self) -> Any:
        if self._file is None:
            self._file = safe_open(self.path, framework="pt")
        return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None}  # a loader's process opens the file itself


def pack_path(dataset: LabelledSequences, folder: Path) -> Path:
    """Where in ``folder`` the decoded frames of a dataset are kept.

    The name follows from what the pixels do: name, size and time of change of each source, and the description of the
    dataset. Where one of them changes, it is another file.
    """
    sources = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns]
               for frame in dataset.frames for path in (frame.image, frame.label)]  # fmt: skip
    text = json.dumps([_FORMAT, repr(dataset.spec), repr(dataset.layout), sources])
    return folder / f"frames-{hashlib.sha256(text.encode()).hexdigest()[:16]}.safetensors"


def find_pack(dataset: LabelledSequences, folder: Path) -> Pack | None:
    """The decoded frames of a dataset, if they are in ``folder`` and whole."""
    path = pack_path(dataset, folder)
    try:
        return Pack(path) if path.is_file() else None
    except ValueError:
        return None


def write_pack(dataset: LabelledSequences, folder: Path, sizes: Sequence[tuple[int, ...]]) -> None:
    """Write the decoded frames of a dataset into ``folder``, atomically, one frame in memory at a time.

    Args:
        dataset: frames without a fault.
        folder: made where it is not there.
        sizes: height and width of each frame.
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
    with atomic_path(pack_path(dataset, folder)) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for index in range(len(dataset)):
            file.write(dataset.read_image(index).permute(1, 2, 0).contiguous().numpy().tobytes())
            file.write(dataset.read_label(index).byte().numpy().tobytes())
