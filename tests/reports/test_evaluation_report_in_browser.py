"""The report in a headless Chromium."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from evaluation.samples import random_evaluation
from reports.browser import PROGRAM, Browser

from ccnet3d.evaluation.comparison import summarize
from ccnet3d.reports.evaluation_report import write_evaluation_report

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")

PHONE, DESK = 360, 1280


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = {"one": random_evaluation(0), "a-run-with-a-long-name" * 3: random_evaluation(1)}
    return write_evaluation_report(tmp_path_factory.mktemp("report"), summarize(runs))


def color_of(browser: Browser, selector: str, what: str) -> str:
    return browser.evaluate(f"getComputedStyle(document.querySelector('{selector}')).{what}")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_page_fits_and_requests_nothing(chromium: Browser, page: Path, width: int) -> None:
    chromium.complaints.clear()
    chromium.open(page, width=width, ready="true")
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    wide = "[...document.querySelectorAll('section *')].filter((e) => !e.closest('.scroll, svg') &&"
    assert chromium.evaluate(f"{wide} e.getBoundingClientRect().right > innerWidth).length") == 0
    assert chromium.evaluate("document.querySelectorAll('.chart path.line').length") == 3 * 4 * 2
    assert chromium.complaints == []


def test_bars_have_the_lengths_of_their_scores(chromium: Browser, page: Path) -> None:
    chromium.open(page, width=DESK, ready="true")
    shares = chromium.evaluate(
        "[...document.querySelectorAll('.bar')].map((bar) =>"
        " bar.getBoundingClientRect().width / bar.parentElement.getBoundingClientRect().width)"
    )
    values = [random_evaluation(seed).class_scores("miou") for seed in (0, 1)]
    assert shares == pytest.approx([values[run][name] for name in "abc" for run in (0, 1)], abs=2e-3)


def test_a_chart_shows_the_frame_under_the_pointer(chromium: Browser, page: Path) -> None:
    chromium.open(page, width=DESK, height=4000, ready="true")
    output = "document.querySelector('.chart output').textContent"
    assert chromium.evaluate(output) == ""
    chromium.point(".chart .plot", 0.999, 0.5)
    frame = chromium.evaluate(output)
    assert frame.startswith("frame 4: one ")  # the last of the five of the first video
    assert frame.count("%") == 2
    assert chromium.evaluate("document.querySelector('.chart .cursor').hidden") is False
    chromium.point("h1", 0.5, 0.5)
    assert chromium.evaluate(output) == ""


def test_names_that_are_scripts_do_not_run(chromium: Browser, tmp_path: Path) -> None:
    name = "<script>window.ran = 1</script><img src=x onerror='window.ran = 1'>"
    chromium.complaints.clear()
    one = dataclasses.replace(random_evaluation(0), class_names=(name, "b", "c"), settings={name: name})
    runs = {name: one, "other": one}
    chromium.open(write_evaluation_report(tmp_path, summarize(runs)), width=DESK, height=4000, ready="true")
    assert chromium.evaluate("[document.scripts.length, document.images.length, 'ran' in window]") == [1, 0, False]
    assert chromium.evaluate("document.querySelector('.row .name').firstChild.textContent") == name
    chromium.point(".chart .plot", 0.5, 0.5)
    assert chromium.evaluate("document.querySelector('.chart output').textContent").count(name) == 1
    assert chromium.complaints == []


def test_light_and_dark(chromium: Browser, page: Path) -> None:
    seen = []
    for scheme in ("light", "dark"):
        chromium.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        chromium.open(page, width=DESK, ready="true")
        parts = [("body", "backgroundColor"), ("body", "color"), ("path.line.run-1", "stroke")]
        seen.append([color_of(chromium, *part) for part in parts])
    chromium.call("Emulation.setEmulatedMedia", features=[])
    light, dark = seen
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert sum(map(int, light[0][4:-1].split(","))) > 600 > 200 > sum(map(int, dark[0][4:-1].split(",")))
