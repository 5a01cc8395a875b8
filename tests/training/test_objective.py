from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from reference.category_consistent import category_consistent_loop
from reference.loops import dice_loss_loop
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses import CategoryConsistentLoss, CrossEntropyLoss, DiceLoss, Losses, LovaszLoss, lovasz_softmax
from ccnet3d.losses.category_consistent import resize_labels
from ccnet3d.models import TrainingOutputs
from ccnet3d.training import training_loss


def make_batch(dtype: torch.dtype = torch.float32) -> tuple[TrainingOutputs, Tensor]:
    """Two clips of three frames, 8x12 pixels, four classes; embeddings at stride 4."""
    generator = torch.Generator().manual_seed(0)
    logits, auxiliary = (torch.randn(2, 3, 4, 8, 12, generator=generator).to(dtype) for _ in range(2))
    embeddings = torch.randn(2, 3, 16, 2, 3, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, 4, (2, 3, 8, 12), generator=generator)
    labels[1, 0] = IGNORE_INDEX
    return TrainingOutputs(logits.requires_grad_(), auxiliary.requires_grad_(), embeddings), labels


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_total_is_the_weighted_sum_of_the_parts(dtype: torch.dtype) -> None:
    outputs, labels = make_batch(dtype)
    weights = torch.tensor([0.5, 1.0, 2.0, 0.5])
    losses = Losses(
        CrossEntropyLoss(weight=1.5, auxiliary_weight=0.3, label_smoothing=0.1),
        LovaszLoss(weight=0.6),
        CategoryConsistentLoss(weight=0.7, form="quadratic"),
        DiceLoss(weight=0.8),
    )
    total, parts = training_loss(outputs, labels, losses, weights)

    flat = labels.flatten(0, 1)
    expected = {
        name: F.cross_entropy(
            logits.flatten(0, 1).float(), flat, weights, ignore_index=IGNORE_INDEX, label_smoothing=0.1
        )
        for name, logits in (("cross_entropy", outputs.logits), ("auxiliary", outputs.auxiliary))
    }
    expected["lovasz"] = lovasz_softmax(outputs.logits.flatten(0, 1).float(), flat)
    assert outputs.embeddings is not None
    variance, distance, norm = category_consistent_loop(
        outputs.embeddings.flatten(0, 1).float(), flat[:, 2::4, 2::4], clip_length=3, form="quadratic",
        ignored=IGNORE_INDEX,
    )  # fmt: skip
    expected["category_consistent"] = variance + distance + 0.001 * norm
    expected |= {
        f"category_consistent_{name}": term
        for name, term in {"variance": variance, "distance": distance, "norm": norm}.items()
    }
    expected["dice"] = dice_loss_loop(outputs.logits.flatten(0, 1).float(), flat, IGNORE_INDEX)
    assert list(parts) == list(expected)
    for name, part in parts.items():
        torch.testing.assert_close(part, expected[name], msg=name)
    assert total.dtype == torch.float32
    torch.testing.assert_close(
        total,
        1.5 * (expected["cross_entropy"] + 0.3 * expected["auxiliary"])
        + 0.6 * expected["lovasz"]
        + 0.7 * expected["category_consistent"]
        + 0.8 * expected["dice"],
    )
    for gradient in torch.autograd.grad(total, list(outputs)):
        assert gradient.isfinite().all()
        assert (gradient[0] != 0).any()


def test_losses_of_weight_zero_are_not_computed() -> None:
    outputs, labels = make_batch()
    losses = Losses(CrossEntropyLoss(auxiliary_weight=0.5), LovaszLoss(weight=0.0))
    total, parts = training_loss(outputs._replace(embeddings=None), labels, losses)
    assert list(parts) == ["cross_entropy", "auxiliary"]
    torch.testing.assert_close(total, parts["cross_entropy"] + 0.5 * parts["auxiliary"])


def test_the_cross_entropy_can_be_left_out() -> None:
    outputs, labels = make_batch()
    total, parts = training_loss(outputs, labels, Losses(CrossEntropyLoss(weight=0.0), dice=DiceLoss(weight=2.0)))
    assert list(parts) == ["dice"]
    torch.testing.assert_close(total, 2 * parts["dice"])


def test_hard_pixels_reach_both_cross_entropies() -> None:
    outputs, labels = make_batch()
    _, every = training_loss(outputs, labels, Losses())
    _, hard = training_loss(outputs, labels, Losses(CrossEntropyLoss(hard_threshold=0.1, hard_pixels=10)))
    assert all(hard[name] > every[name] for name in every)


def test_a_part_of_a_step_finds_its_share_of_the_hard_pixels() -> None:
    outputs, labels = make_batch()
    step, part = (Losses(CrossEntropyLoss(hard_threshold=0.0, hard_pixels=pixels)) for pixels in (11, 4))
    _, of_step = training_loss(outputs, labels, step, parts=3)
    _, of_part = training_loss(outputs, labels, part)
    assert of_step == of_part


def test_labels_are_resized_to_the_nearest_center() -> None:
    labels = torch.arange(35).view(1, 5, 7)
    labels[0, 2, 3] = IGNORE_INDEX
    small = resize_labels(labels, torch.Size((3, 2)))
    rows, columns = [0, 2, 4], [1, 5]  # floor((i + 0.5) * 5 / 3), floor((i + 0.5) * 7 / 2)
    assert torch.equal(small, labels[:, rows][:, :, columns])
    assert resize_labels(labels, torch.Size((1, 1))).item() == IGNORE_INDEX
    assert torch.equal(resize_labels(labels, torch.Size((5, 7))), labels)
