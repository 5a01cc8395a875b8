from __future__ import annotations

import sys

import numpy as np
import pytest
from masks.samples import NAMES, PALETTE, invent

from ccnet3d.errors import UserError
from ccnet3d.masks import paint, to_detections


def test_one_detection_per_class() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is an optional extra")
    mask = np.full((40, 50), 255, np.uint8)
    mask[5:15, 10:30], mask[20:22, 3:5] = 2, 0
    detections = to_detections(mask, NAMES)
    assert isinstance(detections, supervision.Detections)
    assert detections.class_id.tolist() == [0, 2]
    assert detections["class_name"].tolist() == ["ground", "rail"]
    assert detections.xyxy.tolist() == [[3, 20, 4, 21], [10, 5, 29, 14]]  # the last pixels, as supervision counts
    np.testing.assert_array_equal(detections.mask, [mask == 0, mask == 2])
    assert detections.area.tolist() == [4, 200]
    only = to_detections(mask, ["rail"], [2])
    assert (only.class_id.tolist(), only["class_name"].tolist()) == ([2], ["rail"])
    assert len(to_detections(mask, ["box"], [1])) == 0
    assert len(detections[detections.class_id == 2]) == 1  # filters as its users do


def test_supervision_draws_them() -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is an optional extra")
    scene, mask = np.zeros((60, 80, 3), np.uint8), invent(60, 80)
    palette = supervision.ColorPalette([supervision.Color(*color) for color in PALETTE])
    annotator = supervision.MaskAnnotator(palette, opacity=1.0)
    drawn = annotator.annotate(scene.copy(), to_detections(mask, NAMES))[..., ::-1]  # it draws BGR
    np.testing.assert_array_equal(drawn, paint(scene, mask, PALETTE, opacity=1.0))


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("supervision", reason="supervision is an optional extra")
    with pytest.raises(UserError, match="expected a name for each class id, got 3 names for 1 ids"):
        to_detections(np.zeros((2, 2), np.uint8), NAMES, [0])
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="needs supervision; run: pip install 'ccnet3d\\[supervision\\]'"):
        to_detections(np.zeros((2, 2), np.uint8), NAMES)
