"""Run the commands as users do, in separate processes."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import Commands, in_two_processes
from conftest import MakeVideo
from PIL import Image
from script_runner import run

from ccnet3d.cli import attention, evaluate
from ccnet3d.data import corrupt_frame
from ccnet3d.errors import UserError
from ccnet3d.models import CCNet3D, ModelInfo, save_model


@pytest.mark.real_data
def test_consistency_over_time_is_scored_too(camvid: Path, tmp_path: Path) -> None:
    """On real CamVid, which the default weights were trained on; random flow weights only show that TC is computed."""
    from safetensors.torch import save_file
    from torchvision.models.optical_flow import raft_small

    save_file(raft_small(weights=None).state_dict(), tmp_path / "raft.safetensors")
    data = tmp_path / "data"
    for folder in ("val", "valannot"):
        (data / folder).mkdir(parents=True)
        for path in sorted((camvid / folder).iterdir())[:8]:
            with Image.open(path) as image:  # smaller, for the optical flow's sake
                image.resize((180, 136), Image.Resampling.NEAREST).save(data / folder / path.name)
    (data / "val.txt").write_text(
        "".join(f"val/{p.name} valannot/{p.name}\n" for p in sorted((data / "val").iterdir()))
    )
    options = ["--consistency", "--flow", tmp_path / "raft.safetensors", "--smooth", "1", "--input-size", "96x128"]
    scoring = run("evaluate.py", "--data", data, *options, "--json", tmp_path / "scores.json")
    assert scoring.returncode == 0, scoring.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())["consistency"]
    assert set(scores) == {"vc8_strict", "vc8_reference", "vc16_strict", "vc16_reference", "flicker", "tc"}
    assert 0 < scores["vc8_strict"] <= 1
    assert scores["vc16_strict"] is None  # eight frames have no window of 16
    assert "VC8 strict" in scoring.stdout
    wrong = run("evaluate.py", "--data", data, "--flow", data / "val.txt")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "does not contain weights of torchvision's raft_small" in wrong.stderr


def test_masks_of_another_tool_against_labels(yard: Path, tmp_path: Path) -> None:
    """Masks equal to the labels, with some class in void, are right everywhere."""
    from PIL import Image

    (tmp_path / "names.txt").write_text("ground\nbox\nrail\n")
    for path in sorted((yard / "labels" / "walk").iterdir()):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.open(path).point(lambda id_: min(id_, 2)).save(tmp_path / "masks" / path.name)
    labels = ["--labels", yard / "labels" / "walk", "--predictions", tmp_path / "masks"]
    scoring = run("evaluate.py", *labels, "--classes", tmp_path / "names.txt", "--all")
    assert scoring.returncode == 0, scoring.stderr
    lines = dict(line.rsplit(maxsplit=1) for line in scoring.stdout.splitlines()[1:])
    assert set(lines) > {
        "ground",
        "box",
        "rail",
        "mIoU",
        "frequency-weighted IoU",
        "boundary F-score",
        "boundary IoU",
        "VC8 strict",
    }
    assert lines.pop("flicker") == "0.00"
    assert {value for name, value in lines.items() if not name.startswith("VC")} == {"100.00"}
    (tmp_path / "masks" / "0004.png").unlink()
    scoring = run("evaluate.py", *labels, "--classes", "3")
    assert (scoring.returncode, scoring.stderr.count("\n")) == (2, 1)
    assert "1 of 7 labeled frames have no mask in" in scoring.stderr


def test_a_page_of_the_user_is_noticed_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    arguments = evaluate.build_parser().parse_args(["--data", "nowhere", "--report", str(tmp_path)])
    with pytest.raises(UserError, match="report.html exists, and is a file that ccnet3d did not write there"):
        evaluate.run(arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--predictions", ".", "--flip"], "--flip is for a model, and --predictions are masks already"),
        (["--labels", ".", "--classes", "3"], "--labels needs --predictions and --classes"),
        (["--labels", ".", "--classes", "3", "--predictions", ".", "--flow"], "--flow needs the frames themselves"),
        (["--count-occluded"], "--count-occluded is for the score of --flow"),
        (["--compare", "a", "b", "--json", "c"], "--json is for an evaluation, and --compare reads earlier ones"),
        (["--no-images"], "--no-images is for the page of --report"),
        (["--report", __file__], "--report writes a folder, and .*test_evaluation.py is a file"),
        (["--corrupt", "noise", "--predictions", "."], "--corrupt scores a model in one table, without --predictions"),
        (["--corrupt", "noise", "--labels", "."], "--corrupt scores a model in one table, without --labels"),
        (["--corrupt", "noise", "--report", "."], "--corrupt scores a model in one table, without --report"),
        (["--corrupt", "noise", "--compare", "a", "b"], "--corrupt scores a model in one table, without --compare"),
        (["--void", "254"], "--void is for the labels of --labels; add --labels"),
        (["--classes", "3"], "--classes is for the labels of --labels; add --labels"),
        (["--video-starts-at", "5"], "--video-starts-at is for the masks of --predictions; add --predictions"),
        (["--worst", "3"], "--worst is for the page of --report; add --report"),
        (["--predictions", ".", "--causal"], "--causal is for a model, and --predictions are masks already"),
        (["--predictions", ".", "--batch", "2"], "--batch is for a model, and --predictions are masks already"),
        (
            ["--labels", ".", "--classes", "3", "--predictions", ".", "--split", "test"],
            "--split is for a data folder, and --labels are instead of one",
        ),
        (["--compare", "a", "b", "--boundary"], "--boundary is for an evaluation, and --compare reads earlier ones"),
        (["--severity", "2"], "--severity is for the corruptions of --corrupt; add --corrupt"),
    ],
)
def test_options_of_evaluation_that_do_not_go_together(options: list[str], message: str) -> None:
    arguments = evaluate.build_parser().parse_args(options)
    with pytest.raises(UserError, match=message):
        evaluate.run(arguments)


def test_names_of_corruptions() -> None:
    parse = evaluate.build_parser().parse_args
    assert parse([]).corrupt == []
    assert parse(["--corrupt", "drop,noise,drop"]).corrupt == ["drop", "noise"]
    assert parse(["--corrupt", "all"]).corrupt == ["noise", "blur", "jpeg", "occlusion", "drop"]


@pytest.mark.usefixtures("one_thread")
def test_scores_under_corruptions_are_those_of_corrupted_files(
    yard: Path, commands: Commands, tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo, capsys
) -> None:
    """Compare with evaluations of copies of the data whose images were corrupted, and with two processes."""
    checkpoint, out = tmp_path / "torn.safetensors", tmp_path / "rows.json"
    save_model(checkpoint, torn_model, tiny_info)
    options = ["--split", "train", "--checkpoint", str(checkpoint), "--boundary"]

    def score(data: Path, *more: str) -> str:
        assert evaluate.main(["--data", str(data), *options, "--json", str(out), *more]) == 0
        return capsys.readouterr().out

    printed = score(yard, "--corrupt", "all", "--severity", "4")
    rows = json.loads(out.read_text())
    table = [line.split() for line in printed.splitlines()]
    assert printed.splitlines()[0].endswith("11 frames of 2 videos, T=3, 32x48, severity 4")
    assert printed.splitlines()[1].split() == ["mIoU", "boundary", "F-score"]
    names = ["noise", "blur", "jpeg", "occlusion", "drop"]
    assert [row[0] for row in table[2:]] == list(rows) == ["clean", *names, "mean"]
    for row in table[2:]:
        assert row[1:] == [f"{100 * rows[row[0]][name]:.2f}" for name in ("miou", "boundary_f")]

    frames = sorted((yard / "frames" / "walk").iterdir()) + sorted((yard / "frames" / "yard_2").iterdir())
    for name in names:
        copied = tmp_path / name
        shutil.copytree(yard, copied)
        for index, path in enumerate(frames):
            image = corrupt_frame(np.array(Image.open(path)), name, 4, (0, index))
            Image.fromarray(image).save(copied / path.relative_to(yard))
        score(copied)
        scores = json.loads(out.read_text())
        assert rows[name] == {key: scores[key] for key in rows[name]}, name
    score(yard)
    scores = json.loads(out.read_text())
    assert rows["clean"] == {key: scores[key] for key in rows["clean"]}
    assert len({scores["miou"] for scores in rows.values()}) == 7
    for key in rows["mean"]:
        assert rows["mean"][key] == pytest.approx(sum(rows[name][key] for name in names) / 5)

    score(yard, "--corrupt", "noise,drop")  # at severity 3
    alone = out.read_bytes()
    assert json.loads(alone)["noise"] != rows["noise"]
    command = ["--data", yard, *options, "--corrupt", "noise,drop", "--json", tmp_path / "two.json"]
    results = in_two_processes(commands, "ccnet3d.cli.evaluate", *command)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr
    assert (tmp_path / "two.json").read_bytes() == alone
    assert [result.stdout.count("mIoU") for result in results] == [1, 0]

    assert evaluate.main(["--data", str(yard), *options, "--corrupt", "noise", "--severity", "9"]) == 2
    assert evaluate.main(["--data", str(yard), *options, "--corrupt", "noise,fog"]) == 2
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "ccnet3d-evaluate: error: the severity must be 1 to 5, got 9",
        "ccnet3d-evaluate: error: there is no corruption 'fog'; choose from noise, blur, jpeg, occlusion, drop",
    ]


def test_attention_is_drawn(tmp_path: Path, make_video: MakeVideo, tiny_checkpoint: Path, capsys) -> None:
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
    assert showing.stdout.splitlines()[-1] == f"wrote {out}"
    assert out.read_bytes().startswith(b"\x89PNG")
    out.write_bytes(b"mine")
    again = ["--point", "20,30", "--frame", "4"]
    assert attention.main([*map(str, common), *again]) == 2
    assert "seen.png exists; give the picture another name, or --overwrite to replace it" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    out.unlink()
    out.symlink_to(tmp_path / "gone.png")
    assert attention.main([*map(str, common), *again, "--overwrite"]) == 2
    assert "seen.png is a link, which is not replaced" in capsys.readouterr().err


def test_probed_weights_score_as_models_that_are_so(
    yard: Path, tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo
) -> None:
    """Compare with models without attention, and with a classifier whose biases were changed by hand."""
    import torch

    recipe = {"train_split": "train", "loss": {"class_balance_offset": 1.1}}
    torch.nn.init.constant_(torn_model.head.attention.gamma, 4.0)  # so that masks depend on it
    models = {"trained": (torn_model, replace(tiny_info, recipe=recipe))}
    config = replace(tiny_info.model, loops=0)
    models["without"] = CCNet3D(config), replace(tiny_info, model=config)
    models["without"][0].load_state_dict(torn_model.state_dict(), strict=False)
    labels = [np.array(Image.open(p)) for name in ("walk", "yard_2") for p in (yard / "labels" / name).iterdir()]
    pixels = np.array([sum((label == k).sum() for label in labels) for k in range(3)])
    moved = copy.deepcopy(torn_model)
    moved.classifier.bias.data += torch.from_numpy(np.log(np.log(1.1 + pixels / pixels.sum())))
    models["moved"] = moved, tiny_info
    expected = {}
    for name, (model, info) in models.items():
        save_model(tmp_path / f"{name}.safetensors", model, info, dtype=torch.float32)
        options = ["--data", yard, "--checkpoint", tmp_path / f"{name}.safetensors", "--consistency"]
        assert run("evaluate.py", *options, "--json", tmp_path / "scores.json").returncode == 0
        expected[name] = json.loads((tmp_path / "scores.json").read_text())
    options = ["--data", yard, "--checkpoint", tmp_path / "trained.safetensors", "--gamma", "0,1", "--take-back", "0,1"]
    probing = run("probe_weights.py", *options, "--json", tmp_path / "rows.json")
    assert probing.returncode == 0, probing.stderr
    rows = {(row["gamma"], row["taken_back"]): row for row in json.loads((tmp_path / "rows.json").read_text())}
    for key, name in (((0.0, 0.0), "without"), ((4.0, 0.0), "trained"), ((4.0, 1.0), "moved")):
        assert rows[key]["per_class_iou"] == pytest.approx(expected[name]["per_class_iou"], abs=1e-3), name
        assert rows[key]["consistency"]["flicker"] == pytest.approx(expected[name]["consistency"]["flicker"], abs=1e-3)
    assert len({row["miou"] for row in rows.values()}) == 4  # all of it matters in this model
    wrong = run("probe_weights.py", *options[:2], "--checkpoint", tmp_path / "without.safetensors")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "no attention" in wrong.stderr
    wrong = run("probe_weights.py", *options[:2], "--checkpoint", tmp_path / "moved.safetensors", "--take-back", "1")
    assert "trained without class weights" in wrong.stderr
    (yard / "labels" / "walk" / "0003.png").write_bytes(b"no image")
    wrong = run("probe_weights.py", *options, "--json", tmp_path / "rows.json")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("probe_weights.py: error: a file is invalid")
    assert "0003.png" in wrong.stderr.splitlines()[1]


def test_scores_replace_scores_only(yard: Path, tmp_path: Path, capsys) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    Image.fromarray(np.eye(4, dtype=np.uint8)).save(labels / "1.png")
    options = ["--labels", labels, "--predictions", labels, "--classes", "2"]
    frame, link, out = yard / "frames/walk/0001.png", tmp_path / "link.json", tmp_path / "scores.json"
    mine = tmp_path / "mine.json"
    link.symlink_to(out)
    mine.write_text('{"record": "of mine"}')
    before = {path: path.read_bytes() for path in (frame, mine)}
    for path, message in (
        (frame, "is no file of scores"),
        (mine, "is no file of scores"),
        (link, "is a link"),
        (yard, "is a folder"),
    ):
        assert evaluate.main([*map(str, options), "--json", str(path)]) == 2
        assert message in capsys.readouterr().err
    assert all(path.read_bytes() == content for path, content in before.items())
    for _ in range(2):
        assert evaluate.main([*map(str, options), "--json", str(out)]) == 0
    assert json.loads(out.read_text())["miou"] == 1


def test_a_count_of_classes_is_bounded(yard: Path, capsys) -> None:
    options = ["--labels", str(yard / "labels"), "--predictions", str(yard / "labels")]
    assert evaluate.main([*options, "--classes", "99999999999"]) == 2
    assert "--classes must be at most 255 classes, got 99999999999" in capsys.readouterr().err
