#!/usr/bin/env python3
"""Compare the speed and memory of criss-cross attention with its alternatives, interleaved in one process.

The default size is the paper's for 720x960 input: T=5, 90x120, 512 value and 64 query channels. First the output and
all gradients of every backend are compared with the float64 reference, then all are timed; medians are reported. Times
are relative to the backend that "auto" chooses, on a GPU also in milliseconds; "x GEMM" to a large product of equal
FLOPs, "x copy" to a copy that moves as many bytes as query, key, value and output have, and "x limit" to the larger of
the two. "small" is the same table for the default model's attention over class evidence. --json and --plot write the
results.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from attention_baselines import flex
from attention_contexts import contexts
from attention_measure import (
    DTYPES,
    MODES,
    Contender,
    Size,
    allocations_of,
    check,
    contenders,
    copy_runner,
    fits,
    flops_of,
    gemm_runner,
    peak_memory,
    runner,
    whole_module,
)
from torch import Tensor

from ccnet3d.ablation import describe_machine, median_seconds
from ccnet3d.attention import criss_cross_attention, criss_cross_attention_backends

MIB = 2**20
# TxHxW, Dv and D of the default model, stride 8: CamVid's 11 classes at 360x480, 480x640 and 608x800, and 64 classes.
DEFAULT_MODEL = (("5x45x60", 11, 65), ("5x60x80", 11, 65), ("5x76x100", 11, 65), ("5x60x80", 64, 118))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=sorted(DTYPES), help="by default fp32 on a CPU, bf16 on a GPU")
    parser.add_argument("--size", nargs="+", help="sizes TxHxW; by default 5x90x120, on a GPU also 16x90x120")
    parser.add_argument("--channels", type=int, default=512, help="value channels C; queries have C // 8")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--only", choices=["check", "table", "small", "sweeps", "claim"], nargs="+", help="parts to run; all by default"
    )
    parser.add_argument(
        "--context",
        action="store_true",
        help="only compare whole context modules, as the paper does: by default 1x97x97 and 5x97x97",
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the memory, which a new process measures for each number"
    )
    parser.add_argument("--json", type=Path, help="write all measurements to this file")
    parser.add_argument("--plot", type=Path, help="plot the sweeps to this file (needs matplotlib)")
    return parser.parse_args()


def table(size: Size, dtype: torch.dtype, device: str, repeats: int, *, memory: bool) -> list[dict[str, Any]]:
    """Time all contenders that fit into memory, forward and forward plus backward, and print a table."""
    fitting = [c for c in contenders(device, dtype) if fits(c, size, dtype, device) and runs(c, size, dtype, device)]
    rows: dict[str, dict[str, Any]] = {c.name: {"name": c.name, "size": str(size)} for c in fitting}
    gemm, gemm_flops = gemm_runner(dtype, device)
    shapes = size.inputs(dtype, "meta")
    copy = copy_runner(2 * (shapes[0].nbytes + shapes[2].nbytes), device)  # query, key, value and output
    for mode in MODES:
        work = {c.name: runner(c, size, dtype, device, backward=mode != "forward") for c in fitting}
        seconds = median_seconds({**work, "matrix product": gemm, "copy": copy}, repeats, torch.device(device))
        rate, moving = gemm_flops / seconds.pop("matrix product"), seconds.pop("copy")
        for c in fitting:
            meta = size.inputs(dtype, "meta", channels_first=c.channels_first)
            row, elapsed = rows[c.name], seconds[c.name]
            peak = peak_memory(c.name, mode, size, dtype, device) if memory else None
            row[mode] = {"seconds": elapsed, "peak_bytes": peak}
            if mode == "forward":
                row["flops"] = flops_of(without_data(c), meta)
                row["of_gemm_time"] = elapsed / (row["flops"] / rate)
                row["of_copy_time"] = elapsed / moving
                row["of_limit"] = elapsed / max(row["flops"] / rate, moving)
    for c in contenders(device, dtype):
        if not fits(c, size, dtype, device):
            print(f"omitted, does not fit into memory: {c.name}")
    print_table(list(rows.values()), fitting[0].name, device)
    return list(rows.values())


def without_data(contender: Contender) -> Callable[..., Tensor]:
    """Return what computes as much as a contender, also on tensors without data.

    The operator's kernels and FlexAttention do not take those.
    """
    if contender.own or contender.function is flex:
        return functools.partial(criss_cross_attention, backend="tiled")
    return contender.function


def runs(contender: Contender, size: Size, dtype: torch.dtype, device: str) -> bool:
    """Return whether a contender runs there, forward and backward; an alternative may have no kernel for a size."""
    try:
        runner(contender, size, dtype, device, backward=False)()
        runner(contender, size, dtype, device, backward=True)()
    except Exception as error:
        if contender.own:
            raise
        print(f"omitted, fails: {contender.name}: {str(error).strip().splitlines()[0][:200]}")
        return False
    return True


def print_table(rows: list[dict[str, Any]], base: str, device: str) -> None:
    """Print times relative to ``base`` and peak memory in MiB; ``x GEMM`` is relative to a product of equal FLOPs.

    ``x copy`` and ``x limit`` are explained by ``--help``.
    """
    reference = next(row for row in rows if row["name"] == base)
    print(f"\n{rows[0]['size']}; times relative to {base}")
    print(f"{'':<16}{'forward':>9}{'fwd+bwd':>9}{'GFLOPs':>9}{'x GEMM':>8}{'MiB fwd':>9}{'MiB f+b':>9}", end="")
    print(f"{'x copy':>9}{'x limit':>9}", end="")
    print(f"{'fwd ms':>9}{'f+b ms':>9}" if device == "cuda" else "")
    for row in rows:
        modes = [row[mode] for mode in MODES]
        ratios = [row[mode]["seconds"] / reference[mode]["seconds"] for mode in MODES]
        memory = [f"{m['peak_bytes'] / MIB:9.0f}" if m["peak_bytes"] is not None else f"{'?':>9}" for m in modes]
        line = f"{row['name']:<16}{ratios[0]:9.2f}{ratios[1]:9.2f}{row['flops'] / 1e9:9.1f}{row['of_gemm_time']:8.2f}"
        print(line + "".join(memory), end="")
        milliseconds = "".join(f"{m['seconds'] * 1e3:9.3f}" for m in modes)
        print(f"{row['of_copy_time']:9.2f}{row['of_limit']:9.2f}{milliseconds if device == 'cuda' else ''}")


def is_map(allocated: int, size: Size, dtype: torch.dtype) -> bool:
    """Return whether an allocation, rounded up to 512 bytes, has the size of an N x L map."""
    pairs = size.positions * (size.cross + 2)  # axial counts the position itself on every axis
    return any(
        0 <= allocated - n * itemsize < 512
        for n in (pairs, size.positions * size.cross)
        for itemsize in {dtype.itemsize, 4}
    )


def sweeps(channels: int, dtype: torch.dtype, device: str, repeats: int) -> list[dict[str, Any]]:
    """Time the forward pass for several T at 45x60 and several H x W at T=5."""
    sizes = [f"{t}x45x60" for t in (1, 2, 4, 5, 8, 16)] + [f"5x{hw}" for hw in ("12x15", "23x30", "68x90", "90x120")]
    skipped = ("axial", "reference")  # the operator's slower backends
    measured: list[dict[str, Any]] = []
    print("\nforward, relative to the first at the same size")
    for text in sizes:
        size = Size.parse(text, channels)
        fitting = [c for c in contenders(device, dtype) if c.name not in skipped and fits(c, size, dtype, device)]
        work = {c.name: runner(c, size, dtype, device, backward=False) for c in fitting}
        seconds = median_seconds(work, repeats, torch.device(device))
        base = seconds[fitting[0].name]
        measured.append({"time": size.time, "height": size.height, "width": size.width, "seconds": seconds})
        print(f"{text:<10}" + ", ".join(f"{name} {s / base:.2f}" for name, s in seconds.items()))
    own = contenders(device, dtype)[0].name
    by_time = {m["time"]: m["seconds"][own] for m in measured if m["height"] == 45}
    for frames in (2, 4, 8, 16):
        expected = 2 * (frames + 103) / (frames // 2 + 103)  # N (T + H + W - 2), H + W = 105
        ratio = by_time[frames] / by_time[frames // 2]
        print(f"{own}: T={frames} costs {ratio:.2f} times T={frames // 2}, the formula says {expected:.2f}")
    return measured


def claim(dtype: torch.dtype, device: str) -> list[dict[str, Any]]:
    """Repeat the paper's comparison with a non-local block at 97x97, C=512: R=2 on an image, R=3 on a clip."""
    results = []
    print("\nwhole modules, projections included: FLOPs of the forward pass, peak memory beyond the input")
    for text, loops in (("1x97x97", 2), ("5x97x97", 3)):
        size = Size.parse(text, 512)
        names = ("module non_local", f"module criss_cross R={loops}")
        x = torch.empty(1, 512, size.time, size.height, size.width, device="meta")
        row: dict[str, Any] = {"size": str(size)}
        for name in names:
            block = whole_module(name.removeprefix("module "), size).to("meta").eval()
            row[name] = {"flops": flops_of(block, [x])}
            for mode in MODES:
                whole_maps = 3 if mode == "forward" else 5
                measurable = name != names[0] or whole_maps * size.positions**2 * 4 < 14 * 2**30
                row[name][mode] = peak_memory(name, mode, size, dtype, device) if measurable else None
        full, cross = (row[name] for name in names)
        fewer = 1 - cross["flops"] / full["flops"]
        print(f"{size}: GFLOPs {full['flops'] / 1e9:.1f} and {cross['flops'] / 1e9:.1f} (R={loops}), {fewer:.1%} fewer")
        row["one_map_bytes"] = size.positions**2 * dtype.itemsize
        for mode in MODES:
            own = (cross[mode] or 0) / MIB
            if full[mode] and own:
                print(f"  {mode}: {full[mode] / MIB:.0f} and {own:.0f} MiB, {full[mode] / MIB / own:.1f} times less")
            elif own:
                print(
                    f"  {mode}: one non-local map {row['one_map_bytes'] / MIB:.0f} MiB, all of R={loops} {own:.0f} MiB"
                )
        if size.time == 1:
            alone = contenders(device, dtype)[0].name
            for mode in MODES:
                pair = [peak_memory(name, mode, size, dtype, device) for name in ("non-local", alone)]
                row[f"attention alone, {mode}"] = pair
                if pair[0] and pair[1]:
                    print(f"  attention alone, {mode}: {pair[0] / MIB:.0f} and {pair[1] / MIB:.0f} MiB, "
                          f"{pair[0] / pair[1]:.1f} times less")  # fmt: skip
        results.append(row)
    return results


def plot(measured: list[dict[str, Any]], path: Path, title: str) -> None:
    """Plot the time over the number of positions, log-log, relative to the operator's shortest time."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    own = next(iter(measured[0]["seconds"]))
    unit = min(m["seconds"][own] for m in measured)
    over_time = [m for m in measured if m["height"] == 45]
    over_size = sorted((m for m in measured if m["time"] == 5), key=lambda m: m["height"])
    for panel, series, label in zip(
        panels, (over_time, over_size), ("frames T, at 45x60", "positions H x W, at T=5"), strict=True
    ):
        for name in dict.fromkeys(name for m in series for name in m["seconds"]):
            points = [(m["time"] if series is over_time else m["height"] * m["width"], m["seconds"][name] / unit)
                      for m in series if name in m["seconds"]]  # fmt: skip
            panel.loglog(*zip(*points, strict=True), marker="o", label=name, base=2)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("forward time, relative")
    panels[1].legend(loc="upper left")
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> int:
    arguments = parse_arguments()
    device = arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        print("bench_attention.py: error: --device cuda, but PyTorch finds no CUDA device", file=sys.stderr)
        return 2
    if arguments.plot and find_spec("matplotlib") is None:
        print("bench_attention.py: error: --plot needs matplotlib; run: pip install 'ccnet3d[plot]'", file=sys.stderr)
        return 2
    for path in (arguments.json, arguments.plot):
        if path and not path.parent.is_dir():
            print(
                f"bench_attention.py: error: there is no folder {path.parent} for {path.name}; create it first",
                file=sys.stderr,
            )
            return 2
    torch.set_num_threads(arguments.threads)
    dtype = DTYPES[arguments.dtype or ("bf16" if device == "cuda" else "fp32")]
    machine = describe_machine(torch.device(device))
    everything = ["check", "table", "small", "sweeps", "claim"]
    parts = [] if arguments.context else arguments.only or everything
    memory = not arguments.no_memory
    report: dict[str, Any] = {"machine": machine, "torch": torch.__version__, "dtype": str(dtype), "seed": 0}
    report["date"] = time.strftime("%Y-%m-%d")
    print(f"{machine}, {dtype}")
    for backend in criss_cross_attention_backends():
        print(f"  {backend.name}: {'' if backend.available else 'not available: '}{backend.detail}")
    if "check" in parts:
        report["errors"] = check(device)
        print("largest errors of output and gradients, compared with the float64 reference:")
        print("\n".join(f"  {name}: {error:.1e}" for name, error in report["errors"].items()))
    if "table" in parts:
        texts = arguments.size or (["5x90x120", "16x90x120"] if device == "cuda" else ["5x90x120"])
        sizes = [Size.parse(text, arguments.channels) for text in texts]
        report["table"] = [table(size, dtype, device, arguments.repeats, memory=memory) for size in sizes]
        if device == "cuda":
            report["allocations"] = {}
            for c in contenders(device, dtype):
                if c.name in ("triton", "axial"):  # axial keeps N x L maps, which shows that the count detects them
                    allocations = allocations_of(runner(c, sizes[0], dtype, device, backward=True))
                    report["allocations"][c.name] = allocations
                    maps = sum(is_map(bytes_, sizes[0], dtype) for bytes_ in allocations)
                    print(f"{c.name} makes {len(allocations)} allocations, of which {maps} are N x L maps")
    if "small" in parts:
        small = [Size.parse(text, values, narrow) for text, values, narrow in DEFAULT_MODEL]
        report["small"] = [table(size, dtype, device, arguments.repeats, memory=memory) for size in small]
    if "sweeps" in parts:
        report["sweeps"] = sweeps(arguments.channels, dtype, device, max(3, arguments.repeats // 2))
        if arguments.plot:
            plot(report["sweeps"], arguments.plot, f"criss-cross attention, C={arguments.channels}, {dtype}, {machine}")
    if "claim" in parts:
        report["claim"] = claim(dtype, device)
    if arguments.context:
        sizes = [Size.parse(text, arguments.channels) for text in arguments.size or ["1x97x97", "5x97x97"]]
        report["contexts"] = contexts(sizes, dtype, device, arguments.repeats)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
