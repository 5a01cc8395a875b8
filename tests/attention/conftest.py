from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _ignore_the_backend_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend exported in the developer's shell must not replace the backend under test."""
    monkeypatch.delenv("CCNET3D_ATTENTION_BACKEND", raising=False)
