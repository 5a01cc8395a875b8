"""ccnet3d: video semantic segmentation with recurrent 3D criss-cross attention.

The names below are imported when they are first used, so ``import ccnet3d`` takes a few milliseconds. Everything else
is public in its package: :mod:`ccnet3d.attention`, :mod:`ccnet3d.models`, :mod:`ccnet3d.video`, ...
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers treat it as True; importing it from typing would take 10 ms
if TYPE_CHECKING:
    from ccnet3d.attention import (
        CrissCrossAttention,
        RecurrentCrissCrossAttention,
        criss_cross_attention,
        criss_cross_attention_backends,
    )
    from ccnet3d.data import LabelledSequences
    from ccnet3d.errors import UserError
    from ccnet3d.evaluation import Evaluation, evaluate
    from ccnet3d.inference import TestTimeAugmentation, VideoSegmenter, segment_video
    from ccnet3d.masks import open_masks
    from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo, load_model, save_model
    from ccnet3d.training import Trainer, read_recipe
    from ccnet3d.video import open_video

__version__ = "0.1.0"

__all__ = [
    "CCNet3D",
    "CrissCrossAttention",
    "Evaluation",
    "LabelledSequences",
    "ModelConfig",
    "ModelInfo",
    "RecurrentCrissCrossAttention",
    "TestTimeAugmentation",
    "Trainer",
    "UserError",
    "VideoSegmenter",
    "__version__",
    "criss_cross_attention",
    "criss_cross_attention_backends",
    "evaluate",
    "load_model",
    "open_masks",
    "open_video",
    "read_recipe",
    "save_model",
    "segment_video",
]

_MODULE_OF = {
    "CCNet3D": "models",
    "CrissCrossAttention": "attention",
    "Evaluation": "evaluation",
    "LabelledSequences": "data",
    "ModelConfig": "models",
    "ModelInfo": "models",
    "RecurrentCrissCrossAttention": "attention",
    "TestTimeAugmentation": "inference",
    "Trainer": "training",
    "UserError": "errors",
    "VideoSegmenter": "inference",
    "criss_cross_attention": "attention",
    "criss_cross_attention_backends": "attention",
    "evaluate": "evaluation",
    "load_model": "models",
    "open_masks": "masks",
    "open_video": "video",
    "read_recipe": "training",
    "save_model": "models",
    "segment_video": "inference",
}
"""The module that each lazy name is imported from; the same as the imports above."""

if not TYPE_CHECKING:  # else type checkers would accept every name

    def __getattr__(name: str) -> object:
        if name in _MODULE_OF:
            value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
            globals()[name] = value  # so that this function runs once per name
            return value
        from difflib import get_close_matches

        similar = get_close_matches(name, __all__, n=1)
        suggestion = f"; did you mean {similar[0]!r}?" if similar else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{suggestion}", name=name)

    def __dir__() -> list[str]:
        return list(__all__)
