"""Weights of a trained model in a model with other classes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import TINY

from ccnet3d.errors import UserError
from ccnet3d.models import ARCHITECTURES, CCNet3D, ModelConfig, transfer_weights
from ccnet3d.models.transfer import _class_axes

WITH_EVIDENCE = replace(TINY, evidence_loops=2)
OLD = ("road", "car", "tree")


def make(config: ModelConfig, num_classes: int, seed: int) -> CCNet3D:
    """A model in which no weight or running statistic is that of another seed."""
    torch.manual_seed(seed)
    model = CCNet3D(replace(config, num_classes=num_classes)).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
    return model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_weight_whose_shape_depends_on_the_classes_is_known(name: str) -> None:
    with torch.device("meta"):
        three, four = (CCNet3D(replace(ARCHITECTURES[name], num_classes=k)) for k in (3, 4))
    shapes = {key: tensor.shape for key, tensor in four.state_dict().items()}
    depending = {
        key: tuple(axis for axis in range(tensor.dim()) if tensor.shape[axis] != shapes[key][axis])
        for key, tensor in three.state_dict().items()
        if tensor.shape != shapes[key]
    }
    assert depending == {key: tuple(axis for axis, _ in axes) for key, axes in _class_axes(three).items()}


@pytest.mark.parametrize("config", [TINY, WITH_EVIDENCE])
def test_equal_classes_give_the_same_network(config: ModelConfig) -> None:
    trained, model = make(config, 3, 1), make(config, 3, 2)
    transfer = transfer_weights(model, ["Road", "CAR", "tree"], trained, OLD)
    torch.testing.assert_close(model.state_dict(), trained.state_dict(), rtol=0, atol=0)
    assert (transfer.taken, transfer.new_classes, transfer.new_parts) == (transfer.total, (), {})


@pytest.mark.parametrize("config", [TINY, WITH_EVIDENCE])
def test_classes_in_another_order_give_the_same_scores_in_another_order(config: ModelConfig) -> None:
    torch.manual_seed(1)
    trained, model = (CCNet3D(replace(config, num_classes=3)).eval() for _ in range(2))
    transfer = transfer_weights(model, ["tree", "road", "car"], trained, OLD)
    assert transfer.taken == transfer.total
    clip = torch.rand(1, 2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(clip), trained(clip)[:, :, [2, 0, 1]], rtol=1e-4, atol=1e-4)


def test_other_classes_keep_the_shared_rows() -> None:
    trained, model, fresh = make(WITH_EVIDENCE, 3, 1), make(WITH_EVIDENCE, 4, 2), make(WITH_EVIDENCE, 4, 2)
    transfer = transfer_weights(model, ["dog", "Tree", "cat", "road"], trained, OLD)
    assert (transfer.shared, transfer.new_classes) == (("Tree", "road"), ("dog", "cat"))
    assert set(transfer.new_parts) == {"classifier", "auxiliary", "evidence"}
    assert set(transfer.new_parts.values()) == {("dog", "cat")}
    new, old, before = model.state_dict(), trained.state_dict(), fresh.state_dict()
    for name in ("classifier.weight", "classifier.bias", "auxiliary.2.weight", "auxiliary.2.bias"):
        assert torch.equal(new[name][[1, 3]], old[name][[2, 0]])
        assert torch.equal(new[name][[0, 2]], before[name][[0, 2]])
    features = len(new["evidence.feature_norm.mean"])
    kept = [*range(features), features + 1, features + 3]
    came = [*range(features), features + 2, features]
    name = "evidence.embedding.weight"
    assert torch.equal(new[name][kept][:, kept], old[name][came][:, came])
    assert torch.equal(new[name][features], before[name][features])
    reliability, trained_one = new["evidence.reliability.0.weight"], old["evidence.reliability.0.weight"]
    last = [features + 4, features + 5]  # two channels follow those of the classes
    assert torch.equal(reliability[:, kept + last], trained_one[:, [*came, features + 3, features + 4]])
    assert not reliability[:, [features, features + 2]].any()
    for name in ("evidence.evidence_norm.mean", "evidence.evidence_norm.batches"):
        assert torch.equal(new[name], before[name])
    by_class = {*_class_axes(model), *(name for name in new if "evidence_norm" in name)}
    for name in set(new) - by_class:
        assert torch.equal(new[name], old[name]), name
    same = sum(int((tensor == before[name]).sum()) for name, tensor in new.items() if tensor.is_floating_point())
    zeroed = 2 * len(reliability) * 9
    assert transfer.total - transfer.taken == same + zeroed


def test_a_wider_auxiliary_classifier_is_new() -> None:
    """Its width is at least the number of classes."""
    many = [str(number) for number in range(200)]
    trained, model = make(TINY, 3, 1), make(TINY, 200, 2)
    transfer = transfer_weights(model, [*many[:-1], "car"], trained, OLD)
    assert transfer.new_parts["auxiliary"] == ()
    assert torch.equal(model.classifier.weight[199], trained.classifier.weight[1])


def test_another_architecture_changes_nothing() -> None:
    trained, model = make(TINY, 3, 1), make(replace(TINY, channels=8), 2, 2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"head\..* is \[.*\] in the weights and \[.*\] in the recipe"):
        transfer_weights(model, ["a", "b"], trained, OLD)
    with pytest.raises(UserError, match="only the weights have backbone"):
        transfer_weights(CCNet3D(ARCHITECTURES["ccnet3d_b0"]), ["a"] * 11, CCNet3D(ARCHITECTURES["ccnet3d_lite"]), OLD)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
