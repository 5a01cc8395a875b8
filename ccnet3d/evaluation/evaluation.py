"""The result of an evaluation: counts of every frame, from which every score, plot, comparison and test is computed.

``evaluation.json``, as :meth:`Evaluation.save` writes and :meth:`Evaluation.load` reads it, has the scores of
:meth:`Evaluation.to_table` at its top, for people and scripts, and the fields of :class:`Evaluation` under ``record``.
Loading computes the scores from the record.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.metrics import Metric, Samples, find_metric, mean_iou

__all__ = ["EvaluatedFrame", "Evaluation"]

_VERSION = 2
"""Of ``record`` in evaluation.json."""

_MOST_PIXELS = 1 << 40
"""Of one count, so that no sum of counts overflows."""


class EvaluatedFrame(NamedTuple):
    sequence: str
    number: int
    """Frame number in its sequence."""
    name: str
    """Name of its image file, without extension."""
    segment: int
    """Index of its segment in the dataset."""


@dataclass(frozen=True)
class Evaluation:
    """Counts of F labeled frames with K classes, and the scores computed from them.

    Scores are in [0, 1], NaN where nothing was labeled.

    Raises:
        UserError: fields that do not fit each other.

    Example:
        >>> frames = (EvaluatedFrame("walk", 1, "0001", 0), EvaluatedFrame("walk", 2, "0002", 0))
        >>> confusions = torch.tensor([[[3, 1], [0, 4]], [[4, 0], [0, 4]]])
        >>> evaluation = Evaluation(("ground", "box"), frames, {"confusion": confusions})
        >>> round(evaluation.miou, 3), round(evaluation.scores["per_frame_miou"], 3)
        (0.882, 0.887)
    """

    class_names: tuple[str, ...]
    frames: tuple[EvaluatedFrame, ...]
    """In the order of the dataset: by sequence, then by number. Adjacent frames of one segment are neighbors in time;
    between segments there is a gap or another sequence."""
    counts: Mapping[str, Tensor]
    """By metric, int64 ``[F, *shape]``; see :func:`ccnet3d.metrics.find_metric`. ``confusion`` is always there."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was evaluated and how, for readers; plain JSON values."""

    def __post_init__(self) -> None:
        if "confusion" not in self.counts:
            raise UserError(f"an evaluation needs the counts 'confusion', got {', '.join(self.counts) or 'none'}")
        frames_count, classes_count = len(self.frames), len(self.class_names)
        for name, counts in self.counts.items():
            shape = (frames_count, *find_metric(name).shape(classes_count))
            if counts.dtype != torch.long or counts.shape != shape:
                raise UserError(
                    f"the counts {name} must be int64 {list(shape)} for {frames_count} frames and {classes_count} "
                    f"classes, got {counts.dtype} {list(counts.shape)}"
                )

    @property
    def sequences(self) -> tuple[str, ...]:
        """Sequence of each frame."""
        return tuple(frame.sequence for frame in self.frames)

    @property
    def videos(self) -> dict[str, list[int]]:
        """Indices of each sequence's frames."""
        members: dict[str, list[int]] = {}
        for index, frame in enumerate(self.frames):
            members.setdefault(frame.sequence, []).append(index)
        return members

    @property
    def confusions(self) -> Tensor:
        """int64 ``[F, K, K]``, labeled pixels of each frame by true class (row) and predicted class (column)."""
        return self.counts["confusion"]

    @property
    def pooled(self) -> Tensor:
        """int64 ``[K, K]``, one confusion matrix over all labeled pixels of all frames."""
        return self.confusions.sum(0)

    @property
    def metrics(self) -> list[tuple[Metric, Tensor]]:
        """What was counted, with the counts."""
        return [(find_metric(name), counts) for name, counts in self.counts.items()]

    @property
    def scores(self) -> dict[str, float]:
        """Every score by name, in the order of the counts; see :func:`ccnet3d.metrics.find_score`."""
        return {name: float(values) for name, values in self.sample_scores(self._whole).items()}

    @property
    def miou(self) -> float:
        """Mean IoU of the pooled confusion matrix."""
        return float(mean_iou(self.pooled))

    @property
    def frame_scores(self) -> dict[str, Tensor]:
        """Scores of single frames by name, float64 ``[F]``, NaN where a frame has none."""
        return {
            score.name: score.frame_values(counts)
            for metric, counts in self.metrics
            for score in metric.scores
            if score.per_frame
        }

    def sample_scores(self, samples: Samples) -> dict[str, Tensor]:
        """Return every score of samples of the frames, float64 ``[S]`` each, NaN where there is nothing to score."""
        return {
            score.name: score.value(counts, samples)
            for metric, counts in self.metrics
            for score in metric.scores
            if score.over
        }

    def class_scores(self, name: str) -> dict[str, float]:
        """Return a score of each class, such as the classes' IoU for ``miou``.

        Args:
            name: a score that was evaluated and exists for classes.

        Raises:
            UserError: it was not evaluated.
        """
        for metric, counts in self.metrics:
            for score in metric.scores:
                if score.name == name:
                    values = score.class_values(counts, self._whole)[0]
                    return dict(zip(self.class_names, values.tolist(), strict=True))
        raise UserError(f"{name} was not evaluated; evaluate again with it")

    def to_table(self) -> dict[str, Any]:
        """Return the scores under the names that users read, NaN as None."""
        table: dict[str, Any] = {}
        scores = self.scores
        for metric, _ in self.metrics:
            for score in metric.scores:
                if not score.over:
                    continue
                section = table.setdefault(metric.section, {}) if metric.section else table
                section[score.name] = scores[score.name]
                if score.classes_name:
                    section[f"per_class_{score.classes_name}"] = self.class_scores(score.name)
            if metric.name == "confusion":
                table |= {"frames": len(self.frames), "videos": len(self.videos)}
        return _without_nan(table)

    def save(self, path: Path) -> None:
        """Write ``evaluation.json``, one line per key at its top.

        Raises:
            OutputError: it cannot be written.
        """
        record = {
            "version": _VERSION,
            "class_names": self.class_names,
            "settings": dict(self.settings),
            "frames": self.frames,
            "counts": {name: counts.tolist() for name, counts in self.counts.items()},
        }
        lines = [
            f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'), allow_nan=False)}"
            for key, value in {**self.to_table(), "record": record}.items()
        ]
        write_atomically(path, "\n".join(["{", ",\n".join(lines), "}", ""]).encode())

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            UserError: no such file, another one, or one of another version.
        """
        try:
            table = parse_json(path.read_bytes())
            record = table.get("record")
            if not isinstance(record, dict) or type(version := record.get("version")) is not int:
                raise UserError("it has no record with a version")
            if version == _VERSION:
                return from_table(_Record, record).to_evaluation()
        except OSError as error:
            raise UserError(f"cannot read the evaluation {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(
                f"{path} is not an evaluation ({str(error).splitlines()[0]}); give a file that ccnet3d-evaluate --json "
                "wrote"
            ) from error
        raise UserError(
            f"{path} has version {version} of the evaluation record, this ccnet3d reads version {_VERSION}; "
            "evaluate again"
        )

    @property
    def _whole(self) -> Samples:
        return Samples.whole(list(self.videos.values()))


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class _Record:
    """``record`` of evaluation.json."""

    version: int
    class_names: tuple[str, ...]
    settings: Mapping[str, Any]
    frames: tuple[tuple[str, int, str, int], ...]
    """The fields of each :class:`EvaluatedFrame`."""
    counts: Mapping[str, Any]
    """By metric, nested lists."""

    def __post_init__(self) -> None:
        check_range("the number of classes", len(self.class_names), 1, 255)  # a label has one byte per pixel

    def to_evaluation(self) -> Evaluation:
        """Return the evaluation.

        Raises:
            UserError: counts that are not counts of these frames and classes.
        """
        frames = tuple(EvaluatedFrame(*frame) for frame in self.frames)
        counts = {name: self._counts(name, rows) for name, rows in self.counts.items()}
        return Evaluation(self.class_names, frames, counts, self.settings)

    def _counts(self, name: str, rows: object) -> Tensor:
        if not self.frames and rows == []:  # an empty list has no shape
            return torch.zeros(0, *find_metric(name).shape(len(self.class_names))).long()
        try:
            counts = torch.tensor(rows)
        except (TypeError, ValueError, RuntimeError, RecursionError) as error:
            raise UserError(f"the counts {name[:80]} are not rows of equal lengths of numbers") from error
        if counts.numel():
            check_range(f"the counts {name[:80]}", (counts.min().item(), counts.max().item()), 0, _MOST_PIXELS)
        return counts
