from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from reference.category_consistent import category_consistent_loop
from torch import Tensor

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.losses import category_consistent_loss
from ccnet3d.losses.category_consistent import FORMS, between_class_penalty, within_class_penalty

CLASSES = 5


def make_batch(scale: float = 0.9, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Four frames of 4x5 pixels, 16 channels; class 4 is absent, and class 3 is in the second half only."""
    generator = torch.Generator().manual_seed(0)
    embeddings = scale * torch.randn(4, 16, 4, 5, generator=generator, dtype=torch.float64)
    embeddings *= torch.rand(4, 1, 4, 5, generator=generator, dtype=torch.float64)  # pixels near to and far from means
    labels = torch.randint(0, 4, (4, 4, 5), generator=generator)
    labels[:2][labels[:2] == 3] = 1
    labels[:, 0] = IGNORE_INDEX
    return embeddings.to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("clip_length", [1, 2, 4])
@pytest.mark.parametrize("form", FORMS)
def test_terms_and_gradients_equal_the_loop(form: str, clip_length: int) -> None:
    embeddings, labels = make_batch()
    truth = category_consistent_loop(embeddings, labels, clip_length=clip_length, form=form, ignored=IGNORE_INDEX)
    loss = category_consistent_loss(embeddings, labels, CLASSES, clip_length=clip_length, form=form)
    assert all(term > 0 for term in truth)
    for mine, true in zip(loss[1:], truth, strict=True):
        torch.testing.assert_close(mine, true)
        for gradient in (torch.autograd.grad(term, embeddings, retain_graph=True)[0] for term in (mine, true)):
            assert (gradient[:, :, 0] == 0).all()  # void
            assert gradient.abs().sum() > 0
        torch.testing.assert_close(
            torch.autograd.grad(mine, embeddings, retain_graph=True)[0],
            torch.autograd.grad(true, embeddings, retain_graph=True)[0],
        )
    assert loss.total.item() == pytest.approx((truth[0] + truth[1] + 0.001 * truth[2]).item())  # the paper's weights


def test_forms_differ_and_deltas_and_weights_are_used() -> None:
    embeddings, labels = make_batch()
    piecewise, quadratic = (category_consistent_loss(embeddings, labels, CLASSES, form=form) for form in FORMS)
    assert quadratic.variance > piecewise.variance * 1.01
    torch.testing.assert_close(quadratic[2:], piecewise[2:])
    truth = category_consistent_loop(
        embeddings, labels, clip_length=1, form="piecewise", ignored=IGNORE_INDEX, delta_v=0.2, delta_d=0.9
    )
    loss = category_consistent_loss(
        embeddings, labels, CLASSES, alpha=2.0, beta=3.0, gamma=5.0, delta_v=0.2, delta_d=0.9
    )
    torch.testing.assert_close(loss[1:], truth)
    torch.testing.assert_close(loss.total, 2 * truth[0] + 3 * truth[1] + 5 * truth[2])


@pytest.mark.parametrize("form", FORMS)
def test_gradcheck(form: str) -> None:
    embeddings, labels = make_batch()
    assert torch.autograd.gradcheck(
        lambda x: category_consistent_loss(x, labels[2:], CLASSES, clip_length=2, form=form), (embeddings[2:],)
    )


def test_a_case_worked_out_on_paper() -> None:
    """Class 0 at -1.7 and 2.3 (mean 0.3, both 2 away), class 1 at 1.0 twice, channel 0 of two."""
    embeddings = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
    embeddings[0, 0, 0] = torch.tensor([-1.7, 2.3, 1.0, 1.0])
    labels = torch.tensor([[[0, 0, 1, 1]]])
    loss = category_consistent_loss(embeddings, labels, 3)
    assert loss.variance.item() == pytest.approx((2 - 1.5 + 1) / 2)  # class 0: 1.5, class 1: 0
    assert loss.distance.item() == pytest.approx((3 - 0.7) ** 2)
    assert loss.norm.item() == pytest.approx((0.3 + 1.0) / 2)
    assert loss.total.item() == pytest.approx(0.75 + 5.29 + 0.001 * 0.65)
    assert category_consistent_loss(embeddings, labels, 3, form="quadratic").variance.item() == pytest.approx(2.25 / 2)


def value_and_slope(function: Callable[[Tensor], Tensor], at: float) -> tuple[float, float]:
    distance = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    value = function(distance)
    return value.item(), torch.autograd.grad(value, distance)[0].item()


@pytest.mark.parametrize(
    ("form", "knee", "value", "slope_left", "slope_right"),
    [
        ("piecewise", 0.5, 0.0, 0.0, 0.0),
        ("quadratic", 0.5, 0.0, 0.0, 0.0),
        ("piecewise", 1.5, 1.0, 2.0, 1.0),  # the slope jumps: 2 (delta_d - delta_v) to 1
        ("quadratic", 1.5, 1.0, 2.0, 2.0),
    ],
)
def test_knees_of_phi_var(form: str, knee: float, value: float, slope_left: float, slope_right: float) -> None:
    def phi(distance: Tensor) -> Tensor:
        return within_class_penalty(distance, form=form, delta_v=0.5, delta_d=1.5)

    assert value_and_slope(phi, knee) == (value, slope_left)  # the knee belongs to its left side
    step = 1e-9
    left, right = value_and_slope(phi, knee - step), value_and_slope(phi, knee + step)
    assert left == pytest.approx((value, slope_left), abs=3 * step)
    assert right == pytest.approx((value, slope_right), abs=3 * step)
    assert value_and_slope(phi, 0.0) == (0, 0)
    assert value_and_slope(phi, 4.5) == ((4.0, 1.0) if form == "piecewise" else (16.0, 8.0))


def test_knee_of_phi_dis() -> None:
    def phi(distance: Tensor) -> Tensor:
        return between_class_penalty(distance, delta_d=1.5)

    step = 1e-9
    for at in (3.0 - step, 3.0, 3.0 + step):
        assert value_and_slope(phi, at) == pytest.approx((0, 0), abs=3 * step)
    assert value_and_slope(phi, 1.0) == (4, -4)
    assert value_and_slope(phi, 0.0) == (9, -6)
    assert value_and_slope(phi, 5.0) == (0, 0)


def test_one_class_only() -> None:
    embeddings, labels = make_batch()
    one = labels.where(labels == IGNORE_INDEX, 2)
    loss = category_consistent_loss(embeddings, one, CLASSES)
    assert loss.distance.item() == 0
    assert loss.variance > 0
    assert loss.norm > 0
    assert torch.autograd.grad(loss.distance, embeddings, retain_graph=True)[0].abs().max() == 0


def test_no_labelled_pixel_is_zero_with_zero_gradient() -> None:
    embeddings, labels = make_batch()
    loss = category_consistent_loss(embeddings, torch.full_like(labels, IGNORE_INDEX), CLASSES)
    assert [term.item() for term in loss] == [0, 0, 0, 0]
    assert (torch.autograd.grad(loss.total, embeddings)[0] == 0).all()


def test_equal_embeddings_have_finite_gradients() -> None:
    """All distances are 0: of pixels from their means, and of means from each other."""
    labels = torch.tensor([[[0, 0, 1, 1, IGNORE_INDEX]]])
    for fill in (0.0, 0.25):
        embeddings = torch.full((1, 16, 1, 5), fill, requires_grad=True)
        loss = category_consistent_loss(embeddings, labels, 3)
        assert loss[1:3] == (0, 9)
        assert torch.autograd.grad(loss.total, embeddings)[0].isfinite().all()


def test_absent_classes_do_not_count() -> None:
    embeddings, labels = make_batch()
    few, many = (category_consistent_loss(embeddings, labels, classes) for classes in (4, 19))
    torch.testing.assert_close(few, many)
    renamed = labels.where(labels != 2, 17)
    torch.testing.assert_close(category_consistent_loss(embeddings, renamed, 19), many)


def test_void_pixels_may_be_anything() -> None:
    embeddings, labels = make_batch()
    spoiled = embeddings.detach().clone()
    spoiled[:, :, 0] = math.inf
    spoiled.requires_grad_()
    mine, truth = (category_consistent_loss(x, labels, CLASSES).total for x in (spoiled, embeddings))
    torch.testing.assert_close(mine, truth)
    torch.testing.assert_close(torch.autograd.grad(mine, spoiled)[0], torch.autograd.grad(truth, embeddings)[0])


def test_the_loss_of_a_batch_is_the_mean_of_its_clips() -> None:
    embeddings, labels = make_batch()
    whole = category_consistent_loss(embeddings, labels, CLASSES, clip_length=2).total
    halves = [category_consistent_loss(embeddings[i : i + 2], labels[i : i + 2], CLASSES, clip_length=2).total
              for i in (0, 2)]  # fmt: skip
    assert whole.item() == pytest.approx((halves[0].item() + halves[1].item()) / 2)
    assert abs(halves[0] - halves[1]) > 0.01


def test_autocast_and_half_precision_are_computed_in_float32() -> None:
    embeddings, labels = make_batch(dtype=torch.bfloat16)
    truth = category_consistent_loss(embeddings.float(), labels, CLASSES, clip_length=2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = category_consistent_loss(embeddings, labels, CLASSES, clip_length=2)
    assert {term.dtype for term in loss} == {torch.float32}
    assert loss == truth
    assert torch.autograd.grad(loss.total, embeddings)[0].dtype == torch.bfloat16


def test_bad_input() -> None:
    embeddings, labels = make_batch()
    with pytest.raises(ValueError, match=r"got \(4, 16, 4, 5\) and \(4, 8, 10\); resize the labels"):
        category_consistent_loss(embeddings, torch.zeros(4, 8, 10, dtype=torch.long), CLASSES)
    with pytest.raises(ValueError, match="whole clips of 3 frames, got 4 frames"):
        category_consistent_loss(embeddings, labels, CLASSES, clip_length=3)
    with pytest.raises(ValueError, match=r"form must be one of .*got 'linear', 0.5 and 1.5"):
        category_consistent_loss(embeddings, labels, CLASSES, form="linear")
    with pytest.raises(ValueError, match=r"0 <= delta_v <= delta_d, got 'piecewise', 2.0 and 1.5"):
        category_consistent_loss(embeddings, labels, CLASSES, delta_v=2.0)
