"""Damaged copies of files, for ``fuzz_inputs.py``: of their bytes, or of the values of a structured file."""

from __future__ import annotations

import copy
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["mutate_file"]

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 256, 10**6, 10**9, 10**12, 2**63, 10**30, -(10**30), 0.0, 0.5, -1.5, 1e-300,
    1e300, float("nan"), float("inf"), float("-inf"), "", "x", "../..", "/etc", "a\nb: c\x1b[31m", "x" * 5000,
    "\N{FULLWIDTH DIGIT ONE}", "hf_hub:a/b", "local-dir:.", "package:nosuch.sub", "inf", [], [0], [[]], [1, 2, 3],
    [10**9] * 3, ["x"] * 300, {}, {"x": 1},
)  # fmt: skip
_TOML_VALUES = (
    "true", "0", "-1", "1_000_000_000", "0x" + "f" * 300, "9" * 6000, "1e999", "nan", "-inf", "0.5", '""', '"../.."',
    '"a\\nb"', '"hf_hub:a/b"', '"package:nosuch.sub"', '"package:__main__"', "[]", "[1, 2]", "[[[]]]", "[" * 3000,
    "{}", "{ x = 1 }", "1979-05-27", "'", '"""', '["x"]', "[0, 0]", "[1000000, 1000000]", '"(a{9}){9}"',
    '"x{99999999999}"',
)  # fmt: skip


def mutate_file(path: Path, random: np.random.Generator) -> None:
    """Damage a file in place, in the way that its kind allows or, in one of three cases, in its bytes."""
    structured = _STRUCTURED.get(path.suffix)
    data = path.read_bytes()
    if structured is None or random.integers(3) == 0:
        path.write_bytes(_mutate_bytes(data, random))
    else:
        path.write_bytes(structured(data, random))


def _mutate_bytes(data: bytes, random: np.random.Generator) -> bytes:
    """Flip bits, cut a tail or a middle, swap, zero, repeat or insert parts, or append."""
    changed, size = bytearray(data), len(data)
    length = int(random.integers(1, max(2, size // 8)))
    start, other = (int(random.integers(0, max(1, size - length))) for _ in range(2))
    way = int(random.integers(8))
    if way <= 1:
        # Headers are where sizes are: half of the flips are there.
        most = min(size, 600) if way else size
        for _ in range(int(random.integers(1, 12))):
            changed[random.integers(0, max(1, most))] ^= 1 << int(random.integers(8))
    elif way == 2:
        del changed[int(random.integers(0, size)) :]
    elif way == 3:
        del changed[start : start + length]
    elif way == 4:
        part = changed[start : start + length]
        changed[start : start + length] = changed[other : other + length]
        changed[other : other + length] = part
    elif way == 5:
        changed[start : start + length] = bytes(length)
    elif way == 6:
        changed[start:start] = changed[other : other + length]
    else:
        changed[start:start] = random.bytes(int(random.integers(1, 64)))
    return bytes(changed)


def _mutate_value(root: Any, random: np.random.Generator, values: tuple[Any, ...]) -> Any:
    """Return a copy with one to three values replaced, removed, repeated or renamed."""
    root = copy.deepcopy(root)
    for _ in range(int(random.integers(1, 4))):
        places = list(_places(root))
        if not places or random.integers(40) == 0:
            return values[random.integers(len(values))]
        # By depth first, as long lists would otherwise draw nearly all changes.
        depth = random.choice(sorted({depth for depth, _, _ in places}))
        chosen = [place for place in places if place[0] == depth]
        _, container, key = chosen[random.integers(len(chosen))]
        way = int(random.integers(6))
        if way == 0:
            del container[key]
        elif way == 1 and isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        elif way == 1:
            container[f"{key}_"] = container.pop(key)
        elif way == 2:
            container[key] = [container[key]]
        else:
            container[key] = values[random.integers(len(values))]
    return root


def _places(value: Any, depth: int = 0) -> Any:
    """Yield depth, container and key of every value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield depth, value, key
            yield from _places(value[key], depth + 1)


def _mutate_json(data: bytes, random: np.random.Generator) -> bytes:
    if random.integers(30) == 0:
        return b"[" * 100_000
    return json.dumps(_mutate_value(json.loads(data), random, _VALUES)).encode()


def _mutate_toml(data: bytes, random: np.random.Generator) -> bytes:
    lines = data.decode().splitlines()
    for _ in range(int(random.integers(1, 4))):
        assigned = [i for i, line in enumerate(lines) if re.match(r"\s*[\w.]+ = ", line)]
        if not assigned:
            break
        index = assigned[random.integers(len(assigned))]
        key = lines[index].partition(" = ")[0]
        way = int(random.integers(5))
        if way == 0:
            del lines[index]
        elif way == 1:
            lines[index] = lines[index].replace(key, f"{key}_", 1)
        else:
            lines[index] = f"{key} = {_TOML_VALUES[random.integers(len(_TOML_VALUES))]}"
    return "\n".join(lines).encode()


def _mutate_safetensors(data: bytes, random: np.random.Generator) -> bytes:
    """Change the header of the tensors, or the JSON that it contains as text."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    if random.integers(3) == 0:
        header = _mutate_value(header, random, _VALUES)
    else:
        inner = json.loads(header["__metadata__"]["ccnet3d"])
        header["__metadata__"]["ccnet3d"] = json.dumps(_mutate_value(inner, random, _VALUES))
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _mutate_checkpoint(data: bytes, random: np.random.Generator) -> bytes:
    tensors = (
        torch.zeros(0),
        torch.zeros(3),
        torch.full((3,), float("nan")),
        torch.zeros(1).expand(1 << 40),
        torch.ones(1).long(),
    )
    state = torch.load(io.BytesIO(data), weights_only=True)
    buffer = io.BytesIO()
    torch.save(_mutate_value(state, random, (*_VALUES, *tensors)), buffer)
    return buffer.getvalue()


def _mutate_npz(data: bytes, random: np.random.Generator) -> bytes:
    """Give one of the arrays another header."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        names = source.namelist()
        chosen = names[random.integers(len(names))]
        for name in names:
            content = source.read(name)
            if name == chosen:
                lengths = (0, 1, 2, 3, 40, 60, 10**6, 10**9, 10**12, 2**63, -1)
                shape = tuple(lengths[i] for i in random.integers(len(lengths), size=random.integers(0, 4)))
                types = (
                    "|u1",
                    "<i8",
                    ">i8",
                    "|O",
                    "<f4",
                    "|V1000000",
                    "<M8[ns]",
                    "|S0",
                    "|b1",
                    "garbage",
                    [("a", "<i8")],
                )
                header = {
                    "descr": types[random.integers(len(types))],
                    "fortran_order": bool(random.integers(2)),
                    "shape": shape,
                }
                start = io.BytesIO()
                np.lib.format.write_array_header_1_0(start, header)
                content = start.getvalue() + content[128:]
            target.writestr(name, content)
    return buffer.getvalue()


_STRUCTURED: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    ".json": _mutate_json,
    ".toml": _mutate_toml,
    ".safetensors": _mutate_safetensors,
    ".pt": _mutate_checkpoint,
    ".npz": _mutate_npz,
}
"""By the extension of the file."""
