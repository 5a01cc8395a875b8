"""Start a model from the weights of another one, which may have other classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ccnet3d.errors import UserError
from ccnet3d.models.ccnet3d import CCNet3D

__all__ = ["Transfer", "transfer_weights"]

_OPTIONAL = ("head.attention", "embedding", "evidence")
"""Parts that only one of the two models may have."""


class Transfer(NamedTuple):
    """What :func:`transfer_weights` copied.

    >>> Transfer(90, 100, ("road",), ("fence",), {"classifier": ("fence",), "auxiliary": ()}).summary()
    '90 of 100 weights (90.0%), the class road among them; new for fence: classifier; new: auxiliary'
    """

    taken: int
    """Weights and running statistics that come from the trained model."""
    total: int
    """All of them."""
    shared: tuple[str, ...]
    """Classes that the trained model has too."""
    new_classes: tuple[str, ...]
    """Classes that it does not have."""
    new_parts: Mapping[str, tuple[str, ...]]
    """Parts that are new, each with the classes whose weights are new; none if the whole part is."""

    def summary(self) -> str:
        """Return one line about it."""
        line = f"{self.taken:,} of {self.total:,} weights ({100 * self.taken / self.total:.1f}%)"
        if self.shared and self.new_classes:
            kind = "class" if len(self.shared) == 1 else "classes"
            line += f", the {kind} {', '.join(self.shared)} among them"
        for classes in dict.fromkeys(self.new_parts.values()):  # none, or the new ones
            parts = [part for part, new in self.new_parts.items() if new == classes]
            line += f"; new{' for ' if classes else ''}{', '.join(classes)}: {', '.join(parts)}"
        return line


def transfer_weights(
    model: CCNet3D, class_names: Sequence[str], trained: CCNet3D, trained_names: Sequence[str]
) -> Transfer:
    """Copy the weights of a trained model into a model of the same architecture, which may have other classes.

    Weights that belong to a class (a row of a classifier, a channel of the class evidence attention) are copied where
    both models have a class of that name, in upper or lower case; those of other classes stay as they are, or become 0
    where the attention reads them. A part that only one of the models has (a context module, embeddings) stays as it
    is.

    Args:
        model: changed in place; an error leaves it unchanged.
        class_names: its classes, by id.
        trained: where the weights come from.
        trained_names: its classes, by id.

    Raises:
        UserError: another architecture.

    >>> from ccnet3d.models import ModelConfig
    >>> trained = CCNet3D(ModelConfig(num_classes=3, backbone="test_efficientnet", channels=16))
    >>> model = CCNet3D(ModelConfig(num_classes=2, backbone="test_efficientnet", channels=16))
    >>> transfer = transfer_weights(model, ["Car", "dog"], trained, ["road", "tree", "car"])
    >>> transfer.shared, sorted(transfer.new_parts)
    (('Car',), ['auxiliary', 'classifier'])
    >>> torch.equal(model.classifier.weight[0], trained.classifier.weight[2])
    True
    """
    ids = {name.casefold(): index for index, name in enumerate(trained_names)}
    pairs = [(ids[name.casefold()], index) for index, name in enumerate(class_names) if name.casefold() in ids]
    shared = tuple(class_names[index] for _, index in pairs)
    new_classes = tuple(name for name in class_names if name.casefold() not in ids)
    target, source, axes = model.state_dict(), trained.state_dict(), _class_axes(model)
    if model.config.context != trained.config.context:  # names that two context modules share mean different things
        source = {name: tensor for name, tensor in source.items() if not name.startswith("head.attention.")}
    new_names = _new_names(target, source, new_classes)
    _check_architecture(target, source, {*axes, *new_names})
    taken, new_parts = 0, dict[str, tuple[str, ...]]()
    for name, tensor in target.items():
        if name in new_names:
            part = next((part for part in _OPTIONAL if name.startswith(part)), name.partition(".")[0])
            new_parts.setdefault(part, new_classes if name in axes and name in source else ())
        elif name in axes:
            taken += _copy_classes(tensor, source[name], axes[name], pairs, (len(class_names), len(trained_names)))
            if new_classes:
                new_parts.setdefault(name.partition(".")[0], new_classes)
        else:
            tensor.copy_(source[name])
            taken += tensor.numel()
    if model.evidence is not None and trained.evidence is not None:
        features = len(model.evidence.feature_norm.mean)
        for index, name in enumerate(class_names):
            if name in new_classes:  # the layer behind was trained without this input
                target["evidence.reliability.0.weight"][:, features + index] = 0
    return Transfer(taken, sum(tensor.numel() for tensor in target.values()), shared, new_classes, new_parts)


def _class_axes(model: CCNet3D) -> dict[str, tuple[tuple[int, int], ...]]:
    """Return the axes of each weight that are indexed by class, and where on that axis the classes begin."""
    axes: dict[str, tuple[tuple[int, int], ...]] = {
        f"{part}.{kind}": ((0, 0),)
        for part in ("classifier", "detail", "auxiliary.2")
        for kind in ("weight", "bias")
        if part != "detail" or model.detail is not None
    }
    if model.evidence is not None:  # its channels are those of the features, then the classes
        features = len(model.evidence.feature_norm.mean)
        axes |= {f"evidence.evidence_norm.{kind}": ((0, 0),) for kind in ("mean", "variance")}
        axes["evidence.embedding.weight"] = ((0, features), (1, features))
        axes["evidence.embedding.bias"] = ((0, features),)
        axes["evidence.reliability.0.weight"] = ((1, features),)
    return axes


def _new_names(target: Mapping[str, Tensor], source: Mapping[str, Tensor], new_classes: Sequence[str]) -> set[str]:
    """Return the weights that are not copied at all."""
    names = {name for name in target if name not in source and name.startswith(_OPTIONAL)}
    if new_classes:  # running statistics without those of some classes start over
        names |= {name for name in target if name.startswith("evidence.evidence_norm.")}
    # The width of the auxiliary classifier is at least the number of classes.
    width = "auxiliary.2.weight"
    if target[width].shape[1:] != source[width].shape[1:]:
        names |= {name for name in target if name.startswith("auxiliary.")}
    return names


def _check_architecture(target: Mapping[str, Tensor], source: Mapping[str, Tensor], free: set[str]) -> None:
    """Compare the names of the weights, and the shapes of those that are not ``free``.

    Raises:
        UserError: a difference.
    """
    for name in sorted({*target} ^ {*source}):
        if not name.startswith(_OPTIONAL):
            raise UserError(f"only the {'new model has' if name in target else 'weights have'} {name}")
    for name in target:  # in the order of the model, so that the same one is named each time
        if name in source and name not in free and target[name].shape != source[name].shape:
            shapes = f"{list(source[name].shape)} in the weights and {list(target[name].shape)} in the recipe"
            raise UserError(f"{name} is {shapes}")


def _copy_classes(
    target: Tensor,
    source: Tensor,
    axes: Sequence[tuple[int, int]],
    pairs: Sequence[tuple[int, int]],
    counts: tuple[int, int],
) -> int:
    """Copy the entries of a weight whose classes both models have, and return their number.

    Args:
        target: changed in place.
        source: the trained weight.
        axes: those indexed by class, and where the classes begin on them; other channels may lie before and after.
        pairs: trained id and new id of each class that both have.
        counts: numbers of classes of the target and of the source.
    """
    place = [torch.arange(length) for length in target.shape]
    for axis, start in axes:
        after = torch.arange(start + counts[0], target.shape[axis])
        before = torch.arange(start)
        old, new = (torch.tensor([start + pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
        place[axis] = torch.cat([before, new, after])
        source = source.index_select(axis, torch.cat([before, old, after + counts[1] - counts[0]]))
    target[torch.meshgrid(*place, indexing="ij")] = source
    return source.numel()
