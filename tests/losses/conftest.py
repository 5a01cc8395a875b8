from __future__ import annotations

import pytest
import torch

from ccnet3d.constants import IGNORE_INDEX


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in float64 and labels of two 5x6 frames, four classes; two rows of the first are void."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, 4, (2, 5, 6), generator=generator)
    labels[0, :2] = IGNORE_INDEX
    return logits, labels
