"""Instance segmentation: Mask R-CNN with criss-cross attention, on images in COCO's layout."""

from __future__ import annotations

from ccnet3d.instances.coco_data import CocoCategory, CocoImages, ImageTarget, open_coco
from ccnet3d.instances.coco_scores import CocoScores, coco_results, detect, evaluate_detector, score_results
from ccnet3d.instances.detector import DetectorConfig, ImageCrissCrossAttention, NonLocalBlock, build_detector
from ccnet3d.instances.detector_file import DetectorInfo, load_backbone, load_detector, save_detector, start_from
from ccnet3d.instances.instance_recipe import (
    CocoRecipe,
    InstanceRecipe,
    SgdRecipe,
    WeightsRecipe,
    read_instance_recipe,
)
from ccnet3d.instances.instance_run import DETECTIONS_NAME, draw_detections, segment_images
from ccnet3d.instances.instance_training import InstanceTrainer

__all__ = [
    "DETECTIONS_NAME",
    "CocoCategory",
    "CocoImages",
    "CocoRecipe",
    "CocoScores",
    "DetectorConfig",
    "DetectorInfo",
    "ImageCrissCrossAttention",
    "ImageTarget",
    "InstanceRecipe",
    "InstanceTrainer",
    "NonLocalBlock",
    "SgdRecipe",
    "WeightsRecipe",
    "build_detector",
    "coco_results",
    "detect",
    "draw_detections",
    "evaluate_detector",
    "load_backbone",
    "load_detector",
    "open_coco",
    "read_instance_recipe",
    "save_detector",
    "score_results",
    "segment_images",
    "start_from",
]
