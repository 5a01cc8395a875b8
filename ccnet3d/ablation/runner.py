"""Run an ablation: variants of a recipe with several seeds, trained, scored on the val split and timed side by side."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ccnet3d.ablation.timing import Cost, describe_machine, measure_cost
from ccnet3d.config import from_table, parse_json, read_toml
from ccnet3d.data import DataSource
from ccnet3d.errors import DivergedError, FileProblemsError, UserError
from ccnet3d.evaluation import evaluate, find_score
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.journal import claimed_folder, lock_folder
from ccnet3d.models import load_model
from ccnet3d.resources import recipe_file
from ccnet3d.training import CHECKPOINT_NAME, MODEL_NAME, Recipe, Trainer, read_recipe

__all__ = [
    "COST",
    "SCORES_NAME",
    "AblationConfig",
    "AblationRun",
    "RunResult",
    "Variant",
    "read_ablation",
    "run_ablation",
]

SCORES_NAME = "scores.json"
COST = "relative_cost"
"""Column of the tables next to the scores: inference time per frame relative to the first variant's."""
_TIMED_FRAMES = 24


@dataclass(frozen=True)
class Variant:
    """One of the compared variants of the recipe."""

    name: str
    """Its name in tables, and the name of its folder."""
    overrides: tuple[str, ...] = ()
    """Overrides ``section.key=value``, as in ``--set``, applied after those of the ablation."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w=+., -]*", self.name):
            raise UserError(
                "the name of a variant must begin with a letter or digit and contain only letters, digits and "
                f"'=+., -_', because it names a folder, got {self.name!r}"
            )


@dataclass(frozen=True)
class AblationConfig:
    """The contents of a TOML file in ``pipelines/ablations/``.

    >>> config = AblationConfig("camvid_lite", (Variant("R=1", ("model.overrides.loops=1",)),), windows=(8,))
    >>> config.score_names
    ('miou', 'per_frame_miou', 'video_miou', 'vc8_strict', 'vc8_reference', 'flicker')
    """

    recipe: str
    """The recipe that is varied: a TOML file relative to the folder of this one, or the name of a recipe of the
    package."""
    variants: tuple[Variant, ...]
    """The others are compared with the first."""
    overrides: tuple[str, ...] = ()
    """Overrides for all variants. ``{seed}`` stands for the seed, here and in those of a variant: a second stage can
    start from the first stage with its own seed."""
    seeds: tuple[int, ...] = (0,)
    """Each variant runs once per seed."""
    windows: tuple[int, ...] = (8, 16)
    """Window lengths n of the VC_n that are scored."""
    scores: tuple[str, ...] = ()
    """More scores of the evaluation, such as ``boundary_f``."""
    plotted: tuple[str, ...] = ("miou", "vc8_strict", "flicker", COST)
    """Scores in the plot, one panel each."""

    def __post_init__(self) -> None:
        if not self.variants or not self.seeds:
            raise UserError("an ablation needs at least one variant and one seed")
        names = [variant.name for variant in self.variants]
        for what, values in (("variants", names), ("seeds", self.seeds), ("windows", self.windows)):
            if len(set(values)) < len(values):
                raise UserError(f"{what} must differ, got {', '.join(map(str, values))}")
        if min(self.seeds) < 0 or min(self.windows, default=2) < 2:
            raise UserError(f"seeds must be at least 0 and windows at least 2, got {self.seeds} and {self.windows}")
        for name in self.scores:
            if find_score(name).name in ("tc", "tc_all"):
                raise UserError(f"scores names {name!r}, which needs optical flow; ccnet3d-evaluate --flow computes it")
        known = (*self.score_names, COST)
        if unknown := [name for name in self.plotted if name not in known]:
            raise UserError(f"plotted names {unknown[0]!r}, which is not a score here; choose from {', '.join(known)}")
        for override in itertools.chain(self.overrides, *(variant.overrides for variant in self.variants)):
            if override.partition("=")[0].strip() == "seed":
                raise UserError(f"the override {override!r} sets the seed; list it in seeds instead")

    @property
    def score_names(self) -> tuple[str, ...]:
        """Names of the scores of a run, in the order of the tables."""
        consistency = [f"vc{n}_{form}" for n in self.windows for form in ("strict", "reference")]
        names = ("miou", "per_frame_miou", "video_miou", *consistency, "flicker", *self.scores)
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True)
class AblationRun:
    """One variant with one seed."""

    variant: str
    seed: int
    recipe: Recipe

    def folder(self, out: Path) -> Path:
        """Return the run's folder in the ablation's."""
        return out / self.variant / f"seed-{self.seed}"


@dataclass(frozen=True)
class RunResult:
    """The result of one run."""

    variant: str
    seed: int
    scores: Mapping[str, float | None]
    """By name, None if there was nothing to score; empty if training diverged."""
    machine: str
    """Where it was trained and scored, and with which version of torch."""
    error: str = ""
    """Why there are no scores."""


@dataclass(frozen=True)
class _SavedScores:
    """``scores.json`` of a run."""

    recipe: Mapping[str, Any]
    windows: tuple[int, ...]
    scores: Mapping[str, float | None]
    machine: str
    error: str


def read_ablation(path: Path) -> tuple[AblationConfig, list[AblationRun]]:
    """Read an ablation and the recipes of all its runs: all variants with the first seed, then with the next.

    >>> from ccnet3d.resources import ablation_file
    >>> config, runs = read_ablation(ablation_file("loops_short"))
    >>> [(run.variant, run.seed) for run in runs][:5]
    [('R=0', 0), ('R=1', 0), ('R=2', 0), ('R=3', 0), ('R=0', 1)]

    Raises:
        UserError: the file or its recipe is missing or not TOML, a key is unknown, or a value is invalid.
    """
    try:
        config = from_table(AblationConfig, read_toml(path))
        named = config.recipe.endswith(".toml")
        recipe = path.parent / config.recipe if named else recipe_file(config.recipe)
    except UserError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    runs = []
    for seed, variant in itertools.product(config.seeds, config.variants):
        common = (*config.overrides, *variant.overrides)
        overrides = [*(override.replace("{seed}", str(seed)) for override in common), f"seed={seed}"]
        try:
            runs.append(AblationRun(variant.name, seed, read_recipe(recipe, overrides)))
        except UserError as error:
            raise UserError(f"{path}, variant {variant.name}: {error}") from error
    return config, runs


def run_ablation(
    config: AblationConfig,
    runs: Sequence[AblationRun],
    source: DataSource,
    out: Path,
    device: torch.device,
    report: Callable[[str], None] = print,
) -> tuple[list[RunResult], dict[str, Cost]]:
    """Do the runs that are not done yet, and time all variants.

    Each run has its own folder in ``out``, resumes from its checkpoint and is done once its scores are there. A
    diverged run is a result too.

    Args:
        config: the ablation.
        runs: its runs.
        source: the data.
        out: folder of the runs.
        device: where the models are trained and run.
        report: called with one line about each run.

    Returns:
        The result of each run, and the cost of each variant; no costs if no seed has trained all variants.

    Raises:
        UserError: data or recipes that do not fit, runs of other recipes in ``out``, or another process that writes to
            it; before anything is trained.
    """
    with lock_folder(out):
        return _run_all(config, runs, source, out, device, report)


def _run_all(
    config: AblationConfig,
    runs: Sequence[AblationRun],
    source: DataSource,
    out: Path,
    device: torch.device,
    report: Callable[[str], None],
) -> tuple[list[RunResult], dict[str, Cost]]:
    known = [_read_result(run, config, out) for run in runs]
    for run in {run.variant: run for run, result in zip(runs, known, strict=True) if result is None}.values():
        _check(run, source, out)
    results = []
    for count, (run, result) in enumerate(zip(runs, known, strict=True), 1):
        name = f"run {count} of {len(runs)}, {run.variant}, seed {run.seed}"
        if result is None:
            report(f"{name}: training")
            result = _train_and_score(run, config, source, out, device)
        report(f"{name}: {result.error or 'done'}")
        results.append(result)
    for seed in config.seeds:
        if all(result.scores for result in results if result.seed == seed):
            report("timing all variants side by side")
            return results, _time_variants([run for run in runs if run.seed == seed], source, out, device)
    return results, {}


def _check(run: AblationRun, source: DataSource, out: Path) -> None:
    """Prepare the run, which opens its data and builds its model, and discard it."""
    try:
        Trainer(run.recipe, source, run.folder(out), torch.device("cpu"))
    except FileProblemsError:  # of the data, which all variants share
        raise
    except UserError as error:
        raise UserError(f"variant {run.variant}: {error}") from error


def _train_and_score(
    run: AblationRun, config: AblationConfig, source: DataSource, out: Path, device: torch.device
) -> RunResult:
    folder = run.folder(out)
    trainer = Trainer(run.recipe, source, folder, device)
    scores: dict[str, float | None] = {}
    error = ""
    try:
        model_file = trainer.run(resume=(folder / CHECKPOINT_NAME).exists())
    except DivergedError as diverged:
        error = f"diverged: {diverged}"
    else:
        names = config.score_names
        assert trainer.val_set is not None  # an ablation has labeled data
        found = evaluate(_load(model_file, device), trainer.val_set, scores=names).scores
        scores = {name: None if math.isnan(found[name]) else found[name] for name in names}
    result = RunResult(run.variant, run.seed, scores, describe_machine(device), error)
    record = {**_identity(run, config), "machine": result.machine, "scores": scores, "error": error}
    with claimed_folder(folder, [SCORES_NAME]):
        write_atomically(folder / SCORES_NAME, (json.dumps(record, indent=1) + "\n").encode())
    return result


def _time_variants(runs: Sequence[AblationRun], source: DataSource, out: Path, device: torch.device) -> dict[str, Cost]:
    val_set = source.open(runs[0].recipe.val_split)
    images = [val_set.read_image(index) for index in range(min(_TIMED_FRAMES, len(val_set)))]
    segmenters = {run.variant: _load(run.folder(out) / MODEL_NAME, device) for run in runs}
    return measure_cost(segmenters, [image.permute(1, 2, 0).numpy() for image in images], device)


def _identity(run: AblationRun, config: AblationConfig) -> dict[str, Any]:
    """Return what must be equal for saved scores to be those of the run."""
    table: dict[str, Any] = json.loads(json.dumps({"recipe": asdict(run.recipe), "windows": config.windows}))
    return table


def _read_result(run: AblationRun, config: AblationConfig, out: Path) -> RunResult | None:
    """Return the saved result of a run, None if it is not done."""
    path = run.folder(out) / SCORES_NAME
    if not path.is_file():
        return None
    try:
        saved = from_table(_SavedScores, parse_json(path.read_bytes()), ignore_unknown=True)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(
            f"{path} does not contain the scores of a run ({error}); remove it to score the run again"
        ) from error
    result = RunResult(run.variant, run.seed, saved.scores, saved.machine, saved.error)
    expected = _identity(run, config)
    if saved.recipe != expected["recipe"]:
        keys = {*saved.recipe, *expected["recipe"]}
        differing = sorted(key for key in keys if saved.recipe.get(key) != expected["recipe"].get(key))
        raise UserError(
            f"{path} belongs to another recipe: {', '.join(differing)} differ; give the same recipe, or another --out"
        )
    if saved.windows != config.windows:
        raise UserError(
            f"{path} has windows {list(saved.windows)}, expected {list(config.windows)}; "
            "remove it to score the run again"
        )
    if result.scores and (missing := [name for name in config.score_names if name not in result.scores]):
        raise UserError(f"{path} lacks the score {missing[0]!r}; remove it to score the run again")
    return result


def _load(path: Path, device: torch.device) -> VideoSegmenter:
    """Load a trained model as ``ccnet3d-evaluate`` runs it."""
    model, info = load_model(path)
    return VideoSegmenter(model.to(device), info)
