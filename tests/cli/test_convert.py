from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from models.public_networks import OpenMMLab, randomize
from PIL import Image
from safetensors import safe_open

from ccnet3d.cli import convert, infer
from ccnet3d.errors import UserError
from ccnet3d.resources import MODEL_METADATA_KEY

META = {"CLASSES": ["road", "sky", "car"], "PALETTE": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "iter": 40000}
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)


@pytest.fixture(scope="module")
def network() -> OpenMMLab:
    with torch.device("meta"):
        network = OpenMMLab(3)
    network.to_empty(device="cpu")
    randomize(network)
    with torch.no_grad():  # no class is the largest everywhere
        logits, _ = network.eval()(torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float())
        network.decode_head.conv_seg.bias -= logits.transpose(0, 1).flatten(1).median(1).values
    return network


@pytest.mark.usefixtures("one_thread")
def test_masks_of_a_converted_file(network: OpenMMLab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The masks of frames are the classes of the public network's largest logits."""
    checkpoint, model = tmp_path / "ccnet.pth", tmp_path / "new" / "model.safetensors"
    torch.save({"meta": META, "state_dict": network.state_dict()}, checkpoint)
    options = [str(checkpoint), "-o", str(model), "--input-size", "64x96"]
    assert convert.main(options) == 0
    out = capsys.readouterr().out
    assert "the file does not say how many loops the attention has; assumed 2" in out
    assert "mmsegmentation: resnet50_v1c, 3 classes, 2 loops, align_corners=False\nwrote " in out
    with safe_open(model, framework="numpy") as file:
        table = json.loads(file.metadata()[MODEL_METADATA_KEY])
    assert (table["class_names"], table["palette"]) == (META["CLASSES"], META["PALETTE"])
    assert (table["model"]["loops"], table["clip_length"], table["input_size"]) == (2, 1, [64, 96])
    assert table["recipe"]["source"] == "mmsegmentation"

    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(tmp_path / "frames" / f"{number}.png")
    folder = tmp_path / "masks"
    arguments = [str(tmp_path / "frames"), "-o", str(folder), "--checkpoint", str(model), "--dtype", "fp32"]
    assert infer.main(arguments) == 0
    with torch.no_grad():
        logits, _ = network(torch.from_numpy(FRAMES).permute(0, 3, 1, 2).float())
    for path, expected in zip(sorted(folder.rglob("*.png")), logits.argmax(1).numpy(), strict=True):
        mask = np.array(Image.open(path))
        assert len(np.unique(expected)) == 3
        assert (mask != expected).mean() < 0.001


def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "x.pth", tmp_path / "model.safetensors"
    torch.save({"weight": torch.ones(1)}, file)

    def refused(*arguments: object) -> str:
        assert convert.main([str(argument) for argument in arguments]) == 2
        assert not output.exists()
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("ccnet3d-convert: error: ")

    assert refused(file, "-o", tmp_path / "model.pt").startswith("--output must be a .safetensors file, got ")
    assert "there is neither a file nor a dataset named kitty; give a " in refused(
        file, "-o", output, "--classes", "kitty"
    )
    assert "must be different names such as road" in refused(file, "-o", output, "--classes", "road,road")
    assert "x.pth: not a CCNet of a known kind, it has weight, ..." in refused(file, "-o", output)
    same = tmp_path / "y.safetensors"
    same.write_bytes(b"x")
    before = same.read_bytes()
    assert "would replace the file that is converted" in refused(same, "-o", same, "--overwrite")
    assert "exists; give --overwrite to replace it" in refused(file, "-o", same)
    assert same.read_bytes() == before


def test_classes() -> None:
    cityscapes = convert.parse_classes("cityscapes")
    assert (cityscapes.names[:2], cityscapes.palette[0]) == (("road", "sidewalk"), (128, 64, 128))
    with pytest.raises(UserError, match="--classes names 19 classes, and the model has 3; give the dataset "):
        convert.choose_classes(cityscapes, ["a", "b", "c"], [], 3)
    own = convert.choose_classes(convert.parse_classes("x, y,z"), ["a", "b", "c"], [], 3)
    assert (own.names, len(set(own.palette))) == (("x", "y", "z"), 3)
    with pytest.raises(UserError, match=r"does not name its 3 classes; give --classes, such as cityscapes \(19\)"):
        convert.choose_classes(None, [], [], 3)
