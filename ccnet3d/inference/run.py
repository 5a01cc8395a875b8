"""A video in, a folder of masks out: decode, compute and encode side by side, resumable."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ccnet3d
from ccnet3d.errors import UserError
from ccnet3d.files import remove_unfinished
from ccnet3d.inference.options import RunOptions
from ccnet3d.inference.record import Answer, Record
from ccnet3d.inference.segmenter import VideoSegmenter
from ccnet3d.inference.stages import Sink, run_ahead
from ccnet3d.masks import RunFolder, check_settings, formats
from ccnet3d.models import fingerprint
from ccnet3d.video import VideoFrame, VideoReader, VideoWriter

_WAITING_FRAMES = 8
"""Frames that may wait between two stages."""


def segment_video(
    reader: VideoReader,
    segmenter: VideoSegmenter,
    folder: Path,
    options: RunOptions = RunOptions(),  # noqa: B008 - it is frozen
    *,
    on_frame: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Segment a video into a folder: one mask for each selected frame, and ``summary.json`` when all are there.

    Args:
        reader: the open video.
        segmenter: gives the masks.
        folder: where they go; made at need.
        options: see there.
        on_frame: told of each frame that is done, in order, in the thread that writes: ``frame`` (its number),
            ``pts_seconds`` and ``class_pixels`` (by name).

    Returns:
        The summary, as written.

    Raises:
        ValueError: a video that cannot be decoded, or an output that cannot be used.
        OSError: the masks cannot be written; those that are there are whole, and the run can be resumed.
    """
    run = RunFolder(folder, formats.FILE_NAMES[options.format])
    info = segmenter.info
    shown = _shown_classes(info.class_names, options.class_names)
    settings = _settings(reader, segmenter, options)
    if options.resume and (summary := run.read_summary()) is not None:
        check_settings(folder, summary.get("settings", {}), settings)
        if options.overlay and not options.overlay.exists():
            raise UserError(f"the run in {folder} is complete, but {options.overlay} is not there; give --overwrite")
        run.remove_work()
        return summary
    frames = run_ahead(options.selection(reader), _WAITING_FRAMES)
    with closing(frames), ExitStack() as stack:
        first = next(frames)  # a video without a frame raises here, before anything is written
        journal = {**settings, "overlay_file": str(options.overlay.absolute()) if options.overlay else None}
        writer = None
        if options.overlay:
            again = options.overwrite or (options.resume and run.is_begun())
            _check_overlay(options.overlay, reader, overwrite=again)
            writer = VideoWriter(options.overlay, reader.info.frames_per_second)
            remove_unfinished(options.overlay.parent, options.overlay.name)
            stack.enter_context(writer)
        saved = run.begin(journal, resume=options.resume, overwrite=options.overwrite)
        record = Record(run, segmenter.info, shown, options, writer, on_frame)
        with Sink(record.add, _WAITING_FRAMES) as sink:
            for answer in _answers(chain([first], frames), segmenter, options, shown, run.masks, saved):
                sink.put(answer)
    record.pack(reader.info.frames_per_second)
    summary = {
        "video": reader.info.name,
        "format": options.format,
        **record.table(),
        "frames_per_second": reader.info.frames_per_second,
        "model": {"dataset": info.dataset, "backbone": info.model.backbone, "loops": info.model.loops},
        "settings": settings,
        "versions": {"ccnet3d": ccnet3d.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "warnings": list(reader.info.warnings),
    }
    run.complete(summary)
    return summary


def _settings(reader: VideoReader, segmenter: VideoSegmenter, options: RunOptions) -> dict[str, Any]:
    path = reader.info.path
    selection = options.selection
    return {
        "video": reader.info.name,
        "video_bytes": path.stat().st_size if path and path.is_file() else None,
        "decoder": reader.info.decoder,
        "frames": {"start": selection.start, "end": selection.end, "stride": selection.stride},
        "format": options.format,
        "classes": list(options.class_names),
        "probabilities": options.save_probabilities,
        "overlay": {"opacity": options.opacity} if options.overlay else None,
        "weights_sha256": fingerprint(segmenter.model),
        "clip_length": segmenter.clip_length,
        "clip_stride": segmenter.clip_stride,
        "causal": segmenter.causal,
        "smoothing": segmenter.smoothing,
        "input_size": list(segmenter.input_size),
        "dtype": str(segmenter.dtype).removeprefix("torch."),
        "device": segmenter.device.type,
    }


def _shown_classes(class_names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """uint8 ``[256]``: each class id as masks have it.

    Raises:
        ValueError: a name that is no class.
    """
    by_name = {name.lower(): i for i, name in enumerate(class_names)}
    if unknown := [name for name in wanted if name.lower() not in by_name]:
        raise UserError(f"the model has no class {unknown[0]!r}; it has {', '.join(class_names)}")
    table = np.full(256, formats.OTHER, np.uint8)
    ids = [by_name[name.lower()] for name in wanted] or list(by_name.values())
    table[ids] = ids
    return table


def _check_overlay(overlay: Path, reader: VideoReader, *, overwrite: bool) -> None:
    video = reader.info.path
    if video and overlay.exists() and video.exists() and overlay.samefile(video):
        raise UserError(f"the overlay {overlay} would replace the video itself; give it another name")
    if overlay.exists() and not overwrite:
        raise UserError(f"{overlay} exists; give the overlay another name, or --overwrite to replace it")


def _answers(
    frames: Iterable[VideoFrame],
    segmenter: VideoSegmenter,
    options: RunOptions,
    shown: np.ndarray,
    masks: Path,
    saved: Sequence[int],
) -> Iterator[Answer]:
    """The mask of every frame: read back where the run was before it was interrupted, computed from there on."""
    begin = max(0, len(saved) - segmenter.history)
    begin -= begin % segmenter.batch_size
    source = iter(frames)
    context: list[np.ndarray] = []
    for place, number in enumerate(saved):
        frame = next(source, None)
        if frame is None or frame.index != number:
            raise UserError(
                f"{masks} holds the mask of frame {number} where the video has "
                f"{'no frame' if frame is None else f'frame {frame.index}'}, so the run cannot go on; give --overwrite"
            )
        if place >= begin:
            context.append(frame.image)
        yield Answer(frame, formats.decode_mask(formats.mask_path(masks, number)), None, saved=True)
    waiting: deque[VideoFrame] = deque()

    def images() -> Iterator[np.ndarray]:
        for frame in source:
            waiting.append(frame)
            yield frame.image

    for prediction in segmenter.predict(chain(context, images()), first=begin, answer_from=len(saved)):
        probabilities = prediction.probabilities() if options.save_probabilities else None
        yield Answer(waiting.popleft(), shown[prediction.mask()], probabilities, saved=False)
