"""Score a model, or masks from files, on labeled sequences: IoU, accuracy, boundaries, consistency over time.

A model on a split:          ccnet3d-evaluate --data data/camvid --checkpoint model.safetensors --all
A model on noisy frames:     ccnet3d-evaluate --data data/camvid --checkpoint model.safetensors --corrupt noise
Masks against a split:       ccnet3d-evaluate --data data/camvid --predictions masks/
Masks against other labels:  ccnet3d-evaluate --labels labels/ --classes names.txt --predictions masks/
Two evaluations compared:    ccnet3d-evaluate --compare a/evaluation.json b/evaluation.json --report compared/
In four processes:           torchrun --nproc-per-node 4 -m ccnet3d.cli.evaluate --data data/camvid --split train
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.data_options import add_data_options, data_source
from ccnet3d.cli.evaluate_checks import check_evaluation
from ccnet3d.cli.options import (
    add_debug_option,
    add_model_options,
    choose_device,
    corruptions,
    ids,
    load_segmenter,
    non_negative,
    positive,
    run_command,
)
from ccnet3d.cli.paths import user_path
from ccnet3d.cli.views import add_view_options, add_views
from ccnet3d.config import read_lines
from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.errors import UserError
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.data import LabelledSequences
    from ccnet3d.distributed import Processes
    from ccnet3d.evaluation import Evaluation, Segmenter, Timing
    from ccnet3d.reports import WorstFrames

PROGRAM = "ccnet3d-evaluate"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    add_data_options(data)
    data.add_argument("--split", default="val", help="split to score (default: val)")
    data.add_argument(
        "--predictions",
        type=user_path,
        metavar="DIR",
        help="score these masks instead of a model: the output of ccnet3d-infer for the split's video, a folder of "
        "such outputs named as the sequences, or images of class ids (PNG, gray or palette) named as the frames, in "
        "one folder or in one folder per sequence",
    )
    data.add_argument(
        "--video-starts-at",
        type=non_negative,
        default=0,
        metavar="N",
        help="frame number in the dataset of the first frame of the videos that ccnet3d-infer read (default: 0)",
    )
    data.add_argument(
        "--labels",
        type=user_path,
        metavar="DIR",
        help="score --predictions against these labels instead of a data folder: images of class ids (PNG, BMP or "
        "TIFF), in one folder or in one folder per sequence; needs --classes",
    )
    data.add_argument(
        "--classes",
        metavar="N|FILE",
        help="classes of --labels: their count, or a text file with one name per line, in the order of the ids",
    )
    data.add_argument(
        "--void", type=ids, default=[255], metavar="ID,...", help="ids of --labels that are not scored (default: 255)"
    )
    data.add_argument(
        "--corrupt",
        type=corruptions,
        default=[],
        metavar="NAME,...",
        help="score the model on clean frames and under each of these corruptions: noise, blur, jpeg, occlusion, drop, "
        "or all; prints one table",
    )
    data.add_argument("--severity", type=positive, metavar="N", help="severity of --corrupt, 1 to 5 (default: 3)")
    scores = parser.add_argument_group("scores in addition to IoU and accuracy")
    scores.add_argument("--consistency", action="store_true", help="VC8 and VC16, strict and reference, and flicker")
    scores.add_argument("--boundary", action="store_true", help="F-score and IoU of the classes' boundaries")
    scores.add_argument(
        "--flow",
        nargs="?",
        const="dis",
        metavar="FILE.safetensors",
        help="TC along the optical flow: of OpenCV's DIS, or of torchvision's raft_small with these weights",
    )
    scores.add_argument("--count-occluded", action="store_true", help="count occluded pixels in TC, named tc_all")
    scores.add_argument("--all", action="store_true", help="all scores")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        type=user_path,
        metavar="FILE",
        help="write the scores and the counts of every frame to this file; with --corrupt, the scores of every row",
    )
    output.add_argument(
        "--report", type=user_path, metavar="DIR", help="write an HTML report, CSV and JSON files to this folder"
    )
    output.add_argument(
        "--compare",
        type=user_path,
        nargs="+",
        metavar="RUN",
        help="compare earlier evaluations of the same frames: files of --json or folders of --report",
    )
    output.add_argument(
        "--worst", type=non_negative, default=8, metavar="N", help="worst frames in the report (default: 8)"
    )
    output.add_argument(
        "--no-images", action="store_true", help="show only masks and labels of the worst frames, no camera images"
    )
    model = parser.add_argument_group("model")
    add_model_options(model)
    model.add_argument(
        "--smooth",
        type=non_negative,
        default=0,
        metavar="N",
        help="average over N frames on each side where the picture does not change; for frames that are close in time",
    )
    add_view_options(model)
    add_debug_option(parser)
    return parser


def open_dataset(arguments: argparse.Namespace) -> LabelledSequences:
    from ccnet3d.data import open_labels

    if arguments.labels:
        return open_labels(arguments.labels, class_names(arguments.classes), arguments.void)
    return data_source(arguments).open(arguments.split)


def class_names(text: str) -> list[str]:
    from ccnet3d.data import numbered

    if text.isdecimal():
        if len(text) > 9 or int(text) > IGNORE_INDEX:
            raise UserError(f"--classes must be at most {IGNORE_INDEX} classes, got {text}")
        return list(numbered(int(text)))
    if not Path(text).is_file():
        raise UserError(f"--classes must be a number or a text file with one class name per line, got {text!r}")
    return [line.strip() for line in read_lines(Path(text), "list of classes")]


def chosen_scores(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the scores that the options name, as options of ``evaluate``."""
    from ccnet3d.metrics import dis_flow, raft_flow, scores_of_options

    options = [name for name in ("consistency", "boundary") if getattr(arguments, name)]
    if not arguments.flow:
        return {"scores": scores_of_options(options)}
    options.append("count_occluded" if arguments.count_occluded else "flow")
    flow = dis_flow() if arguments.flow == "dis" else raft_flow(Path(arguments.flow))
    return {"scores": scores_of_options(options), "flow": flow}


def load_model(arguments: argparse.Namespace, dataset: LabelledSequences) -> tuple[Segmenter, str]:
    """Return the model that the options describe, and a description of how it is run."""
    segmenter = load_segmenter(arguments, arguments.smooth)
    frame = dataset.read_image(0)
    height, width = arguments.window or segmenter.working_size((frame.shape[1], frame.shape[2]))
    description = f"T={segmenter.clip_length}, {height}x{width}"
    views = add_views(segmenter, arguments)
    if views is segmenter:
        return segmenter, description
    windows, mirrored = " windows" if arguments.window else "", ", mirrored too" if arguments.flip else ""
    scales = ", ".join(f"{scale:g}" for scale in arguments.scales or [1.0])
    return views, f"{description}{windows}, scales {scales}{mirrored}"


def score(arguments: argparse.Namespace, among: Processes, timing: Timing, worst: WorstFrames) -> Iterator[Evaluation]:
    """Yield the evaluation of this process's segments; with --corrupt, of clean frames, then under each corruption."""
    from ccnet3d.evaluation import evaluate, evaluate_corrupted, evaluate_masks, open_predictions, split_segments
    from ccnet3d.progress import progress_bar

    check_evaluation(build_parser(), arguments)
    dataset = open_dataset(arguments)
    for line in dataset.left_out if among.is_main_process else ():
        print(f"{PROGRAM}: warning: {line}", file=sys.stderr)
    settings = {"split": "labels" if arguments.labels else arguments.split}
    if arguments.flow:
        settings["flow"] = Path(arguments.flow).name
    options: dict[str, Any] = {
        **chosen_scores(arguments),
        "segments": split_segments(dataset.segments, among.world_size)[among.rank],
        "settings": settings,
        "timing": timing,
        "on_frame": worst if arguments.report else None,
        "progress": lambda frames: progress_bar(
            frames, desc=settings["split"], unit="frame", hidden=not among.is_main_process
        ),
    }
    if arguments.predictions:
        choose_device(arguments)  # sets the threads
        settings["masks"] = f"masks of {arguments.predictions}"
        masks = open_predictions(arguments.predictions, dataset, video_starts_at=arguments.video_starts_at)
        yield evaluate_masks(masks, dataset, **options)
        return
    segmenter, settings["masks"] = load_model(arguments, dataset)
    if arguments.corrupt:
        yield from evaluate_corrupted(segmenter, dataset, arguments.corrupt, arguments.severity or 3, **options)
    else:
        yield evaluate(segmenter, dataset, **options)


def run_comparison(arguments: argparse.Namespace) -> None:
    from ccnet3d.evaluation import differences_text, load_runs, summarize
    from ccnet3d.reports import write_evaluation_report

    check_evaluation(build_parser(), arguments)
    runs = summarize(load_runs(arguments.compare))
    print(differences_text(runs))
    if arguments.report:
        print(write_evaluation_report(arguments.report, runs))


def run_evaluation(arguments: argparse.Namespace) -> None:
    from ccnet3d.evaluation import Timing, gather, processes
    from ccnet3d.reports import WorstFrames, check_report_folder

    if arguments.report:
        check_report_folder(arguments.report)
    if arguments.all:
        arguments.consistency = arguments.boundary = True
        arguments.flow = arguments.flow or (None if arguments.labels else "dis")
    timing, worst = Timing(), WorstFrames(arguments.worst)
    with processes() as among:
        shares = score(arguments, among, timing, worst)  # starts in gather, which reports its errors once
        results = [gather(lambda: next(shares)) for _ in ["clean", *arguments.corrupt]]
        worst.gather()
        if not among.is_main_process:
            return
    if arguments.corrupt:
        show_robustness(arguments, results)
    else:
        show_evaluation(arguments, results[0], worst)
    masks_source = "masks" if arguments.predictions else "model"
    print(f"metrics took {timing.metrics_seconds:.1f} s, {masks_source} {timing.masks_seconds:.1f} s", file=sys.stderr)


def show_evaluation(arguments: argparse.Namespace, result: Evaluation, worst: WorstFrames) -> None:
    """Print the scores; write the files that the options name."""
    from ccnet3d.evaluation import scores_text, summarize
    from ccnet3d.reports import write_evaluation_report

    if arguments.json:
        result.save(arguments.json)
    print(title(result))
    print(scores_text(result))
    if arguments.report:
        labeled = open_dataset(arguments)
        strips = worst.strips(labeled, images=not (arguments.no_images or arguments.labels))
        name = str(arguments.predictions or arguments.checkpoint or "default weights")
        print(write_evaluation_report(arguments.report, summarize({name: result}), strips, labeled.spec.palette))


def show_robustness(arguments: argparse.Namespace, results: Sequence[Evaluation]) -> None:
    """Print the table of the corruptions; write the file of --json."""
    from ccnet3d.evaluation import robustness_scores, robustness_text, save_robustness

    rows = robustness_scores(results)
    if arguments.json:
        save_robustness(arguments.json, rows)
    print(f"{title(results[0])}, severity {results[-1].settings['severity']}")
    print(robustness_text(rows))


def title(result: Evaluation) -> str:
    """Return what was evaluated, in one line."""
    dataset, split, masks = (result.settings[key] for key in ("dataset", "split", "masks"))
    frames, videos = count_of(len(result.frames), "frame"), count_of(len(result.videos), "video")
    return f"{dataset} {split}: {frames} of {videos}, {masks}"


def run(arguments: argparse.Namespace) -> None:
    """Compare or evaluate, as the parsed arguments say."""
    run_comparison(arguments) if arguments.compare else run_evaluation(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())
