from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from ccnet3d.inference.smoothing import GuidedLogits, smooth


def invent(
    count: int, first: int = 0, *, picture: tuple[int, int] = (3, 5), contrast: float = 25
) -> list[GuidedLogits]:
    """Random logits 2 x 3 x 5 and pictures that differ by about the scale at which neighbors begin to count less."""
    frames = []
    for index in range(first, first + count):
        generator = torch.Generator().manual_seed(index)
        colors = 100 + contrast * torch.rand(3, *picture, generator=generator)
        frames.append(GuidedLogits(index, torch.randn(2, 3, 5, generator=generator), colors.to(torch.uint8)))
    return frames


def area_mean(picture: Tensor, channel: int, y: int, x: int, height: int, width: int) -> float:
    """Return the mean of the picture's pixels that a cell of the coarser grid touches."""
    rows = range(y * picture.shape[1] // height, math.ceil((y + 1) * picture.shape[1] / height))
    columns = range(x * picture.shape[2] // width, math.ceil((x + 1) * picture.shape[2] / width))
    return sum(float(picture[channel, r, c]) for r in rows for c in columns) / (len(rows) * len(columns))


def smooth_loop(frames: list[GuidedLogits], radius: int, *, causal: bool) -> list[Tensor]:
    """Return the smoothed logits by definition, pixel by pixel."""
    classes, height, width = frames[0].logits.shape
    results = []
    for t in range(len(frames)):
        last = t if causal else min(t + radius, len(frames) - 1)
        result = torch.zeros(classes, height, width, dtype=torch.float64)
        for y in range(height):
            for x in range(width):
                own = [area_mean(frames[t].picture, c, y, x, height, width) for c in range(3)]
                weights = {}
                for other in range(max(0, t - radius), last + 1):
                    colors = [area_mean(frames[other].picture, c, y, x, height, width) for c in range(3)]
                    square = sum((a - b) ** 2 for a, b in zip(own, colors, strict=True)) / 3
                    weights[other] = (1 - abs(other - t) / (radius + 1)) * math.exp(-square / (2 * 10**2))
                for k in range(classes):
                    mixed = sum(w * float(frames[other].logits[k, y, x]) for other, w in weights.items())
                    result[k, y, x] = mixed / sum(weights.values())
        results.append(result)
    return results


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 6])
def test_against_a_loop(count: int, radius: int, causal: bool) -> None:
    frames = invent(count, first=4)
    got = list(smooth(frames, radius, causal=causal))
    assert [index for index, _ in got] == list(range(4, 4 + count))
    for (_, logits), truth in zip(got, smooth_loop(frames, radius, causal=causal), strict=True):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("picture", [(6, 10), (7, 13), (2, 3)])
def test_pictures_at_other_sizes_than_the_logits(picture: tuple[int, int]) -> None:
    frames = invent(4, picture=picture, contrast=60)
    for (_, logits), truth in zip(smooth(frames, 2), smooth_loop(frames, 2, causal=False), strict=True):
        torch.testing.assert_close(logits.double(), truth, rtol=1e-5, atol=1e-5)


def still(values: Sequence[float]) -> list[GuidedLogits]:
    picture = torch.full((3, 2, 2), 77, dtype=torch.uint8)
    return [GuidedLogits(n, torch.full((1, 2, 2), float(value)), picture) for n, value in enumerate(values)]


def test_still_picture_is_averaged_with_triangular_weights() -> None:
    """Weights 1/2, 1, 1/2 at radius 1; 1/3, 2/3, 1, 2/3, 1/3 at radius 2; cut off at the video's ends."""

    def values(radius: int, *, causal: bool = False) -> list[float]:
        return [logits[0, 1, 1].item() for _, logits in smooth(still([0, 0, 18, 0, 0, 9]), radius, causal=causal)]

    assert values(1) == pytest.approx([0, 4.5, 9, 4.5, 2.25, 6])
    assert values(2) == pytest.approx([18 / 6, 36 / 8, 54 / 9, (36 + 9) / 9, (18 + 18) / 8, 27 / 6])
    assert values(1, causal=True) == pytest.approx([0, 0, 12, 6, 0, 6])


def test_moving_pixels_stay_unchanged() -> None:
    """The left half flickers between black and white, the right half stands still."""
    frames = still([0, 18, 0, 18, 0])
    for index, frame in enumerate(frames):
        picture = frame.picture.clone()
        picture[:, :, 0] = 255 * (index % 2)
        frames[index] = frame._replace(picture=picture)
    for index, logits in smooth(frames, 1):
        assert torch.equal(logits[:, :, 0], frames[index].logits[:, :, 0])
        assert not torch.equal(logits[:, :, 1], frames[index].logits[:, :, 1])


def test_inputs_stay_unchanged() -> None:
    frames, again = invent(5), invent(5)
    list(smooth(frames, 2))
    for frame, before in zip(frames, again, strict=True):
        assert torch.equal(frame.logits, before.logits)
        assert torch.equal(frame.picture, before.picture)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("radius", [1, 2, 3])
def test_stream_that_begins_radius_frames_earlier_yields_the_same(radius: int, causal: bool) -> None:
    frames = invent(11)
    whole = dict(smooth(frames, radius, causal=causal))
    for begin in range(len(frames)):
        part = dict(smooth(frames[begin:], radius, causal=causal))
        assert list(part) == list(range(begin, len(frames)))
        for index in range(begin + radius if begin else 0, len(frames)):
            assert torch.equal(part[index], whole[index])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("radius", [1, 3])
def test_result_is_yielded_with_the_last_frame_it_needs(radius: int, causal: bool) -> None:
    taken = 0

    def source() -> Iterator[GuidedLogits]:
        nonlocal taken
        for frame in invent(9, first=2):
            taken += 1
            yield frame

    yielded = [(index, taken) for index, _ in smooth(source(), radius, causal=causal)]
    ahead = 0 if causal else radius
    assert yielded == [(index, min(index - 2 + ahead + 1, 9)) for index in range(2, 11)]


def test_no_frames() -> None:
    assert list(smooth([], 2)) == []
