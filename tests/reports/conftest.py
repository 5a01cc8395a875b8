from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NAMES = ("ground", "box", "rail")
PALETTE = ((90, 140, 60), (200, 40, 40), (40, 40, 220))

SaveMasks = Callable[..., Path]


@pytest.fixture
def save_masks(tmp_path: Path) -> SaveMasks:
    """Write masks of three classes like a run; ``numbers`` are the indices of their frames."""

    def save(masks: Sequence[np.ndarray], numbers: Sequence[int] | None = None, **summary: Any) -> Path:
        folder = tmp_path / "masks"
        folder.mkdir()
        numbers = list(range(len(masks)) if numbers is None else numbers)
        for number, mask in zip(numbers, masks, strict=True):
            image = Image.fromarray(mask)
            image.putpalette([0] * 768)
            image.save(folder / f"{number:06d}.png")
        height, width = masks[0].shape
        classes = [{"id": i, "name": n, "color": c} for i, (n, c) in enumerate(zip(NAMES, PALETTE, strict=True))]
        content = {
            "video": "clip.mp4",
            "frames": len(masks),
            "frame_numbers": numbers,
            "width": width,
            "height": height,
            "frames_per_second": 10.0,
            "classes": classes,
        }
        (folder / "summary.json").write_text(json.dumps(content | summary))
        return folder

    return save
