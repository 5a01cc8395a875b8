"""Score a model, or masks from files, on labelled sequences: IoU, accuracy, boundaries, consistency over time.

A model on a split:          ccnet3d-evaluate --data data/camvid --checkpoint model.safetensors --all
Masks against a split:       ccnet3d-evaluate --data data/camvid --predictions masks/
Masks against other labels:  ccnet3d-evaluate --labels labels/ --classes names.txt --predictions masks/
Two evaluations compared:    ccnet3d-evaluate --compare a/evaluation.json b/evaluation.json --report compared/
By four processes:           torchrun --nproc-per-node 4 -m ccnet3d.cli.evaluate --data data/camvid --split train
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnet3d.cli.options import (
    add_data_options,
    add_model_options,
    choose_device,
    data_source,
    input_size,
    load_segmenter,
    non_negative,
    numbers,
    run_command,
    share,
)
from ccnet3d.errors import UserError

if TYPE_CHECKING:
    from ccnet3d.data import LabelledSequences
    from ccnet3d.distributed import Processes
    from ccnet3d.evaluation import Evaluation, Timing
    from ccnet3d.reports import WorstFrames

PROGRAM = "ccnet3d-evaluate"


def ids(text: str) -> list[int]:
    """Parse ids with commas between them."""
    if not all(part.isdecimal() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"expected ids such as 11,255, got {text!r}")
    return [int(part) for part in text.split(",")]


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what is scored")
    add_data_options(what)
    what.add_argument("--split", default="val", help="split to score; val by default")
    what.add_argument(
        "--predictions",
        type=Path,
        metavar="DIR",
        help="masks to score instead of a model's: what ccnet3d-infer wrote for the split's video, a folder of such "
        "folders named as the sequences, or images of class ids (PNG, grey or palette) named as the frames, in "
        "one folder or one a sequence",
    )
    what.add_argument(
        "--video-starts-at",
        type=non_negative,
        default=0,
        metavar="N",
        help="number in the dataset of the first frame of the videos that ccnet3d-infer was given; 0 by default",
    )
    what.add_argument(
        "--labels",
        type=Path,
        metavar="DIR",
        help="labels to score --predictions against instead of a data folder: PNGs of class ids, in one folder or one "
        "a sequence; needs --classes",
    )
    what.add_argument(
        "--classes", metavar="N|FILE", help="of --labels: how many, or a text file with a name a line, in order of ids"
    )
    what.add_argument("--void", type=ids, default=[255], metavar="ID,...", help="of --labels: ids not counted; 255")
    scores = parser.add_argument_group("what is computed besides IoU and accuracy")
    scores.add_argument("--consistency", action="store_true", help="VC8 and VC16, reference and strict, flicker")
    scores.add_argument("--boundary", action="store_true", help="F-score of the classes' boundaries")
    scores.add_argument(
        "--flow",
        nargs="?",
        const="dis",
        metavar="FILE.safetensors",
        help="TC by optical flow: OpenCV's DIS, or with these weights torchvision's raft_small",
    )
    scores.add_argument("--count-occluded", action="store_true", help="let occluded pixels count in TC, named tc_all")
    scores.add_argument("--all", action="store_true", help="all of these")
    scores.add_argument("--json", type=Path, metavar="FILE", help="also write the scores and the counts of every frame")
    report = parser.add_argument_group("report")
    report.add_argument("--report", type=Path, metavar="DIR", help="write a page, report.html, and CSV and JSON there")
    report.add_argument(
        "--compare",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="compare evaluations instead, of the same frames: what --json wrote, or folders that --report wrote",
    )
    report.add_argument("--worst", type=non_negative, default=8, metavar="N", help="worst frames to show; 8 by default")
    report.add_argument(
        "--no-images", action="store_true", help="show of them only masks and labels, no camera's image"
    )
    model = parser.add_argument_group("how the model is run")
    add_model_options(model)
    model.add_argument(
        "--smooth",
        type=non_negative,
        default=0,
        metavar="N",
        help="average with N frames on each side where the picture stands still, for frames that are close in time",
    )
    model.add_argument("--scales", type=numbers, metavar="S,...", help="average over scales, such as 0.75,1,1.25")
    model.add_argument("--flip", action="store_true", help="average with the mirrored frame")
    model.add_argument(
        "--window",
        type=input_size,
        metavar="HxW",
        help="cut windows of this size from the frame at its own size, for frames too large for the working size",
    )
    model.add_argument("--overlap", type=share, default=1 / 3, help="least share of a window that the next sees too")
    return parser


def check(arguments: argparse.Namespace) -> None:
    """See that the options go together.

    Raises:
        ValueError: they do not.
    """
    if arguments.predictions:
        names = ("checkpoint", "input_size", "clip_length", "smooth", "scales", "flip", "window")
        if given := [name.replace("_", "-") for name in names if getattr(arguments, name)]:
            raise UserError(f"--{given[0]} is for a model, and --predictions are masks already; leave one of them out")
    if arguments.labels and not (arguments.predictions and arguments.classes):
        raise UserError("--labels needs --predictions and --classes: the masks, and how many classes or which")
    if arguments.labels and arguments.flow:
        raise UserError("--flow needs the frames themselves; describe them and the labels in a dataset.toml")
    if arguments.count_occluded and not arguments.flow:
        raise UserError("--count-occluded is for the score of --flow; give that too")
    if arguments.compare and (arguments.predictions or arguments.checkpoint or arguments.json):
        raise UserError("--compare is for what was evaluated before; leave --predictions, --checkpoint and --json out")
    if arguments.no_images and not arguments.report:
        raise UserError("--no-images is for the page of --report; give that too")
    if arguments.report and arguments.report.exists() and not arguments.report.is_dir():
        raise UserError(f"--report makes a folder, and {arguments.report} is a file; give another name")


def open_dataset(arguments: argparse.Namespace) -> LabelledSequences:
    from ccnet3d.data import open_labels

    if arguments.labels:
        return open_labels(arguments.labels, class_names(arguments.classes), arguments.void)
    return data_source(arguments).open(arguments.split)


def class_names(text: str) -> list[str]:
    from ccnet3d.data import numbered

    if text.isdecimal():
        return list(numbered(int(text)))
    if not Path(text).is_file():
        raise UserError(f"--classes must be a number or a text file with a class name a line, got {text!r}")
    return [line.strip() for line in Path(text).read_text(encoding="utf-8").splitlines() if line.strip()]


def metrics(arguments: argparse.Namespace, classes_count: int) -> dict[str, Any]:
    """What to compute besides IoU, as options of ``evaluate``."""
    from ccnet3d.metrics import BoundaryScore, Flicker, TemporalConsistency, VideoConsistency, dis_flow, raft_flow

    windows = (8, 16) if arguments.consistency else ()
    chosen: dict[str, Any] = {
        "video_consistency": [VideoConsistency(n, strict=strict) for n in windows for strict in (True, False)],
        "flicker": Flicker() if arguments.consistency else None,
        "boundary": BoundaryScore(classes_count) if arguments.boundary else None,
    }
    if arguments.flow:
        flow = dis_flow() if arguments.flow == "dis" else raft_flow(Path(arguments.flow))
        occluded = arguments.count_occluded
        chosen["temporal_consistency"] = TemporalConsistency(classes_count, flow, count_occluded=occluded)
    return chosen


def score(arguments: argparse.Namespace, among: Processes, timing: Timing, worst: WorstFrames) -> Evaluation:
    """Evaluate this process's share of the segments."""
    from tqdm import tqdm

    from ccnet3d.evaluation import evaluate, evaluate_masks, open_predictions, split_segments
    from ccnet3d.inference import TestTimeAugmentation

    check(arguments)
    dataset = open_dataset(arguments)
    if dataset.missing and not among.rank:
        print(f"{PROGRAM}: warning: {dataset.missing} frames of the split are not there", file=sys.stderr)
    settings = {"split": "labels" if arguments.labels else arguments.split}
    if arguments.flow:
        settings["flow"] = Path(arguments.flow).name
    options: dict[str, Any] = {
        **metrics(arguments, len(dataset.spec.classes)),
        "segments": split_segments(dataset.segments, among.world_size)[among.rank],
        "settings": settings,
        "timing": timing,
        "on_frame": worst if arguments.report else None,
        "progress": lambda frames: tqdm(
            frames, desc=settings["split"], unit="frame", disable=True if among.rank else None
        ),
    }
    if arguments.predictions:
        choose_device(arguments)  # for the threads
        settings["masks"] = f"masks of {arguments.predictions}"
        masks = open_predictions(arguments.predictions, dataset, video_starts_at=arguments.video_starts_at)
        return evaluate_masks(masks, dataset, **options)
    segmenter = load_segmenter(arguments, arguments.smooth)
    height, width = arguments.window or segmenter.input_size
    settings["masks"] = f"T={segmenter.clip_length}, {height}x{width}"
    if not (arguments.scales or arguments.flip or arguments.window):
        return evaluate(segmenter, dataset, **options)
    views = TestTimeAugmentation(
        segmenter,
        scales=arguments.scales or [1.0],
        flip=arguments.flip,
        window=arguments.window,
        overlap=arguments.overlap,
    )
    settings["masks"] += (
        (" windows" if views.window else "")
        + f", scales {', '.join(f'{scale:g}' for scale in views.scales)}"
        + (", mirrored too" if views.flip else "")
    )
    return evaluate(views, dataset, **options)


def show(result: Evaluation) -> None:
    scores = result.to_table()
    names = {
        "miou": "mIoU (pooled)",
        "per_frame_miou": "per-frame mIoU",
        "video_miou": "video mIoU",
        "frequency_weighted_iou": "weighted IoU",
        "pixel_accuracy": "pixel accuracy",
        "class_accuracy": "class accuracy",
        "boundary_f": "boundary F",
    }
    rows = {**scores["per_class_iou"], **{name: scores[key] for key, name in names.items() if key in scores}}
    for name, part in {**rows, **scores.get("consistency", {})}.items():
        print(f"{name:<16}{'     -' if part is None else f'{100 * part:6.2f}'}")


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.evaluation import Timing, differences_text, gather, load_runs, processes, summarize
    from ccnet3d.reports import WorstFrames, write_evaluation_report

    if arguments.compare:
        check(arguments)
        compared = summarize(load_runs(arguments.compare))
        print(differences_text(compared))
        if arguments.report:
            print(write_evaluation_report(arguments.report, compared))
        return
    if arguments.all:
        arguments.consistency = arguments.boundary = True
        arguments.flow = arguments.flow or (None if arguments.labels else "dis")
    timing, worst = Timing(), WorstFrames(arguments.worst)
    with processes() as among:
        result = gather(lambda: score(arguments, among, timing, worst))
        worst.gather()
        if among.rank:
            return
    if arguments.json:
        result.save(arguments.json)
    dataset, split, masks = (result.settings[key] for key in ("dataset", "split", "masks"))
    print(f"{dataset} {split}: {len(result.frames)} frames of {len(result.videos)} videos, {masks}")
    show(result)
    what = "masks" if arguments.predictions else "model"
    if arguments.report:
        labelled = open_dataset(arguments)
        strips = worst.strips(labelled, images=not (arguments.no_images or arguments.labels))
        name = str(arguments.predictions or arguments.checkpoint or "default weights")
        print(write_evaluation_report(arguments.report, summarize({name: result}), strips, labelled.spec.palette))
    print(f"metrics took {timing.metrics_seconds:.1f} s, {what} {timing.masks_seconds:.1f} s", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
