from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ccnet3d.inference import pixels
from ccnet3d.inference.pixels import (
    classify_at_size,
    confidence_at_size,
    look_up,
    quantize_probabilities,
    resize_frame,
)


@pytest.fixture(params=["stock", "native"], autouse=True)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL | None:
    """With PyTorch alone, and with the C kernels."""
    kernels = request.getfixturevalue("native_library") if request.param == "native" else None
    if kernels is not None and not kernels.ccnet3d_supported() & 1:
        pytest.skip("this CPU has no AVX2")
    monkeypatch.setattr(pixels, "_library", kernels)
    return kernels


def random_logits(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_classes_of_whole_interpolation(logits: Tensor, size: tuple[int, int]) -> None:
    """Check against torch's interpolation of all logits at once; where two are equal to rounding, either is right."""
    wide = F.interpolate(logits[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    ids = classify_at_size(logits, size)
    assert ids.dtype == torch.uint8
    assert ids.shape == size
    short = wide.max(0).values - wide.gather(0, ids[None].long())[0]
    assert short.max() < 1e-5
    assert (ids == wide.argmax(0)).double().mean() > 0.999  # random logits are rarely that close


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 4, 5), (8, 10)),
        ((11, 7, 5), (53, 37)),
        ((4, 13, 17), (13, 17)),
        ((5, 31, 29), (7, 11)),  # smaller: plain bilinear, as in torch
        ((5, 31, 3), (7, 23)),
        ((3, 1, 1), (5, 7)),
        ((3, 6, 7), (1, 1)),
        ((2, 1, 9), (1, 20)),
        ((2, 9, 1), (20, 1)),
        ((1, 3, 3), (6, 6)),
        ((256, 2, 3), (4, 5)),
    ],
)
def test_as_with_interpolation_of_all_logits(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    assert_classes_of_whole_interpolation(random_logits(*shape), size)


@pytest.mark.parametrize(
    ("shape", "size"),
    [((3, 90, 120), (701, 509)), ((3, 5, 40), (3, 140_001)), ((2, 40, 5), (140_001, 3))],
)
def test_sizes_of_several_bands(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    assert_classes_of_whole_interpolation(random_logits(*shape), size)


def test_rows_by_hand() -> None:
    """Class 1 rises from 0 to 1 over two rows, class 0 is 0.4: at 4 rows it is at 0, 0.25, 0.75 and 1."""
    logits = torch.tensor([[[0.4], [0.4]], [[0.0], [1.0]]])
    assert classify_at_size(logits, (4, 2)).tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert classify_at_size(logits.transpose(1, 2), (2, 4)).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]


def test_tie_goes_to_the_lower_id() -> None:
    plane = random_logits(5, 6)
    assert classify_at_size(torch.stack([plane - 1, plane, plane, plane]), (11, 13)).unique().tolist() == [1]
    assert classify_at_size(torch.zeros(4, 2, 2), (3, 3)).unique().tolist() == [0]


def test_strided_logits() -> None:
    logits = random_logits(6, 7, 5).permute(2, 0, 1)
    assert torch.equal(classify_at_size(logits, (20, 21)), classify_at_size(logits.contiguous(), (20, 21)))


def test_probabilities_in_255ths() -> None:
    shares = torch.tensor([0.5, 0.3, 0.2])
    assert quantize_probabilities(shares.log().view(3, 1, 1)).flatten().tolist() == [128, 76, 51]  # of 127.5, 76.5, 51
    assert quantize_probabilities(torch.tensor([100.0, -100, 0]).view(3, 1, 1)).flatten().tolist() == [255, 0, 0]
    assert quantize_probabilities(torch.full((1, 2, 2), -7.0)).unique().tolist() == [255]


def test_probabilities_against_a_float_formula() -> None:
    logits = 3 * random_logits(7, 11, 13)
    before = logits.clone()
    got = quantize_probabilities(logits)
    assert torch.equal(logits, before)
    assert got.dtype == torch.uint8
    exponentials = np.exp(logits.double().numpy())
    truth = 255 * exponentials / exponentials.sum(0)
    np.testing.assert_allclose(got.numpy(), truth, rtol=0, atol=0.5 + 1e-4)


@pytest.mark.parametrize("size", [(30, 41), (97, 113), (53, 67), (1, 1), (53, 20)])
def test_frames_are_resized_as_in_pillow(size: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    frame = random.integers(0, 256, (53, 67, 3), dtype=np.uint8)
    truth = np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    got = resize_frame(torch.from_numpy(frame).permute(2, 0, 1), size)
    assert got.dtype == torch.uint8
    assert got.shape == (3, *size)
    assert np.abs(got.permute(1, 2, 0).numpy().astype(int) - truth).max() <= 1  # both round, at each axis


def test_frame_at_the_working_size_is_unchanged() -> None:
    frame = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    assert torch.equal(resize_frame(frame, (5, 7)), frame)


@pytest.mark.parametrize(("shape", "size"), [((3, 5, 9), (33, 65)), ((5, 7, 4), (50, 31)), ((3, 1, 6), (9, 1))])
def test_aligned_corners(shape: tuple[int, int, int], size: tuple[int, int]) -> None:
    logits = random_logits(*shape)
    wide = F.interpolate(logits[None].double(), size=size, mode="bilinear", align_corners=True)[0]
    ids = classify_at_size(logits, size, align_corners=True)
    assert (wide.max(0).values - wide.gather(0, ids[None].long())[0]).max() < 1e-5
    confidence = confidence_at_size(logits, size, align_corners=True)
    torch.testing.assert_close(confidence.double(), wide.softmax(0).max(0).values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 11, 255, 256])
def test_kernel_equals_pytorch_to_the_pixel(
    library: ctypes.CDLL | None, monkeypatch: pytest.MonkeyPatch, count: int, align_corners: bool
) -> None:
    """Rounding included, which decides between classes that are nearly equal."""
    smooth = F.interpolate(random_logits(1, count, 5, 6), size=(19, 23), mode="bilinear")[0]
    for logits in (smooth, smooth.permute(1, 2, 0).contiguous().permute(2, 0, 1), smooth[:, ::2, 1:]):
        for size in ((76, 92), (31, 57), (5, 200)):
            monkeypatch.setattr(pixels, "_library", library)
            ids = classify_at_size(logits, size, align_corners=align_corners)
            monkeypatch.setattr(pixels, "_library", None)
            assert torch.equal(ids, classify_at_size(logits, size, align_corners=align_corners))


def test_nan_is_the_largest_logit() -> None:
    logits = torch.zeros(5, 3, 4)
    logits[3, 1, 1] = torch.nan
    logits[1, 2, 3] = 1
    # A pixel's logits are sums over the cell that begins with it, 0 times NaN included.
    assert classify_at_size(logits, (3, 4)).tolist() == [[3, 3, 0, 0], [3, 3, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1)])
def test_table_is_looked_up(library: ctypes.CDLL | None, dtype: torch.dtype, order: tuple[int, int, int]) -> None:
    picture = torch.arange(3 * 8 * 34, dtype=torch.int64).view(3, 8, 34).mul_(89).remainder_(256).to(torch.uint8)
    memory = picture.permute(order).contiguous().permute(*np.argsort(order))
    table = random_logits(3, 256).to(dtype)
    result = look_up(memory[:, 1:, ::2], table)
    if library is None:
        assert result is None
        return
    assert result is not None
    assert result.is_contiguous(memory_format=torch.channels_last)
    for channel in range(3):
        assert torch.equal(result[0, channel], table[channel][picture[channel, 1:, ::2].int()])
