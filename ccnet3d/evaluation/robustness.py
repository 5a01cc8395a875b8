"""Scores of a model whose input frames are corrupted, such as by noise or by blur."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ccnet3d.data import LabelledSequences, check_corruption, corrupt_frame
from ccnet3d.evaluation.evaluate import Segmenter, evaluate
from ccnet3d.evaluation.evaluation import Evaluation
from ccnet3d.files import write_atomically
from ccnet3d.metrics import choose_metrics

__all__ = ["evaluate_corrupted", "robustness_scores", "robustness_text", "save_robustness"]

_SEED = 0


def evaluate_corrupted(
    segmenter: Segmenter,
    dataset: LabelledSequences,
    names: Sequence[str],
    severity: int,
    *,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Evaluation]:
    """Yield the evaluation of the clean frames, then one evaluation per corruption.

    The model sees corrupted frames; labels and the images of optical flow stay clean. A corrupted frame depends only on
    the frame, the corruption, the severity and the frame's index in the dataset.

    Args:
        segmenter: the model.
        dataset: the split.
        names: keys of :data:`ccnet3d.data.CORRUPTIONS`.
        severity: 1 to 5.
        settings: kept in the results, with ``corruption`` and ``severity`` added where frames are corrupted.
        options: see :func:`evaluate`; a ``segments`` option must be reusable, such as a list.

    Raises:
        UserError: an unknown corruption or severity, before anything is evaluated; or as :func:`evaluate`.

    Example:
        >>> from PIL import Image
        >>> from ccnet3d import LabelledSequences, VideoSegmenter, load_model
        >>> from ccnet3d.data import LabelledFrame, LayoutSpec, read_dataset_spec
        >>> from ccnet3d.resources import dataset_file
        >>> Image.new("RGB", (64, 48)).save("0001.png")
        >>> Image.new("L", (64, 48)).save("0001_L.png")
        >>> frame = LabelledFrame("walk", 1, Path("0001.png"), Path("0001_L.png"))
        >>> dataset = LabelledSequences(read_dataset_spec(dataset_file("camvid")), [frame], LayoutSpec())
        >>> segmenter = VideoSegmenter(*load_model(), input_size=(48, 64))
        >>> [*robustness_scores([*evaluate_corrupted(segmenter, dataset, ["noise", "drop"], severity=3)])]
        ['clean', 'noise', 'drop', 'mean']
    """
    for name in names:
        check_corruption(name, severity)
    yield evaluate(segmenter, dataset, settings=settings, **options)
    for name in names:
        described = {**(settings or {}), "corruption": name, "severity": severity}
        yield evaluate(segmenter, dataset, settings=described, corrupt=_corruption(name, severity), **options)


def _corruption(name: str, severity: int) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda frame, index: corrupt_frame(frame, name, severity, (_SEED, index))


def robustness_scores(evaluations: Sequence[Evaluation]) -> dict[str, dict[str, float]]:
    """Return the scores of each evaluation of :func:`evaluate_corrupted`, and their mean over the corruptions.

    Returns:
        By row, then by score: ``clean``, the corruptions by name, and ``mean``, which is NaN where a corruption's score
        is.

    Example:
        >>> import torch
        >>> from ccnet3d.evaluation import EvaluatedFrame
        >>> frames = (EvaluatedFrame("walk", 1, "0001", 0),)
        >>> clean, noise, drop = (
        ...     Evaluation(("ground", "box"), frames, {"confusion": torch.tensor([counts])}, settings)
        ...     for counts, settings in [
        ...         ([[3, 0], [0, 5]], {}),
        ...         ([[2, 1], [1, 4]], {"corruption": "noise"}),
        ...         ([[0, 3], [3, 2]], {"corruption": "drop"}),
        ...     ]
        ... )
        >>> rows = robustness_scores([clean, noise, drop])
        >>> rows["mean"]["pixel_accuracy"]
        0.5
        >>> print(robustness_text(rows))
                          mIoU
        clean           100.00
        noise            58.33
        drop             12.50
        mean             35.42
    """
    rows = {str(evaluation.settings.get("corruption", "clean")): evaluation.scores for evaluation in evaluations}
    corrupted = [scores for name, scores in rows.items() if name != "clean"]
    rows["mean"] = {name: float(np.mean([scores[name] for scores in corrupted])) for name in rows["clean"]}
    return rows


def robustness_text(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table with one line per row of :func:`robustness_scores`, in percent.

    The columns are mIoU and the headline scores among those that were evaluated on demand, such as ``vc8_strict``.
    """
    columns = [
        score
        for metric in choose_metrics(rows["clean"])
        for score in metric.scores
        if score.name == "miou" or (metric.option and score.headline)
    ]
    titles = [score.title.rjust(6) for score in columns]
    lines = [" " * 16 + "  ".join(titles)]
    for row, scores in rows.items():
        cells = ["-" if math.isnan(scores[c.name]) else f"{100 * scores[c.name]:.2f}" for c in columns]
        shown = [cell.rjust(len(title)) for cell, title in zip(cells, titles, strict=True)]
        lines.append(f"{row:<16}{'  '.join(shown)}")
    return "\n".join(lines)


def save_robustness(path: Path, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Write rows of :func:`robustness_scores` as a JSON object, one line per row, NaN as null.

    Raises:
        OutputError: it cannot be written.
    """
    lines = []
    for row, scores in rows.items():
        values = {name: None if math.isnan(value) else value for name, value in scores.items()}
        lines.append(f" {json.dumps(row)}: {json.dumps(values, allow_nan=False)}")
    write_atomically(path, "\n".join(["{", ",\n".join(lines), "}", ""]).encode())
