"""Labels of unlabeled videos against the teachers' own predictions, and training on them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeVideo, draw_scene
from PIL import Image
from tiny_run import RECIPE, SMALL, make_trainer

from ccnet3d.cli import train
from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data import DataSource, LabelledSequences, RequestedSample
from ccnet3d.errors import UserError
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import CCNet3D, ModelInfo, load_model, save_model
from ccnet3d.training import Recipe, Trainer, UnlabelledRecipe, pseudo_labels
from ccnet3d.training.batches import ClipBatches
from ccnet3d.training.pseudo_labels import label_videos, open_pseudo_labels

CPU = torch.device("cpu")


@pytest.fixture
def teacher(tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo) -> Path:
    path = tmp_path / "teacher.safetensors"
    save_model(path, torn_model, tiny_info)
    return path


@pytest.fixture
def other_teacher(tmp_path: Path, teacher: Path) -> Path:
    """A teacher of the same classes with other weights and another working size."""
    model, info = load_model(teacher)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    path = tmp_path / "other.safetensors"
    save_model(path, model, replace(info, input_size=(64, 64)))
    return path


def make_recipe(sources: Sequence[Path | str], *teachers: Path, **values: object) -> UnlabelledRecipe:
    recipe = UnlabelledRecipe(tuple(map(str, sources)), tuple(map(str, teachers)), smoothing=1, threshold=0.45)
    return replace(recipe, **values)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_images(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem): np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def probabilities_of(teacher: Path, frames: list[np.ndarray], size: tuple[int, int], smoothing: int) -> np.ndarray:
    """Return the class probabilities ``[frames, K, H, W]``, in float64."""
    segmenter = VideoSegmenter(*load_model(teacher), smoothing=smoothing, dtype=torch.float32)
    result = []
    for prediction in segmenter.predict(frames):
        logits = torch.nn.functional.interpolate(prediction.logits[None].double(), size, mode="bilinear")[0].numpy()
        exponentials = np.exp(logits - logits.max(0))
        result.append(exponentials / exponentials.sum(0))
    return np.stack(result)


def decode(video: Path) -> list[np.ndarray]:
    import av

    with av.open(str(video)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_labels_are_the_teachers_masks_where_it_is_certain(
    make_video: MakeVideo, teacher: Path, tmp_path: Path
) -> None:
    """The frames are stored at the working size, at which the teacher segments them as it does the video's."""
    video, out = make_video(frames=6, height=96, width=128), tmp_path / "labels"
    recipe = make_recipe([video], teacher, threshold=0.45)
    label_videos(recipe, out, CPU)
    frames, labels = read_images(out / "clip" / "frames"), read_images(out / "clip" / "labels")
    assert list(frames) == list(labels) == list(range(6))
    assert {image.shape for image in frames.values()} == {(32, 48, 3)}

    stored = list(frames.values())
    segmenter = VideoSegmenter(*load_model(teacher), smoothing=1, dtype=torch.float32)
    masks = np.stack(list(segmenter.segment(stored)))
    unsmoothed = np.stack(list(segmenter.segment(stored, smoothing=0)))
    probabilities = probabilities_of(teacher, decode(video), (32, 48), smoothing=1)
    largest = probabilities.max(1)
    second = np.sort(probabilities, axis=1)[:, -2]
    clear = (np.abs(largest - 0.45) > 1e-4) & (largest - second > 1e-4)
    written = np.stack(list(labels.values()))
    np.testing.assert_array_equal(written[clear], np.where(largest >= 0.45, masks, IGNORE_INDEX)[clear])
    assert clear.mean() > 0.99
    assert 0.05 < (written == IGNORE_INDEX).mean() < 0.95
    assert (masks != unsmoothed).any()


def test_an_ensemble_is_the_mean_of_probabilities(
    make_video: MakeVideo, teacher: Path, other_teacher: Path, tmp_path: Path
) -> None:
    video, out = make_video(frames=5), tmp_path / "labels"
    label_videos(make_recipe([video], teacher, other_teacher), out, CPU)
    written = np.stack(list(read_images(out / "clip" / "labels").values()))
    each = [probabilities_of(path, decode(video), (32, 48), smoothing=1) for path in (teacher, other_teacher)]
    mean = (each[0] + each[1]) / 2
    ordered = np.sort(mean, axis=1)
    clear = (np.abs(ordered[:, -1] - 0.45) > 1e-4) & (ordered[:, -1] - ordered[:, -2] > 1e-4)
    expected = np.where(ordered[:, -1] >= 0.45, mean.argmax(1), IGNORE_INDEX)
    np.testing.assert_array_equal(written[clear], expected[clear])
    assert clear.mean() > 0.99
    assert all((one.argmax(1) != mean.argmax(1)).any() for one in each)


def test_the_result_is_an_ordinary_dataset(make_video: MakeVideo, teacher: Path, tmp_path: Path) -> None:
    """A lost frame, or one left out by the stride, is a gap in the numbers; clips cross only the stride's."""
    folder = tmp_path / 'walk "1"\x7f'
    folder.mkdir()
    for number in range(9):
        Image.fromarray(draw_scene(number)[0]).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"damaged")
    recipe = make_recipe([folder, make_video(frames=5)], teacher, frame_stride=2)
    out = tmp_path / "labels"
    label_videos(recipe, out, CPU)
    one = DataSource(out / folder.name).open("train")
    assert [frame.number for frame in one.frames] == [0, 2, 6, 8]
    assert one.segments == [range(2), range(2, 4)]
    assert one.spec.class_names == ("ground", "box", "rail")
    assert one.spec.palette == ((90, 140, 60), (200, 40, 40), (40, 40, 220))
    joined = open_pseudo_labels(recipe, out, None)
    assert [(frame.sequence, frame.number) for frame in joined.frames] == [
        ("clip", 0), ("clip", 2), ("clip", 4), *((folder.name, number) for number in (0, 2, 6, 8))
    ]  # fmt: skip
    assert joined.spec.name == 'walk "1"? (pseudo-labeled), clip (pseudo-labeled)'


def test_complete_labels_are_reused(
    make_video: MakeVideo, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = make_recipe([make_video()], teacher), tmp_path / "labels"
    label_videos(recipe, out, CPU)
    (out / "clip" / "notes.txt").write_text("mine")
    before = contents(out)
    with monkeypatch.context() as patch:
        patch.setattr(VideoSegmenter, "predict", None)
        label_videos(recipe, out, CPU)
        label_videos(replace(recipe, share=1.0), out, CPU)  # says nothing about labels
    assert contents(out) == before


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"smoothing": 2}, "smoothing"),
        ({"threshold": 0.7}, "threshold"),
        ({"frame_stride": 2}, "frame_stride"),
        ("teacher", "teachers"),
        ("video", "source_sha256"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_labels_of_other_settings_are_refused(
    change: dict[str, float] | str, key: str, complete: bool, make_video: MakeVideo, teacher: Path,
    other_teacher: Path, tmp_path: Path,
) -> None:  # fmt: skip
    recipe, out = make_recipe([make_video(frames=3)], teacher), tmp_path / "labels"
    label_videos(recipe, out, CPU)
    if not complete:
        (out / "clip" / "dataset.toml").unlink()
    before = contents(out)
    if change == "teacher":
        shutil.copy(other_teacher, teacher)
    elif change == "video":
        make_video(frames=4)
    else:
        assert isinstance(change, dict)
        recipe = replace(recipe, **change)
    with pytest.raises(UserError, match=f"made with other settings: {key} differ; remove that folder"):
        label_videos(recipe, out, CPU)
    assert contents(out) == before


@pytest.mark.parametrize("after", [0, 1, 4, 5, 13, 14])
def test_an_interrupted_labeling_is_continued(
    after: int, make_video: MakeVideo, teacher: Path, other_teacher: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """It predicts only what is missing, and the files equal those of a labeling without an interruption."""
    recipe = make_recipe([make_video(frames=7)], teacher, other_teacher)
    label_videos(recipe, tmp_path / "whole", CPU)
    out, left = tmp_path / "labels", after + 1  # the settings are written first
    write = pseudo_labels.write_atomically

    def write_some(path: Path, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= 1
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(pseudo_labels, "write_atomically", write_some)
        with pytest.raises(KeyboardInterrupt):
            label_videos(recipe, out, CPU)
    with pytest.raises(UserError):
        DataSource(out / "clip").open("train")
    (out / "clip" / ".settings.json.0a0a0a0a.partial").touch()
    done = set((out / "clip" / "labels").glob("*.png"))
    times = {path: path.stat().st_mtime_ns for path in done}
    label_videos(recipe, out, CPU)
    assert {path: path.stat().st_mtime_ns for path in done} == times
    assert len(done) == after // 2
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.mp4", "there is no file"),
        ("empty.mp4", "is empty; give a video file"),
        ("noise.mp4", "noise.mp4"),
        ("empty", "contains no video and no image"),
        ("-", "standard input, which can be read only once, cannot be labeled"),
        ("frames/*.png", r"the pattern frames/\*.png cannot be labeled; give a video file or a folder of frames"),
        ("clip.mp4", "is given 2 times"),
        ("fifo", "fifo is a pipe, which can be read only once; give a video file or a folder of frames"),
    ],
)
def test_a_bad_source_is_refused_before_anything_is_written(
    source: str, message: str, make_video: MakeVideo, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_video()
    Path("empty.mp4").touch()
    os.mkfifo("fifo")
    Path("noise.mp4").write_bytes(bytes(range(256)) * 40)
    Path("empty").mkdir()
    Path("frames").mkdir()
    Image.fromarray(draw_scene(0)[0]).save("frames/0.png")
    with pytest.raises(UserError, match=message):
        label_videos(make_recipe(["clip.mp4", source], teacher), Path("labels"), CPU)
    assert not Path("labels").exists()


def test_what_does_not_fit_is_refused(
    make_video: MakeVideo, teacher: Path, tmp_path: Path, yard: Path, tiny_model: CCNet3D, tiny_info: ModelInfo
) -> None:
    video, out, renamed = make_video(), tmp_path / "labels", tmp_path / "renamed.safetensors"
    save_model(renamed, tiny_model, replace(tiny_info, class_names=("ground", "crate", "rail")))
    recipe = make_recipe([video], teacher)
    held_out = {path.resolve() for path in (yard / "frames" / "night").iterdir()}
    for bad, options, message in [
        (replace(recipe, sources=()), {}, "names none; give them with --unlabelled VIDEO"),
        (make_recipe([video], video), {}, "is not a ccnet3d model file"),
        (make_recipe([video], teacher, renamed), {}, "have different classes"),
        (recipe, {"class_names": ["ground", "rail", "box"]}, "teachers predict ground, box, rail, the labeled data"),
        (make_recipe([yard / "frames" / "night"], teacher), {"held_out": held_out}, "0001.png is a frame of the valid"),
    ]:
        with pytest.raises(UserError, match=message):
            label_videos(bad, out, CPU, **options)
    assert not out.exists()
    (out / "clip").mkdir(parents=True)
    (out / "clip" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="contains other files than pseudo labels; move them"):
        label_videos(recipe, out, CPU)
    assert list(contents(out)) == ["clip/thesis.txt"]


def test_the_share_of_clips_is_exact() -> None:
    for share, length, expected in [(0.3, 1, [3, 3, 3, 3]), (0.25, 1, [2, 3, 3, 2]), (0.3, 5, [1, 0, 1, 0, 1])]:
        batches = list(ClipBatches(20, 10, [length], 0, 0, len(expected), pseudo_frames=7, pseudo_share=share))
        assert [sum(request.anchor >= 20 for request in batch) for batch in batches] == expected
        assert {len(batch) for batch in batches} == {10 // length}
    mixed = [r for b in ClipBatches(20, 10, [1, 5], 0, 0, 400, pseudo_frames=7, pseudo_share=0.37) for r in b]
    for length, clips in ((1, 2000), (5, 400)):
        drawn = [r.anchor for r in mixed if r.length == length]
        assert len(drawn) == clips
        assert sum(anchor >= 20 for anchor in drawn) == 0.37 * clips
    per_process = [
        list(ClipBatches(20, 10, [1], 0, 0, 3, processes=2, process=rank, pseudo_frames=7, pseudo_share=0.6))
        for rank in range(2)
    ]
    assert [[sum(r.anchor >= 20 for r in batch) for batch in batches] for batches in per_process] == [[3, 3, 3]] * 2
    pseudo = [r.anchor for r in mixed if r.anchor >= 20]
    assert sorted(pseudo[:7]) == list(range(20, 27))
    assert {r.anchor for b in ClipBatches(20, 10, [1, 5], 0, 0, 9, pseudo_frames=7, pseudo_share=1) for r in b} == set(
        range(20, 27)
    )


def test_without_videos_the_draws_are_what_they_were() -> None:
    """These draws were recorded before videos could be mixed in."""
    batches = list(ClipBatches(5, 4, [1, 2], seed=7, start=0, stop=3, clip_strides=[1, 3]))
    assert batches == [
        [(2, 0, 1, 1868869222, 3), (0, 0, 1, 1880887030, 1), (4, 0, 1, 555968905, 1), (1, 0, 1, 470828273, 1)],
        [(3, 0, 2, 1599442341, 1), (0, 1, 2, 1648624181, 1)],
        [(1, 0, 1, 1477753206, 3), (4, 0, 1, 2085910862, 3), (3, 0, 1, 1625472136, 1), (2, 0, 1, 1948737031, 3)],
    ]


def mixed_recipe(video: Path, teacher: Path, share: float = 0.5) -> Recipe:
    data = replace(RECIPE.data, unlabelled=make_recipe([video], teacher, share=share))
    return replace(RECIPE, epochs=2, evaluate_every=1, data=data)


def test_training_mixes_resumes_exactly_and_never_uses_val_frames(
    make_video: MakeVideo, teacher: Path, yard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = mixed_recipe(make_video(frames=9), teacher)
    whole = make_trainer(yard, tmp_path / "whole", recipe)
    assert (len(whole.train_set), len(whole.pseudo_set), whole.total_steps) == (11, 9, 6)
    used: list[Path] = []
    read = LabelledSequences.read_image

    def read_image(self: LabelledSequences, index: int) -> torch.Tensor:
        if self is not whole.val_set:
            used.append(self.frames[index].image)
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(LabelledSequences, "read_image", read_image)
        model_file = whole.run()
    pseudo = [path for path in used if "pseudo_labels" in path.parts]
    assert pseudo
    assert len(pseudo) < len(used)
    assert not {path.parent.name for path in used} & {"night"}
    # Six steps of four frames, half of them of each kind; a clip of two frames at a video's end repeats one.
    anchors = [request.anchor for batch in whole._batches(0) for request in batch]
    assert sum(anchor >= 11 for anchor in anchors) == len(anchors) / 2

    killed = make_trainer(yard, tmp_path / "killed", recipe)
    step = killed.train_step

    def interrupted_step(number: int, samples: Sequence[RequestedSample]) -> dict[str, float]:
        if number == 4:
            raise KeyboardInterrupt
        return step(number, samples)

    monkeypatch.setattr(killed, "train_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    make_trainer(yard, tmp_path / "killed", recipe).run(resume=True)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == model_file.read_bytes()
    weights = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["parts"]["model"]
        for name in ("whole", "killed")
    ]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_a_threshold_that_leaves_no_label(make_video: MakeVideo, teacher: Path, yard: Path, tmp_path: Path) -> None:
    recipe = mixed_recipe(make_video(frames=3), teacher)
    data = replace(recipe.data, unlabelled=replace(recipe.data.unlabelled, threshold=1.0))
    with pytest.raises(UserError, match=r"nowhere as certain as data.unlabelled.threshold = 1.0; lower it"):
        make_trainer(yard, tmp_path / "run", replace(recipe, data=data))
    with pytest.raises(UserError, match=r"without labeled data, .*; set data.unlabelled.share=1"):
        Trainer(recipe, None, tmp_path / "run", CPU)


def adapt(tmp_path: Path, teacher: Path, *arguments: str) -> int:
    overrides = [
        *SMALL, "model.architecture=ccnet3d_lite", "model.initial_weights=", "data.workers=0",
        f"data.unlabelled.teachers=['{teacher}']", "data.unlabelled.threshold=0.4",
    ]  # fmt: skip
    sets = [item for override in overrides for item in ("--set", override)]
    return train.main(["adapt", *arguments, "--out", str(tmp_path / "run"), "--threads", "1", *sets])


def test_the_command_adapts_without_labeled_data(
    make_video: MakeVideo, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("CCNET3D_CAMVID", str(tmp_path / "nowhere"))  # a default that is not asked for
    video, other = make_video(frames=12), make_video("other.mp4", frames=9)
    assert adapt(tmp_path, teacher, "--unlabelled", str(video), str(other)) == 0
    output = capsys.readouterr().out
    assert "21 pseudo-labeled frames, 6 steps on cpu" in output
    assert "epoch 2 of 2: saved without validation, which needs labeled data" in output
    assert output.endswith("model.safetensors\n")
    _, info = load_model(tmp_path / "run" / "model.safetensors")
    assert (info.class_names, info.scores) == (("ground", "box", "rail"), {})
    assert info.dataset == "clip (pseudo-labeled), other (pseudo-labeled), split train"
    assert info.recipe["data"]["unlabelled"]["share"] == 1.0
    assert info.recipe["data"]["unlabelled"]["sources"] == [str(video), str(other)]
    assert adapt(tmp_path, teacher, "--unlabelled", str(video), str(other), "--resume") == 0
    assert adapt(tmp_path, teacher, "--resume") == 2
    assert "names none; give them with --unlabelled VIDEO" in capsys.readouterr().err


def test_the_command_mixes_labeled_data_in(
    make_video: MakeVideo, teacher: Path, yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert adapt(tmp_path, teacher, "--unlabelled", str(make_video(frames=8)), "--data", str(yard)) == 0
    output = capsys.readouterr().out
    assert "11 training frames and 8 pseudo-labeled frames, 4 steps on cpu" in output
    assert "val mIoU" in output
    _, info = load_model(tmp_path / "run" / "model.safetensors")
    assert list(info.scores) == ["val_miou"]
    assert info.recipe["data"]["unlabelled"]["share"] == 0.5
