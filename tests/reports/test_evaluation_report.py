"""The report as files: the page's contents against the evaluation, and its scores read back."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from evaluation.samples import random_evaluation, with_counts, with_frames, without_extras

from ccnet3d.errors import UserError
from ccnet3d.evaluation import EvaluatedFrame, Evaluation
from ccnet3d.evaluation.comparison import differences_text, load_runs, summarize
from ccnet3d.metrics import mean_iou
from ccnet3d.reports import evaluation_page
from ccnet3d.reports._templates import percent
from ccnet3d.reports.charts import Line, _scale, largest_confusions, time_chart
from ccnet3d.reports.evaluation_report import check_report_folder, write_evaluation_report
from ccnet3d.reports.worst_frames import Strip

NASTY = "</script><b>&\"$title'"
VOID_ELEMENTS = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The text of a page by section; checks that elements are closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.sections: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.footer = ""
        self._open: list[str] = []
        self._section = ""
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["h2"]:
            self._section = data
        elif self._open[-2:] == ["footer", "p"]:
            self.footer += data
        elif self._section and "section" in self._open and data.strip():
            self.sections[self._section] = self.sections.get(self._section, "") + data + "|"

    def charts(self) -> list[dict]:
        return [json.loads(attributes["data-lines"]) for _, attributes in self.tags if "data-lines" in attributes]


def written(folder: Path, evaluations: Mapping[str, Evaluation], **options) -> Page:
    return Page(write_evaluation_report(folder, summarize(evaluations), **options))


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


@pytest.fixture
def evaluation() -> Evaluation:
    made = random_evaluation(0)
    return dataclasses.replace(
        made, class_names=("sky", NASTY, "car"), settings={"dataset": "yard", "split": "val", "masks": NASTY}
    )


def test_files_contain_the_scores(evaluation: Evaluation, tmp_path: Path) -> None:
    written(tmp_path, {"run": evaluation})
    assert {path.name for path in tmp_path.iterdir()} == {
        "report.html", "scores.csv", "scores.json", "frames.csv", "evaluation.json", ".ccnet3d-files.jsonl",
    }  # fmt: skip
    again = Evaluation.load(tmp_path / "evaluation.json")
    assert torch.equal(again.confusions, evaluation.confusions)
    scores = {row["score"]: row for row in read_csv(tmp_path / "scores.csv")}
    table = evaluation.to_table()
    for name in ("miou", "per_frame_miou", "video_miou", "pixel_accuracy", "boundary_f"):
        assert float(scores[name]["value"]) == pytest.approx(table[name])
        assert float(scores[name]["frames_low"]) < table[name] < float(scores[name]["frames_high"])
    assert float(scores["tc"]["value"]) == pytest.approx(table["consistency"]["tc"])
    assert float(scores[f"iou {NASTY}"]["value"]) == pytest.approx(table["per_class_iou"][NASTY])
    packed = json.loads((tmp_path / "scores.json").read_text())
    assert [row["score"] for row in packed["scores"]] == list(scores)
    assert packed["settings"] == {"run": dict(evaluation.settings)}
    frames = read_csv(tmp_path / "frames.csv")
    assert [(row["sequence"], int(row["number"])) for row in frames] == [
        (f.sequence, f.number) for f in evaluation.frames
    ]
    assert [float(row["miou"]) for row in frames] == pytest.approx(mean_iou(evaluation.confusions).tolist())
    assert frames[0]["kept"] == ""  # no frame before it
    assert float(frames[1]["kept"]) == pytest.approx(evaluation.frame_scores["kept"][1].item())


def test_the_page_shows_the_scores(evaluation: Evaluation, tmp_path: Path) -> None:
    page = written(tmp_path, {"run": evaluation})
    assert list(page.sections) == [
        "Scores", "Per-class IoU", "mIoU over time", "Consistency over time", "Confusion matrix",
    ]  # fmt: skip
    for value in (evaluation.scores[name] for name in ("miou", "per_frame_miou", "video_miou", "boundary_f")):
        assert f"|{100 * value:.2f}|" in page.sections["Scores"]
    for name, value in evaluation.class_scores("miou").items():
        assert f"{name}|" in page.sections["Per-class IoU"]  # also the one with a script
        assert f"{100 * value:.1f}|" in page.sections["Per-class IoU"]
    widths = [a["style"] for tag, a in page.tags if tag == "i" and a.get("class") == "bar run-0"]
    assert widths == [f"width:{100 * value:.2f}%" for value in evaluation.class_scores("miou").values()]
    shares = evaluation.pooled / evaluation.pooled.sum(1, keepdim=True)
    cells = [a["title"] for tag, a in page.tags if tag == "td" and a.get("title")]
    assert cells[3] == f"{NASTY} predicted as sky: {100 * shares[1, 0].item():.2f} %"
    charts = page.charts()
    assert len(charts) == 3 * 4  # videos; mIoU, kept, VC8, flicker
    assert charts[1]["x"] == [0, 1, 2, 3]
    mine = charts[1]["lines"][0]["values"]
    assert mine == pytest.approx(mean_iou(evaluation.confusions[5:9]).tolist(), abs=1e-5)
    assert page.source.count("<script") == 1
    assert "http" not in page.source.replace("http-equiv", "")


def test_what_was_not_evaluated_is_not_shown(tmp_path: Path) -> None:
    plain = without_extras(random_evaluation(1, (4,)))
    page = written(tmp_path, {"run": plain})
    assert "Consistency over time" not in page.sections
    assert "boundary" not in page.sections["Scores"]
    assert "over videos" not in page.source
    assert "1 video \u00b7" in page.source
    assert "there is one video" in page.source


def test_a_class_without_pixels(tmp_path: Path) -> None:
    made = random_evaluation(2)
    confusions = made.confusions.clone()
    confusions[:, 2] = confusions[:, :, 2] = 0
    page = written(tmp_path, {"run": with_counts(made, confusion=confusions)})
    assert "c|0.0 % of pixels|" in page.sections["Per-class IoU"]
    assert page.sections["Per-class IoU"].split("c|0.0 % of pixels|")[1].lstrip("|").startswith("\u2013")
    assert {row["score"]: row["value"] for row in read_csv(tmp_path / "scores.csv")}["iou c"] == ""
    json.loads((tmp_path / "scores.json").read_text(), parse_constant=pytest.fail)


def test_worst_frames(evaluation: Evaluation, tmp_path: Path) -> None:
    frame = EvaluatedFrame("walk", 7, "0007", 0)
    pictures = {"label": "data:image/png;base64,AAAA", "prediction": "data:image/png;base64,BBBB"}
    strip = Strip(frame, 0.125, (0.5, float("nan"), 0.25), pictures)
    palette = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    page = written(tmp_path, {"run": evaluation}, strips=[strip], palette=palette)
    assert "walk 7: mIoU 12.50 %" in page.sections["Worst frames"]
    assert "lowest IoU: car 25.0, sky 50.0" in page.sections["Worst frames"]
    assert [a["src"] for tag, a in page.tags if tag == "img"] == list(pictures.values())


def test_comparison(tmp_path: Path) -> None:
    runs = {"old": random_evaluation(3), "new": random_evaluation(4, skill=6), "other": random_evaluation(5)}
    page = written(tmp_path, runs)
    names = {"report.html", "scores.csv", "scores.json", "frames.csv", ".ccnet3d-files.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names
    rows = {(row["run"], row["score"]): row for row in read_csv(tmp_path / "scores.csv")}
    new = rows["new", "miou"]
    assert float(new["difference"]) == pytest.approx(runs["new"].miou - runs["old"].miou)
    assert float(new["difference_frames_low"]) < float(new["difference"]) < float(new["difference_frames_high"])
    assert float(new["p_frames"]) < 0.01
    assert rows["old", "miou"]["difference"] == ""
    shown = percent(runs["new"].miou - runs["old"].miou, signed=True)
    assert f"mIoU|{100 * runs['old'].miou:.2f}|{100 * runs['new'].miou:.2f}|{shown}|" in page.sections["Scores"]
    change = mean_iou(runs["new"].confusions) - mean_iou(runs["old"].confusions)
    best = int(change.argmax())
    frame = runs["new"].frames[best]
    moved = f"{frame.sequence} {frame.number}"
    assert re.search(rf"{moved}\|[\d.]+\|[\d.]+\|{re.escape(percent(change[best].item(), signed=True))}\|",
                     page.sections["Frames that differ most"])  # fmt: skip
    assert [line["name"] for line in page.charts()[0]["lines"]] == ["old", "new", "other"]
    assert len([1 for tag, a in page.tags if tag == "i" and str(a.get("class")).startswith("bar")]) == 9


ALERT = "<script>alert(1)</script>"


@pytest.mark.parametrize("count", [1, 2])
def test_user_text_is_text(tmp_path: Path, count: int) -> None:
    """Names that are markup, everywhere a user can give one."""
    names = {part: f"{ALERT}{part}" for part in ("class", "video", "run", "dataset", "masks", "key", "frame")}
    made = [random_evaluation(seed) for seed in range(count)]
    runs = {
        f"{names['run']}{number}": dataclasses.replace(
            one,
            class_names=(names["class"], "b", "c"),
            frames=tuple(frame._replace(sequence=f"{names['video']}{frame.sequence}") for frame in one.frames),
            settings={"dataset": names["dataset"], "masks": names["masks"], names["key"]: 1},
        )
        for number, one in enumerate(made)
    }
    frame = EvaluatedFrame(names["video"], 7, names["frame"], 0)
    strips = [Strip(frame, 0.125, (0.5, 0.25, 0.75), {"label": "data:,"})] if count == 1 else []
    page = written(tmp_path, runs, strips=strips, palette=[(0, 0, 0)] * 3)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert page.source.count("<script") == page.source.count("</script") == 1
    assert names["class"] in page.sections["Per-class IoU"]
    assert names["class"] in page.sections["Confusion matrix"]
    assert names["video"] in page.sections["mIoU over time"]
    assert f"{names['key']} 1" in page.footer
    assert names["dataset"] in page.footer
    assert names["masks"] in page.footer
    if count == 1:
        assert f"label of {names['frame']}" in [attributes.get("alt") for _, attributes in page.tags]
    else:
        assert names["run"] in page.sections["Scores"]
        assert page.charts()[0]["lines"][0]["name"] == f"{names['run']}0"


def test_titles_come_from_the_table_of_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A score that the page does not know appears as the table describes it."""

    def described(name: str) -> SimpleNamespace:
        return SimpleNamespace(title=f"the {name}", unit="% of pixels", higher_is_better=name != "lag", headline=False)

    monkeypatch.setattr(evaluation_page, "find_score", described)
    (run,) = summarize({"run": random_evaluation(0)})
    scores = {"miou": 0.5, "lag": 0.25, "iou a": 0.5, "iou b": 0.5, "iou c": 0.5}
    intervals = {unit: dict.fromkeys(scores) for unit in ("frames", "videos")}
    run = dataclasses.replace(run, scores=scores, intervals=intervals)
    page = Page(write_evaluation_report(tmp_path, [run]))
    assert "|the miou|50.00|\u2013|\u2013|the lag (lower is better)|25.00|" in page.sections["Scores"]
    assert "in % of pixels|score|" in page.sections["Scores"]
    assert "The vc8_strict over the eight frames" in page.sections["Consistency over time"]


def test_differences_as_text() -> None:
    runs = summarize({"old": random_evaluation(3), "new": random_evaluation(4, skill=6)})
    head, first, *_ = differences_text(runs).splitlines()
    assert head == "new against old, 12 frames"
    values = [100 * run.evaluation.miou for run in runs]
    assert first.split()[:4] == ["mIoU", *(f"{value:.2f}" for value in values), f"{values[1] - values[0]:+.2f}"]
    assert first.endswith(f"p over videos {runs[1].differences['miou'].p_values['videos']:.4f}")


def test_many_videos_and_long_videos(tmp_path: Path) -> None:
    many = random_evaluation(6, (2,) * 20)
    page = written(tmp_path, {"run": many})
    assert "The 12 videos with the lowest mIoU of 20." in page.sections["mIoU over time"]
    by_video = {video: mean_iou(many.confusions[members].sum(0)).item() for video, members in many.videos.items()}
    shown = set(re.findall(r"v\d+", page.sections["mIoU over time"]))
    assert shown == set(sorted(by_video, key=by_video.__getitem__)[:12])
    long = time_chart(range(0, 5000, 2), set(), [Line("run", 0, [0.25, 0.75] * 1250)])
    assert 500 < long.paths[0].count("L") < 600
    assert len(long.data["x"]) == len(long.data["lines"][0]["values"]) == 600


def test_gaps_break_lines() -> None:
    chart = time_chart([1, 2, 3, 10, 11], {3}, [Line("run", 0, [0.5, 0.6, float("nan"), 0.5, 0.6])])
    (path,) = chart.paths
    assert [part[0] for part in re.findall(r"[ML][^ML]*", path)] == ["M", "L", "M", "L"]
    assert path.startswith("M0.0 ")
    assert "L1000.0 0.00" in path  # 60 % at the top of a scale that ends there
    assert time_chart([1], set(), [Line("run", 0, [float("nan")])]) is None


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [(0.652, 0.803, (0.65, 0.85, 0.05)), (0, 1, (0, 1, 0.25)), (1, 1, (0.999, 1, 0.001)), (0, 0, (0, 0.001, 0.001)),
     (0.955, 0.989, (0.95, 0.99, 0.01)), (0.5, 0.5, (0.5, 0.501, 0.001))],
)  # fmt: skip
def test_scales(low: float, high: float, scale: tuple[float, float, float]) -> None:
    assert _scale(low, high) == pytest.approx(scale)


def test_largest_confusions() -> None:
    confusion = torch.tensor([[50, 30, 0], [20, 60, 0], [1, 0, 9]])
    assert largest_confusions(("a", "b", "c"), confusion, 5) == [
        ("a", "b", 30 / 80, 30), ("b", "a", 20 / 80, 20), ("c", "a", 0.1, 1),
    ]  # fmt: skip


def test_runs_from_files_and_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        random_evaluation(ord(name)).save(tmp_path / name / "evaluation.json")
    random_evaluation(9).save(tmp_path / "c.json")
    assert list(load_runs([tmp_path / "a", tmp_path / "b" / "evaluation.json", tmp_path / "c.json"])) == ["a", "b", "c"]
    (tmp_path / "x" / "a").mkdir(parents=True)
    random_evaluation(10).save(tmp_path / "x" / "a" / "evaluation.json")
    assert list(load_runs([tmp_path / "a", tmp_path / "x" / "a"])) == [str(tmp_path / "a"), str(tmp_path / "x" / "a")]


def test_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    random_evaluation(0).save(tmp_path / "a.json")
    fewer = with_frames(random_evaluation(0), [0, 1], ["v0", "v0"])
    fewer.save(tmp_path / "b.json")
    for paths, message in (
        (["a.json"], "a comparison needs at least two runs, got 1"),
        (["a.json", "a.json"], "must be different files"),
        (["a.json", "b.json"], "only runs on the same frames can be compared, got 12 and 2 frames"),
        (["a.json", "nowhere"], "cannot read the evaluation .*nowhere"),
    ):
        with pytest.raises(ValueError, match=message):
            load_runs([tmp_path / path for path in paths])
    empty = with_frames(random_evaluation(0), [], [])
    with pytest.raises(ValueError, match="nothing has no frames; there is nothing to report"):
        summarize({"nothing": empty})


def test_only_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    runs = summarize({"a": random_evaluation(0)})
    (tmp_path / "report.html").write_text("mine")
    for attempt in (lambda: write_evaluation_report(tmp_path, runs), lambda: check_report_folder(tmp_path)):
        with pytest.raises(UserError, match=r"report.html exists, and is a file that ccnet3d did not write there"):
            attempt()
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    (tmp_path / "report.html").rename(tmp_path / "mine.html")
    page = write_evaluation_report(tmp_path, runs).read_bytes()
    (tmp_path / "scores.csv").unlink()
    (tmp_path / "scores.csv").symlink_to(tmp_path / "mine.html")
    with pytest.raises(UserError, match=r"scores.csv exists, and is a link that ccnet3d did not write there"):
        write_evaluation_report(tmp_path, runs)
    assert (tmp_path / "mine.html").read_text() == "mine"
    (tmp_path / "scores.csv").unlink()
    assert write_evaluation_report(tmp_path, runs).read_bytes() == page
    assert (tmp_path / "mine.html").read_text() == "mine"
