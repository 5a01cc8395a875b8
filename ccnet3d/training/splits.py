"""The labelled sequences of a training run, looked through before it starts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import LabelledSequences, inspect_frames, write_pack
from ccnet3d.distributed import Processes
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.training.recipe import Recipe


class Splits(NamedTuple):
    """What a run reads."""

    train: LabelledSequences
    val: LabelledSequences
    pixel_counts: Tensor
    """int64 ``[256]``, labelled pixels of each class id in the train split."""


def open_splits(
    recipe: Recipe, data: Path, spec_file: Path, detail: Path | None, pack: Path | None, processes: Processes
) -> Splits:
    """Open the splits of a recipe and read every file of them once.

    Args:
        recipe: names the splits, and how training clips are made.
        data: the data folder.
        spec_file: the dataset's ``dataset.toml``, where the data folder has none.
        detail: a data folder with training frames at a higher resolution.
        pack: folder in which decoded training frames are kept, and from which they are read; None for none.
        processes: of the run; one of them looks at the files.

    Raises:
        ValueError: no such data, or a recipe that does not fit it.
        FileProblemsError: files that are not there, cannot be read or do not fit, all of them by name.
    """
    share = recipe.data.detail_share
    if share and detail is None:
        raise UserError(
            f"the recipe takes {share:.0%} of its clips from frames at a higher resolution; "
            "name their folder with --detail, or set data.detail_share=0"
        )
    counts = processes.once(lambda: _look_through(recipe, data, spec_file, detail, pack), (IGNORE_INDEX + 1,))
    train = LabelledSequences.open(
        data,
        recipe.train_split,
        spec_file=spec_file,
        transform=recipe.data.augmentation,
        detail_root=detail,
        detail_share=share,
    )
    if pack is not None:
        train.use_packs(pack)
    return Splits(train, LabelledSequences.open(data, recipe.val_split, spec_file=spec_file), counts)


def _look_through(recipe: Recipe, data: Path, spec_file: Path, detail: Path | None, pack: Path | None) -> Tensor:
    """Pixel counts of the train split, if nothing is wrong anywhere; then training frames are packed too."""
    in_clips = max(recipe.data.clip_lengths) > 1
    wanted = [(data, recipe.train_split, in_clips), (data, recipe.val_split, False)]
    if detail is not None:
        wanted.append((detail, recipe.train_split, in_clips))
    problems: list[str] = []
    counts: list[Tensor] = []
    unpacked = []
    for root, split, equal_sizes in wanted:
        try:
            dataset = LabelledSequences.open(root, split, spec_file=spec_file)
        except FileProblemsError as error:
            problems += error.problems
            continue
        packed = pack if split == recipe.train_split else None
        if packed is not None:
            dataset.use_packs(packed)
        inspection = inspect_frames(dataset, equal_sizes=equal_sizes)
        problems += inspection.problems
        counts.append(inspection.pixel_counts)
        if packed is not None and dataset.pack is None:
            unpacked.append(partial(write_pack, dataset, packed, inspection.sizes))
    if problems:
        raise FileProblemsError(list(dict.fromkeys(problems)))
    if not torch.any(counts[0][:IGNORE_INDEX]):
        raise UserError(f"no pixel of the split {recipe.train_split!r} in {data} has a class; all labels are void")
    for write in unpacked:
        write()
    return counts[0]
