"""Evaluations with random counts."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from ccnet3d.evaluation import EvaluatedFrame, Evaluation


def random_evaluation(seed: int, videos: tuple[int, ...] = (5, 4, 3), skill: float = 3.0) -> Evaluation:
    """Return counts of three classes, with the same labels for every seed; more ``skill`` makes more pixels right."""
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
    bands = torch.from_numpy(random.integers(0, 50, size=(sum(videos), 3, 2))).sort(-1).values
    boundary = {"boundary_f": boundaries, "boundary_iou": bands}
    return Evaluation(("a", "b", "c"), tuple(frames), {"confusion": counts, **boundary, **series, "tc": flow})


def with_frames(evaluation: Evaluation, indices: list[int], names: list[str]) -> Evaluation:
    """Return the evaluation of these frames, moved to these videos."""
    frames = tuple(evaluation.frames[i]._replace(sequence=name) for i, name in zip(indices, names, strict=True))
    return Evaluation(
        evaluation.class_names, frames, {name: counts[indices] for name, counts in evaluation.counts.items()}
    )


def with_counts(evaluation: Evaluation, **counts: torch.Tensor) -> Evaluation:
    """Return the evaluation with some counts replaced."""
    return dataclasses.replace(evaluation, counts={**evaluation.counts, **counts})


def without_extras(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation with IoU and accuracy only."""
    return dataclasses.replace(evaluation, counts={"confusion": evaluation.confusions})
