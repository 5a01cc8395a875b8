"""What TensorBoard shows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ccnet3d.data import IGNORE_INDEX, LabelledSequences
from ccnet3d.inference.clips import segment_frames
from ccnet3d.models import CCNet3D


class RunLog:
    """Scalars and prediction strips of a run, as TensorBoard events in ``folder``.

    Args:
        folder: where the events go.
        first_step: events of a run that is resumed are dropped from here on.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self.writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)

    def add_strip(
        self, model: CCNet3D, dataset: LabelledSequences, clip_length: int, input_size: tuple[int, int], step: int
    ) -> None:
        """Image, label and prediction side by side, one row for each of four frames of the split."""
        clips = dataset.covering_clips(clip_length)
        palette = torch.zeros(256, 3, dtype=torch.uint8)
        palette[: len(dataset.spec.classes)] = torch.tensor(dataset.spec.palette, dtype=torch.uint8)
        rows = []
        for clip in clips[:: max(1, len(clips) // 4)][:4]:
            sample = dataset.read_clip(clip)
            prediction = segment_frames(model, sample["clip"], input_size)[0].argmax(0).cpu()
            label, image = sample["labels"][0], sample["clip"][:1].float()
            small = [
                F.interpolate(image, size=input_size, mode="bilinear", antialias=True)[0].to(torch.uint8),
                palette[_resize_ids(label, input_size)].permute(2, 0, 1),
                palette[prediction].permute(2, 0, 1),
            ]
            rows.append(torch.cat(small, dim=2))
        self.writer.add_image("val/image, label, prediction", torch.cat(rows, dim=1), step)

    def close(self) -> None:
        self.writer.close()


def _resize_ids(ids: Tensor, size: tuple[int, int]) -> Tensor:
    resized = F.interpolate(ids[None, None].float(), size=size, mode="nearest-exact")[0, 0].long()
    return resized.clamp(0, IGNORE_INDEX)
