"""Masks as COCO-format JSON: one run-length encoded annotation per class that is present in a frame.

Ids of images, categories and annotations count from 1, as 0 means "none" in parts of the COCO tools: category ``c + 1``
is class ``c``. Pixels of the id OTHER have no annotation. Writing needs pycocotools, reading does not.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import numpy as np

from ccnet3d.config import parse_json
from ccnet3d.errors import UserError
from ccnet3d.files import atomic_path
from ccnet3d.masks.mask_format import OTHER, IndexedMasks, MaskClasses, MaskFormat, MaskSequence, check_size, damaged
from ccnet3d.masks.png_format import mask_path

__all__ = ["COCO_RLE"]

_MOST_BYTES = 1 << 20
"""Of the table of images in memory; a longer one waits in a temporary file."""
_MORE, _SIGN = 32, 16
"""Bits of a character of compressed run lengths: another one follows, and the number is negative."""


def _mask_api() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError("--format coco-rle needs pycocotools; run: pip install 'ccnet3d[coco]'") from error
    return mask


def _check(_: MaskClasses) -> None:
    _mask_api()


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    """Write the annotations frame by frame, so that one mask is in memory; the table of images comes last."""
    api, classes = _mask_api(), sequence.classes
    info = {"description": "Semantic segmentation of a video by ccnet3d-infer"}
    categories = [
        {"id": i + 1, "name": classes.names[i], "supercategory": "", "color": list(classes.palette[i])}
        for i in classes.shown
    ]
    count = 0
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
        SpooledTemporaryFile(_MOST_BYTES, "w+", encoding="utf-8") as images,
    ):
        file.write(f'{{"info":{_to_json(info)},\n"categories":{_to_json(categories)},\n"annotations":[')
        for image_id, (index, mask) in enumerate(masks, 1):
            height, width = mask.shape
            name = sequence.image_names[image_id - 1] if sequence.image_names else mask_path(Path(), index).name
            image = {"id": image_id, "file_name": name, "width": width, "height": height, "frame_index": index}
            images.write(("," if image_id > 1 else "") + _to_json(image))
            areas = np.bincount(mask.ravel(), minlength=256)
            for class_id in np.flatnonzero(areas[:OTHER]):
                count += 1
                annotation = {"id": count, "image_id": image_id, "category_id": int(class_id) + 1}
                annotation |= _region(api, mask == class_id)
                file.write(("," if count > 1 else "") + "\n" + _to_json(annotation))
        file.write('],\n"images":[')
        images.seek(0)
        shutil.copyfileobj(images, file)
        file.write("]}\n")


def _region(api: Any, inside: np.ndarray) -> dict[str, Any]:
    """Return what COCO says about the pixels of an annotation, from bool ``[H, W]``."""
    rle = api.encode(inside.astype(np.uint8, order="F"))
    return {
        "segmentation": {"size": list(inside.shape), "counts": rle["counts"].decode("ascii")},
        "area": int(api.area(rle)),
        "bbox": [int(side) for side in api.toBbox(rle)],
        "iscrowd": 0,
    }


def _to_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _read(path: Path, frame_indices: Sequence[int]) -> Iterator[np.ndarray]:
    try:
        content = parse_json(path.read_bytes())
        annotations = defaultdict(list)
        for annotation in content["annotations"]:
            annotations[annotation["image_id"]].append(annotation)
        images = [(annotations[image["id"]], image["height"], image["width"]) for image in content["images"]]
        if [image["frame_index"] for image in content["images"]] != list(frame_indices):
            raise ValueError("its frame indices differ from those of summary.json")
        if sum(len(found) for found, _, _ in images) != len(content["annotations"]):
            raise ValueError("it has annotations without an image, or two images of one id")
    except OSError as error:
        raise damaged(path, error.strerror) from error
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, _reason(error)) from error
    for image in images:
        try:
            mask = _mask_of(*image)
        except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
            raise damaged(path, _reason(error)) from error
        yield mask


def _reason(error: Exception) -> object:
    return f"no {str(error)[:80]}" if isinstance(error, KeyError) else error


def _mask_of(annotations: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """Return the mask, uint8 ``[height, width]``, of an image's annotations.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: an annotation that a run does not write.
        MemoryError: a size beyond reason.
    """
    check_size(height, width)
    mask = np.full((height, width), OTHER, np.uint8)
    for annotation in annotations:
        inside = _decode(annotation["segmentation"]["counts"], height, width)
        class_id = annotation["category_id"] - 1
        if annotation["segmentation"]["size"] != [height, width] or inside.sum() != annotation["area"]:
            raise ValueError(f"annotation {annotation['id']} contradicts its own size or area")
        if not 0 <= class_id < OTHER or (mask[inside] != OTHER).any():
            raise ValueError(f"annotation {annotation['id']} is not of a class, or overlaps another one")
        mask[inside] = class_id
    return mask


def _decode(counts: str, height: int, width: int) -> np.ndarray:
    """Return the pixels, bool ``[height, width]``, of compressed run lengths, by columns, the first run outside.

    As in rleFrString of the COCO API's maskApi.c: a number has 5 bits per character, the lowest first, and from the
    fourth number on it is the difference to the number two before. ``pycocotools.mask.decode`` is not used, as it
    returns uninitialized memory where run lengths are too few.

    Raises:
        TypeError, ValueError: not compressed run lengths of that many pixels.
    """
    if not isinstance(counts, str):
        raise TypeError("its run lengths are not compressed ones, a string")
    codes = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if not codes.size or codes.min() < 0 or codes.max() >= 2 * _MORE or codes[-1] & _MORE:
        raise ValueError("its run lengths are cut off, or not run lengths")
    last = np.flatnonzero((codes & _MORE) == 0)  # of each number's characters
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > 7:  # 32 bits, as in the COCO API
        raise ValueError("a run length is out of range")
    digits = np.arange(len(codes)) - np.repeat(first, lengths)
    runs = np.add.reduceat((codes & (_MORE - 1)) << (5 * digits), first)
    runs -= np.where(codes[last] & _SIGN, np.left_shift(1, 5 * lengths), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0 or runs.sum() != height * width:
        raise ValueError(f"its run lengths do not add up to {width}x{height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


COCO_RLE = MaskFormat(
    "coco-rle",
    several_sizes=True,
    file_name="coco.json",
    write=_write,
    read=_read,
    check=_check,
)
