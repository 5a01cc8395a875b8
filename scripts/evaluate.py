#!/usr/bin/env python3
"""Score a model on labelled sequences: pooled, per-class, per-frame and video mIoU."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ccnet3d.cli.options import add_model_options, load_segmenter, run_command

REPOSITORY = Path(__file__).resolve().parents[1]
CAMVID_SPEC = REPOSITORY / "datasets" / "camvid" / "dataset.toml"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("CCNET3D_CAMVID") or "data/camvid"),
        help="data folder, data/camvid or what CCNET3D_CAMVID names by default; one with a dataset.toml is read as "
        "that says, any other as CamVid",
    )
    parser.add_argument("--split", default="val", help="split to score; val by default")
    add_model_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores there")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ccnet3d.data import LabelledSequences
    from ccnet3d.evaluation import evaluate
    from ccnet3d.files import write_atomically

    if not arguments.data.is_dir():
        raise ValueError(f"no data folder at {arguments.data}; name it with --data or CCNET3D_CAMVID")
    dataset = LabelledSequences.open(arguments.data, arguments.split, spec_file=CAMVID_SPEC)
    if dataset.missing:
        print(f"evaluate.py: warning: {dataset.missing} frames of the split are not there", file=sys.stderr)
    segmenter = load_segmenter(arguments)
    result = evaluate(
        segmenter, dataset, progress=lambda clips: tqdm(clips, desc=arguments.split, unit="clip", disable=None)
    )
    scores = result.to_table()
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(scores, indent=1) + "\n").encode())
    settings = f"T={segmenter.clip_length}, {segmenter.input_size[0]}x{segmenter.input_size[1]}"
    print(f"{dataset.spec.name} {arguments.split}: {scores['frames']} frames of {scores['videos']} videos, {settings}")
    means = {"mIoU (pooled)": "miou", "per-frame mIoU": "per_frame_miou", "video mIoU": "video_miou"}
    for name, share in [*scores["per_class_iou"].items(), *((name, scores[key]) for name, key in means.items())]:
        print(f"{name:<16}{'     -' if share is None else f'{100 * share:6.2f}'}")


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("evaluate.py", lambda: run(chosen)))
