"""Train variants of a recipe with several seeds and compare them in a table; the same command resumes."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.data_options import add_data_options, data_source
from ccnet3d.cli.options import add_debug_option, add_device_options, choose_device, run_command
from ccnet3d.cli.paths import user_path
from ccnet3d.errors import UserError
from ccnet3d.resources import ablation_file
from ccnet3d.wording import count_of

PROGRAM = "ccnet3d-ablate"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description=__doc__)
    parser.add_argument(
        "ablation",
        metavar="ABLATION",
        help="what to compare: a TOML file, or the name of an ablation that comes with the package, such as "
        "clip_length_short",
    )
    add_data_options(parser, training=True)
    parser.add_argument(
        "--out",
        type=user_path,
        metavar="FOLDER",
        help="folder of the runs and the table; runs/ablations/NAME-OF-THE-FILE by default",
    )
    parser.add_argument("--plot", action="store_true", help="also draw plot.png; needs matplotlib")
    add_device_options(parser)
    add_debug_option(parser)
    return parser


def run(arguments: argparse.Namespace) -> None:
    if arguments.plot and find_spec("matplotlib") is None:
        raise UserError("--plot needs matplotlib; pip install 'ccnet3d[plot]'")
    source = data_source(arguments)

    import torch

    from ccnet3d.ablation import (
        check_ablation_folder,
        describe_machine,
        read_ablation,
        run_ablation,
        summarize_variants,
        write_ablation_report,
    )

    device = torch.device(choose_device(arguments, training=True))
    path = ablation_file(arguments.ablation)
    config, runs = read_ablation(path)
    if arguments.high_resolution and not any(run.recipe.data.high_resolution_share for run in runs):
        raise UserError("--high-resolution is for recipes that draw clips from larger frames; leave it out")
    out = arguments.out or Path("runs") / "ablations" / path.stem
    check_ablation_folder(out, plot=arguments.plot)
    print(
        f"{count_of(len(runs), 'run')} of {count_of(len(config.variants), 'variant')} on {device}; writing to {out}",
        flush=True,
    )
    results, costs = run_ablation(config, runs, source, out, device, lambda line: print(line, flush=True))
    header = {
        "ablation": path.stem,
        "split": runs[0].recipe.val_split,
        "command": shlex.join(sys.argv),
        "date": time.strftime("%Y-%m-%d"),
        "trained on": "; ".join(dict.fromkeys(result.machine for result in results)),
        "timed on": describe_machine(device) if costs else "nothing: no seed has trained all variants",
    }
    rows = summarize_variants(config, results, costs)
    table = write_ablation_report(out, config, rows, header, absolute_cost=device.type == "cuda", plot=arguments.plot)
    print(f"\n{table}\nwrote {out / 'table.md'}, table.csv and table.json{', plot.png' if arguments.plot else ''}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), "the same command resumes", debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
