"""Compute scores of videos as an evaluation does: a meter counts every frame, and the score is that of the counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from ccnet3d.metrics import Meter, Samples, find_metric, find_score


def counts_of(meter: Meter, videos: Sequence[Sequence[tuple[Tensor, ...]]]) -> list[Tensor]:
    """Return the counts of each frame; frames are the arguments of ``Meter.update``."""
    rows = []
    for video in videos:
        meter.start_segment()
        rows += [meter.update(*frame) for frame in video]
    return rows


def score_of(name: str, meter: Meter, videos: Sequence[Sequence[tuple[Tensor, ...]]]) -> float:
    """Return the score of a meter's counts."""
    rows = counts_of(meter, videos)
    stops = list(itertools.accumulate(map(len, videos), initial=0))
    members = [range(start, stop) for start, stop in itertools.pairwise(stops)]
    counts = torch.stack(rows) if rows else torch.zeros(0, *find_metric(name).shape(3), dtype=torch.long)
    return float(find_score(name).value(counts, Samples.whole([list(indices) for indices in members if indices])))


def class_scores_of(name: str, meter: Meter, frames: Sequence[tuple[Tensor, ...]]) -> list[float]:
    """Return the score of each class, for one video."""
    counts = torch.stack(counts_of(meter, [frames]))
    return find_score(name).class_values(counts, Samples.whole([range(len(frames))]))[0].tolist()
