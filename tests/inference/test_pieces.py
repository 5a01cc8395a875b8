"""Pieces of a video, joined: byte for byte what one run writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MakeVideo

from ccnet3d.errors import UserError
from ccnet3d.inference import (
    RunOptions,
    Selection,
    VideoSegmenter,
    piece_folder,
    remove_pieces,
    segment_video,
    split_into_pieces,
)
from ccnet3d.models import CCNet3D, ModelInfo
from ccnet3d.video import open_video

pytestmark = pytest.mark.usefixtures("one_thread")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def segment_pieces(
    video: Path, segmenter: VideoSegmenter, out: Path, options: RunOptions, piece_frames: int, expected: int
) -> None:
    """Segment the pieces, the last one first, and join them."""
    pieces = split_into_pieces(options.selection, expected, piece_frames)
    folders = [piece_folder(out, piece) for piece in pieces]
    for piece, folder in reversed([*zip(pieces, folders, strict=True)]):
        with open_video(video) as reader:
            segment_video(reader, segmenter, folder, replace(options, piece=piece, overlay=None))
    with open_video(video) as reader:
        segment_video(reader, segmenter, out, replace(options, joined=folders))
    remove_pieces(out)


SETTINGS = [
    # clip length, clip stride, causal, smoothing, piece frames, start, end, frame stride
    (1, 1, False, 0, 4, 0, None, 1),
    (3, 2, False, 0, 5, 0, None, 1),
    (3, 1, False, 1, 7, 0, None, 1),
    (5, 4, False, 1, 6, 0, None, 1),
    (5, 5, False, 2, 3, 0, None, 1),
    (5, 2, False, 0, 1, 0, None, 1),
    (4, 3, True, 0, 5, 0, None, 1),
    (3, 2, True, 2, 4, 0, None, 1),
    (5, 3, False, 1, 5, 3, 18, 1),
    (3, 2, False, 1, 3, 1, None, 2),
    (5, 4, False, 1, 4, 0.45, 1.6, 1),
    (5, 4, False, 1, 50, 0, None, 1),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_joined_pieces_equal_one_run(
    make_video: MakeVideo, torn_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path, setting: tuple
) -> None:
    length, stride, causal, smoothing, piece_frames, start, end, frame_stride = setting
    video = make_video(frames=22)
    segmenter = VideoSegmenter(
        torn_model, tiny_info, clip_length=length, clip_stride=stride, causal=causal, smoothing=smoothing
    )
    options = RunOptions(Selection(start, end, frame_stride), save_probabilities=True)
    with open_video(video) as reader:
        summary = segment_video(reader, segmenter, tmp_path / "whole", options)
    segment_pieces(video, segmenter, tmp_path / "joined", options, piece_frames, 22)
    expected = tree(tmp_path / "whole")
    assert tree(tmp_path / "joined") == expected
    assert len(expected) == 2 * summary["frames"] + 1


@pytest.mark.parametrize("mask_format", ["npz", "ffv1", "cvat", "coco-rle"])
def test_formats_and_overlays_are_made_when_pieces_are_joined(
    make_video: MakeVideo, torn_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path, mask_format: str
) -> None:
    if mask_format == "coco-rle":
        pytest.importorskip("pycocotools")
    video = make_video(frames=10)
    segmenter = VideoSegmenter(torn_model, tiny_info, smoothing=1)
    for name in ("whole", "joined"):
        options = RunOptions(
            format=mask_format, class_names=["box"], overlay=tmp_path / name / "over.mp4", save_probabilities=True
        )
        if name == "joined":
            segment_pieces(video, segmenter, tmp_path / name, options, 4, 10)
        else:
            with open_video(video) as reader:
                segment_video(reader, segmenter, tmp_path / name, options)
    assert tree(tmp_path / "joined") == tree(tmp_path / "whole")


@pytest.mark.parametrize("expected", [3, 9, 40])
def test_a_wrong_number_of_frames_changes_nothing(
    make_video: MakeVideo, torn_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path, expected: int
) -> None:
    """The last piece takes what a file has beyond its header, and pieces beyond its end are empty."""
    video, segmenter = make_video(frames=12), VideoSegmenter(torn_model, tiny_info, smoothing=1)
    with open_video(video) as reader:
        segment_video(reader, segmenter, tmp_path / "whole")
    segment_pieces(video, segmenter, tmp_path / "joined", RunOptions(), 4, expected)
    assert tree(tmp_path / "joined") == tree(tmp_path / "whole")


def test_interrupted_pieces_and_joins_are_resumed(
    make_video: MakeVideo, torn_model: CCNet3D, tiny_info: ModelInfo, tmp_path: Path, monkeypatch
) -> None:
    video, segmenter = make_video(frames=12), VideoSegmenter(torn_model, tiny_info, smoothing=1)
    with open_video(video) as reader:
        segment_video(reader, segmenter, tmp_path / "whole")
    out = tmp_path / "joined"
    pieces = split_into_pieces(Selection(), 12, 5)
    folders = [piece_folder(out, piece) for piece in pieces]

    class InterruptedRunError(Exception):
        pass

    def run(folder: Path, options: RunOptions, stop_after: int = 99) -> None:
        seen = []

        def on_frame(event: dict) -> None:
            seen.append(event)
            if len(seen) == stop_after:
                raise InterruptedRunError

        with open_video(video) as reader:
            segment_video(reader, segmenter, folder, options, on_frame=on_frame)

    for piece, folder in zip(pieces, folders, strict=True):
        options = RunOptions(piece=piece, resume=True)
        with pytest.raises(InterruptedRunError):
            run(folder, options, stop_after=2)
        with pytest.raises(UserError, match="is incomplete; run the command again with --resume"):
            run(out, RunOptions(joined=folders, resume=True))
        run(folder, options)
    import ccnet3d.inference.pieces as module

    move, moved = module._move, []

    def fail_after_seven(*arguments: object) -> None:
        if len(moved) == 7:
            raise InterruptedRunError
        moved.append(move(*arguments))

    monkeypatch.setattr(module, "_move", fail_after_seven)
    with pytest.raises(InterruptedRunError):
        run(out, RunOptions(joined=folders, resume=True))
    monkeypatch.undo()
    with pytest.raises(UserError, match="the run in .* had piece"):
        run(folders[0], RunOptions(piece=(0, 6), resume=True))
    with pytest.raises(InterruptedRunError):
        run(out, RunOptions(joined=folders, resume=True), stop_after=3)
    (folders[0] / "mine.txt").write_text("notes")
    run(out, RunOptions(joined=folders, resume=True))
    remove_pieces(out)
    assert {name: data for name, data in tree(out).items() if "mine" not in name} == tree(tmp_path / "whole")
    assert (folders[0] / "mine.txt").read_text() == "notes"


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1 frame, got 0"):
        split_into_pieces(Selection(), 10, 0)
    with pytest.raises(UserError, match="a piece has no overlay"):
        RunOptions(piece=(0, 5), overlay=Path("over.mp4"))
    (tmp_path / ".pieces").symlink_to(tmp_path)
    with pytest.raises(UserError, match="is not a folder that a run made"):
        piece_folder(tmp_path, (0, 5))
