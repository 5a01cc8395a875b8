"""Guess how the frames and labels of an unknown folder are arranged."""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import PurePosixPath
from typing import NamedTuple

__all__ = ["PairGuess", "guess_pairs", "image_folders"]

_SAMPLED_NAMES = 200
_MOST_PATTERNS = 8
_SAMPLED_FOLDERS = 3


class PairGuess(NamedTuple):
    """Values of a layout, and what they pair."""

    images: str
    labels: str
    image_suffix: str
    label_suffix: str
    sequences: tuple[str, ...]
    """Those with a label, sorted."""
    pairs: tuple[tuple[str, str], ...]
    """Frames and labels, relative to the data folder."""


class _Naming(NamedTuple):
    """How the name of a label differs from that of its frame."""

    image_suffix: str
    label_prefix: str
    label_suffix: str


def guess_pairs(frames: Sequence[str], labels: Sequence[str]) -> PairGuess | None:
    """Return the arrangement that gives most frames a label, None if none does.

    >>> guess = guess_pairs(["walk/images/1.jpg", "walk/images/2.jpg"], ["walk/labels/1.png", "walk/labels/2.png"])
    >>> guess.images, guess.labels, guess.sequences
    ('{sequence}/images', '{sequence}/labels', ('walk',))

    Args:
        frames: paths relative to the data folder, with ``/``.
        labels: likewise, of a folder or of annotation files of one frame each.
    """
    label_of = {PurePosixPath(path).with_suffix("").as_posix(): path for path in labels}
    best: PairGuess | None = None
    namings = _namings(frames, labels)
    for images, places in _templates(frames, labels):
        for naming in namings:
            guess = _paired(frames, label_of, images, places, naming)
            if best is None or len(guess.pairs) > len(best.pairs):
                best = guess
    return best if best is not None and best.pairs else None


def image_folders(frames: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return the value of ``images`` for frames that need no folder of labels, and their sequences.

    >>> image_folders(["a/images/1.jpg", "b/images/1.jpg"])
    ('{sequence}/images', ('a', 'b'))
    >>> image_folders(["frames/a/1.jpg", "frames/b/1.jpg"])
    ('frames', ('a', 'b'))
    """
    folders = sorted({PurePosixPath(path).parent.as_posix() for path in frames})
    common = os.path.commonpath(folders) if len(folders) > 1 else folders[0]
    common = common or "."
    rest = [PurePosixPath(folder).relative_to(common).as_posix() for folder in folders]
    tails = {PurePosixPath(one).name for one in rest}
    if len(folders) > 1 and len(tails) == 1 and all("/" in one for one in rest):
        names = tuple(PurePosixPath(one).parent.as_posix() for one in rest)
        return f"{'' if common == '.' else f'{common}/'}{{sequence}}/{tails.pop()}", names
    return common, tuple(rest)


def _namings(frames: Sequence[str], labels: Sequence[str]) -> list[_Naming]:
    """Return likely namings, the most frequent first and of those the ones that say ``label``."""
    stems = sorted({PurePosixPath(path).stem for path in frames})
    stems = stems[:: max(1, len(stems) // _SAMPLED_NAMES)]
    ordered = sorted({PurePosixPath(path).stem for path in labels})
    backwards = sorted(stem[::-1] for stem in ordered)
    counts: Counter[_Naming] = Counter()
    for stem in stems:
        near = bisect_left(ordered, stem)
        for label in ordered[max(0, near - _MOST_PATTERNS) : near + _MOST_PATTERNS]:
            common = stem[: _common(stem, label)]
            if common not in (stem, label):
                common = common.rstrip("_-. ")  # the separator belongs to the suffixes
            suffixes = stem[len(common) :], label[len(common) :]
            if common and not any(suffix[:1].isdecimal() for suffix in suffixes):
                counts[_Naming(suffixes[0], "", suffixes[1])] += 1
        near = bisect_left(backwards, stem[::-1])
        for label in (text[::-1] for text in backwards[near : near + _MOST_PATTERNS]):
            if label != stem and label.endswith(stem) and not label.removesuffix(stem)[-1].isdecimal():
                counts[_Naming("", label.removesuffix(stem), "")] += 1

    def rank(naming: _Naming) -> tuple[int, int, int]:
        text = f"{naming.label_prefix}{naming.label_suffix}".lower()
        wanted = any(word in text for word in ("label", "mask", "_l", "ids", "seg"))
        unwanted = any(word in text for word in ("color", "instance", "edge", "overlay"))
        return -counts[naming], unwanted - wanted, len(text) + len(naming.image_suffix)

    most = max(counts.values(), default=0)
    return sorted((one for one, count in counts.items() if 2 * count >= most), key=rank)[:_MOST_PATTERNS]


def _templates(frames: Sequence[str], labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield values of ``images`` and ``labels`` that would pair one folder of frames with one of labels."""
    found: dict[tuple[str, str], None] = {}
    image_places = Counter(PurePosixPath(path).parent.as_posix() for path in frames)
    label_places = sorted({PurePosixPath(path).parent.as_posix() for path in labels})
    common, _ = image_folders(frames)
    for place, _ in image_places.most_common(_SAMPLED_FOLDERS):
        image_parts = _parts(place)
        for label_place in sorted(label_places, key=lambda label: -_agreement(image_parts, _parts(label)))[:50]:
            found |= dict.fromkeys(_templates_of(image_parts, _parts(label_place)))
    if len(label_places) == 1:
        found |= dict.fromkeys([(common, f"{label_places[0]}/{{name}}")])
    yield from found


def _templates_of(one: tuple[str, ...], other: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield templates for a folder of frames and one of labels: a common end, a common start, none, a common word."""
    end = 0
    while end < min(len(one), len(other)) and one[-1 - end] == other[-1 - end]:
        end += 1
    for length in range(end, 0, -1):
        yield _joined(one[: len(one) - length]), _joined(other[: len(other) - length])
    start = _common(one, other)
    if start and start < len(one) and start < len(other):
        head = (*one[: start - 1], "{sequence}")
        yield _joined((*head, *one[start:])), _joined((*head, *other[start:]))
    yield _joined(one), _joined(other)
    if len(one) == len(other):
        different = [index for index in range(len(one)) if one[index] != other[index]]
        if len(different) == 1:
            (index,) = different
            word = one[index][: _common(one[index], other[index])].rstrip("_-. ")
            if word:
                texts = [
                    _joined((*parts[:index], "{sequence}" + parts[index].removeprefix(word), *parts[index + 1 :]))
                    for parts in (one, other)
                ]
                yield texts[0], texts[1]


def _paired(frames: Sequence[str], label_of: dict[str, str], images: str, labels: str, naming: _Naming) -> PairGuess:
    flat = "{name}" in labels
    if naming.label_prefix and not flat:
        labels = f"{labels if '{sequence}' in labels else f'{labels}/{{sequence}}'}/{naming.label_prefix}{{name}}"
    elif naming.label_prefix:
        labels = labels.replace("{name}", f"{naming.label_prefix}{{name}}")
    template = labels if "{sequence}" in labels or "{name}" in labels else f"{labels}/{{sequence}}"
    template = template if "{name}" in template else f"{template}/{{name}}"
    full = images if "{sequence}" in images else f"{images}/{{sequence}}"
    pattern = re.compile(re.escape(full).replace(re.escape("{sequence}"), "(.+)").removeprefix(r"\./"))
    sequences, pairs = set(), []
    for frame in frames:
        path = PurePosixPath(frame)
        folder = path.parent.as_posix()
        if "{sequence}" not in images and folder == images:
            sequence = "."
        elif (match := pattern.fullmatch(folder)) is None:
            continue
        else:
            sequence = match[1]
        if not path.stem.endswith(naming.image_suffix):
            continue
        name = path.stem.removesuffix(naming.image_suffix) + naming.label_suffix
        expected = PurePosixPath(template.replace("{sequence}", sequence).replace("{name}", name)).as_posix()
        if (label := label_of.get(expected)) is not None:
            sequences.add(sequence)
            pairs.append((frame, label))
    unique = pairs if len({label for _, label in pairs}) == len(pairs) else []
    return PairGuess(images, labels, naming.image_suffix, naming.label_suffix, tuple(sorted(sequences)), tuple(unique))


def _parts(folder: str) -> tuple[str, ...]:
    return PurePosixPath(folder).parts


def _joined(parts: Sequence[str]) -> str:
    return PurePosixPath(*parts).as_posix()


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the common start."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _agreement(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the number of folders that two paths have in common."""
    return sum((Counter(one) & Counter(other)).values())
