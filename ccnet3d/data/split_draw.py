"""Train and val splits for datasets without any: drawn by sequence, as neighboring frames are nearly equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ccnet3d.errors import UserError

__all__ = ["draw_splits"]


def draw_splits(
    numbers: Mapping[str, Sequence[int]], val_share: float = 0.2, seed: int = 0
) -> dict[str, tuple[str, ...]]:
    """Return the entries of the splits ``train`` and ``val``.

    Whole sequences are drawn for val until it has its share of the labeled frames. A single sequence is cut in time
    instead: its last frames are val.

    >>> draw_splits({"walk": range(1, 101)})
    {'train': ('walk:1-80',), 'val': ('walk:81-100',)}
    >>> draw_splits({"a": range(50), "b": range(40), "c": range(10)}, val_share=0.1)
    {'train': ('a', 'b'), 'val': ('c',)}

    Args:
        numbers: the numbers of the labeled frames of each sequence.
        val_share: share of val among the labeled frames.
        seed: of the draw.

    Raises:
        UserError: fewer than two labeled frames, or a share that is not between 0 and 1.
    """
    if not 0 < val_share < 1:
        raise UserError(f"the share of val must be above 0 and below 1, got {val_share}")
    total = sum(map(len, numbers.values()))
    if total < 2:
        raise UserError(f"a train and a val split need two labeled frames, got {total}")
    if len(numbers) == 1:
        ((name, frames),) = numbers.items()
        ordered = sorted(frames)
        first = len(ordered) - min(max(round(val_share * total), 1), total - 1)
        return {
            "train": (f"{name}:{ordered[0]}-{ordered[first - 1]}",),
            "val": (f"{name}:{ordered[first]}-{ordered[-1]}",),
        }
    names = sorted(numbers)
    shuffled = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    target, count = val_share * total, 0
    val: list[str] = []
    for name in shuffled:
        if len(val) < len(names) - 1 and abs(count + len(numbers[name]) - target) < abs(count - target):
            val.append(name)
            count += len(numbers[name])
    val = val or [min(shuffled, key=lambda name: len(numbers[name]))]
    return {"train": tuple(name for name in names if name not in val), "val": tuple(sorted(val))}
