"""Draw what one pixel of a video attends to after 1 to R loops of criss-cross attention."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import (
    add_debug_option,
    add_device_options,
    choose_device,
    non_negative,
    positive,
    run_command,
)
from ccnet3d.cli.paths import expand_home, model_name, png_file
from ccnet3d.cli.views import add_size_options, keeps_aspect
from ccnet3d.wording import count_of

PROGRAM = "ccnet3d-attention"


def point(text: str) -> tuple[int, int]:
    """Parse ``X,Y``."""
    x, _, y = text.partition(",")
    if not (x.isdecimal() and y.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected X,Y in pixels from the upper left, such as 240,180, got {text!r}")
    return int(x), int(y)


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_argument(
        "video", type=expand_home, help="a video, a folder of images or a pattern such as 'frames/*.png'"
    )
    parser.add_argument("--point", type=point, required=True, metavar="X,Y", help="the pixel, from the upper left")
    parser.add_argument(
        "--frame", type=non_negative, required=True, metavar="N", help="index of the pixel's frame, from 0"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=png_file,
        default=Path("attention.png"),
        metavar="FILE.png",
        help="the picture (default: attention.png)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing picture")
    parser.add_argument("--loops", type=positive, default=3, metavar="R", help="draw 1 to R loops (default: 3)")
    parser.add_argument(
        "--checkpoint",
        type=model_name,
        metavar="FILE",
        help="model file, the name of weights in the package, or hf://ORG/NAME; the default weights if not given",
    )
    parser.add_argument("--clip-length", type=positive, metavar="T", help="frames per clip (default: the model's)")
    add_size_options(parser)
    add_device_options(parser)
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.models import load_model
    from ccnet3d.reports import check_picture, check_plotting, compute_attention_map, draw_attention_map
    from ccnet3d.video import open_video

    check_plotting()
    output = arguments.output
    check_picture(output, overwrite=arguments.overwrite)
    model, info = load_model(arguments.checkpoint)
    with open_video(arguments.video) as reader:
        attention_map = compute_attention_map(
            model.to(choose_device(arguments)),
            reader,
            arguments.frame,
            arguments.point,
            clip_length=arguments.clip_length or info.clip_length,
            input_size=arguments.input_size or info.input_size,
            keep_aspect=keeps_aspect(arguments),
            loops=arguments.loops,
        )
        name = reader.info.name
    x, y = arguments.point
    title = f"{name}: what pixel {x},{y} of frame {arguments.frame} attends to after R loops"
    draw_attention_map(attention_map, output, title)
    for count, heat in enumerate(attention_map.influence, 1):
        own = heat[attention_map.position[0]].sum()
        heaviest = heat.flatten().sort(descending=True).values.cumsum(0)
        cells = int((heaviest < 0.9).sum()) + 1
        print(
            f"R = {count}: {own:.1%} of the weight in the pixel's frame, "
            f"90% in {cells} of {count_of(heat.numel(), 'cell')}"
        )
    print(f"wrote {output}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
