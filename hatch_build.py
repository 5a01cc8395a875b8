"""Compile the C kernels of ``ccnet3d/native/sources`` into the wheel, where there is a C compiler.

Run as a program it compiles them in place, for a checkout that is used without being installed. The library uses
neither Python's nor PyTorch's C interface, so one wheel fits all their versions. Without a compiler, or with
CCNET3D_PURE=1, the wheel contains Python only, and all runs in stock PyTorch.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run as a program
    BuildHookInterface = object

ROOT = Path(__file__).resolve().parent
SOURCES = ROOT / "ccnet3d" / "native" / "sources"
LIBRARY = SOURCES.with_name("_native.so")
AVX512 = ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma")
OBJECTS = {  # name: source and the instruction sets that it may use
    "float32_avx2": ("float32.c", ("-mavx2", "-mfma")),
    "float32_avx512": ("float32.c", AVX512),
    "bfloat16_amx": ("bfloat16.c", (*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16")),
    "pixels": ("pixels.c", ("-mavx2", "-mfma")),
    "run": ("run.c", ()),
}


def build(library: Path = LIBRARY) -> bool:
    """Compile the library; return whether it could be compiled."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if os.environ.get("CCNET3D_PURE") or sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    if shutil.which(compiler[0]) is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder, f"{name}.o")) for name in OBJECTS]
        options = ("-O3", "-fPIC", "-std=gnu11")
        commands = [
            [*compiler, *options, *isa, "-c", str(SOURCES / source), "-o", target]
            for target, (source, isa) in zip(objects, OBJECTS.values(), strict=True)
        ]
        made = Path(folder, library.name)
        commands.append([*compiler, "-shared", "-o", str(made), *objects, "-lm", "-lpthread"])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"the C kernels are left out: {shlex.join(command)}\n{done.stderr}", file=sys.stderr)
                return False
        temporary = library.with_suffix(".new")
        shutil.copyfile(made, temporary)
        temporary.replace(library)
    return True


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Add the library to wheels and editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Compile before the files are collected."""
        if build():
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["artifacts"].append(str(LIBRARY.relative_to(ROOT)))


if __name__ == "__main__":
    sys.exit(0 if build() else "nothing was compiled")
