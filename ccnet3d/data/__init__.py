"""Labeled sequences as clips."""

from __future__ import annotations

from ccnet3d.data.check import Inspection, inspect_frames
from ccnet3d.data.corruptions import CORRUPTIONS, SEVERITIES, check_corruption, corrupt_frame
from ccnet3d.data.datasets import LabelledSequences
from ccnet3d.data.describe import Draft, describe_folder
from ccnet3d.data.items import ClipRequest, ClipSample, LabelledFrame, RequestedSample
from ccnet3d.data.label_reader import LabelReader, UnknownLabelsError
from ccnet3d.data.labels import numbered, open_labels, voc_color
from ccnet3d.data.overview import Overview, survey_data
from ccnet3d.data.shapes import MOST_PIXELS, coco_region
from ccnet3d.data.simulation import Simulation, simulate_clip
from ccnet3d.data.source import DataSource
from ccnet3d.data.spec import ClassSpec, DatasetSpec, LayoutSpec, read_dataset_spec
from ccnet3d.data.spec_text import spec_text
from ccnet3d.data.split_draw import draw_splits
from ccnet3d.data.surroundings import Surroundings, VideoFrame
from ccnet3d.data.transforms import Augmentation

__all__ = [
    "CORRUPTIONS",
    "MOST_PIXELS",
    "SEVERITIES",
    "Augmentation",
    "ClassSpec",
    "ClipRequest",
    "ClipSample",
    "DataSource",
    "DatasetSpec",
    "Draft",
    "Inspection",
    "LabelReader",
    "LabelledFrame",
    "LabelledSequences",
    "LayoutSpec",
    "Overview",
    "RequestedSample",
    "Simulation",
    "Surroundings",
    "UnknownLabelsError",
    "VideoFrame",
    "check_corruption",
    "coco_region",
    "corrupt_frame",
    "describe_folder",
    "draw_splits",
    "inspect_frames",
    "numbered",
    "open_labels",
    "read_dataset_spec",
    "simulate_clip",
    "spec_text",
    "survey_data",
    "voc_color",
]
