"""Masks as tasks with brush predictions, which Label Studio imports as JSON, and the labeling setup that they need.

Label Studio compresses a picture of 4 equal channels, 0 or 255, to a stream of bits, the highest of a byte first:

- First 32 bits: the number of values; 5 bits: the bits of a value, minus 1; 4 times 4 bits: the bits of a run length,
  minus 1, of which there are four sizes.
- For each run: the bit 1; 2 bits: which of the sizes; the run length minus 1, in that many bits; the value.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from ccnet3d.files import atomic_path
from ccnet3d.masks.mask_format import IndexedMasks, MaskFormat, MaskSequence, Palette
from ccnet3d.masks.png_format import mask_path

__all__ = ["LABEL_STUDIO", "label_studio_setup"]

_RUN_SIZES = (3, 4, 8, 16)
_VALUE_BITS = 8
_CHANNELS = 4
_LONGEST_RUN = 1 << _RUN_SIZES[-1]
_TAG, _IMAGE = "tag", "image"
"""Names of the parts of the labeling setup, to which the predictions refer."""


def label_studio_setup(class_names: Sequence[str], palette: Palette) -> str:
    """Return the labeling setup of a Label Studio project for the predictions of ``--format label-studio``.

    Args:
        class_names: the classes of the masks.
        palette: RGB of each of them.

    >>> print(label_studio_setup(["road", "car"], [(128, 64, 128), (64, 0, 128)]))
    <View>
      <Image name="image" value="$image" zoom="true"/>
      <BrushLabels name="tag" toName="image">
        <Label value="road" background="#804080"/>
        <Label value="car" background="#400080"/>
      </BrushLabels>
    </View>
    """
    labels = [
        f'    <Label value={quoteattr(name)} background="#{r:02x}{g:02x}{b:02x}"/>'
        for name, (r, g, b) in zip(class_names, palette, strict=True)
    ]
    return "\n".join(
        [
            "<View>",
            f'  <Image name="{_IMAGE}" value="${_IMAGE}" zoom="true"/>',
            f'  <BrushLabels name="{_TAG}" toName="{_IMAGE}">',
            *labels,
            "  </BrushLabels>",
            "</View>",
        ]
    )


def _write(path: Path, masks: IndexedMasks, sequence: MaskSequence) -> None:
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for position, (index, mask) in enumerate(masks):
            name = sequence.image_names[position] if sequence.image_names else mask_path(Path(), index).name
            task = {
                "data": {_IMAGE: f"/data/local-files/?d={quote(f'{_folder(sequence)}/{name}')}"},
                "predictions": [{"model_version": "ccnet3d", "result": _regions(mask, sequence)}],
            }
            file.write(("[" if position == 0 else ",") + "\n" + json.dumps(task, separators=(",", ":")))
        file.write("\n]\n")


def _folder(sequence: MaskSequence) -> str:
    """Return the folder of the frames in Label Studio's storage: that of a folder of images, else ``frames``."""
    names, source = sequence.image_names or (), sequence.source
    known = names and source and source not in names and not any(sign in source for sign in "*?[")
    return source if known else "frames"


def _regions(mask: np.ndarray, sequence: MaskSequence) -> list[dict[str, Any]]:
    return [
        {
            "id": f"class{class_id}",
            "type": "brushlabels",
            "from_name": _TAG,
            "to_name": _IMAGE,
            "original_width": mask.shape[1],
            "original_height": mask.shape[0],
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": list(_encode(mask == class_id)),
                "brushlabels": [sequence.classes.names[class_id]],
            },
        }
        for class_id in np.intersect1d(mask, sequence.classes.shown).tolist()
    ]


def _encode(inside: np.ndarray) -> bytes:
    """Return the compressed picture of bool ``[H, W]``."""
    flat = inside.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * _CHANNELS
    values = np.where(flat[ends - 1], 255, 0)
    # Runs that are too long for the largest size become several.
    parts = -(-lengths // _LONGEST_RUN)
    values, lengths = np.repeat(values, parts), np.repeat(lengths, parts)
    last = parts.cumsum() - 1
    rest = np.full(len(lengths), _LONGEST_RUN)
    rest[last] = lengths[last] - (parts - 1) * _LONGEST_RUN
    which = np.searchsorted(_RUN_SIZES, np.ceil(np.log2(rest)))
    sizes = np.array(_RUN_SIZES)[which]
    codes = (((1 << 2 | which) << sizes | (rest - 1)) << _VALUE_BITS) | values
    widths = 3 + sizes + _VALUE_BITS
    head = [(flat.size * _CHANNELS, 32), (_VALUE_BITS - 1, 5), *((size - 1, 4) for size in _RUN_SIZES)]
    codes = np.concatenate([[code for code, _ in head], codes])
    widths = np.concatenate([[width for _, width in head], widths])
    shifts = widths[:, None] - 1 - np.arange(widths.max())
    return np.packbits((codes[:, None] >> np.maximum(shifts, 0) & 1)[shifts >= 0].astype(np.uint8)).tobytes()


LABEL_STUDIO = MaskFormat(
    "label-studio",
    several_sizes=True,
    file_name="label_studio.json",
    write=_write,
    read=None,
)
