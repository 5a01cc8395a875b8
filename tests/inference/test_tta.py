from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import draw_scene

from ccnet3d.errors import UserError
from ccnet3d.inference import TestTimeAugmentation, VideoSegmenter
from ccnet3d.inference.tta import window_starts
from ccnet3d.models import CCNet3D, ModelInfo

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def segmenter(torn_model: CCNet3D, tiny_info: ModelInfo) -> VideoSegmenter:
    return VideoSegmenter(torn_model, tiny_info, dtype=torch.float32)


def scenes(count: int) -> list[np.ndarray]:
    return [draw_scene(number)[0] for number in range(count)]


def assert_nearly_equal(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    """Allow for the few pixels of random weights at which rounding decides between classes."""
    assert len(one) == len(other)
    assert np.mean(np.stack(one) != np.stack(other)) < 0.002


def probabilities(segmenter: VideoSegmenter, frames: list[np.ndarray], size: tuple[int, int]) -> list[torch.Tensor]:
    """Return the probabilities of each frame from a separate segmenter with that working size."""
    other = VideoSegmenter(segmenter.model, segmenter.info, dtype=torch.float32, input_size=size)
    logits = [prediction.logits[None] for prediction in other.predict(frames)]
    shape = frames[0].shape[:2]
    return [F.interpolate(x, size=shape, mode="bilinear", align_corners=False)[0].softmax(0) for x in logits]


def test_one_view_equals_the_segmenter(segmenter: VideoSegmenter) -> None:
    frames = scenes(7)
    assert_nearly_equal(list(TestTimeAugmentation(segmenter).segment(frames)), list(segmenter.segment(frames)))


def test_scales_and_mirrored_views_are_averaged(segmenter: VideoSegmenter) -> None:
    frames = scenes(5)
    mirrored = [np.ascontiguousarray(frame[:, ::-1]) for frame in frames]
    total = 0
    for size in ((24, 36), (32, 48), (40, 60)):  # 0.75, 1 and 1.25 of the working size
        there = torch.stack(probabilities(segmenter, frames, size))
        back = torch.stack(probabilities(segmenter, mirrored, size)).flip(-1)
        total = total + there + back
    views = TestTimeAugmentation(segmenter, scales=(0.75, 1, 1.25), flip=True)
    masks = list(views.segment(frames))
    assert_nearly_equal(masks, list(total.argmax(1).to(torch.uint8).numpy()))
    assert np.mean(np.stack(masks) != np.stack(list(segmenter.segment(frames)))) > 0.02  # the views make a difference
    assert segmenter.input_size == (32, 48)


def test_mirrored_video_has_mirrored_masks(segmenter: VideoSegmenter) -> None:
    frames = scenes(4)
    views = TestTimeAugmentation(segmenter, flip=True)
    mirrored = [mask[:, ::-1] for mask in views.segment(frame[:, ::-1] for frame in frames)]
    assert_nearly_equal(list(views.segment(frames)), mirrored)


def test_windows_by_definition(segmenter: VideoSegmenter) -> None:
    """Windows of 32x40 on frames of 48x64: two down, at 0 and 16, and two across, at 0 and 24."""
    frames = scenes(4)
    total, weights = torch.zeros(4, 3, 48, 64), torch.zeros(48, 64)
    falling = [[min(i + 0.5, n - i - 0.5) for i in range(n)] for n in (32, 40)]
    weight = torch.tensor(falling[0])[:, None] * torch.tensor(falling[1])
    for top in (0, 16):
        for left in (0, 24):
            area = slice(top, top + 32), slice(left, left + 40)
            crops = [np.ascontiguousarray(frame[area]) for frame in frames]
            total[:, :, *area] += torch.stack(probabilities(segmenter, crops, (32, 40))) * weight
            weights[area] += weight
    views = TestTimeAugmentation(segmenter, window=(32, 40), overlap=0.3)
    assert_nearly_equal(list(views.segment(frames)), list((total / weights).argmax(1).to(torch.uint8).numpy()))


def test_window_larger_than_the_frame_is_the_frame(segmenter: VideoSegmenter) -> None:
    frames = scenes(3)
    views = TestTimeAugmentation(segmenter, window=(500, 500))
    whole = VideoSegmenter(segmenter.model, segmenter.info, dtype=torch.float32, input_size=(48, 64))
    assert_nearly_equal(list(views.segment(frames)), list(whole.segment(frames)))
    assert list(views.segment([])) == []


def test_frames_are_read_as_needed(segmenter: VideoSegmenter) -> None:
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for frame in scenes(30):
            taken += 1
            yield frame

    views = TestTimeAugmentation(segmenter, scales=(0.5, 1), flip=True, window=(32, 48))
    for done, _ in enumerate(views.segment(frames()), 1):
        assert taken <= done + 2 * segmenter.clip_length


@pytest.mark.parametrize(
    ("length", "window", "overlap", "starts"),
    [
        (10, 10, 0.5, [0]),
        (20, 10, 0, [0, 10]),
        (21, 10, 0, [0, 6, 11]),
        (20, 10, 0.5, [0, 5, 10]),
        (11, 10, 0.5, [0, 1]),
        (3, 1, 0.9, [0, 1, 2]),
    ],
)
def test_window_starts(length: int, window: int, overlap: float, starts: list[int]) -> None:
    assert window_starts(length, window, overlap) == starts


def test_bad_arguments(segmenter: VideoSegmenter) -> None:
    for scales in ([], [0.0], [1, -1], [float("nan")], [float("inf")], [1e9], [1e-9]):
        with pytest.raises(UserError, match="scales must be numbers from 1/16 to 16, at least one"):
            TestTimeAugmentation(segmenter, scales=scales)
    with pytest.raises(UserError, match=r"window must be at least 1 pixel high and wide, got \(0, 5\)"):
        TestTimeAugmentation(segmenter, window=(0, 5))
    with pytest.raises(UserError, match="overlap must be a share of a window from 0 to less than 1, got 1"):
        TestTimeAugmentation(segmenter, overlap=1)
    frames = [draw_scene(0)[0], draw_scene(1, 40, 64)[0]]
    with pytest.raises(UserError, match="windows need frames of one size, got 64x48 and then 64x40"):
        list(TestTimeAugmentation(segmenter, window=(32, 32)).segment(frames))


def test_aligned_corners(torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """Masks of frames of the working size, alone and as a view, are the largest logits of the model itself."""
    config = replace(torn_model.config, align_corners=True, skip_levels=(), skip_channels=())
    torch.manual_seed(0)
    model = CCNet3D(config).eval()
    segmenter = VideoSegmenter(model, replace(tiny_info, model=config), dtype=torch.float32, clip_length=1)
    frames = [frame[:32, :48] for frame in scenes(2)]
    clip = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)[:, None] / 255
    with torch.no_grad():
        expected = list(model(clip)[:, 0].argmax(1).to(torch.uint8).numpy())
    assert_nearly_equal(list(segmenter.segment(frames)), expected)
    assert_nearly_equal(list(TestTimeAugmentation(segmenter).segment(frames)), expected)
    assert_nearly_equal(list(TestTimeAugmentation(segmenter, window=(32, 48)).segment(frames)), expected)
