"""Where a pixel of a video attends to, as a picture.

Axes: R loops, T frames, H, W pixels, h, w positions of the attention.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ccnet3d.attention import attention_influence, queries_and_keys
from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.inference import resize_frame
from ccnet3d.models import CCNet3D
from ccnet3d.video import VideoReader

_LEAST_WEIGHT = 1e-6
"""Smaller weights are not drawn."""
_PANEL_INCHES = 2.6


@dataclass(frozen=True)
class AttentionView:
    """What one pixel of a clip attends to."""

    images: Sequence[np.ndarray]
    """T frames, uint8 ``[H, W, 3]``."""
    numbers: Sequence[int]
    """Of the frames in the video."""
    point: tuple[int, int]
    """(x, y) of the pixel."""
    position: tuple[int, int, int]
    """(t, h, w) of the cell that the pixel lies in."""
    influence: Tensor
    """float32 ``[R, T, h, w]`` after 1 to R loops, each with sum 1; see :func:`attention_influence`."""


def frames_around(frame: int, length: int, count: int) -> range:
    """``length`` of the ``count`` frames of a video with ``frame`` in their middle, or as near to it as can be."""
    first = max(0, min(frame - length // 2, count - length))
    return range(first, min(first + length, count))


def view_attention(
    model: CCNet3D,
    reader: VideoReader,
    frame: int,
    point: tuple[int, int],
    *,
    clip_length: int,
    input_size: tuple[int, int],
    loops: int = 3,
) -> AttentionView:
    """Run a model on the clip around a frame and follow the attention of one pixel.

    Args:
        model: in evaluation mode.
        reader: the open video.
        frame: number of the pixel's frame.
        point: (x, y) of the pixel, counted from the upper left.
        clip_length: T, frames of the clip; fewer where the video is shorter.
        input_size: (height, width) in pixels to which frames are resized.
        loops: R; all loops share their weights, so it need not be the model's.

    Raises:
        ValueError: a frame or a pixel that the video does not have, frames of different sizes, or a model without
            attention.
    """
    if model.head.attention is None:
        raise UserError("the model has no attention to show (loops = 0); give weights of another")
    count = len(reader)
    if not 0 <= frame < count:
        raise UserError(f"{reader.info.name} has no frame {frame}; it has {count} frames, numbered from 0")
    numbers = frames_around(frame, clip_length, count)
    images = [found.image for found in reader.clip(numbers)]
    height, width = images[frame - numbers.start].shape[:2]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"the point {x},{y} is not in a picture of {width}x{height} pixels; "
            f"give x from 0 to {width - 1} and y from 0 to {height - 1}"
        )
    if any(image.shape != (height, width, 3) for image in images):
        raise UserError(
            f"the size of the picture changes in frames {numbers.start} to {numbers.stop - 1}; give another"
        )
    pictures = [resize_frame(torch.from_numpy(image).permute(2, 0, 1), input_size) for image in images]
    with torch.no_grad():
        levels = model.extract_features(torch.stack(pictures).to(model.input_mean.device).float().div(255))
        reduced = model.frame_features(levels).reduced  # [T, C, h, w]
    pairs = queries_and_keys(model.head.attention, reduced.transpose(0, 1)[None], loops)
    rows, columns = reduced.shape[-2:]
    position = (frame - numbers.start, y * rows // height, x * columns // width)
    maps = [attention_influence(pairs[:count], position) for count in range(1, loops + 1)]
    return AttentionView(images, numbers, point, position, torch.stack(maps).float().cpu())


def draw_attention(view: AttentionView, path: Path, title: str = "") -> None:
    """Draw the frames of a clip under the attention of one pixel as PNG, a row for each number of loops.

    Cells are the attention's own, and what R loops cannot reach from the pixel is darkened. Colours are logarithmic,
    for trained attention is sharp: of thousands of cells a few may hold nearly all. On the right is how the row's
    weight, 1 in all, spreads along time, height and width.

    Raises:
        ValueError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError("drawing needs matplotlib; pip install 'ccnet3d[plot]'")
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure

    loops, length = view.influence.shape[:2]
    height, width = view.images[0].shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    scale = LogNorm(100 * _LEAST_WEIGHT, 100)
    heat_colors = ListedColormap(mpl.colormaps["inferno"](np.linspace(0.25, 1, 256)))  # no black, which is out of reach
    figure = Figure(
        figsize=(_PANEL_INCHES * (length + 1) + 1.2, (_PANEL_INCHES * height / width + 0.4) * loops + 0.5),
        layout="constrained",
    )
    panels = figure.subplots(loops, length + 1, squeeze=False)
    reachable = reach(view.position, view.influence.shape[1:])
    for number, (heat, row) in enumerate(zip(view.influence, panels, strict=True)):
        for t, (image, panel) in enumerate(zip(view.images, row, strict=False)):
            percent = 100 * heat[t].numpy()
            shown = heat_colors(scale(percent))
            shown[..., 3] = 0.8
            shown[percent < 100 * _LEAST_WEIGHT] = 0
            shown[~reachable[min(number, 2), t].numpy()] = (0, 0, 0, 0.6)
            panel.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
            panel.imshow(shown, extent=extent, interpolation="nearest")
            panel.set_title(f"frame {view.numbers[t]}: {percent.sum():.1f} %", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
            if t == view.position[0]:
                for color, size, line in (("black", 13, 4), ("#30d0ff", 11, 2)):
                    panel.plot(*view.point, "+", color=color, markersize=size, markeredgewidth=line)
        row[0].set_ylabel(f"R = {number + 1}", fontsize=11)
        for axis, name in enumerate(("time", "height", "width")):
            along = 100 * heat.sum([other for other in range(3) if other != axis]).numpy()
            places = (np.arange(len(along)) + 0.5) / len(along)
            row[-1].semilogy(places, along, ".-", drawstyle="steps-mid", markersize=4, linewidth=1, label=name)
        row[-1].set(xlim=(0, 1), ylim=(100 * _LEAST_WEIGHT, 150), xticks=[0, 1], xticklabels=["first", "last"])
        row[-1].set_title("% along each axis", fontsize=9)
        row[-1].tick_params(labelsize=7)
        row[-1].yaxis.tick_right()
    figure.legend(*panels[0, -1].get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8)
    bar = figure.colorbar(mpl.cm.ScalarMappable(scale, heat_colors), ax=panels[:, -1], location="right", pad=0.1)
    bar.set_label("weight of a cell in %", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_atomically(path, buffer.getvalue())


def reach(position: tuple[int, int, int], grid: Sequence[int]) -> Tensor:
    """What 1, 2 and 3 loops can reach: bool ``[3, T, h, w]``; R loops, all that differs in at most R coordinates."""
    axes = torch.meshgrid(*[torch.arange(length) for length in grid], indexing="ij")
    differing = torch.stack([axis != place for axis, place in zip(axes, position, strict=True)]).sum(0)
    return torch.stack([differing <= loops for loops in (1, 2, 3)])
