from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import THREE_CLASSES
from PIL import Image

from ccnet3d.data import DataSource, LabelledSequences, open_labels
from ccnet3d.evaluation import evaluate, evaluate_masks, open_predictions
from ccnet3d.inference import RunOptions, VideoSegmenter, segment_video
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.video import open_video

pytestmark = pytest.mark.usefixtures("one_thread")


def save(mask: np.ndarray, path: Path, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(path)


def guess(dataset: LabelledSequences, index: int) -> np.ndarray:
    """Return a mask that is nearly right, different for every frame."""
    label = dataset.read_label(index).clamp(max=2).to(torch.uint8)
    return label.roll(index % 4, 1).numpy()


def write_guesses(folder: Path, dataset: LabelledSequences, name: str = "{sequence}/{stem}.png") -> None:
    for index, frame in enumerate(dataset.frames):
        path = folder / name.format(sequence=frame.sequence, stem=frame.image.stem)
        save(guess(dataset, index), path, palette=index % 2 == 0)


@pytest.fixture
def train(yard: Path) -> LabelledSequences:
    return DataSource(yard).open("train")


def all_masks(folder: Path, dataset: LabelledSequences, **options: int) -> list[np.ndarray]:
    masks_of = open_predictions(folder, dataset, **options)
    return [mask for segment in dataset.segments for mask in masks_of(segment)]


@pytest.mark.parametrize("name", ["{sequence}/{stem}.png", "{stem}.png", "{stem}.bmp", "{sequence}/{stem}.tif"])
def test_masks_of_another_tool(tmp_path: Path, train: LabelledSequences, name: str) -> None:
    """Gray and palette images by turns, in one folder per sequence, or all in one where names differ."""
    write_guesses(tmp_path / "masks", train, name)
    masks = all_masks(tmp_path / "masks", train)
    assert len(masks) == len(train)
    for index, mask in enumerate(masks):
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, guess(train, index))
    result = evaluate_masks(open_predictions(tmp_path / "masks", train), train)
    assert [frame.name for frame in result.frames[:2]] == ["0001", "0002"]
    assert 0.5 < result.miou < 1


def paint_id(path: Path, id_: int) -> None:
    mask = np.array(Image.open(path))
    mask[40, 50] = id_
    save(mask, path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "walk/0003.png").unlink(), r"1 of 11 labeled frames have no mask in .*, the first is 0003"),
        (lambda f: shutil.rmtree(f / "walk"), r"7 of 11 labeled frames have no mask .* 0001\.png; expected 0001\.png"),
        (lambda f: shutil.copy(f / "walk/0003.png", f / "walk/0009.png"), r"frame: 1, the first is .*walk/0009"),
        (lambda f: shutil.copy(f / "walk/0003.png", f / "walk/0003.bmp"), r"0003\.bmp and .*0003\.png are masks with"),
        (lambda f: shutil.copy(f / "walk/0003.png", f / "0003.png"), r"0003\.png and .* are both the mask of 0003"),
        (lambda f: save(np.zeros((40, 64), np.uint8), f / "walk/0003.png"), r"walk/0003\.png is 64x40, its .* 64x48"),
        (lambda f: paint_id(f / "walk/0003.png", 3), r"walk/0003\.png has the id 3, which is not a class \(0 to 2\)"),
        (lambda f: save(np.zeros((48, 64, 3), np.uint8), f / "walk/0003.png"), r"walk/0003\.png is a color image"),
        (lambda f: (f / "walk/0003.png").write_bytes(b"no image"), r"cannot read the mask .*walk/0003\.png"),
        (lambda f: shutil.rmtree(f), r"there is no folder .*masks"),
    ],
)  # fmt: skip
def test_masks_that_do_not_fit(
    tmp_path: Path, train: LabelledSequences, damage: Callable[[Path], object], message: str
) -> None:
    write_guesses(tmp_path / "masks", train)
    damage(tmp_path / "masks")
    with pytest.raises(ValueError, match=message):
        evaluate_masks(open_predictions(tmp_path / "masks", train), train)


def test_one_folder_for_two_sequences_with_the_same_names(tmp_path: Path, yard: Path) -> None:
    (yard / "dataset.toml").write_text(THREE_CLASSES.replace('["night"]', '["night", "walk"]'))
    dataset = DataSource(yard).open("val")
    write_guesses(tmp_path / "masks", dataset, "{stem}.png")
    with pytest.raises(ValueError, match="put the masks into folders named as their sequences, night and walk"):
        open_predictions(tmp_path / "masks", dataset)


def infer(frames: Path, out: Path, model: CCNet3D, info: ModelInfo, layout: str = "png") -> None:
    segmenter = VideoSegmenter(model, info, dtype=torch.float32)
    with open_video(frames) as reader:
        segment_video(reader, segmenter, out, RunOptions(format=layout))


@pytest.mark.parametrize("layout", ["png", "npz", "ffv1"])
def test_what_infer_wrote_scores_as_the_model(
    yard: Path, tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo, layout: str
) -> None:
    """One run per sequence, over folders of images in which not all frames are labeled."""
    for name in ("0002", "0005"):
        (yard / "labels" / "walk" / f"{name}.png").unlink()
    dataset = DataSource(yard).open("train")
    for sequence in ("walk", "yard_2"):
        infer(yard / "frames" / sequence, tmp_path / "runs" / sequence, torn_model, tiny_info, layout)
    result = evaluate_masks(open_predictions(tmp_path / "runs", dataset), dataset)
    segmenter = VideoSegmenter(torn_model, tiny_info, dtype=torch.float32)
    truth = []
    for sequence, labeled in (("walk", [0, 2, 3, 5, 6]), ("yard_2", [0, 1, 2, 3])):
        with open_video(yard / "frames" / sequence) as reader:
            masks = list(segmenter.segment(frame.image for frame in reader))
        truth += [masks[index] for index in labeled]
    assert len(result.frames) == 9
    assert all(len(np.unique(mask)) == 3 for mask in truth)
    for mine, mask in zip(all_masks(tmp_path / "runs", dataset), truth, strict=True):
        np.testing.assert_array_equal(mine, mask)
    # And a single run, for a split of one sequence.
    (yard / "dataset.toml").write_text(THREE_CLASSES.replace('["night"]', '["yard_2"]'))
    val = DataSource(yard).open("val")
    alone = evaluate_masks(open_predictions(tmp_path / "runs" / "yard_2", val), val)
    assert alone.miou == evaluate(segmenter, val).miou


def test_numbers_of_a_video_file(yard: Path, tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """Labels 10, 12, 14, 16 belong to a video whose first frame has the number 9."""
    (yard / "dataset.toml").write_text(THREE_CLASSES.replace('["night"]', '["yard_2"]'))
    val = DataSource(yard).open("val")
    run = tmp_path / "run"
    infer(yard / "frames" / "walk", run, torn_model, tiny_info)  # seven frames
    for number in range(8):
        mask = np.full((48, 64), number % 3, np.uint8)
        save(mask, run / f"{number:06d}.png", palette=True)
    summary = json.loads((run / "summary.json").read_text())
    summary |= {"frames": 8, "frame_numbers": list(range(8)), "pts_seconds": None, "image_names": None}
    summary["settings"]["decoder"] = "av"
    (run / "summary.json").write_text(json.dumps(summary))
    assert [int(mask[0, 0]) for mask in all_masks(run, val, video_starts_at=9)] == [1, 3 % 3, 5 % 3, 7 % 3]
    with pytest.raises(ValueError, match=r"4 of 4 labeled frames .* the first is 0010\.png, the video's frame 10"):
        open_predictions(run, val)
    train = DataSource(yard).open("train")
    with pytest.raises(ValueError, match="has the masks of one video, and .* are of two"):
        open_predictions(run, train)


def test_runs_that_do_not_fit(yard: Path, tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    dataset = DataSource(yard).open("train")
    runs = tmp_path / "runs"
    infer(yard / "frames" / "walk", runs / "walk", torn_model, tiny_info)
    with pytest.raises(ValueError, match="has no masks of the sequence yard_2; expected in a folder of that name"):
        open_predictions(runs, dataset)
    infer(yard / "frames" / "night", runs / "yard_2", torn_model, tiny_info)
    with pytest.raises(
        ValueError, match=r"1 of 4 labeled frames .*yard_2, the first is 0016\.png, the video's frame 3"
    ):
        open_predictions(runs, dataset)
    shutil.copytree(runs / "walk", runs / "elsewhere")
    shutil.rmtree(runs / "yard_2")
    infer(yard / "frames" / "yard_2", runs / "yard_2", torn_model, tiny_info)
    with pytest.raises(ValueError, match=r"runs/elsewhere has masks of a sequence that is not in the split; remove it"):
        open_predictions(runs, dataset)
    shutil.rmtree(runs / "elsewhere")
    paint_path = runs / "walk" / "000002.png"
    mask = np.array(Image.open(paint_path))
    mask[5, 5] = 255
    save(mask, paint_path, palette=True)
    with pytest.raises(ValueError, match=r"mask of frame 2 in .*walk has the id 255 \(classes that .* left out\)"):
        all_masks(runs, dataset)
    (yard / "frames" / "walk" / "0007.png").unlink()
    with pytest.raises(ValueError, match="has a mask for frame 6, but .* has only 6 images; it was made from others"):
        open_predictions(runs, DataSource(yard).open("train"))
    (yard / "dataset.toml").write_text(THREE_CLASSES.replace("rail", "track"))
    with pytest.raises(
        ValueError, match="have the classes ground, box, rail and yard has ground, box, track; they must"
    ):
        open_predictions(runs, DataSource(yard).open("train"))


def test_labels_without_a_dataset(yard: Path, tmp_path: Path, train: LabelledSequences) -> None:
    """The same scores as with a dataset.toml, for masks of another tool."""
    shutil.rmtree(yard / "labels" / "night")
    write_guesses(tmp_path / "masks", train)
    scores = ["boundary_f", "boundary_iou", "vc2_strict"]
    truth = evaluate_masks(open_predictions(tmp_path / "masks", train), train, scores=scores)
    labels = open_labels(yard / "labels", ["ground", "box", "rail"])
    result = evaluate_masks(open_predictions(tmp_path / "masks", labels), labels, scores=scores)
    assert result.to_table() == truth.to_table()
    assert result.frames == truth.frames


def test_a_perfect_prediction_scores_1_everywhere(yard: Path, tmp_path: Path) -> None:
    """In a scene that does not move, where the flow is zero."""
    (yard / "dataset.toml").write_text(THREE_CLASSES.replace('["night"]', '["walk"]'))
    for number in range(2, 8):
        for folder in ("frames", "labels"):
            shutil.copy(yard / folder / "walk" / "0001.png", yard / folder / "walk" / f"{number:04d}.png")
    dataset = DataSource(yard).open("val")
    for index, frame in enumerate(dataset.frames):
        save(dataset.read_label(index).clamp(max=2).numpy().astype(np.uint8), tmp_path / "masks" / frame.image.name)
    still = torch.zeros(2, 48, 64)
    result = evaluate_masks(
        open_predictions(tmp_path / "masks", dataset),
        dataset,
        scores=[f"vc{n}_{form}" for n in (2, 4) for form in ("strict", "reference")]
        + ["tc", "boundary_f", "boundary_iou"],
        flow=lambda *_: still,
    )
    table = result.to_table()
    table.pop("frames")
    assert table.pop("videos") == 1

    def values(part: object) -> list[float]:
        return [v for item in part.values() for v in values(item)] if isinstance(part, dict) else [part]

    assert len(values(table)) >= 6 + 4 * 3 + 5
    assert set(values(table)) == {1.0}
    assert set(result.frame_scores["kept"][1:].tolist()) == {1.0}
    assert set(result.frame_scores["changed"][1:].tolist()) == {0.0}
