from __future__ import annotations

from pathlib import Path

import pytest

from ccnet3d.errors import UserError
from ccnet3d.inference.sources import Job, plan_jobs

OUT = Path("out")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with videos and images; no test opens them."""
    for name in (
        "one.mp4", "two.MKV", "clip[1].mp4",
        "videos/b.mp4", "videos/a.mp4", "videos/C.AVI", "videos/.hidden.mp4", "videos/notes.txt", "videos/still.png",
        "lonely/only.mp4",
        "walk/0001.png", "walk/0002.png", "run/0001.jpg", "run.2/0001.jpg",
        "twins/x.mp4", "twins/x.mov", "twins/y.mp4",
        "morning/cam.mp4", "evening/cam.mp4", "case/Cam.mp4",
        "deep/morning/cam.mp4",
        "empty/notes.txt",
        "take[1]/a.png", "take[1]/b.png", "mixed/a.mp4", "mixed/b.png", "mixed/c.txt", "mixed/inner/d.mp4",
        "2026-03-29T02:30:00.mp4",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*inputs: str, overlay: Path | None = None) -> dict[str, str]:
    """Return the folder of each source, as text."""
    return {str(job.source): str(job.folder) for job in plan_jobs(inputs, OUT, overlay)}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "source",
    ["one.mp4", "two.MKV", "clip[1].mp4", "walk", "walk/*.png", "w*/000[12].png", "-", "take[1]", "take[1]/*.png",
     "2026-03-29T02:30:00.mp4"],
)  # fmt: skip
def test_one_video_is_written_to_the_folder_itself(source: str) -> None:
    (job,) = plan_jobs([source], OUT, Path("seen.mp4"))
    assert str(job.source) == source
    assert job.folder == OUT
    assert job.overlay == Path("seen.mp4")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("source", "name"), [("one.mp4", "one"), ("walk", "walk"), ("walk/*.png", "walk")])
def test_a_single_video_can_have_a_folder_of_its_own(source: str, name: str) -> None:
    (job,) = plan_jobs([source], OUT, nested=True)
    assert (job.folder, job.overlay) == (OUT / name, None)


def test_absolute_path(folder: Path) -> None:
    assert plan_jobs([str(folder / "one.mp4")], OUT) == [Job(folder / "one.mp4", OUT, None)]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("inputs", "folders"),
    [
        (["one.mp4", "two.MKV"], {"one.mp4": "out/one", "two.MKV": "out/two"}),
        (["two.MKV", "one.mp4"], {"two.MKV": "out/two", "one.mp4": "out/one"}),
        (["one.mp4", "walk", "-"], {"one.mp4": "out/one", "walk": "out/walk", "-": "out/stdin"}),
        # A folder, also of one video, without hidden files and other files.
        (["videos"], {"videos/C.AVI": "out/C", "videos/a.mp4": "out/a", "videos/b.mp4": "out/b"}),
        (["lonely"], {"lonely/only.mp4": "out/only"}),
        (["lonely", "one.mp4"], {"lonely/only.mp4": "out/only", "one.mp4": "out/one"}),
        # Each folder of images is one video.
        (["run", "walk"], {"run": "out/run", "walk": "out/walk"}),
        (["run.2", "walk"], {"run.2": "out/run.2", "walk": "out/walk"}),
        # A pattern of images is one video; a pattern of videos is several, even if it matches only one.
        (["walk/*.png", "run/*.jpg"], {"walk/*.png": "out/walk", "run/*.jpg": "out/run"}),
        (["videos/*.mp4"], {"videos/a.mp4": "out/a", "videos/b.mp4": "out/b"}),
        (["lonely/*"], {"lonely/only.mp4": "out/only"}),
        (["clip[1].mp4", "one.mp4"], {"clip[1].mp4": "out/clip[1]", "one.mp4": "out/one"}),
    ],
)
def test_each_of_several_videos_gets_a_folder(inputs: list[str], folders: dict[str, str]) -> None:
    assert planned(*inputs) == folders
    assert list(planned(*inputs)) == list(folders)  # in this order


@pytest.mark.usefixtures("folder")
def test_recursive_pattern() -> None:
    assert list(planned("deep/**/*.mp4")) == ["deep/morning/cam.mp4"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("inputs", "folders"),
    [
        (["twins"], ["out/x.mov", "out/x.mp4", "out/y"]),
        (["morning/cam.mp4", "evening/cam.mp4"], ["out/morning_cam.mp4", "out/evening_cam.mp4"]),
        # Some file systems ignore case.
        (["morning/cam.mp4", "case/Cam.mp4"], ["out/morning_cam.mp4", "out/case_Cam.mp4"]),
        (["twins/x.mp4", "morning/cam.mp4", "evening/cam.mp4"],
         ["out/x", "out/morning_cam.mp4", "out/evening_cam.mp4"]),
    ],
)  # fmt: skip
def test_names_that_clash_get_longer(inputs: list[str], folders: list[str]) -> None:
    assert list(planned(*inputs).values()) == folders


@pytest.mark.usefixtures("folder")
def test_videos_with_the_same_name_and_folder_name() -> None:
    with pytest.raises(UserError, match=r"morning/cam\.mp4 and deep/morning/cam\.mp4 would share one output folder"):
        plan_jobs(["morning/cam.mp4", "deep/morning/cam.mp4"], OUT)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("here", [".", "./", "*.png", "../walk"])
def test_folder_given_by_dots_has_its_own_name(monkeypatch: pytest.MonkeyPatch, here: str) -> None:
    monkeypatch.chdir("walk")
    assert [job.folder for job in plan_jobs([here, "../one.mp4"], OUT)] == [OUT / "walk", OUT / "one"]


@pytest.mark.usefixtures("folder")
def test_parent_folder_never_leads_out_of_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("walk/inner").mkdir()
    monkeypatch.chdir("walk/inner")
    assert [job.folder for job in plan_jobs(["..", "../../one.mp4"], OUT)] == [OUT / "walk", OUT / "one"]


@pytest.mark.usefixtures("folder")
def test_overlays() -> None:
    assert [job.overlay for job in plan_jobs(["videos/*.mp4"], OUT, Path("seen"))] == [
        Path("seen/a.mp4"), Path("seen/b.mp4"),
    ]  # fmt: skip
    assert [job.overlay for job in plan_jobs(["twins"], OUT, Path("seen"))] == [
        Path("seen/x.mov.mp4"), Path("seen/x.mp4.mp4"), Path("seen/y.mp4"),
    ]  # fmt: skip
    assert [job.overlay for job in plan_jobs(["videos"], OUT)] == [None] * 3
    for file in ("seen.mp4", "SEEN.MP4"):
        with pytest.raises(UserError, match=f"with several videos --overlay names a folder, got the file {file}"):
            plan_jobs(["videos"], OUT, Path(file))


def test_names_for_messages() -> None:
    assert Job("-", OUT, None).name == "standard input"
    assert Job(Path("a/b.mp4"), OUT, None).name == "a/b.mp4"
    assert Job("a/*.png", OUT, None).name == "a/*.png"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("inputs", [["twins", "videos", "morning/cam.mp4", "case/Cam.mp4"], ["one.mp4"], ["walk"]])
def test_shards_are_a_partition_under_the_same_names(inputs: list[str], count: int) -> None:
    whole = plan_jobs(inputs, OUT)
    shards = [plan_jobs(inputs, OUT, shard=(index, count)) for index in range(count)]
    assert sorted((job for shard in shards for job in shard), key=str) == sorted(whole, key=str)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert shards[0] == whole[::count]


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (1, 1), (5, 2)])
def test_impossible_shards(shard: tuple[int, int]) -> None:
    index, count = shard
    with pytest.raises(UserError, match=f"the shards of {count} are 0/{count} to {count - 1}/{count}, got {index}/"):
        plan_jobs(["a.mp4"], OUT, shard=shard)


def test_there_is_at_least_one_shard() -> None:
    with pytest.raises(UserError, match="the number of shards must be at least 1, got 0/0"):
        plan_jobs(["a.mp4"], OUT, shard=(0, 0))


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("inputs", "source", "times"),
    [
        (["one.mp4", "one.mp4"], r"one\.mp4", 2),
        (["one.mp4", "./one.mp4", "two.MKV", "one.mp4"], r"one\.mp4", 3),
        (["videos", "videos/a.mp4"], r"videos/a\.mp4", 2),
        (["-", "-"], "-", 2),
        (["walk", "walk/"], "walk", 2),
    ],
)
def test_video_given_twice(inputs: list[str], source: str, times: int) -> None:
    with pytest.raises(UserError, match=f"^{source} is given {times} times; give it once"):
        plan_jobs(inputs, OUT)


@pytest.mark.usefixtures("folder")
def test_pattern_without_a_match() -> None:
    with pytest.raises(UserError, match=r"no file matches the pattern nothing\*\.mp4"):
        plan_jobs(["nothing*.mp4"], OUT)
    with pytest.raises(UserError, match=r"no file matches the pattern videos/\?\?\.mp4"):
        plan_jobs(["one.mp4", "videos/??.mp4"], OUT)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("source", ["empty", "empty/*", "empty/*.txt"])
def test_folder_or_pattern_without_videos_or_images(source: str) -> None:
    with pytest.raises(UserError, match="empty.*no|no.*empty"):
        plan_jobs([source], OUT)


def skipped(*inputs: str) -> list[str]:
    lines: list[str] = []
    plan_jobs(inputs, OUT, on_skip=lines.append)
    return lines


@pytest.mark.usefixtures("folder")
def test_what_was_left_out_is_named() -> None:
    assert skipped("mixed") == ["the folder mixed is read as videos; left out: b.png, c.txt, inner/"]
    assert skipped("mixed/*", "videos", "walk", "one.mp4") == [
        "the pattern mixed/* is read as videos; left out: b.png, c.txt, inner/",
        "the folder videos is read as videos; left out: notes.txt, still.png",
    ]
    Path("walk/notes.txt").touch()
    assert skipped("walk") == ["the folder walk is read as images; left out: notes.txt"]
    for number in range(7):
        Path(f"lonely/{number}.txt").touch()
    (line,) = skipped("lonely")
    assert line.endswith("left out: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 2 more")
    with pytest.raises(UserError, match=r"the folder empty contains no video and no image \(only notes.txt\)"):
        plan_jobs(["empty"], OUT)


@pytest.mark.usefixtures("folder")
def test_pattern_that_the_shell_expanded() -> None:
    message = (
        r"^2 of the 2 inputs are images, the first is walk/0001\.png; to read images as the frames of one video, quote "
        r"the pattern, as in 'walk/\*\.png', or give their folder$"
    )
    with pytest.raises(UserError, match=message):
        plan_jobs(["walk/0001.png", "walk/0002.png"], OUT)
    with pytest.raises(UserError, match=r"^1 of the 2 inputs are images"):
        plan_jobs(["one.mp4", "walk/0001.png"], OUT)


@pytest.mark.usefixtures("folder")
def test_order_of_the_inputs_does_not_change_names() -> None:
    inputs = ["twins", "morning/cam.mp4", "evening/cam.mp4", "take[1]", "mixed"]
    assert planned(*inputs) == planned(*inputs[::-1])
