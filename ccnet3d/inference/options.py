"""What a run writes, and of which frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ccnet3d.errors import UserError
from ccnet3d.inference.selection import Selection
from ccnet3d.masks import formats


@dataclass(frozen=True)
class RunOptions:
    """Of :func:`ccnet3d.inference.segment_video`."""

    selection: Selection = field(default_factory=Selection)
    format: str = "png"
    """``png``, ``npz``, ``ffv1`` or ``cvat``."""
    class_names: Sequence[str] = ()
    """Classes that masks show; pixels of others become 255. Empty for all."""
    save_probabilities: bool = False
    """Also write the classes' probabilities of each frame, at the decoder's stride."""
    overlay: Path | None = None
    """An .mp4 file for the video with its masks painted over it."""
    opacity: float = 0.5
    """Share of the class colour in it, in [0, 1]."""
    resume: bool = False
    """Go on with a run that was interrupted; one that is complete is left as it is."""
    overwrite: bool = False
    """Replace what an earlier run wrote."""

    def __post_init__(self) -> None:
        if self.format not in formats.FILE_NAMES:
            raise UserError(f"unknown format {self.format!r}; choose {', '.join(formats.FILE_NAMES)}")
        if not 0 <= self.opacity <= 1:
            raise UserError(f"the opacity must be in [0, 1], got {self.opacity}")
        if self.resume and self.overwrite:
            raise UserError("resume and overwrite exclude each other; give one of them")
