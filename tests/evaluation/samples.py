"""Evaluations of made-up counts."""

from __future__ import annotations

import numpy as np
import torch

from ccnet3d.evaluation import EvaluatedFrame, Evaluation


def random_evaluation(seed: int, videos: tuple[int, ...] = (5, 4, 3), skill: float = 3.0) -> Evaluation:
    """Counts of three classes, the same labels for every seed; ``skill`` is how much heavier right pixels are."""
    labels = torch.from_numpy(np.random.default_rng(99).integers(50, 400, size=(sum(videos), 3)))
    random = np.random.default_rng(seed)
    shares = torch.from_numpy(random.random((sum(videos), 3, 3))) + skill * torch.eye(3)
    counts = (shares / shares.sum(-1, keepdim=True) * labels[..., None]).long()
    counts += torch.diag_embed(labels - counts.sum(-1))
    frames = [EvaluatedFrame(f"v{v}", n, f"{v}_{n}", v) for v, length in enumerate(videos) for n in range(length)]
    pairs = torch.from_numpy(random.integers(1, 100, size=(4, sum(videos), 2))).sort(-1).values
    pairs[:, 0] = 0  # no value at the first frame
    series = dict(zip(("kept", "changed", "vc8_strict", "flicker"), pairs, strict=True))
    boundaries = torch.from_numpy(random.integers(5, 50, size=(sum(videos), 3, 4))).sort(-1).values[..., [1, 0, 3, 2]]
    flow = torch.from_numpy(random.integers(0, 90, size=(sum(videos), 3, 3)))
    return Evaluation(("a", "b", "c"), tuple(frames), counts, series, {"tc": flow}, boundaries)


def with_frames(evaluation: Evaluation, positions: list[int], names: list[str]) -> Evaluation:
    """An evaluation of these frames in these videos."""
    return Evaluation(
        evaluation.class_names,
        tuple(evaluation.frames[p]._replace(sequence=name) for p, name in zip(positions, names, strict=True)),
        evaluation.confusions[positions],
        {name: counts[positions] for name, counts in evaluation.series.items()},
        {name: counts[positions] for name, counts in evaluation.flow_confusions.items()},
        evaluation.boundaries[positions],
    )
