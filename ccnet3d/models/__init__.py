"""CCNet3D models: architecture, named configurations, model files."""

from ccnet3d.models.ccnet3d import CCNet3D, TrainingOutputs
from ccnet3d.models.config import ModelConfig
from ccnet3d.models.zoo import ARCHITECTURES, ModelInfo, fingerprint, load_model, save_model

__all__ = [
    "ARCHITECTURES",
    "CCNet3D",
    "ModelConfig",
    "ModelInfo",
    "TrainingOutputs",
    "fingerprint",
    "load_model",
    "save_model",
]
