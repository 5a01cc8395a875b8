from __future__ import annotations

import os
import subprocess
import sys

from conftest import REPOSITORY


def run(script: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "scripts" / script), *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if key != "CCNET3D_CAMVID"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**clean, **environment})
