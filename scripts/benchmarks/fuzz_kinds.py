"""Kinds of input that ``fuzz_inputs.py`` damages: how intact ones are made, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ccnet3d.cli import evaluate, infer, view
from ccnet3d.cli.options import run_command
from ccnet3d.data import Augmentation, DataSource
from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo, save_model
from ccnet3d.resources import dataset_file, recipe_file
from ccnet3d.training import CHECKPOINT_NAME, DataRecipe, ModelRecipe, Recipe, Trainer, build_model, read_recipe
from ccnet3d.video import draw_sample_frame, write_sample_video

__all__ = ["KINDS", "Seed", "make_seeds"]

_HEIGHT, _WIDTH, _FRAMES = 48, 64, 5
_TINY = ModelConfig(num_classes=3, backbone="test_efficientnet", channels=16, skip_channels=(12, 10, 8))
_INFO = ModelInfo(_TINY, ("ground", "box", "rail"), ((90, 140, 60), (200, 40, 40), (40, 40, 220)), 2, (32, 48))
_DATASET = """
name = "yard"
max_gap_frames = 3
void_ids = [255]
[[classes]]
name = "ground"
color = [90, 140, 60]
[[classes]]
name = "box"
color = [200, 40, 40]
[[classes]]
name = "rail"
color = [40, 40, 220]
[[layouts]]
images = "frames"
labels = "labels"
label_suffix = ""
label_encoding = "id"
[splits]
train = ["."]
val = ["."]
"""
_ABLATION = """
recipe = "recipe.toml"
seeds = [0]
windows = [2, 3]
scores = ["boundary_f"]
overrides = ["epochs=1"]
[[variants]]
name = "one"
overrides = ["optimizer.learning_rate=1e-3"]
[[variants]]
name = "two"
overrides = ["ema_decay=0.5"]
"""
_RECIPE = Recipe(
    epochs=1,
    model=ModelRecipe(overrides={"backbone": "test_efficientnet", "channels": 16, "skip_channels": (12, 10, 8)}),
    data=DataRecipe(2, (1, 2), (32, 48), augmentation=Augmentation((32, 40)), workers=0),
    precision="fp32",
    inference_clip_length=2,
)

Run = Callable[[Path], int]
"""Read the files of a folder with a command, and return its exit code."""


class Seed(NamedTuple):
    """An intact input."""

    folder: Path
    """A copy of it is damaged."""
    targets: tuple[str, ...]
    """The files of it that are damaged, one at a time."""
    run: Run


def make_seeds(folder: Path, kinds: list[str]) -> dict[str, list[Seed]]:
    """Make the intact inputs of each kind in a folder."""
    common = folder / "common"
    common.mkdir(parents=True)
    torch.manual_seed(0)
    save_model(common / "tiny.safetensors", CCNet3D(_TINY), _INFO)
    write_sample_video(common / "clip.mp4", _FRAMES)
    seeds = {}
    for kind in kinds:
        (folder / kind).mkdir()
        seeds[kind] = list(KINDS[kind](folder / kind, common))
    return seeds


def _infer(video: Path, out: Path, *options: object, model: Path) -> int:
    texts = [video, "-o", out, "--checkpoint", model, "-q", "--threads", 1, "--dtype", "fp32", *options]
    return infer.main([*map(str, texts)])


def _view(masks: Path, video: Path) -> int:
    return view.main([str(masks), str(video), "-o", str(masks / "page.html"), "-q"])


def _videos(folder: Path, common: Path) -> Iterator[Seed]:
    import av

    formats = (
        ("clip.mp4", "libx264"), ("clip.mkv", "libx264"), ("clip.ts", "libx264"), ("clip.flv", "libx264"),
        ("clip.webm", "libvpx-vp9"), ("clip.avi", "mpeg4"), ("clip.mov", "mjpeg"), ("lossless.mkv", "ffv1"),
        ("clip.mpg", "mpeg2video"), ("clip.gif", "gif"), ("hevc.mp4", "libx265"),
    )  # fmt: skip
    for name, codec in formats:
        path = folder / name / name
        path.parent.mkdir()
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            assert isinstance(stream, av.VideoStream)
            stream.options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
            stream.width, stream.height = _WIDTH, _HEIGHT
            stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
            for index in range(10):
                image = draw_sample_frame(index, _HEIGHT, _WIDTH)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
        yield Seed(path.parent, (name,), _reader_of(name, common / "tiny.safetensors"))


def _reader_of(name: str, model: Path) -> Run:
    return lambda case: _infer(case / name, case / "out", model=model)


def _images(folder: Path, common: Path) -> Iterator[Seed]:
    model = common / "tiny.safetensors"
    for suffix in ("png", "jpg", "tif", "bmp", "webp"):
        frames = folder / suffix
        frames.mkdir()
        for index in range(3):
            Image.fromarray(draw_sample_frame(index, _HEIGHT, _WIDTH)).save(frames / f"{index:04d}.{suffix}")
        yield Seed(frames, (f"0001.{suffix}",), lambda case: _infer(case, case.with_name("out"), model=model))
    _write_yard(folder / "yard")
    options = ["--checkpoint", str(model), "--split", "val", "--threads", "1", "--dtype", "fp32", "--consistency"]
    yield Seed(
        folder / "yard",
        ("frames/0001.png", "labels/0001.png"),
        lambda case: evaluate.main(["--data", str(case), *options]),
    )


def _write_yard(folder: Path) -> None:
    """Write a small labeled dataset."""
    for name in ("frames", "labels"):
        (folder / name).mkdir(parents=True)
    for index in range(4):
        image = draw_sample_frame(index, _HEIGHT, _WIDTH)
        Image.fromarray(image).save(folder / "frames" / f"{index:04d}.png")
        Image.fromarray((image[..., 0] // 90).astype(np.uint8)).save(folder / "labels" / f"{index:04d}.png")
    (folder / "dataset.toml").write_text(_DATASET)


def _toml(folder: Path, _: Path) -> Iterator[Seed]:
    from ccnet3d.ablation import read_ablation

    def recipe(case: Path) -> None:
        read = read_recipe(case / "recipe.toml")
        config = read.model.build_config(3)
        if config.backbone == _TINY.backbone:
            overrides = {**_RECIPE.model.overrides, **read.model.overrides}
            build_model(replace(read.model, overrides=overrides), ["ground", "box", "rail"])

    def ablation(case: Path) -> None:
        read_ablation(case / "ablation.toml")

    def dataset(case: Path) -> None:
        opened = DataSource(case, dataset_file("camvid")).open("val")
        opened.read_image(0)
        opened.read_label(0)

    for name in ("camvid_lite", "camvid_b0"):
        (folder / name).mkdir()
        text = recipe_file(name).read_text(encoding="utf-8").replace('"tf_efficientnet_lite2"', '"test_efficientnet"')
        (folder / name / "recipe.toml").write_text(text)
        yield Seed(folder / name, ("recipe.toml",), lambda case: run_command("recipe", lambda: recipe(case)))
    _write_yard(folder / "yard")
    yield Seed(folder / "yard", ("dataset.toml",), lambda case: run_command("dataset", lambda: dataset(case)))
    (folder / "ablation").mkdir()
    (folder / "ablation" / "ablation.toml").write_text(_ABLATION)
    (folder / "ablation" / "recipe.toml").write_text('epochs = 2\n[model]\narchitecture = "ccnet3d_lite"\n')
    yield Seed(
        folder / "ablation",
        ("ablation.toml", "recipe.toml"),
        lambda case: run_command("ablation", lambda: ablation(case)),
    )


def _models(folder: Path, common: Path) -> Iterator[Seed]:
    (folder / "tiny").mkdir()
    (folder / "tiny" / "m.safetensors").write_bytes((common / "tiny.safetensors").read_bytes())
    yield Seed(
        folder / "tiny",
        ("m.safetensors",),
        lambda case: _infer(common / "clip.mp4", case / "out", "--max-frames", 2, model=case / "m.safetensors"),
    )


def _summaries(folder: Path, common: Path) -> Iterator[Seed]:
    video, model = common / "clip.mp4", common / "tiny.safetensors"
    assert _infer(video, folder / "run", model=model) == 0
    yield Seed(folder / "run", ("summary.json",), lambda case: _view(case, video))
    _write_yard(folder / "yard")
    options = ["--checkpoint", str(model), "--threads", "1", "--dtype", "fp32", "--consistency"]
    for name in ("one", "two"):
        (folder / "compare").mkdir(exist_ok=True)
        out = str(folder / "compare" / f"{name}.json")
        assert evaluate.main(["--data", str(folder / "yard"), *options, "--json", out]) == 0
    yield Seed(
        folder / "compare",
        ("one.json",),
        lambda case: evaluate.main(
            ["--compare", str(case / "one.json"), str(case / "two.json"), "--report", str(case / "report")]
        ),
    )


def _masks(folder: Path, common: Path) -> Iterator[Seed]:
    video, model = common / "clip.mp4", common / "tiny.safetensors"
    files = {"png": "000001.png", "npz": "masks.npz", "ffv1": "masks.mkv", "coco-rle": "coco.json"}
    for name, file in files.items():
        assert _infer(video, folder / name, "--format", name, model=model) == 0
        yield Seed(folder / name, (file,), lambda case: _view(case, video))


def _checkpoints(folder: Path, _: Path) -> Iterator[Seed]:
    _write_yard(folder / "yard")

    def trainer(out: Path) -> Trainer:
        return Trainer(_RECIPE, DataSource(folder / "yard", dataset_file("camvid")), out, torch.device("cpu"))

    def resume(case: Path) -> None:
        trainer(case).run(resume=True)

    trainer(folder / "run").run()
    file = folder / "run" / CHECKPOINT_NAME
    state = torch.load(file, weights_only=True)
    torch.save({**state, "step": state["step"] - 1}, file)  # a step and an evaluation are left to do
    yield Seed(
        folder / "run",
        (CHECKPOINT_NAME,),
        lambda case: run_command("train", lambda: resume(case)),
    )


KINDS: dict[str, Callable[[Path, Path], Iterator[Seed]]] = {
    "videos": _videos,
    "images": _images,
    "toml": _toml,
    "models": _models,
    "summaries": _summaries,
    "masks": _masks,
    "checkpoints": _checkpoints,
}
"""By name: make the seeds in a folder, with the files that all kinds share."""
