"""The scripts as a user runs them, in processes of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, MakeVideo
from tiny_run import SMALL

from ccnet3d.cli.options import first_line


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
    assert set(scores) == {"vc8_strict", "vc8_reference", "vc16_strict", "vc16_reference", "flicker", "tc"}
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


def test_every_file_at_fault_has_a_line_before_training(yard: Path, tmp_path: Path) -> None:
    (yard / "frames" / "walk" / "0003.png").write_bytes(b"damaged")
    (yard / "labels" / "night" / "0001.png").write_bytes(b"damaged")
    overrides = [item for override in SMALL for item in ("--set", override)]
    training = run("train_camvid.py", "--data", yard, "--out", tmp_path / "run", *overrides)
    assert (training.returncode, training.stdout) == (2, "")
    first, *lines = training.stderr.splitlines()
    assert first == "train_camvid.py: error: 2 files are at fault; mend them or take them out of the split:"
    assert ["walk/0003.png: " in lines[0], "night/0001.png: " in lines[1], len(lines)] == [True, True, 2]
    assert all(line.startswith("  cannot read the image ") for line in lines)
    assert not (tmp_path / "run").exists()


def test_what_a_loader_process_says_is_one_line() -> None:
    caught = "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    assert first_line(ValueError(f"{caught}  File x\nValueError: cannot read: a.png\n")) == "cannot read: a.png"


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


def test_training_benchmark(tmp_path: Path) -> None:
    overrides = [item for override in SMALL[2:] for item in ("--set", override)]
    options = ["--steps", "1", "--matrix", "64", "--threads", "1", "--device", "cpu", "--json", tmp_path / "bench.json"]
    bench = run("bench_training.py", *overrides, *options)
    assert bench.returncode == 0, bench.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["T"] for row in rows] == [1, 5]
    assert rows[0]["relative_seconds"] == 1
    assert all(row["share_of_product_rate"] > 0 and "seconds" not in row for row in rows)
    # Longer clips have longer crosses, and nothing else that costs.
    assert rows[0]["gflops_a_frame"] < rows[1]["gflops_a_frame"] < 1.1 * rows[0]["gflops_a_frame"]


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


def test_ablation_that_is_killed_goes_on_to_its_table(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "short.toml").write_text(
        f"pipeline = {str(REPOSITORY / 'pipelines' / 'camvid_lite.toml')!r}\n"
        f"overrides = {json.dumps([*SMALL, 'data.workers=0'])}\n"
        "seeds = [3, 4]\nwindows = [2]\nplotted = ['miou']\n"
        "[[variants]]\nname = 'one'\n[[variants]]\nname = 'two'\noverrides = ['model.overrides.loops=2']\n"
    )
    arguments = [tmp_path / "short.toml", "--data", yard, "--out", tmp_path / "out", "--threads", "1"]
    command = [sys.executable, str(REPOSITORY / "scripts" / "run_ablation.py"), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            if line == "run 2 of 4, two, seed 3: training\n":
                process.kill()
    assert process.returncode == -signal.SIGKILL
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
    assert f"- command: {shlex.join(command[1:])}" in table
    runs = json.loads((tmp_path / "out" / "table.json").read_text())["variants"]
    assert [[r["seed"] for r in variant["results"]] for variant in runs] == [[3, 4], [3, 4]]
    assert runs[0]["results"][0]["scores"] == json.loads(scores.read_text())["scores"]
    assert runs[1]["cost"]["relative"] > 0
    assert not (tmp_path / "out" / "plot.png").exists()


def test_ablation_says_in_one_line_what_is_missing(yard: Path, tmp_path: Path) -> None:
    shipped = REPOSITORY / "pipelines" / "ablations" / "clip_length.toml"
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['matplotlib'] = None")
    blocked = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    for arguments, message in [
        ([shipped, "--data", yard, "--plot"], "--plot needs matplotlib; pip install 'ccnet3d[plot]'"),
        ([shipped, "--data", tmp_path / "nowhere"], "no data folder at"),
        ([tmp_path / "other.toml", "--data", yard], "cannot read"),
    ]:
        ablation = run("run_ablation.py", *arguments, "--out", tmp_path / "out", PYTHONPATH=blocked)
        assert (ablation.returncode, ablation.stderr.count("\n")) == (2, 1)
        assert f"run_ablation.py: error: {message}" in ablation.stderr
    assert not (tmp_path / "out").exists()
