from __future__ import annotations

import io
import os
import runpy
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import torch
from conftest import REPOSITORY

FOLDERS = ("scripts", "scripts/benchmarks", "scripts/studies")


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as ``python SCRIPT ARGUMENTS`` does.

    With another PYTHONPATH it runs in a process of its own, else in this one: most of a process's time is the import of
    PyTorch.
    """
    path = next(path for folder in FOLDERS if (path := REPOSITORY / folder / script).is_file())
    command = [str(path), *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if key != "CCNET3D_CAMVID"} | environment
    if "PYTHONPATH" in environment:
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, env=clean)
    return _run_here(path, command, clean)


def _run_here(path: Path, command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    modules, threads, code = set(sys.modules), torch.get_num_threads(), 0
    with (
        mock.patch.dict(os.environ, environment, clear=True),
        mock.patch.object(sys, "argv", command),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=err)
        except Exception:
            traceback.print_exc(file=err)
            code = 1
    torch.set_num_threads(threads)
    for name in set(sys.modules) - modules:  # modules beside the script: another script may have one of the same name
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == path.parent:
            del sys.modules[name]
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())
