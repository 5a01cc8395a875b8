"""``ccnet3d-infer``: a video in, one mask per frame out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from ccnet3d import __version__
from ccnet3d.cli.options import add_model_options, load_segmenter, run_command


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccnet3d-infer", description="Segment a video: one palette PNG per frame, and summary.json."
    )
    parser.add_argument("video", nargs="?", type=Path, help="the video file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the masks")
    parser.add_argument(
        "--sample",
        action="store_true",
        help="instead of a video, segment a small synthetic clip (drawn, no real scene)",
    )
    parser.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="also write the video with the masks over it")
    parser.add_argument("--overwrite", action="store_true", help="replace the masks of an earlier run")
    parser.add_argument("--decoder", choices=("auto", "av", "decord"), default="auto", help="auto is av (PyAV)")
    add_model_options(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar and no closing line")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


@contextmanager
def chosen_video(arguments: argparse.Namespace) -> Iterator[Path]:
    """The user's video, or the synthetic clip in a temporary folder."""
    if arguments.video is not None:
        yield arguments.video
        return
    from ccnet3d.video.sample import write_sample_video

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic_sample.mp4"
        write_sample_video(path)
        yield path


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ccnet3d.inference import write_masks
    from ccnet3d.video import VideoFrame, open_video

    if (arguments.video is None) != arguments.sample:
        raise ValueError("give a video file, or --sample for a synthetic clip (and not both)")

    def progress(frames: Iterable[VideoFrame]) -> Iterable[VideoFrame]:
        hidden = True if arguments.quiet else None  # None: on a terminal only
        return tqdm(frames, total=reader.info.expected_frames, unit="frame", disable=hidden)

    with chosen_video(arguments) as path, closing(open_video(path, arguments.decoder)) as reader:
        segmenter = load_segmenter(arguments)
        summary = write_masks(
            reader,
            segmenter,
            arguments.output,
            overlay=arguments.overlay,
            overwrite=arguments.overwrite,
            progress=progress,
        )
    for warning in summary["warnings"]:
        print(f"ccnet3d-infer: warning: {warning}", file=sys.stderr)
    if not arguments.quiet:
        what = f"{summary['frames']} masks of {summary['width']}x{summary['height']} in {arguments.output}"
        print(f"{what}{' from a synthetic clip' if arguments.sample else ''}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one line on stderr where the input is at fault."""
    arguments = build_parser().parse_args(argv)
    return run_command("ccnet3d-infer", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
