"""``ccnet3d-export``: a model in a format that other runtimes read."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import add_debug_option, positive, print_now, run_command, share
from ccnet3d.cli.paths import model_name, user_path
from ccnet3d.cli.views import input_size
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    import numpy as np

PROGRAM = "ccnet3d-export"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=PROGRAM,
        description="Export a model in two parts, one per frame and one per clip, and compare it with PyTorch.",
    )
    parser.add_argument(
        "model",
        type=model_name,
        metavar="MODEL",
        help="model file, the name of weights in the package, default for the default ones, or hf://ORG/NAME",
    )
    parser.add_argument("-o", "--output", type=user_path, required=True, metavar="FOLDER", help="folder for the files")
    parser.add_argument(
        "--to",
        choices=("onnx", "openvino", "torch"),
        default="onnx",
        help="onnx: for ONNX Runtime, OpenVINO, TensorRT and Core ML; openvino: OpenVINO's own format; torch: programs "
        "of torch.export (.pt2), for one size (default: onnx)",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        default="fp32",
        help="of the part per frame; int8 needs --calibrate (default: fp32)",
    )
    parser.add_argument(
        "--calibrate", type=user_path, metavar="VIDEO", help="your own frames for int8: a video or a folder of images"
    )
    parser.add_argument(
        "--calibration-frames",
        type=positive,
        default=64,
        metavar="N",
        help="use N frames of it, evenly spaced (default: 64)",
    )
    parser.add_argument(
        "--check",
        type=user_path,
        metavar="VIDEO",
        help="frames for the comparison with PyTorch: a video or a folder of images (default: --calibrate's, else a "
        "drawn clip)",
    )
    parser.add_argument(
        "--check-frames", type=positive, default=20, metavar="N", help="compare the first N frames (default: 20)"
    )
    parser.add_argument(
        "--min-equal",
        type=share,
        metavar="SHARE",
        help="fail if fewer pixels have the same class as in PyTorch (default: 0.999 for fp32, 0.995 for fp16, 0.95 "
        "for int8)",
    )
    parser.add_argument(
        "--input-size", type=input_size, metavar="HxW", help="working size, multiples of 32; the model's own by default"
    )
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    add_debug_option(parser)
    return parser


def read_frames(path: Path, most: int, *, spread: bool) -> list[np.ndarray]:
    """Return the first frames of a video, or evenly spaced ones."""
    from ccnet3d.video import open_video

    with open_video(path) as reader:
        count = reader.info.expected_frames if spread else None
        step = max(1, (count or most) // most)
        return [frame.image for frame in islice(reader, 0, step * most, step)]


def check_frames(arguments: argparse.Namespace) -> list[np.ndarray]:
    """Return the frames for the comparison."""
    from ccnet3d.video import draw_sample_frame

    source = arguments.check or arguments.calibrate
    if source is None:
        return [draw_sample_frame(index) for index in range(arguments.check_frames)]
    return read_frames(source, arguments.check_frames, spread=False)


def run(arguments: argparse.Namespace) -> None:
    if (arguments.precision == "int8") != (arguments.calibrate is not None):
        raise UserError("int8 needs frames of your own, and only int8: give --precision int8 --calibrate VIDEO")
    from ccnet3d.export import export_model

    calibration: list[np.ndarray] = []
    if arguments.calibrate:
        calibration = read_frames(arguments.calibrate, arguments.calibration_frames, spread=True)
    info = export_model(
        arguments.model,
        arguments.output,
        arguments.to,
        check_frames(arguments),
        precision=arguments.precision,
        calibration=calibration,
        input_size=arguments.input_size,
        min_equal=arguments.min_equal,
    )
    if arguments.json:
        print_now(json.dumps({"output": str(arguments.output), "files": info.files, "parity": info.parity}))
        return
    for runtime, found in info.parity.items():
        print_now(
            f"{runtime}: {100 * found['equal_pixels']:.3f} % of pixels equal PyTorch's in {found['frames']} frames "
            f"(at least {100 * found['least_equal']:.3f} %), logits differ by up to {found['largest_difference']:.2g}"
        )
    print_now(f"{arguments.to}, {arguments.precision}: {', '.join(info.files)} and model.json in {arguments.output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
