"""User actions on the page in a headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeVideo
from reports.browser import PROGRAM, Browser
from reports.pages import Page, make_page, scene_masks

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

ON_BOX, ON_GROUND, ON_RAIL, ON_OTHER = (10, 20), (50, 20), (30, 36), (30, 0)  # x, y in frame 0
BOX = (200, 40, 40)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """The browser; fails a test whose page logs errors or requests anything else."""
    chromium.complaints.clear()
    yield chromium
    chromium.evaluate("0")  # events come before the answer
    assert chromium.complaints == []


@pytest.fixture
def page(make_video: MakeVideo, save_masks) -> Page:
    return make_page(save_masks(scene_masks(12)), make_video(frames=12))


@pytest.fixture
def path(page: Page, tmp_path: Path) -> Path:  # noqa: ARG001
    return tmp_path / "view.html"


def pixels(browser: Browser) -> np.ndarray:
    """The canvas, ``[48, 64, 3]``; read from a copy, because Chromium warns of a canvas that is read often."""
    copy = "Object.assign(document.createElement('canvas'), {width: 64, height: 48}).getContext('2d')"
    draw = "copy.drawImage(document.getElementById('picture'), 0, 0)"
    read = "[...copy.getImageData(0, 0, 64, 48).data]"
    values = browser.evaluate(f"(() => {{ const copy = {copy}; {draw}; return {read} }})()")
    return np.array(values).reshape(48, 64, 4)[..., :3]


def pixel(browser: Browser, at: tuple[int, int]) -> np.ndarray:
    x, y = at
    return pixels(browser)[y, x]


def expected(page: Page, at: tuple[int, int], color: tuple[int, int, int], opacity: float) -> np.ndarray:
    x, y = at
    return page.frame(0)[y, x] * (1 - opacity) + np.array(color) * opacity


def frame(browser: Browser) -> int:
    return int(browser.evaluate("document.documentElement.dataset.frame"))


def wait_for_frame(browser: Browser, number: int) -> None:
    browser.wait_for(f"document.documentElement.dataset.frame === '{number}'")


def test_the_first_frame_is_painted_under_its_mask(browser: Browser, page: Page, path: Path) -> None:
    browser.open(path)
    assert frame(browser) == 0
    assert browser.evaluate("document.title") == "clip.mp4"
    for point, color in ((ON_BOX, BOX), (ON_GROUND, (90, 140, 60)), (ON_RAIL, (40, 40, 220))):
        # Two JPEG decoders may differ by a few steps.
        np.testing.assert_allclose(pixel(browser, point), expected(page, point, color, 0.5), atol=4)
    np.testing.assert_allclose(pixel(browser, ON_OTHER), page.frame(0)[0, 30], atol=6)
    browser.evaluate("setOpacity(1)")
    assert tuple(pixel(browser, ON_BOX)) == BOX
    browser.press("o")
    np.testing.assert_allclose(pixel(browser, ON_BOX), page.frame(0)[20, 10], atol=6)
    browser.press("o")
    assert tuple(pixel(browser, ON_BOX)) == BOX
    browser.press("[")
    assert browser.evaluate("document.getElementById('opacity-text').textContent") == "90%"


def test_scrubbing(browser: Browser, page: Page, path: Path) -> None:
    browser.open(path)
    before = pixel(browser, (60, 20))
    for key, shift, number in (
        ("ArrowRight", False, 1),
        ("ArrowLeft", False, 0),
        ("ArrowLeft", False, 0),
        ("End", False, 11),
        ("ArrowLeft", True, 1),
        ("ArrowRight", True, 11),
        ("Home", False, 0),
    ):
        browser.press(key, shift=shift)
        wait_for_frame(browser, number)
    browser.point("#scrubber", 0.99, 0.5, click=True)
    wait_for_frame(browser, 11)
    browser.press("ArrowLeft")  # the slider has the focus: one step, not two
    wait_for_frame(browser, 10)
    assert browser.evaluate("document.getElementById('position').textContent") == "frame 10, 1.00 s"
    shares = browser.evaluate("[...document.querySelectorAll('.now')].map((cell) => cell.textContent)")
    assert shares == [f"{share * 100:.1f}%" for share in page.data["shares"][10]]
    browser.press("Home")
    wait_for_frame(browser, 0)
    assert tuple(pixel(browser, (60, 20))) == tuple(before)


def test_every_mask_arrives_unchanged(browser: Browser, page: Page, path: Path) -> None:
    browser.open(path, "#opacity=1")
    palette = np.array([(90, 140, 60), (200, 40, 40), (40, 40, 220)])
    for number in range(12):
        wait_for_frame(browser, number)
        shown, mask = pixels(browser), page.mask(number)
        np.testing.assert_array_equal(shown[mask < 3], palette[mask[mask < 3]])
        browser.press("ArrowRight")


def test_classes_off_and_on(browser: Browser, page: Page, path: Path) -> None:
    browser.open(path)
    browser.point("#classes li:nth-child(2)", 0.5, 0.5, click=True)
    assert browser.evaluate("document.documentElement.dataset.hidden") == "box"
    np.testing.assert_allclose(pixel(browser, ON_BOX), page.frame(0)[20, 10], atol=6)
    np.testing.assert_allclose(pixel(browser, ON_GROUND), expected(page, ON_GROUND, (90, 140, 60), 0.5), atol=4)
    browser.point("#none", 0.5, 0.5, click=True)
    assert browser.evaluate("document.documentElement.dataset.hidden") == "ground,box,rail"
    assert browser.evaluate("document.querySelectorAll('#classes :checked').length") == 0
    browser.point("#all", 0.5, 0.5, click=True)
    assert browser.evaluate("document.documentElement.dataset.hidden") == ""
    np.testing.assert_allclose(pixel(browser, ON_BOX), expected(page, ON_BOX, BOX, 0.5), atol=4)


def test_the_class_under_the_pointer(browser: Browser, path: Path) -> None:
    browser.open(path)
    assert browser.evaluate("document.getElementById('tooltip').hidden")
    for (x, y), name in ((ON_BOX, "box"), (ON_RAIL, "rail"), (ON_GROUND, "ground"), (ON_OTHER, "other")):
        browser.point("#picture", (x + 0.5) / 64, (y + 0.5) / 48)
        assert browser.evaluate("document.getElementById('tooltip').textContent") == name
        assert not browser.evaluate("document.getElementById('tooltip').hidden")
    browser.point("footer", 0.5, 0.5)
    assert browser.evaluate("document.getElementById('tooltip').hidden")


def test_playing(browser: Browser, path: Path) -> None:
    browser.open(path)
    browser.press(" ")
    assert browser.evaluate("document.documentElement.dataset.playing") == "true"
    wait_for_frame(browser, 3)
    browser.press(" ")
    assert browser.evaluate("document.documentElement.dataset.playing") == "false"
    assert 3 <= frame(browser) < 11
    browser.evaluate("document.getElementById('speed').value = '4'")
    browser.point("#play", 0.5, 0.5, click=True)
    browser.wait_for("document.documentElement.dataset.playing === 'false'")  # it stops at the end
    wait_for_frame(browser, 11)
    browser.press(" ")  # the button has the focus: one start, from the beginning
    browser.wait_for("Number(document.documentElement.dataset.frame) < 8")


def test_the_timeline(browser: Browser, page: Page, path: Path) -> None:
    browser.open(path)
    for index in (0, 5, 11):
        browser.point("#shares", (index + 0.5) / 12, 0.5, click=True)
        wait_for_frame(browser, index)
    browser.point("#changes", 3.5 / 12, 0.5, click=True)
    wait_for_frame(browser, 3)
    assert browser.evaluate("document.getElementById('change-now').textContent") == f"{page.data['change'][3]:.1%}"
    assert browser.evaluate("document.getElementById('cursor').style.left").startswith("29.16")
    # The column of frame 3, read from its bottom: the shares of the classes, stacked.
    column = np.array(
        browser.evaluate(
            "(() => { const c = document.getElementById('shares');"
            "return [...c.getContext('2d').getImageData(Math.floor(c.width * 3.5 / 12), 0, 1, c.height).data] })()"
        )
    ).reshape(-1, 4)
    for color, share in zip([(90, 140, 60), BOX, (40, 40, 220)], page.data["shares"][3], strict=True):
        assert (column[:, :3] == color).all(axis=1).mean() == pytest.approx(share, abs=1.5 / len(column))
    assert (column[:, 3] == 0).mean() == pytest.approx(1 - sum(page.data["shares"][3]), abs=1.5 / len(column))


def test_the_address_selects_frame_opacity_and_classes(browser: Browser, page: Page, path: Path) -> None:
    browser.open(path, "#frame=7&opacity=0.3&hidden=box,rail")
    wait_for_frame(browser, 7)
    assert browser.evaluate("document.documentElement.dataset.opacity") == "0.3"
    assert browser.evaluate("document.documentElement.dataset.hidden") == "box,rail"
    browser.evaluate("location.hash = '#frame=0&hidden='")
    wait_for_frame(browser, 0)
    np.testing.assert_allclose(pixel(browser, ON_BOX), expected(page, ON_BOX, BOX, 0.3), atol=4)
    browser.open(path, "#frame=99&opacity=x&hidden=%&other")  # invalid parts are ignored
    wait_for_frame(browser, 11)
    assert browser.evaluate("document.documentElement.dataset.opacity") == "0.5"


def test_frame_numbers_with_gaps_and_fewer_pictures(
    browser: Browser, make_video: MakeVideo, save_masks, tmp_path: Path
) -> None:
    numbers, masks = [0, 2, 4, 6, 8], scene_masks(10)
    name = 'a,b & "</script>'
    classes = [{"id": i, "name": f"{name}{i}", "color": [i * 9, 0, 0]} for i in range(3)]
    folder = save_masks([masks[n] for n in numbers], numbers, classes=classes)
    make_page(folder, make_video(frames=10), max_frames=3)
    browser.open(tmp_path / "view.html", "#frame=4&hidden=a%2Cb%20%26%20%22%3C%2Fscript%3E1")
    wait_for_frame(browser, 4)
    assert browser.evaluate("[...hidden]") == [1]
    assert browser.evaluate("document.querySelector('#classes .name').textContent") == f"{name}0"
    browser.press("ArrowRight")
    wait_for_frame(browser, 8)
    browser.point("#shares", 1.2 / 5, 0.5, click=True)  # frame 2 has no picture; frames 0 and 4 are equally near
    wait_for_frame(browser, 4)


def test_a_single_mask_and_a_damaged_picture(
    browser: Browser, make_video: MakeVideo, save_masks, tmp_path: Path
) -> None:
    path = tmp_path / "view.html"
    page = make_page(save_masks(scene_masks(1)), make_video(frames=1))
    browser.open(path)
    browser.press(" ")
    browser.press("End")
    assert frame(browser) == 0
    assert browser.evaluate("document.getElementById('change-now').textContent") == "\u2013"
    path.write_text(path.read_text().replace(page.scripts["frame-0"], "AAAA"))
    browser.open(path)
    problem = browser.evaluate("document.getElementById('problem').textContent")
    assert problem.startswith("The picture of frame 0 cannot be shown: ")
