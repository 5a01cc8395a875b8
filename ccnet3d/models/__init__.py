"""CCNet3D models: architecture, named architectures, model files.

What needs PyTorch is imported when it is first used, so that a file's header can be read without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ccnet3d.models.architecture import CONTEXTS, ModelConfig
from ccnet3d.models.card import describe_file, model_card, push_to_hub
from ccnet3d.models.model_header import ModelInfo
from ccnet3d.resources import shipped_weights

if TYPE_CHECKING:
    from ccnet3d.models.backbone import feature_channels, input_normalization
    from ccnet3d.models.backbone_weights import load_backbone_weights, load_head_weights
    from ccnet3d.models.ccnet3d import CCNet3D, DecodedFrames, FrameFeatures, TrainingOutputs
    from ccnet3d.models.context import (
        AtrousPyramid,
        AxialAttention,
        GlobalConvolution,
        LocalWindowAttention,
        NonLocalAttention,
        PyramidPooling,
        build_context,
    )
    from ccnet3d.models.evidence import ClassEvidence, ClassEvidenceAttention
    from ccnet3d.models.fuse import fuse_activations, fuse_batch_norms
    from ccnet3d.models.parts import SIZE_STEP, ClipPart, FramePart, kept_names, network_parts
    from ccnet3d.models.published import PublishedModel, load_published
    from ccnet3d.models.timm_families import import_families_only
    from ccnet3d.models.transfer import Transfer, transfer_weights
    from ccnet3d.models.zoo import ARCHITECTURES, fingerprint, load_model, save_model

__all__ = [
    "ARCHITECTURES",
    "CONTEXTS",
    "SIZE_STEP",
    "AtrousPyramid",
    "AxialAttention",
    "CCNet3D",
    "ClassEvidence",
    "ClassEvidenceAttention",
    "ClipPart",
    "DecodedFrames",
    "FrameFeatures",
    "FramePart",
    "GlobalConvolution",
    "LocalWindowAttention",
    "ModelConfig",
    "ModelInfo",
    "NonLocalAttention",
    "PublishedModel",
    "PyramidPooling",
    "TrainingOutputs",
    "Transfer",
    "build_context",
    "describe_file",
    "feature_channels",
    "fingerprint",
    "fuse_activations",
    "fuse_batch_norms",
    "import_families_only",
    "input_normalization",
    "kept_names",
    "load_backbone_weights",
    "load_head_weights",
    "load_model",
    "load_published",
    "model_card",
    "network_parts",
    "push_to_hub",
    "save_model",
    "shipped_weights",
    "transfer_weights",
]

_MODULE_OF = {
    "ARCHITECTURES": "zoo",
    "SIZE_STEP": "parts",
    "ClipPart": "parts",
    "FramePart": "parts",
    "kept_names": "parts",
    "network_parts": "parts",
    "AtrousPyramid": "context",
    "AxialAttention": "context",
    "CCNet3D": "ccnet3d",
    "ClassEvidence": "evidence",
    "ClassEvidenceAttention": "evidence",
    "DecodedFrames": "ccnet3d",
    "FrameFeatures": "ccnet3d",
    "GlobalConvolution": "context",
    "LocalWindowAttention": "context",
    "NonLocalAttention": "context",
    "PublishedModel": "published",
    "PyramidPooling": "context",
    "TrainingOutputs": "ccnet3d",
    "Transfer": "transfer",
    "build_context": "context",
    "feature_channels": "backbone",
    "fingerprint": "zoo",
    "fuse_activations": "fuse",
    "fuse_batch_norms": "fuse",
    "import_families_only": "timm_families",
    "input_normalization": "backbone",
    "load_backbone_weights": "backbone_weights",
    "load_head_weights": "backbone_weights",
    "load_model": "zoo",
    "load_published": "published",
    "save_model": "zoo",
    "transfer_weights": "transfer",
}
"""The module that each lazy name is imported from; the same as the imports above."""

if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value  # so that this function runs once per name
        return value
