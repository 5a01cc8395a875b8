"""Every CPU backend against the definition, computed in float64 from inputs rounded to the dtype under test."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from reference.inputs import (
    gradient_of,
    output_and_gradients,
    random_inputs,
    relative_errors,
    true_output_and_gradients,
)
from torch import Tensor

from ccnet3d.attention import criss_cross_attention, criss_cross_attention_reference
from ccnet3d.attention.backends.reference import criss_cross_weights_reference

BACKENDS = ["tiled", "axial"]

# (B, T, H, W, D, Dv)
SIZES = [
    # Length 1 on every axis and combination; two positions are the fewest that attend to another position.
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
    (1, 13, 7, 11, 3, 5),
    (3, 2, 5, 7, 13, 17),
    (1, 17, 3, 2, 7, 19),
    (1, 31, 5, 2, 10, 20),
    (1, 5, 13, 17, 8, 24),
    (2, 4, 9, 6, 16, 10),
    (1, 1, 31, 1, 17, 2),
    # Long clips.
    (1, 64, 2, 3, 4, 8),
    (1, 64, 1, 1, 5, 7),
    (2, 64, 3, 1, 6, 9),
    (1, 64, 1, 3, 3, 3),
    # More channels than positions on a cross.
    (1, 2, 3, 4, 64, 100),
    (1, 1, 6, 7, 96, 33),
    (1, 3, 2, 2, 33, 65),
    # Time in tiles of 256 positions: exactly one, one and a partial one, several and a partial one, along one axis.
    (1, 2, 16, 16, 4, 4),
    (1, 2, 16, 17, 4, 4),
    (1, 3, 17, 19, 5, 6),
    (1, 2, 23, 23, 6, 10),
    (1, 2, 1, 521, 3, 4),
    (1, 2, 521, 1, 3, 4),
    # Columns in tiles of 1280 // H: one and a partial one, several and a partial one, also with a time axis.
    (1, 1, 37, 41, 3, 7),
    (1, 1, 430, 5, 4, 6),
    (2, 1, 41, 32, 2, 3),
    (1, 2, 350, 4, 4, 5),
    (1, 3, 2, 300, 4, 5),
    (1, 1, 2, 1291, 2, 2),
    # A column longer than a tile: one column at a time.
    (1, 1, 1283, 1, 2, 3),
    (1, 1, 1301, 2, 3, 2),
    (1, 2, 1289, 1, 2, 2),
]

# Norm of a tensor's error, relative to the tensor's norm. The unit roundoffs are 1.1e-16, 6e-8, 3.9e-3 and 4.9e-4.
# Float64 and float32 add the errors of sums of up to 1300 terms (a factor of about 30, the square root); the half
# formats, which sum in float32, add the rounding of a few intermediate results. The largest errors over these sizes
# were 2.2e-15, 1.4e-6, 8.0e-3 and 8.5e-4.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 4e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@functools.lru_cache(maxsize=1)
def case(size: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs and truth, cached because the definition takes longer than both backends together."""
    inputs = random_inputs(size, dtype)
    return inputs, true_output_and_gradients(criss_cross_attention_reference, inputs)


def attention(backend: str) -> Callable[..., Tensor]:
    return functools.partial(criss_cross_attention, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_output_and_all_gradients_equal_the_definition(size, dtype: torch.dtype, backend: str) -> None:
    inputs, truth = case(size, dtype)
    results = output_and_gradients(attention(backend), inputs)
    assert [x.dtype for x in results] == [dtype] * 4
    assert [x.shape for x in results] == [x.shape for x in truth]
    assert max(relative_errors(results, truth)) <= TOLERANCES[dtype]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 1, 1), (2, 1, 1, 1, 3, 2), (3, 1, 1, 1, 8, 5)], ids=str)
def test_one_position_attends_to_itself(size, dtype: torch.dtype, backend: str) -> None:
    """The output is the value; query and key have no gradient, except for rounding in two products that cancel."""
    inputs = random_inputs(size, dtype)
    output, *gradients = output_and_gradients(attention(backend), inputs)
    grad = gradient_of(output)
    assert torch.equal(output, inputs[2])
    assert torch.equal(gradients[2], grad)
    product = grad.double().norm(dim=-1, keepdim=True) * inputs[2].detach().double().norm(dim=-1, keepdim=True)
    for gradient, other in ((gradients[0], inputs[1]), (gradients[1], inputs[0])):
        bound = TOLERANCES[dtype] * product * other.detach().double().norm(dim=-1, keepdim=True)
        assert (gradient.double().abs() <= bound).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(1, 3, 4, 5, 8, 4), (2, 1, 6, 7, 8, 4), (1, 40, 1, 1, 8, 4)], ids=str)
def test_scores_outside_the_range_of_float16(size, dtype: torch.dtype, backend: str) -> None:
    query, key, value = (x.detach() for x in random_inputs(size))
    inputs = [x.to(dtype).requires_grad_() for x in (200 * query, 200 * key, value)]
    scores = inputs[0].detach().double().flatten(1, 3) @ inputs[1].detach().double().flatten(1, 3).transpose(1, 2)
    assert scores.abs().max() > torch.finfo(torch.float16).max
    results = output_and_gradients(attention(backend), inputs)
    assert all(x.isfinite().all() for x in results)
    # Almost every weight is 0 or 1, so the gradients of query and key are only rounding errors. A weight's relative
    # error equals the absolute rounding error of score and log-sum-exp in float32.
    tolerance = TOLERANCES[dtype] + 2 * 2**-24 * scores.abs().max()
    truth = true_output_and_gradients(criss_cross_attention_reference, inputs)
    assert max(relative_errors(results[::3], truth[::3])) <= tolerance


# With sharp scores, the gradients of query and key are small differences of large products, so half precision loses
# digits to cancellation. Relative to the terms that cancel, ``P (|grad| |value| + |grad| |output|)`` times key, the
# error is a few roundings of 3.9e-3 and 4.9e-4 with random signs; the largest over ten seeds was 3.6e-4 and 3.5e-5.
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-3), (torch.float16, 1e-4)], ids=str)
@pytest.mark.parametrize("size", [(1, 2, 3, 4, 64, 100), (1, 5, 6, 7, 64, 48)], ids=str)
def test_gradients_of_sharp_scores(size, dtype: torch.dtype, tolerance: float, backend: str) -> None:
    query, key, value = (x.detach() for x in random_inputs(size))
    inputs = [x.to(dtype).requires_grad_() for x in (8 * query, key, value)]  # the variance of unscaled scores is D
    truth = true_output_and_gradients(criss_cross_attention_reference, inputs)
    _, *gradients = output_and_gradients(attention(backend), inputs)
    for mine, true, terms in zip(gradients[:2], truth[1:3], uncancelled(inputs), strict=True):
        assert (mine.double() - true).norm() <= tolerance * terms.norm()


def uncancelled(inputs: list[Tensor]) -> list[Tensor]:
    """Return the gradients of query and key as they would be if none of their terms canceled."""
    q, k, v = (x.detach().double() for x in inputs)
    grad = gradient_of(inputs[2]).double().flatten(1, 3).abs()
    weights = criss_cross_weights_reference(q, k)
    products = grad @ v.flatten(1, 3).abs().transpose(1, 2)
    delta = (grad * (weights @ v.flatten(1, 3)).abs()).sum(-1, keepdim=True)
    terms = weights * (products + delta)
    of_query, of_key = terms @ k.flatten(1, 3).abs(), terms.transpose(1, 2) @ q.flatten(1, 3).abs()
    return [of_query.view_as(q), of_key.view_as(k)]
