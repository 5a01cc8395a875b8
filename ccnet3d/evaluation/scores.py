"""The table of scores: what each is called, its unit, and which direction is better."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ccnet3d.errors import UserError

__all__ = ["SCORES", "Score", "find_score"]


@dataclass(frozen=True)
class Score:
    """One score of an evaluation, in [0, 1]."""

    name: str
    """Key in files and tables, such as ``per_frame_miou``."""
    title: str
    """What people read."""
    unit: str = "%"
    higher_is_better: bool = True


SCORES = {
    score.name: score
    for score in (
        Score("miou", "mIoU (pooled)"),
        Score("per_frame_miou", "per-frame mIoU"),
        Score("video_miou", "video mIoU"),
        Score("pixel_accuracy", "pixel accuracy"),
        Score("class_accuracy", "class accuracy"),
        Score("frequency_weighted_iou", "frequency-weighted IoU"),
        Score("boundary_f", "boundary F-score"),
        Score("flicker", "flicker", higher_is_better=False),
        Score("tc", "TC"),
        Score("tc_all", "TC, occluded pixels too"),
    )
}


def find_score(name: str) -> Score:
    """Return a score by name; ``vc<N>_strict`` and ``vc<N>_reference`` exist for every window length N of at least 2.

    Raises:
        UserError: no such score.
    """
    if name in SCORES:
        return SCORES[name]
    if match := re.fullmatch(r"vc(\d+)_(strict|reference)", name):
        return Score(name, f"VC{match[1]} {match[2]}")
    raise UserError(f"there is no score {name!r}; choose one of {', '.join(SCORES)}, vc8_strict, vc8_reference, ...")
