#!/usr/bin/env python3
"""Segment many videos with a pool of Ray actors, each with its own model: pip install "ccnet3d[ray]".

Every video gets its own folder in the output, as with ``ccnet3d-infer``. Complete videos are skipped and interrupted
ones resume, so run the same command again after a machine was lost.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import ray

from ccnet3d.cli.options import add_debug_option, choose_device, error_line, non_negative, positive, run_command
from ccnet3d.errors import UserError
from ccnet3d.inference import RunOptions, VideoSegmenter, plan_jobs, segment_video
from ccnet3d.models import load_model
from ccnet3d.video import open_video


class SegmentVideos:
    """An actor: one model that segments one video at a time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        model, info = load_model(arguments.checkpoint)
        self.segmenter = VideoSegmenter(model.to(choose_device(arguments)), info)
        self.options = RunOptions(resume=True, smoothing=arguments.smooth)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            with open_video(row["source"]) as reader:
                summary = segment_video(reader, self.segmenter, Path(row["folder"]), self.options)
        except UserError as error:  # one bad video does not stop the others; a bug does
            result = {"frames": 0, "warnings": "[]", "error": error_line(error)}
        else:
            result = {"frames": summary["frames"], "warnings": json.dumps(summary["warnings"]), "error": ""}
        return {**row, **result, "process": os.getpid()}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", help="as for ccnet3d-infer; all machines need access to them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for all masks, on shared storage")
    parser.add_argument("--actors", type=positive, default=2, help="models that run in parallel; 2 by default")
    parser.add_argument("--checkpoint", type=Path, help="model file; the weights in the package by default")
    parser.add_argument("--smooth", type=non_negative, default=0, help="as for ccnet3d-infer; 0 by default")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto; for cuda, Ray reserves a GPU per actor")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads per actor")
    add_debug_option(parser)
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    jobs = plan_jobs(arguments.videos, arguments.output)
    rows = [{"source": str(job.source), "folder": str(job.folder.absolute())} for job in jobs]
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    videos = ray.data.from_items(rows, override_num_blocks=len(rows))  # one task per video
    results = videos.map(
        SegmentVideos,
        fn_constructor_args=(arguments,),
        # One video in flight per actor: by default Ray assigns several to the first actor that is ready.
        compute=ray.data.ActorPoolStrategy(size=min(arguments.actors, len(rows)), max_tasks_in_flight_per_actor=1),
        num_cpus=arguments.threads,
        num_gpus=1 if arguments.device.startswith("cuda") else 0,
    )
    failed = 0
    for row in results.iter_rows():
        failed += bool(row["error"])
        print(json.dumps({**row, "warnings": json.loads(row["warnings"])}), flush=True)
    if failed:
        raise UserError(f"{failed} of {len(rows)} videos failed; their lines contain the errors")


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("infer_with_ray.py", lambda: run(chosen), debug=chosen.debug))
