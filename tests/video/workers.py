"""A dataset that worker processes can import."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset
from video.corpus import read_code

from ccnet3d.video import VideoReader


class Clips(Dataset):  # type: ignore[type-arg]
    """Return the frame indices drawn in three frames of a video."""

    def __init__(self, reader: VideoReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        frames = self.reader.clip([index, 3 * index, 39 - index])
        return torch.tensor([read_code(frame.image) for frame in frames])
