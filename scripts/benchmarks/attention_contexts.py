"""What a context module adds to a network: the table of bench_attention.py --context."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from attention_measure import MODES, Size, flops_of, memory_work, peak_memory, whole_module

from ccnet3d.ablation import median_seconds

__all__ = ["contexts"]

MIB = 2**20
MOST_BYTES = 14 * 2**30
"""What the full maps of a non-local attention may take before it is not measured."""


@dataclass(frozen=True)
class Published:
    """What CCNet (TPAMI 2020, arXiv 1811.11721, section 4) reports; None where it does not."""

    gflops: float | None
    """Added to a ResNet-50 with 97x97 features."""
    megabytes: float | None
    miou: float
    """Cityscapes val, ResNet-101."""


PUBLISHED = {
    "none": Published(0, 0, 75.1),
    "gcn": Published(None, None, 78.1),
    "ppm": Published(None, None, 78.5),
    "aspp": Published(None, None, 78.9),
    "non_local": Published(108, 1411, 79.1),
    "criss_cross R=2": Published(16.5, 127, 79.8),
}


def contexts(sizes: list[Size], dtype: torch.dtype, device: str, repeats: int) -> list[dict[str, Any]]:
    """Measure every context module by itself on ``[1, C, T, H, W]``, which is what it adds to the network."""
    rows: list[dict[str, Any]] = []
    for size in sizes:
        own = "criss_cross R=2" if size.time == 1 else "criss_cross R=3"
        names = [own, "non_local", "axial", "local_window", "ppm", "aspp", "gcn"]
        of_size = [{"size": str(size), "name": name, **costs(name, size, dtype, device)} for name in names]
        for mode in MODES:
            fitting = [name for name in names if measurable(name, mode, size)]
            work = {name: memory_work(f"module {name}", mode, size, dtype, device) for name in fitting}
            seconds = median_seconds(work, repeats, torch.device(device))
            for row in of_size:
                row[mode]["seconds"] = seconds.get(row["name"])
        print_contexts(of_size, size, own)
        rows += of_size
    return rows


def costs(name: str, size: Size, dtype: torch.dtype, device: str) -> dict[str, Any]:
    module = whole_module(name, size).to("meta").eval()
    x = torch.empty(1, size.channels, size.time, size.height, size.width, device="meta")
    row: dict[str, Any] = {"parameters": sum(p.numel() for p in module.parameters()), "flops": flops_of(module, [x])}
    for mode in MODES:
        fits = measurable(name, mode, size)
        row[mode] = {"peak_bytes": peak_memory(f"module {name}", mode, size, dtype, device) if fits else None}
    if published := in_paper(name, size):
        row["published"] = asdict(published)
    return row


def measurable(name: str, mode: str, size: Size) -> bool:
    """Return whether a module's N x N maps are small enough to be measured."""
    return name != "non_local" or (3 if mode == "forward" else 5) * size.positions**2 * 4 < MOST_BYTES


def in_paper(name: str, size: Size) -> Published | None:
    setting = (size.time, size.height, size.width, size.channels)
    return PUBLISHED.get(name) if setting == (1, 97, 97, 512) else None


def print_contexts(rows: list[dict[str, Any]], size: Size, own: str) -> None:
    """Print costs beside those of the paper; times are relative to ``own``."""
    print(f"\n{size}: what each context module adds; times relative to {own}; in parentheses the paper's figures")
    print(f"{'':<17}{'parameters':>12}{'GFLOPs':>17}{'MiB forward':>14}{'MiB fwd+bwd (MB)':>18}"
          f"{'forward':>9}{'fwd+bwd':>9}{'mIoU':>8}")  # fmt: skip
    base = next(row for row in rows if row["name"] == own)
    zero = {"parameters": 0, "flops": 0, **{mode: {"peak_bytes": 0, "seconds": 0} for mode in MODES}}
    for row in [{"name": "none", **zero}, *rows]:
        published = in_paper(row["name"], size) or Published(None, None, float("nan"))
        memory = [None if row[m]["peak_bytes"] is None else row[m]["peak_bytes"] / MIB for m in MODES]
        times = [None if row[m]["seconds"] is None else row[m]["seconds"] / base[m]["seconds"] for m in MODES]
        print(
            f"{row['name']:<17}{row['parameters']:>12,}"
            f"{row['flops'] / 1e9:8.1f}{_cell(published.gflops, '({:.1f})'):>9}"
            f"{_cell(memory[0], '{:.0f}'):>14}{_cell(memory[1], '{:.0f}'):>9}"
            f"{_cell(published.megabytes, '({:.0f})'):>9}"
            f"{_cell(times[0], '{:.2f}'):>9}{_cell(times[1], '{:.2f}'):>9}"
            f"{_cell(published.miou, '({:.1f})'):>8}"
        )


def _cell(value: float | None, form: str) -> str:
    return "" if value is None or value != value else form.format(value)
