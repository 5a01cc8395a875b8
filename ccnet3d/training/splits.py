"""The splits of a training run, validated before it starts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import DataSource, LabelledSequences, inspect_frames
from ccnet3d.distributed import Processes
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.training.recipe import Recipe

__all__ = ["Splits", "open_splits"]


class Splits(NamedTuple):
    """The data of a run."""

    train: LabelledSequences
    val: LabelledSequences
    pixel_counts: Tensor
    """int64 ``[256]``, labeled pixels of each class id in the train split."""


def open_splits(recipe: Recipe, source: DataSource, processes: Processes) -> Splits:
    """Open the splits of a recipe, after reading each of their files once to validate it.

    Args:
        recipe: names the splits, and says how training clips are drawn.
        source: the data.
        processes: of the run; one of them validates the files, and writes the frame cache.

    Raises:
        UserError: no such data, or a recipe that does not fit it.
        FileProblemsError: files that do not exist, are unreadable or invalid; all of them, by name.
    """
    share = recipe.data.high_resolution_share
    if share and source.high_resolution is None:
        raise UserError(
            f"the recipe draws {share:.0%} of its clips from frames at a higher resolution; "
            "name their folder with --high-resolution, or set data.high_resolution_share=0"
        )
    counts = processes.once(lambda: _validate(recipe, source), (IGNORE_INDEX + 1,))
    train = source.open(
        recipe.train_split,
        transform=recipe.data.augmentation,
        high_resolution_share=share,
        simulation=recipe.data.simulation,
    )
    return Splits(train, source.open(recipe.val_split), counts)


def _validate(recipe: Recipe, source: DataSource) -> Tensor:
    """Return the pixel counts of the train split; if all files are valid, training frames are cached too."""
    in_clips = max(recipe.data.clip_lengths) > 1
    splits = [(source, recipe.train_split, in_clips), (source, recipe.val_split, False)]
    if (high_resolution := source.at_high_resolution()) is not None:
        splits.append((high_resolution, recipe.train_split, in_clips))
    problems: list[str] = []
    counts: list[Tensor] = []
    uncached: list[tuple[LabelledSequences, list[tuple[int, ...]]]] = []
    for part, split, equal_sizes in splits:
        try:
            dataset = part.open(split)
        except FileProblemsError as error:
            problems += error.problems
            continue
        inspection = inspect_frames(dataset, equal_sizes=equal_sizes)
        problems += inspection.problems
        counts.append(inspection.pixel_counts)
        if split == recipe.train_split and dataset.cache is None:
            uncached.append((dataset, inspection.sizes))
    if problems:
        raise FileProblemsError(list(dict.fromkeys(problems)))
    if not torch.any(counts[0][:IGNORE_INDEX]):
        raise UserError(f"no pixel of the split {recipe.train_split!r} in {source.root} has a class; all are void")
    if source.cache is not None:
        for dataset, sizes in uncached:
            dataset.write_cache(source.cache, sizes)
    return counts[0]
