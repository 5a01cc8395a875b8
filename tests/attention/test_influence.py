"""Influence through the loops, against dense N x N matrices."""

from __future__ import annotations

import pytest
import torch
from reference.loops import cross_of
from torch import Tensor

from ccnet3d.attention import RecurrentCrissCrossAttention, attention_influence, queries_and_keys
from ccnet3d.attention.backends.reference import criss_cross_weights_reference

GRID = (3, 4, 5)
POSITIONS = list(range(0, 60, 7))
"""Numbers of the positions that are looked at, in (t, h, w) order."""


def random_loops(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    pairs = [torch.randn(2, 1, *GRID, 6, dtype=torch.float64) for _ in range(count)]
    return [(query, key) for query, key in pairs]


def rows(loops: list[tuple[Tensor, Tensor]]) -> Tensor:
    """``[9, N]``, the influences on the positions looked at."""
    places = [(number // 20, number // 5 % 4, number % 5) for number in POSITIONS]
    return torch.stack([attention_influence(loops, place).flatten() for place in places])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_is_the_product_of_the_dense_maps(count: int) -> None:
    loops = random_loops(count)
    product = torch.eye(60, dtype=torch.float64)
    for query, key in loops:
        product = criss_cross_weights_reference(query, key)[0] @ product  # A_R ... A_1
    mine = rows(loops)
    torch.testing.assert_close(mine, product[POSITIONS], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(mine.sum(1), torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)
    assert mine.min() >= 0


def test_reach_in_three_dimensions() -> None:
    """16.7 % of the pairs after one loop, 60 % after two, all after three; after one, just the cross."""
    reached = [(rows(random_loops(count)) > 0).double().mean().item() for count in (1, 2, 3)]
    assert reached == pytest.approx([1 / 6, 0.6, 1])
    one = attention_influence(random_loops(1), (1, 2, 3))
    assert {tuple(place) for place in one.nonzero().tolist()} == set(cross_of(1, 2, 3, GRID))


def test_the_loops_of_a_module() -> None:
    """Features change from loop to loop, and with them the maps; taken from the module's parts in channels first."""
    torch.manual_seed(1)
    module = RecurrentCrissCrossAttention(8, loops=2, reduction=2, initial_gamma=0.7).double()
    start = torch.randn(1, 8, *GRID, dtype=torch.float64)
    x, product = start, torch.eye(60, dtype=torch.float64)
    for _ in range(3):  # one more than the module's own
        query, key, value = (
            conv(x).permute(0, 2, 3, 4, 1) for conv in (module.query_conv, module.key_conv, module.value_conv)
        )
        weights = criss_cross_weights_reference(query, key)
        product = weights[0] @ product
        attended = (weights @ value.flatten(1, 3)).view(1, *GRID, 8).permute(0, 4, 1, 2, 3)
        x = x + module.gamma * attended
    loops = queries_and_keys(module, start, 3)
    torch.testing.assert_close(rows(loops), product[POSITIONS].detach(), rtol=1e-10, atol=1e-14)
    assert not torch.allclose(loops[0][0], loops[1][0])
    assert attention_influence(loops, (0, 0, 0)).requires_grad is False


def test_under_inference_without_gradients() -> None:
    with torch.no_grad():
        influence = attention_influence(random_loops(2), (0, 1, 2))
    torch.testing.assert_close(influence, attention_influence(random_loops(2), (0, 1, 2)), rtol=0, atol=0)


def test_bad_input() -> None:
    loops = random_loops(1)
    for position in ((3, 0, 0), (0, -1, 0), (0, 0, 5)):
        with pytest.raises(ValueError, match=r"must lie in a grid of \(3, 4, 5\), counted from 0, got \("):
            attention_influence(loops, position)
    with pytest.raises(ValueError, match=r"at least one loop, got \[\]"):
        attention_influence([], (0, 0, 0))
    two_clips = torch.randn(2, *GRID, 6)
    with pytest.raises(ValueError, match=r"expected query and key \[1, T, H, W, D\]"):
        attention_influence([(two_clips, two_clips)], (0, 0, 0))
