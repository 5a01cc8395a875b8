from __future__ import annotations

import re
import weakref
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeVideo
from reports.pages import make_page, scene_masks

from ccnet3d.masks.saved_masks import open_masks
from ccnet3d.reports import write_video_page
from ccnet3d.reports.mask_statistics import MaskStatistics
from ccnet3d.reports.video_page import clock, spread
from ccnet3d.video import open_video


def test_statistics_worked_out_by_hand() -> None:
    statistics = MaskStatistics([0, 1, 5])
    for rows in (
        ["000", "000", "000"],
        ["110", "000", "000"],  # two pixels change, and only the first changes back
        ["010", "000", "005"],  # the first and the last change
        ["010", "000", "005"],
        ["xx0", "000", "005"],  # changes to "other" count too
    ):
        mask = np.array([[255 if letter == "x" else int(letter) for letter in row] for row in rows], np.uint8)
        statistics.add(mask)
    assert statistics.change == [None, 2 / 9, 2 / 9, 0, 2 / 9]
    assert statistics.flicker == [None, 1 / 9, 0, 0, None]
    assert statistics.shares[2] == [7 / 9, 1 / 9, 1 / 9]
    assert statistics.shares[4] == [6 / 9, 0, 1 / 9]
    assert statistics.mean_shares() == pytest.approx([36 / 45, 4 / 45, 3 / 45])


def test_statistics_against_slow_loops() -> None:
    masks = np.random.default_rng(3).integers(0, 3, (6, 5, 4), dtype=np.uint8)
    statistics = MaskStatistics(range(3))
    for mask in masks:
        statistics.add(mask)
    for t in range(6):
        change = flicker = 0
        counts = [0, 0, 0]
        for y in range(5):
            for x in range(4):
                counts[masks[t, y, x]] += 1
                change += bool(t and masks[t, y, x] != masks[t - 1, y, x])
                if 0 < t < 5:
                    flicker += masks[t - 1, y, x] == masks[t + 1, y, x] != masks[t, y, x]
        assert statistics.shares[t] == pytest.approx([count / 20 for count in counts])
        assert statistics.change[t] == (pytest.approx(change / 20) if t else None)
        assert statistics.flicker[t] == (pytest.approx(flicker / 20) if 0 < t < 5 else None)


def test_nothing_is_compared_across_a_change_of_size() -> None:
    statistics = MaskStatistics([0, 1])
    for size in (3, 3, 4, 4, 4):
        statistics.add(np.eye(size, dtype=np.uint8))
    assert statistics.change == [None, 0, None, 0, 0]
    assert statistics.flicker == [None, None, None, 0, None]


@pytest.mark.parametrize(
    ("count", "at_most", "positions"),
    [
        (3, 3, [0, 1, 2]),
        (3, 9, [0, 1, 2]),
        (9, 1, [0]),
        (9, 2, [0, 8]),
        (9, 3, [0, 4, 8]),
        (10, 4, [0, 3, 6, 9]),
        (6, 4, [0, 2, 3, 5]),
    ],
)
def test_spread(count: int, at_most: int, positions: list[int]) -> None:
    assert spread(count, at_most) == positions


def test_clock() -> None:
    assert clock([2, 3, 7], [0.5, 0.75, 2.0], 30) == [0, 0.25, 1.5]
    assert clock([2, 3, 7], [0.5, None, 2.0], 10) == [0, 0.1, 0.5]
    assert clock([2, 3, 7], [0.5, 0.5, 2.0], 10) == [0, 0.1, 0.5]
    assert clock([0, 5], [None, None], None) == [0, 0.2]


def test_each_picture_is_its_frame_and_mask(make_video: MakeVideo, save_masks) -> None:
    masks = scene_masks(5)
    page = make_page(save_masks(masks), make_video(frames=5))
    assert page.data["numbers"] == [0, 1, 2, 3, 4]
    assert page.data["pictures"] == [0, 1, 2, 3, 4]
    assert page.data["seconds"] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert page.data["classes"][1]["name"] == "box"
    assert page.data["classes"][1]["mean"] == pytest.approx(np.mean([mask == 1 for mask in masks]), abs=1e-5)
    for position, (mask, frame) in enumerate(zip(masks, open_video(make_video(frames=5)), strict=True)):
        np.testing.assert_array_equal(page.mask(position), mask)
        assert np.abs(page.frame(position).astype(int) - frame.image).mean() < 10
        assert page.data["shares"][position] == pytest.approx([(mask == i).mean() for i in range(3)], abs=1e-5)


def test_frames_with_gaps_and_a_video_that_continues(make_video: MakeVideo, save_masks) -> None:
    numbers, all_masks = [1, 2, 6], scene_masks(9)
    page = make_page(save_masks([all_masks[n] for n in numbers], numbers), make_video(frames=9))
    assert page.data["numbers"] == numbers
    assert page.data["seconds"] == pytest.approx([0.1, 0.2, 0.6])
    assert page.data["clock"] == pytest.approx([0, 0.1, 0.5])
    frames = list(open_video(make_video(frames=9)))
    for position, number in enumerate(numbers):
        distances = [np.abs(page.frame(position).astype(int) - frame.image).mean() for frame in frames]
        assert int(np.argmin(distances)) == number
        np.testing.assert_array_equal(page.mask(position), all_masks[number])


def test_fewer_pictures_than_masks(make_video: MakeVideo, save_masks) -> None:
    masks = scene_masks(9)
    folder, video = save_masks(masks), make_video(frames=9)
    page, whole = make_page(folder, video, max_frames=3), make_page(folder, video)
    assert page.data["pictures"] == [0, 4, 8]
    assert sorted(name for name in page.scripts if name.startswith("mask-")) == ["mask-0", "mask-4", "mask-8"]
    np.testing.assert_array_equal(page.mask(4), masks[4])
    assert "pictures of 3 evenly spread frames" in page.text["p"]
    assert "evenly spread" not in whole.text["p"]
    for key in ("numbers", "seconds", "clock", "shares", "change", "flicker", "classes"):
        assert page.data[key] == whole.data[key]
    assert page.data["change"][3] == pytest.approx((masks[3] != masks[2]).mean(), abs=1e-5)


def test_wide_pictures_are_scaled_and_ids_stay_ids(make_video: MakeVideo, save_masks) -> None:
    masks = scene_masks(2)
    folder, video = save_masks(masks), make_video(frames=2)
    page = make_page(folder, video, max_width=32)
    assert page.frame(0).shape == (24, 32, 3)
    assert set(np.unique(page.mask(0))) <= {0, 1, 2, 255}
    np.testing.assert_array_equal(page.mask(0), masks[0][1::2, 1::2])
    assert page.data["shares"] == make_page(folder, video).data["shares"]  # from the masks, not from the pictures
    assert make_page(folder, video, quality=5).frame(0).shape == (48, 64, 3)


def test_user_text_is_text(make_video: MakeVideo, save_masks) -> None:
    names = ["</script><b>x", "<!--<script>", '"&amp;\u2028{{data}}']
    classes = [{"id": i, "name": name, "color": [i, i, i]} for i, name in enumerate(names)]
    title = "<img src=x onerror=alert(1)> & {{script}}"
    page = make_page(save_masks(scene_masks(2), classes=classes), make_video(frames=2), title=title)
    assert [one["name"] for one in page.data["classes"]] == names
    assert page.text["title"] == page.text["h1"] == title
    assert "b" not in page.text


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "--><script>alert(1)</script><!--"])
def test_names_that_are_scripts(make_video: MakeVideo, save_masks, text: str) -> None:
    classes = [{"id": i, "name": f"{text}{i}", "color": [i, i, i]} for i in range(3)]
    page = make_page(save_masks(scene_masks(2), classes=classes, video=text), make_video(frames=2))
    assert set(page.scripts) == {"frame-0", "mask-0", "frame-1", "mask-1", "data", ""}
    assert [one["name"] for one in page.data["classes"]] == [f"{text}{i}" for i in range(3)]
    assert page.text["title"] == page.text["h1"] == text


def test_the_page_grows_while_the_video_is_read(make_video: MakeVideo, save_masks, tmp_path: Path) -> None:
    """Few frames are in memory at once, and pictures are on disk before the last frame is read."""
    images: list[weakref.ref] = []
    alive, sizes = [], []

    def watch(pairs):
        for frame, mask in pairs:
            images.append(weakref.ref(frame.image))
            yield frame, mask
            alive.append(sum(image() is not None for image in images))
            sizes.append(sum(path.stat().st_size for path in tmp_path.glob(".view.html.*")))

    make_page(save_masks(scene_masks(40)), make_video(frames=40), progress=watch)
    assert max(alive) <= 2
    assert len(set(sizes)) > 5
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0.7 * (tmp_path / "view.html").stat().st_size


def test_the_page_is_self_contained(make_video: MakeVideo, save_masks, tmp_path: Path) -> None:
    page = make_page(save_masks(scene_masks(2)), make_video(frames=2))
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert links == ["data:,"]
    text = (tmp_path / "view.html").read_text()
    assert re.findall(r"https?:|//\w+\.\w|@import|url\(|\bimport\b", text.split('<script type="text/plain"')[0]) == []
    assert re.findall(r"https?:|\bfetch\(|XMLHttpRequest|\bimport\b", page.scripts[""]) == []
    assert "default-src 'none'" in text


def test_a_video_that_does_not_match_the_masks(make_video: MakeVideo, save_masks, tmp_path: Path) -> None:
    folder = save_masks(scene_masks(5))
    with pytest.raises(ValueError, match=r"short.mp4 gave 3 frames and no frame 3, .* give the video that the masks"):
        make_page(folder, make_video("short.mp4", frames=3))
    with pytest.raises(ValueError, match=r"frame 0 of .*wide.mp4 has 96x48 pixels, its mask in .*masks 64x48; give"):
        make_page(folder, make_video("wide.mp4", frames=5, width=96))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["masks", "short.mp4", "wide.mp4"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("view.txt", {}, "the page must be an .html file, got .*view.txt"),
        ("folder.html", {}, "is a folder; give the page another name"),
        ("old.html", {}, "old.html exists; give the page another name, or --overwrite to replace it"),
        ("link.html", {"overwrite": True}, "link.html is a link, which is not replaced; give the page another name"),
        ("view.html", {"max_width": 0}, "at least 1, got 0 and 600"),
        ("view.html", {"max_frames": 0}, "at least 1, got 640 and 0"),
        ("view.html", {"quality": 96}, "the JPEG quality must be in 1 to 95, got 96"),
    ],
)
def test_invalid_arguments(make_video: MakeVideo, save_masks, tmp_path: Path, name: str, options, message: str) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "old.html").write_text("mine")
    (tmp_path / "link.html").symlink_to(tmp_path / "old.html")
    with pytest.raises(ValueError, match=message):
        write_video_page(
            open_masks(save_masks(scene_masks(1))), open_video(make_video(frames=1)), tmp_path / name, **options
        )
    assert (tmp_path / "old.html").read_text() == "mine"
    assert not (tmp_path / "view.html").exists()
