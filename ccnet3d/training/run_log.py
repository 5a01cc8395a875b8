"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import LabelledSequences
from ccnet3d.errors import OutputError, UserError
from ccnet3d.inference import VideoSegmenter, resize_frame

__all__ = ["RunLog"]


class RunLog:
    """Write scalars and prediction strips of a run as TensorBoard events.

    Args:
        folder: the run's folder.
        first_step: the next step; earlier events from this step on are dropped, because a resumed run repeats them.

    Raises:
        UserError: tensorboard is not installed.
        OutputError: the folder cannot be written.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("training writes TensorBoard events; pip install 'ccnet3d[train]' for them") from error
        try:
            self.writer = SummaryWriter(str(folder), purge_step=first_step)
        except OSError as error:
            raise OutputError(error.errno, error.strerror, str(folder)) from error

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars by name."""
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def add_strip(self, segmenter: VideoSegmenter, dataset: LabelledSequences, step: int) -> None:
        """Write image, label and prediction side by side, one row per frame for up to four frames of the split."""
        palette = torch.zeros(IGNORE_INDEX + 1, 3, dtype=torch.uint8)  # void is black
        palette[: len(dataset.spec.classes)] = torch.tensor(dataset.spec.palette, dtype=torch.uint8)
        size = None
        rows = []
        for index in range(0, len(dataset), -(-len(dataset) // 4)):
            image, label = dataset.read_image(index), dataset.read_label(index)
            prediction = torch.from_numpy(next(segmenter.segment([image.permute(1, 2, 0).numpy()]))).long()
            row = torch.cat([image, *(palette[ids].permute(2, 0, 1) for ids in (label, prediction))], dim=2)
            size = size or segmenter.working_size(
                (image.shape[1], image.shape[2])
            )  # one for all: they form one picture
            rows.append(resize_frame(row, (size[0], 3 * size[1])))
        self.writer.add_image("val/image, label, prediction", torch.cat(rows, dim=1), step)

    def close(self) -> None:
        """Flush and close the file."""
        self.writer.close()
