"""What a command imports: the time to its help and to its first mask is the time of these imports."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

from conftest import REPOSITORY, MakeVideo

SCRIPTS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
COMMANDS = tuple(entry.partition(":")[0].rpartition(".")[2] for entry in SCRIPTS.values())

HELP = f"""
import contextlib, importlib, io, json, sys
for name in {COMMANDS}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        importlib.import_module(f"ccnet3d.cli.{{name}}").main(["--help"])
    assert "usage: ccnet3d-" + name in out.getvalue()
print(json.dumps(sorted(sys.modules)))
"""

# After the masks, what was left out is there for whoever uses it: the other families, torchvision, its functions.
INFERENCE = """
import json, sys
from ccnet3d.cli.infer import main
assert main(sys.argv[1:]) == 0
print(json.dumps(sorted(sys.modules)))
from timm.models import resnet18
import timm, torchvision
assert len(timm.list_models()) > 500 and timm.create_model("resnet18").conv1 and timm.data.create_dataset
assert torchvision.ops.nms and torchvision.transforms.Resize and torchvision.models.resnet18
from timm.layers import create_feature_extractor
assert create_feature_extractor(resnet18(), {"layer1": "x"}).layer1
"""


def modules_of(code: str, *arguments: object) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert run.returncode == 0, run.stderr
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_help_imports_nothing_heavy() -> None:
    modules = modules_of(HELP)
    assert "ccnet3d.cli.infer_options" in modules
    assert modules & {"numpy", "PIL", "PIL.Image", "torch", "timm", "av", "fsspec", "jinja2", "cv2", "scipy"} == set()


def test_inference_imports_what_it_needs_of_pytorch_and_timm(
    make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    modules = modules_of(
        INFERENCE, make_video(frames=2), "-o", tmp_path / "masks", "-q", "--checkpoint", tiny_checkpoint
    )
    assert "torch" in modules
    unused = {"torch._dynamo", "torch._inductor", "torch.onnx", "sympy", "torchvision", "torchvision.ops", "matplotlib"}
    unused |= {"jinja2", "huggingface_hub", "fsspec", "scipy", "cv2", "decord"}
    assert modules & unused == set()
    families = {name for name in modules if name.startswith("timm.models.") and not name.startswith("timm.models._")}
    assert "timm.models.efficientnet" in families
    assert "timm.models.resnet" not in families
    assert len(families) < 10
