"""The labeled frames of a split, and clips of them, from image folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.cache import FrameCache, data_fingerprint, frame_cache_path, write_frame_cache
from ccnet3d.data.clips import Clip, clip_around, covering_clips, split_at_gaps
from ccnet3d.data.items import ClipRequest, ClipSample, ClipTransform, LabelledFrame, RequestedSample
from ccnet3d.data.label_reader import LabelReader
from ccnet3d.data.simulation import Simulation
from ccnet3d.data.spec import DatasetSpec, LayoutSpec
from ccnet3d.errors import UserError
from ccnet3d.images import read_rgb

__all__ = ["LabelledSequences"]


class LabelledSequences(Dataset[RequestedSample]):
    """The labeled frames of one split, and clips of them that never cross a sequence or a gap.

    Usually opened with :meth:`ccnet3d.data.DataSource.open`.

    >>> from ccnet3d.data import ClassSpec
    >>> spec = DatasetSpec("yard", (ClassSpec("ground", (90, 140, 60)), ClassSpec("box", (200, 40, 40))))
    >>> frames = [LabelledFrame("night", n, Path(f"{n}.png"), Path(f"{n}_L.png")) for n in (1, 2, 5)]
    >>> dataset = LabelledSequences(spec, frames, LayoutSpec())
    >>> len(dataset), dataset.segments
    (3, [range(0, 3)])

    Args:
        spec: the dataset.
        frames: its frames, sorted by sequence and frame number.
        layout: how the labels are encoded.
        transform: applied to each requested clip; None leaves clips unchanged.
        left_out: files of the split that are not used: one line per kind, with their number and the first names.
        high_resolution: the same frames, or some of them, at a higher resolution.
        high_resolution_share: probability that a requested clip comes from ``high_resolution``, if that has all of its
            frames.
        simulation: makes clips from stills; None always reads clips as they are.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        frames: list[LabelledFrame],
        layout: LayoutSpec,
        transform: ClipTransform | None = None,
        left_out: Sequence[str] = (),
        high_resolution: LabelledSequences | None = None,
        high_resolution_share: float = 0.0,
        simulation: Simulation | None = None,
    ) -> None:
        self.spec = spec
        self.frames = frames
        self.layout = layout
        self.transform = transform
        self.left_out = tuple(left_out)
        self.high_resolution_share = high_resolution_share
        self.simulation = simulation
        self.cache: FrameCache | None = None
        self.segments = _segments(frames, spec.max_gap_frames)
        self._segment_of = {index: segment for segment in self.segments for index in segment}
        self._high_resolution = high_resolution
        self._high_resolution_index = {
            (frame.sequence, frame.number): index
            for index, frame in enumerate(high_resolution.frames if high_resolution else [])
        }
        self._label_reader = LabelReader(spec, layout)

    def cache_path(self, folder: Path) -> Path:
        """Return the file in ``folder`` for the decoded frames of this dataset."""
        return frame_cache_path(folder, self.frames, self.spec, self.layout)

    def fingerprint(self) -> str:
        """Return a hash of the data, including frames at a higher resolution, without reading all of it."""
        own = data_fingerprint(self.frames, self.spec, self.layout)
        return f"{own} {self._high_resolution.fingerprint()}" if self._high_resolution else own

    def use_cache(self, folder: Path) -> None:
        """Read decoded frames from ``folder`` if they are there; a damaged file counts as absent."""
        path = self.cache_path(folder)
        try:
            self.cache = FrameCache(path) if path.is_file() else None
        except UserError:
            self.cache = None

    def write_cache(self, folder: Path, sizes: Sequence[tuple[int, ...]]) -> None:
        """Write the decoded frames to ``folder``.

        Args:
            folder: created if it does not exist.
            sizes: height and width of each frame, all of which must be readable.
        """
        frames = ((self.read_image(index), self.read_label(index)) for index in range(len(self)))
        write_frame_cache(self.cache_path(folder), sizes, frames)

    def __len__(self) -> int:
        return len(self.frames)

    def covering_clips(self, length: int) -> list[Clip]:
        """Return clips of ``length`` frames that together count every frame of the split once."""
        return [clip for segment in self.segments for clip in covering_clips(segment, length)]

    def __getitem__(self, request: ClipRequest) -> RequestedSample:
        segment = self._segment_of[request.anchor]
        if self.simulation and self.simulation.is_drawn(request):
            return self._simulated(self.simulation, request)
        clip = clip_around(segment, request.anchor, request.offset, request.length, request.stride)
        sample = self._read_high_resolution(clip, request.seed) or self.read_clip(clip)
        sample = sample if self.transform is None else self.transform(sample, request.seed)
        return {**sample, "anchor": clip.indices.index(request.anchor)}

    def _simulated(self, simulation: Simulation, request: ClipRequest) -> RequestedSample:
        """Return a clip made from the anchor alone."""
        still = Clip((request.anchor,), (True,))
        sample = self._read_high_resolution(still, request.seed) or self.read_clip(still)
        sample = sample if self.transform is None else self.transform(sample, request.seed)
        return {**simulation.clip_of(sample, request), "anchor": request.offset}

    def _read_high_resolution(self, clip: Clip, seed: int) -> ClipSample | None:
        """Return the clip at the higher resolution, None if it is not drawn or a frame of it is absent there."""
        if self._high_resolution is None or np.random.default_rng((seed, 1)).random() >= self.high_resolution_share:
            return None
        names = [(self.frames[index].sequence, self.frames[index].number) for index in clip.indices]
        if not all(name in self._high_resolution_index for name in names):
            return None
        indices = tuple(self._high_resolution_index[name] for name in names)
        return self._high_resolution.read_clip(Clip(indices, clip.counted))

    def read_clip(self, clip: Clip) -> ClipSample:
        """Return the frames of a clip at their own size; frames that do not count are labeled IGNORE_INDEX.

        Raises:
            UserError: an unreadable image, or frames of different sizes.
        """
        images = {index: self.read_image(index) for index in set(clip.indices)}
        labels = {index: self.read_label(index) for index in set(clip.indices)}
        sizes = {x.shape[-2:] for x in [*images.values(), *labels.values()]}
        if len(sizes) > 1:
            names = self.frames[clip.indices[0]].image, self.frames[clip.indices[-1]].image
            raise UserError(
                f"frames and labels from {names[0]} to {names[1]} differ in size: {sorted(map(tuple, sizes))}; "
                "the frames of a sequence must have one size"
            )
        stacked = torch.stack([labels[index] for index in clip.indices])
        stacked[[not counted for counted in clip.counted]] = IGNORE_INDEX
        return {"clip": torch.stack([images[index] for index in clip.indices]), "labels": stacked}

    def read_image(self, index: int) -> Tensor:
        """Return the image of a frame, uint8 ``[3, H, W]``, RGB.

        Raises:
            UserError: the file cannot be read.
        """
        pixels = self.cache.image(index) if self.cache else torch.from_numpy(read_rgb(self.frames[index].image))
        return pixels.permute(2, 0, 1)

    def read_label(self, index: int) -> Tensor:
        """Return the label of a frame, int64 ``[H, W]``: class ids and IGNORE_INDEX.

        Raises:
            UserError: the file cannot be read, or a pixel is neither a class nor void.
        """
        if self.cache:
            return self.cache.label(index).long()
        return self._label_reader.read(self.frames[index])


def _segments(frames: list[LabelledFrame], max_gap_frames: int) -> list[range]:
    """Return the segments of all sequences, as ranges of frame indices."""
    segments = []
    start = 0
    for stop in range(1, len(frames) + 1):
        if stop == len(frames) or frames[stop].sequence != frames[start].sequence:
            numbers = [frame.number for frame in frames[start:stop]]
            segments += [range(start + r.start, start + r.stop) for r in split_at_gaps(numbers, max_gap_frames)]
            start = stop
    return segments
