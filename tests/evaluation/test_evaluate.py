from __future__ import annotations

import dataclasses
import gc
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CAMVID_SPEC
from PIL import Image

from ccnet3d.data import DataSource, LabelledSequences
from ccnet3d.evaluation import EvaluatedFrame, Evaluation, MasksOf, Timing, evaluate, evaluate_masks
from ccnet3d.inference import VideoSegmenter
from ccnet3d.metrics import BoundaryScore, Flicker, TemporalConsistency, VideoConsistency, confusion_matrix, dis_flow
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


@pytest.mark.usefixtures("one_thread")
def test_every_labelled_frame_counts_once(yard: Path, torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    dataset = DataSource(yard).open("train")
    segmenter = VideoSegmenter(torn_model, tiny_info, dtype=torch.float32)
    result = evaluate(segmenter, dataset)
    assert result.sequences == tuple(frame.sequence for frame in dataset.frames)
    # The streaming segmenter over each sequence gives the same masks.
    expected = []
    for segment in dataset.segments:
        images = [dataset.read_image(i).permute(1, 2, 0).numpy() for i in segment]
        for index, mask in zip(segment, segmenter.segment(images), strict=True):
            expected.append(confusion_matrix(torch.from_numpy(mask), dataset.read_label(index), 3))
    assert torch.equal(result.confusions, torch.stack(expected))
    # Where the frames pass the backbone together, as on a GPU, convolutions round differently and no more.
    segmenter.batch_size = 4
    batched = evaluate(segmenter, dataset)
    assert (batched.confusions - result.confusions).abs().sum() < 0.002 * result.confusions.sum()


def guesses(dataset: LabelledSequences) -> MasksOf:
    """Masks that are nearly right, and others for every frame."""

    def masks_of(segment: range) -> Iterator[np.ndarray]:
        for index in segment:
            yield dataset.read_label(index).clamp(max=2).roll(index % 4, 1).to(torch.uint8).numpy()

    return masks_of


def all_metrics() -> dict[str, Any]:
    return {
        "video_consistency": [VideoConsistency(n, strict=strict) for n in (2, 3) for strict in (True, False)],
        "temporal_consistency": TemporalConsistency(3, lambda *_: torch.zeros(2, 48, 64)),
        "boundary": BoundaryScore(3),
    }


def with_a_gap(yard: Path) -> LabelledSequences:
    """Six frames, one behind a gap, four of another sequence."""
    (yard / "dataset.toml").write_text("max_gap_frames = 2\n" + (yard / "dataset.toml").read_text())
    for folder in ("frames", "labels"):
        (yard / folder / "walk" / "0007.png").rename(yard / folder / "walk" / "0010.png")
    dataset = DataSource(yard).open("train")
    assert [len(segment) for segment in dataset.segments] == [6, 1, 4]
    return dataset


@pytest.mark.usefixtures("one_thread")
def test_scores_are_those_of_the_meters_and_do_not_depend_on_the_order_of_videos(yard: Path) -> None:
    dataset = with_a_gap(yard)
    metrics = all_metrics()
    result = evaluate_masks(guesses(dataset), dataset, **metrics)
    names = ["vc2_strict", "vc2_reference", "vc3_strict", "vc3_reference"]
    truth = {name: meter.score for name, meter in zip(names, metrics["video_consistency"], strict=True)}
    assert result.consistency == pytest.approx({**truth, "tc": metrics["temporal_consistency"].score})
    assert result.boundary_f == pytest.approx(metrics["boundary"].score)
    assert 0 < min(result.consistency.values()) <= max(result.consistency.values()) < 1
    # Nothing is compared across the gap.
    starts = [i for i, frame in enumerate(result.frames) if not i or result.frames[i - 1].segment != frame.segment]
    assert starts == [0, 6, 7]
    for name in ("kept", "changed", "vc2_strict"):
        assert [i for i, (_, total) in enumerate(result.series[name].tolist()) if not total] == starts
    assert [i for i, counts in enumerate(result.flow_confusions["tc"]) if not counts.any()] == starts
    for order in ([2, 1, 0], [1, 2, 0]):
        other = evaluate_masks(guesses(dataset), dataset, segments=order, **all_metrics())
        assert other.to_table() == result.to_table()


@pytest.mark.usefixtures("one_thread")
def test_frames_of_other_sizes_are_not_compared(yard: Path) -> None:
    for folder in ("frames", "labels"):
        path = yard / folder / "walk" / "0003.png"
        Image.open(path).resize((32, 24), Image.Resampling.NEAREST).save(path)
    dataset = DataSource(yard).open("train")
    result = evaluate_masks(guesses(dataset), dataset, **all_metrics())
    assert [i for i, (_, total) in enumerate(result.series["kept"].tolist()) if not total] == [0, 2, 3, 7]
    Image.open(path).resize((48, 64)).save(yard / "frames" / "walk" / "0004.png")
    with pytest.raises(ValueError, match=r"flow needs frames of the size of their labels, got \(64, 48\) for .*0004"):
        evaluate_masks(guesses(dataset), dataset, **all_metrics())


@pytest.mark.usefixtures("one_thread")
def test_occluded_pixels_that_count_have_another_name(yard: Path) -> None:
    dataset = DataSource(yard).open("val")
    flow = dis_flow()
    scores = {}
    for count in (True, False):
        metric = TemporalConsistency(3, flow, count_occluded=count)
        scores |= evaluate_masks(guesses(dataset), dataset, temporal_consistency=metric).consistency
    assert set(scores) == {"tc", "tc_all"}
    assert scores["tc"] > scores["tc_all"]


@pytest.mark.usefixtures("one_thread")
def test_memory_does_not_grow_with_the_video(yard: Path) -> None:
    dataset = DataSource(yard).open("train")
    alive = []

    def counting(segment: range) -> Iterator[np.ndarray]:
        for mask in guesses(dataset)(segment):
            tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
            alive.append(sum(tensor.numel() >= 48 * 64 for tensor in tensors))
            yield mask

    evaluate_masks(counting, dataset, **all_metrics())
    assert len(alive) == 11
    assert max(alive[4:7]) <= alive[3]


@pytest.mark.usefixtures("one_thread")
def test_time_is_told_apart(yard: Path) -> None:
    dataset = DataSource(yard).open("val")

    def slow(segment: range) -> Iterator[np.ndarray]:
        for mask in guesses(dataset)(segment):
            time.sleep(0.05)
            yield mask

    timing = Timing()
    evaluate_masks(slow, dataset, timing=timing)
    assert timing.masks_seconds >= 3 * 0.05
    assert timing.metrics_seconds > 0
    evaluate_masks(slow, dataset, timing=timing)
    assert timing.masks_seconds >= 6 * 0.05


def test_flicker_is_of_the_masks_and_crosses_no_gap(
    yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    (yard / "dataset.toml").write_text("max_gap_frames = 2\n" + (yard / "dataset.toml").read_text())
    for folder in ("frames", "labels"):
        (yard / folder / "walk" / "0007.png").rename(yard / folder / "walk" / "0010.png")
    dataset = DataSource(yard).open("train")
    assert [len(segment) for segment in dataset.segments] == [6, 1, 4]
    segmenter = VideoSegmenter(tiny_model, tiny_info)
    # Masks that follow the noise of the frames.
    monkeypatch.setattr(segmenter, "segment", lambda images: (image[..., 0] % 3 for image in images))
    result = evaluate(segmenter, dataset, flicker=Flicker())
    flickers = []
    for segment in dataset.segments:
        masks = np.stack([dataset.read_image(index)[0].numpy() % 3 for index in segment])
        before, now, after = masks[:-2], masks[1:-1], masks[2:]
        flickers.append(((before == after) & (now != before)).ravel())
    share = np.concatenate(flickers).mean()
    assert 0.1 < share < 0.4
    assert result.to_table()["consistency"] == {"flicker": pytest.approx(share)}


def test_other_classes_are_refused(yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo) -> None:
    segmenter = VideoSegmenter(tiny_model, dataclasses.replace(tiny_info, class_names=("a", "b", "c")))
    with pytest.raises(ValueError, match="the model's classes are a, b, c and those of yard are ground, box, rail"):
        evaluate(segmenter, DataSource(yard).open("val"))


@pytest.mark.real_data
def test_default_weights_on_real_camvid(camvid: Path) -> None:
    model, info = load_model()
    result = evaluate(VideoSegmenter(model, info), DataSource(camvid, CAMVID_SPEC).open("val"))
    assert len(result.sequences) == 101
    # The model card's score; the dtype and library versions move it by less.
    assert result.miou == pytest.approx(info.scores["val_miou"], abs=0.005)
