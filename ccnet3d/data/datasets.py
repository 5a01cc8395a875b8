"""Clips of labelled frames from image folders."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.cache import Pack, find_pack
from ccnet3d.data.clips import Clip, clip_around, covering_clips, split_at_gaps
from ccnet3d.data.spec import DatasetSpec, LabelledFrame, LayoutSpec, list_frames, read_dataset_spec
from ccnet3d.data.transforms import ClipTransform
from ccnet3d.errors import UserError


class ClipRequest(NamedTuple):
    """Which clip to make: the frame ``anchor`` is its frame number ``offset``."""

    anchor: int
    offset: int
    length: int
    seed: int
    """Of the clip's random draw."""
    stride: int = 1
    """Labelled frames from one frame of the clip to the next."""


class ClipSample(TypedDict):
    clip: Tensor
    """uint8 ``[T, 3, H, W]``, RGB."""
    labels: Tensor
    """int64 ``[T, H, W]``, class ids and IGNORE_INDEX."""


class RequestedSample(ClipSample):
    """A clip as an item of the dataset."""

    anchor: int
    """Place in the clip of the frame that was asked for."""


class LabelledSequences(Dataset[RequestedSample]):
    """The labelled frames of one split, and clips of them that never cross a sequence or a gap.

    Args:
        spec: the dataset.
        frames: its frames in order of sequence and number.
        layout: how the labels are encoded.
        transform: applied to each clip that is requested as an item; None leaves clips as they are.
        missing: frames of the split that are not there.
        detail: the same frames at a higher resolution, or some of them.
        detail_share: probability that a clip requested as an item comes from ``detail``, if all of it is there.
    """

    def __init__(
        self,
        spec: DatasetSpec,
        frames: list[LabelledFrame],
        layout: LayoutSpec,
        transform: ClipTransform | None = None,
        missing: int = 0,
        detail: LabelledSequences | None = None,
        detail_share: float = 0.0,
    ) -> None:
        self.spec = spec
        self.frames = frames
        self.layout = layout
        self.transform = transform
        self.missing = missing
        self.detail_share = detail_share
        self.pack: Pack | None = None
        self._detail = detail
        places = {frame[:2]: place for place, frame in enumerate(detail.frames)} if detail else {}
        self._detail_place = [places.get(frame[:2]) for frame in frames]
        self.segments = _segments(frames, spec.max_gap_frames)
        self._segment_of = {index: segment for segment in self.segments for index in segment}
        self._class_of_color = _color_table(spec) if layout.label_encoding == "color" else None

    @classmethod
    def open(
        cls,
        root: Path,
        split: str,
        *,
        spec_file: Path | None = None,
        transform: ClipTransform | None = None,
        detail_root: Path | None = None,
        detail_share: float = 0.0,
    ) -> LabelledSequences:
        """Open a split of the data in ``root``.

        Args:
            root: the data folder.
            split: name of the split.
            spec_file: the dataset's ``dataset.toml``, where it does not lie in ``root``.
            transform: see the class.
            detail_root: a data folder with the same frames at a higher resolution, or some of them.
            detail_share: see the class.

        Raises:
            ValueError: no such data, or a description that does not fit it.
        """
        detail = None if detail_root is None else cls.open(detail_root, split, spec_file=spec_file)
        own = root / "dataset.toml"
        path = own if own.is_file() or spec_file is None else spec_file
        spec = read_dataset_spec(path)
        found = list_frames(spec, path.parent, root, split)
        return cls(spec, found.frames, found.layout, transform, found.missing, detail, detail_share)

    def use_packs(self, folder: Path) -> None:
        """Read frames from the decoded ones in ``folder``, where they are there, and those of ``detail`` likewise."""
        self.pack = find_pack(self, folder)
        if self._detail is not None:
            self._detail.use_packs(folder)

    def __len__(self) -> int:
        return len(self.frames)

    def covering_clips(self, length: int) -> list[Clip]:
        """Clips of ``length`` frames that count every frame of the split once."""
        return [clip for segment in self.segments for clip in covering_clips(segment, length)]

    def __getitem__(self, request: ClipRequest) -> RequestedSample:
        segment = self._segment_of[request.anchor]
        clip = clip_around(segment, *request[:3], request.stride)
        sample = self._read_detail(clip, request.seed) or self.read_clip(clip)
        sample = sample if self.transform is None else self.transform(sample, request.seed)
        return {**sample, "anchor": clip.indices.index(request.anchor)}

    def _read_detail(self, clip: Clip, seed: int) -> ClipSample | None:
        if self._detail is None or np.random.default_rng((seed, 1)).random() >= self.detail_share:
            return None
        places = [self._detail_place[index] for index in clip.indices]
        if None in places:
            return None
        return self._detail.read_clip(Clip(tuple(p for p in places if p is not None), clip.counted))

    def read_clip(self, clip: Clip) -> ClipSample:
        """Read the frames of a clip at their own size; what does not count is labelled IGNORE_INDEX.

        Raises:
            ValueError: an unreadable image, or frames of a clip that differ in size.
        """
        images = {index: self.read_image(index) for index in set(clip.indices)}
        labels = {index: self.read_label(index) for index in set(clip.indices)}
        sizes = {x.shape[-2:] for x in [*images.values(), *labels.values()]}
        if len(sizes) > 1:
            names = self.frames[clip.indices[0]].image, self.frames[clip.indices[-1]].image
            raise UserError(
                f"frames and labels from {names[0]} to {names[1]} differ in size: {sorted(map(tuple, sizes))}"
            )
        stacked = torch.stack([labels[index] for index in clip.indices])
        stacked[[not counted for counted in clip.counted]] = IGNORE_INDEX
        return {"clip": torch.stack([images[index] for index in clip.indices]), "labels": stacked}

    def read_image(self, index: int) -> Tensor:
        """A frame, uint8 ``[3, H, W]``, RGB."""
        pixels = self.pack.image(index) if self.pack else torch.from_numpy(_read(self.frames[index].image, "RGB"))
        return pixels.permute(2, 0, 1)

    def read_label(self, index: int) -> Tensor:
        """The label of a frame, int64 ``[H, W]``: class ids and IGNORE_INDEX.

        Raises:
            ValueError: a pixel that is neither a class nor void.
        """
        if self.pack:
            return self.pack.label(index).long()
        path = self.frames[index].label
        if self._class_of_color is not None:
            return _classes_from_colors(path, self._class_of_color)
        ids_image = _read(path, None)
        if ids_image.ndim != 2:
            raise UserError(
                f"{path} is a colour image, expected class ids in a grey or palette image; "
                "label_encoding = 'color' in dataset.toml is for labels given as colours"
            )
        label = torch.from_numpy(ids_image.astype(np.int64))
        void = torch.isin(label, torch.tensor(self.spec.void_ids, dtype=torch.long))
        classes_count = len(self.spec.classes)
        if bad := label[(label >= classes_count) & ~void].unique().tolist():
            raise UserError(
                f"{path} has the label {bad[0]}, which is neither a class id (0 to {classes_count - 1}) nor in void_ids"
            )
        return label.masked_fill(void, IGNORE_INDEX)


def _segments(frames: list[LabelledFrame], max_gap_frames: int) -> list[range]:
    """Runs of frames of one sequence without a gap, as positions in ``frames``."""
    segments = []
    start = 0
    for stop in range(1, len(frames) + 1):
        if stop == len(frames) or frames[stop].sequence != frames[start].sequence:
            numbers = [frame.number for frame in frames[start:stop]]
            segments += [range(start + r.start, start + r.stop) for r in split_at_gaps(numbers, max_gap_frames)]
            start = stop
    return segments


def _color_table(spec: DatasetSpec) -> np.ndarray:
    """int16 ``[2**24]``: class id, or IGNORE_INDEX, of the labels' colours by their 24-bit code, -1 for other codes."""
    colors = spec.source_colors or {c.name: c.color for c in spec.classes}
    class_of_name = {name: i for i, c in enumerate(spec.classes) for name in c.merges or (c.name,)}
    table = np.full(1 << 24, -1, np.int16)
    for name, (r, g, b) in colors.items():
        table[(r << 16) + (g << 8) + b] = class_of_name.get(name, IGNORE_INDEX)
    return table


def _classes_from_colors(path: Path, class_of_color: np.ndarray) -> Tensor:
    rgb = _read(path, "RGB").astype(np.int32)
    classes = class_of_color[(rgb[..., 0] << 16) + (rgb[..., 1] << 8) + rgb[..., 2]]
    if (unknown := np.argwhere(classes < 0)).size:
        color = tuple(rgb[tuple(unknown[0])].tolist())
        raise UserError(f"{path} has the colour {color}, which source_colors does not have")
    return torch.from_numpy(classes.astype(np.int64))


def _read(path: Path, mode: str | None) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.array(image if mode is None else image.convert(mode))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises for damage
        raise UserError(f"cannot read the image {path}: {error}") from error
