from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ccnet3d.errors import UserError
from ccnet3d.training.run_log import RunLog


def test_a_missing_tensorboard_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'ccnet3d\[train\]'"):
        RunLog(tmp_path / "run", 1)
    assert not (tmp_path / "run").exists()
