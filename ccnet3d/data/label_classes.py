"""Classes for the ids, colors and names that the labels of a folder contain."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ccnet3d.constants import IGNORE_INDEX
from ccnet3d.data.annotations import read_annotations, read_categories
from ccnet3d.data.label_values import count_values, guess_encoding
from ccnet3d.data.labels import voc_color
from ccnet3d.data.spec import ClassSpec, read_dataset_spec
from ccnet3d.errors import UserError
from ccnet3d.resources import dataset_file
from ccnet3d.wording import count_of

__all__ = ["Labeling", "classes_of_shapes", "classes_of_values"]

_FEWEST_KNOWN_COLORS = 8
"""Fewer colors may agree with those of another dataset by chance."""

_VOID_NAMES = ("void", "unlabeled", "unlabelled", "ignore", "ignored")

_COLOR_LINES = (
    re.compile(r"\s*(?P<r>\d+)[\s,]+(?P<g>\d+)[\s,]+(?P<b>\d+)[\s,]+(?P<name>\S.*?)\s*"),  # CamVid's label_colors.txt
    re.compile(r"(?P<name>[^:#]+):(?P<r>\d+),(?P<g>\d+),(?P<b>\d+):.*"),  # CVAT's labelmap.txt
)


_Color = tuple[int, int, int]


class Labeling(NamedTuple):
    """What labels become."""

    keys: dict[str, Any]
    """Of the dataset's description."""
    notes: list[str]
    shares: tuple[float, ...] = ()
    """Share of each class among all pixels."""


def classes_of_shapes(files: Sequence[Path], encoding: str) -> Labeling:
    """Return the classes of the names in annotation files, and one for the pixels in no shape.

    Raises:
        UserError: a file that cannot be read, or shapes without any area.
    """
    names = dict.fromkeys(name for path in files for name in read_categories(path, encoding))
    shapes = [shape for path in files for one in read_annotations(path, encoding).values() for shape in one.shapes]
    drawn = ("coco", "polygon", "rectangle", "circle", "png", "rows")
    without_area = sum(shape.kind not in drawn for shape in shapes)
    if shapes and without_area == len(shapes):
        raise UserError(f"no shape of the annotations, as {files[0]}, has an area; boxes and points are no labels")
    background = next((name for name in names if name.lower() in ("background", "_background_")), "background")
    void = {name for name in names if name.lower() in (*_VOID_NAMES, "__ignore__")}
    ordered = [background, *(name for name in names if name != background and name not in void)]
    keys: dict[str, Any] = {
        "classes": tuple(ClassSpec(name, voc_color(id_)) for id_, name in enumerate(ordered)),
        "background": background,
    }
    notes = [f"classes: {len(ordered)}, from the annotations; pixels in no shape are {background!r}"]
    if void:
        keys["other_shapes"] = "void"
        notes.append(f"void: shapes named {', '.join(sorted(void))}")
    if without_area:
        notes.append(f"{without_area} of {len(shapes)} shapes are points, lines or plain boxes and are not drawn")
    return Labeling(keys, notes)


def classes_of_values(
    folder: Path,
    labels: Sequence[Path],
    encoding: str,
    names: Sequence[str],
    progress: Callable[[Iterable[Path]], Iterable[Path]],
) -> Labeling:
    """Return the classes of the ids or colors in label images.

    Args:
        folder: the data folder, which may contain names of colors.
        labels: all labels.
        encoding: how they are encoded.
        names: of the classes, in the order of their ids or colors; empty if unknown.
        progress: wraps the labels while they are read.

    Raises:
        UserError: a file that cannot be read, or more or fewer classes than names.
    """
    divisor = guess_encoding(labels[:: max(1, len(labels) // 6)])[1] if encoding in ("id", "rgb_id") else 0
    counts = count_values(labels, encoding, divisor, progress)
    labeling = _of_colors(folder, counts, names) if encoding == "color" else _of_ids(counts, divisor, names)
    total = sum(counts.values())
    what = "color" if encoding == "color" else "id"
    listed = ", ".join(
        f"{_hexadecimal(value) if encoding == 'color' else value} {count / total:.1%}"
        for value, count in counts.most_common(12)
    )
    more = f" and {len(counts) - 12} more" if len(counts) > 12 else ""
    labeling.notes.insert(
        0,
        f"labels: {count_of(len(labels), 'file')}, encoding {encoding}, {count_of(len(counts), what)}: {listed}{more}",
    )
    return labeling


def _of_ids(counts: dict[int, int], divisor: int, names: Sequence[str]) -> Labeling:
    ids, notes, void = sorted(counts), [], []
    if ids == [0, IGNORE_INDEX]:
        notes.append("assumed that 255 marks a class, as in a black and white mask, and that nothing is void")
    elif IGNORE_INDEX in ids:
        ids.remove(IGNORE_INDEX)
        void = [IGNORE_INDEX]
        notes.append("assumed that 255 is void")
    elif 0 in ids and counts[0] > 0:
        notes.append("assumed that 0 is a class; if it is void, set reduce_zero = true and remove class_0")
    if ids[0] < 0:
        void = [*[id_ for id_ in ids if id_ < 0], *void]
        ids = [id_ for id_ in ids if id_ >= 0]
        notes.append(f"assumed that negative ids are void: {', '.join(map(str, void))}")
    if len(ids) > IGNORE_INDEX:
        raise UserError(
            f"the labels have {len(ids)} ids, and a dataset at most 255 classes; are they colors or instances?"
        )
    classes = _named([voc_color(place) for place in range(len(ids))], names, [f"class_{id_}" for id_ in ids])
    keys: dict[str, Any] = {"classes": classes, "void_ids": tuple(void)}
    if ids == [*range(1, len(ids) + 1)] and not void:
        keys["label_mapping"] = {str(id_): place for place, id_ in enumerate(ids)}
        notes.append("no pixel has the id 0; label_mapping lets the classes start at 1")
    elif ids != [*range(len(ids))]:
        keys["label_mapping"] = {str(id_): place for place, id_ in enumerate(ids)}
        notes.append("the ids have gaps; label_mapping maps them to class ids")
    if divisor:
        keys["instance_divisor"] = divisor
        notes.append(f"ids from {divisor} are class * {divisor} + instance")
    total = sum(counts.values())
    return Labeling(keys, notes, tuple(counts[id_] / total for id_ in ids))


def _of_colors(folder: Path, counts: dict[int, int], names: Sequence[str]) -> Labeling:
    values = sorted(counts, key=lambda value: -counts[value])
    colors = [(value >> 16, (value >> 8) & 255, value & 255) for value in values]
    known, source = _known_colors(folder, colors)
    notes = [f"names of the colors: {source}" if source else "the colors have no names; rename class_1 and so on"]
    made_up = [known.get(color, f"class_{place}") for place, color in enumerate(colors, 1)]
    kept = [place for place, name in enumerate(made_up) if name.lower() not in _VOID_NAMES]
    if len(kept) < len(made_up):
        notes.append("colors named void or unlabeled are void")
    classes = _named([colors[place] for place in kept], names, [made_up[place] for place in kept])
    final = list(made_up)
    for place, one in zip(kept, classes, strict=True):
        final[place] = one.name
    own = dict(zip(final, colors, strict=True))
    own |= {name: color for color, name in known.items() if color not in colors}  # they may occur elsewhere
    total = sum(counts.values())
    shares = tuple(counts[values[place]] / total for place in kept)
    return Labeling({"classes": classes, "source_colors": own, "void_ids": (IGNORE_INDEX,)}, notes, shares)


def _named(colors: Sequence[_Color], names: Sequence[str], made_up: Sequence[str]) -> tuple[ClassSpec, ...]:
    if names and len(names) != len(colors):
        raise UserError(f"{len(names)} names of classes for {len(colors)} classes in the labels: {', '.join(made_up)}")
    return tuple(ClassSpec(name, color) for name, color in zip(names or made_up, colors, strict=True))


def _known_colors(folder: Path, colors: Sequence[_Color]) -> tuple[dict[_Color, str], str]:
    """Return the names of colors, from a file in the folder or a dataset of the package, and where they are from."""
    for path in sorted([*folder.rglob("label_colors.txt"), *folder.rglob("labelmap.txt")]):
        named = _read_colors(path)
        if len(set(colors) & named.keys()) >= len(colors) - 1:
            return named, path.relative_to(folder).as_posix()
    for path in sorted(dataset_file("*").parents[1].glob("*/dataset.toml")):
        spec = read_dataset_spec(path)
        named = {color: name for name, color in spec.source_colors.items()}
        if len(colors) >= _FEWEST_KNOWN_COLORS and set(colors) <= named.keys():
            return named, f"those of {spec.name}"
    return {}, ""


def _read_colors(path: Path) -> dict[_Color, str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    matches = (pattern.fullmatch(line) for line in lines for pattern in _COLOR_LINES)
    found = {(int(m["r"][:4]), int(m["g"][:4]), int(m["b"][:4])): m["name"].strip() for m in matches if m}
    return {color: name for color, name in found.items() if max(color) <= 255}


def _hexadecimal(color: int) -> str:
    return f"#{color:06x}"
