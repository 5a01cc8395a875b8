"""Pseudo labels: teachers label the frames of unlabeled videos once, to disk, as an ordinary dataset."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain, tee
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ccnet3d.config import parse_json
from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import Augmentation, DataSource, LabelledSequences
from ccnet3d.errors import UserError
from ccnet3d.files import remove_unfinished, write_atomically
from ccnet3d.inference import STDIN, Job, Selection, VideoSegmenter, plan_jobs, resize_frame
from ccnet3d.journal import lock_folder
from ccnet3d.masks import encode_mask, encode_png
from ccnet3d.models import ModelInfo, fingerprint, load_model
from ccnet3d.progress import progress_bar
from ccnet3d.training.recipe import UnlabelledRecipe
from ccnet3d.video import VideoFrame, images_in_folder, is_pipe, open_video

__all__ = ["PSEUDO_LABELS_NAME", "label_videos", "open_pseudo_labels"]

PSEUDO_LABELS_NAME = "pseudo_labels"

_SETTINGS_NAME = "settings.json"
_DATASET_NAME = "dataset.toml"
_FORMAT = 1


def label_videos(
    recipe: UnlabelledRecipe,
    folder: Path,
    device: torch.device,
    *,
    class_names: Sequence[str] = (),
    held_out: Collection[Path] = (),
) -> None:
    """Label the frames of all sources that are not labeled yet.

    Each source gets a folder in ``folder``: ``settings.json`` with everything that its labels depend on; ``frames`` and
    ``labels``, PNGs named after the frame's index; and, when all are written, ``dataset.toml``. Frames are stored at
    the working size of the first teacher: training then sees a video with the aspect and the resolution at which
    inference sees it, and a large video needs little space. An interrupted run is continued; a complete one with the
    same settings is left unchanged.

    Frames that the decoder reports as damaged are left out; clips never cross the gap.

    Args:
        recipe: the sources, and how they are labeled.
        folder: of the labels of all sources.
        device: where the teachers run, in float32, so that labels do not depend on the device's precision.
        class_names: the classes that the teachers must have; empty for any.
        held_out: resolved paths of images that must not be used, such as those of the val split.

    Raises:
        UserError: a source that is not a video or contains held-out frames, a teacher that is not a model file or has
            other classes, or a folder with other contents; all before anything is written.
        OutputError: the folder cannot be written.
    """
    jobs = _jobs(recipe, folder)
    sources = [_describe_source(job, held_out) for job in jobs]
    teachers = _Teachers(recipe, device)
    if class_names and tuple(class_names) != teachers.info.class_names:
        raise UserError(
            f"the teachers predict {', '.join(teachers.info.class_names)}, the labeled data has "
            f"{', '.join(class_names)}; give teachers of the same classes in the same order"
        )
    settings = [{**source, **teachers.settings(recipe, shape)} for source, shape in sources]
    complete = [_is_complete(job.folder, table) for job, table in zip(jobs, settings, strict=True)]
    for job, table, (_, shape), done in zip(jobs, settings, sources, complete, strict=True):
        if not done:
            _label_video(job, table, teachers, shape, recipe)


def open_pseudo_labels(recipe: UnlabelledRecipe, folder: Path, transform: Augmentation | None) -> LabelledSequences:
    """Open the frames that :func:`label_videos` labeled; each source is a sequence.

    Args:
        recipe: the sources.
        folder: of their labels.
        transform: applied to each requested clip.
    """
    folders = [job.folder for job in _jobs(recipe, folder)]
    parts = [DataSource(one).open("train") for one in folders]
    frames = [
        frame._replace(sequence=one.name) for one, part in zip(folders, parts, strict=True) for frame in part.frames
    ]
    spec = replace(parts[0].spec, name=", ".join(part.spec.name for part in parts))
    return LabelledSequences(spec, sorted(frames), parts[0].layout, transform)


class _Shape(NamedTuple):
    """What a video's working size depends on."""

    frame_size: tuple[int, int]
    """Height and width of its first frame in pixels."""
    pixel_aspect: Fraction
    """Width of a pixel divided by its height."""


class _Teachers:
    """One or several models; the mean of their class probabilities labels a frame."""

    def __init__(self, recipe: UnlabelledRecipe, device: torch.device) -> None:
        loaded = [load_model(name) for name in recipe.teachers]
        self.info: ModelInfo = loaded[0][1]
        for name, (_, info) in zip(recipe.teachers, loaded, strict=True):
            if info.class_names != self.info.class_names:
                raise UserError(
                    f"the teachers {recipe.teachers[0]} and {name} have different classes; "
                    "give teachers of the same classes in the same order"
                )
        self.segmenters = [
            VideoSegmenter(model.to(device), info, smoothing=recipe.smoothing, dtype=torch.float32)
            for model, info in loaded
        ]
        self.batch_size = self.segmenters[0].batch_size
        self.history = max(segmenter.history() for segmenter in self.segmenters)

    def sizes(self, shape: _Shape) -> list[tuple[int, int]]:
        """Return the working size of each teacher; frames and labels are stored at that of the first one."""
        return [segmenter.working_size(*shape) for segmenter in self.segmenters]

    def settings(self, recipe: UnlabelledRecipe, shape: _Shape) -> dict[str, Any]:
        """Return everything but the video itself that its labels depend on, as plain JSON."""
        size = self.sizes(shape)[0]
        return {
            "teachers": [
                [fingerprint(segmenter.model), segmenter.clip_length, list(segmenter.input_size)]
                for segmenter in self.segmenters
            ],
            "smoothing": recipe.smoothing,
            "threshold": recipe.threshold,
            "frame_stride": recipe.frame_stride,
            # Earlier versions had the teacher's own size for every video, and their labels of that size are the same.
            **({} if size == self.info.input_size else {"size": list(size)}),
        }

    def predict(
        self, images: Iterable[np.ndarray], shape: _Shape, first_index: int, emit_from: int
    ) -> Iterator[Tensor]:
        """Yield the class probabilities of each frame, float32 ``[K, height, width]`` at the stored size.

        For the arguments see :meth:`VideoSegmenter.predict`.
        """
        shared, sizes = tee(images, len(self.segmenters)), self.sizes(shape)
        streams = [
            segmenter.predict(frames, working_size=size, first_index=first_index, emit_from=emit_from)
            for segmenter, frames, size in zip(self.segmenters, shared, sizes, strict=True)
        ]
        for predictions in zip(*streams, strict=True):
            logits = [F.interpolate(one.logits[None], size=sizes[0], mode="bilinear")[0] for one in predictions]
            yield torch.stack([one.softmax(0) for one in logits]).mean(0)


def _jobs(recipe: UnlabelledRecipe, folder: Path) -> list[Job]:
    if not recipe.sources:
        raise UserError(
            "the recipe trains on unlabeled videos but names none; give them with --unlabelled VIDEO, or in "
            "data.unlabelled.sources"
        )
    return plan_jobs(recipe.sources, folder, nested=True)


def _describe_source(job: Job, held_out: Collection[Path]) -> tuple[dict[str, Any], _Shape]:
    """Return what identifies the contents of a source, and its shape, after decoding its first frame.

    Raises:
        UserError: it is not a video, or contains a held-out frame.
    """
    if isinstance(job.source, Path) and is_pipe(job.source):
        raise UserError(f"{job.name} is a pipe, which can be read only once; give a video file or a folder of frames")
    if not isinstance(job.source, Path):
        kind = "standard input, which can be read only once," if job.source == STDIN else f"the pattern {job.name}"
        raise UserError(f"{kind} cannot be labeled; give a video file or a folder of frames")
    with open_video(job.source) as reader:
        height, width = next(iter(reader)).image.shape[:2]
        shape = _Shape((height, width), reader.info.pixel_aspect)
    files = images_in_folder(job.source) if job.source.is_dir() else [job.source]
    for path in files:
        if path.resolve() in held_out:
            raise UserError(f"{path} is a frame of the validation split, which must not be trained on")
    digest = hashlib.sha256()
    try:
        for path in files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return {"format": _FORMAT, "source": job.source.name, "source_sha256": digest.hexdigest()}, shape


def _is_complete(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Return whether a folder has all labels of these settings; if not, it is absent, empty or was interrupted.

    Raises:
        UserError: it has other contents, or labels of other settings.
    """
    try:
        earlier = parse_json((folder / _SETTINGS_NAME).read_bytes())
    except FileNotFoundError:
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(
                f"{folder} contains other files than pseudo labels; move them, or give another --out"
            ) from None
        return False
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {folder / _SETTINGS_NAME}: {error}; remove {folder}") from error
    differing = [key for key in settings if earlier.get(key) != settings[key]]
    if differing:
        raise UserError(
            f"the pseudo labels in {folder} were made with other settings: {', '.join(differing)} differ; "
            "remove that folder to label the video again, or give another --out"
        )
    return (folder / _DATASET_NAME).is_file()


def _label_video(
    job: Job, settings: Mapping[str, Any], teachers: _Teachers, shape: _Shape, recipe: UnlabelledRecipe
) -> None:
    """Write the frames and labels of one video that are missing, then its ``dataset.toml``."""
    folder = job.folder
    with (
        lock_folder(folder),
        open_video(job.source) as reader,
        progress_bar(desc=f"labeling {folder.name}", unit="frame") as bar,
    ):
        selected = Selection(stride=recipe.frame_stride).select(reader)
        frames = (frame for frame in selected if not frame.damaged)
        first = next(frames, None)
        if first is None:
            raise UserError(f"every frame of {job.name} is damaged; leave it out")
        write_atomically(folder / _SETTINGS_NAME, (json.dumps(settings, indent=1) + "\n").encode())
        for part in (folder, folder / "frames", folder / "labels"):
            remove_unfinished(part)
        for index, image, label in _labels(chain([first], frames), folder, teachers, shape, recipe.threshold):
            # The label last: with it the frame counts as done.
            write_atomically(_frame_path(folder, index), encode_png(Image.fromarray(image)))
            write_atomically(_label_path(folder, index), encode_mask(label, teachers.info.palette))
            bar.update()
        for warning in reader.info.warnings:
            tqdm.write(f"{job.name}: {warning}")
        write_atomically(
            folder / _DATASET_NAME, _dataset_toml(folder.name, teachers.info, recipe.frame_stride).encode()
        )


def _labels(
    frames: Iterator[VideoFrame], folder: Path, teachers: _Teachers, shape: _Shape, threshold: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the index, image and label of each frame from the first one that is not in ``folder``."""
    context: deque[np.ndarray] = deque(maxlen=teachers.history + teachers.batch_size - 1)
    waiting: deque[VideoFrame] = deque()

    def images() -> Iterator[np.ndarray]:
        for frame in chain([pending], frames):
            waiting.append(frame)
            yield frame.image

    done = 0
    for pending in frames:
        if not (_label_path(folder, pending.index).is_file() and _frame_path(folder, pending.index).is_file()):
            break
        context.append(pending.image)
        done += 1
    else:
        return
    while (done - len(context)) % teachers.batch_size:
        context.popleft()
    for probabilities in teachers.predict(chain(context, images()), shape, done - len(context), done):
        frame = waiting.popleft()
        largest, label = probabilities.max(0)
        label[largest < threshold] = IGNORE_INDEX
        image = resize_frame(torch.from_numpy(frame.image).permute(2, 0, 1), teachers.sizes(shape)[0])
        yield frame.index, image.permute(1, 2, 0).contiguous().numpy(), label.to(torch.uint8).cpu().numpy()


def _frame_path(folder: Path, index: int) -> Path:
    return folder / "frames" / f"{index:06d}.png"


def _label_path(folder: Path, index: int) -> Path:
    return folder / "labels" / f"{index:06d}.png"


def _dataset_toml(name: str, info: ModelInfo, frame_stride: int) -> str:
    classes = zip(info.class_names, info.palette, strict=True)
    return "\n".join(
        [
            f"name = {_toml_string(f'{name} (pseudo-labeled)')}",
            'description = "The labels are predictions of trained models, not annotations."',
            "classes = [",
            *(f"    {{ name = {_toml_string(class_)}, color = {list(color)} }}," for class_, color in classes),
            "]",
            'splits = { train = ["."] }',
            f"max_gap_frames = {frame_stride}",
            "",
        ]
    )


def _toml_string(text: str) -> str:
    """Return a TOML string; characters that TOML or UTF-8 cannot represent, as a file name may have, become ``?``."""
    return json.dumps("".join(c if c.isprintable() else "?" for c in text), ensure_ascii=False)
