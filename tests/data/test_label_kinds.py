"""Every kind of label as class ids, against the library that defines it or a case worked out by hand."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import THREE_CLASSES, write_sequence
from data.people_labels import CLASSES, coco, cvat, labelme, write_image, write_json
from PIL import Image, ImageDraw

from ccnet3d.data import DataSource, LabelledSequences
from ccnet3d.errors import UserError

SIZE = (24, 32)


def opened(root: Path, toml: str) -> LabelledSequences:
    """Open a dataset of one sequence ``a`` whose frame is 1."""
    if not (root / "frames" / "a").exists():
        write_image(root / "frames/a/0001.png", size=SIZE)
    (root / "dataset.toml").write_text(f'name = "x"\n{CLASSES}\nsplits = {{ train = ["a"] }}\n{toml}')
    return DataSource(root).open("train")


def read(root: Path, toml: str, pixels: np.ndarray | None = None) -> np.ndarray:
    if pixels is not None:
        write_image(root / "labels/a/0001.png", pixels)
    return opened(root, toml).read_label(0).numpy()


IDS = np.array([[7, 8], [11, 0]], np.uint8)


def test_a_mapping_of_ids(tmp_path: Path) -> None:
    toml = "void_ids = [0]\nlabel_mapping = { 7 = 0, 8 = 1, 11 = 255 }"
    assert read(tmp_path, toml, IDS).tolist() == [[0, 1], [255, 255]]
    with pytest.raises(UserError, match=r"0001.png has the label 7 \(and 8, 11\), which is neither a class id"):
        read(tmp_path, "")
    with pytest.raises(UserError, match=r"has the label 0 \(and 11\), which is neither in label_mapping nor in void_"):
        read(tmp_path, "label_mapping = { 7 = 0, 8 = 1 }")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("label_mapping = { 7 = 3 }", "label_mapping maps 7 to 3, which is neither a class id"),
        ("label_mapping = { road = 1 }", "the keys of label_mapping must be ids, got 'road'"),
        ("label_mapping = { 7 = 1 }\nvoid_ids = [7]", "void_ids must not contain ids that label_mapping maps to"),
        ("label_mapping = { 7 = 1 }\nreduce_zero = true", "label_mapping and reduce_zero cannot be combined"),
        ("reduce_zero = true\nvoid_ids = [3]", "the classes have the ids 1 to 3; void_ids contains"),
        ("instance_divisor = 1", "instance_divisor must be at least 2"),
        ('background = "sky"', "background must be the name of a class, got 'sky'"),
        ('other_shapes = "drop"', "other_shapes must be one of error, void, skip, got 'drop'"),
        ('frame_numbers = "date"', "frame_numbers must be one of name, order, got 'date'"),
        ('layouts = [{ label_encoding = "xml" }]', "label_encoding must be one of id, red, rgb_id, color, coco, cvat"),
        ('layouts = [{ label_encoding = "coco", frame_list = "{split}" }]', "cannot be combined with pair_list or"),
    ],
)
def test_bad_keys(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        opened(tmp_path, toml)
    assert str(tmp_path / "dataset.toml") in str(error.value)


def test_zero_is_void(tmp_path: Path) -> None:
    pixels = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
    assert read(tmp_path, "reduce_zero = true", pixels).tolist() == [[255, 0, 1], [2, 255, 255]]
    with pytest.raises(UserError, match=r"the label 4, which is neither a class id \(1 to 3, with reduce_zero\)"):
        read(tmp_path, "reduce_zero = true", pixels + (pixels == 3))


def test_instance_ids_of_16_bits(tmp_path: Path) -> None:
    """As Cityscapes: a class alone, or class * 1000 + instance."""
    pixels = np.array([[7, 26000, 26012], [24001, 0, 7]], np.uint16)
    toml = "instance_divisor = 1000\nlabel_mapping = { 7 = 0, 24 = 1, 26 = 2 }\nvoid_ids = [0]"
    assert read(tmp_path, toml, pixels).tolist() == [[0, 2, 2], [1, 255, 0]]


def test_ids_in_rgb(tmp_path: Path) -> None:
    """As panoptic PNGs: R + 256 G + 65536 B; and as KITTI-STEP: the class in red, the instance in green and blue."""
    ids = np.array([[2017, 1], [1255, 66000]])
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    layout = 'layouts = [{ label_encoding = "rgb_id" }]\n'
    toml = "instance_divisor = 1000\nlabel_mapping = { 1 = 1, 2 = 2, 66 = 0 }\n"
    assert read(tmp_path, f"{toml}{layout}", rgb).tolist() == [[2, 1], [1, 0]]
    rgb = np.array([[[2, 0, 0], [1, 3, 9]], [[0, 255, 255], [255, 0, 0]]], np.uint8)
    assert read(tmp_path, 'layouts = [{ label_encoding = "red" }]', rgb).tolist() == [[2, 1], [0, 255]]


def test_colors_of_a_palette_decide_where_the_user_says_so(tmp_path: Path) -> None:
    """The same file by its indices, and by its colors, whose order is another."""
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([9, 9, 99, 90, 140, 60, 200, 40, 40])
    (tmp_path / "labels/a").mkdir(parents=True)
    image.save(tmp_path / "labels/a/0001.png")
    assert read(tmp_path, "").tolist() == [[0, 1, 2]]
    assert read(tmp_path, 'layouts = [{ label_encoding = "color" }]').tolist() == [[2, 0, 1]]


def test_all_unknown_colors_are_counted(tmp_path: Path) -> None:
    pixels = np.array([[[1, 1, 1], [2, 2, 2], [90, 140, 60]]], np.uint8)
    with pytest.raises(UserError, match=r"has the color \(1, 1, 1\) and 1 more that are not in source_colors"):
        read(tmp_path, 'layouts = [{ label_encoding = "color" }]', pixels)


COCO_TOML = 'background = "ground"\nlayouts = [{ labels = "instances.json", label_encoding = "coco" }]'
POLYGON = [3.5, 2, 20.2, 4, 14, 19.7, 2, 12]
SMALL = [8, 6, 13, 6, 13, 12, 8, 12]


def test_coco_against_pycocotools(tmp_path: Path) -> None:
    """Polygons of one and several parts, RLE of lists and compressed; the smaller shape is on top."""
    coco_tools = pytest.importorskip("pycocotools.coco")
    mask_tools = pytest.importorskip("pycocotools.mask")
    inside = np.zeros(SIZE, np.uint8)
    inside[15:22, 10:31] = 1
    counts = _run_lengths(inside)
    text = mask_tools.encode(np.asfortranarray(inside[::-1]))["counts"].decode()
    shapes: list[tuple[str, Any]] = [
        ("rail", [SMALL]),
        ("box", [POLYGON, [25, 1, 30, 1, 30, 5]]),
        ("rail", {"size": [*SIZE], "counts": counts}),
        ("box", {"size": [*SIZE], "counts": text}),
    ]
    table = coco(["rail", "box"], {"0001.png": shapes}, SIZE)
    label = read_coco(tmp_path, table)
    api = coco_tools.COCO()
    api.dataset = table
    api.createIndex()
    masks = [(api.annToMask(one).astype(bool), one["category_id"]) for one in table["annotations"]]
    expected = np.zeros(SIZE, np.int64)
    for mask, category in sorted(masks, key=lambda pair: -pair[0].sum()):
        expected[mask] = {10: 2, 17: 1}[category]
    np.testing.assert_array_equal(label, expected)
    assert label[8, 10] == 2  # the small polygon in the large one
    assert set(np.unique(label)) == {0, 1, 2}


def _run_lengths(mask: np.ndarray) -> list[int]:
    """Return the counts of an uncompressed RLE, by going through the pixels, columns first."""
    counts, current = [0], 0
    for value in mask.ravel("F").tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def read_coco(root: Path, table: dict[str, Any], toml: str = COCO_TOML) -> np.ndarray:
    write_json(root / "instances.json", table)
    return read(root, toml)


def test_coco_without_background_and_with_other_shapes(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    table = coco(["box", "dog"], {"0001.png": [("box", [POLYGON]), ("dog", [SMALL])]}, SIZE)
    with pytest.raises(UserError, match="instances.json has shapes named 'dog', which no class merges; add"):
        read_coco(tmp_path, table)
    toml = COCO_TOML.replace('background = "ground"', "")
    void = read_coco(tmp_path, table, f'other_shapes = "void"\n{toml}')
    skipped = read_coco(tmp_path, table, f'other_shapes = "skip"\n{toml}')
    assert (void[0, 0], void[8, 10], skipped[0, 0], skipped[8, 10], skipped[8, 5]) == (255, 255, 255, 1, 1)
    merged = CLASSES.replace('"box",', '"box",merges=["box","dog"],')
    (tmp_path / "dataset.toml").write_text(f'name = "x"\n{merged}\nsplits = {{ train = ["a"] }}\n{toml}')
    np.testing.assert_array_equal(DataSource(tmp_path).open("train").read_label(0), skipped)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [*SIZE], "counts": "o" * 30}, "the counts of an RLE are damaged"),
        ({"size": [*SIZE], "counts": "0" * 50 + "oo"}, "the counts of an RLE are damaged"),
        ({"size": [*SIZE], "counts": "ooo7"}, "the counts of an RLE are damaged"),
        ({"size": [*SIZE], "counts": "0P"}, "the counts of an RLE are damaged"),
        ({"size": [*SIZE], "counts": [5, 5]}, "must be whole numbers that add up to 768"),
        ({"size": [*SIZE], "counts": [-5, 773]}, "must be whole numbers that add up to 768"),
        ({"size": [3, 3], "counts": [9]}, "an RLE has the size"),
        ([[0, 0, 1e12, 5, 3, 3]], "too large to be drawn"),
        ([[0, 0, 1e300, 1e300, 1, 1]], "too large to be drawn"),
        ([[0, 0, 5, None, 3, 3]], "must be .x, y. pairs of numbers"),
        ([[0, 0, 5, 5, 3]], "must be lists of x, y, x, y"),
        ("polygon", "must be lists of x, y, x, y"),
    ],
)  # fmt: skip
def test_damaged_shapes(tmp_path: Path, segmentation: Any, message: str) -> None:
    pytest.importorskip("pycocotools")
    with pytest.raises(UserError, match=f"instances.json, image 0001.png: .*{message}"):
        read_coco(tmp_path, coco(["box"], {"0001.png": [("box", segmentation)]}, SIZE))


def test_random_rle_texts_are_read_or_refused(tmp_path: Path) -> None:
    """pycocotools trusts them."""
    pytest.importorskip("pycocotools")
    random = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(map(chr, random.integers(48, 112, random.integers(1, 12))))
        try:
            read_coco(tmp_path, coco(["box"], {"0001.png": [("box", {"size": [*SIZE], "counts": text})]}, SIZE))
        except UserError as error:
            assert "the counts of an RLE are damaged" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "is not a valid COCO instances file"),
        ({"images": [{"id": 1000, "file_name": "0001.png", "height": 1e6, "width": 1e6}]}, "expected 1 to 178956970"),
        ({"categories": []}, "an annotation has the category 10, which the file does not list"),
        ({"images": []}, "an annotation is of the image 1000, which the file does not list"),
        ({"annotations": [{}]}, "is not a COCO instances file: it lacks 'image_id'"),
    ],
)
def test_damaged_coco_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"instances.json .*{message}"):
        read_coco(tmp_path, coco(["box"], {"0001.png": [("box", [SMALL])]}, SIZE) | change)


CVAT_TOML = 'background = "ground"\nlayouts = [{ labels = "annotations.xml", label_encoding = "cvat" }]'


def read_cvat(root: Path, shapes: str, labels: tuple[str, ...] = ("box", "rail")) -> np.ndarray:
    root.mkdir(exist_ok=True)
    (root / "annotations.xml").write_text(cvat({"0001.png": shapes}, list(labels), SIZE))
    return read(root, CVAT_TOML)


def test_cvat_shapes_by_hand(tmp_path: Path) -> None:
    """Corners between pixels: a box from 4 to 10 covers six columns; z_order decides, then the order of the file."""
    pytest.importorskip("pycocotools")
    label = read_cvat(
        tmp_path,
        '<box label="rail" xtl="2" ytl="3" xbr="9" ybr="7" z_order="1"/>'
        '<polygon label="box" points="4.0,2.0;10.0,2.0;10.0,6.0;4.0,6.0" z_order="0"/>'
        '<mask label="box" rle="0, 2, 1, 3" left="20" top="10" width="3" height="2"/>'
        '<box label="box" xtl="14" ytl="14" xbr="18" ybr="18"/><box label="rail" xtl="16" ytl="16" xbr="20" ybr="20"/>'
        '<polyline label="box" points="0,0;30,20"/><points label="rail" points="1,1"/><tag label="box"/>',
    )
    expected = np.zeros(SIZE, np.int64)
    expected[2:6, 4:10] = 1
    expected[3:7, 2:9] = 2
    expected[10, 20:22] = expected[11, 20:23] = 1
    expected[14:18, 14:18] = 1
    expected[16:20, 16:20] = 2
    np.testing.assert_array_equal(label, expected)


def test_cvat_ellipses_and_turned_boxes(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    label = read_cvat(tmp_path, '<ellipse label="box" cx="16" cy="12" rx="9" ry="5" rotation="0.0"/>')
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    inside = ((x - 16) / 9) ** 2 + ((y - 12) / 5) ** 2 < 1
    assert (label == 1).sum() == pytest.approx(math.pi * 45, rel=0.05)
    assert ((label == 1) != inside).mean() < 0.02
    turned = read_cvat(tmp_path, '<box label="box" xtl="10" ytl="10" xbr="20" ybr="14" rotation="90.0"/>')
    expected = np.zeros(SIZE, np.int64)
    expected[7:17, 13:17] = 1
    np.testing.assert_array_equal(turned, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotations>&c;</annotations>', "has a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "it has a document type"),
        ("<annotations><image", "is not a valid CVAT for images file: "),
        ("<annotations>&c;</annotations>", "undefined entity"),
        ('<?xml version="1.0" encoding="utf-9"?><annotations/>', "unknown encoding"),
        ("<svg/>", "its root element is <svg>, expected <annotations>"),
        ('<annotations><track id="0" label="box"/></annotations>', "has tracks; export the task as CVAT for images"),
        ('<annotations><image name="a" width="5"/></annotations>', "it lacks 'height'"),
        ('<annotations><image name="a" width="5" height="0"/></annotations>', "expected 1 to 178956970"),
        (cvat({"a": '<polygon label="b" points="1,2;x"/>'}, [], SIZE), "could not convert"),
        (cvat({"a": "", "b": ""}, [], SIZE).replace('name="b"', 'name="a"'), "two images have the name 'a'"),
    ],
)
def test_damaged_cvat_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "annotations.xml").write_text(text)
    with pytest.raises(UserError, match=f"annotations.xml .*{message}"):
        read(tmp_path, CVAT_TOML)


def test_a_damaged_cvat_mask(tmp_path: Path) -> None:
    for rle in ("0, 5", "0, 999999999999", "0, 99999999999999999999999", "3, -1, 4"):
        with pytest.raises(UserError, match=r"image 0001\.png: the run lengths of a mask 'box' do not fill rows"):
            read_cvat(tmp_path, f'<mask label="box" rle="{rle}" left="20" top="10" width="3" height="2"/>')


def png_text(inside: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(inside.astype(np.uint8) * 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize("size", [SIZE, None])
def test_labelme_as_it_draws_itself(tmp_path: Path, size: tuple[int, int] | None) -> None:
    """By Pillow, later shapes on top; without a size in the file, that of the image."""
    inside = np.array([[1, 0, 1], [0, 1, 1]])
    polygon = [[3.2, 2.1], [25.4, 5], [12, 20.5]]
    shapes = [
        {"label": "box", "points": polygon, "shape_type": "polygon"},
        {"label": "rail", "points": [[20, 15], [12, 10]], "shape_type": "rectangle"},
        {"label": "box", "points": [[26, 18], [29, 18]], "shape_type": "circle"},
        {"label": "rail", "points": [[1, 20], [3, 21]], "shape_type": "mask", "mask": png_text(inside)},
        {"label": "box", "points": [[1, 1], [9, 9]], "shape_type": "line"},
    ]
    write_json(tmp_path / "labels/a/0001.json", labelme(shapes, size))
    label = read(tmp_path, 'background = "ground"\nlayouts = [{ label_encoding = "labelme" }]')
    canvas = Image.new("L", SIZE[::-1])
    draw = ImageDraw.Draw(canvas)
    draw.polygon([tuple(point) for point in polygon], fill=1, outline=1)
    draw.rectangle([12, 10, 20, 15], fill=2, outline=2)
    draw.ellipse([23, 15, 29, 21], fill=1, outline=1)
    expected = np.array(canvas, np.int64)
    expected[20:22, 1:4][inside == 1] = 2
    np.testing.assert_array_equal(label, expected)


def test_polygons_of_cityscapes(tmp_path: Path) -> None:
    objects = [
        {"label": "box", "polygon": [[2, 2], [28, 2], [28, 20], [2, 20]]},
        {"label": "rail", "polygon": [[5, 5], [10, 5], [10, 9]]},
        {"label": "rail", "polygon": [[12, 12], [20, 12], [20, 18]], "deleted": 1},
    ]
    table = {"imgHeight": SIZE[0], "imgWidth": SIZE[1], "objects": objects}
    write_json(tmp_path / "gtFine/a/0001_gtFine_polygons.json", table)
    layout = '{ labels = "gtFine", label_suffix = "_gtFine_polygons", label_encoding = "cityscapes" }'
    label = read(tmp_path, f"layouts = [{layout}]")
    canvas = Image.new("L", SIZE[::-1], 255)
    ImageDraw.Draw(canvas).polygon([(2, 2), (28, 2), (28, 20), (2, 20)], fill=1)
    ImageDraw.Draw(canvas).polygon([(5, 5), (10, 5), (10, 9)], fill=2)
    np.testing.assert_array_equal(label, np.array(canvas))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"label": "box", "points": [[1, 1], [3, 2]], "shape_type": "mask", "mask": "no"}, "is not a PNG in base64"),
        ({"label": "box", "points": [[1, 1]], "shape_type": "rectangle"}, "a shape needs at least 2 points, got 1"),
        ({"label": "box", "points": "x"}, "points must be .x, y. pairs of numbers, got x"),
        ({"label": 3, "points": []}, "expected a name, got '3'"),
        ({"points": []}, "it lacks 'label'"),
    ],
)
def test_damaged_labelme_files(tmp_path: Path, shape: dict[str, Any], message: str) -> None:
    write_json(tmp_path / "labels/a/0001.json", labelme([shape], SIZE))
    with pytest.raises(UserError, match=f"0001.json.*{message}"):
        read(tmp_path, 'layouts = [{ label_encoding = "labelme" }]')


@pytest.mark.parametrize(
    "change",
    ["label_mapping = { 0 = 1, 1 = 1, 2 = 2 }", 'background = "box"', 'layouts = [{ label_encoding = "red" }]'],
)
def test_fingerprint_and_cache_follow_how_labels_are_read(tmp_path: Path, change: str) -> None:
    write_sequence(tmp_path, "walk", [1, 2])
    description = tmp_path / "dataset.toml"
    description.write_text(THREE_CLASSES.replace('"walk", "yard_2"', '"walk"'))
    before = DataSource(tmp_path).open("train")
    description.write_text(f"{change}\n{description.read_text()}")
    after = DataSource(tmp_path).open("train")
    assert before.fingerprint() != after.fingerprint()
    assert before.cache_path(tmp_path) != after.cache_path(tmp_path)


def test_fingerprint_and_cache_follow_annotation_files(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    table = coco(["box"], {"0001.png": [("box", [SMALL])]}, SIZE)
    write_json(tmp_path / "instances.json", table)
    before = opened(tmp_path, COCO_TOML)
    assert before.read_label(0)[8, 10] == 1
    first = before.fingerprint(), before.cache_path(tmp_path)
    table["annotations"][0]["segmentation"] = [[9, *SMALL[1:]]]  # of the same length
    write_json(tmp_path / "instances.json", table)
    after = opened(tmp_path, COCO_TOML)
    assert after.fingerprint() != first[0]
    assert after.cache_path(tmp_path) != first[1]


def test_training_and_scores_are_those_of_label_images(yard: Path, tmp_path: Path) -> None:
    """The same labels as RLE in one COCO file, void as what has no shape."""
    mask_tools = pytest.importorskip("pycocotools.mask")
    from dataclasses import replace

    from tiny_run import RECIPE, make_trainer

    from ccnet3d.evaluation import evaluate_masks, open_predictions

    annotations: dict[str, list[tuple[str, Any]]] = {}
    for path in sorted((yard / "labels").rglob("*.png")):
        ids = np.array(Image.open(path))
        name = path.relative_to(yard / "labels").as_posix()
        annotations[name] = [
            (one, {"size": [*ids.shape], "counts": mask_tools.encode(np.asfortranarray(ids == id_))["counts"].decode()})
            for id_, one in enumerate(("ground", "box", "rail"))
        ]
    recipe = replace(RECIPE, epochs=1, data=replace(RECIPE.data, workers=1))
    model = make_trainer(yard, tmp_path / "images", recipe).run().read_bytes()
    write_json(yard / "instances.json", coco(["rail", "ground", "box"], annotations, (48, 64)))
    (yard / "labels").rename(tmp_path / "masks")
    description = yard / "dataset.toml"
    layout = 'layouts = [{ labels = "instances.json", label_encoding = "coco" }]'
    description.write_text(f"{layout}\n{description.read_text()}")
    assert make_trainer(yard, tmp_path / "shapes", recipe).run().read_bytes() == model
    val = DataSource(yard).open("val")
    for mask in (tmp_path / "masks/night").iterdir():
        pixels = np.array(Image.open(mask))
        Image.fromarray(np.where(pixels == 255, 0, pixels).astype(np.uint8)).save(mask)
    result = evaluate_masks(open_predictions(tmp_path / "masks/night", val), val)
    assert result.scores["miou"] == 1
