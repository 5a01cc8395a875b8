from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _ignore_the_backend_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend exported in the developer's shell must not replace the backend under test."""
    monkeypatch.delenv("CCNET3D_ATTENTION_BACKEND", raising=False)


@pytest.fixture(autouse=True, scope="session")
def _patch_the_language_once_per_launch() -> Iterator[None]:
    """Halve the time of Triton's interpreter.

    It replaces the functions of ``triton.language`` when a kernel is launched, and replaces them again, by the same,
    whenever the kernel calls a helper function. It also computes each sum and product of integers in 64 bits to find
    overflows, which the indices of tiny tensors cannot have. In a version of Triton with other names, nothing changes.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from triton.runtime import interpreter

    with pytest.MonkeyPatch.context() as patch:
        if hasattr(interpreter, "_patch_lang") and hasattr(interpreter, "_LangPatchScope"):
            patch.setattr(interpreter, "_patch_lang", _patch_once(interpreter))
        options = getattr(getattr(interpreter, "interpreter_builder", None), "options", None)
        if hasattr(options, "sanitize_overflow"):
            faster = dataclasses.replace(options, sanitize_overflow=False)
            patch.setattr(interpreter.interpreter_builder, "options", faster)
        yield


def _patch_once(interpreter: Any) -> Any:
    patch_language, patched = interpreter._patch_lang, set()

    class Launch(interpreter._LangPatchScope):
        def restore(self) -> None:
            super().restore()
            patched.clear()

    def patch_once(function: Any) -> Any:
        module = id(function.__globals__)
        if module in patched:
            return Launch()
        first = not patched
        patched.add(module)
        scope = patch_language(function)
        if first:  # the kernel itself: its scope is restored at the end of the launch, those of helpers never
            scope.__class__ = Launch
        return scope

    return patch_once
