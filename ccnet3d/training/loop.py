"""Train a recipe on labeled sequences and unlabeled videos, and write a model file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ccnet3d.data import DataSource, RequestedSample
from ccnet3d.distributed import Processes
from ccnet3d.errors import DivergedError, UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.inference import VideoSegmenter
from ccnet3d.losses import balanced_class_weights
from ccnet3d.models import CCNet3D, save_model
from ccnet3d.training.batches import ClipBatches, MixedSequences
from ccnet3d.training.build import build_model, describe_model
from ccnet3d.training.checkpoint import Stateful
from ccnet3d.training.network import TrainingNetwork, leaves_parameters_unused
from ccnet3d.training.objective import training_loss
from ccnet3d.training.optimizer import build_optimizer, learning_rate_factor
from ccnet3d.training.recipe import Recipe
from ccnet3d.training.run_log import RunLog
from ccnet3d.training.signals import SignalReceivedError, StopSignals, ignore_stop_signals
from ccnet3d.training.splits import open_splits
from ccnet3d.training.training_run import MODEL_NAME, TrainingRun

__all__ = ["PRECISIONS", "Trainer"]

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Trainer(TrainingRun):
    """One training run.

    >>> from ccnet3d.resources import dataset_file, recipe_file
    >>> from ccnet3d.training import read_recipe
    >>> recipe = read_recipe(recipe_file("camvid_lite"), ["epochs=1"])
    >>> source = DataSource(Path("data/camvid"), dataset_file("camvid"))
    >>> Trainer(recipe, source, Path("runs/short"), torch.device("cpu")).run()  # doctest: +SKIP
    PosixPath('runs/short/model.safetensors')

    Args:
        recipe: what to train and how.
        source: the labeled data; None if all clips come from the recipe's unlabeled videos, which then is a run without
            validation.
        out: folder of the run: checkpoint, model file, TensorBoard events, pseudo labels.
        device: where the model trains.
        processes: the processes that train together; a single one by default.

    Attributes:
        recipe: as given, with the sizes that fit the data if it asks for that.
        warnings: lines about what may be wrong with the data, such as a class without a training pixel.
        transfer: what was copied from the recipe's ``initial_weights``; None without them.

    Raises:
        UserError: data or weights that do not exist or do not fit the recipe.
    """

    recipe: Recipe
    memory_advice = "use smaller crops, or compute.accumulate_steps"

    def __init__(
        self,
        recipe: Recipe,
        source: DataSource | None,
        out: Path,
        device: torch.device,
        *,
        processes: Processes | None = None,
    ) -> None:
        self.out = out
        self.device = device
        self.processes = processes or Processes()
        self.precision = PRECISIONS[recipe.precision]
        if recipe.compute.sync_batch_norm and self.processes.world_size > 1 and device.type == "cpu":
            raise UserError("PyTorch has no synchronized batch norm for CPUs; set compute.sync_batch_norm=false")
        splits = open_splits(recipe, source, out, device, self.processes)
        self.train_set, self.val_set, self.pseudo_set, pixel_counts, data = splits
        self.recipe = recipe = replace(recipe, data=data)
        self.data_fingerprints = splits.fingerprints()
        self.warnings = splits.warnings()
        self.steps_per_epoch = math.ceil(len(self.train_set) / recipe.data.frames_per_batch)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.frames_per_step = recipe.data.frames_per_batch
        self.accumulate_steps = recipe.compute.accumulate_steps
        self._batches(0)  # fails early if a batch cannot be split evenly
        torch.manual_seed(recipe.seed)
        spec = self.train_set.spec
        self.model, self.transfer = build_model(recipe.model, spec.class_names)
        describe_model(self.model.config, recipe, spec)  # fails early if a model file cannot have these values
        self.model.to(device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True)
        self.ema.module.eval()
        training = TrainingNetwork(self.model, recipe.compute, recipe.model.trained, recipe.model.frozen)
        self.model = training.model
        self.network = self.processes.wrap(training, some_unused=leaves_parameters_unused(self.model, recipe.losses))
        new_parts = self.transfer.new_parts if self.transfer is not None else ()
        self.optimizer = build_optimizer(self.model, recipe.optimizer, new_parts)
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.class_weights: Tensor | None = None
        if recipe.class_balance_offset:
            counts = pixel_counts[: len(spec.classes)]
            self.class_weights = balanced_class_weights(counts, recipe.class_balance_offset).to(device)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at a step, from 0, of all parameters outside the backbone."""
        return self.recipe.optimizer.learning_rate * learning_rate_factor(step, self.total_steps, self.recipe.optimizer)

    def train_step(self, step: int, samples: Sequence[RequestedSample]) -> dict[str, float]:
        """Do one step. Its result depends only on its index, its clips and the state of the run.

        Args:
            step: index of the step, from 0.
            samples: parts of the batch of this process, computed one after the other. Each is collated clips: ``clip``
                uint8 ``[B, T, 3, H, W]``, ``labels`` int64 ``[B, T, H, W]``, ``anchor`` int64 ``[B]``.

        Returns:
            The losses of the whole batch, of all processes, by name.
        """
        processes, optimizer = self.processes, self.recipe.optimizer
        entropy = np.random.SeedSequence((self.recipe.seed, 2, step, processes.rank))
        torch.manual_seed(int(entropy.generate_state(1)[0]))
        factor = learning_rate_factor(step, self.total_steps, optimizer)
        for group, rate in zip(self.optimizer.param_groups, self.learning_rates, strict=True):
            group["lr"] = rate * factor
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for index, (sample, share) in enumerate(zip(samples, self._shares(samples), strict=True)):
            with processes.gradient_sync(self.network, enabled=index == len(samples) - 1):
                total, logged = self._losses(sample, len(samples))
                if not torch.isfinite(total):
                    raise DivergedError(f"the loss became {total.item()}; lower the learning rate or clip gradients")
                # Gradients are averaged over processes, and added over the parts of a process.
                self.scaler.scale(total * (share * processes.world_size)).backward()
            for name, value in {"total": total, **logged}.items():
                sums[name] = sums.get(name, 0) + share * value.detach()
        if optimizer.clip_gradient_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), optimizer.clip_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model, step=step + 1)
        values = processes.sum(torch.stack(list(sums.values())).double().cpu())
        return {f"loss/{name}": value for name, value in zip(sums, values.tolist(), strict=True)}

    def state(self) -> dict[str, Stateful]:
        """Return the parts of the run that a checkpoint contains."""
        return {"model": self.model, "ema": self.ema, "optimizer": self.optimizer, "scaler": self.scaler}

    def _batches(self, start: int) -> ClipBatches:
        data = self.recipe.data
        pseudo = (0, 0.0)
        if self.pseudo_set is not None and data.unlabelled is not None:
            pseudo = (len(self.pseudo_set), data.unlabelled.share)
        return ClipBatches(
            len(self.train_set),
            data.frames_per_batch,
            data.clip_lengths,
            self.recipe.seed,
            start,
            self.total_steps,
            data.clip_strides,
            accumulate=self.recipe.compute.accumulate_steps,
            process=self.processes.rank,
            processes=self.processes.world_size,
            pseudo_frames=pseudo[0],
            pseudo_share=pseudo[1],
        )

    def batches_from(self, start: int) -> DataLoader[RequestedSample]:
        return DataLoader(
            self.train_set if self.pseudo_set is None else MixedSequences(self.train_set, self.pseudo_set),
            batch_sampler=self._batches(start),
            num_workers=self.recipe.data.workers,
            generator=torch.Generator(),  # its own, so that the loader draws nothing from the run's random state
            worker_init_fn=ignore_stop_signals,
            pin_memory=self.device.type == "cuda",
        )

    def _shares(self, samples: Sequence[RequestedSample]) -> list[float]:
        """Return the share of each part of a step in the loss of all parts of all processes.

        The cross-entropy is a mean over labeled pixels, weighted by class. Weighted by these shares, the means of the
        parts add up to the mean of the whole.
        """
        if len(samples) * self.processes.world_size == 1:
            return [1.0]
        classes_count = len(self.train_set.spec.classes)
        counts = [torch.bincount(sample["labels"].flatten(), minlength=classes_count) for sample in samples]
        pixels = torch.stack([count[:classes_count] for count in counts]).double()  # [parts, K]
        weights = pixels.sum(1) if self.class_weights is None else pixels @ self.class_weights.double().cpu()
        whole = self.processes.sum(weights.sum())
        return (weights / whole.clamp_min(1e-9)).tolist()

    def _losses(self, sample: RequestedSample, parts: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one of ``parts`` parts of a step, and the scalars to log."""
        frames = sample["clip"].to(self.device, non_blocking=True).float().div(255)
        labels = sample["labels"].to(self.device, non_blocking=True)
        anchors = torch.as_tensor(sample["anchor"]).to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = self.network(frames, anchors)
        all_parts = parts * self.processes.world_size
        return training_loss(outputs, labels, self.recipe.losses, self.class_weights, all_parts)

    def evaluate_and_save(self, step: int, log: RunLog, stop: StopSignals) -> bool:
        """Score the averaged weights and write them; return False if a signal interrupted it."""
        model = self.ema.module
        assert isinstance(model, CCNet3D)
        info = describe_model(model.config, self.recipe, self.train_set.spec)
        epoch = f"epoch {step // self.steps_per_epoch} of {self.recipe.epochs}"
        scores: dict[str, float | None] = {}
        if self.val_set is None:  # a score on the teachers' labels would say how little was learned, not how well
            tqdm.write(f"{epoch}: saved without validation, which needs labeled data")
        else:
            segmenter = VideoSegmenter(model, info, dtype=self.precision)
            try:
                miou = evaluate(segmenter, self.val_set, progress=stop.watch).miou
            except SignalReceivedError:
                return False
            gamma = {} if model.head.gamma is None else {"val/gamma": model.head.gamma.item()}
            log.add_scalars({"val/miou": miou, **gamma}, step)
            log.add_strip(segmenter, self.val_set, step)
            tqdm.write(f"{epoch}: {self.recipe.val_split} mIoU {100 * miou:.2f}")
            scores[f"{self.recipe.val_split}_miou"] = None if math.isnan(miou) else miou
        save_model(self.out / MODEL_NAME, model, replace(info, scores=scores))
        return True
