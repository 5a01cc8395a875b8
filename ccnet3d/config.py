"""Convert tables (TOML, JSON) to frozen dataclasses; unknown keys, wrong types and numbers out of range are errors."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ccnet3d.errors import UserError

__all__ = ["apply_overrides", "check_range", "from_table", "parse_json", "read_lines", "read_toml"]

Config = TypeVar("Config")

_PLAIN = (str, int, float, bool)
_MOST_SHOWN = 200
"""Characters of a value in a message."""
_LARGEST = 2**63 - 1
"""The largest integer of tensors and arrays."""


def read_lines(path: Path, kind: str) -> list[str]:
    """Return the lines of a UTF-8 text file, with or without a byte-order mark, except blank ones.

    Args:
        path: the file.
        kind: what it is, for messages.

    Raises:
        UserError: it cannot be read, or is not UTF-8.
    """
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read the {kind} {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {kind} {path} is not a text file in UTF-8: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file, with or without a byte-order mark.

    Raises:
        UserError: there is no such file, or it is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    # Besides its own errors, the parser raises what numbers of too many digits or too deep nesting cause.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Return the object that a JSON text contains.

    NaN, which JSON does not have but Python writes, is read as None.

    >>> parse_json('{"frames": 3, "miou": NaN}')
    {'frames': 3, 'miou': None}

    Raises:
        UserError: it is not JSON, not UTF-8, or not an object.
    """
    try:
        table = json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}") from error
    if not isinstance(table, dict):
        raise UserError(f"expected a JSON object, got {_shown(table)}")
    return table


def _constant(name: str) -> None:
    if name != "NaN":
        raise ValueError(f"{name} is not a number of JSON")


def check_range(name: str, value: float | Sequence[float], low: float, high: float) -> None:
    """Check a number, or each of several; NaN is in no range.

    >>> check_range("color", (0, 128, 256), 0, 255)
    Traceback (most recent call last):
    ccnet3d.errors.UserError: color must be in 0 to 255, got (0, 128, 256)

    Raises:
        UserError: one of them is not in [low, high].
    """
    if not all(low <= number <= high for number in (value if isinstance(value, Sequence) else (value,))):
        raise UserError(f"{name} must be in {low} to {high}, got {_shown(value)}")


def from_table(cls: type[Config], table: Mapping[str, Any], where: str = "", *, ignore_unknown: bool = False) -> Config:
    """Build a dataclass from a table whose keys are its fields.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Crop:
    ...     size: tuple[int, int]
    ...     scale: float = 1.0
    >>> from_table(Crop, {"size": [320, 416], "scale": 2})
    Crop(size=(320, 416), scale=2.0)

    Args:
        cls: the dataclass; its fields may be plain values, tuples, mappings, optional values and dataclasses.
        table: the values; fields with a default may be absent.
        where: dotted name of the table, for messages.
        ignore_unknown: leave out keys that are not fields, in this table and those in it.

    Raises:
        UserError: an unknown key, a missing key, a value whose type is not the field's, or a number that is not finite.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    name = where or cls.__name__.lstrip("_")
    if ignore_unknown:
        table = {key: value for key, value in table.items() if key in fields}
    elif unknown := sorted(set(table) - set(fields)):
        raise UserError(f"unknown key {_shown(unknown[0])} in {name}; it has {', '.join(fields)}")
    required = {
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(table)):
        raise UserError(f"{name} lacks the key {missing[0]!r}")
    hints = typing.get_type_hints(cls)
    values = {
        key: _convert(value, hints[key], f"{where}.{key}" if where else key, ignore_unknown=ignore_unknown)
        for key, value in table.items()
    }
    return cls(**values)


def _convert(value: Any, hint: Any, where: str, *, ignore_unknown: bool) -> Any:
    if hint in _PLAIN:
        return _convert_plain(value, hint, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        hint = next(a for a in arguments if a is not type(None))
        return _convert(value, hint, where, ignore_unknown=ignore_unknown)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_table(typing.cast(type, hint), value, where, ignore_unknown=ignore_unknown)
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        hints = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
        if len(hints) == len(value):
            pairs = zip(value, hints, strict=True)
            return tuple(_convert(item, kind, where, ignore_unknown=ignore_unknown) for item, kind in pairs)
    elif origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {
            key: _convert(item, arguments[1], f"{where}.{key}", ignore_unknown=ignore_unknown)
            for key, item in value.items()
        }
    raise _refusal(value, hint if origin is not None else hint.__name__.lstrip("_"), where)


def _convert_plain(value: Any, hint: type, where: str) -> Any:
    if type(value) is int and hint in (int, float) and abs(value) > _LARGEST:
        raise UserError(f"{where} must be at most 2^63 - 1 in size, got {_shown(value)}")
    if type(value) is float and hint is float and not math.isfinite(value):
        raise UserError(f"{where} must be a finite number, got {value}")
    if type(value) is hint:
        return value
    if type(value) is int and hint is float:
        return float(value)
    raise _refusal(value, hint.__name__, where)


def _shown(value: object) -> str:
    """Return a value for a message, shortened: a file may contain a value of any length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of too many digits, or too deep nesting
        return f"a long {type(value).__name__}"
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN // 2]} ... {text[-_MOST_SHOWN // 4 :]}"


def _refusal(value: Any, expected: object, where: str) -> UserError:
    return UserError(f"{where} must be {expected}, got {_shown(value)}")


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a nested table with values set from ``section.key=value`` texts, where values are written as in TOML.

    A value that is not TOML is a string, so that names need no quotes.

    >>> apply_overrides({"data": {"workers": 1}}, ["data.workers=4", "precision=fp32"])
    {'data': {'workers': 4}, 'precision': 'fp32'}

    Raises:
        UserError: an override without ``=``, or a section in its name that is a value.
    """
    result = _copy_tables(table)
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not name:
            raise UserError(f"an override must look like section.key=value, got {override!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # as in read_toml
            value = text
        *sections, key = name.split(".")
        target = result
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise UserError(f"{section!r} in the override {override!r} is a value, not a section")
        target[key] = value
    return result


def _copy_tables(table: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy_tables(value) if isinstance(value, Mapping) else value for key, value in table.items()}
