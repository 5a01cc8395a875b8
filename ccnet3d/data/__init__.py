"""Labelled sequences as clips."""

from __future__ import annotations

from ccnet3d.data.cache import (
    write_pack,
)
from ccnet3d.data.check import (
    inspect_frames,
)
from ccnet3d.data.datasets import (
    ClipRequest,
    ClipSample,
    LabelledSequences,
    RequestedSample,
)
from ccnet3d.data.labels import (
    numbered,
    open_labels,
)
from ccnet3d.data.spec import (
    DatasetSpec,
    LabelledFrame,
    read_dataset_spec,
)
from ccnet3d.data.transforms import (
    Augmentation,
)

__all__ = [
    "Augmentation",
    "ClipRequest",
    "ClipSample",
    "DatasetSpec",
    "LabelledFrame",
    "LabelledSequences",
    "RequestedSample",
    "inspect_frames",
    "numbered",
    "open_labels",
    "read_dataset_spec",
    "write_pack",
]
