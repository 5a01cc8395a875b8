"""A page to look through the masks of a video."""

from __future__ import annotations

from ccnet3d.reports.attention_map import (
    draw_attention,
    view_attention,
)
from ccnet3d.reports.evaluation_report import (
    write_evaluation_report,
)
from ccnet3d.reports.video_page import (
    Matched,
    write_video_page,
)
from ccnet3d.reports.worst_frames import (
    WorstFrames,
)

__all__ = [
    "Matched",
    "WorstFrames",
    "draw_attention",
    "view_attention",
    "write_evaluation_report",
    "write_video_page",
]
