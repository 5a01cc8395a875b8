"""Detections as COCO results, and COCO's average precision of them, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN

from ccnet3d.errors import UserError
from ccnet3d.instances.coco_data import CocoImages, quiet_coco

__all__ = ["CocoScores", "coco_results", "detect", "evaluate_detector", "score_results"]

_STATS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""The first six of COCOeval's twelve numbers."""

_MASK_THRESHOLD = 0.5


@dataclass(frozen=True)
class CocoScores:
    """COCO's average precision, in [0, 1]; None where there is nothing to find."""

    scores: dict[str, float | None]
    """``box_ap``, ``box_ap50``, ``box_ap75``, ``box_ap_small``, ``box_ap_medium``, ``box_ap_large``, and the same of
    ``mask``."""
    classes: dict[str, dict[str, float | None]]
    """``box_ap`` and ``mask_ap`` by the name of the class."""

    def table(self) -> dict[str, Any]:
        """Return the scores as a table for JSON."""
        return {"scores": self.scores, "classes": self.classes}

    def text(self) -> str:
        """Return a table of the scores, in percent.

        >>> print(CocoScores({"box_ap": 0.3934, "mask_ap": None}, {}).text())
                AP  AP50  AP75   APs   APm   APl
        box   39.3     -     -     -     -     -
        mask     -     -     -     -     -     -
        """
        rows = [["", "AP", "AP50", "AP75", "APs", "APm", "APl"]]
        for kind in ("box", "mask"):
            values = [self.scores.get(f"{kind}_{name}") for name in _STATS]
            rows.append([kind, *("-" if value is None else f"{100 * value:.1f}" for value in values)])
        return "\n".join(f"{first:4}" + "".join(f"{cell:>6}" for cell in others) for first, *others in rows)


@torch.inference_mode()
def detect(model: MaskRCNN, image: Tensor, precision: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the detections of an image, on the CPU.

    Args:
        model: in evaluation mode.
        image: uint8 ``[3, H, W]``.
        precision: of autocast; float32 for none.

    Returns:
        ``boxes`` float32 ``[N, 4]``, ``labels`` int64 ``[N]``, ``scores`` float32 ``[N]``, the most confident first,
        and ``masks`` bool ``[N, H, W]``.
    """
    device = next(model.parameters()).device
    with torch.autocast(device.type, precision, enabled=precision != torch.float32):
        found = model([image.to(device).float().div(255)])[0]
    return {
        "boxes": found["boxes"].float().cpu(),
        "labels": found["labels"].cpu(),
        "scores": found["scores"].float().cpu(),
        "masks": (found["masks"].squeeze(1) >= _MASK_THRESHOLD).cpu(),
    }


def coco_results(found: dict[str, Tensor], image_id: int, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the detections of an image in COCO's results format.

    Args:
        found: of :func:`detect`.
        image_id: of the image.
        category_ids: by label, from 1.
    """
    from pycocotools import mask

    pixels = np.asfortranarray(found["masks"].permute(1, 2, 0).numpy().astype(np.uint8))
    regions = mask.encode(pixels) if len(found["scores"]) else []
    results = []
    for box, label, score, region in zip(
        found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), regions, strict=True
    ):
        left, top, right, bottom = box
        results.append(
            {
                "image_id": image_id,
                "category_id": category_ids[label - 1],
                "bbox": [round(number, 2) for number in (left, top, right - left, bottom - top)],
                "score": round(score, 5),
                "segmentation": {"size": region["size"], "counts": region["counts"].decode("ascii")},
            }
        )
    return results


def evaluate_detector(
    model: MaskRCNN,
    data: CocoImages,
    category_ids: Sequence[int],
    *,
    precision: torch.dtype = torch.float32,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> tuple[CocoScores, list[dict[str, Any]]]:
    """Run a model on all images and score it; return the scores, and its detections in COCO's results format.

    Args:
        model: put into evaluation mode.
        data: the images.
        category_ids: of the model's classes, by label, from 1. Classes that the data does not have are left out.
        precision: see :func:`detect`.
        progress: shows progress over the indices of the images, or stops.

    Raises:
        UserError: the model has no class of the data, or an image or object is invalid.
    """
    known = {one.id for one in data.categories}
    if not known & {*category_ids}:
        raise UserError(
            f"the model has no category of the annotations: its ids are {str(list(category_ids[:8]))[1:-1]} ..., "
            f"theirs {str(sorted(known)[:8])[1:-1]} ..."
        )
    model.eval()
    results: list[dict[str, Any]] = []
    for index in progress(range(len(data))):
        found = coco_results(detect(model, data.read_image(index), precision), data.images[index].id, category_ids)
        results += [one for one in found if one["category_id"] in known]
    return score_results(data, results), results


def score_results(data: CocoImages, results: Sequence[dict[str, Any]]) -> CocoScores:
    """Return COCO's average precision of detections in COCO's results format, with ``bbox`` and ``segmentation``.

    Args:
        data: the images and their objects.
        results: the detections.

    Raises:
        UserError: an object of the data is invalid.
    """
    from pycocotools.cocoeval import COCOeval

    truth = data.ground_truth()
    scores: dict[str, float | None] = {}
    classes: dict[str, dict[str, float | None]] = {one.name: {} for one in data.categories}
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        # The area of a detection, which decides whether it is small, is that of its mask if it has no box.
        shown = results if kind == "bbox" else [{k: v for k, v in one.items() if k != "bbox"} for one in results]
        with contextlib.redirect_stdout(io.StringIO()):
            found = truth.loadRes([dict(one) for one in shown]) if shown else _nothing(truth)
            evaluation = COCOeval(truth, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        for stat, value in zip(_STATS, evaluation.stats[: len(_STATS)].tolist(), strict=True):
            scores[f"{name}_{stat}"] = None if value < 0 else value
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU thresholds, recalls, classes; all sizes
        for index, one in enumerate(data.categories):
            values = precision[:, :, index]
            classes[one.name][f"{name}_ap"] = float(values.mean()) if (values > -1).all() else None
    return CocoScores(scores, classes)


def _nothing(truth: Any) -> Any:
    """Return results without a detection, which pycocotools cannot read."""
    return quiet_coco({**truth.dataset, "annotations": []})
