"""CCNet3D models: architecture, named architectures, model files."""

from __future__ import annotations

from ccnet3d.models.architecture import CONTEXTS, ModelConfig
from ccnet3d.models.backbone import feature_channels, input_normalization
from ccnet3d.models.backbone_weights import load_backbone_weights, load_head_weights
from ccnet3d.models.card import describe_file, model_card, push_to_hub
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
from ccnet3d.models.fuse import fuse_batch_norms
from ccnet3d.models.published import PublishedModel, load_published
from ccnet3d.models.timm_families import import_families_only
from ccnet3d.models.transfer import Transfer, transfer_weights
from ccnet3d.models.zoo import ARCHITECTURES, ModelInfo, fingerprint, load_model, save_model, shipped_weights

__all__ = [
    "ARCHITECTURES",
    "CONTEXTS",
    "AtrousPyramid",
    "AxialAttention",
    "CCNet3D",
    "ClassEvidence",
    "ClassEvidenceAttention",
    "DecodedFrames",
    "FrameFeatures",
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
    "fuse_batch_norms",
    "import_families_only",
    "input_normalization",
    "load_backbone_weights",
    "load_head_weights",
    "load_model",
    "load_published",
    "model_card",
    "push_to_hub",
    "save_model",
    "shipped_weights",
    "transfer_weights",
]
