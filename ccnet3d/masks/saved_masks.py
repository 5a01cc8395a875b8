"""Reading back what ``ccnet3d-infer`` wrote: a folder of masks and its ``summary.json``."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from ccnet3d.errors import UserError
from ccnet3d.masks.formats import FFV1_NAME, NPZ_NAME, OTHER, SUMMARY_NAME, decode_mask, mask_path, saved_numbers
from ccnet3d.masks.run_folder import RunFolder
from ccnet3d.video import import_av

RUN_AGAIN = "run ccnet3d-infer again with --overwrite"


@dataclass(frozen=True)
class SavedMasks:
    """The masks of one run: iterate for (frame number in the video, uint8 ``[H, W]`` class ids), in order.

    Each iteration reads the files anew and holds one mask at a time.

    Raises:
        ValueError: while iterating, a mask that is damaged or holds a class that the summary does not list.
    """

    folder: Path
    summary: dict[str, Any]
    """``summary.json``, as it stands."""
    class_ids: tuple[int, ...]
    class_names: tuple[str, ...]
    """The name of each of ``class_ids``."""
    palette: tuple[tuple[int, int, int], ...]
    """RGB of each of ``class_ids``."""
    frame_numbers: tuple[int, ...]
    """The number of each mask's frame in the video, from 0; it may have gaps."""
    pts_seconds: tuple[float | None, ...]
    """Presentation time of each mask's frame, None where the video has none."""

    def __len__(self) -> int:
        return len(self.frame_numbers)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        known = np.zeros(256, dtype=bool)
        known[[*self.class_ids, OTHER]] = True
        masks = _READERS[self.summary.get("format", "png")](self.folder, self.frame_numbers)
        for number, mask in zip(self.frame_numbers, masks, strict=True):
            if not known[mask].all():
                stranger = int(mask[~known[mask]][0])
                raise UserError(
                    f"the mask of frame {number} in {self.folder} holds the class {stranger}, which {SUMMARY_NAME} "
                    f"does not list; {RUN_AGAIN}"
                )
            yield number, mask


def open_masks(folder: Path) -> SavedMasks:
    """Open the output folder of a run.

    Args:
        folder: what ``ccnet3d-infer -o`` was given; masks as ``png``, ``npz`` or ``ffv1``.

    Raises:
        ValueError: not such a folder, a run that did not end, missing masks, or a format that cannot be read back.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the output folder of ccnet3d-infer")
    summary = _read_summary(folder)
    layout = summary.get("format", "png")
    if layout == "cvat":
        raise UserError(
            f"{folder} holds CVAT annotations, which cannot be read back as masks; "
            "run ccnet3d-infer with another format: png, npz or ffv1"
        )
    if layout not in _READERS:
        raise UserError(f"{folder} holds masks in the unknown format {layout!r}; known are {', '.join(_READERS)}")
    try:
        numbers = _frame_numbers(summary)
        classes = [(int(c["id"]), str(c["name"]), tuple(int(v) for v in c["color"])) for c in summary["classes"]]
        ids, names, colors = zip(*classes, strict=True)
        times = summary.get("pts_seconds") or [None] * len(numbers)
        if len(times) != len(numbers):
            raise UserError(f"{len(times)} times for {len(numbers)} masks")
        if not all(0 <= i < OTHER for i in ids) or len(set(ids)) < len(ids):
            raise UserError(f"class ids {list(ids)}, which are not all different and in 0 to {OTHER - 1}")
        if any(len(color) != 3 or not all(0 <= v <= 255 for v in color) for color in colors):
            raise UserError("a colour that is not three numbers in 0 to 255")
        seconds = tuple(None if time is None else float(time) for time in times)
    except (KeyError, TypeError, ValueError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            f"{folder / SUMMARY_NAME} is not a summary that ccnet3d-infer writes ({what}); {RUN_AGAIN}"
        ) from error
    masks = SavedMasks(folder, summary, ids, names, colors, numbers, seconds)
    _check_files(masks, layout)
    return masks


def _read_summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY_NAME
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if _holds_run(folder):
            raise UserError(
                f"{folder} holds a run without {SUMMARY_NAME}: it was interrupted; "
                "run ccnet3d-infer again with --resume"
            ) from error
        raise UserError(f"{folder} holds no {SUMMARY_NAME}; give the output folder of ccnet3d-infer") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise UserError(f"{path} is not valid JSON ({error}); {RUN_AGAIN}") from error
    if not isinstance(summary, dict):
        raise UserError(f"{path} is not a summary that ccnet3d-infer writes; {RUN_AGAIN}")
    return summary


def _holds_run(folder: Path) -> bool:
    if RunFolder(folder, None).is_begun() or saved_numbers(folder):
        return True
    return any((folder / name).exists() for name in (NPZ_NAME, FFV1_NAME))


def _frame_numbers(summary: Mapping[str, Any]) -> tuple[int, ...]:
    numbers = tuple(int(n) for n in summary.get("frame_numbers", range(summary["frames"])))
    if len(numbers) != summary["frames"] or not numbers:
        raise UserError(f"{len(numbers)} frame numbers for {summary['frames']} masks")
    if numbers[0] < 0 or any(a >= b for a, b in pairwise(numbers)):
        raise UserError("frame numbers that do not increase from 0 on")
    return numbers


def _check_files(masks: SavedMasks, layout: str) -> None:
    """See early that every mask is there, as far as that takes no decoding."""
    folder, numbers = masks.folder, masks.frame_numbers
    if layout == "png":
        missing = [n for n in numbers if not mask_path(folder, n).is_file()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(numbers)} masks are missing in {folder}, the first is "
                f"{mask_path(folder, missing[0]).name}; {RUN_AGAIN}"
            )
        return
    path = folder / (NPZ_NAME if layout == "npz" else FFV1_NAME)
    if not path.is_file():
        raise UserError(f"{path} is missing, though {SUMMARY_NAME} says that the masks are in it; {RUN_AGAIN}")


def _damaged(path: Path, reason: object) -> ValueError:
    return ValueError(f"{path} is damaged or not what ccnet3d-infer wrote ({reason}); {RUN_AGAIN}")


def _read_png(folder: Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    for number in numbers:
        try:
            mask = decode_mask(mask_path(folder, number))
        except ValueError as error:
            raise UserError(f"{error}; {RUN_AGAIN}") from error
        yield mask


def _read_npz(folder: Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    """The arrays lie in a zip as .npy files, so one mask after the other is taken from the unpacked stream."""
    path = folder / NPZ_NAME
    try:
        with zipfile.ZipFile(path) as archive:
            with archive.open("frames.npy") as file:
                frames = np.lib.format.read_array(file, allow_pickle=False)
            if frames.tolist() != list(numbers):
                raise _damaged(path, f"its frame numbers are not those of {SUMMARY_NAME}")
            with archive.open("masks.npy") as file:
                count, height, width = _npy_shape(file, path)
                if count != len(numbers):
                    raise _damaged(path, f"{count} masks for {len(numbers)} frames")
                for _ in numbers:
                    data = file.read(height * width)
                    if len(data) < height * width:
                        raise _damaged(path, "it ends within a mask")
                    yield np.frombuffer(bytearray(data), dtype=np.uint8).reshape(height, width)
    except KeyError as error:
        raise _damaged(path, error.args[0]) from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise _damaged(path, error) from error


def _npy_shape(file: IO[bytes], path: Path) -> tuple[int, int, int]:
    """Read the header of the masks, after which their pixels follow."""
    try:
        version = np.lib.format.read_magic(file)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = header(file)
    except ValueError as error:
        raise _damaged(path, error) from error
    if dtype != np.uint8 or len(shape) != 3 or fortran_order:
        raise _damaged(path, f"its masks are {dtype} {list(shape)}, not uint8 [N, H, W]")
    return shape


def _read_ffv1(folder: Path, numbers: Sequence[int]) -> Iterator[np.ndarray]:
    path = folder / FFV1_NAME
    av = import_av()
    count = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if frame.format.name != "gray":  # any conversion could change an id
                    raise _damaged(path, f"its pixels are {frame.format.name}, not gray")
                count += 1
                if count > len(numbers):
                    break
                yield frame.to_ndarray()
    except (av.error.FFmpegError, IndexError) as error:
        raise _damaged(path, getattr(error, "strerror", None) or "it has no video stream") from error
    if count != len(numbers):
        raise _damaged(path, f"it does not hold {len(numbers)} masks, as {SUMMARY_NAME} says")


_READERS: dict[str, Callable[[Path, Sequence[int]], Iterator[np.ndarray]]] = {
    "png": _read_png,
    "npz": _read_npz,
    "ffv1": _read_ffv1,
}
