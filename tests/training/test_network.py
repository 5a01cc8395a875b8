from __future__ import annotations

import copy
import dataclasses
from typing import NamedTuple

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D
from ccnet3d.training.network import TrainingNetwork
from ccnet3d.training.optimizer import build_optimizer
from ccnet3d.training.recipe import ComputeRecipe, OptimizerRecipe

CLIP = torch.rand(2, 3, 3, 32, 48, generator=torch.Generator().manual_seed(0))
ANCHORS = torch.tensor([0, 2])


class Pass(NamedTuple):
    outputs: tuple[Tensor, ...]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]
    kept_bytes: int


def one_pass(model: CCNet3D, recipe: ComputeRecipe, dtype: torch.dtype = torch.float32) -> Pass:
    """Forward and backward on CLIP, with the size of what autograd keeps for the backward pass."""
    network = TrainingNetwork(copy.deepcopy(model), recipe).train()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            outputs = network(CLIP, ANCHORS)
        loss = outputs[0].float().square().mean() + outputs[1].float().square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in network.model.named_parameters() if p.grad is not None}
    return Pass(outputs[:2], gradients, network.model.state_dict(), sum(kept.values()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_activations_change_only_memory(tiny_model: CCNet3D, dtype: torch.dtype) -> None:
    plain = one_pass(tiny_model, ComputeRecipe(), dtype)
    saving = one_pass(tiny_model, ComputeRecipe(activation_checkpointing=True), dtype)
    assert saving.kept_bytes < 0.5 * plain.kept_bytes
    # Outputs, gradients, running statistics and their counts, to the last bit; dropout repeats its draws.
    torch.testing.assert_close(saving[:3], plain[:3], rtol=0, atol=0)


@pytest.mark.parametrize("context", ["non_local", "ppm"])
def test_context_modules_are_recomputed_too(context: str) -> None:
    torch.manual_seed(0)
    model = CCNet3D(dataclasses.replace(TINY, context=context))
    without = CCNet3D(dataclasses.replace(TINY, context="none"))
    plain, saving, least = (
        one_pass(network, ComputeRecipe(activation_checkpointing=checkpointing))
        for network, checkpointing in ((model, False), (model, True), (without, True))
    )
    torch.testing.assert_close(saving[:3], plain[:3], rtol=0, atol=0)
    assert saving.kept_bytes - least.kept_bytes < 0.2 * (plain.kept_bytes - least.kept_bytes)


def test_frozen_batch_norms_keep_their_statistics(tiny_model: CCNet3D) -> None:
    frozen = one_pass(tiny_model, ComputeRecipe(freeze_batch_norm=True))
    free = one_pass(tiny_model, ComputeRecipe())
    buffers = dict(tiny_model.named_buffers())
    running = [name for name in tiny_model.state_dict() if name in buffers]
    assert running
    for name in running:
        torch.testing.assert_close(frozen.state[name], buffers[name], rtol=0, atol=0)
    assert any(not torch.equal(free.state[name], buffers[name]) for name in running)
    assert "head.fuse.0.1.weight" in frozen.gradients  # their weights are still trained


def test_the_backbone_learns_from_anchors_only(tiny_model: CCNet3D) -> None:
    """Against one frame at a time, all but the anchors detached; frozen norms do not mix frames."""
    model = copy.deepcopy(tiny_model)
    for module in model.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    frozen = ComputeRecipe(freeze_batch_norm=True, backbone_gradients="anchor")
    anchored = one_pass(model, frozen)
    everything = one_pass(model, ComputeRecipe(freeze_batch_norm=True))

    reference = copy.deepcopy(model).eval()
    frames = []
    for b in range(2):
        for t in range(3):
            levels = reference.extract_features(CLIP[b, t : t + 1])
            frames.append(levels if t == ANCHORS[b] else [level.detach() for level in levels])
    joined = [torch.cat(level) for level in zip(*frames, strict=True)]
    outputs = reference.forward_with_auxiliary(CLIP, joined)
    (outputs[0].square().mean() + outputs[1].square().mean()).backward()
    torch.testing.assert_close(anchored.outputs, tuple(outputs[:2]))
    expected = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    torch.testing.assert_close(anchored.gradients, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(anchored.outputs, everything.outputs)
    assert anchored.kept_bytes < 0.8 * everything.kept_bytes
    stem = "backbone.conv_stem.weight"
    assert not torch.allclose(anchored.gradients[stem], everything.gradients[stem], rtol=0.1)


def test_synchronized_norms_keep_names_and_values(tiny_model: CCNet3D) -> None:
    plain = copy.deepcopy(tiny_model)
    network = TrainingNetwork(tiny_model, ComputeRecipe(sync_batch_norm=True))
    assert network.model.config == TINY
    kinds = {type(module).__name__ for module in network.modules()}
    assert {"SyncBatchNorm", "SyncBatchNormAct"} <= kinds
    assert not {"BatchNorm2d", "BatchNormAct2d"} & kinds
    assert list(network.model.state_dict()) == list(plain.state_dict())
    # In a single process, and in evaluation, they equal ordinary batch norms.
    torch.testing.assert_close(network.model.eval()(CLIP), plain.eval()(CLIP), rtol=0, atol=0)


def test_only_the_named_parts_are_trained() -> None:
    torch.manual_seed(0)
    model = CCNet3D(dataclasses.replace(TINY, evidence_loops=2))
    before = copy.deepcopy(model.state_dict())
    network = TrainingNetwork(model, ComputeRecipe(), ["evidence"]).train()
    optimizer = build_optimizer(model, OptimizerRecipe(learning_rate=0.1, evidence_factor=3.0))
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.3)] * 2
    outputs = network(torch.rand(2, 2, 3, 32, 48), torch.zeros(2, dtype=torch.long))
    outputs.logits.square().mean().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "evidence.embedding.weight" in changed
    assert all(name.startswith("evidence.") for name in changed)
    with pytest.raises(UserError, match="model.trained names 'neck', which the model lacks; it has backbone, head"):
        TrainingNetwork(model, ComputeRecipe(), ["neck"])
