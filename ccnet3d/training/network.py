"""The model as a training step runs it, with the recipe's batch norms, gradients and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ccnet3d.errors import UserError
from ccnet3d.losses import Losses
from ccnet3d.models import CCNet3D, TrainingOutputs, feature_channels
from ccnet3d.training.recipe import ComputeRecipe

__all__ = ["TrainingNetwork", "leaves_parameters_unused"]


class TrainingNetwork(nn.Module):
    """A model with the recipe's batch norms, activation checkpointing and backbone gradients.

    The model itself is changed in place.

    Args:
        model: on its device.
        recipe: how a step is computed.
        trained: names of the parts of the model that are trained; empty for all.
        frozen: names of the parts that are not trained, in place of ``trained``.

    Raises:
        UserError: the model has no such part.
    """

    def __init__(
        self, model: CCNet3D, recipe: ComputeRecipe, trained: Sequence[str] = (), frozen: Sequence[str] = ()
    ) -> None:
        super().__init__()
        parts = dict(model.named_children())
        for key, names in (("trained", trained), ("frozen", frozen)):
            if unknown := [name for name in names if name not in parts]:
                raise UserError(f"model.{key} names {unknown[0]!r}, which the model lacks; it has {', '.join(parts)}")
        self.constant = [part for name, part in parts.items() if name in frozen or (trained and name not in trained)]
        if len(self.constant) == len(parts):
            raise UserError("model.frozen names every part of the model; leave at least one to be trained")
        for part in self.constant:
            part.requires_grad_(False)
        self.model: CCNet3D = convert_sync_batchnorm(model) if recipe.sync_batch_norm else model
        self.freeze_batch_norm = recipe.freeze_batch_norm
        self.anchors_only = recipe.backbone_gradients == "anchor"
        if recipe.activation_checkpointing:
            _checkpoint_activations(self.model)

    def train(self, mode: bool = True) -> TrainingNetwork:
        """Set the training mode; frozen batch norms and parts that are not trained remain in evaluation mode."""
        super().train(mode)
        for part in self.constant:
            part.eval()
        if self.freeze_batch_norm:
            for norm in _batch_norms(self):
                norm.eval()
        return self

    def forward(self, clip: Tensor, anchors: Tensor) -> TrainingOutputs:
        """Return the outputs of :meth:`CCNet3D.forward_with_auxiliary`.

        Args:
            clip: ``[B, T, 3, H, W]``, RGB in [0, 1].
            anchors: int64 ``[B]``, offset of each clip's anchor: the frame from which the backbone learns, if the
                recipe has it learn from one frame per clip.
        """
        levels = self._levels_of_anchors(clip, anchors) if self.anchors_only and clip.shape[1] > 1 else None
        return self.model.forward_with_auxiliary(clip, levels)

    def _levels_of_anchors(self, clip: Tensor, anchors: Tensor) -> list[Tensor]:
        """Return backbone levels ``[B*T, C_l, H_l, W_l]`` with a gradient for the anchors only."""
        batch, length = clip.shape[:2]
        learning = torch.zeros(batch, length, dtype=torch.bool, device=clip.device)
        learning[torch.arange(batch, device=clip.device), anchors] = True
        frames, learning = clip.flatten(0, 1), learning.flatten()
        with torch.no_grad():
            others = self.model.extract_features(frames[~learning])
        levels = []
        for level, other in zip(self.model.extract_features(frames[learning]), others, strict=True):
            whole = level.new_empty(batch * length, *level.shape[1:]).to(memory_format=torch.channels_last)
            levels.append(whole.index_put((~learning,), other).index_put((learning,), level))
        return levels


def leaves_parameters_unused(model: CCNet3D, losses: Losses) -> bool:
    """Return whether a training step leaves parameters that need a gradient without one."""
    if not any(parameter.requires_grad for parameter in model.auxiliary.parameters()):
        return False  # a part of the network is trained, behind the rest
    config = model.config
    levels = {*config.context_levels, *config.skip_levels, config.auxiliary_level}
    all_levels = max(levels) == len(feature_channels(model.backbone)) - 1
    return not (all_levels and losses.cross_entropy.weight and losses.cross_entropy.auxiliary_weight)


def _batch_norms(module: nn.Module) -> Iterator[_BatchNorm]:
    return (part for part in module.modules() if isinstance(part, _BatchNorm))


def _checkpoint_activations(model: CCNet3D) -> None:
    """Keep only the inputs of blocks for the backward pass, which recomputes the rest.

    A block is one of the backbone's stages, a convolution of the head or decoder, or a context module; criss-cross
    attention recomputes its maps in any case.

    Wrapping a block in a module would rename its weights in checkpoints, so its ``forward`` is replaced instead.
    """
    head, decoder = model.head, model.decoder
    context = [head.attention] if head.attention is not None and model.config.context != "criss_cross" else []
    blocks = [*head.blocks(), *context, model.auxiliary, *decoder.narrow, *decoder.merge]
    for block in [*_blocks(model.backbone), *blocks]:
        block.forward = _recomputed(block)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            yield from _blocks(child)
        elif any(True for _ in child.children()):  # a single layer keeps only its input anyway
            yield child


def _recomputed(block: nn.Module) -> Any:
    """Return the block's ``forward`` with its activations recomputed in the backward pass."""
    run = block.forward

    @wraps(run)
    def forward(*inputs: Tensor) -> Any:
        return checkpoint(run, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))

    return forward


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass and of its recomputation."""
    return nullcontext(), _keep_statistics(block)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, so that they do not count the same frames twice."""
    norms = list(_batch_norms(block))
    kept = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
