"""``ccnet3d-infer``: a video in, one mask per frame out."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ccnet3d import __version__


def input_size(text: str) -> tuple[int, int]:
    """Parse ``HEIGHTxWIDTH``."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH in pixels, such as 360x480, got {text!r}")
    return int(height), int(width)


def positive(text: str) -> int:
    """Parse a count of at least 1."""
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


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
    parser.add_argument("--checkpoint", type=Path, help="model file; the weights in the package by default")
    parser.add_argument("--input-size", type=input_size, metavar="HxW", help="working size; the model's own by default")
    parser.add_argument(
        "--clip-length", type=positive, metavar="T", help="frames in a clip; the model's own by default"
    )
    parser.add_argument("--overlay", type=Path, metavar="FILE.mp4", help="also write the video with the masks over it")
    parser.add_argument("--overwrite", action="store_true", help="replace the masks of an earlier run")
    parser.add_argument("--decoder", choices=("auto", "av", "decord"), default="auto", help="auto is av (PyAV)")
    parser.add_argument("--device", default="auto", help="cpu, cuda, ... or auto")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto",
                        help="auto is bf16 where the device has it natively")  # fmt: skip
    parser.add_argument("--threads", type=positive, help="CPU threads of the model")
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
    import torch
    from tqdm import tqdm

    from ccnet3d.inference import VideoSegmenter, write_masks
    from ccnet3d.models import load_model
    from ccnet3d.video import VideoFrame, VideoInfo, open_video

    if (arguments.video is None) != arguments.sample:
        raise ValueError("give a video file, or --sample for a synthetic clip (and not both)")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    class Progress:
        """A reader that shows how far it is."""

        def __init__(self, path: Path) -> None:
            self.reader = open_video(path, arguments.decoder)
            self.info: VideoInfo = self.reader.info

        def __iter__(self) -> Iterator[VideoFrame]:
            hidden = True if arguments.quiet else None  # None: on a terminal only
            return iter(tqdm(self.reader, total=self.info.expected_frames, unit="frame", disable=hidden))

        def close(self) -> None:
            self.reader.close()

    with chosen_video(arguments) as path:
        reader = Progress(path)
        try:
            model, info = load_model(arguments.checkpoint)
            device = (
                arguments.device if arguments.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
            )
            segmenter = VideoSegmenter(
                model.to(device),
                info,
                clip_length=arguments.clip_length,
                input_size=arguments.input_size,
                precision={"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision],
            )
            summary = write_masks(
                reader, segmenter, arguments.output, overlay=arguments.overlay, overwrite=arguments.overwrite
            )
        finally:
            reader.close()
    for warning in summary["warnings"]:
        print(f"ccnet3d-infer: warning: {warning}", file=sys.stderr)
    if not arguments.quiet:
        what = f"{summary['frames']} masks of {summary['width']}x{summary['height']} in {arguments.output}"
        print(f"{what}{' from a synthetic clip' if arguments.sample else ''}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 with one line on stderr where the input is at fault."""
    arguments = build_parser().parse_args(argv)
    try:
        run(arguments)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"ccnet3d-infer: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
