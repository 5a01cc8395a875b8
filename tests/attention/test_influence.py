"""Influence through several loops, compared with dense N x N matrices."""

from __future__ import annotations

import pytest
import torch
from reference.loops import cross_of
from torch import Tensor

from ccnet3d.attention import RecurrentCrissCrossAttention, attention_influence, queries_and_keys
from ccnet3d.attention.backends.reference import criss_cross_weights_reference

GRID = (3, 4, 5)
POSITIONS = list(range(0, 60, 7))
"""Indices, in (t, h, w) order, of the tested positions."""


def random_loops(count: int) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    pairs = [torch.randn(2, 1, *GRID, 6, dtype=torch.float64) for _ in range(count)]
    return [(query, key) for query, key in pairs]


def rows(loops: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the influences on the tested positions, ``[9, N]``."""
    positions = [(index // 20, index // 5 % 4, index % 5) for index in POSITIONS]
    return torch.stack([attention_influence(loops, position).flatten() for position in positions])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_influence_is_the_product_of_the_dense_maps(count: int) -> None:
    loops = random_loops(count)
    product = torch.eye(60, dtype=torch.float64)
    for query, key in loops:
        product = criss_cross_weights_reference(query, key)[0] @ product  # A_R ... A_1
    mine = rows(loops)
    torch.testing.assert_close(mine, product[POSITIONS], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(mine.sum(1), torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)
    assert mine.min() >= 0


def test_reach_in_three_dimensions() -> None:
    """One loop reaches the cross, 16.7 % of the pairs; two loops reach 60 %, three all."""
    reached = [(rows(random_loops(count)) > 0).double().mean().item() for count in (1, 2, 3)]
    assert reached == pytest.approx([1 / 6, 0.6, 1])
    one = attention_influence(random_loops(1), (1, 2, 3))
    assert {tuple(position) for position in one.nonzero().tolist()} == set(cross_of(1, 2, 3, GRID))


def test_loops_of_a_module() -> None:
    """Each loop changes the features and thus the maps; compared with the module's layers in channels-first layout."""
    torch.manual_seed(1)
    module = RecurrentCrissCrossAttention(8, loops=2, reduction=2, initial_gamma=0.7).double()
    start = torch.randn(1, 8, *GRID, dtype=torch.float64)
    x, product = start, torch.eye(60, dtype=torch.float64)
    for _ in range(3):  # one more than the module has
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


def test_influence_without_gradients() -> None:
    with torch.no_grad():
        influence = attention_influence(random_loops(2), (0, 1, 2))
    torch.testing.assert_close(influence, attention_influence(random_loops(2), (0, 1, 2)), rtol=0, atol=0)


def test_invalid_input() -> None:
    loops = random_loops(1)
    for position in ((3, 0, 0), (0, -1, 0), (0, 0, 5)):
        with pytest.raises(ValueError, match=r"must be inside a grid of \(3, 4, 5\), counted from 0, got \("):
            attention_influence(loops, position)
    with pytest.raises(ValueError, match=r"at least one loop, got \[\]"):
        attention_influence([], (0, 0, 0))
    two_clips = torch.randn(2, *GRID, 6)
    with pytest.raises(ValueError, match=r"expected query and key \[1, T, H, W, D\]"):
        attention_influence([(two_clips, two_clips)], (0, 0, 0))
