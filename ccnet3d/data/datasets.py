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
from ccnet3d.data.clips import Clip, clip_around, covering_clips, split_sequences
from ccnet3d.data.items import ClipRequest, ClipSample, ClipTransform, LabelledFrame, RequestedSample
from ccnet3d.data.label_reader import LabelReader
from ccnet3d.data.simulation import Simulation
from ccnet3d.data.spec import DatasetSpec, LayoutSpec
from ccnet3d.data.surroundings import Surroundings, VideoFrame
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
        surroundings: the videos of the frames, whose unlabeled frames complete clips; None makes clips of labeled
            frames alone.
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
        surroundings: Surroundings | None = None,
    ) -> None:
        if surroundings and high_resolution:
            raise UserError(f"frames at a higher resolution cannot complete the clips of {spec.name}, see clip_images")
        self.spec = spec
        self.frames = frames
        self.layout = layout
        self.transform = transform
        self.left_out = tuple(left_out)
        self.high_resolution_share = high_resolution_share
        self.simulation = simulation
        self.surroundings = surroundings
        self.cache: FrameCache | None = None
        self.segments = split_sequences([(frame.sequence, frame.number) for frame in frames], spec.max_gap_frames)
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
        more = self._high_resolution or self.surroundings
        return f"{own} {more.fingerprint()}" if more else own

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
        if self.simulation and self.simulation.is_drawn(request):
            return self._simulated(self.simulation, request)
        if self.surroundings:
            clip = self.surroundings.clip(request.anchor, request.offset, request.length, request.stride)
            frames = [self.surroundings.frames[place] for place in clip.indices]
            sample = self._read_frames(frames, clip.counted)
            anchor = [frame.labeled for frame in frames].index(request.anchor)
        else:
            segment = self._segment_of[request.anchor]
            clip = clip_around(segment, request.anchor, request.offset, request.length, request.stride)
            sample = self._read_high_resolution(clip, request.seed) or self.read_clip(clip)
            anchor = clip.indices.index(request.anchor)
        sample = sample if self.transform is None else self.transform(sample, request.seed)
        return {**sample, "anchor": anchor}

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
        chosen = [self.frames[index] for index in clip.indices]
        frames = [VideoFrame(f.sequence, f.number, f.image, i) for f, i in zip(chosen, clip.indices, strict=True)]
        return self._read_frames(frames, clip.counted)

    def _read_frames(self, frames: Sequence[VideoFrame], counted: Sequence[bool]) -> ClipSample:
        """Return frames of one video; those without a label, and those that do not count, are labeled IGNORE_INDEX."""
        images = {frame: self.read_frame(frame) for frame in set(frames)}
        labels = {frame: self.read_label(frame.labeled) for frame in images if frame.labeled is not None}
        sizes = {x.shape[-2:] for x in [*images.values(), *labels.values()]}
        if len(sizes) > 1:
            raise UserError(
                f"frames and labels from {frames[0].image} to {frames[-1].image} differ in size: "
                f"{sorted(map(tuple, sizes))}; the frames of a sequence must have one size"
            )
        void = torch.full((*sizes.pop(),), IGNORE_INDEX)
        stacked = torch.stack([labels.get(frame, void) for frame in frames])
        stacked[[not counts for counts in counted]] = IGNORE_INDEX
        return {"clip": torch.stack([images[frame] for frame in frames]), "labels": stacked}

    def read_frame(self, frame: VideoFrame) -> Tensor:
        """Return a frame of the surroundings as :meth:`read_image` does."""
        if frame.labeled is not None:
            return self.read_image(frame.labeled)
        return torch.from_numpy(read_rgb(frame.image)).permute(2, 0, 1)

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
