"""Noise and compression of training clips."""

from __future__ import annotations

import pytest
import torch

from ccnet3d.data import Augmentation
from ccnet3d.errors import UserError

PLAIN = Augmentation(crop_size=(64, 64), crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0), flip=0.0)


def gray_clip() -> dict[str, torch.Tensor]:
    return {"clip": torch.full((2, 3, 64, 64), 128, dtype=torch.uint8), "labels": torch.ones(2, 64, 64).long()}


def test_noise_has_the_levels_that_are_asked_for() -> None:
    noisy = Augmentation(**{**vars(PLAIN), "noise": 1.0, "noise_level": 20.0})
    levels = []
    for seed in range(40):
        sample = noisy(gray_clip(), seed)  # type: ignore[arg-type]
        assert (sample["labels"] == 1).all()
        assert sample["clip"].float().mean() == pytest.approx(128, abs=1.5)
        levels.append(float((sample["clip"].float() - 128).std()))
    assert max(levels) < 21
    assert sum(levels) / len(levels) == pytest.approx(10, abs=2.5)  # uniform from 0 to 20
    assert torch.equal(noisy(gray_clip(), 3)["clip"], noisy(gray_clip(), 3)["clip"])  # type: ignore[arg-type]


def test_half_of_the_clips_are_noisy() -> None:
    noisy = Augmentation(**{**vars(PLAIN), "noise": 0.5})
    changed = sum(bool((noisy(gray_clip(), seed)["clip"] != 128).any()) for seed in range(100))  # type: ignore[arg-type]
    assert 35 < changed < 65


def test_compression_changes_texture_only_a_little() -> None:
    compressed = Augmentation(**{**vars(PLAIN), "jpeg": 1.0})
    clip = gray_clip()
    clip["clip"] = torch.randint(96, 160, (2, 3, 64, 64), generator=torch.manual_seed(0), dtype=torch.uint8)
    out = compressed(clip, 0)["clip"]  # type: ignore[arg-type]
    assert not torch.equal(out, clip["clip"])
    assert (out.float() - clip["clip"].float()).abs().mean() < 32
    assert (compressed(clip, 0)["labels"] == 1).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["noise", "jpeg"])
def test_probabilities_are_checked(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} must be a probability, got 2"):
        Augmentation(**{name: 2.0})
