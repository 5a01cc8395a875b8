"""``ccnet3d-infer --sample``: a first run without a video, and what to do after it."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ccnet3d.cli.early_checks import check_output
from ccnet3d.errors import UserError

OVERLAY_NAME, PAGE_NAME = "overlay.mp4", "view.html"
"""Files in the output folder that ``--sample`` writes beside the masks."""


@contextmanager
def sample_input(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the drawn clip, in a temporary folder; set the overlay if the options name none.

    Raises:
        UserError: there is no temporary folder, or a file of the user where the page would be.
    """
    from ccnet3d.journal import check_files
    from ccnet3d.video import write_sample_video

    if not isinstance(arguments.output, Path):
        raise UserError(f"--sample needs a local output folder, got {arguments.output}")
    arguments.overlay = arguments.overlay or arguments.output / OVERLAY_NAME
    check_output(arguments.output, [arguments.overlay], arguments)  # before the clip is drawn
    check_files(arguments.output, [PAGE_NAME])
    try:
        folder = tempfile.TemporaryDirectory()
    except OSError as error:
        raise UserError(f"--sample needs a temporary folder ({error.strerror}); name one in TMPDIR") from error
    with folder as name:
        path = Path(name) / "sample.mp4"
        write_sample_video(path)
        yield str(path)


def write_sample_page(arguments: argparse.Namespace, video: str) -> str:
    """Write the page of ``ccnet3d-view`` next to the masks and return what to do next, in a few lines."""
    from ccnet3d.journal import claimed_folder
    from ccnet3d.masks import open_masks
    from ccnet3d.reports import write_video_page
    from ccnet3d.video import open_video

    page = arguments.output / PAGE_NAME
    with claimed_folder(arguments.output, [PAGE_NAME]), closing(open_video(video)) as reader:
        write_video_page(open_masks(arguments.output), reader, page, title="A drawn street", overwrite=True)
    return (
        f"the overlay is {arguments.overlay}\n"
        "next:\n"
        f"  open {page} in a browser: masks over the frames, classes, flicker over time\n"
        "  ccnet3d-infer YOUR-VIDEO.mp4 -o my-masks/ --overlay my-overlay.mp4\n"
        "  ccnet3d-infer --help"
    )
