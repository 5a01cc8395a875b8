"""A video in, a folder of masks out: decode, compute and encode in parallel, resumable."""

from __future__ import annotations

import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ccnet3d
from ccnet3d.errors import UserError
from ccnet3d.inference.pieces import Piece, adopt_pieces
from ccnet3d.inference.prediction import AveragedPrediction, Prediction
from ccnet3d.inference.run_writer import FrameOutput, RunWriter
from ccnet3d.inference.selection import Selection
from ccnet3d.inference.source_files import check_apart, fingerprint_files, image_names
from ccnet3d.inference.stages import Sink, run_ahead
from ccnet3d.inference.streaming import StreamingSegmenter
from ccnet3d.inference.tta import TestTimeAugmentation
from ccnet3d.journal import lock_folder
from ccnet3d.masks import FORMATS, OTHER, PNG, MaskClasses, RunFolder, check_settings, open_beside
from ccnet3d.video import VideoFrame, VideoInfo, VideoReader

__all__ = ["RunOptions", "segment_video"]

_WAITING_FRAMES = 8
"""Most frames that wait between two stages."""
_WAITING_LIVE_FRAMES = 1
"""Of a live source, whose reader keeps the newest ones: what waits here grows old."""


@dataclass(frozen=True)
class RunOptions:
    """What :func:`segment_video` writes, and of which frames.

    Raises:
        UserError: a value out of its range.

    >>> RunOptions(format="npz", class_names=["Car"], selection=Selection(end=100)).format
    'npz'
    """

    selection: Selection = field(default_factory=Selection)
    format: str = "png"
    """One of ``ccnet3d.masks.FORMATS``."""
    class_names: Sequence[str] = ()
    """Classes that masks show; pixels of others become 255. Empty for all."""
    smoothing: int | None = None
    """Instead of the segmenter's own; see :class:`ccnet3d.inference.VideoSegmenter`."""
    save_probabilities: bool = False
    """Also write the classes' probabilities of each frame, at the decoder's stride; those of several views at the
    frame's size."""
    min_confidence: float = 0.0
    """Pixels become 255 if the probability of their class is less than this, in [0, 1]; see
    :meth:`ccnet3d.inference.Prediction.mask`."""
    overlay: Path | None = None
    """An .mp4 file for the video with its masks painted over it."""
    opacity: float = 0.5
    """Share of the class color in it, in [0, 1]."""
    alpha: Path | None = None
    """A .webm or .mov file for the video with only the classes ``class_names`` visible, on transparent ground."""
    shares: Path | None = None
    """A .csv or .parquet file for the share of each class in each frame."""
    resume: bool = False
    """Continue an interrupted run; leave a complete one unchanged."""
    overwrite: bool = False
    """Replace what an earlier run wrote, and nothing else."""
    piece: Piece | None = None
    """Only this part of the selected frames, as PNGs, with the masks that a run of all has there; ``format`` is that of
    the whole run. See :func:`ccnet3d.inference.split_into_pieces`."""
    joined: Sequence[Path] = ()
    """Output folders of all pieces of this run, whose masks are moved instead of predicted."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise UserError(f"unknown format {self.format!r}; choose {', '.join(FORMATS)}")
        if not 0 <= self.min_confidence <= 1:
            raise UserError(f"min_confidence must be a probability in [0, 1], got {self.min_confidence}")
        if not 0 <= self.opacity <= 1:
            raise UserError(f"the opacity must be in [0, 1], got {self.opacity}")
        if self.resume and self.overwrite:
            raise UserError("resume and overwrite exclude each other; give one of them")
        if self.piece and self.overlay:
            raise UserError("a piece has no overlay; it is made when the pieces are joined")


def segment_video(
    reader: VideoReader,
    segmenter: StreamingSegmenter | TestTimeAugmentation,
    folder: Path | str,
    options: RunOptions = RunOptions(),
    *,
    on_frame: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Segment a video into a folder: one mask per selected frame, and ``summary.json`` when all are written.

    Args:
        reader: the open video.
        segmenter: predicts the masks, of one view or of several.
        folder: the output folder; created if missing.
        options: what is written, and of which frames.
        on_frame: called for each frame that is done, in order, in the thread that writes, with a table of ``frame``
            (its index), ``pts_seconds`` and ``class_pixels`` (by name).

    Returns:
        The summary, as written.

    Raises:
        UserError: a video that cannot be decoded, an output folder that cannot be used, is not apart from the images or
            has files of others where masks belong, or not enough memory.
        OutputError: the masks cannot be written; those in the folder are whole, and the run can be resumed.

    >>> from tempfile import TemporaryDirectory
    >>> from ccnet3d.inference import VideoSegmenter
    >>> from ccnet3d.models import load_model
    >>> from ccnet3d.video import open_video, write_sample_video
    >>> segmenter = VideoSegmenter(*load_model(), input_size=(32, 48))
    >>> with TemporaryDirectory() as folder:
    ...     video, masks = Path(folder) / "sample.mp4", Path(folder) / "masks"
    ...     write_sample_video(video, frames=2)
    ...     with open_video(video) as reader:
    ...         summary = segment_video(reader, segmenter, masks)
    ...     sorted(path.name for path in masks.iterdir())
    ['000000.png', '000001.png', 'summary.json']
    >>> summary["frames"], summary["width"], summary["height"]
    (2, 480, 360)
    """
    folder, info = Path(folder), segmenter.info
    smoothing = segmenter.smoothing if options.smoothing is None else options.smoothing
    classes = MaskClasses(info.class_names, info.palette, _class_ids(info.class_names, options.class_names))
    still = reader.info.images[0].stem if reader.info.still else None
    run = RunFolder(folder, PNG if options.piece else FORMATS[options.format], still)
    check_apart(folder, reader.info)
    settings = _settings(reader, segmenter, options, smoothing)
    if options.resume and reader.info.live:
        raise UserError(f"{reader.info.name} is live, so a run cannot be resumed; give another folder or --overwrite")
    if options.resume and (summary := run.read_summary()) is not None:
        check_settings(folder, summary.get("settings", {}), settings)
        for path in (options.overlay, options.alpha, options.shares):
            if path and not path.exists():
                raise UserError(f"the run in {folder} is complete, but {path} is missing; give --overwrite")
        run.finish()
        return summary
    FORMATS[options.format].check(classes)
    FORMATS[options.format].check_images(image_names(reader.info))
    first_size: list[tuple[int, int]] = []
    ahead = _WAITING_LIVE_FRAMES if reader.info.live else _WAITING_FRAMES
    frames = run_ahead(options.selection.select(_noting_size(reader, first_size)), ahead, reader.stop)
    with closing(frames):
        first = next(frames)  # a video without a frame raises here, before anything is written
        size = segmenter.working_size(first_size[0], reader.info.pixel_aspect)
        beside = open_beside(
            classes,
            reader.info,
            overlay=options.overlay,
            opacity=options.opacity,
            alpha=options.alpha,
            shares=options.shares,
        )
        with lock_folder(folder):
            with RunWriter(run, classes, reader.info, on_frame) as writer:
                saved = writer.begin(
                    settings,
                    beside=beside,
                    resume=options.resume,
                    overwrite=options.overwrite,
                    frames=options.selection.indices(reader.info.expected_frames),
                )
                if options.joined:
                    saved = sorted({*saved, *adopt_pieces(run, options.joined)})
                outputs = _outputs(chain([first], frames), segmenter, size, classes, run, saved, smoothing, options)
                with Sink(writer.add, _WAITING_FRAMES) as sink:
                    for output in outputs:
                        sink.put(output)
            return writer.complete(
                {
                    "model": {
                        "dataset": info.dataset,
                        "backbone": info.model.backbone,
                        "context": info.model.context,
                        "loops": info.model.attention_loops,
                    },
                    "working_size": list(size),
                    "settings": settings,
                    "versions": {
                        "ccnet3d": ccnet3d.__version__,
                        "torch": torch.__version__,
                        "python": platform.python_version(),
                    },
                    **_live_facts(reader.info),
                    "warnings": list(reader.info.warnings),
                }
            )


def _live_facts(info: VideoInfo) -> dict[str, Any]:
    if not info.live:
        return {}
    return {"live": {"dropped_frames": info.dropped_frames, "reconnections": info.reconnections}}


def _noting_size(frames: Iterable[VideoFrame], sizes: list[tuple[int, int]]) -> Iterator[VideoFrame]:
    """Yield the frames and append the size of the first one, on which the working size of every part depends."""
    for frame in frames:
        if not sizes:
            sizes.append((frame.image.shape[0], frame.image.shape[1]))
        yield frame


def _class_ids(names: Sequence[str], requested: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of the requested classes, ascending; all without a request.

    Raises:
        UserError: a name that is not a class.
    """
    by_name = {name.lower(): i for i, name in enumerate(names)}
    if unknown := [name for name in requested if name.lower() not in by_name]:
        raise UserError(f"the model has no class {unknown[0]!r}; it has {', '.join(names)}")
    return tuple(sorted({by_name[name.lower()] for name in requested})) or tuple(range(len(names)))


def _settings(
    reader: VideoReader, segmenter: StreamingSegmenter | TestTimeAugmentation, options: RunOptions, smoothing: int
) -> dict[str, Any]:
    path = reader.info.path
    selection = options.selection
    return {
        "video": reader.info.name,
        "video_bytes": path.stat().st_size if path and path.is_file() else None,
        "source": fingerprint_files(reader.info),
        "decoder": reader.info.decoder,
        **({} if reader.info.stream is None else {"stream": reader.info.stream}),
        "frames": {"start": selection.start, "end": selection.end, "stride": selection.stride},
        "format": options.format,
        "classes": list(options.class_names),
        "probabilities": options.save_probabilities,
        "overlay": {"opacity": options.opacity} if options.overlay else None,
        **({"min_confidence": options.min_confidence} if options.min_confidence else {}),
        "alpha": bool(options.alpha) or None,
        "shares": bool(options.shares) or None,
        "smoothing": smoothing,
        **segmenter.settings(),
        **({"piece": list(options.piece)} if options.piece else {}),
    }


def _outputs(
    frames: Iterable[VideoFrame],
    segmenter: StreamingSegmenter | TestTimeAugmentation,
    working_size: tuple[int, int],
    classes: MaskClasses,
    run: RunFolder,
    saved: Sequence[int],
    smoothing: int,
    options: RunOptions,
) -> Iterator[FrameOutput]:
    """Yield the output of every frame: read back up to where an interrupted run stopped, predicted from there on."""
    start, stop = options.piece or (0, None)
    done = start + len(saved)  # positions among the selected frames, as are the segmenter's indices
    first_index = max(0, done - segmenter.history(smoothing))
    first_index -= first_index % segmenter.batch_size
    source = iter(frames)
    context: list[np.ndarray] = []  # frames with a mask, or of earlier pieces, that later predictions depend on
    for position in range(done):
        frame = next(source, None)
        if position >= start and (frame is None or frame.index != saved[position - start]):
            raise UserError(
                f"{run.masks} contains the mask of frame {saved[position - start]} where the video has "
                f"{'no frame' if frame is None else f'frame {frame.index}'}, so the run cannot be resumed; "
                "give --overwrite"
            )
        if frame is None:  # the video ends before the piece
            return
        if position >= first_index:
            context.append(frame.image)
        if position >= start:
            yield FrameOutput(frame, run.read_mask(frame.index), None, saved=True)
    waiting: deque[VideoFrame] = deque()

    def images() -> Iterator[np.ndarray]:
        for frame in source:
            waiting.append(frame)
            yield frame.image

    shown = np.full(256, OTHER, np.uint8)
    shown[list(classes.shown)] = classes.shown
    predictions: Iterator[Prediction | AveragedPrediction] = segmenter.predict(
        chain(context, images()),
        smoothing=smoothing,
        working_size=working_size,
        first_index=first_index,
        emit_from=done,
    )
    for prediction in islice(predictions, None if stop is None else max(0, stop - done)):
        quantized = prediction.probabilities() if options.save_probabilities else None
        yield FrameOutput(waiting.popleft(), shown[prediction.mask(options.min_confidence)], quantized, saved=False)
