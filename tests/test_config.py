from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ccnet3d.config import apply_overrides, from_table, read_toml


@dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (1, 2)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner = field(default_factory=Inner)
    flag: bool = False
    limit: int | None = None
    table: dict[str, int] = field(default_factory=dict)
    many: tuple[Inner, ...] = ()


def test_nested_tables() -> None:
    table = {
        "rate": 1, "inner": {"size": [3, 4], "names": ["a"]}, "flag": True, "limit": None, "table": {"x": 1},
        "many": [{"size": [5, 6]}],
    }  # fmt: skip
    expected = Outer(1.0, Inner((3, 4), ("a",)), True, None, {"x": 1}, (Inner((5, 6)),))
    assert from_table(Outer, table) == expected
    assert isinstance(from_table(Outer, table).rate, float)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "Outer lacks the key 'rate'"),
        ({"rate": 1, "raet": 2}, "unknown key 'raet' in Outer; it has rate, inner"),
        ({"rate": "fast"}, "rate must be float, got 'fast'"),
        ({"rate": True}, "rate must be float, got True"),
        ({"rate": 1, "flag": 1}, "flag must be bool, got 1"),
        ({"rate": 1, "limit": 2.5}, "limit must be int, got 2.5"),
        ({"rate": 1, "inner": {"size": [1]}}, r"inner.size must be tuple\[int, int\], got \[1\]"),
        ({"rate": 1, "inner": {"names": "abc"}}, "inner.names must be"),
        ({"rate": 1, "inner": {"length": 1}}, "unknown key 'length' in inner"),
        ({"rate": 1, "inner": 3}, "inner must be Inner, got 3"),
        ({"rate": 1, "table": {"x": "y"}}, "table.x must be int"),
    ],
)
def test_bad_tables(table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_table(Outer, table)


def test_overrides() -> None:
    table = {"a": {"b": 1, "c": 2}, "d": 3}
    result = apply_overrides(table, ["a.b=[1, 2]", "d=1e-3", "a.e.f=true", "g=package:x", 'h="1"', "a.c=yes = no"])
    assert result == {
        "a": {"b": [1, 2], "c": "yes = no", "e": {"f": True}}, "d": 1e-3, "g": "package:x", "h": "1",
    }  # fmt: skip
    assert table == {"a": {"b": 1, "c": 2}, "d": 3}
    with pytest.raises(ValueError, match="must look like section.key=value, got 'epochs'"):
        apply_overrides(table, ["epochs"])
    with pytest.raises(ValueError, match="'d' in the override 'd.e=1' is a value"):
        apply_overrides(table, ["d.e=1"])


def test_read_toml(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot read .*absent.toml: No such file"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("x = = 1")
    with pytest.raises(ValueError, match="bad.toml is not valid TOML"):
        read_toml(tmp_path / "bad.toml")
