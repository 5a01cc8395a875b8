"""Model files of unknown origin: one error before anything is downloaded or memory is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, ModelConfig, load_model
from ccnet3d.models.backbone import build_backbone, input_normalization

Header = dict[str, Any]


def change(path: Path, edit: Callable[[Header, dict[str, torch.Tensor]], object]) -> Path:
    """Write an edited copy of a model file, with the header as Python writes it, NaN and Infinity included."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["ccnet3d"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    result = edit(header, tensors)
    text = result if isinstance(result, str) else json.dumps(header)
    save_file(tensors, path.with_name("changed.safetensors"), metadata={"ccnet3d": text})
    return path.with_name("changed.safetensors")


@pytest.mark.parametrize(
    "name",
    ["hf_hub:someone/net", "hf-hub:someone/net", "local-dir:/etc", "HF_HUB:a/b", "timm/resnet18", "resnet18:x",
     "resnet18.a1_in1k:x", "../resnet18", "resnet18\n", "", "no_such_net", "r" * 10_000],
)  # fmt: skip
def test_only_plain_names_reach_timm(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("timm was asked")

    monkeypatch.setattr(timm, "create_model", refuse)
    monkeypatch.setattr(timm, "get_pretrained_cfg", refuse)
    with pytest.raises(UserError, match="timm does not know the model"):
        build_backbone(name)
    with pytest.raises(UserError, match="timm does not know the model"):
        input_normalization(name)
    path = change(tiny_checkpoint, lambda header, _: header["model"].update(backbone=name))
    with pytest.raises(UserError, match="is not a ccnet3d model file .timm does not know the model") as error:
        load_model(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("tag", ["a1_in1k", "nosuch"])
def test_tags_of_weights(tag: str) -> None:
    if tag == "nosuch":
        with pytest.raises(UserError, match="timm does not know these weights"):
            input_normalization(f"resnet18.{tag}")
    else:
        assert input_normalization(f"resnet18.{tag}") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        *((section, field, value, f"{field} must be in ")
          for section, field, values in [
              ("model", "num_classes", (1, 10**6)), ("model", "channels", (0, 200_000, 2**40)),
              ("model", "reduction", (0, -8)), ("model", "loops", (-1, 10**6, 10**9)),
              ("model", "evidence_loops", (-1, 10**9)), ("model", "evidence_temperature", (0, 1e300)),
              ("model", "initial_gamma", (1e30,)), ("model", "dropout", (-0.1, 1.0)),
              ("model", "context_levels", ([-1], [10**9])), ("model", "auxiliary_level", (10**9,)),
              ("model", "skip_channels", ([0, 8, 8], [12, 10, 10**9])), ("model", "embedding_channels", (-1, 10**9)),
              ("model", "input_mean", ([-1, 0, 0], [0, 0, 300])), ("model", "input_std", ([0, 1, 1], [1, -1, 1])),
              (None, "clip_length", (0, -1, 10**6, 10**9)), (None, "input_size", ([0, 8], [8, 10**6], [10**9, 8])),
              (None, "palette", ([[0, 0, 256]] * 3, [[-1, 0, 0]] * 3)),
          ]
          for value in values),
        ("model", "loops", 10**30, r"model.loops must be at most 2\^63 - 1"),
        ("model", "loops", 1.5, "model.loops must be int, got 1.5"),
        ("model", "loops", True, "model.loops must be int, got True"),
        ("model", "input_std", [float("nan"), 1, 1], "model.input_std must be float, got None"),
        ("model", "input_std", [float("inf"), 1, 1], "Infinity is not a number of JSON"),
        ("model", "output_stride", 10**9, "output_stride must be 8, 16 or 32, got 1000000000"),
        ("model", "context_levels", [3, 3], "context_levels must differ from each other"),
        ("model", "skip_levels", [0] * 100_000, "equally long"),
        ("model", "head", "x", "head must be 'ccnet' or 'efficientvit'"),
        ("model", "reduction", 64, "channels // reduction must be at least 1"),
        (None, "input_size", [16_384, 16_384], "input_size must have at most 67108864 pixels"),
        (None, "class_names", ["a"] * 4, "3 classes, but there are 4 names"),
        (None, "class_names", "abc", "class_names must be tuple"),
        (None, "scores", {"val_miou": "high"}, "scores.val_miou must be float"),
        (None, "model", [1], "model must be ModelConfig"),
        (None, "recipe", 3, "recipe must be .*Mapping"),
        (None, "format", 2, "its format is not 1"),
        (None, "new", 2, "unknown key 'new'"),
    ],
)  # fmt: skip
def test_every_field_has_bounds(
    tiny_checkpoint: Path, section: str | None, field: str, value: object, message: str
) -> None:
    path = change(tiny_checkpoint, lambda h, _: (h[section] if section else h).update({field: value}))
    with pytest.raises(UserError, match=f"changed.safetensors is not a ccnet3d model file .*{message}") as error:
        load_model(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null", "{", "{}", '{"format": 1}', "[" * 100_000, ""])
def test_headers_that_are_no_table(tiny_checkpoint: Path, text: str) -> None:
    with pytest.raises(UserError, match="is not a ccnet3d model file"):
        load_model(change(tiny_checkpoint, lambda *_: text))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda h, _: h["model"].update(channels=16_384, skip_channels=[16_384] * 3), "has the shape"),
        (lambda h, _: h["model"].update(backbone="resnet152"), "only the (weights have|architecture has) 'backbone"),
        (lambda h, _: h["model"].update(embedding_channels=16), "only the architecture has 'embedding.bias'"),
        (lambda _, t: t.pop("classifier.bias"), "only the architecture has 'classifier.bias'"),
        (lambda _, t: t.update(more=torch.zeros(1)), "only the weights have 'more'"),
        (lambda _, t: t.update({"classifier.bias": torch.zeros(4)}), r"the shape \[4\], the architecture \[3\]"),
        (lambda _, t: t.update({"classifier.bias": torch.zeros(3, dtype=torch.int64)}), "bias has the type I64"),
    ],
)  # fmt: skip
def test_shapes_are_compared_before_memory_is_taken(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, edit: Callable[..., object], message: str
) -> None:
    built = []
    original = CCNet3D.__init__

    def build(self: CCNet3D, config: ModelConfig) -> None:
        built.append(torch.empty(0).device.type)
        original(self, config)

    monkeypatch.setattr(CCNet3D, "__init__", build)
    with pytest.raises(UserError, match=message):
        load_model(change(tiny_checkpoint, edit))
    assert set(built) <= {"meta"}
    load_model(tiny_checkpoint)
    assert built[-2:] == ["meta", "cpu"]


def test_scores_without_a_value(tiny_checkpoint: Path) -> None:
    """Files of runs whose validation split has no labeled pixel contain NaN."""
    _, info = load_model(change(tiny_checkpoint, lambda h, _: h.update(scores={"val_miou": float("nan"), "x": 1})))
    assert info.scores == {"val_miou": None, "x": 1.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tiny_checkpoint: Path, value: float) -> None:
    changed = change(tiny_checkpoint, lambda _, tensors: tensors["classifier.weight"].view(-1)[3:4].fill_(value))
    with pytest.raises(UserError, match=r"classifier.weight has values that are not finite"):
        load_model(changed)


def test_damaged_bytes(tiny_checkpoint: Path) -> None:
    whole = tiny_checkpoint.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    for seed in range(40):
        random = np.random.default_rng(seed)
        data = bytearray(whole)
        data[random.integers(8, length)] ^= 0x80  # no longer UTF-8
        tiny_checkpoint.write_bytes(data)
        with pytest.raises(UserError, match=r"is not a ccnet3d model file .*; give a .safetensors file"):
            load_model(tiny_checkpoint)


def test_a_name_that_no_file_can_have() -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="there is no model file"):
            load_model(name)
