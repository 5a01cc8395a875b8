"""Checks of ``ccnet3d-evaluate``: options that exclude each other, or would have no effect."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ccnet3d.cli.command_parser import refuse_unused
from ccnet3d.cli.views import check_views
from ccnet3d.errors import UserError

__all__ = ["check_evaluation"]

_OF_MODELS = (
    "checkpoint", "input_size", "aspect", "clip_length", "clip_stride", "causal", "dtype", "batch", "compile", "smooth",
    "scales", "flip", "window", "overlap",
)  # fmt: skip


def check_evaluation(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Check that the options fit together.

    Raises:
        UserError: they do not.
    """
    for name in ("predictions", "labels", "report", "compare"):
        if arguments.corrupt and getattr(arguments, name):
            raise UserError(f"--corrupt scores a model in one table, without --{name}; leave one of them out")
    if arguments.severity and not arguments.corrupt:
        raise UserError("--severity is for the corruptions of --corrupt; add --corrupt")
    _refuse_unused(parser, arguments)
    check_views(arguments)
    if arguments.labels and not (arguments.predictions and arguments.classes):
        raise UserError("--labels needs --predictions and --classes: the masks, and the count or names of the classes")
    if arguments.labels and arguments.flow:
        raise UserError("--flow needs the frames themselves; describe them and the labels in a dataset.toml")
    if arguments.count_occluded and not arguments.flow:
        raise UserError("--count-occluded is for the score of --flow; add --flow")
    if arguments.json:
        from ccnet3d.evaluation import check_scores_file

        check_scores_file(arguments.json)
    if arguments.report and arguments.report.exists() and not arguments.report.is_dir():
        raise UserError(f"--report writes a folder, and {arguments.report} is a file; give another name")


def _refuse_unused(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Check that no option is given that would have no effect.

    Raises:
        UserError: one is.
    """

    def refuse(names: Sequence[str], reason: str) -> None:
        refuse_unused(parser, arguments, names, reason)

    if arguments.compare:
        others = set(vars(arguments)) - {"compare", "report", "debug", "device", "threads"}
        refuse(sorted(others), "is for an evaluation, and --compare reads earlier ones; leave one of them out")
    if arguments.predictions:
        refuse(_OF_MODELS, "is for a model, and --predictions are masks already; leave one of them out")
    else:
        refuse(["video_starts_at"], "is for the masks of --predictions; add --predictions")
    if arguments.labels:
        refuse(
            ["data", "dataset", "split"], "is for a data folder, and --labels are instead of one; leave one of them out"
        )
    else:
        refuse(["classes", "void"], "is for the labels of --labels; add --labels")
    if not arguments.report:
        refuse(["worst", "no_images"], "is for the page of --report; add --report")
