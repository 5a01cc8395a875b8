from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from conftest import CAMVID_SPEC

from ccnet3d.data import LabelledSequences
from ccnet3d.evaluation import EvaluatedFrame, Evaluation, evaluate
from ccnet3d.inference import VideoSegmenter
from ccnet3d.metrics import confusion_matrix
from ccnet3d.models import CCNet3D, ModelInfo, load_model


def frames_of(sequences: str) -> tuple[EvaluatedFrame, ...]:
    return tuple(EvaluatedFrame(name, number, f"{name}_{number}", 0) for number, name in enumerate(sequences))


def test_scores_by_their_definitions() -> None:
    # Three frames of two videos, two classes; IoU worked out on paper.
    confusions = torch.tensor([[[2, 0], [0, 2]], [[1, 1], [1, 1]], [[4, 0], [0, 0]]])
    result = Evaluation(("a", "b"), frames_of("xxy"), confusions)
    pooled = [7 / 9, 3 / 5]  # [[7, 1], [1, 3]]
    assert result.per_class_iou == pytest.approx(dict(zip("ab", pooled, strict=True)))
    assert result.miou == pytest.approx(sum(pooled) / 2)
    assert result.per_frame_miou == pytest.approx((1 + 1 / 3 + 1) / 3)  # b is in neither labels nor prediction of y
    assert result.video_miou == pytest.approx((3 / 5 + 1) / 2)  # x: [[3, 1], [1, 3]]
    table = result.to_table()
    assert (table["frames"], table["videos"]) == (3, 2)
    assert table["pixel_accuracy"] == pytest.approx(10 / 12)
    assert table["per_class_accuracy"] == {"a": 7 / 8, "b": 3 / 4}
    assert table["class_accuracy"] == pytest.approx((7 / 8 + 3 / 4) / 2)
    assert table["frequency_weighted_iou"] == pytest.approx((8 * 7 / 9 + 4 * 3 / 5) / 12)
    assert not {"consistency", "boundary_f", "per_class_boundary_f"} & set(table)


def test_nothing_of_a_class_is_null_in_json() -> None:
    result = Evaluation(("a", "b"), frames_of("x"), torch.tensor([[[5, 0], [0, 0]]]))
    assert json.loads(json.dumps(result.to_table(), allow_nan=False))["per_class_iou"] == {"a": 1.0, "b": None}


def test_every_labelled_frame_counts_once(yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    dataset = LabelledSequences.open(yard, "train")
    segmenter = VideoSegmenter(tiny_model, tiny_info, dtype=torch.float32)
    result = evaluate(segmenter, dataset)
    assert result.sequences == tuple(frame.sequence for frame in dataset.frames)
    # The streaming segmenter over each sequence gives the same masks.
    expected = []
    for segment in dataset.segments:
        images = [dataset.read_image(i).permute(1, 2, 0).numpy() for i in segment]
        for index, mask in zip(segment, segmenter.segment(images), strict=True):
            expected.append(confusion_matrix(torch.from_numpy(mask), dataset.read_label(index), 3))
    assert torch.equal(result.confusions, torch.stack(expected))


def test_other_classes_are_refused(yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    segmenter = VideoSegmenter(tiny_model, dataclasses.replace(tiny_info, class_names=("a", "b", "c")))
    with pytest.raises(ValueError, match="the model's classes are a, b, c and those of yard are ground, box, rail"):
        evaluate(segmenter, LabelledSequences.open(yard, "val"))


@pytest.mark.real_data
def test_default_weights_on_real_camvid(camvid: Path) -> None:
    model, info = load_model()
    result = evaluate(VideoSegmenter(model, info), LabelledSequences.open(camvid, "val", spec_file=CAMVID_SPEC))
    assert len(result.sequences) == 101
    # The model card's score; the dtype and library versions move it by less.
    assert result.miou == pytest.approx(info.scores["val_miou"], abs=0.005)
