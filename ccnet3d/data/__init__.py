"""Labelled sequences as clips."""

from ccnet3d.data.folder import ClipRequest, ClipSample, LabelledSequences, RequestedSample
from ccnet3d.data.labels import open_labels
from ccnet3d.data.spec import IGNORE_INDEX, DatasetSpec, read_dataset_spec
from ccnet3d.data.transforms import Augmentation

__all__ = [
    "IGNORE_INDEX",
    "Augmentation",
    "ClipRequest",
    "ClipSample",
    "DatasetSpec",
    "LabelledSequences",
    "RequestedSample",
    "open_labels",
    "read_dataset_spec",
]
