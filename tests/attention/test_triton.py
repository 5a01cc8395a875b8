"""The Triton kernels against the definition, on a GPU or, with ``TRITON_INTERPRET=1``, on a CPU.

Triton reads that variable when it is imported, and torch.compile does not work with it, so test_triton_without_gpu.py
runs these tests in processes of their own.
"""

from __future__ import annotations

import functools
import math
import os
from importlib.util import find_spec

import pytest
import torch
from reference.inputs import (
    gradient_of,
    output_and_gradients,
    random_inputs,
    relative_errors,
    true_output_and_gradients,
)
from reference.layouts import LAYOUTS
from torch import Tensor

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_reference
from ccnet3d.attention.backends import triton
from ccnet3d.attention.custom_op import attention_op

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("no GPU: test_triton_without_gpu.py runs these in Triton's interpreter", allow_module_level=True)


DEVICE = "cpu" if INTERPRETED else "cuda"

# (B, T, H, W, D, Dv), small, because the interpreter runs tile by tile in NumPy.
SIZES = [
    # Length 1 on every axis and combination.
    (1, 5, 1, 1, 2, 3),
    (1, 1, 5, 1, 2, 3),
    (1, 1, 1, 5, 2, 3),
    (2, 2, 1, 1, 4, 4),
    (2, 1, 2, 1, 4, 4),
    (2, 1, 1, 2, 4, 4),
    (2, 3, 4, 1, 2, 3),
    (2, 3, 1, 4, 2, 3),
    (2, 1, 3, 4, 2, 3),
    (1, 2, 2, 2, 1, 1),
    (2, 3, 4, 5, 1, 6),
    (2, 3, 4, 5, 4, 1),
    (1, 7, 3, 5, 1, 1),
    # All lengths different, primes, more frames than rows.
    (2, 3, 4, 5, 4, 6),
    (1, 2, 7, 3, 5, 11),
    (2, 2, 2, 2, 8, 8),
    (1, 11, 2, 3, 3, 2),
    (3, 2, 5, 7, 13, 17),
    (1, 5, 7, 6, 8, 24),
    (2, 4, 5, 6, 16, 10),
    # The longest lines that share a tile of float32 (16) and of the half formats (32), and one more.
    (1, 16, 2, 1, 4, 5),
    (1, 2, 16, 3, 4, 5),
    (1, 2, 3, 16, 4, 5),
    (1, 17, 2, 1, 4, 5),
    (1, 2, 17, 1, 4, 5),
    (2, 1, 2, 17, 4, 5),
    (1, 32, 1, 2, 3, 4),
    (1, 1, 32, 3, 3, 4),
    (1, 3, 1, 32, 3, 4),
    (1, 33, 1, 2, 3, 4),
    (1, 2, 33, 1, 3, 4),
    (1, 1, 3, 33, 3, 4),
    # Lines of more than one tile, of two tiles, of more.
    (1, 64, 1, 2, 4, 5),
    (1, 1, 65, 2, 4, 5),
    (1, 2, 1, 67, 4, 5),
    (1, 1, 1, 128, 3, 4),
    (1, 129, 1, 1, 3, 4),
    (1, 1, 131, 2, 3, 4),
    (1, 1, 1, 257, 3, 4),
    # Channels: several blocks and a partial one, powers of two and one more, the most value channels.
    (1, 2, 3, 4, 64, 100),
    (1, 2, 3, 2, 33, 65),
    (1, 2, 2, 3, 130, 129),
    (1, 1, 17, 2, 96, 33),
    (1, 1, 2, 2, 4, 1024),
]

# Norm of a tensor's error, relative to the tensor's norm. The unit roundoffs are 6e-8, 4.9e-4 and 3.9e-3 (twice that in
# the interpreter, which truncates bfloat16 instead of rounding it), and a few of them add up.
# The largest errors over these sizes, interpreted, were 5.0e-7, 7.7e-4 and 1.7e-2.
TOLERANCES = {torch.float32: 2e-6, torch.float16: 3e-3, torch.bfloat16: 4e-2 if INTERPRETED else 2e-2}

triton_attention = functools.partial(criss_cross_attention, backend="triton")


def clip(size: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    return random_inputs(size, dtype, seed, DEVICE)


# Both half formats have the same tiles. The interpreter computes bfloat16 in float32, so a size of each kind is enough.
INTERPRETED_IN_BFLOAT16 = {
    (1, 1, 1, 5, 2, 3), (2, 3, 4, 5, 4, 6), (1, 7, 3, 5, 1, 1), (2, 4, 5, 6, 16, 10), (1, 2, 3, 16, 4, 5),
    (1, 2, 17, 1, 4, 5), (1, 32, 1, 2, 3, 4), (1, 33, 1, 2, 3, 4), (1, 2, 33, 1, 3, 4), (1, 1, 3, 33, 3, 4),
    (1, 1, 65, 2, 4, 5), (1, 1, 1, 128, 3, 4), (1, 129, 1, 1, 3, 4), (1, 2, 3, 2, 33, 65), (1, 2, 2, 3, 130, 129),
}  # fmt: skip
CASES = [
    (size, dtype)
    for size in SIZES
    for dtype in TOLERANCES
    if not INTERPRETED or dtype != torch.bfloat16 or size in INTERPRETED_IN_BFLOAT16
]


@pytest.mark.parametrize(("size", "dtype"), CASES, ids=str)
def test_output_and_all_gradients_equal_the_definition(size, dtype: torch.dtype) -> None:
    inputs = clip(size, dtype)
    truth = true_output_and_gradients(criss_cross_attention_reference, inputs)
    results = output_and_gradients(triton_attention, inputs)
    assert [(x.dtype, x.shape) for x in results] == [(dtype, x.shape) for x in truth]
    assert max(relative_errors(results, truth)) <= TOLERANCES[dtype]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1, 1), (3, 1, 1, 1, 8, 5)], ids=str)
def test_one_position_attends_to_itself(size, dtype: torch.dtype) -> None:
    """The output is the value; query and key have no gradient, except for rounding in two products that cancel."""
    query, key, value = inputs = clip(size, dtype)
    output, of_query, of_key, of_value = output_and_gradients(triton_attention, inputs)
    assert torch.equal(output, value)
    assert torch.equal(of_value, gradient_of(output))
    product = of_value.double().norm(dim=-1, keepdim=True) * value.detach().double().norm(dim=-1, keepdim=True)
    for gradient, other in ((of_query, key), (of_key, query)):
        bound = TOLERANCES[dtype] * product * other.detach().double().norm(dim=-1, keepdim=True)
        assert (gradient.double().abs() <= bound).all()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", [(2, 3, 4, 5, 4, 6), (1, 1, 3, 33, 4, 6)], ids=str)
def test_second_result_is_the_log_sum_exp_of_the_scores(size, dtype: torch.dtype) -> None:
    """Equal to the tiled backend's, which test_custom_op.py compares with a loop."""
    inputs = [x.detach() for x in clip(size, dtype)]
    log_sum_exp = attention_op(*inputs, "triton")[1]
    assert log_sum_exp.dtype == torch.float32
    expected = attention_op(*(x.double() for x in inputs), "tiled")[1]
    torch.testing.assert_close(log_sum_exp.double(), expected, rtol=2e-6, atol=2e-6)  # a few of float32's roundings


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(1, 3, 4, 5, 8, 4), (1, 1, 2, 33, 8, 4), (1, 40, 1, 1, 8, 4)], ids=str)
def test_scores_outside_the_range_of_float16(size, dtype: torch.dtype) -> None:
    query, key, value = (x.detach() for x in random_inputs(size))
    inputs = [x.to(DEVICE, dtype).requires_grad_() for x in (200 * query, 200 * key, value)]
    scores = inputs[0].detach().double().flatten(1, 3) @ inputs[1].detach().double().flatten(1, 3).transpose(1, 2)
    assert scores.abs().max() > torch.finfo(torch.float16).max
    results = output_and_gradients(triton_attention, inputs)
    assert all(x.isfinite().all() for x in results)
    # Almost every weight is 0 or 1, so the gradients of query and key are only rounding errors. A weight's relative
    # error equals the absolute rounding error of score and log-sum-exp in float32.
    tolerance = TOLERANCES[dtype] + 2 * 2**-24 * scores.abs().max()
    truth = true_output_and_gradients(criss_cross_attention_reference, inputs)
    assert max(relative_errors(results[::3], truth[::3])) <= tolerance


@functools.lru_cache(maxsize=2)
def contiguous(size: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs, and the output with all gradients."""
    inputs = clip(size, torch.float32)
    return inputs, output_and_gradients(triton_attention, inputs)


# In the second size no two lines share a tile.
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(2, 2, 3, 2, 4, 6), (1, 1, 2, 17, 3, 5)], ids=str)
def test_strided_inputs_equal_contiguous_ones(size, layout: str) -> None:
    inputs, expected = contiguous(size)
    strided = [x.requires_grad_() for x in LAYOUTS[layout]([x.detach() for x in inputs])]
    results = output_and_gradients(triton_attention, strided)
    assert all(torch.equal(mine, other) for mine, other in zip(results, expected, strict=True))
    if all(x.stride(-1) == 1 for x in strided):
        taken = triton._with_contiguous_channels(*strided)
        assert all(mine is given for mine, given in zip(taken, strided, strict=True))  # without a copy


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strided_gradients_equal_contiguous_ones(layout: str) -> None:
    inputs, expected = contiguous((2, 2, 3, 2, 4, 6))
    results = output_and_gradients(triton_attention, inputs, lambda output: LAYOUTS[layout]([gradient_of(output)])[0])
    assert all(torch.equal(mine, other) for mine, other in zip(results, expected, strict=True))


def test_expanded_gradients_equal_contiguous_ones() -> None:
    inputs = clip((2, 2, 3, 2, 4, 6), torch.float32)
    results = output_and_gradients(triton_attention, inputs, lambda output: output.new_ones(()).expand_as(output))
    expected = output_and_gradients(triton_attention, inputs, torch.ones_like)
    assert all(torch.equal(mine, other) for mine, other in zip(results, expected, strict=True))


def in_batch(one: Tensor, other: Tensor) -> Tensor:
    """Return a batch of one clip, another one, and the first again."""
    return torch.cat([one.detach(), other.detach(), one.detach()]).requires_grad_(one.requires_grad)


@pytest.mark.parametrize("size", [(1, 3, 2, 4, 4, 6), (1, 1, 2, 17, 4, 6)], ids=str)
def test_results_do_not_depend_on_the_rest_of_the_batch(size) -> None:
    one, other = clip(size, torch.float32), clip(size, torch.float32, seed=7)
    alone = output_and_gradients(triton_attention, one)
    grad = gradient_of(alone[0])
    batch = [in_batch(*pair) for pair in zip(one, other, strict=True)]
    together = output_and_gradients(triton_attention, batch, lambda _: in_batch(grad, -grad))
    for part in (slice(0, 1), slice(2, 3)):
        assert all(torch.equal(mine[part], own) for mine, own in zip(together, alone, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("size", [(1, 3, 2, 4, 4, 6), (1, 1, 1, 17, 4, 6)], ids=str)
def test_non_finite_clip_does_not_affect_another(size, bad: float) -> None:
    one = clip(size, torch.float32)
    alone = output_and_gradients(triton_attention, one)
    grad = gradient_of(alone[0])
    batch = [in_batch(x, torch.full_like(x, bad)) for x in one]
    together = output_and_gradients(triton_attention, batch, lambda _: in_batch(grad, torch.full_like(grad, bad)))
    for part in (slice(0, 1), slice(2, 3)):
        assert all(torch.equal(mine[part], own) for mine, own in zip(together, alone, strict=True))


# The weight 0 for another line does not remove NaN: 0 * NaN is NaN.
@pytest.mark.xfail(strict=True, reason="lines of a clip that share a tile share non-finite values")
def test_position_sees_only_its_cross() -> None:
    """NaN at one position reaches the 10 positions of its cross (3 + 4 + 5 - 2), and no other."""
    inputs = [x.detach() for x in clip((1, 3, 4, 5, 4, 6), torch.float32)]
    for x in inputs:
        x[0, 1, 2, 3] = math.nan
    reached = triton_attention(*inputs).isnan().any(-1)[0].cpu()
    coordinates = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5)).view(3, 4, 5, 3)
    assert torch.equal(reached, (coordinates != torch.tensor([1, 2, 3])).sum(-1) <= 1)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_results_are_reproducible(dtype: torch.dtype) -> None:
    inputs = clip((1, 1, 1, 33, 5, 17) if INTERPRETED else (2, 1, 2, 33, 5, 70), dtype)
    first, second = (output_and_gradients(triton_attention, inputs) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_second_derivatives_are_refused() -> None:
    inputs = clip((1, 2, 2, 2, 2, 2), torch.float32)
    first = torch.autograd.grad(triton_attention(*inputs).square().sum(), inputs, create_graph=True)
    with pytest.raises(NotImplementedError, match="'triton'.*no second derivatives.*backend='axial'"):
        torch.autograd.grad(sum(x.square().sum() for x in first), inputs)
