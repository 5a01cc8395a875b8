from __future__ import annotations

import pytest
import torch

from ccnet3d.errors import FileProblemsError, UserError, explain_out_of_memory


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has"), "Tried to allocate 2 GiB"),
        (MemoryError(), r"\(MemoryError\)"),
    ],
)
def test_out_of_memory_is_a_user_error(error: Exception, reason: str) -> None:
    with (
        pytest.raises(UserError, match=f"out of memory .*{reason}.*; use a smaller clip$") as caught,
        explain_out_of_memory("use a smaller clip"),
    ):
        raise error
    assert caught.value.__cause__ is error


def test_real_allocation_on_the_cpu() -> None:
    with pytest.raises(UserError, match="out of memory .*allocate"), explain_out_of_memory("use less"):
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), UserError("out of memory"), KeyError("x")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explain_out_of_memory("use less"):
        raise error
    assert caught.value is error


def test_one_invalid_file_is_not_several() -> None:
    assert str(FileProblemsError(["a.png is empty"])) == (
        "a file is invalid; fix it or remove it from the split:\n  a.png is empty"
    )
