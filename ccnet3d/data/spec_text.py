"""A description of a dataset as the text of its ``dataset.toml``."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ccnet3d.config import from_table
from ccnet3d.data.spec import ClassSpec, DatasetSpec, LayoutSpec

__all__ = ["spec_text"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def spec_text(spec: DatasetSpec, notes: Sequence[str] = (), class_shares: Sequence[float] = ()) -> str:
    """Return the TOML of a description; keys at their defaults are left out.

    >>> classes = (ClassSpec("ground", (90, 140, 60)), ClassSpec("box", (200, 40, 40)))
    >>> print(spec_text(DatasetSpec("yard", classes, splits={"train": ("walk",)}), ["drawn by hand"]))
    # drawn by hand
    name = "yard"
    <BLANKLINE>
    [[classes]]
    name = "ground"
    color = [90, 140, 60]
    <BLANKLINE>
    [[classes]]
    name = "box"
    color = [200, 40, 40]
    <BLANKLINE>
    [splits]
    train = ["walk"]
    <BLANKLINE>

    Args:
        spec: the description.
        notes: comments at the top.
        class_shares: share of each class among the pixels, for a comment beside it.
    """
    lines = [f"# {note}" for note in notes]
    tables = ("classes", "layouts", "source_colors", "splits", "label_mapping")
    lines += _lines(spec, DatasetSpec, leave_out=tables)
    if spec.layouts != (LayoutSpec(),):
        for layout in spec.layouts:
            lines += ["", "[[layouts]]", *_lines(layout, LayoutSpec)]
    for place, one in enumerate(spec.classes):
        share = f"  # {class_shares[place]:.2%} of the pixels" if class_shares else ""
        head, *rest = _lines(one, ClassSpec)
        lines += ["", "[[classes]]", f"{head}{share}", *rest]
    for name in ("label_mapping", "source_colors", "splits"):
        if table := getattr(spec, name):
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
    text = "\n".join([*lines, ""])
    assert from_table(DatasetSpec, tomllib.loads(text)) == spec
    return text


def _lines(table: Any, kind: type, leave_out: Sequence[str] = ()) -> list[str]:
    values = {one.name: getattr(table, one.name) for one in fields(kind) if one.name not in leave_out}
    defaults = {one.name: one.default for one in fields(kind)}
    return [f"{key} = {_value(value)}" for key, value in values.items() if value != defaults[key]]


def _key(text: str) -> str:
    return text if _BARE.fullmatch(text) else _value(text)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_value(one)}' for key, one in value.items())} }}"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)
