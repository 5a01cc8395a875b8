"""The scripts as a user runs them, in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, MakeVideo

SMALL = [
    "epochs=2", "evaluate_every=1", "model.backbone_weights=", "model.overrides.backbone=test_efficientnet",
    "model.overrides.channels=16", "model.overrides.skip_channels=[12,10,8]", "data.input_size=[48,64]",
    "data.augmentation.crop_size=[32,40]",
]  # fmt: skip


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if key != "CCNET3D_CAMVID"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **environment})


@pytest.mark.parametrize("without_video", [False, True], ids=["", "without av and decord"])
def test_own_three_class_dataset_without_python(yard: Path, tmp_path: Path, without_video: bool) -> None:
    """Frames, masks and a dataset.toml: two epochs of training, an evaluation, and resuming a run that is done."""
    environment = {}
    if without_video:
        blocked = tmp_path / "blocked"
        blocked.mkdir()
        for name in ("av", "decord"):
            (blocked / f"{name}.py").write_text("raise ImportError('not installed')")
        environment["PYTHONPATH"] = f"{blocked}{os.pathsep}{REPOSITORY}"
    overrides = [item for override in SMALL for item in ("--set", override)]
    training = run("train_camvid.py", "--data", yard, "--out", tmp_path / "run", *overrides, **environment)
    assert training.returncode == 0, training.stderr
    assert "11 training frames, 4 steps" in training.stdout
    assert "epoch 2 of 2: val mIoU" in training.stdout
    model = tmp_path / "run" / "model.safetensors"
    scores_file = tmp_path / "scores.json"
    report = tmp_path / "report"
    options = ["--checkpoint", model, "--json", scores_file, "--report", report, "--worst", "2", "--no-images"]
    views = ["--scales", "0.5,1", "--flip", "--window", "32x48", "--all"] if without_video else []
    scoring = run("evaluate.py", "--data", yard, *options, *views, **environment)
    assert scoring.returncode == 0, scoring.stderr
    assert "metrics took" in scoring.stderr
    page = (report / "report.html").read_text()
    assert f"<b>{100 * json.loads(scores_file.read_text())['miou']:.2f}</b>" in page
    assert page.count("data:image/png") == 2 * 3
    assert "data:image/jpeg" not in page
    assert (report / "evaluation.json").read_text() == scores_file.read_text()
    scores = json.loads(scores_file.read_text())
    assert ("consistency" in scores, "boundary_f" in scores) == (without_video, without_video)
    if without_video:
        assert "T=5, 32x48 windows, scales 0.5, 1, mirrored too" in scoring.stdout
        assert {"vc8_strict", "tc"} < set(scores["consistency"])
    assert set(scores["per_class_iou"]) == {"ground", "box", "rail"}
    assert (scores["frames"], scores["videos"]) == (3, 1)
    assert 0 <= scores["miou"] <= 1
    assert f"mIoU (pooled)   {100 * scores['miou']:6.2f}" in scoring.stdout
    comparison = run("evaluate.py", "--compare", report, scores_file, "--report", tmp_path / "both", **environment)
    assert comparison.returncode == 0, comparison.stderr
    assert "scores against report, 3 frames" in comparison.stdout
    assert "Frames that differ most" in (tmp_path / "both" / "report.html").read_text()


@pytest.mark.real_data
def test_consistency_over_time_is_scored_too(camvid: Path, tmp_path: Path) -> None:
    """On real CamVid, whose classes the default weights know; random flow weights make TC a number, not a truth."""
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_small

    save_file(raft_small(weights=None).state_dict(), tmp_path / "raft.safetensors")
    data = tmp_path / "data"
    for folder in ("val", "valannot"):
        (data / folder).mkdir(parents=True)
        for image in sorted((camvid / folder).iterdir())[:9]:
            (data / folder / image.name).symlink_to(image)
    (data / "val.txt").write_text(
        "".join(f"val/{p.name} valannot/{p.name}\n" for p in sorted((data / "val").iterdir()))
    )
    options = ["--consistency", "--flow", tmp_path / "raft.safetensors", "--smooth", "1", "--input-size", "96x128"]
    scoring = run("evaluate.py", "--data", data, *options, "--json", tmp_path / "scores.json")
    assert scoring.returncode == 0, scoring.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())["consistency"]
    assert set(scores) == {"vc8_strict", "vc8_reference", "vc16_strict", "vc16_reference", "tc"}
    assert 0 < scores["vc8_strict"] <= 1
    assert scores["vc16_strict"] is None  # nine frames have no window of 16
    assert "vc8_strict" in scoring.stdout
    wrong = run("evaluate.py", "--data", data, "--flow", data / "val.txt")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "does not hold weights of torchvision's raft_small" in wrong.stderr


def test_masks_of_another_tool_against_labels(yard: Path, tmp_path: Path) -> None:
    """Masks that are the labels, where void is some class, are right everywhere."""
    from PIL import Image

    (tmp_path / "names.txt").write_text("ground\nbox\nrail\n")
    for path in sorted((yard / "labels" / "walk").iterdir()):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.open(path).point(lambda id_: min(id_, 2)).save(tmp_path / "masks" / path.name)
    labels = ["--labels", yard / "labels" / "walk", "--predictions", tmp_path / "masks"]
    scoring = run("evaluate.py", *labels, "--classes", tmp_path / "names.txt", "--all")
    assert scoring.returncode == 0, scoring.stderr
    lines = dict(line.rsplit(maxsplit=1) for line in scoring.stdout.splitlines()[1:])
    assert set(lines) > {"ground", "box", "rail", "mIoU (pooled)", "weighted IoU", "boundary F", "vc8_strict"}
    assert {value for name, value in lines.items() if not name.startswith("vc")} == {"100.00"}
    (tmp_path / "masks" / "0004.png").unlink()
    scoring = run("evaluate.py", *labels, "--classes", "3")
    assert (scoring.returncode, scoring.stderr.count("\n")) == (2, 1)
    assert "1 of 7 labelled frames have no mask in" in scoring.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--predictions", ".", "--flip"], "--flip is for a model, and --predictions are masks already"),
        (["--labels", ".", "--classes", "3"], "--labels needs --predictions and --classes"),
        (["--labels", ".", "--classes", "3", "--predictions", ".", "--flow"], "--flow needs the frames themselves"),
        (["--count-occluded"], "--count-occluded is for the score of --flow"),
        (["--compare", "a", "b", "--json", "c"], "--compare is for what was evaluated before"),
        (["--no-images"], "--no-images is for the page of --report"),
        (["--report", __file__], "--report makes a folder, and .*test_scripts.py is a file"),
    ],
)
def test_options_of_evaluation_that_do_not_go_together(options: list[str], message: str) -> None:
    script = importlib.util.spec_from_file_location("evaluate_script", REPOSITORY / "scripts" / "evaluate.py")
    assert script is not None
    assert script.loader is not None
    evaluate = importlib.util.module_from_spec(script)
    script.loader.exec_module(evaluate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["evaluate.py", *options])
        arguments = evaluate.parse_arguments()
    with pytest.raises(ValueError, match=message):
        evaluate.run(arguments)


def test_without_data_training_says_how_to_get_it(tmp_path: Path) -> None:
    training = run("train_camvid.py", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert training.returncode == 2
    assert training.stderr.count("\n") == 1
    assert "get CamVid from https://" in training.stderr
    assert "datasets/camvid/README.md" in training.stderr
    assert (REPOSITORY / "datasets" / "camvid" / "README.md").is_file()
    by_variable = run("train_camvid.py", CCNET3D_CAMVID=str(tmp_path / "elsewhere"))
    assert "no data folder at" in by_variable.stderr
    assert "elsewhere" in by_variable.stderr
    assert not (tmp_path / "run").exists()


def test_bad_input_is_one_line(yard: Path, tmp_path: Path) -> None:
    training = run("train_camvid.py", "--data", yard, "--set", "epochz=1", "--out", tmp_path / "run")
    assert (training.returncode, training.stderr.count("\n")) == (2, 1)
    assert "unknown key 'epochz'" in training.stderr
    scoring = run("evaluate.py", "--data", yard, "--split", "test")
    assert (scoring.returncode, scoring.stderr.count("\n")) == (2, 1)
    assert "no split 'test'" in scoring.stderr
    scoring = run("evaluate.py", "--data", yard)
    assert "evaluate with weights that were trained on it" in scoring.stderr


def test_what_a_loader_process_says_is_one_line(yard: Path, tmp_path: Path) -> None:
    (yard / "frames" / "walk" / "0003.png").write_bytes(b"damaged")
    overrides = [item for override in SMALL for item in ("--set", override)]
    training = run("train_camvid.py", "--data", yard, "--out", tmp_path / "run", *overrides)
    assert (training.returncode, training.stderr.count("\n")) == (2, 1)
    assert training.stderr.startswith("train_camvid.py: error: cannot read the image ")
    assert "0003.png" in training.stderr


def test_attention_benchmark_checks_before_it_times(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--size", "2x9x12", "--channels", "32", "--repeats", "1", "--only", "check", "table", "--json", out]
    bench = run("bench_attention.py", *options)
    assert bench.returncode == 0, bench.stderr
    report = json.loads(out.read_text())
    assert report["errors"]["tiled torch.float32"] < 1e-5
    rows = {row["name"]: row for row in report["table"][0]}
    assert {"tiled", "axial", "seed-style", "2D per frame", "axial attention", "non-local", "reference"} <= rows.keys()
    positions, cross = 2 * 9 * 12, 2 + 9 + 12 - 2
    assert rows["tiled"]["flops"] == 2 * positions * cross * (32 + 4)
    assert rows["non-local"]["flops"] == 2 * positions**2 * (32 + 4)
    assert all(row[mode]["seconds"] > 0 for row in rows.values() for mode in ("forward", "forward+backward"))


def test_attention_is_drawn(tmp_path: Path, make_video: MakeVideo, tiny_checkpoint: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
    out = tmp_path / "seen.png"
    common = [make_video(frames=5), "--checkpoint", tiny_checkpoint, "-o", out]
    wrong = run("show_attention.py", *common, "--point", "64,0", "--frame", "2")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "the point 64,0 is not in a picture of 64x48 pixels" in wrong.stderr
    assert not out.exists()
    showing = run("show_attention.py", *common, "--point", "20,30", "--frame", "4", "--clip-length", "2")
    assert showing.returncode == 0, showing.stderr
    assert "R = 3: " in showing.stdout
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_attention_benchmark_wants_the_gpu_it_was_told() -> None:
    bench = run("bench_attention.py", "--device", "cuda")
    assert bench.returncode == 2
    assert bench.stderr == "bench_attention.py: error: --device cuda, but PyTorch finds no CUDA device\n"


def test_attention_benchmark_looks_at_its_outputs_before_it_measures(tmp_path: Path) -> None:
    bench = run("bench_attention.py", "--json", tmp_path / "missing" / "bench.json")
    assert bench.returncode == 2
    assert bench.stderr == (
        f"bench_attention.py: error: no folder {tmp_path / 'missing'} for bench.json; make it first\n"
    )


def test_inference_benchmark(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    options = ["--parts", "clips", "deeplab", "command", "--frames", "2", "--rounds", "1", "--command-frames", "4"]
    bench = run("bench_inference.py", *options, "--input-size", "64x96", "--json", out)
    assert bench.returncode == 0, bench.stderr
    figures = json.loads(out.read_text())
    for dtype in ("torch.float32", "torch.bfloat16"):
        assert figures["clips"][dtype]["T=1"] == 1
        assert all(ratio > 0 for ratio in figures["clips"][dtype].values())
        assert figures["deeplab"][dtype] > 0
    assert figures["command"]["frames"] == 4
    assert figures["command"]["command"] > 1  # it loads what the model in memory has loaded


def test_ray_gives_the_commands_masks(tmp_path: Path, make_video: MakeVideo, tiny_checkpoint: Path) -> None:
    """Two actors, three videos and a broken one; a second call finds all done."""
    pytest.importorskip("ray", reason="ray is an optional extra")
    (tmp_path / "videos").mkdir()
    for name in "abc":
        make_video(f"{name}.mp4", frames=6).rename(tmp_path / "videos" / f"{name}.mp4")
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video" * 100)
    common = [tmp_path / "videos", "--checkpoint", tiny_checkpoint, "--smooth", "1"]
    for _ in range(2):
        pool = run("infer_with_ray.py", *common, "-o", tmp_path / "ray", "--actors", "2", "--device", "cpu")
        assert pool.returncode == 2
        assert "infer_with_ray.py: error: 1 of 4 videos failed; their lines say why" in pool.stderr
        rows = {Path(row["source"]).stem: row for row in map(json.loads, pool.stdout.splitlines())}
        assert {name: row["frames"] for name, row in rows.items()} == {"a": 6, "b": 6, "c": 6, "broken": 0}
        assert "cannot be read as a video" in rows["broken"]["error"]
    infer = [sys.executable, "-m", "ccnet3d.cli.infer", *common, "-o", tmp_path / "command", "--threads", "1"]
    subprocess.run([*map(str, infer)], check=False, capture_output=True)
    trees = [
        {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("ray", "command")
    ]
    assert trees[0] == trees[1]
    assert len(trees[0]) == 3 * 7
