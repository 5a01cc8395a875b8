"""Files of detectors: our own, those of torchvision, and ImageNet weights of the backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torchvision.models import get_model_weights
from torchvision.models.detection import MaskRCNN, MaskRCNN_ResNet50_FPN_Weights

from ccnet3d.config import check_range, from_table, parse_json
from ccnet3d.errors import UserError
from ccnet3d.files import is_file, load_tensors, write_atomically
from ccnet3d.instances.detector import CONTEXT_PREFIX, DetectorConfig, build_detector
from ccnet3d.resources import DETECTOR_METADATA_KEY

__all__ = ["DetectorInfo", "load_backbone", "load_detector", "save_detector", "start_from"]

_FORMAT = 1

_PER_CLASS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
"""Layers with outputs for each class, the background first, and the number of these."""


@dataclass(frozen=True)
class DetectorInfo:
    """What is saved with a detector's weights.

    >>> info = DetectorInfo(DetectorConfig(), class_names=("person", "car"), category_ids=(1, 3))
    >>> info.category_ids[1]
    3
    """

    detector: DetectorConfig
    class_names: tuple[str, ...]
    """By label, from 1; 0 is the background."""
    category_ids: tuple[int, ...]
    """The id of each class in the annotation files."""
    dataset: str = ""
    """The data that the weights were trained on."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The training recipe as a table."""
    scores: Mapping[str, float | None] = field(default_factory=dict)
    """Scores by name, measured at the end of training."""

    def __post_init__(self) -> None:
        check_range("the number of classes", len(self.class_names), 1, 10_000)
        if len(self.category_ids) != len(self.class_names) or len(set(self.category_ids)) < len(self.category_ids):
            raise UserError("class_names and category_ids must be equally many, and the ids different")
        if len(set(self.class_names)) < len(self.class_names):
            raise UserError("two classes have the same name")
        check_range("category_ids", self.category_ids, 0, 1 << 62)


def save_detector(path: Path, model: MaskRCNN, info: DetectorInfo) -> None:
    """Write weights (float32) and info to one safetensors file, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    header = json.dumps({"format": _FORMAT, **asdict(info)})
    write_atomically(path, save(tensors, metadata={DETECTOR_METADATA_KEY: header}))


def load_detector(path: Path) -> tuple[MaskRCNN, DetectorInfo]:
    """Load a detector, in evaluation mode on the CPU.

    Args:
        path: a file of :func:`save_detector`, or torchvision's COCO weights of ``maskrcnn_resnet50_fpn``.

    Raises:
        UserError: it is neither.
    """
    if not is_file(path):
        raise UserError(f"there is no model file at {path}; give a .safetensors file that training wrote")
    if path.suffix != ".safetensors":
        return _load_torchvision(path)
    try:
        with safe_open(path, framework="pt") as file:
            info = _parse_info(file.metadata() or {})
            _check_weights(file, info)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
            raise UserError(f"{bad[0]} has values that are not finite")
        model = build_detector(info.detector, len(info.class_names))
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is not a ccnet3d detector ({error}); give a .safetensors file that ccnet3d-instances train wrote"
        ) from error
    return model.eval(), info


def start_from(
    model: MaskRCNN, info: DetectorInfo, other: MaskRCNN, other_info: DetectorInfo, *, source: str = "initial_weights"
) -> None:
    """Load the weights of another detector: those of a class where both have one of that name.

    The context module keeps its own weights, unless both have the same one.

    Args:
        model: gets the weights.
        info: its description.
        other: has the weights.
        other_info: its description.
        source: the name of the other, for messages.

    Raises:
        UserError: it is of another architecture.
    """
    own, state = model.state_dict(), other.state_dict()
    names = ("background", *other_info.class_names)
    chosen = [names.index(name) if name in names else None for name in ("background", *info.class_names)]
    for layer, outputs in _PER_CLASS.items():
        for kind in ("weight", "bias"):
            key = f"{layer}.{kind}"
            rows = own[key].clone().unflatten(0, (-1, outputs))
            trained = state[key].unflatten(0, (-1, outputs))
            for label, number in enumerate(chosen):
                if number is not None and rows[label].shape == trained[number].shape:
                    rows[label] = trained[number]
            state[key] = rows.flatten(0, 1)
    if info.detector.context != other_info.detector.context:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(CONTEXT_PREFIX)}
    _load_all_but_context(model, state, f"{source} is of another architecture")


def load_backbone(model: MaskRCNN, backbone: str, source: str) -> None:
    """Load the ImageNet weights of a classifier into the backbone.

    Args:
        model: the detector.
        backbone: its backbone.
        source: ``hub`` for torchvision's weights, or a file of those (or timm's, which have the same names).

    Raises:
        UserError: no such file, or the weights of another backbone.
    """
    if source == "hub":
        try:
            state = get_model_weights(backbone)["IMAGENET1K_V1"].get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"the ImageNet weights of {backbone} cannot be downloaded ({str(error).splitlines()[0]}); check the "
                "network, or name a file with weights.backbone_weights"
            ) from error
    else:
        state = _read_state(Path(source), f"give the weights of torchvision's {backbone}")
    own = model.state_dict()
    prefix = "backbone.body."
    state = {f"{prefix}{key}": tensor for key, tensor in state.items() if f"{prefix}{key}" in own}
    missing = [key for key in own if key.startswith(prefix) and key not in state and not key.startswith(CONTEXT_PREFIX)]
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or any(tensor.shape != own[key].shape for key, tensor in state.items()):
        raise UserError(f"{source} does not contain the weights of torchvision's {backbone}")
    model.load_state_dict(state, strict=False)


def _load_torchvision(path: Path) -> tuple[MaskRCNN, DetectorInfo]:
    """Load the published weights, whose labels are COCO's category ids, and whose batch norms have no epsilon."""
    categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    names = [f"{name} {id_}" if name == "N/A" else name for id_, name in enumerate(categories)][1:]  # unused ids
    config = DetectorConfig(context="none", batch_norm_epsilon=0.0)
    advice = "give torchvision's COCO weights of maskrcnn_resnet50_fpn (maskrcnn_resnet50_fpn_coco-*.pth)"
    state = _read_state(path, advice)
    scores = state.get("roi_heads.box_predictor.cls_score.weight")
    if scores is None or len(scores) != len(categories):  # before the network takes memory
        raise UserError(f"{path} is of another model, or of other classes; {advice}")
    model = build_detector(config, len(names))
    _load_all_but_context(model, state, f"{path} is of another model; {advice}")
    ids = tuple(range(1, len(names) + 1))
    return model.eval(), DetectorInfo(config, tuple(names), ids, dataset="COCO train2017, by torchvision")


def _load_all_but_context(model: MaskRCNN, state: dict[str, Tensor], problem: str) -> None:
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{problem}: {str(error).splitlines()[-1].strip()}") from error
    if wrong := [*unexpected, *(key for key in missing if not key.startswith(CONTEXT_PREFIX))]:
        raise UserError(f"{problem}: {wrong[0]} is {'unexpected' if wrong[0] in unexpected else 'missing'}")


def _read_state(path: Path, advice: str) -> dict[str, Tensor]:
    if not is_file(path):
        raise UserError(f"there are no weights at {path}; {advice}")
    try:
        state = load_file(path) if path.suffix == ".safetensors" else load_tensors(path)
    except Exception as error:  # as in load_tensors
        raise UserError(f"{path} cannot be read as a file with only tensors; {advice}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):  # of torchvision's training script
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise UserError(f"{path} does not contain tensors by name; {advice}")
    return state


def _parse_info(metadata: Mapping[str, str]) -> DetectorInfo:
    if DETECTOR_METADATA_KEY not in metadata:
        raise UserError(f"its header lacks the key {DETECTOR_METADATA_KEY!r}")
    header = parse_json(metadata[DETECTOR_METADATA_KEY])
    if header.pop("format", None) != _FORMAT:
        raise UserError(f"its format is not {_FORMAT}")
    return from_table(DetectorInfo, header)


def _check_weights(file: safe_open, info: DetectorInfo) -> None:
    """Compare names and shapes with those of the architecture, before either takes memory."""
    with torch.device("meta"):
        expected = build_detector(info.detector, len(info.class_names)).state_dict()
    shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - not a dict
    if wrong := _different(shapes, {name: tuple(tensor.shape) for name, tensor in expected.items()}):
        raise UserError(f"{wrong[0]} does not fit the architecture")


def _different(first: Mapping[str, object], second: Mapping[str, object]) -> Sequence[str]:
    return sorted(name for name in {*first, *second} if first.get(name) != second.get(name))
