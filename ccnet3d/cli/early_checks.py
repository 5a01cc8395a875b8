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
    """Check classes and that all files are there; of a single video also its outputs, and that it can be read.

    What only the model or the frames can show is checked later, and so is everything that may change until then.

    Raises:
        UserError: one of them cannot be used. Other errors of one of several videos are left to its own run.
    """
    check_classes(arguments.checkpoint, class_names(arguments))
    if not arguments.manifest:  # which names the videos that cannot be read
        check_existence(jobs)
    if len(jobs) != 1:
        return
    (job,) = jobs
    if not arguments.manifest:
        check_source(job, arguments)
    if job.prefix:  # a remote output folder
        return
    if job.overlay:
        check_overlay(job.overlay)
    beside = [path for path in (job.overlay, job.alpha, job.shares) if path]
    for path in beside:
        check_beside(path, job.source)
    check_output(job.folder, beside, arguments)


def check_existence(jobs: Sequence[Job]) -> None:
    """Check that there are files of the names that the user gives.

    Raises:
        UserError: there are none; the message lists them all.
    """
    from ccnet3d.inference import STDIN
    from ccnet3d.video import is_address

    local = [job for job in jobs if job.source != STDIN and "://" not in str(job.source) and not is_address(job.source)]
    # A pattern whose files have been found is a text.
    missing = [job.name for job in local if isinstance(job.source, Path) and not os.path.lexists(job.source)]
    if missing:
        raise UserError(f"there is no file {', '.join(missing)}; give the path of a video or of a folder of images")


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
    from ccnet3d.video import is_address, is_pipe, open_video

    once = job.source == STDIN or is_remote(str(job.source)) or is_address(job.source) or is_pipe(Path(job.source))
    if not once:
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


def check_overlay(overlay: Path) -> None:
    """Check the name of the overlay.

    Raises:
        UserError: it does not end in .mp4.
    """
    from ccnet3d.video import VideoWriter

    VideoWriter(overlay, None)  # opens nothing yet


def check_beside(path: Path, video: Path | str) -> None:
    """Check that a file that is written beside the masks is not the video.

    Raises:
        UserError: it is.
    """
    source = Path(video)
    if source.exists() and path.exists() and path.samefile(source):
        raise UserError(f"{path} would replace the video itself; give it another name")
