"""Masks as one compressed NumPy archive: ``masks`` uint8 ``[N, H, W]`` and ``frames`` int64 ``[N]``, frame indices."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from ccnet3d.files import atomic_path, timeless_entry
from ccnet3d.masks.mask_format import IndexedMasks, MaskFormat, MaskSequence, check_size, damaged

__all__ = ["NPZ", "encode_probabilities"]


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    """Write the masks one by one, so that one is in memory."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(sequence.frame_indices), *sequence.size)}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        with file.open(timeless_entry("masks.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for _, mask in masks:
                member.write(mask.tobytes())
        with file.open(timeless_entry("frames.npy"), "w") as member:
            np.lib.format.write_array(member, np.asarray(sequence.frame_indices, np.int64), version=(1, 0))


def _read(path: Path, frame_indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield one mask after the other from the decompressed stream; ``np.load`` would load all of them at once."""
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("frames.npy") as file:
                shape = _check_header(file, "frame indices", np.int64, axes=1)
                frames = np.frombuffer(file.read(8 * len(frame_indices)), np.int64)
            if shape != (len(frame_indices),) or frames.tolist() != list(frame_indices):
                raise ValueError("its frame indices differ from those of summary.json")
            with archive.open("masks.npy") as file:
                count, height, width = _check_header(file, "masks", np.uint8, axes=3)
                if count != len(frame_indices):
                    raise ValueError(f"{count} masks for {len(frame_indices)} frames")
                check_size(height, width)
                for _ in frame_indices:
                    data = file.read(height * width)
                    if len(data) < height * width:
                        raise ValueError("it ends within a mask")
                    yield np.frombuffer(bytearray(data), dtype=np.uint8).reshape(height, width)
    except KeyError as error:
        raise damaged(path, error.args[0]) from error
    # A damaged archive may also claim to be encrypted (RuntimeError) or in an unknown way compressed.
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise damaged(path, error) from error


def _check_header(file: IO[bytes], name: str, dtype: type[np.generic], axes: int) -> tuple[int, ...]:
    """Read the header of an array, up to where its values begin, and return its shape, which may be of any size.

    Raises:
        ValueError: another type or number of axes, or no header.
    """
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    try:
        shape, fortran_order, found = header(file)
    except Exception as error:  # NumPy parses a damaged header as Python, with whatever error this gives
        raise ValueError(f"its header is invalid: {error}") from error
    if found != dtype or len(shape) != axes or fortran_order:
        raise ValueError(f"its {name} are {found} {list(shape)}, not {dtype.__name__} of {axes} axes")
    return shape


NPZ = MaskFormat("npz", several_sizes=False, file_name="masks.npz", write=_write, read=_read)


def encode_probabilities(probabilities: np.ndarray) -> bytes:
    """Return a compressed npz file with ``probabilities``, uint8 ``[K, h, w]`` in 255ths."""
    buffer, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(array, probabilities, version=(1, 0))
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(timeless_entry("probabilities.npy"), array.getvalue(), compresslevel=1)
    return buffer.getvalue()
