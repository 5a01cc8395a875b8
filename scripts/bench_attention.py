#!/usr/bin/env python3
"""Time 3D criss-cross attention against a channels-first implementation, side by side in one process.

The default is the paper's setting at 720x960 input: T=5, 90x120, 512 value and 64 query channels. Results are
compared before anything is timed; runs are interleaved and the medians reported, ratios first.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ccnet3d.attention import criss_cross_attention


def seed_style(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Criss-cross attention of ``[B, C, T, H, W]`` as public code writes it.

    For each axis the tensors are permuted and copied so that the axis stands last, multiplied in one batch and
    copied back; the scores of the three axes are concatenated under one softmax.
    """
    axes = (4, 3, 2)  # width, height, time
    scores, rows = [], []
    for axis in axes:
        others = [a for a in (2, 3, 4) if a != axis]
        order = [0, *others, axis, 1]
        q, k, v = (x.permute(order).contiguous() for x in (query, key, value))
        length = q.shape[3]
        energy = torch.bmm(q.flatten(0, 2), k.flatten(0, 2).transpose(1, 2))
        if axis != 4:  # the position itself counts along the width only
            energy = energy + torch.diag(torch.full((length,), float("-inf")).to(energy))
        # [B, others, axis, L] -> [B, T, H, W, L]
        back = [0, *(1 + [*others, axis].index(a) for a in (2, 3, 4)), 4]
        scores.append(energy.view(*q.shape[:4], length).permute(back).contiguous())
        rows.append((v, [0, *(a - 1 for a in [*others, axis]), 4], [0, 4, *(b for b in back[1:4])]))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1)
    output = torch.zeros_like(value)
    for part, (v, to_rows, to_output) in zip(weights.split([s.shape[-1] for s in scores], -1), rows, strict=True):
        along = part.permute(to_rows).contiguous()
        product = torch.bmm(along.flatten(0, 2), v.flatten(0, 2)).view(v.shape)
        output = output + product.permute(to_output).contiguous()
    return output


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", default="5x90x120", help="TxHxW")
    parser.add_argument("--channels", type=int, default=512, help="value channels C; queries have C // 8")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    time_, height, width = map(int, arguments.size.split("x"))
    channels = arguments.channels
    # Scores of unit variance, and each implementation's inputs in its own layout.
    query, key = (torch.randn(1, channels // 8, time_, height, width) * (channels // 8) ** -0.25 for _ in range(2))
    value = torch.randn(1, channels, time_, height, width)
    last = [x.permute(0, 2, 3, 4, 1).contiguous() for x in (query, key, value)]
    positions, cross = time_ * height * width, time_ + height + width - 2
    flops = 2 * positions * cross * (channels + channels // 8)
    square = torch.randn(2048, 2048)
    contenders: dict[str, Callable[[], Tensor]] = {
        "seed-style": lambda: seed_style(query, key, value),
        "axial": lambda: criss_cross_attention(*last, backend="axial"),
        "matrix product": lambda: square @ square,
    }
    with torch.inference_mode():
        difference = (contenders["seed-style"]() - contenders["axial"]().permute(0, 4, 1, 2, 3)).abs().max().item()
        if not difference < 1e-4:
            print(f"bench_attention.py: error: results differ by {difference:.1e}", file=sys.stderr)
            return 1
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(arguments.repeats):
            for name, contender in contenders.items():
                start = time.perf_counter()
                contender()
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    # What the machine's own matrix product would need for the operator's FLOPs.
    median["matrix product"] *= flops / (2 * 2048**3)
    print(f"T={time_}, {height}x{width}, C={channels}, fp32, {arguments.threads} threads, torch {torch.__version__}")
    print(f"largest difference of the results: {difference:.1e}")
    print(f"axial is {median['seed-style'] / median['axial']:.2f} times as fast as seed-style and takes "
          f"{median['axial'] / median['matrix product']:.2f} times its FLOPs' matrix product")  # fmt: skip
    for name, value_ in median.items():
        print(f"{name:<16}{value_ / median['axial']:8.2f} x axial")
    return 0


if __name__ == "__main__":
    sys.exit(main())
