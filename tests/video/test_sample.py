from __future__ import annotations

import numpy as np
import pytest

from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import load_model
from ccnet3d.video import SAMPLE_CLASSES, draw_sample_frame, draw_sample_labels
from ccnet3d.video.sample_render import Camera, Surface, Texture, render


def test_the_default_model_understands_the_drawn_street() -> None:
    """Agreement was 95.1% over every second frame of the clip."""
    model, info = load_model()
    assert tuple(info.class_names) == SAMPLE_CLASSES
    indices = (0, 22, 40)
    labels = np.stack([draw_sample_labels(index) for index in indices])
    segmenter = VideoSegmenter(model, info, clip_length=1)
    masks = np.stack([*segmenter.segment(draw_sample_frame(index) for index in indices)])
    assert (masks == labels).mean() > 0.93
    for name, recall in (("Sky", 0.95), ("Building", 0.9), ("Road", 0.97), ("Tree", 0.9), ("Car", 0.95)):
        own = labels == SAMPLE_CLASSES.index(name)
        assert own.mean() > 0.04
        assert (masks[own] == SAMPLE_CLASSES.index(name)).mean() > recall, name
    shown = {SAMPLE_CLASSES[i] for i in np.unique(labels)}
    assert shown == set(SAMPLE_CLASSES) - {"Fence"}


def plain(color: int) -> Texture:
    return Texture(np.full((4, 4, 4), [color, color, color, 255], np.uint8))


def test_a_square_has_the_size_that_the_distance_gives_it() -> None:
    """2 m at 10 m with a focal length of 50 pixels are 10 pixels; the nearer surface hides the farther one."""
    image, labels = np.zeros((40, 60, 3), np.float32), np.zeros((40, 60), np.uint8)
    camera = Camera((5, 1, 3), 50, (30, 20))
    far = Surface((4, 2, 13), (2, 0, 0), (0, -2, 0), plain(200), 1)
    near = Surface((4, 1, 8), (1, 0, 0), (0, -1, 0), plain(90), 2)
    behind = Surface((4, 2, 1), (2, 0, 0), (0, -2, 0), plain(10), 3)
    render([near, far, behind], camera, image, labels, np.zeros(3, np.float32))
    rows, columns = np.nonzero(labels == 1)
    assert (rows.min(), columns.min(), columns.max()) == (15, 25, 34)
    expected = np.zeros((40, 60), np.uint8)
    expected[15:25, 25:35] = 1
    expected[20:30, 20:30] = 2
    assert np.array_equal(labels, expected)
    assert image[16, 30, 0] == pytest.approx(200 * np.exp(-10 / 150), rel=1e-3)


def test_frames_are_the_same_every_time_and_move() -> None:
    first, again, later = (draw_sample_frame(index, 72, 96) for index in (3, 3, 4))
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - later).mean() > 1
