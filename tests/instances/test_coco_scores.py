from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from miniature_coco import write_miniature

from ccnet3d.instances import CocoImages, coco_results, open_coco, score_results

cocoeval = pytest.importorskip("pycocotools.cocoeval")
coco = pytest.importorskip("pycocotools.coco")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_miniature(tmp_path_factory.mktemp("coco") / "data", train=1, val=24)


@pytest.fixture(scope="module")
def data(root: Path) -> CocoImages:
    return open_coco(root / "val2017", root / "annotations" / "instances_val2017.json")


def perfect(data: CocoImages) -> list[dict[str, Any]]:
    """Return the objects as detections."""
    ids = [one.id for one in data.categories]
    results = []
    for index, image in enumerate(data.images):
        target = data.read(index).target
        found = {
            "boxes": target["boxes"],
            "labels": target["labels"],
            "scores": torch.full((len(target["labels"]),), 0.9),
            "masks": target["masks"].bool(),
        }
        results += coco_results(found, image.id, ids)
    return results


def test_all_half_and_none(data: CocoImages) -> None:
    results = perfect(data)
    whole = score_results(data, results)
    assert whole.scores["box_ap"] == whole.scores["mask_ap"] == 1
    assert whole.classes["disk"] == {"box_ap": 1, "mask_ap": 1}
    assert whole.scores["mask_ap_large"] is None  # there is none
    assert whole.text().splitlines()[1] == "box  100.0 100.0 100.0 100.0     -     -"
    nothing = score_results(data, [])
    assert (nothing.scores["box_ap"], nothing.scores["mask_ap"]) == (0, 0)
    # A detector that never finds squares: the mean over three classes.
    without = score_results(data, [one for one in results if one["category_id"] != 3])
    assert without.scores["mask_ap"] == pytest.approx(2 / 3)
    assert without.classes["square"] == {"box_ap": 0, "mask_ap": 0}


def test_scores_equal_those_of_pycocotools_on_files(root: Path, data: CocoImages, tmp_path: Path) -> None:
    results = perfect(data)
    generator = torch.Generator().manual_seed(3)
    for one in results:  # boxes that are off by a few pixels, in a random order of confidence
        shift = torch.randint(-4, 5, (4,), generator=generator).tolist()
        one["bbox"] = [a + b for a, b in zip(one["bbox"], shift, strict=True)]
        one["score"] = float(torch.rand((), generator=generator))
        del one["segmentation"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO(str(root / "annotations" / "instances_val2017.json"))
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    empty = {"size": [64, 64], "counts": "PP4"}
    found = score_results(data, [{**one, "segmentation": empty} for one in results])
    assert 0.05 < found.scores["box_ap"] < 0.9
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    expected = {
        f"box_{name}": None if value < 0 else value for name, value in zip(names, evaluation.stats, strict=False)
    }
    assert {name: value for name, value in found.scores.items() if name.startswith("box")} == pytest.approx(expected)
    assert found.scores["mask_ap"] == 0
