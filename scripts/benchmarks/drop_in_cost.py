#!/usr/bin/env python3
"""Print what the module adds to each network of docs/drop_in.md: parameters, and FLOPs of one forward pass.

The examples of the page are run as they are written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

PAGE = Path(__file__).parents[2] / "docs" / "drop_in.md"


def examples() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the heading of each section with a network, and the variables after its example."""
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        for code in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            variables: dict[str, Any] = {}
            exec(code, variables)
            if "without" in variables:
                yield section.partition("\n")[0], variables


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def flops(module: nn.Module, image: Any) -> int:
    """Return the FLOPs of one image; the examples have two."""
    with FlopCounterMode(display=False) as counter:
        module.eval()(image)
    return counter.get_total_flops() // 2


def main() -> int:
    print("| example | parameters | added | GFLOPs per image | added |")
    print("|---|---|---|---|---|")
    for name, variables in examples():
        before, after = variables["without"], variables["with_attention"]
        image = variables["image"]
        size, work = parameters(before), flops(before, image)
        more, work_more = parameters(after) - size, flops(after, image) - work
        print(
            f"| {name} | {size / 1e6:.2f} M | {more / 1e6:.2f} M ({more / size:.1%}) "
            f"| {work / 1e9:.2f} | {work_more / 1e9:.3f} ({work_more / work:.1%}) |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
