"""Clips of the frames around labeled ones, as ``leftImg8bit_sequence`` of Cityscapes has them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import draw_scene
from PIL import Image

from ccnet3d.cli import data, train
from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import ClipRequest, DataSource, LabelledSequences, read_dataset_spec
from ccnet3d.errors import UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.inference import TestTimeAugmentation, VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo, load_model
from ccnet3d.resources import find_dataset

SNIPPETS = {"train/aachen/aachen_000000": 0, "train/hanover/hanover_000000": 145, "val/frankfurt/frankfurt_000001": 0}
"""Snippets of 30 frames by the number of their first one; the 20th is labeled."""


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    """Snippets of drawn scenes, of which the labeled frames are in leftImg8bit as well; a second snippet of hanover."""
    root = tmp_path / "cityscapes"
    for snippet, first in [*SNIPPETS.items(), ("train/hanover/hanover_000000", 362)]:
        for number in range(first, first + 30):
            image, label = draw_scene(number)
            write(root / f"leftImg8bit_sequence/{snippet}_{number:06}_leftImg8bit.png", image)
            if number == first + 19:
                write(root / f"leftImg8bit/{snippet}_{number:06}_leftImg8bit.png", image)
                ids = np.array([7, 11, 26, *[0] * 253], np.uint8)  # road, building, car
                write(root / f"gtFine/{snippet}_{number:06}_gtFine_labelIds.png", ids[label])
    return root


def open_split(root: Path, split: str) -> LabelledSequences:
    return DataSource(root, find_dataset("cityscapes")).open(split)


@functools.cache
def scenes() -> dict[bytes, int]:
    return {draw_scene(number)[0].tobytes(): number for number in range(400)}


def numbers_of(clip: torch.Tensor) -> list[int]:
    """The frame numbers of drawn scenes."""
    return [scenes()[frame.permute(1, 2, 0).contiguous().numpy().tobytes()] for frame in clip]


@pytest.mark.parametrize(
    ("anchor", "request_of", "expected"),
    [
        (0, {"offset": 1, "length": 3}, [18, 19, 20]),
        (0, {"offset": 4, "length": 5}, [15, 16, 17, 18, 19]),
        (0, {"offset": 0, "length": 3, "stride": 3}, [19, 22, 25]),
        (0, {"offset": 0, "length": 5, "stride": 3}, [19, 21, 23, 25, 27]),  # a stride that fits
        (1, {"offset": 0, "length": 12}, [*range(163, 175)]),  # moved: the snippet ends at 174
        (2, {"offset": 11, "length": 12}, [*range(370, 382)]),
    ],
)
def test_clips_of_training(cityscapes: Path, anchor: int, request_of: dict[str, int], expected: list[int]) -> None:
    train_set = open_split(cityscapes, "train")
    assert [frame.number for frame in train_set.frames] == [19, 164, 381]
    sample = train_set[ClipRequest(anchor, seed=0, **request_of)]
    assert numbers_of(sample["clip"]) == expected
    labeled = [bool((labels != IGNORE_INDEX).any()) for labels in sample["labels"]]
    assert labeled == [number == train_set.frames[anchor].number for number in expected]
    assert labeled.index(True) == sample["anchor"]
    assert torch.equal(sample["labels"][sample["anchor"]], train_set.read_label(anchor))


def test_other_labeled_frames_of_a_clip_keep_their_labels(yard: Path) -> None:
    """A user's videos with every second frame labeled, in the folder of all frames."""
    text = (yard / "dataset.toml").read_text()
    for number in (2, 4, 6):
        (yard / f"labels/walk/{number:04}.png").unlink()
    (yard / "dataset.toml").write_text(f'{text}\n[[layouts]]\nclip_images = "frames"\n')
    walk = DataSource(yard).open("train")
    assert walk.left_out == ()
    sample = walk[ClipRequest(1, offset=2, length=5, seed=0)]
    assert numbers_of(sample["clip"]) == [1, 2, 3, 4, 5]
    assert [bool((labels != IGNORE_INDEX).any()) for labels in sample["labels"]] == [True, False, True, False, True]
    (yard / "dataset.toml").write_text(text)
    alone = DataSource(yard).open("train")
    assert numbers_of(alone[ClipRequest(1, offset=1, length=3, seed=0)]["clip"]) == [1, 3, 5]
    assert alone.left_out[0].startswith("images without a label: 3 (frames/walk/0002.png, ")
    assert alone.fingerprint() != walk.fingerprint()


def names_of_cityscapes() -> SimpleNamespace:
    return SimpleNamespace(class_names=read_dataset_spec(find_dataset("cityscapes")).class_names)


class Recorder:
    """A segmenter that calls everything road, and keeps the clips that it is given."""

    def __init__(self, clip_length: int, smoothing: int = 0, *, causal: bool = False) -> None:
        self.clip_length, self.smoothing, self.causal = clip_length, smoothing, causal
        self.info = names_of_cityscapes()
        self.clips: list[list[int]] = []

    def segment(self, frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        given = [*frames]
        self.clips.append(numbers_of(torch.from_numpy(np.stack(given)).permute(0, 3, 1, 2)))
        return (np.zeros(frame.shape[:2], np.uint8) for frame in given)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clip_length": 1}, [[19], [164], [381]]),
        ({"clip_length": 5}, [[17, 18, 19, 20, 21], [162, 163, 164, 165, 166], [379, 380, 381, 382, 383]]),
        ({"clip_length": 3, "causal": True}, [[17, 18, 19], [162, 163, 164], [379, 380, 381]]),
        ({"clip_length": 1, "smoothing": 1}, [[18, 19, 20], [163, 164, 165], [380, 381, 382]]),
        ({"clip_length": 25}, [[*range(5, 30)], [*range(150, 175)], [*range(367, 392)]]),
        ({"clip_length": 40}, [[*range(30)], [*range(145, 175)], [*range(362, 392)]]),
    ],
)
def test_clips_of_evaluation(cityscapes: Path, options: dict, expected: list[list[int]]) -> None:
    recorder = Recorder(**options)
    scores = evaluate(recorder, open_split(cityscapes, "train"))
    assert recorder.clips == expected
    assert [frame.number for frame in scores.frames] == [19, 164, 381]


def test_scores_are_those_of_the_middle_frame(cityscapes: Path, torn_model: CCNet3D, tiny_info: ModelInfo) -> None:
    """Whose mask is that of a video of the clip's frames; without the sequences it is that of a single frame."""
    torch.nn.init.constant_(torn_model.head.attention.gamma, 100.0)  # so that frames of a clip matter
    segmenter = VideoSegmenter(torn_model, tiny_info, clip_length=3, input_size=(96, 128), dtype=torch.float32)
    segmenter.info = SimpleNamespace(class_names=names_of_cityscapes().class_names, model=tiny_info.model)
    masks: list[np.ndarray] = []

    def keep(_index: int, mask: np.ndarray, _counts: torch.Tensor) -> None:
        masks.append(mask)

    evaluate(segmenter, open_split(cityscapes, "val"), on_frame=keep)
    video = [draw_scene(number)[0] for number in (18, 19, 20)]
    assert np.array_equal(masks[0], [*segmenter.segment(video)][1])
    evaluate(TestTimeAugmentation(segmenter, flip=True), open_split(cityscapes, "val"), on_frame=keep)
    assert np.array_equal(masks.pop(), [*TestTimeAugmentation(segmenter, flip=True).segment(video)][1])
    shutil.rmtree(cityscapes / "leftImg8bit_sequence")
    evaluate(segmenter, open_split(cityscapes, "val"), on_frame=keep)
    assert np.array_equal(masks[1], next(segmenter.segment(video[1:2])))
    assert not np.array_equal(*masks)


def test_check_says_which_frames_make_clips(cityscapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["check", "--dataset", "cityscapes", "--data", str(cityscapes)]
    assert data.main(command) == 0
    out = capsys.readouterr().out
    assert out.count("clips: 87 unlabeled frames of leftImg8bit_sequence around the labeled ones") == 1
    assert out.count("clips: 29 unlabeled frames of leftImg8bit_sequence around the labeled ones") == 1
    (cityscapes / "leftImg8bit").rename(cityscapes / "aside")  # the sequences have the labeled frames too
    assert data.main(command) == 0
    out = capsys.readouterr().out
    assert "clips: 87 unlabeled frames" in out
    assert "without a label" not in out
    (cityscapes / "aside").rename(cityscapes / "leftImg8bit")
    shutil.rmtree(cityscapes / "leftImg8bit_sequence/val")
    assert data.main(command) == 0
    out = capsys.readouterr().out
    assert "clips: 87 unlabeled frames" in out
    missing = "clips: labeled frames alone; leftImg8bit_sequence, with the frames around them, is not there"
    assert out.count(missing) == 1
    shutil.rmtree(cityscapes / "leftImg8bit_sequence")
    assert data.main(command) == 0
    assert capsys.readouterr().out.count(missing) == 2


def test_a_model_trains_on_snippets(cityscapes: Path, tmp_path: Path) -> None:
    small = [
        "epochs=1", "evaluate_every=1", "model.architecture=ccnet3d_lite", "model.backbone_weights=",
        "model.overrides.backbone=test_efficientnet", "model.overrides.channels=16",
        "model.overrides.skip_channels=[12,10,8]", "data.input_size=[32,48]", "data.augmentation.crop_size=[32,40]",
        "data.frames_per_batch=3", "data.clip_lengths=[3]", "inference_clip_length=3", "precision=fp32",
        "data.workers=0", "ema_decay=0.5",
    ]  # fmt: skip
    arguments = ["cityscapes_r101", "--data", str(cityscapes), "--out", str(tmp_path / "run"), "--threads", "1"]
    assert train.main([*arguments, *(item for override in small for item in ("--set", override))]) == 0
    _, info = load_model(tmp_path / "run" / "model.safetensors")
    assert (info.clip_length, len(info.class_names)) == (3, 19)


def test_invalid_descriptions(cityscapes: Path) -> None:
    path = find_dataset("cityscapes")
    text = path.read_text().replace("max_gap_frames = 1", 'max_gap_frames = 1\nframe_numbers = "order"')
    (cityscapes / "dataset.toml").write_text(text)
    with pytest.raises(UserError, match="frame_numbers = 'order' needs clip_images to be the folder of images"):
        DataSource(cityscapes).open("val")
    (cityscapes / "dataset.toml").unlink()
    source = DataSource(cityscapes, path, high_resolution=cityscapes)
    with pytest.raises(UserError, match="a higher resolution cannot complete the clips of cityscapes, see clip_images"):
        source.open("val", high_resolution_share=0.5)
    image = cityscapes / "leftImg8bit_sequence/val/frankfurt/frankfurt_000001_000020_leftImg8bit.png"
    write(image, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UserError, match="differ in size"):
        open_split(cityscapes, "val")[ClipRequest(0, offset=0, length=2, seed=0)]
