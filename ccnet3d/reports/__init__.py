"""HTML pages of videos under their masks and of evaluations, and pictures of what a model attends to."""

from __future__ import annotations

from ccnet3d.reports._templates import template_text
from ccnet3d.reports.attention_map import AttentionMap, check_plotting, compute_attention_map, draw_attention_map
from ccnet3d.reports.contact_sheet import check_picture, write_contact_sheet
from ccnet3d.reports.evaluation_report import check_report_folder, write_evaluation_report
from ccnet3d.reports.video_page import Matched, write_video_page
from ccnet3d.reports.worst_frames import Strip, WorstFrames

__all__ = [
    "AttentionMap",
    "Matched",
    "Strip",
    "WorstFrames",
    "check_picture",
    "check_plotting",
    "check_report_folder",
    "compute_attention_map",
    "draw_attention_map",
    "template_text",
    "write_contact_sheet",
    "write_evaluation_report",
    "write_video_page",
]
