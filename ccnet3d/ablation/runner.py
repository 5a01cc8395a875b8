"""One recipe in several variants, each over several seeds: trained, scored on the val split and timed side by side."""

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
from ccnet3d.config import from_table, read_toml
from ccnet3d.data import LabelledSequences
from ccnet3d.errors import FileProblemsError, UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.files import write_atomically
from ccnet3d.inference import VideoSegmenter
from ccnet3d.models import load_model
from ccnet3d.training import CHECKPOINT_NAME, MODEL_NAME, Recipe, Trainer, read_recipe

SCORES_NAME = "scores.json"
COST = "relative_cost"
"""What a variant has beside its scores: seconds a frame of inference over those of the first variant."""
_TIMED_FRAMES = 24


@dataclass(frozen=True)
class Variant:
    """What is compared with the others."""

    name: str
    """In tables, and of the folder of its runs."""
    overrides: tuple[str, ...] = ()
    """``section.key=value`` each, as in ``--set``, on top of those of all variants."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w=+., -]*", self.name):
            raise UserError(
                f"the name of a variant must begin with a letter or digit and hold nothing but those and '=+., -_', "
                f"because a folder is named so, got {self.name!r}"
            )


@dataclass(frozen=True)
class AblationConfig:
    """What a TOML file in ``pipelines/ablations/`` says."""

    pipeline: str
    """The recipe that varies, a path seen from the file's folder."""
    variants: tuple[Variant, ...]
    """The first is the one that the others are compared with."""
    overrides: tuple[str, ...] = ()
    """Of all variants."""
    seeds: tuple[int, ...] = (0,)
    """Each variant runs once with each."""
    windows: tuple[int, ...] = (8, 16)
    """Frames n of the VC_n that are scored."""
    plotted: tuple[str, ...] = ("miou", "vc8_strict", "flicker", COST)
    """Scores that the plot shows, one panel each."""

    def __post_init__(self) -> None:
        if not self.variants or not self.seeds:
            raise UserError("an ablation needs at least one variant and one seed")
        names = [variant.name for variant in self.variants]
        for what, values in (("variants", names), ("seeds", self.seeds), ("windows", self.windows)):
            if len(set(values)) < len(values):
                raise UserError(f"{what} must differ, got {', '.join(map(str, values))}")
        if min(self.seeds) < 0 or min(self.windows, default=2) < 2:
            raise UserError(f"seeds must be at least 0 and windows at least 2, got {self.seeds} and {self.windows}")
        known = (*self.metrics, COST)
        if unknown := [name for name in self.plotted if name not in known]:
            raise UserError(f"plotted names {unknown[0]!r}, which is no score; there are {', '.join(known)}")
        for override in itertools.chain(self.overrides, *(variant.overrides for variant in self.variants)):
            if override.partition("=")[0].strip() == "seed":
                raise UserError(f"the override {override!r} sets the seed; name it in seeds")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores of a run, in the order of the tables."""
        consistency = [f"vc{n}_{form}" for n in self.windows for form in ("strict", "reference")]
        return ("miou", "per_frame_miou", "video_miou", *consistency, "flicker")


@dataclass(frozen=True)
class AblationRun:
    """One variant with one seed."""

    variant: str
    seed: int
    recipe: Recipe

    def folder(self, out: Path) -> Path:
        return out / self.variant / f"seed-{self.seed}"


@dataclass(frozen=True)
class RunResult:
    """What a run gave."""

    variant: str
    seed: int
    scores: Mapping[str, float | None]
    """By name, None where nothing was to be scored; empty where training diverged."""
    machine: str
    """Where it was trained and scored, and with which torch."""
    error: str = ""
    """Why there are no scores."""


def read_ablation(path: Path) -> tuple[AblationConfig, list[AblationRun]]:
    """Read an ablation and build the recipes of all its runs: all variants with the first seed, and so on.

    Raises:
        ValueError: the file or its pipeline is missing or not TOML, a key is unknown, a value does not fit.
    """
    try:
        config = from_table(AblationConfig, read_toml(path))
    except ValueError as error:
        raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    runs = []
    for seed, variant in itertools.product(config.seeds, config.variants):
        overrides = [*config.overrides, *variant.overrides, f"seed={seed}"]
        try:
            recipe = read_recipe(path.parent / config.pipeline, overrides)
        except ValueError as error:
            raise UserError(f"{path}, variant {variant.name}: {error}") from error
        runs.append(AblationRun(variant.name, seed, recipe))
    return config, runs


def run_ablation(
    config: AblationConfig,
    runs: Sequence[AblationRun],
    data: Path,
    spec_file: Path,
    out: Path,
    device: torch.device,
    detail: Path | None = None,
    report: Callable[[str], None] = print,
) -> tuple[list[RunResult], dict[str, Cost]]:
    """Do what is not done yet of the runs, and time all variants.

    Each run has a folder of its own in ``out``, goes on from its checkpoint and is done when it has its scores there.
    A run that diverges is a result too.

    Args:
        config: the ablation.
        runs: its runs.
        data: the data folder.
        spec_file: the dataset's ``dataset.toml``, where the data folder has none.
        out: folder of the runs.
        device: where the models train and infer.
        detail: see :class:`ccnet3d.training.loop.Trainer`.
        report: gets one line about each run.

    Returns:
        What each run gave, and the cost of each variant; no costs where no seed trained all variants.

    Raises:
        ValueError: data or recipes that do not fit, or runs of other recipes in ``out``; before anything is trained.
    """
    known = [_read_result(run, out, config.windows) for run in runs]
    for run in {run.variant: run for run, result in zip(runs, known, strict=True) if result is None}.values():
        _check(run, out, data, spec_file, detail)
    results = []
    for number, (run, result) in enumerate(zip(runs, known, strict=True), 1):
        name = f"run {number} of {len(runs)}, {run.variant}, seed {run.seed}"
        if result is None:
            report(f"{name}: training")
            result = _do(run, out, config.windows, data, spec_file, device, detail)
        report(f"{name}: {result.error or 'done'}")
        results.append(result)
    for seed in config.seeds:
        of_seed = [run for run in runs if run.seed == seed]
        if all(result.scores for result in results if result.seed == seed):
            report("timing all variants side by side")
            val_set = LabelledSequences.open(data, of_seed[0].recipe.val_split, spec_file=spec_file)
            images = [val_set.read_image(index) for index in range(min(_TIMED_FRAMES, len(val_set)))]
            segmenters = {run.variant: _load(run.folder(out) / MODEL_NAME, device) for run in of_seed}
            return results, measure_cost(segmenters, [image.permute(1, 2, 0).numpy() for image in images])
    return results, {}


def _check(run: AblationRun, out: Path, data: Path, spec_file: Path, detail: Path | None) -> None:
    """Prepare the run, which opens its data and builds its model, and drop it."""
    try:
        Trainer(run.recipe, data, spec_file, run.folder(out), torch.device("cpu"), detail)
    except FileProblemsError:  # of the data, whatever the variant
        raise
    except (ValueError, RuntimeError) as error:
        raise UserError(f"variant {run.variant}: {error}") from error


def _do(
    run: AblationRun,
    out: Path,
    windows: Sequence[int],
    data: Path,
    spec_file: Path,
    device: torch.device,
    detail: Path | None,
) -> RunResult:
    folder = run.folder(out)
    trainer = Trainer(run.recipe, data, spec_file, folder, device, detail)
    scores: dict[str, float | None] = {}
    error = ""
    try:
        model_file = trainer.run(resume=(folder / CHECKPOINT_NAME).exists())
    except FloatingPointError as diverged:
        error = f"diverged: {diverged}"
    else:
        names = [*(f"vc{n}_{form}" for n in windows for form in ("strict", "reference")), "flicker"]
        result = evaluate(_load(model_file, device), trainer.val_set, scores=names).scores
        values = {name: result[name] for name in ("miou", "per_frame_miou", "video_miou", *names)}
        scores = {name: None if math.isnan(value) else value for name, value in values.items()}
    machine = describe_machine(device)
    table = {**_identity(run, windows), "machine": machine, "scores": scores, "error": error}
    write_atomically(folder / SCORES_NAME, (json.dumps(table, indent=1) + "\n").encode())
    return RunResult(run.variant, run.seed, scores, machine, error)


def _identity(run: AblationRun, windows: Sequence[int]) -> dict[str, Any]:
    """What must be the same for a run's scores to count."""
    table: dict[str, Any] = json.loads(json.dumps({"recipe": asdict(run.recipe), "windows": windows}))
    return table


def _read_result(run: AblationRun, out: Path, windows: Sequence[int]) -> RunResult | None:
    """The scores of a run that is done, None where there are none."""
    path = run.folder(out) / SCORES_NAME
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text())
        saved = {key: table[key] for key in ("recipe", "windows")}
        result = RunResult(run.variant, run.seed, table["scores"], table["machine"], table["error"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not hold the scores of a run ({error}); remove it to score again") from error
    wanted = _identity(run, windows)
    if saved["recipe"] != wanted["recipe"]:
        differing = sorted(key for key in wanted["recipe"] if saved["recipe"].get(key) != wanted["recipe"][key])
        raise UserError(
            f"{path} belongs to another recipe: {', '.join(differing)} differ; give the same recipe, or another --out"
        )
    if saved["windows"] != wanted["windows"]:
        raise UserError(f"{path} has windows {saved['windows']}, wanted are {list(windows)}; remove it to score again")
    return result


def _load(path: Path, device: torch.device) -> VideoSegmenter:
    """A trained model as ``scripts/evaluate.py`` runs it."""
    model, info = load_model(path)
    return VideoSegmenter(model.to(device), info)
