"""Ablations: variants of a recipe, trained with several seeds and compared."""

from __future__ import annotations

from ccnet3d.ablation.runner import AblationConfig, AblationRun, RunResult, Variant, read_ablation, run_ablation
from ccnet3d.ablation.tables import check_ablation_folder, summarize_variants, write_ablation_report
from ccnet3d.ablation.timing import Cost, describe_machine, median_seconds, time_in_rounds

__all__ = [
    "AblationConfig",
    "AblationRun",
    "Cost",
    "RunResult",
    "Variant",
    "check_ablation_folder",
    "describe_machine",
    "median_seconds",
    "read_ablation",
    "run_ablation",
    "summarize_variants",
    "time_in_rounds",
    "write_ablation_report",
]
