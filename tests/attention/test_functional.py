from __future__ import annotations

import pytest
import torch
from reference.loops import criss_cross_2d, criss_cross_loop
from torch import Tensor

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_reference
from ccnet3d.attention.reference import criss_cross_weights_reference, cross_mask

# (B, T, H, W, D, Dv): ones in every place, primes, T > H, T != H != W, D = 1.
SIZES = [
    (1, 1, 1, 1, 1, 1),
    (2, 1, 1, 1, 3, 2),
    (1, 5, 1, 1, 2, 3),
    (1, 1, 5, 1, 2, 3),
    (1, 1, 1, 5, 2, 3),
    (2, 3, 4, 1, 2, 3),
    (2, 3, 1, 4, 2, 3),
    (2, 1, 3, 4, 2, 3),
    (2, 3, 4, 5, 4, 6),
    (1, 7, 3, 5, 1, 1),
    (1, 2, 7, 3, 5, 11),
    (2, 2, 2, 2, 8, 8),
    (1, 11, 2, 3, 3, 2),
]


def random_inputs(size: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    *grid, channels, value_channels = size
    shapes = [(*grid, channels), (*grid, channels), (*grid, value_channels)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def output_and_gradients(function, inputs: list[Tensor]) -> list[Tensor]:
    output = function(*inputs)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [output, *torch.autograd.grad((output.double() * weight).sum(), inputs)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reference_equals_the_loop_over_positions(size) -> None:
    inputs = random_inputs(size)
    expected = output_and_gradients(criss_cross_loop, inputs)
    for mine, truth in zip(output_and_gradients(criss_cross_attention_reference, inputs), expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [*SIZES, (1, 5, 13, 17, 8, 24), (2, 4, 9, 6, 16, 10)], ids=str)
def test_fast_equals_reference_in_value_and_all_gradients(size) -> None:
    inputs = random_inputs(size)
    expected = output_and_gradients(criss_cross_attention_reference, inputs)
    for mine, truth in zip(output_and_gradients(criss_cross_attention, inputs), expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


# Relative error of the whole tensor: a few roundings of each format (unit roundoff 6e-8, 4e-3) on sums of 20 terms;
# the largest seen over 20 seeds was 3.2e-7 and 7.9e-3.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2)], ids=str)
@pytest.mark.parametrize("size", [(2, 3, 4, 5, 4, 6), (1, 5, 13, 17, 8, 24)], ids=str)
def test_fast_in_lower_precision(size, dtype: torch.dtype, tolerance: float) -> None:
    inputs = random_inputs(size, dtype)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = output_and_gradients(criss_cross_attention_reference, exact)
    for mine, truth in zip(output_and_gradients(criss_cross_attention, inputs), expected, strict=True):
        assert mine.dtype == dtype
        assert (mine.double() - truth).norm() <= tolerance * truth.norm()


def test_gradients_by_finite_differences() -> None:
    assert torch.autograd.gradcheck(criss_cross_attention, random_inputs((1, 2, 3, 2, 2, 2)))


@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 6), (3, 6, 1), (1, 1, 1)], ids=str)
def test_one_frame_equals_the_2d_operator(size) -> None:
    batch, height, width = size
    inputs = random_inputs((batch, 1, height, width, 4, 6))

    def planar(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        flat = (x[:, 0].permute(0, 3, 1, 2) for x in (query, key, value))
        return criss_cross_2d(*flat).permute(0, 2, 3, 1)[:, None]

    expected = output_and_gradients(planar, inputs)
    for mine, truth in zip(output_and_gradients(criss_cross_attention, inputs), expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], ids=str)
def test_permuting_the_axes_permutes_the_output(order) -> None:
    inputs = [x.detach() for x in random_inputs((2, 3, 4, 5, 4, 6))]
    axes = (0, *(1 + axis for axis in order), 4)
    permuted = criss_cross_attention(*(x.permute(axes) for x in inputs))
    torch.testing.assert_close(permuted, criss_cross_attention(*inputs).permute(axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "axial", "reference"])
@pytest.mark.parametrize("size", [(3, 4, 5), (1, 6, 2), (5, 1, 1)], ids=str)
def test_weights_sum_to_one(size, backend: str) -> None:
    query, key, _ = (x.detach() for x in random_inputs((2, *size, 4, 1)))
    ones = torch.ones(2, *size, 3, dtype=torch.float64)
    torch.testing.assert_close(criss_cross_attention(query, key, ones, backend=backend), ones)


@pytest.mark.parametrize("size", [(3, 4, 5), (1, 4, 5), (7, 1, 2)], ids=str)
def test_each_position_attends_to_its_cross_once(size) -> None:
    time, height, width = size
    mask = cross_mask(*size)
    assert (mask.sum(1) == time + height + width - 2).all()
    # Equal scores: every weight is 1 / L, which the centre would not have if it were counted more than once.
    zeros = torch.zeros(1, *size, 2, dtype=torch.float64)
    weights = criss_cross_weights_reference(zeros, zeros)[0]
    torch.testing.assert_close(weights, mask.double() / (time + height + width - 2))
    values = torch.eye(time * height * width, dtype=torch.float64).view(1, *size, -1)
    torch.testing.assert_close(criss_cross_attention(zeros, zeros, values).flatten(0, 3), weights)


def test_batch_entries_do_not_touch() -> None:
    inputs = [x.detach() for x in random_inputs((3, 2, 4, 3, 4, 5))]
    alone = torch.cat([criss_cross_attention(*(x[b : b + 1] for x in inputs)) for b in range(3)])
    torch.testing.assert_close(criss_cross_attention(*inputs), alone, rtol=0, atol=1e-14)


def test_large_scores_stay_finite() -> None:
    inputs = [(100 * x).detach().requires_grad_() for x in random_inputs((1, 3, 4, 5, 8, 4), torch.float32)]
    assert all(x.isfinite().all() for x in output_and_gradients(criss_cross_attention, inputs))


def test_the_value_does_not_depend_on_autograd() -> None:
    inputs = random_inputs((2, 3, 4, 5, 4, 6))
    with torch.no_grad():
        plain = criss_cross_attention(*inputs)
    torch.testing.assert_close(plain, criss_cross_attention(*inputs).detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("backend", ["axial", "reference"])
def test_autocast(backend: str) -> None:
    """Inputs of any precision come out in autocast's, equal to having cast them oneself, gradients in their own."""
    query, key, value = random_inputs((1, 2, 3, 4, 4, 5), torch.float32)
    by_hand = criss_cross_attention(*(x.bfloat16() for x in (query, key, value)), backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        automatic = criss_cross_attention(query, key.bfloat16(), value, backend=backend)
        with torch.no_grad():
            without_grad = criss_cross_attention(query, key, value, backend=backend)
    assert automatic.dtype == torch.bfloat16
    torch.testing.assert_close(automatic, by_hand, rtol=0, atol=0)
    torch.testing.assert_close(without_grad, by_hand, rtol=1e-2, atol=1e-2)
    assert torch.autograd.grad(automatic.float().sum(), query)[0].dtype == torch.float32


def test_permuted_views_give_the_same() -> None:
    inputs = [x.detach() for x in random_inputs((2, 3, 4, 5, 4, 6))]
    strided = [x.permute(0, 4, 1, 2, 3).contiguous().permute(0, 2, 3, 4, 1) for x in inputs]
    torch.testing.assert_close(criss_cross_attention(*strided), criss_cross_attention(*inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5)], "expected 5-D tensors"),
        ([(1, 2, 3, 4, 5), (1, 2, 3, 4, 6), (1, 2, 3, 4, 5)], "query and key must have one shape"),
        ([(1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 2, 3, 5, 5)], "query and key must have one shape"),
        ([(1, 2, 0, 4, 5), (1, 2, 0, 4, 5), (1, 2, 0, 4, 5)], "at least 1 long"),
        ([(1, 2, 3, 4, 5), (1, 2, 3, 4, 5), (1, 2, 3, 4, 0)], "at least 1 long"),
    ],
)
def test_bad_shapes(shapes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        criss_cross_attention(*(torch.zeros(shape) for shape in shapes))


def test_bad_dtypes_and_backend() -> None:
    x = torch.zeros(1, 1, 2, 2, 3)
    with pytest.raises(ValueError, match="one floating-point dtype"):
        criss_cross_attention(x, x.double(), x)
    with pytest.raises(ValueError, match="one floating-point dtype"):
        criss_cross_attention(x.int(), x.int(), x.int())
    with pytest.raises(ValueError, match="unknown backend 'cudnn'.*'axial', 'reference'"):
        criss_cross_attention(x, x, x, backend="cudnn")
