"""What one pixel of a video attends to, as a picture.

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

from ccnet3d.attention import RecurrentCrissCrossAttention, attention_influence, queries_and_keys
from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.inference import resize_frame, working_size
from ccnet3d.models import CCNet3D
from ccnet3d.video import VideoReader
from ccnet3d.wording import count_of

__all__ = ["AttentionMap", "check_plotting", "compute_attention_map", "draw_attention_map", "frames_around", "reach"]

_LEAST_WEIGHT = 1e-6
"""Smaller weights are not drawn."""
_PANEL_INCHES = 2.6


@dataclass(frozen=True)
class AttentionMap:
    """What one pixel of a clip attends to after 1 to R loops."""

    images: Sequence[np.ndarray]
    """T frames, uint8 ``[H, W, 3]``."""
    frame_indices: Sequence[int]
    """Of the T frames in the video."""
    point: tuple[int, int]
    """(x, y) of the pixel."""
    position: tuple[int, int, int]
    """(t, h, w) of the attention's cell that contains the pixel."""
    influence: Tensor
    """float32 ``[R, T, h, w]``, each loop's with sum 1; see :func:`ccnet3d.attention.attention_influence`."""


def frames_around(frame_index: int, length: int, count: int) -> range:
    """Return ``length`` of a video's ``count`` frames, with ``frame_index`` as near to the middle as possible.

    >>> frames_around(50, 5, 100), frames_around(99, 5, 100), frames_around(1, 5, 3)
    (range(48, 53), range(95, 100), range(0, 3))
    """
    first = max(0, min(frame_index - length // 2, count - length))
    return range(first, min(first + length, count))


def compute_attention_map(
    model: CCNet3D,
    reader: VideoReader,
    frame_index: int,
    point: tuple[int, int],
    *,
    clip_length: int,
    input_size: tuple[int, int],
    keep_aspect: bool = False,
    loops: int = 3,
) -> AttentionMap:
    """Run a model on the clip around a frame and follow the attention of one pixel.

    Of a model with both kinds of attention, the one over class evidence, after the decoder, is followed.

    Args:
        model: in evaluation mode.
        reader: the open video.
        frame_index: of the pixel's frame in the video.
        point: (x, y) of the pixel, from the upper left.
        clip_length: T, frames of the clip; fewer if the video is shorter.
        input_size: (height, width) in pixels to which frames are resized.
        keep_aspect: use its area only, and the aspect of the video; see :func:`ccnet3d.inference.working_size`.
        loops: R. All loops share their weights, so it may differ from the model's.

    Raises:
        UserError: a frame or a pixel that the video does not have, frames of different sizes, or a model without
            attention.
    """
    if not isinstance(model.head.attention, RecurrentCrissCrossAttention) and model.evidence is None:
        why = "loops = 0" if model.config.context == "criss_cross" else f"context = {model.config.context}"
        raise UserError(f"the model has no attention to show ({why}); give weights of a model with attention")
    count = len(reader)
    if not 0 <= frame_index < count:
        raise UserError(
            f"{reader.info.name} has no frame {frame_index}; it has {count_of(count, 'frame')}, numbered from 0"
        )
    frame_indices = frames_around(frame_index, clip_length, count)
    images = [frame.image for frame in reader.clip(frame_indices)]
    height, width = images[frame_index - frame_indices.start].shape[:2]
    x, y = point
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"the point {x},{y} is not in a picture of {width}x{height} pixels; "
            f"give x from 0 to {width - 1} and y from 0 to {height - 1}"
        )
    if any(image.shape != (height, width, 3) for image in images):
        raise UserError(
            f"the size of the picture changes in frames {frame_indices.start} to {frame_indices.stop - 1}; "
            "give a frame whose clip has one size, or a shorter clip"
        )
    size = working_size((height, width), input_size, reader.info.pixel_aspect) if keep_aspect else input_size
    resized = [resize_frame(torch.from_numpy(image).permute(2, 0, 1), size) for image in images]
    pairs = _queries_and_keys(model, torch.stack(resized).to(model.input_mean.device).float().div(255), loops)
    rows, columns = pairs[0][0].shape[2:4]
    position = (frame_index - frame_indices.start, y * rows // height, x * columns // width)
    maps = [attention_influence(pairs[:count], position) for count in range(1, loops + 1)]
    return AttentionMap(images, frame_indices, point, position, torch.stack(maps).float().cpu())


@torch.no_grad()
def _queries_and_keys(model: CCNet3D, frames: Tensor, loops: int) -> list[tuple[Tensor, Tensor]]:
    """Return query and key ``[1, T, h, w, D]`` of each loop, for frames ``[T, 3, H, W]`` of one clip."""
    features = model.frame_features(model.extract_features(frames))
    if model.evidence is not None:
        decoded = model.decode(features, model.attend(features.reduced, len(frames)))
        assert decoded.evidence is not None
        return [model.evidence.queries_and_keys(decoded.evidence, len(frames))] * loops
    assert isinstance(model.head.attention, RecurrentCrissCrossAttention)
    return queries_and_keys(model.head.attention, features.reduced.transpose(0, 1)[None], loops)


def check_plotting() -> None:
    """Fail early if pictures cannot be drawn.

    Raises:
        UserError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UserError("drawing needs matplotlib; pip install 'ccnet3d[plot]'")


def draw_attention_map(attention_map: AttentionMap, path: Path, title: str = "") -> None:
    """Draw the frames of a clip under the attention of one pixel as PNG, one row per number of loops.

    Each cell is one position of the attention; cells that R loops cannot reach from the pixel are darkened. Colors are
    logarithmic because trained attention is sharp: a few of thousands of cells may hold nearly all weight. The right
    column shows how the row's weight, 1 in total, is spread along time, height and width.

    Raises:
        UserError: matplotlib is not installed.
    """
    check_plotting()
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.figure import Figure

    loops, length = attention_map.influence.shape[:2]
    height, width = attention_map.images[0].shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    scale = LogNorm(100 * _LEAST_WEIGHT, 100)
    heat_colors = ListedColormap(mpl.colormaps["inferno"](np.linspace(0.25, 1, 256)))  # without black: out of reach
    figure = Figure(
        figsize=(_PANEL_INCHES * (length + 1) + 1.2, (_PANEL_INCHES * height / width + 0.4) * loops + 0.5),
        layout="constrained",
    )
    panels = figure.subplots(loops, length + 1, squeeze=False)
    reachable = reach(attention_map.position, attention_map.influence.shape[1:])
    for loop, (heat, row) in enumerate(zip(attention_map.influence, panels, strict=True)):
        for t, (image, panel) in enumerate(zip(attention_map.images, row, strict=False)):
            percent = 100 * heat[t].numpy()
            shown = heat_colors(scale(percent))
            shown[..., 3] = 0.8
            shown[percent < 100 * _LEAST_WEIGHT] = 0
            shown[~reachable[min(loop, 2), t].numpy()] = (0, 0, 0, 0.6)
            panel.imshow(image.mean(-1), cmap="gray", vmin=0, vmax=255)
            panel.imshow(shown, extent=extent, interpolation="nearest")
            panel.set_title(f"frame {attention_map.frame_indices[t]}: {percent.sum():.1f} %", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
            if t == attention_map.position[0]:
                for color, size, line in (("black", 13, 4), ("#30d0ff", 11, 2)):
                    panel.plot(*attention_map.point, "+", color=color, markersize=size, markeredgewidth=line)
        row[0].set_ylabel(f"R = {loop + 1}", fontsize=11)
        for axis, name in enumerate(("time", "height", "width")):
            along = 100 * heat.sum([other for other in range(3) if other != axis]).numpy()
            centers = (np.arange(len(along)) + 0.5) / len(along)
            row[-1].semilogy(centers, along, ".-", drawstyle="steps-mid", markersize=4, linewidth=1, label=name)
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
    """Return the positions that 1, 2 and 3 loops can reach, bool ``[3, T, h, w]``.

    R loops reach every position that differs in at most R coordinates.

    >>> reach((0, 0, 0), (1, 2, 2))[:2].int().tolist()
    [[[[1, 1], [1, 0]]], [[[1, 1], [1, 1]]]]
    """
    axes = torch.meshgrid(*[torch.arange(length) for length in grid], indexing="ij")
    differing = torch.stack([axis != start for axis, start in zip(axes, position, strict=True)]).sum(0)
    return torch.stack([differing <= loops for loops in (1, 2, 3)])
