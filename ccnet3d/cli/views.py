"""Options for how the model looks at frames: at which size, at several sizes, mirrored, in windows."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.inference import StreamingSegmenter, TestTimeAugmentation

__all__ = ["add_size_options", "add_view_options", "add_views", "check_views", "input_size", "keeps_aspect", "numbers"]


def input_size(text: str) -> tuple[int, int]:
    """Parse ``HEIGHTxWIDTH``."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 360x480, got {text!r}")
    return int(height), int(width)


def numbers(text: str) -> list[float]:
    """Parse comma-separated numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.75,1,1.25, got {text!r}") from None


def add_size_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for the size to which frames are resized."""
    parser.add_argument(
        "--input-size",
        type=input_size,
        metavar="HxW",
        help="resize frames to exactly this size; by default to the model's own, with the aspect of the video",
    )
    parser.add_argument(
        "--aspect",
        choices=("keep", "stretch"),
        help="keep: the size of the same area with the aspect of the video, in steps of 32 pixels (default without "
        "--input-size); stretch: the size itself, whatever the aspect of the video (default with --input-size)",
    )


def keeps_aspect(arguments: argparse.Namespace) -> bool:
    """Return whether frames are resized to a size of their own aspect."""
    return (arguments.aspect or ("stretch" if arguments.input_size else "keep")) == "keep"


def add_view_options(parser: argparse._ActionsContainer) -> None:
    """Add the options for several views of each frame."""
    parser.add_argument(
        "--scales", type=numbers, metavar="S,...", help="average over scales, such as 0.75,1,1.25; each takes its time"
    )
    parser.add_argument("--flip", action="store_true", help="average with the mirrored frame; takes twice the time")
    parser.add_argument(
        "--window",
        type=input_size,
        metavar="HxW",
        help="segment windows of this size, cut from the frame at its own size; for frames much larger than the "
        "working size",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="minimum overlap of neighboring windows, as a share (default: 1/3)",
    )


def check_views(arguments: argparse.Namespace) -> None:
    """Check the options that contradict each other, before a model is loaded.

    Raises:
        UserError: they do.
    """
    if arguments.window and (arguments.input_size or arguments.aspect):
        name = "input-size" if arguments.input_size else "aspect"
        raise UserError(
            f"--{name} is for whole frames, and --window cuts them at their own size; leave one of them out"
        )
    if arguments.overlap is not None and not arguments.window:
        raise UserError("--overlap is for the windows of --window; add --window HxW")


def add_views(
    segmenter: StreamingSegmenter, arguments: argparse.Namespace
) -> StreamingSegmenter | TestTimeAugmentation:
    """Return the segmenter itself, or one that averages over the views that the options name.

    Raises:
        UserError: a value out of its range.
    """
    if not (arguments.scales or arguments.flip or arguments.window):
        return segmenter
    from ccnet3d.inference import TestTimeAugmentation

    return TestTimeAugmentation(
        segmenter,
        scales=arguments.scales or [1.0],
        flip=arguments.flip,
        window=arguments.window,
        overlap=1 / 3 if arguments.overlap is None else arguments.overlap,
    )
