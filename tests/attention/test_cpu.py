from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from reference.inputs import random_inputs
from torch import Tensor

from ccnet3d.attention import criss_cross_attention
from ccnet3d.attention.backends import cpu

matmul = getattr(torch.backends.mkldnn, "matmul", None)
has_setting = pytest.mark.skipif(
    not hasattr(matmul, "fp32_precision"), reason="PyTorch before 2.9 has no precision setting for oneDNN's products"
)


@pytest.fixture
def setting() -> Iterator[object]:
    """oneDNN's setting, restored after the test."""
    before = matmul.fp32_precision
    yield matmul
    matmul.fp32_precision = before


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated CPU whose products stay exact with bfloat16 allowed."""
    monkeypatch.setattr(cpu, "_oneDNN_stays_exact", lambda: True)


@pytest.mark.parametrize("shape", [(8, 96, 96, 96), (323, 5, 3, 5), (60, 90, 64, 90), (3, 128, 257, 33)], ids=str)
@pytest.mark.parametrize("strided", [False, True])
def test_products_have_float32_precision_on_any_cpu(shape, strided: bool) -> None:
    batch, rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(batch, rows, inner, generator=generator)
    right = torch.randn(batch, inner, columns, generator=generator)
    if strided:
        left = left.transpose(1, 2).contiguous().transpose(1, 2)
        right = right.transpose(0, 1).contiguous().transpose(0, 1)
    with cpu.fast_float32_products():
        product = torch.bmm(left, right)
    exact = torch.bmm(left.double(), right.double())
    # Float32's roundoff is 6e-8; the error of bfloat16 or TF32 would be about 1e-3.
    assert (product - exact).norm() < 1e-6 * exact.norm()


@has_setting
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("before", ["none", "ieee", "tf32", "bf16"])
def test_setting_is_restored(setting, before: str) -> None:
    setting.fp32_precision = before
    as_read = setting.fp32_precision
    with cpu.fast_float32_products():
        assert setting.fp32_precision == "bf16"
    assert setting.fp32_precision == as_read


@has_setting
@pytest.mark.usefixtures("exact")
def test_setting_is_restored_after_an_error(setting) -> None:
    setting.fp32_precision = "ieee"
    with pytest.raises(ZeroDivisionError), cpu.fast_float32_products():
        raise ZeroDivisionError
    assert setting.fp32_precision == "ieee"
    with cpu.fast_float32_products():  # and the next use works as the first
        assert setting.fp32_precision == "bf16"
    assert setting.fp32_precision == "ieee"


@has_setting
@pytest.mark.usefixtures("exact")
def test_outermost_use_restores_the_setting(setting) -> None:
    setting.fp32_precision = "ieee"
    with cpu.fast_float32_products():
        with cpu.fast_float32_products():
            pass
        assert setting.fp32_precision == "bf16"
    assert setting.fp32_precision == "ieee"


@has_setting
@pytest.mark.usefixtures("exact")
def test_last_of_two_threads_restores_the_setting(setting) -> None:
    """The thread that enters first leaves first, while the other still multiplies."""
    setting.fp32_precision = "ieee"
    second_is_in, first_is_out = threading.Event(), threading.Event()
    seen: list[str] = []

    def second() -> None:
        with cpu.fast_float32_products():
            second_is_in.set()
            assert first_is_out.wait(10)
            seen.append(setting.fp32_precision)

    thread = threading.Thread(target=second)
    with cpu.fast_float32_products():
        thread.start()
        assert second_is_in.wait(10)
    first_is_out.set()
    thread.join(10)
    assert seen == ["bf16"]
    assert setting.fp32_precision == "ieee"


@has_setting
def test_concurrent_threads_get_equal_results_and_restore_the_setting(setting) -> None:
    setting.fp32_precision = "ieee"
    inputs = [x.detach() for x in random_inputs((1, 3, 12, 16, 8, 16), torch.float32)]
    expected = criss_cross_attention(*inputs)
    results: list[Tensor] = []

    def attend() -> None:
        results.extend(criss_cross_attention(*inputs) for _ in range(20))

    threads = [threading.Thread(target=attend) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 60
    for result in results:
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)
    assert setting.fp32_precision == "ieee"


@has_setting
def test_setting_is_unchanged_if_products_would_lose_digits(setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_oneDNN_stays_exact", lambda: False)
    setting.fp32_precision = "ieee"
    with cpu.fast_float32_products():
        assert setting.fp32_precision == "ieee"


@has_setting
@pytest.mark.parametrize("loses_digits", [False, True])
def test_trial_product_detects_lost_digits(setting, loses_digits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated CPU with AMX, which multiplies float32 in bfloat16 once that is allowed, and one that never does."""
    multiply = torch.bmm

    def bmm(left: Tensor, right: Tensor) -> Tensor:
        if left.dtype == torch.float32 and setting.fp32_precision == "bf16" and loses_digits:
            left, right = left.bfloat16().float(), right.bfloat16().float()
        return multiply(left.double(), right.double()).to(left.dtype)

    monkeypatch.setattr(torch, "bmm", bmm)
    setting.fp32_precision = "ieee"
    assert cpu._oneDNN_stays_exact.__wrapped__() is not loses_digits
    assert setting.fp32_precision == "ieee"


@pytest.mark.parametrize("without", ["oneDNN", "its setting"])
def test_pytorch_without_the_setting_is_left_alone(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if without == "oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    else:
        monkeypatch.setattr(cpu, "_matmul_setting", lambda: None)
    assert not cpu._oneDNN_stays_exact.__wrapped__()
    monkeypatch.setattr(cpu, "_oneDNN_stays_exact", cpu._oneDNN_stays_exact.__wrapped__)
    with cpu.fast_float32_products():
        pass


# Below, at and above 4 MiB, from which huge pages are used.
SHAPES = [(3,), (1, 5, 7), (1 << 20,), (1 << 20, 1), (129, 127, 65), (1 << 13, 1 << 11)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_empty_returns_writable_memory(shape, dtype: torch.dtype) -> None:
    like = torch.zeros(1, dtype=torch.int64)
    tensor = cpu.empty(*shape, like=like, dtype=dtype)
    assert (tuple(tensor.shape), tensor.dtype, tensor.device) == (shape, dtype, like.device)
    assert tensor.is_contiguous()
    for number in (1.0, -2.5):
        assert (tensor.fill_(number) == number).all()


def test_empty_uses_the_device_of_like() -> None:
    tensor = cpu.empty(1 << 12, 1 << 12, like=torch.zeros(1, device="meta"), dtype=torch.float32)
    assert tensor.device.type == "meta"
