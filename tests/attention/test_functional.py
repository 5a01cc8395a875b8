from __future__ import annotations

from functools import partial

import pytest
import torch
from reference.inputs import output_and_gradients, random_inputs
from reference.loops import criss_cross_2d, criss_cross_loop
from torch import Tensor

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_reference
from ccnet3d.attention.backends.reference import criss_cross_weights_reference, cross_mask

# (B, T, H, W, D, Dv): length 1 on every axis, primes, T > H, T != H != W, D = 1.
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
CPU_BACKENDS = ["tiled", "axial", "reference"]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reference_equals_the_loop_over_positions(size) -> None:
    inputs = random_inputs(size)
    expected = output_and_gradients(criss_cross_loop, inputs)
    for mine, truth in zip(output_and_gradients(criss_cross_attention_reference, inputs), expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("size", [(2, 5, 7), (1, 1, 6), (3, 6, 1), (1, 1, 1)], ids=str)
def test_one_frame_equals_the_2d_operator(size, backend: str) -> None:
    batch, height, width = size
    inputs = random_inputs((batch, 1, height, width, 4, 6))

    def planar(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        flat = (x[:, 0].permute(0, 3, 1, 2) for x in (query, key, value))
        return criss_cross_2d(*flat).permute(0, 2, 3, 1)[:, None]

    expected = output_and_gradients(planar, inputs)
    results = output_and_gradients(partial(criss_cross_attention, backend=backend), inputs)
    for mine, truth in zip(results, expected, strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)], ids=str)
def test_permuting_the_axes_permutes_the_output(order, backend: str) -> None:
    inputs = [x.detach() for x in random_inputs((2, 3, 4, 5, 4, 6))]
    axes = (0, *(1 + axis for axis in order), 4)
    attention = partial(criss_cross_attention, backend=backend)
    permuted = attention(*(x.permute(axes) for x in inputs))
    torch.testing.assert_close(permuted, attention(*inputs).permute(axes), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("size", [(3, 4, 5), (1, 6, 2), (5, 1, 1)], ids=str)
def test_weights_sum_to_one(size, backend: str) -> None:
    query, key, _ = (x.detach() for x in random_inputs((2, *size, 4, 1)))
    ones = torch.ones(2, *size, 3, dtype=torch.float64)
    torch.testing.assert_close(criss_cross_attention(query, key, ones, backend=backend), ones)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("size", [(3, 4, 5), (1, 4, 5), (7, 1, 2)], ids=str)
def test_each_position_attends_to_its_cross_once(size, backend: str) -> None:
    time, height, width = size
    mask = cross_mask(*size)
    assert (mask.sum(1) == time + height + width - 2).all()
    # With equal scores every weight is 1 / L; the center's would be larger if it were counted more than once.
    zeros = torch.zeros(1, *size, 2, dtype=torch.float64)
    weights = criss_cross_weights_reference(zeros, zeros)[0]
    torch.testing.assert_close(weights, mask.double() / (time + height + width - 2))
    values = torch.eye(time * height * width, dtype=torch.float64).view(1, *size, -1)
    attended = criss_cross_attention(zeros, zeros, values, backend=backend)
    torch.testing.assert_close(attended.flatten(0, 3), weights)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_output_does_not_depend_on_autograd(backend: str) -> None:
    inputs = random_inputs((2, 3, 4, 5, 4, 6))
    with torch.no_grad():
        plain = criss_cross_attention(*inputs, backend=backend)
    assert torch.equal(plain, criss_cross_attention(*inputs, backend=backend))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_autocast(backend: str) -> None:
    """The output has autocast's dtype and equals that of cast inputs; gradients have the inputs' dtypes."""
    query, key, value = random_inputs((1, 2, 3, 4, 4, 5), torch.float32)
    by_hand = criss_cross_attention(*(x.bfloat16() for x in (query, key, value)), backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        automatic = criss_cross_attention(query, key.bfloat16(), value, backend=backend)
        with torch.no_grad():
            without_grad = criss_cross_attention(query, key, value, backend=backend)
    assert automatic.dtype == torch.bfloat16
    assert torch.equal(automatic, by_hand)
    assert torch.equal(without_grad, by_hand)
    assert torch.autograd.grad(automatic.float().sum(), query)[0].dtype == torch.float32


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
def test_invalid_shapes(shapes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        criss_cross_attention(*(torch.zeros(shape) for shape in shapes))


def test_invalid_dtypes_and_backend() -> None:
    x = torch.zeros(1, 1, 2, 2, 3)
    with pytest.raises(ValueError, match="one floating-point dtype"):
        criss_cross_attention(x, x.double(), x)
    with pytest.raises(ValueError, match="one floating-point dtype"):
        criss_cross_attention(x.int(), x.int(), x.int())
    with pytest.raises(
        ValueError, match="unknown backend 'cudnn'.*'axial', 'compiled', 'reference', 'tiled', 'triton'"
    ):
        criss_cross_attention(x, x, x, backend="cudnn")
