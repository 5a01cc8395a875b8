"""The splits of a training run, validated before it starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import DatasetSpec, DataSource, LabelledSequences, inspect_frames
from ccnet3d.distributed import Processes
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.training.pseudo_labels import PSEUDO_LABELS_NAME, label_videos, open_pseudo_labels
from ccnet3d.training.recipe import DataRecipe, Recipe
from ccnet3d.training.sizes import check_sizes, fitted_sizes

__all__ = ["Splits", "open_splits"]


class Splits(NamedTuple):
    """The data of a run."""

    train: LabelledSequences
    """Labeled frames; pseudo-labeled ones if there is no labeled data."""
    val: LabelledSequences | None
    """None if there is no labeled data."""
    pseudo: LabelledSequences | None
    """Pseudo-labeled frames to mix with those of ``train``."""
    pixel_counts: Tensor
    """int64 ``[256]``, labeled pixels of each class id in ``train``."""
    data: DataRecipe
    """The section of the recipe, with sizes that fit the labeled frames if it asks for that."""

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of the data of each labeled split; pseudo labels have one of their own."""
        return {} if self.val is None else {"train": self.train.fingerprint(), "val": self.val.fingerprint()}

    def warnings(self) -> list[str]:
        """Return what may be wrong with the labeled splits, one line each."""
        if self.val is None:
            return []
        parts = {"train": self.train, "val": self.val}
        left_out = [f"{name} split: {line}" for name, part in parts.items() for line in part.left_out]
        return left_out + _class_warnings(self.train.spec, self.pixel_counts)


def open_splits(
    recipe: Recipe, source: DataSource | None, out: Path, device: torch.device, processes: Processes
) -> Splits:
    """Open the splits of a recipe, after reading each of their files once to validate it.

    Unlabeled videos are labeled first.

    Args:
        recipe: names the splits, and says how training clips are drawn.
        source: the labeled data; None if all clips come from unlabeled videos.
        out: folder of the run, in which pseudo labels are written.
        device: where the teachers of unlabeled videos run.
        processes: of the run; one of them validates the files, labels videos and writes the frame cache.

    Raises:
        UserError: no such data, or a recipe that does not fit it.
        FileProblemsError: files that do not exist, are unreadable or invalid; all of them, by name.
    """
    share, unlabelled = recipe.data.high_resolution_share, recipe.data.unlabelled
    if source is None and (unlabelled is None or unlabelled.share < 1):
        raise UserError("without labeled data, all clips must come from videos; set data.unlabelled.share=1")
    if share and (source is None or source.high_resolution is None):
        raise UserError(
            f"the recipe draws {share:.0%} of its clips from frames at a higher resolution; "
            "name their folder with --high-resolution, or set data.high_resolution_share=0"
        )
    folder = out / PSEUDO_LABELS_NAME
    if source is None:
        check_sizes(recipe.data)
        pseudo, counts = _open_pseudo(recipe.data, folder, device, processes)
        return Splits(pseudo, None, None, counts, recipe.data)
    validated = processes.once(lambda: _validate(recipe, source), (IGNORE_INDEX + 3,))
    counts, (height, width) = validated[:-2], validated[-2:].tolist()
    data = fitted_sizes(recipe.data, (height, width))
    check_sizes(data, (height, width))
    train = source.open(
        recipe.train_split,
        transform=data.augmentation,
        high_resolution_share=share,
        simulation=recipe.data.simulation,
    )
    val = source.open(recipe.val_split)
    if unlabelled is None:
        return Splits(train, val, None, counts, data)
    held_out = {frame.image.resolve() for frame in val.frames}
    pseudo, _ = _open_pseudo(data, folder, device, processes, train.spec.class_names, held_out)
    return Splits(train, val, pseudo, counts, data)


def _open_pseudo(
    data: DataRecipe,
    folder: Path,
    device: torch.device,
    processes: Processes,
    class_names: Sequence[str] = (),
    held_out: Collection[Path] = (),
) -> tuple[LabelledSequences, Tensor]:
    """Label the recipe's videos; return their frames and the pixel counts."""
    recipe = data.unlabelled
    assert recipe is not None

    def label() -> Tensor:
        label_videos(recipe, folder, device, class_names=class_names, held_out=held_out)
        inspection = inspect_frames(open_pseudo_labels(recipe, folder, None), equal_sizes=True)
        if inspection.problems:
            raise FileProblemsError(inspection.problems)
        if not torch.any(inspection.pixel_counts[:IGNORE_INDEX]):
            raise UserError(
                f"the teachers are nowhere as certain as data.unlabelled.threshold = {recipe.threshold}; lower it"
            )
        return inspection.pixel_counts

    counts = processes.once(label, (IGNORE_INDEX + 1,))
    return open_pseudo_labels(recipe, folder, data.augmentation), counts


def _validate(recipe: Recipe, source: DataSource) -> Tensor:
    """Return the pixel counts of the train split and the most common height and width of its frames.

    If all files are valid, training frames are cached too.
    """
    in_clips = max(recipe.data.clip_lengths) > 1
    splits = [(source, recipe.train_split, in_clips), (source, recipe.val_split, False)]
    if (high_resolution := source.at_high_resolution()) is not None:
        splits.append((high_resolution, recipe.train_split, in_clips))
    problems: list[str] = []
    counts: list[Tensor] = []
    sizes: list[tuple[int, ...]] = []
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
        sizes = sizes or inspection.sizes
        if split == recipe.train_split and dataset.cache is None:
            uncached.append((dataset, inspection.sizes))
    if problems:
        raise FileProblemsError(list(dict.fromkeys(problems)))
    if not torch.any(counts[0][:IGNORE_INDEX]):
        raise UserError(f"no pixel of the split {recipe.train_split!r} in {source.root} has a class; all are void")
    if source.cache is not None:
        for dataset, sizes in uncached:
            dataset.write_cache(source.cache, sizes)
    return torch.cat([counts[0], torch.tensor(Counter(sizes).most_common(1)[0][0])])


def _class_warnings(spec: DatasetSpec, pixel_counts: Tensor) -> list[str]:
    """Return a line about the classes that have no pixel in the train split, and its likely cause."""
    names, has_pixels = spec.class_names, pixel_counts.bool().tolist()
    absent = [name for id_, name in enumerate(names) if not has_pixels[id_]]
    if not absent:
        return []
    cause = ""
    if len(absent) == len(names) - 1 and has_pixels[0] and has_pixels[IGNORE_INDEX] and 255 in spec.void_ids:
        cause = (
            "; the labels have only the ids 0 and 255, and 255 is void: if it marks a class, write the id of the class"
        )
    elif absent == [names[0]]:
        cause = "; no label has the id 0: if your ids count from 1, subtract 1"
    listed = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return [f"train split: classes without a pixel: {listed}{cause}"]
