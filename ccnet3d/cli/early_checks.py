"""Checks of ``ccnet3d-infer`` that need no model, before PyTorch is imported, which takes seconds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.inference import Job


def check_jobs(jobs: Sequence[Job], arguments: argparse.Namespace) -> None:
    """Check positions, classes, output folders and overlays; of a single video also that it can be read.

    What only the model or the frames can show is checked later, and so is everything that may change until then.

    Raises:
        UserError: one of them cannot be used. Errors of one of several videos are left to its own run.
    """
    check_classes(arguments.checkpoint, class_names(arguments))
    if len(jobs) != 1:
        return
    (job,) = jobs
    check_source(job, arguments)
    if job.prefix:  # a remote output folder
        return
    if job.overlay:
        check_overlay(job.overlay, job.source)
    check_output(job.folder, [path for path in (job.overlay, job.alpha, job.shares) if path], arguments)


def class_names(arguments: argparse.Namespace) -> list[str]:
    """Return the names that ``--classes`` lists.

    Raises:
        UserError: it lists none.
    """
    names = [name.strip() for name in (arguments.classes or "").split(",") if name.strip()]
    if arguments.classes is not None and not names:
        raise UserError(f"--classes must be names of classes, such as Car,Pedestrian, got {arguments.classes!r}")
    return names


def check_classes(checkpoint: Path | str | None, requested: Sequence[str]) -> None:
    """Check names of classes against the header of the model file, if it is one; otherwise loading it says so.

    Raises:
        UserError: a name that is not a class, or there is no model file.
    """
    from ccnet3d.resources import model_class_names, model_file

    if "://" in str(checkpoint):
        return
    known = model_class_names(model_file(checkpoint))
    lowered = {name.lower() for name in known or ()}
    unknown = [name for name in requested if name.lower() not in lowered]
    if known and unknown:
        raise UserError(f"the model has no class {unknown[0]!r}; it has {', '.join(known)}")


def check_source(job: Job, arguments: argparse.Namespace) -> None:
    """Open a video once, unless it is a stream, which can be read only once.

    Raises:
        VideoError: it cannot be read.
    """
    from ccnet3d.inference import STDIN, is_remote
    from ccnet3d.video import is_pipe, open_video

    if job.source != STDIN and not is_remote(str(job.source)) and not is_pipe(Path(job.source)):
        with closing(open_video(job.source, arguments.decoder, arguments.stream)):
            pass


def check_output(folder: Path, beside: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Check that the run can begin in the output folder.

    Raises:
        UserError: it cannot.
    """
    from ccnet3d.masks import FORMATS, RunFolder

    parent = next((path for path in folder.absolute().parents if os.path.lexists(path)), folder)
    if not folder.exists() and not parent.is_dir():
        raise UserError(f"cannot use the output folder {folder}: {parent} is not a folder; give another one")
    if not folder.exists() and not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot use the output folder {folder}: no permission to write to {parent}")
    run = RunFolder(folder, FORMATS[arguments.format])
    run.check(resume=arguments.resume, overwrite=arguments.overwrite, beside=beside)


def check_overlay(overlay: Path, video: Path | str) -> None:
    """Check the name of the overlay.

    Raises:
        UserError: it does not end in .mp4, or names the video itself.
    """
    from ccnet3d.video import VideoWriter

    VideoWriter(overlay, None)  # opens nothing yet
    source = Path(video)
    if source.exists() and overlay.exists() and overlay.samefile(source):
        raise UserError(f"the overlay {overlay} would replace the video itself; give it another name")
