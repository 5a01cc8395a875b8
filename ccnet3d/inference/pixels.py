"""Frames resized to the working size and looked up in a table; logits to masks and probabilities.

Where the installation has compiled kernels, they do on a CPU in one pass what takes PyTorch many.
"""

from __future__ import annotations

import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.native import LIBRARY

__all__ = ["classify_at_size", "confidence_at_size", "look_up", "quantize_probabilities", "resize_frame"]

_library = LIBRARY if LIBRARY is not None and LIBRARY.ccnet3d_supported() & 1 else None

_UNDECIDED = 255
"""Not a class id: there are at most 255 classes."""

_MOST_CLASSES = 256
"""``MOST_CLASSES`` of ``ccnet3d/native/sources/pixels.c``."""

_STRIP_ROWS = 64
"""Rows of a frame whose logits of all classes are in memory together."""

_Strides = ctypes.c_long * 3


class _Picture(ctypes.Structure):
    """``Picture`` of ``ccnet3d/native/sources/pixels.c``."""

    _fields_ = (
        ("picture", ctypes.c_void_p),
        ("strides", _Strides),
        *((name, ctypes.c_long) for name in ("height", "width")),
        *((name, ctypes.c_void_p) for name in ("table", "output")),
    )


class _Mask(ctypes.Structure):
    """``Mask`` of ``ccnet3d/native/sources/pixels.c``."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("strides", _Strides),
        *((name, ctypes.c_long) for name in ("classes", "rows", "columns")),
        *((name, ctypes.c_void_p) for name in ("upper", "lower", "left", "right", "down", "across")),
        *((name, ctypes.c_long) for name in ("height", "width")),
        ("ids", ctypes.c_void_p),
    )


def resize_frame(frame: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a frame, uint8 ``[3, H, W]``, at another size: bilinear with antialiasing, as the model receives it.

    >>> resize_frame(torch.full((3, 6, 8), 7, dtype=torch.uint8), (3, 4)).shape
    torch.Size([3, 3, 4])
    """
    if frame.shape[-2:] == size:
        return frame
    return F.interpolate(frame[None], size=size, mode="bilinear", antialias=True)[0]


def look_up(picture: Tensor, table: Tensor) -> Tensor | None:
    """Return what a table says of each value of a picture, or None where there is no kernel for it.

    Args:
        picture: uint8 ``[3, H, W]``.
        table: ``[3, 256]`` of 2 or 4 bytes each, contiguous: the results for each channel.

    Returns:
        ``[1, 3, H, W]`` in channels-last memory.
    """
    if _library is None or picture.device.type != "cpu":
        return None
    _, height, width = picture.shape
    output = torch.empty(1, height, width, 3, dtype=table.dtype)
    job = _Picture(picture.data_ptr(), _Strides(*picture.stride()), height, width, table.data_ptr(), output.data_ptr())
    _library.ccnet3d_look_up(ctypes.byref(job), table.element_size())
    return output.permute(0, 3, 1, 2)


def classify_at_size(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Return the class ids ``[H, W]`` (uint8) of one frame from its logits ``[K, h, w]``, resized bilinearly first.

    A pixel's logits are a mean of those at four corners. Where the corners agree on the best class, it is the pixel's
    class, so that only pixels between classes, a few percent, need their logits.
    """
    (height, width), (classes_count, rows, columns) = size, logits.shape
    upper, lower, down = _neighbors(height, rows, logits.device, align_corners)
    left, right, across = _neighbors(width, columns, logits.device, align_corners)
    native = logits.device.type == "cpu" and logits.dtype == torch.float32 and classes_count <= _MOST_CLASSES
    if _library is not None and native:
        ids = torch.empty(size, dtype=torch.uint8)
        places = (x.data_ptr() for x in (upper, lower, left, right, down, across))
        job = _Mask(
            logits.data_ptr(), _Strides(*logits.stride()), *logits.shape, *places, height, width, ids.data_ptr()
        )
        if _library.ccnet3d_classify(ctypes.byref(job)):
            raise MemoryError("not enough memory for the logits of a frame")
        return ids
    corners = logits.permute(1, 2, 0).reshape(-1, classes_count)  # [h * w, K]
    best = corners.argmax(-1).to(torch.uint8).view(rows, columns)
    below = torch.cat([best[1:], best[-1:]])
    right_of, diagonal = (torch.cat([ids[:, 1:], ids[:, -1:]], dim=1) for ids in (best, below))
    agreed = (best == below) & (best == right_of) & (best == diagonal)
    ids = best.masked_fill(~agreed, _UNDECIDED).index_select(1, left).index_select(0, upper).flatten()
    pixels = (ids == _UNDECIDED).nonzero()[:, 0]
    y, x = pixels // width, pixels % width

    def along(row: Tensor) -> Tensor:
        a, b = (corners.index_select(0, row * columns + column[x]) for column in (left, right))
        return torch.lerp(a, b, across[x, None])

    ids[pixels] = torch.lerp(along(upper[y]), along(lower[y]), down[y, None]).argmax(-1).to(torch.uint8)
    return ids.view(size)


def confidence_at_size(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Return the probability of each pixel's class ``[H, W]`` from the logits ``[K, h, w]``, resized bilinearly first.

    That is the largest value of the softmax, so it is at least 1 / K. Each pixel's value is the same however the frame
    is divided into strips, which bound the memory.
    """
    (height, width), (_, rows, columns) = size, logits.shape
    upper, lower, down = _neighbors(height, rows, logits.device, align_corners)
    left, right, across = _neighbors(width, columns, logits.device, align_corners)
    wide = torch.lerp(logits.index_select(2, left), logits.index_select(2, right), across)  # [K, h, W]
    confidence = logits.new_empty(size)
    for start in range(0, height, _STRIP_ROWS):
        strip = slice(start, start + _STRIP_ROWS)
        above, below = (wide.index_select(1, row[strip]) for row in (upper, lower))
        resized = torch.lerp(above, below, down[strip, None])  # [K, rows of the strip, W]
        confidence[strip] = (resized.amax(0) - resized.logsumexp(0)).exp_()
    return confidence


def _neighbors(
    count: int, source_count: int, device: torch.device, align_corners: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return, for each of ``count`` rows or columns, the two source ones around it and the weight of the second."""
    place = torch.arange(count, device=device)
    if align_corners:
        center = place * ((source_count - 1) / max(1, count - 1))
    else:
        center = ((place + 0.5) * (source_count / count) - 0.5).clamp_(min=0)
    first = center.long().clamp_(max=source_count - 1)
    return first, (first + 1).clamp_(max=source_count - 1), center - first


def quantize_probabilities(logits: Tensor) -> Tensor:
    """Return the softmax over the classes of ``[K, h, w]``, in 255ths (uint8)."""
    return logits.softmax(0).mul_(255).round_().to(torch.uint8)
