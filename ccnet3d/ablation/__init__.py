"""Variants of a recipe, trained over several seeds and compared."""

from __future__ import annotations

from ccnet3d.ablation.runner import (
    read_ablation,
    run_ablation,
)
from ccnet3d.ablation.tables import (
    summarise,
    write_ablation_report,
)
from ccnet3d.ablation.timing import (
    describe_machine,
)

__all__ = [
    "describe_machine",
    "read_ablation",
    "run_ablation",
    "summarise",
    "write_ablation_report",
]
