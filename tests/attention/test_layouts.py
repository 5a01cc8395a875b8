"""Results do not depend on memory layout or on the other clips of a batch."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import pytest
import torch
from reference.inputs import gradient_of, output_and_gradients, random_inputs
from reference.layouts import LAYOUTS, Layout
from torch import Tensor

from ccnet3d.attention import criss_cross_attention

BACKENDS = ["tiled", "axial"]

# The second size needs several tiles of the tiled backend, the others have axes of length 1.
SIZES = [(2, 3, 4, 5, 4, 6), (2, 2, 18, 16, 3, 5), (2, 1, 4, 5, 4, 6), (1, 3, 1, 5, 4, 6), (2, 3, 4, 1, 4, 6)]


def attention(backend: str) -> Callable[..., Tensor]:
    return functools.partial(criss_cross_attention, backend=backend)


def assert_equal_up_to_rounding(results: list[Tensor], expected: list[Tensor]) -> None:
    """Products may be summed in another order, which changes the last two digits of float64."""
    for mine, other in zip(results, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_strided_inputs_equal_contiguous_ones(size, layout: Layout, backend: str) -> None:
    inputs = random_inputs(size)
    strided = [x.requires_grad_() for x in layout([x.detach() for x in inputs])]
    for mine, contiguous in zip(strided, inputs, strict=True):
        assert torch.equal(mine, contiguous)
    expected = output_and_gradients(attention(backend), inputs)
    assert_equal_up_to_rounding(output_and_gradients(attention(backend), strided), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_expanded_inputs_equal_repeated_ones(backend: str) -> None:
    """One query for all frames, one key for all clips, one value for all positions: stride 0."""
    query, key, value = (x.detach() for x in random_inputs((2, 3, 4, 5, 4, 6)))
    expanded = [query[:, :1].expand_as(query), key[:1].expand_as(key), value[:1, :1, :1, :1].expand_as(value)]
    inputs = [x.clone(memory_format=torch.contiguous_format).requires_grad_() for x in expanded]
    expected = output_and_gradients(attention(backend), inputs)
    results = output_and_gradients(attention(backend), [x.requires_grad_() for x in expanded])
    assert_equal_up_to_rounding(results, expected)


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "of a sum": lambda output: torch.ones((), dtype=output.dtype).expand_as(output),
    "of a sum over frames": lambda output: gradient_of(output)[:, :1].expand_as(output),
    "of a mean over channels": lambda output: gradient_of(output)[..., :1].expand_as(output),
    **{name: lambda output, layout=layout: layout([gradient_of(output)])[0] for name, layout in LAYOUTS.items()},
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("gradient", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("size", SIZES[:3], ids=str)
def test_strided_gradients_equal_contiguous_ones(size, gradient: Callable[[Tensor], Tensor], backend: str) -> None:
    inputs = random_inputs(size)
    results = output_and_gradients(attention(backend), inputs, gradient)
    expected = output_and_gradients(attention(backend), inputs, lambda output: gradient(output).contiguous())
    assert_equal_up_to_rounding(results, expected)


def in_batch(clip: Tensor, other: Tensor) -> Tensor:
    """Return a batch of the clip, another one, and the clip again."""
    return torch.cat([clip.detach(), other.detach(), clip.detach()]).requires_grad_(clip.requires_grad)


# A clip of these sizes fills whole cache lines in every dtype. Off 16-byte boundaries MKL sums in another order, and a
# batch of (3, 17, 19) clips in float64 differs in the last digit; with MKL_CBWR=AVX2,STRICT it does not.
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(1, 2, 4, 8, 8, 16), (1, 4, 8, 12, 4, 8), (1, 1, 16, 8, 4, 12)], ids=str)
def test_tiled_results_do_not_depend_on_the_batch_index(size, dtype: torch.dtype) -> None:
    clip, other = random_inputs(size, dtype), random_inputs(size, dtype, seed=7)
    alone = output_and_gradients(attention("tiled"), clip)
    grad = gradient_of(alone[0])
    batch = [in_batch(*pair) for pair in zip(clip, other, strict=True)]
    together = output_and_gradients(attention("tiled"), batch, lambda _: in_batch(grad, -grad))
    for mine, expected in zip(together, alone, strict=True):
        assert torch.equal(mine[:1], expected)
        assert torch.equal(mine[2:], expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [(1, 3, 4, 5, 4, 6), (1, 3, 17, 19, 5, 6), (1, 1, 9, 13, 16, 32)], ids=str)
def test_results_do_not_depend_on_the_rest_of_the_batch(size, backend: str) -> None:
    clip, other = random_inputs(size), random_inputs(size, seed=7)
    alone = output_and_gradients(attention(backend), clip)
    grad = gradient_of(alone[0])
    batch = [in_batch(*pair) for pair in zip(clip, other, strict=True)]
    together = output_and_gradients(attention(backend), batch, lambda _: in_batch(grad, -grad))
    for mine, expected in zip(together, alone, strict=True):
        assert_equal_up_to_rounding([mine[:1], mine[2:]], [expected, expected])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size", [(1, 3, 4, 5, 4, 6), (1, 2, 17, 19, 5, 6)], ids=str)
def test_non_finite_clip_does_not_affect_another(size, bad: float, backend: str) -> None:
    clip = random_inputs(size)
    alone = output_and_gradients(attention(backend), clip)
    grad = gradient_of(alone[0])
    batch = [in_batch(x, torch.full_like(x, bad)) for x in clip]
    together = output_and_gradients(attention(backend), batch, lambda _: in_batch(grad, torch.full_like(grad, bad)))
    for mine, expected in zip(together, alone, strict=True):
        assert_equal_up_to_rounding([mine[:1], mine[2:]], [expected, expected])
        assert not mine[1].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_position_sees_only_its_cross(backend: str) -> None:
    """NaN at one position reaches the 10 positions of its cross (3 + 4 + 5 - 2), and no other."""
    inputs = [x.detach() for x in random_inputs((1, 3, 4, 5, 4, 6))]
    index = (0, 1, 2, 3)
    for x in inputs:
        x[index] = math.nan
    reached = criss_cross_attention(*inputs, backend=backend).isnan().any(-1)[0]
    coordinates = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5)).view(3, 4, 5, 3)
    assert torch.equal(reached, (coordinates != torch.tensor(index[1:])).sum(-1) <= 1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_results_are_reproducible(backend: str) -> None:
    inputs = random_inputs((2, 3, 17, 19, 5, 6), torch.float32)
    first, second = (output_and_gradients(attention(backend), inputs) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))
