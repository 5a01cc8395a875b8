"""Convert tables (TOML, JSON) to frozen dataclasses; unknown keys and wrong types are errors."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ccnet3d.errors import UserError

__all__ = ["apply_overrides", "from_table", "read_lines", "read_toml"]

Config = TypeVar("Config")


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
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def from_table(cls: type[Config], table: Mapping[str, Any], where: str = "") -> Config:
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

    Raises:
        UserError: an unknown key, a missing key, or a value whose type is not the field's.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    name = where or cls.__name__
    if unknown := sorted(set(table) - set(fields)):
        raise UserError(f"unknown key {unknown[0]!r} in {name}; it has {', '.join(fields)}")
    required = {
        key
        for key, field in fields.items()
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(table)):
        raise UserError(f"{name} lacks the key {missing[0]!r}")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(value, hints[key], f"{where}.{key}" if where else key) for key, value in table.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_table(typing.cast(type, hint), value, where)
    if origin is tuple and isinstance(value, Sequence) and not isinstance(value, str):
        if arguments[-1] is Ellipsis:
            return tuple(_convert(item, arguments[0], where) for item in value)
        if len(value) == len(arguments):
            return tuple(_convert(item, kind, where) for item, kind in zip(value, arguments, strict=True))
    elif origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: _convert(item, arguments[1], f"{where}.{key}") for key, item in value.items()}
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(hint, type) and isinstance(value, hint) and isinstance(value, bool) == (hint is bool):
        return value
    expected = hint.__name__ if isinstance(hint, type) and origin is None else str(hint)
    raise UserError(f"{where} must be {expected}, got {value!r}")


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
        except tomllib.TOMLDecodeError:
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
