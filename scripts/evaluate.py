#!/usr/bin/env python3
"""Score a model on labelled sequences: pooled, per-class, per-frame and video mIoU, consistency over time."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ccnet3d.cli.options import add_model_options, load_segmenter, non_negative, run_command

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
    parser.add_argument(
        "--smooth",
        type=non_negative,
        default=0,
        metavar="N",
        help="average with N frames on each side where the picture stands still, for frames that are close in time",
    )
    parser.add_argument("--consistency", action="store_true", help="also VC8 and VC16, reference and strict")
    parser.add_argument(
        "--flow",
        type=Path,
        metavar="FILE.safetensors",
        help="also TC, with the optical flow of these weights of torchvision's raft_small",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the scores there")
    return parser.parse_args()


def run(arguments: argparse.Namespace) -> None:
    from tqdm import tqdm

    from ccnet3d.data import LabelledSequences
    from ccnet3d.evaluation import evaluate
    from ccnet3d.files import write_atomically
    from ccnet3d.metrics import TemporalConsistency, VideoConsistency, raft_flow

    if not arguments.data.is_dir():
        raise ValueError(f"no data folder at {arguments.data}; name it with --data or CCNET3D_CAMVID")
    dataset = LabelledSequences.open(arguments.data, arguments.split, spec_file=CAMVID_SPEC)
    if dataset.missing:
        print(f"evaluate.py: warning: {dataset.missing} frames of the split are not there", file=sys.stderr)
    segmenter = load_segmenter(arguments, arguments.smooth)
    windows = (8, 16) if arguments.consistency else ()
    classes_count = len(dataset.spec.classes)
    result = evaluate(
        segmenter,
        dataset,
        video_consistency=[VideoConsistency(n, strict=strict) for n in windows for strict in (True, False)],
        temporal_consistency=TemporalConsistency(classes_count, raft_flow(arguments.flow)) if arguments.flow else None,
        progress=lambda frames: tqdm(frames, desc=arguments.split, unit="frame", disable=None),
    )
    scores = result.to_table()
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(scores, indent=1) + "\n").encode())
    settings = f"T={segmenter.clip_length}, {segmenter.input_size[0]}x{segmenter.input_size[1]}"
    print(f"{dataset.spec.name} {arguments.split}: {scores['frames']} frames of {scores['videos']} videos, {settings}")
    means = {"mIoU (pooled)": "miou", "per-frame mIoU": "per_frame_miou", "video mIoU": "video_miou"}
    rows = {**scores["per_class_iou"], **{name: scores[key] for name, key in means.items()}}
    for name, share in {**rows, **scores.get("consistency", {})}.items():
        print(f"{name:<16}{'     -' if share is None else f'{100 * share:6.2f}'}")


if __name__ == "__main__":
    chosen = parse_arguments()
    sys.exit(run_command("evaluate.py", lambda: run(chosen)))
