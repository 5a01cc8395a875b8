"""The training scripts as a user runs them, in separate processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from commands import Commands
from conftest import REPOSITORY
from PIL import Image
from script_runner import run
from tiny_run import SMALL

from ccnet3d.cli import ablate, train
from ccnet3d.cli.options import error_line
from ccnet3d.models import CCNet3D, load_model, save_model


@pytest.mark.parametrize("without_video", [False, True], ids=["", "without av and decord"])
def test_own_three_class_dataset_without_python(yard: Path, tmp_path: Path, without_video: bool) -> None:
    """Frames, masks and a dataset.toml: two epochs of training, an evaluation, and a comparison."""
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
    assert re.search(
        r"trained on 40 frames in \S+ s: \S+ frames/s, \S+% of the time waiting for data\n", training.stdout
    )
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
    assert ["mIoU", f"{100 * scores['miou']:.2f}"] in [line.split() for line in scoring.stdout.splitlines()]
    comparison = run("evaluate.py", "--compare", report, scores_file, "--report", tmp_path / "both", **environment)
    assert comparison.returncode == 0, comparison.stderr
    assert "scores against report, 3 frames" in comparison.stdout
    assert "Frames that differ most" in (tmp_path / "both" / "report.html").read_text()


@pytest.mark.parametrize(
    "recipe", [["camvid_lite"], ["--pipeline", str(REPOSITORY / "pipelines" / "camvid_lite.toml")], []]
)
def test_a_recipe_is_named_or_a_file(
    recipe: list[str], yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run goes to ``runs/``, its frame cache to the given folder, and half of the clips come from larger frames."""
    large = tmp_path / "large"
    shutil.copytree(yard, large)
    for path in large.rglob("*.png"):
        with Image.open(path) as image:
            image.resize((128, 96), Image.Resampling.NEAREST).save(path)
    monkeypatch.chdir(tmp_path)
    overrides = [*SMALL, "epochs=1", "data.workers=0", "data.high_resolution_share=0.5"]
    arguments = [*recipe, "--data", str(yard), "--high-resolution", str(large), "--cache", "cache", "--threads", "1"]
    assert train.main([*arguments, *(item for override in overrides for item in ("--set", override))]) == 0
    *_, wrote, line = capsys.readouterr().out.splitlines()
    assert wrote == "wrote runs/yard_camvid_lite/model.safetensors; segment a video with it:"
    assert line == "ccnet3d-infer video.mp4 -o masks/ --checkpoint runs/yard_camvid_lite/model.safetensors"
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_an_unknown_name_lists_the_known_ones(yard: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["camvid", "--data", str(yard)]) == 2
    message = "there is neither a file nor a recipe named camvid; give a TOML file or one of adapt, ade20k_r101, "
    assert capsys.readouterr().err.startswith(f"ccnet3d-train: error: {message}")
    assert ablate.main(["clip_lengths", "--data", str(yard)]) == 2
    assert "ccl, ccl_short, clip_length, clip_length_short, context, evidence_clip_length, " in capsys.readouterr().err


def test_without_data_the_error_says_how_to_get_it(tmp_path: Path) -> None:
    training = run("train_camvid.py", "--data", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert training.returncode == 2
    assert training.stderr.count("\n") == 1
    assert f"no data folder at {tmp_path / 'nowhere'}; give a folder with a dataset.toml, or CamVid" in training.stderr
    by_variable = run("train_camvid.py", CCNET3D_CAMVID=str(tmp_path / "elsewhere"))
    assert "no data folder at" in by_variable.stderr
    assert "get CamVid from https://" in by_variable.stderr
    assert "datasets/camvid/README.md" in by_variable.stderr
    assert (REPOSITORY / "datasets" / "camvid" / "README.md").is_file()
    assert "elsewhere" in by_variable.stderr
    assert not (tmp_path / "run").exists()


def test_missing_folder_of_larger_frames(yard: Path, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    training = run("train_camvid.py", "--data", yard, "--high-resolution", absent, "--out", tmp_path / "run")
    assert training.returncode == 2
    assert training.stderr.endswith(f"there is no folder {absent}; give that of the larger frames\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--high-resolution", "."], "--high-resolution is for recipes that draw clips from larger frames"),
        (["--pipeline", "camvid_lite"], "--pipeline is another name of RECIPE"),
        (
            ["--set", "data.augmentation.crop_size=[16000, 16000]"],
            "data.augmentation.crop_size must have at most 1,228,800 pixels for frames of 48x64, got 16000x16000",
        ),
        (["--set", "data.input_size=[1600, 1600]"], "data.input_size must have at most 1,228,800 pixels"),
        (["--resume"], "there is no checkpoint at "),
    ],
)
def test_what_training_refuses_at_once(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert train.main(["camvid_lite", "--data", str(yard), "--out", str(tmp_path / "run"), *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_refused_before_the_plan(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"")
    assert train.main(["camvid_lite", "--data", str(yard), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr() == (
        "",
        f"ccnet3d-train: error: {tmp_path} contains an earlier run; give --resume to continue it, or another --out "
        "for a new one\n",
    )


def test_options_of_labeled_data_without_any(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--cache", "--dataset", "--high-resolution"):
        assert train.main(["adapt", "--unlabelled", "x.mp4", option, "camvid", "--out", str(tmp_path / "run")]) == 2
        assert f"{option} is for labeled data, and this run has none" in capsys.readouterr().err


def test_bad_input_is_one_line(yard: Path, tmp_path: Path) -> None:
    training = run("train_camvid.py", "--data", yard, "--set", "epochz=1", "--out", tmp_path / "run")
    assert (training.returncode, training.stderr.count("\n")) == (2, 1)
    assert "unknown key 'epochz'" in training.stderr
    scoring = run("evaluate.py", "--data", yard, "--split", "test")
    assert (scoring.returncode, scoring.stderr.count("\n")) == (2, 1)
    assert "no split 'test'" in scoring.stderr
    scoring = run("evaluate.py", "--data", yard)
    assert "evaluate with weights that were trained on it" in scoring.stderr


def test_every_invalid_file_has_a_line_before_training(yard: Path, tmp_path: Path) -> None:
    (yard / "frames" / "walk" / "0003.png").write_bytes(b"damaged")
    (yard / "labels" / "night" / "0001.png").write_bytes(b"damaged")
    overrides = [item for override in SMALL for item in ("--set", override)]
    training = run("train_camvid.py", "--data", yard, "--out", tmp_path / "run", *overrides)
    assert (training.returncode, training.stdout) == (2, "")
    first, *lines = training.stderr.splitlines()
    assert first == "ccnet3d-train: error: 2 files are invalid; fix them or remove them from the split:"
    assert ["walk/0003.png: " in lines[0], "night/0001.png: " in lines[1], len(lines)] == [True, True, 2]
    assert all(line.startswith("  cannot read the image ") for line in lines)
    assert not (tmp_path / "run").exists()


def test_the_error_of_a_data_loader_worker_is_one_line() -> None:
    caught = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    assert error_line(ValueError(f"{caught}  File x\nValueError: cannot read: a.png\n")) == "cannot read: a.png"


def test_a_killed_ablation_resumes_to_its_table(yard: Path, commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(
        f"recipe = {str(REPOSITORY / 'pipelines' / 'camvid_lite.toml')!r}\n"
        f"overrides = {json.dumps([*SMALL, 'data.workers=0'])}\n"
        "seeds = [3, 4]\nwindows = [2]\nplotted = ['miou']\n"
        "[[variants]]\nname = 'one'\n[[variants]]\nname = 'two'\noverrides = ['model.overrides.loops=2']\n"
    )
    arguments = [tmp_path / "short.toml", "--data", yard, "--out", tmp_path / "out", "--threads", "1"]
    reading, writing = os.pipe()
    process = commands.start("ccnet3d.cli.ablate", *arguments, stdout=writing)
    os.close(writing)
    with os.fdopen(reading) as lines:
        for line in lines:
            if line == "run 2 of 4, two, seed 3: training\n":
                os.kill(process.pid, signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "table.md").exists()
    scores = tmp_path / "out" / "one" / "seed-3" / "scores.json"
    before = scores.stat().st_mtime_ns

    ablation = run("run_ablation.py", *arguments)
    assert ablation.returncode == 0, ablation.stderr
    assert "run 1 of 4, one, seed 3: training" not in ablation.stdout
    assert "run 2 of 4, two, seed 3: training" in ablation.stdout
    assert scores.stat().st_mtime_ns == before
    table = (tmp_path / "out" / "table.md").read_text()
    assert table in ablation.stdout
    command = [str(REPOSITORY / "scripts" / "run_ablation.py"), *map(str, arguments)]
    assert f"- command: {shlex.join(command)}" in table
    runs = json.loads((tmp_path / "out" / "table.json").read_text())["variants"]
    assert [[r["seed"] for r in variant["results"]] for variant in runs] == [[3, 4], [3, 4]]
    assert runs[0]["results"][0]["scores"] == json.loads(scores.read_text())["scores"]
    assert runs[1]["cost"]["relative"] > 0
    assert not (tmp_path / "out" / "plot.png").exists()


def test_an_ablation_names_what_is_missing_in_one_line(yard: Path, tmp_path: Path) -> None:
    shipped = REPOSITORY / "pipelines" / "ablations" / "clip_length.toml"
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['matplotlib'] = None")
    blocked = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for arguments, message in [
        ([shipped, "--data", yard, "--plot"], "--plot needs matplotlib; pip install 'ccnet3d[plot]'"),
        ([shipped, "--data", tmp_path / "nowhere"], "no data folder at"),
        ([tmp_path / "other.toml", "--data", yard], "there is neither a file nor an ablation named"),
    ]:
        ablation = run("run_ablation.py", *arguments, "--out", tmp_path / "out", PYTHONPATH=blocked)
        assert (ablation.returncode, ablation.stderr.count("\n")) == (2, 1)
        assert f"ccnet3d-ablate: error: {message}" in ablation.stderr
    assert not (tmp_path / "out").exists()


def test_the_mean_of_models(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Each weight is the mean of the models' weights, and an existing file is not replaced."""
    model, info = load_model(tiny_checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    save_model(tmp_path / "other.safetensors", model, info)
    out = tmp_path / "mean" / "model.safetensors"
    done = run("average_models.py", tiny_checkpoint, tmp_path / "other.safetensors", "-o", out)
    assert done.returncode == 0, done.stderr
    before = load_model(tiny_checkpoint)[0].state_dict()
    for name, tensor in load_model(out)[0].named_parameters():
        torch.testing.assert_close(tensor, before[name] + 0.5, rtol=2e-3, atol=2e-3)
    again = run("average_models.py", tiny_checkpoint, tmp_path / "other.safetensors", "-o", out)
    assert again.returncode == 2
    assert "exists; give another file to write" in again.stderr
    save_model(tmp_path / "two.safetensors", CCNet3D(replace(info.model, channels=8)), replace(
        info, model=replace(info.model, channels=8)
    ))  # fmt: skip
    mixed = run(
        "average_models.py", tiny_checkpoint, tmp_path / "two.safetensors", "-o", tmp_path / "mixed.safetensors"
    )
    assert mixed.returncode == 2
    assert "another architecture or other classes" in mixed.stderr


def test_a_mean_with_the_start_of_training(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A quarter of the start and three quarters of the trained weights, and only with a recipe that names the start."""
    start, info = load_model(tiny_checkpoint)
    model, _ = load_model(tiny_checkpoint)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    overrides = {key: value for key, value in asdict(info.model).items() if key != "num_classes"}
    recipe = {"model": {"overrides": overrides, "initial_weights": str(tiny_checkpoint)}}
    trained, out = tmp_path / "trained.safetensors", tmp_path / "mixed.safetensors"
    save_model(trained, model, replace(info, recipe=recipe))
    done = run("average_models.py", trained, "--start-share", "0.25", "-o", out)
    assert done.returncode == 0, done.stderr
    before = start.state_dict()
    for name, tensor in load_model(out)[0].named_parameters():
        torch.testing.assert_close(tensor, before[name] + 0.75, rtol=2e-3, atol=2e-3)
    for number, (changed, share, message) in enumerate([
        ({"model": {"overrides": overrides}}, "0.25", "was trained from random weights"),
        ({}, "0.25", "does not say what its training started from"),
        (recipe, "1", "--start-share must be at least 0 and below 1, got 1.0"),
    ]):  # fmt: skip
        file = tmp_path / f"{number}.safetensors"
        save_model(file, model, replace(info, recipe=changed))
        refused = run("average_models.py", file, "--start-share", share, "-o", tmp_path / "refused.safetensors")
        assert refused.returncode == 2
        assert message in refused.stderr
