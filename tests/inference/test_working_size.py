from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MakeVideo, draw_scene

from ccnet3d.cli.infer import main
from ccnet3d.errors import UserError
from ccnet3d.inference import RunOptions, Selection, TestTimeAugmentation, VideoSegmenter, segment_video, working_size
from ccnet3d.inference.pixels import confidence_at_size
from ccnet3d.masks import open_masks
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.video import open_video

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("input_size", [(608, 800), (480, 640), (360, 480)])
def test_frames_of_the_models_aspect_have_its_own_size(input_size: tuple[int, int]) -> None:
    for height, width in ((360, 480), (720, 960), (48, 64), (3, 4)):
        assert working_size((height, width), input_size) == input_size


@pytest.mark.parametrize(
    ("frame_size", "expected"),
    [
        ((375, 1242), (384, 1280)),
        ((1080, 1920), (512, 928)),
        ((1920, 1080), (928, 512)),
        ((4320, 7680), (512, 928)),
        ((7, 7), (704, 704)),
        ((1, 100000), (256, 1984)),
        ((100000, 1), (1984, 256)),
    ],
)
def test_sizes_by_hand(frame_size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert working_size(frame_size, (608, 800)) == expected


def test_area_and_aspect_are_kept() -> None:
    for width in range(200, 2000, 37):
        height, wide = working_size((500, width), (608, 800))
        assert abs(math.log(height * wide / (608 * 800))) < 0.09
        assert abs(math.log(wide / height * 500 / width)) < 0.09
        assert height % 32 == wide % 32 == 0


def test_pixels_that_are_not_square() -> None:
    """PAL at 16:9 is shown as 1024x576."""
    assert working_size((576, 720), (608, 800), 64 / 45) == working_size((576, 1024), (608, 800))


@pytest.fixture
def segmenter(torn_model: CCNet3D, tiny_info: ModelInfo) -> VideoSegmenter:
    return VideoSegmenter(torn_model, tiny_info, dtype=torch.float32)


def scenes(count: int, height: int, width: int) -> list[np.ndarray]:
    return [draw_scene(number, height, width)[0] for number in range(count)]


def test_segmenter_keeps_the_aspect_of_the_first_frame(segmenter: VideoSegmenter) -> None:
    frames = [*scenes(2, 40, 160), *scenes(4, 48, 64)]
    exact = VideoSegmenter(segmenter.model, segmenter.info, dtype=torch.float32, input_size=(32, 80))
    stretched = VideoSegmenter(segmenter.model, segmenter.info, dtype=torch.float32, keep_aspect=False)
    assert segmenter.working_size((40, 160)) == (32, 80)
    masks = list(segmenter.segment(frames))
    assert all(np.array_equal(one, other) for one, other in zip(masks, exact.segment(frames), strict=True))
    assert not all(np.array_equal(one, other) for one, other in zip(masks, stretched.segment(frames), strict=True))
    assert [mask.shape for mask in masks[1:3]] == [(40, 160), (48, 64)]
    later = segmenter.predict(frames[2:], working_size=(32, 80), first_index=2, emit_from=4)
    assert all(np.array_equal(one.mask(), other) for one, other in zip(later, masks[4:], strict=True))


def two_sizes(folder: Path) -> Path:
    from PIL import Image

    folder.mkdir()
    for index, frame in enumerate([*scenes(3, 40, 160), *scenes(5, 48, 64)]):
        Image.fromarray(frame).save(folder / f"{index:03d}.png")
    return folder


def test_parts_of_a_video_are_seen_at_the_size_of_the_whole(segmenter: VideoSegmenter, tmp_path: Path) -> None:
    with open_video(two_sizes(tmp_path / "frames")) as reader:
        summary = segment_video(reader, segmenter, tmp_path / "whole")
        part = segment_video(reader, segmenter, tmp_path / "part", RunOptions(selection=Selection(start=4)))
    assert summary["working_size"] == part["working_size"] == [32, 80]
    assert (summary["width"], summary["height"]) == (160, 40)


def confident(predictions: Iterator, least: float) -> list[np.ndarray]:
    """Return the masks by definition, with the softmax of all resized logits."""
    masks = []
    for prediction in predictions:
        logits = F.interpolate(prediction.logits[None], size=prediction.size, mode="bilinear")[0]
        largest, mask = logits.softmax(0).max(0)
        mask[largest < least] = 255
        masks.append(mask.to(torch.uint8).numpy())
    return masks


@pytest.mark.parametrize("mask_format", ["png", "npz", "ffv1"])
def test_uncertain_pixels_are_left_out(
    segmenter: VideoSegmenter, make_video: MakeVideo, tmp_path: Path, mask_format: str
) -> None:
    with open_video(make_video(frames=4)) as reader:
        options = RunOptions(min_confidence=0.5, format=mask_format)
        summary = segment_video(reader, segmenter, tmp_path / "masks", options)
        expected = np.stack(confident(segmenter.predict(frame.image for frame in reader), 0.5))
    masks = np.stack([mask for _, mask in open_masks(tmp_path / "masks")])
    assert np.mean(masks != expected) < 0.001  # where rounding decides
    assert summary["unassigned_pixel_share"] == np.mean(masks == 255)
    assert 0.02 < np.mean(masks == 255) < 0.98
    total = sum(entry["pixel_share"] for entry in summary["classes"]) + summary["unassigned_pixel_share"]
    assert total == pytest.approx(1)


def test_confidence_of_every_strip() -> None:
    logits = 3 * torch.randn(5, 9, 11, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits[None], size=(150, 90), mode="bilinear")[0].softmax(0).amax(0)
    torch.testing.assert_close(confidence_at_size(logits, (150, 90)), expected)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def interrupt(out: Path, keep: int) -> None:
    """Turn a complete run into one that was interrupted after ``keep`` masks."""
    summary = json.loads((out / "summary.json").read_text())
    header = {"settings": {**summary["settings"], "overlay_file": None}}
    names = [f"{number:06d}.png" for number in range(keep)]
    names += [str(path.relative_to(out)) for path in (out / "probabilities").glob("*.npz")]
    (out / ".ccnet3d-run.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [header, *names]))
    (out / "summary.json").unlink()
    for number in range(keep, summary["frames"]):
        (out / f"{number:06d}.png").unlink()


VIEWS = [
    ["--scales", "0.75,1", "--smooth", "1", "--save-probabilities"],
    ["--flip", "--causal", "--min-confidence", "0.4"],
    ["--window", "32x40", "--classes", "box"],
]


@pytest.mark.parametrize("options", VIEWS, ids=lambda options: options[0])
def test_several_views_from_the_command(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, options: list[str]
) -> None:
    """An interrupted run ends with the bytes of a whole one."""
    common = [str(make_video(frames=9)), "--checkpoint", str(tiny_checkpoint), "-q", *options]
    assert main([*common, "-o", str(tmp_path / "whole")]) == 0
    assert main([*common, "-o", str(tmp_path / "again")]) == 0
    expected = tree(tmp_path / "whole")
    interrupt(tmp_path / "again", 6)
    assert main([*common, "-o", str(tmp_path / "again"), "--resume"]) == 0
    assert tree(tmp_path / "again") == expected
    settings = json.loads(expected["summary.json"])["settings"]
    assert settings["views"]["scales"] == ([0.75, 1] if "--scales" in options else [1])


def test_views_of_a_run_are_those_of_the_class(
    segmenter: VideoSegmenter, make_video: MakeVideo, tmp_path: Path
) -> None:
    views = TestTimeAugmentation(segmenter, scales=[1, 1.5], flip=True)
    with open_video(make_video(frames=4)) as reader:
        segment_video(reader, views, tmp_path / "masks", RunOptions(save_probabilities=True))
        expected = list(views.segment(frame.image for frame in reader))
        predictions = list(views.predict(frame.image for frame in reader))
    assert all(
        np.array_equal(mask, one) for (_, mask), one in zip(open_masks(tmp_path / "masks"), expected, strict=True)
    )
    saved = np.load(tmp_path / "masks" / "probabilities" / "000003.npz")["probabilities"]
    assert saved.shape == (3, 48, 64)
    torch.testing.assert_close(torch.from_numpy(saved / 255), predictions[3].total.double() / 4, atol=0.003, rtol=0)


def test_options_that_contradict_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["--sample", "-o", str(tmp_path / "masks")]
    assert main([*base, "--window", "32x32", "--aspect", "keep"]) == 2
    assert "--aspect is for whole frames, and --window cuts them at their own size" in capsys.readouterr().err
    assert main([*base, "--overlap", "0.5"]) == 2
    assert "--overlap is for the windows of --window; add --window HxW" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"min_confidence must be a probability in \[0, 1\], got 2"):
        RunOptions(min_confidence=2)
