from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_backend_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the developer exports must not replace the backend under test."""
    monkeypatch.delenv("CCNET3D_ATTENTION_BACKEND", raising=False)
