from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from commands import Commands, in_two_processes
from conftest import THREE_CLASSES

from ccnet3d.models import CCNet3D, ModelInfo, save_model

WORKER = Path(__file__).with_name("worker.py")


@pytest.mark.usefixtures("one_thread")
def test_two_processes_give_the_bytes_of_one(
    yard: Path, commands: Commands, tmp_path: Path, torn_model: CCNet3D, tiny_info: ModelInfo
) -> None:
    """Four segments in three sequences; a UserError is reported by the first process, a bug where it happens."""
    text = THREE_CLASSES.replace('["night"]', '["walk", "yard_2", "night"]')
    (yard / "dataset.toml").write_text(f"max_gap_frames = 2\n{text}")
    for folder in ("frames", "labels"):
        (yard / folder / "walk" / "0007.png").rename(yard / folder / "walk" / "0010.png")
    checkpoint = tmp_path / "torn.safetensors"
    save_model(checkpoint, torn_model, tiny_info)
    tests = f"sys.path.insert(0, {str(WORKER.parents[1])!r})"
    results = in_two_processes(commands, "evaluation.worker", yard, "val", checkpoint, tmp_path, before=tests)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr + results[1].stderr
    spec = importlib.util.spec_from_file_location("evaluation_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(worker)
    alone = worker.evaluate_all(yard, "val", checkpoint)
    assert [frame.segment for frame in alone.frames] == [0] * 3 + [1] * 6 + [2] + [3] * 4
    assert 0 < alone.scores["tc"] < 1
    assert 0 < alone.miou < 1
    alone.save(tmp_path / "alone.json")
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
    reported = {path.stem: path.read_text() for path in tmp_path.glob("?_?.txt")}
    assert reported == {
        "0_0": "UserError a mask is missing", "1_0": "SystemExit 2", "0_1": "SystemExit 1", "1_1": "ValueError a bug",
    }  # fmt: skip
