#!/usr/bin/env python3
"""Measure how long commands take to start: to their help, and to the first mask of a video.

The machine should be otherwise idle. The starts of a round follow one another, and ratios are between medians; the
yardsticks are an empty program and the import of PyTorch. PYTHONPATH chooses the version of ccnet3d that is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

from ccnet3d.cli.options import positive, run_command
from ccnet3d.files import write_atomically
from ccnet3d.video import VideoWriter, draw_sample_frame

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = tuple(entry.partition(":")[0].rpartition(".")[2] for entry in SCRIPTS.values())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how long commands take to start.")
    parser.add_argument("--video", type=Path, help="the video whose first frame is segmented; a drawn one by default")
    parser.add_argument("--rounds", type=positive, default=7, help="starts of each command (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements to this file")
    return parser.parse_args()


def start_seconds(arguments: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def measure(programs: dict[str, list[str]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each program; one round more warms the caches of files."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, arguments in programs.items():
            spent = start_seconds(arguments)
            if number:
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def run(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        video = arguments.video or Path(name, "drawn.mp4")
        if not arguments.video:
            with VideoWriter(video, 10) as writer:
                for index in range(5):
                    writer.write(draw_sample_frame(index), index / 10)
        masks = ["-o", str(Path(name, "masks")), "--overwrite", "--end", "1", "-q"]
        seconds = measure(
            {
                "empty program": ["-c", ""],
                "import torch": ["-c", "import torch"],
                "first mask": ["-m", "ccnet3d.cli.infer", str(video), *masks],
                **{f"{command} --help": ["-m", f"ccnet3d.cli.{command}", "--help"] for command in COMMANDS},
            },
            arguments.rounds,
        )
    figures: dict[str, Any] = {
        "seconds": seconds,
        "first mask / import torch": seconds["first mask"] / seconds["import torch"],
        "slowest --help": max(value for name, value in seconds.items() if name.endswith("--help")),
    }
    print(json.dumps(figures, indent=1))
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("bench_startup.py", lambda: run(chosen)))
