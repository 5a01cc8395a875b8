"""Simulated clips: labels that follow the picture, draws that depend on the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import ClipRequest, DataSource, Simulation, simulate_clip
from ccnet3d.errors import UserError

COLORS = torch.tensor([[250, 20, 20], [20, 250, 20], [20, 20, 250]])


def colored_still(height: int = 60, width: int = 80) -> tuple[Tensor, Tensor]:
    """Return an image in which the color is the class, and its labels."""
    label = torch.zeros(height, width, dtype=torch.long)
    label[15:45, 20:50] = 1
    label[30:50, 55:70] = 2
    return COLORS[label].permute(2, 0, 1).to(torch.uint8), label


def class_of_color(frames: Tensor) -> Tensor:
    """Return the class of the nearest color of each pixel of ``[T, 3, H, W]``."""
    difference = frames[:, None].float() - COLORS[None, :, :, None, None]  # [T, K, 3, H, W]
    return difference.square().sum(2).argmin(1)


def test_labels_follow_the_camera() -> None:
    image, label = colored_still()
    for seed in range(5):
        frames, labels = simulate_clip(image, label, 5, np.random.default_rng(seed), damage=0.0)
        assert (frames.shape, frames.dtype) == ((5, 3, 60, 80), torch.uint8)
        assert (labels.shape, labels.dtype) == ((5, 60, 80), torch.long)
        known = labels != IGNORE_INDEX
        assert known.float().mean() > 0.8
        assert (class_of_color(frames)[known] == labels[known]).float().mean() > 0.98
        assert any(not torch.equal(labels[0], other) for other in labels[1:])


def test_corruptions_leave_labels_alone() -> None:
    image, label = colored_still()
    clean, labels = simulate_clip(image, label, 5, np.random.default_rng(3), damage=0.0)
    damaged, same = simulate_clip(image, label, 5, np.random.default_rng(3), damage=1.0)
    assert torch.equal(labels, same)
    assert sum(not torch.equal(a, b) for a, b in zip(clean, damaged, strict=True)) >= 3  # a slight blur may be none
    again, _ = simulate_clip(image, label, 5, np.random.default_rng(3), damage=1.0)
    assert torch.equal(damaged, again)


def test_void_stays_void() -> None:
    image, label = colored_still()
    label[:] = IGNORE_INDEX
    _, labels = simulate_clip(image, label, 3, np.random.default_rng(0))
    assert (labels == IGNORE_INDEX).all()


def test_a_dataset_simulates_the_share_that_is_asked_for(yard: Path) -> None:
    real = DataSource(yard).open("train")
    mixed = DataSource(yard).open("train", simulation=Simulation(share=0.5, damage=0.0))
    requests = [ClipRequest(anchor=3, offset=1, length=3, seed=seed) for seed in range(60)]
    simulated = [not torch.equal(mixed[request]["clip"], real[request]["clip"]) for request in requests]
    assert 18 < sum(simulated) < 42  # 30 are expected, with a standard deviation of 3.9
    first = next(request for request, drawn in zip(requests, simulated, strict=True) if drawn)
    sample = mixed[first]
    assert (sample["clip"].shape, sample["labels"].shape, sample["anchor"]) == ((3, 3, 48, 64), (3, 48, 64), 1)
    still = ClipRequest(anchor=3, offset=0, length=1, seed=first.seed)
    assert torch.equal(mixed[still]["clip"], real[still]["clip"])
    assert torch.equal(sample["clip"], mixed[first]["clip"])


@pytest.mark.parametrize("options", [{"share": 1.5}, {"damage": -0.1}])
def test_probabilities_are_checked(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(UserError, match=rf"simulation\.{name} must be a probability, got"):
        Simulation(**options)
