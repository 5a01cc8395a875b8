"""What an evaluation found, frame by frame: every score, plot, comparison and test is a function of this one object.

An :class:`Evaluation` of F labelled frames and K classes holds integer counts, one row a frame, in the order of the
dataset (by sequence, then by number):

- ``frames``: F times (sequence, number, name, segment). Frames of one segment that stand side by side are neighbours in
  time; between segments there is a gap or another sequence.
- ``confusions``: ``[F, K, K]``, pixels by true class (row) and predicted class (column), void left out.
- ``series``: by name ``[F, 2]``, how many pixels (first) of how many (second); 0 of 0 where a frame has no value:
  ``kept`` (of the pixels labelled alike at t - 1 and t, those predicted alike) and ``changed`` (of all pixels, those
  predicted otherwise than at t - 1) are always there; ``vc8_strict``, ``vc8_reference`` and so on, and ``flicker``, on
  request.
- ``flow_confusions``: by name ``[F, K, K]``, the mask of t - 1 moved along the flow (row) against that of t (column):
  ``tc``, or ``tc_all`` where occluded pixels count too; on request.
- ``boundaries``: ``[F, K, 4]``, of each class the predicted boundary pixels, those of them near a true one, the true
  boundary pixels, those of them near a predicted one; or None.
- ``settings``: what was evaluated and how, for who reads it; plain JSON values.

``evaluation.json``, as :meth:`Evaluation.save` writes and :meth:`Evaluation.load` reads it, holds the scores of
:meth:`Evaluation.to_table` at its top, for people and scripts, and under ``record`` the fields above, from which the
scores are computed anew when it is read.
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

from ccnet3d.errors import UserError
from ccnet3d.files import write_atomically
from ccnet3d.metrics import (
    boundary_f,
    class_accuracy,
    class_iou,
    frequency_weighted_iou,
    mean_iou,
    pixel_accuracy,
)

VERSION = 1
"""Of ``record`` in evaluation.json."""


class EvaluatedFrame(NamedTuple):
    sequence: str
    number: int
    """In its sequence."""
    name: str
    """Of its image file, without extension."""
    segment: int
    """Number of the run of frames without a gap that it belongs to, from 0."""


@dataclass(frozen=True)
class Evaluation:
    """Counts of every frame of a split and the scores they give; scores are in [0, 1], NaN where nothing was labelled.

    See the module for what the fields hold.

    Raises:
        ValueError: fields that do not fit each other.
    """

    class_names: tuple[str, ...]
    frames: tuple[EvaluatedFrame, ...]
    confusions: Tensor
    series: Mapping[str, Tensor] = field(default_factory=dict)
    flow_confusions: Mapping[str, Tensor] = field(default_factory=dict)
    boundaries: Tensor | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        frames_count, classes_count = len(self.frames), len(self.class_names)
        square = (frames_count, classes_count, classes_count)
        wanted: dict[str, tuple[Tensor, tuple[int, ...]]] = {"confusions": (self.confusions, square)}
        wanted |= {f"series {name}": (counts, (frames_count, 2)) for name, counts in self.series.items()}
        wanted |= {f"flow_confusions {name}": (counts, square) for name, counts in self.flow_confusions.items()}
        if self.boundaries is not None:
            wanted["boundaries"] = self.boundaries, (frames_count, classes_count, 4)
        for name, (counts, shape) in wanted.items():
            if counts.dtype != torch.long or counts.shape != shape:
                raise UserError(
                    f"{name} must be int64 {list(shape)} for {frames_count} frames and {classes_count} classes, got "
                    f"{counts.dtype} {list(counts.shape)}"
                )

    @property
    def sequences(self) -> tuple[str, ...]:
        """Sequence of each frame."""
        return tuple(frame.sequence for frame in self.frames)

    @property
    def videos(self) -> dict[str, list[int]]:
        """The positions of each sequence's frames."""
        members: dict[str, list[int]] = {}
        for position, frame in enumerate(self.frames):
            members.setdefault(frame.sequence, []).append(position)
        return members

    @property
    def pooled(self) -> Tensor:
        """int64 ``[K, K]``, one confusion matrix over all labelled pixels of all frames."""
        return self.confusions.sum(0)

    @property
    def miou(self) -> float:
        """Mean IoU of the pooled confusion matrix."""
        return float(mean_iou(self.pooled))

    @property
    def per_class_iou(self) -> dict[str, float]:
        return self._by_class(class_iou(self.pooled))

    @property
    def per_class_accuracy(self) -> dict[str, float]:
        return self._by_class(class_accuracy(self.pooled))

    @property
    def per_frame_miou(self) -> float:
        """Mean over frames of the mIoU of each by itself."""
        return _mean(mean_iou(self.confusions))

    @property
    def video_miou(self) -> float:
        """Mean over sequences of the mIoU of each one's pooled frames."""
        return self._mean_over_videos(self.confusions)

    @property
    def frame_boundary_f(self) -> Tensor:
        """Boundary F-score of each frame, its mean over classes with a boundary: float64 ``[F]``, NaN without one.

        Raises:
            ValueError: boundaries were not evaluated.
        """
        return self._boundary_f().nanmean(1)

    @property
    def per_class_boundary_f(self) -> dict[str, float]:
        """Mean over frames of each class's boundary F-score.

        Raises:
            ValueError: boundaries were not evaluated.
        """
        scores = self._boundary_f()
        return {name: _mean(scores[:, k]) for k, name in enumerate(self.class_names)}

    @property
    def boundary_f(self) -> float:
        """Mean over classes of :attr:`per_class_boundary_f`.

        Raises:
            ValueError: boundaries were not evaluated.
        """
        return _mean(torch.tensor(list(self.per_class_boundary_f.values()), dtype=torch.double))

    def shares(self, name: str) -> Tensor:
        """A series as float64 ``[F]`` in [0, 1], NaN where a frame has no value."""
        counts = self.series[name].double()
        return counts[:, 0] / counts[:, 1]

    @property
    def consistency(self) -> dict[str, float]:
        """Scores over time by name: ``vc8_strict`` and so on (means over windows), ``flicker``, ``tc``."""
        scores = {name: _mean(self.shares(name)) for name in self.series if name.startswith("vc")}
        if "flicker" in self.series:
            flickers, pixels = self.series["flicker"].sum(0).tolist()
            scores["flicker"] = flickers / pixels if pixels else math.nan
        return scores | {name: self._mean_over_videos(counts) for name, counts in self.flow_confusions.items()}

    def to_table(self) -> dict[str, Any]:
        """The scores under the names that users read, NaN as None."""
        scores: dict[str, Any] = {
            "miou": self.miou,
            "per_class_iou": self.per_class_iou,
            "per_frame_miou": self.per_frame_miou,
            "video_miou": self.video_miou,
            "pixel_accuracy": float(pixel_accuracy(self.pooled)),
            "class_accuracy": float(class_accuracy(self.pooled).nanmean()),
            "per_class_accuracy": self.per_class_accuracy,
            "frequency_weighted_iou": float(frequency_weighted_iou(self.pooled)),
            "frames": len(self.frames),
            "videos": len(self.videos),
        }
        if self.boundaries is not None:
            scores |= {"boundary_f": self.boundary_f, "per_class_boundary_f": self.per_class_boundary_f}
        if consistency := self.consistency:
            scores["consistency"] = consistency
        return _without_nan(scores)

    def save(self, path: Path) -> None:
        """Write ``evaluation.json``."""
        record = {
            "version": VERSION,
            "class_names": self.class_names,
            "frames": self.frames,
            "confusions": self.confusions.tolist(),
            "series": {name: counts.tolist() for name, counts in self.series.items()},
            "flow_confusions": {name: counts.tolist() for name, counts in self.flow_confusions.items()},
            "boundaries": None if self.boundaries is None else self.boundaries.tolist(),
            "settings": dict(self.settings),
        }
        scores = json.dumps(self.to_table(), indent=1, allow_nan=False)
        packed = json.dumps(record, separators=(",", ":"), allow_nan=False)
        write_atomically(path, f'{scores[:-2]},\n "record": {packed}\n}}\n'.encode())

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: no such file, or another one.
        """
        try:
            record = json.loads(path.read_text(encoding="utf-8"))["record"]
            if record["version"] != VERSION:
                raise UserError(f"version {record['version']} of the record, where this ccnet3d reads {VERSION}")
            names = tuple(map(str, record["class_names"]))
            frames = tuple(EvaluatedFrame(str(s), int(n), str(name), int(g)) for s, n, name, g in record["frames"])
            square = (len(frames), len(names), len(names))
            boundaries = record["boundaries"]
            return cls(
                names,
                frames,
                _counts(record["confusions"], square),
                {name: _counts(rows, (len(frames), 2)) for name, rows in record["series"].items()},
                {name: _counts(rows, square) for name, rows in record["flow_confusions"].items()},
                None if boundaries is None else _counts(boundaries, (len(frames), len(names), 4)),
                dict(record["settings"]),
            )
        except OSError as error:
            raise UserError(f"cannot read the evaluation {path}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise UserError(
                f"{path} is not an evaluation ({what}); give a file that scripts/evaluate.py --json wrote"
            ) from error

    def _by_class(self, scores: Tensor) -> dict[str, float]:
        return dict(zip(self.class_names, scores.tolist(), strict=True))

    def _boundary_f(self) -> Tensor:
        if self.boundaries is None:
            raise UserError("boundaries were not evaluated; evaluate again with them")
        return boundary_f(self.boundaries)

    def _mean_over_videos(self, confusions: Tensor) -> float:
        pooled = [confusions[members].sum(0) for members in self.videos.values()]
        return _mean(mean_iou(torch.stack(pooled))) if pooled else math.nan


def _mean(values: Tensor) -> float:
    """Mean of those that are not NaN; added exactly, so that their order does not matter."""
    known = values[~values.isnan()].tolist()
    return math.fsum(known) / len(known) if known else math.nan


def _counts(rows: Any, shape: tuple[int, ...]) -> Tensor:
    """Of nested lists; an empty list has any shape without elements."""
    counts = torch.tensor(rows)
    return counts.new_zeros(shape, dtype=torch.long) if not counts.numel() and 0 in shape else counts


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
