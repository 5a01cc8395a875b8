"""Where the frames and labels of a layout lie: its paths with placeholders, and which label is whose."""

from __future__ import annotations

import glob
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ccnet3d.data.annotations import annotation_suffix, read_annotations
from ccnet3d.data.spec import DatasetSpec, LayoutSpec
from ccnet3d.errors import UserError
from ccnet3d.images import LOSSLESS_SUFFIXES, find_images

__all__ = ["Arrangement", "FoundImage", "FoundLabel", "is_present", "parse_entry"]

_PART = re.compile(r"(?P<name>.+):(?P<first>\d+)-(?P<last>\d+)")


class FoundImage(NamedTuple):
    """An image in the folder of a sequence."""

    folder: str
    """The sequence, as the path says."""
    path: Path
    name: str
    """Its path in the folder of the sequence, without ``image_suffix`` and extension."""

    @property
    def sequence(self) -> str:
        """The sequence and the folders below it."""
        return PurePosixPath(self.folder, PurePosixPath(self.name).parent).as_posix()


class FoundLabel(NamedTuple):
    """Where a label is."""

    path: Path
    annotated_as: str = ""
    """Its image's name in an annotation file of several."""


class Arrangement:
    """The files of a layout in a data folder.

    Args:
        spec: the dataset.
        layout: one of its layouts.
        root: the data folder.
        split: what ``{split}`` stands for.
    """

    def __init__(self, spec: DatasetSpec, layout: LayoutSpec, root: Path, split: str) -> None:
        self.spec, self.layout, self.root, self.split = spec, layout, root, split
        self._images, self._labels = _image_template(layout), _label_template(layout)
        self._label_files: dict[Path, dict[Path, list[Path]]] = {}
        self._annotations: dict[Path, _Annotations] = {}
        self._places: dict[Path, int] = {}

    def images_of(self, entry: str) -> list[FoundImage]:
        """Return the images of an entry of ``splits``, sorted by path.

        Raises:
            UserError: there are none.
        """
        name, first, last = parse_entry(entry)
        folder = self.root / self._filled(self._images, name)
        if folder.is_dir():
            found = self._images_in(folder, name)
        elif self.spec.frame_pattern or set(name) & set("*?["):
            found = [
                image
                for image in self.all_images()
                if fnmatchcase(image.sequence, name) or fnmatchcase(self.identity(image)[0], name)
            ]
        else:
            raise UserError(f"the folder {folder} does not exist")
        self.number(found)
        if last is not None:
            found = [image for image in found if first <= self.identity(image)[1] <= last]
        if not found:
            raise UserError(f"there is no frame of {entry!r} in {self.root}, whose images are {self.layout.images}")
        return found

    def all_images(self) -> list[FoundImage]:
        """Return the images of every sequence, sorted by path."""
        before, _, after = self._filled(self._images, None).partition("{sequence}")
        if not after and (not before or before.endswith("/")):
            return self._images_in(self.root / before, ".")
        found = []
        for sequence in self.sequences():
            found += self._images_in(self.root / self._filled(self._images, sequence), sequence)
        return sorted(found, key=lambda image: image.path)

    def sequences(self) -> list[str]:
        """Return the names that ``{sequence}`` stands for."""
        template = self._filled(self._images, None)
        before, after = template.split("{sequence}", 1)
        base = self.root / before.rpartition("/")[0]
        name = re.compile(re.escape(before) + "(.+)" + re.escape(after).replace(re.escape("{sequence}"), r"\1"))
        paths = (path.relative_to(self.root).as_posix() for path in base.rglob("*") if path.is_dir())
        return sorted(match[1] for path in paths if (match := name.fullmatch(path)))

    def listed_images(self) -> list[FoundImage]:
        """Return the images of a layout with a frame list, sorted by path."""
        found = self._images_in(self.root / self.layout.images.replace("{split}", self.split), ".")
        self.number(found)
        return found

    def number(self, images: Sequence[FoundImage]) -> None:
        """Count the images of whole sequences, if ``frame_numbers`` says that their order numbers them."""
        if self.spec.frame_numbers == "order":
            self._places |= _place_in_order(images)

    def identity(self, image: FoundImage) -> tuple[str, int]:
        """Return the sequence and the number of a frame.

        Raises:
            UserError: its name does not contain them.
        """
        stem = image.path.stem.removesuffix(self.layout.image_suffix)
        pattern = self.spec.frame_pattern
        if pattern:
            match = re.fullmatch(pattern, stem)
            if match is None:
                raise UserError(f"the name of {image.path} does not match frame_pattern {pattern!r}")
            try:
                return match["sequence"], int(match["frame"])
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"the group 'frame' of frame_pattern must match a number, got {match['frame']!r} in {image.path}"
                ) from error
        if image.path in self._places:
            return image.sequence, self._places[image.path]
        numbers = re.findall(r"\d+", stem)
        if not numbers:
            raise UserError(
                f"the name of {image.path} contains no frame number; number the frames, set frame_pattern, or set "
                "frame_numbers = 'order'"
            )
        return image.sequence, int(numbers[-1])

    def label_of(self, image: FoundImage) -> FoundLabel | None:
        """Return the label of an image, None if there is none."""
        if self.layout.has_annotation_files:
            return self._annotations_of(image).find(image, self.root)
        expected = self._expected(image)
        found = self._files_in(self._label_folder(image.folder)).get(expected, [])
        if len(found) > 1:
            raise UserError(f"{found[0]} and {found[1]} are both the label of {image.path}; keep one of them")
        return FoundLabel(found[0]) if found else None

    def expected_label(self, image: FoundImage) -> Path:
        """Return where the label of an image belongs."""
        suffix = annotation_suffix(self.layout.label_encoding) if self.layout.has_shapes else ".png"
        expected = self._expected(image)
        return expected.with_name(f"{expected.name}{suffix}")

    def labels_place(self, sequence: str) -> Path:
        """Return the folder, or the annotation file, of the labels of a sequence."""
        if self.layout.has_annotation_files:
            return self.root / self._filled(self._labels, sequence)
        return self._label_folder(sequence)

    def unused_labels(self, used: set[FoundLabel]) -> list[str]:
        """Return the labels that were looked through and are not in ``used``, by path or by name in their file.

        Files without ``label_suffix``, such as the drawn copies beside the labels of Cityscapes, are not labels.
        """
        if self.layout.has_annotation_files:
            return [
                f"{label.annotated_as} in {label.path.relative_to(self.root).as_posix()}"
                for annotations in self._annotations.values()
                for label in annotations.labels
                if label not in used
            ]
        paths = {label.path for label in used}
        return [
            path.relative_to(self.root).as_posix()
            for files in self._label_files.values()
            for path in sorted(path for one in files.values() for path in one)
            if path not in paths and path.stem.endswith(self.layout.label_suffix)
        ]

    @property
    def labels_are_shared(self) -> bool:
        """Whether sequences of several splits may have their labels in one place."""
        where = self._labels.partition("{name}")[0]
        return "{sequence}" not in where.rpartition("/")[0] if "{name}" in self._labels else "{sequence}" not in where

    def _filled(self, template: str, sequence: str | None) -> str:
        text = template.replace("{split}", self.split)
        return text if sequence is None else text.replace("{sequence}", sequence)

    def _images_in(self, folder: Path, sequence: str) -> list[FoundImage]:
        suffix = self.layout.image_suffix
        found = []
        for path in find_images(folder):
            if path.stem.endswith(suffix):
                name = path.relative_to(folder).with_name(path.stem.removesuffix(suffix)).as_posix()
                found.append(FoundImage(sequence, path, name))
        return found

    def _expected(self, image: FoundImage) -> Path:
        own = "{name}" in self.layout.labels  # the user's template names the file, not a path below a folder
        name = PurePosixPath(image.name).name if own else image.name
        return self.root / self._filled(self._labels, image.folder).replace("{name}", name)

    def _label_folder(self, sequence: str) -> Path:
        return self.root / self._filled(self._labels, sequence).partition("{name}")[0].rpartition("/")[0]

    def _files_in(self, folder: Path) -> dict[Path, list[Path]]:
        """Return the labels in a folder by path without extension."""
        if folder not in self._label_files:
            files: dict[Path, list[Path]] = defaultdict(list)
            has_shapes = self.layout.has_shapes
            suffixes = (annotation_suffix(self.layout.label_encoding),) if has_shapes else LOSSLESS_SUFFIXES
            for path in find_images(folder, suffixes) if folder.is_dir() else []:
                files[path.with_name(path.stem)].append(path)
            self._label_files[folder] = files
        return self._label_files[folder]

    def _annotations_of(self, image: FoundImage) -> _Annotations:
        place = self.root / self._filled(self._labels, image.folder)
        if place not in self._annotations:
            self._annotations[place] = _Annotations(place, self.layout.label_encoding)
        return self._annotations[place]


class _Annotations:
    """The labels in an annotation file, or in those of a folder."""

    def __init__(self, place: Path, encoding: str) -> None:
        files = find_images(place, (annotation_suffix(encoding),)) if place.is_dir() else [place]
        self.labels = [FoundLabel(path, name) for path in files for name in read_annotations(path, encoding)]
        self._by_stem: dict[str, list[tuple[tuple[str, ...], FoundLabel]]] = defaultdict(list)
        for label in self.labels:
            parts = _parts(label.annotated_as)
            self._by_stem[parts[-1]].append((parts, label))

    def find(self, image: FoundImage, root: Path) -> FoundLabel | None:
        """Return the label whose path ends as that of the image; where several do, the one that agrees longest."""
        paths = [_parts(image.path.relative_to(root).as_posix()), _parts(f"{image.sequence}/{image.path.name}")]
        best: list[FoundLabel] = []
        longest = 0
        for parts, label in self._by_stem.get(image.path.stem, []):
            common = max((_agreement(parts, own) for own in paths), default=0)
            if common > longest:
                best, longest = [label], common
            elif common and common == longest:
                best.append(label)
        if len(best) > 1:
            raise UserError(
                f"{best[0].annotated_as} in {best[0].path} and {best[1].annotated_as} in {best[1].path} both annotate "
                f"{image.path}; keep one of them"
            )
        return best[0] if best else None


def _parts(name: str) -> tuple[str, ...]:
    """Return the folders and the stem of a path as any system writes it."""
    path = PurePosixPath(name.replace("\\", "/"))
    return *(part for part in path.parent.parts if part not in ("/", ".")), path.stem


def _agreement(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Return how many parts two paths have in common if the shorter is the end of the longer, else 0."""
    length = min(len(one), len(other))
    return length if one[-length:] == other[-length:] else 0


def parse_entry(entry: str) -> tuple[str, int, int | None]:
    """Return the sequence that an entry of ``splits`` names, and the frame numbers of its first and last frame.

    >>> parse_entry("walk:1-80"), parse_entry("walk")
    (('walk', 1, 80), ('walk', 0, None))
    """
    match = _PART.fullmatch(entry)
    return (match["name"], int(match["first"]), int(match["last"])) if match else (entry, 0, None)


def _place_in_order(images: Sequence[FoundImage]) -> dict[Path, int]:
    """Return the place of each image in its sequence, from 0, where ``x2`` comes before ``x10``."""
    by_sequence = defaultdict(list)
    for image in images:
        by_sequence[image.sequence].append(image.path)
    return {
        path: place
        for paths in by_sequence.values()
        for place, path in enumerate(sorted(paths, key=lambda path: (_natural(path.name), path.name)))
    }


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def is_present(layout: LayoutSpec, root: Path, split: str) -> bool:
    """Return whether the files of a layout are in a data folder."""
    if layout.pair_list:
        return (root / layout.pair_list.replace("{split}", split)).exists()
    if layout.sequence_list and not (root / layout.sequence_list.replace("{split}", split)).exists():
        return False
    labels = _label_template(layout).partition("{name}")[0]
    if not layout.has_annotation_files:
        labels = labels.rpartition("/")[0]
    return all(
        next(_matching(root, template.replace("{split}", split)), None) is not None
        for template in (_image_template(layout).removesuffix("/{sequence}"), labels.removesuffix("/{sequence}"))
    )


def _matching(root: Path, template: str) -> Iterator[Path]:
    if "{sequence}" not in template:
        path = root / template
        return iter([path] if path.exists() else [])
    parts = [
        "**" if part == "{sequence}" else "*".join(glob.escape(text) for text in part.split("{sequence}"))
        for part in template.split("/")
    ]
    return root.glob("/".join(parts))


def _image_template(layout: LayoutSpec) -> str:
    return layout.images if "{sequence}" in layout.images else f"{layout.images}/{{sequence}}"


def _label_template(layout: LayoutSpec) -> str:
    if layout.has_annotation_files:
        return layout.labels
    template = layout.labels
    if "{name}" not in template:
        template = template if "{sequence}" in template else f"{template}/{{sequence}}"
        template += "/{name}"
    return f"{template}{layout.label_suffix}"
