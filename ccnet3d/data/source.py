"""The source of labeled data, and how to open a split of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ccnet3d.data.datasets import LabelledSequences
from ccnet3d.data.items import ClipTransform
from ccnet3d.data.listing import list_frames
from ccnet3d.data.simulation import Simulation
from ccnet3d.data.spec import DatasetSpec, read_dataset_spec

__all__ = ["DataSource"]


@dataclass(frozen=True)
class DataSource:
    """Labeled data on disk.

    >>> from tempfile import mkdtemp
    >>> from PIL import Image
    >>> root = Path(mkdtemp())
    >>> for folder, mode in (("frames", "RGB"), ("labels", "L")):
    ...     (root / folder / "night").mkdir(parents=True)
    ...     Image.new(mode, (8, 6)).save(root / folder / "night" / "0001.png")
    >>> (root / "dataset.toml").write_text('''name = "yard"
    ... classes = [{ name = "ground", color = [90, 140, 60] }, { name = "box", color = [200, 40, 40] }]
    ... splits = { val = ["night"] }''') > 0
    True
    >>> val = DataSource(root).open("val")
    >>> len(val), val.spec.class_names, val.read_image(0).shape
    (1, ('ground', 'box'), torch.Size([3, 6, 8]))
    """

    root: Path
    """The data folder."""
    spec_file: Path | None = None
    """The ``dataset.toml`` to use if the data folder has none."""
    high_resolution: Path | None = None
    """A data folder with the same frames, or some of them, at a higher resolution."""
    cache: Path | None = None
    """Folder of frame caches; where one fits the data, decoded frames are read from it."""

    @property
    def description(self) -> Path:
        """The ``dataset.toml`` that is used."""
        own = self.root / "dataset.toml"
        return own if own.is_file() or self.spec_file is None else self.spec_file

    def open(
        self,
        split: str,
        *,
        transform: ClipTransform | None = None,
        high_resolution_share: float = 0.0,
        simulation: Simulation | None = None,
    ) -> LabelledSequences:
        """Open a split.

        Args:
            split: its name.
            transform: applied to each requested clip.
            high_resolution_share: probability that a requested clip comes from ``high_resolution``, if that folder has
                all of its frames.
            simulation: makes clips from stills.

        Raises:
            UserError: no such data, or a description that does not fit it.
        """
        spec = self.read_spec()
        found = list_frames(spec, self.description.parent, self.root, split)
        high = self.at_high_resolution()
        dataset = LabelledSequences(
            spec,
            found.frames,
            found.layout,
            transform,
            found.left_out,
            high.open(split) if high and high_resolution_share else None,
            high_resolution_share,
            simulation,
            found.surroundings,
        )
        if self.cache is not None:
            dataset.use_cache(self.cache)
        return dataset

    def read_spec(self) -> DatasetSpec:
        """Return the description of the dataset.

        Raises:
            UserError: it is missing or invalid.
        """
        return read_dataset_spec(self.description)

    def at_high_resolution(self) -> DataSource | None:
        """Return the source of the frames at a higher resolution, None if there are none."""
        if self.high_resolution is None:
            return None
        return replace(self, root=self.high_resolution, high_resolution=None)
