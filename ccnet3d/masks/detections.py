"""Masks as detections of the library supervision, for its annotators, zones and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ccnet3d.errors import UserError

if TYPE_CHECKING:
    import supervision

__all__ = ["to_detections"]


def to_detections(
    mask: np.ndarray, class_names: Sequence[str], class_ids: Sequence[int] | None = None
) -> supervision.Detections:
    """Return a mask as ``supervision.Detections``: one detection per class that is present, in the order of their ids.

    Args:
        mask: uint8 ``[H, W]``, class ids.
        class_names: the names of ``class_ids``.
        class_ids: the classes to return; 0, 1, 2, ... if None. Pixels of others are in no detection.

    Returns:
        Detections with ``mask`` (bool ``[N, H, W]``), ``xyxy`` around it as ``supervision.mask_to_xyxy`` returns it,
        ``class_id`` and ``data["class_name"]``.

    Raises:
        UserError: supervision is not installed, or as many names as ids are not given.

    >>> import pytest; supervision = pytest.importorskip("supervision")
    >>> detections = to_detections(np.array([[0, 1, 1]], np.uint8), ["road", "car"])
    >>> detections.class_id.tolist(), detections["class_name"].tolist(), detections.xyxy.tolist()
    ([0, 1], ['road', 'car'], [[0, 0, 0, 0], [1, 0, 2, 0]])
    """
    try:
        import supervision
    except ImportError as error:
        raise UserError("to_detections needs supervision; run: pip install 'ccnet3d[supervision]'") from error
    ids = list(range(len(class_names)) if class_ids is None else class_ids)
    if len(ids) != len(class_names):
        raise UserError(f"expected a name for each class id, got {len(class_names)} names for {len(ids)} ids")
    names = dict(zip(ids, class_names, strict=True))
    present = np.intersect1d(mask, ids).astype(int)
    regions = np.stack([mask == i for i in present]) if len(present) else np.zeros((0, *mask.shape), bool)
    return supervision.Detections(
        xyxy=supervision.mask_to_xyxy(regions),
        mask=regions,
        class_id=present,
        data={"class_name": np.array([names[i] for i in present.tolist()], dtype=str)},
    )
