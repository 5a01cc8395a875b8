from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw_scene

from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo


def frames_of(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    return [draw_scene(number, height, width)[0] for number in range(count)]


def by_hand(model: CCNet3D, frames: list[np.ndarray], indices: list[int], size: tuple[int, int]) -> list[np.ndarray]:
    """Masks of one clip, written out: resize, scale, model, resize logits, argmax."""
    stack = torch.stack([torch.from_numpy(frames[i]).permute(2, 0, 1) for i in indices])
    small = torch.stack([F.interpolate(x[None], size=size, mode="bilinear", antialias=True)[0] for x in stack])
    with torch.no_grad():
        logits = model(small[None] / 255)[0]
    full = F.interpolate(logits, size=stack.shape[-2:], mode="bilinear")
    return list(full.argmax(1).to(torch.uint8).numpy())


@pytest.mark.parametrize(
    ("count", "clips"),
    [
        (6, [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [0, 1, 2])]),
        (7, [([0, 1, 2], [0, 1, 2]), ([3, 4, 5], [0, 1, 2]), ([4, 5, 6], [2])]),
        (5, [([0, 1, 2], [0, 1, 2]), ([2, 3, 4], [1, 2])]),
        (2, [([0, 1, 1], [0, 1])]),
        (1, [([0, 0, 0], [0])]),
        (0, []),
    ],
)
def test_clips_by_hand(tiny_model: CCNet3D, tiny_info: ModelInfo, count: int, clips) -> None:
    frames = frames_of(count)
    segmenter = VideoSegmenter(tiny_model, tiny_info, precision=torch.float32)
    expected = [by_hand(tiny_model, frames, indices, (32, 48))[p] for indices, places in clips for p in places]
    masks = list(segmenter.segment(frames))
    assert len(masks) == count
    for mask, truth in zip(masks, expected, strict=True):
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, truth)


def test_lazy_with_one_clip_in_hand(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """An endless stream: a mask comes as soon as its clip is there, and no frame is asked for before it is needed."""
    taken = itertools.count()

    def endless():
        while True:
            yield draw_scene(next(taken))[0]

    masks = VideoSegmenter(tiny_model, tiny_info).segment(endless())
    for _ in range(4):
        next(masks)
    assert next(taken) == 6


def test_frames_of_changing_size(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = [*frames_of(2), *frames_of(2, 30, 41)]
    masks = list(VideoSegmenter(tiny_model, tiny_info).segment(frames))
    assert [mask.shape for mask in masks] == [(48, 64), (48, 64), (30, 41), (30, 41)]


def test_own_clip_length_and_size(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    frames = frames_of(4)
    segmenter = VideoSegmenter(tiny_model, tiny_info, clip_length=1, input_size=(48, 64), precision=torch.float32)
    for number, mask in enumerate(segmenter.segment(frames)):
        assert np.array_equal(mask, by_hand(tiny_model, frames, [number], (48, 64))[0])


def test_bad_arguments(tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        VideoSegmenter(tiny_model, tiny_info, clip_length=0)
    with pytest.raises(ValueError, match=r"a frame must be uint8 \[H, W, 3\], got float64 \(4, 4, 3\)"):
        list(VideoSegmenter(tiny_model, tiny_info).segment([np.zeros((4, 4, 3))]))
