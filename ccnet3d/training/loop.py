"""A recipe and labelled sequences to a trained model file."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ccnet3d.data import RequestedSample
from ccnet3d.distributed import Processes
from ccnet3d.errors import DivergedError, RunStoppedError, UserError
from ccnet3d.evaluation import evaluate
from ccnet3d.inference import VideoSegmenter
from ccnet3d.losses import balanced_class_weights
from ccnet3d.models import CCNet3D, ModelInfo, feature_channels, save_model
from ccnet3d.training.batches import ClipBatches
from ccnet3d.training.build import build_model
from ccnet3d.training.checkpoint import Progress, Stateful, load_checkpoint, save_checkpoint
from ccnet3d.training.network import TrainingNetwork
from ccnet3d.training.objective import training_loss
from ccnet3d.training.optimizer import build_optimizer, learning_rate_factor
from ccnet3d.training.recipe import Recipe
from ccnet3d.training.run_log import RunLog
from ccnet3d.training.signals import SignalReceivedError, StopSignals, ignore_stop_signals
from ccnet3d.training.splits import open_splits
from ccnet3d.training.throughput import Throughput

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

CHECKPOINT_NAME = "checkpoint.pt"
MODEL_NAME = "model.safetensors"


class Trainer:
    """One training run.

    Args:
        recipe: what to do.
        data: the data folder.
        spec_file: the dataset's ``dataset.toml``, where the data folder has none.
        out: folder of the run: checkpoint, model file, TensorBoard events.
        device: where the model trains.
        detail: a data folder with training frames at a higher resolution, for ``recipe.data.detail_share``.
        pack: folder in which decoded training frames are kept, for loading that is several times as fast.
        processes: those that train together; by default this one is alone.

    Raises:
        ValueError: data, recipe or backbone weights that do not fit.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        spec_file: Path,
        out: Path,
        device: torch.device,
        detail: Path | None = None,
        *,
        pack: Path | None = None,
        processes: Processes | None = None,
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.device = device
        self.processes = processes or Processes()
        self.precision = PRECISIONS[recipe.precision]
        if recipe.compute.sync_batch_norm and self.processes.world_size > 1 and device.type == "cpu":
            raise UserError("PyTorch has no batch norm that is synchronised on CPUs; set compute.sync_batch_norm=false")
        self.train_set, self.val_set, pixel_counts = open_splits(recipe, data, spec_file, detail, pack, self.processes)
        self.steps_per_epoch = math.ceil(len(self.train_set) / recipe.data.frames_per_batch)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self._batches(0)  # a batch that cannot be shared out is said before anything is built
        torch.manual_seed(recipe.seed)
        spec = self.train_set.spec
        self.model = build_model(recipe.model, len(spec.classes))
        self.model.to(device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True)
        self.ema.module.eval()
        training = TrainingNetwork(self.model, recipe.compute)
        self.model = training.model
        config = self.model.config
        used = {*config.context_levels, *config.skip_levels, config.auxiliary_level}
        whole = bool(recipe.loss.auxiliary_weight) and max(used) == len(feature_channels(self.model.backbone)) - 1
        self.network = self.processes.wrap(training, some_unused=not whole)
        self.optimizer = build_optimizer(self.model, recipe.optimizer)
        self.learning_rates = [group["lr"] for group in self.optimizer.param_groups]
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        self.class_weights: Tensor | None = None
        if recipe.loss.class_balance_offset:
            counts = pixel_counts[: len(spec.classes)]
            self.class_weights = balanced_class_weights(counts, recipe.loss.class_balance_offset).to(device)
        # Each part of a step looks for its share of the hard pixels.
        parts = self.processes.world_size * recipe.compute.accumulate_steps
        self.loss_recipe = replace(recipe.loss, hard_pixels=math.ceil(recipe.loss.hard_pixels / parts))

    def _batches(self, start: int) -> ClipBatches:
        data = self.recipe.data
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
        )

    def run(self, *, resume: bool = False) -> Path:
        """Train to the end and write the averaged weights.

        SIGINT and SIGTERM end the run after the step that it is at, or within an evaluation, with a checkpoint.

        Args:
            resume: go on from the checkpoint in the run's folder.

        Returns:
            The model file.

        Raises:
            ValueError: nothing fit to resume from, or an earlier run in the folder.
            DivergedError: the loss is no longer finite.
            RunStoppedError: a signal ended the run.
        """
        parts: dict[str, Stateful] = {
            "model": self.model,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }
        checkpoint = self.out / CHECKPOINT_NAME
        if checkpoint.exists() and not resume:
            raise UserError(f"{self.out} holds an earlier run; give --resume to go on with it, or another --out")
        done, evaluated = load_checkpoint(checkpoint, self.recipe, parts) if resume else Progress()
        recipe, first = self.recipe, self.processes.is_main_process
        loader = DataLoader(
            self.train_set,
            batch_sampler=self._batches(done),
            num_workers=recipe.data.workers,
            generator=torch.Generator(),  # of its own, so that the loader draws nothing from the run's random state
            worker_init_fn=ignore_stop_signals,
            pin_memory=self.device.type == "cuda",
        )
        progress = tqdm(
            initial=done, total=self.total_steps, desc="training", unit="step", disable=None if first else True
        )
        speed = Throughput(self.device)
        with ExitStack() as stack:
            stop = stack.enter_context(StopSignals(patient=self.processes.world_size > 1))
            log = stack.enter_context(closing(RunLog(self.out, done + 1))) if first else None
            stack.enter_context(progress)
            batches = iter(loader)
            while True:
                # Here all processes have done the same steps: what has to be agreed on is agreed on here.
                epoch, rest = divmod(done, self.steps_per_epoch)
                last = done == self.total_steps
                if log and not evaluated:
                    evaluated = self._evaluate_and_save(log, epoch, done, stop)
                if self.processes.any(stop.received is not None and not (last and evaluated)):
                    if first:
                        save_checkpoint(checkpoint, recipe, Progress(done, evaluated), parts)
                    raise RunStoppedError(
                        stop.received or signal.SIGTERM,
                        f"{done} of {self.total_steps} steps are done and in {checkpoint}",
                    )
                if log and rest == 0 and done and (last or epoch % recipe.checkpoint_every == 0):
                    save_checkpoint(checkpoint, recipe, Progress(done), parts)
                if last:
                    break
                began = time.perf_counter()
                samples = [next(batches) for _ in range(recipe.compute.accumulate_steps)]
                arrived = time.perf_counter()
                losses = self.train_step(done, samples)
                figures = speed.add(recipe.data.frames_per_batch, arrived - began, time.perf_counter() - arrived)
                done += 1
                due = done == self.total_steps or done % (recipe.evaluate_every * self.steps_per_epoch) == 0
                evaluated = not (first and due)
                progress.update()
                progress.set_postfix(loss=f"{losses['loss/total']:.3f}")
                if log:
                    log.add_scalars({**losses, **figures, "learning_rate": self.learning_rate(done - 1)}, done)
        if first and speed.frames:
            tqdm.write(f"trained on {speed.summary()}")
        return self.out / MODEL_NAME

    def learning_rate(self, step: int) -> float:
        """That of the step number ``step``, from 0, for what is not in the backbone."""
        return self.recipe.optimizer.learning_rate * learning_rate_factor(step, self.total_steps, self.recipe.optimizer)

    def train_step(self, step: int, samples: Sequence[RequestedSample]) -> dict[str, float]:
        """Do one step; its result depends on nothing but its number, its clips and the state of the run.

        Args:
            step: its number, from 0.
            samples: collated clips of this process: ``clip`` uint8 ``[B, T, 3, H, W]``, ``labels`` int64
                ``[B, T, H, W]``, ``anchor`` int64 ``[B]``. Several are computed one after the other.

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
        for number, (sample, share) in enumerate(zip(samples, self._shares(samples), strict=True), 1):
            with processes.gradient_sync(self.network, enabled=number == len(samples)):
                total, parts = self._losses(sample)
                if not torch.isfinite(total):
                    raise DivergedError(f"the loss became {total.item()}; lower the learning rate or clip gradients")
                # Gradients are averaged over processes, those of the parts in a process are added.
                self.scaler.scale(total * (share * processes.world_size)).backward()
            for name, part in {"total": total, **parts}.items():
                sums[name] = sums.get(name, 0) + share * part.detach()
        if optimizer.clip_gradient_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), optimizer.clip_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.model, step=step + 1)
        values = processes.sum(torch.stack(list(sums.values())).double().cpu())
        return {f"loss/{name}": value for name, value in zip(sums, values.tolist(), strict=True)}

    def _shares(self, samples: Sequence[RequestedSample]) -> list[float]:
        """Share of each part of a step in the loss of all parts in all processes.

        The cross-entropy is a mean over labelled pixels, by their classes' weights: so weighted, means of parts add
        up to the mean of the whole.
        """
        if len(samples) * self.processes.world_size == 1:
            return [1.0]
        classes_count = len(self.train_set.spec.classes)
        counts = [torch.bincount(sample["labels"].flatten(), minlength=classes_count) for sample in samples]
        pixels = torch.stack([count[:classes_count] for count in counts]).double()  # [parts, K]
        weights = pixels.sum(1) if self.class_weights is None else pixels @ self.class_weights.double().cpu()
        whole = self.processes.sum(weights.sum())
        return (weights / whole.clamp_min(1e-9)).tolist()

    def _losses(self, sample: RequestedSample) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one part of a step, and what it is made of."""
        frames = sample["clip"].to(self.device, non_blocking=True).float().div(255)
        labels = sample["labels"].to(self.device, non_blocking=True)
        anchors = torch.as_tensor(sample["anchor"]).to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = self.network(frames, anchors)
        return training_loss(outputs, labels, self.loss_recipe, self.class_weights)

    def _evaluate_and_save(self, log: RunLog, epoch: int, step: int, stop: StopSignals) -> bool:
        """Score the averaged weights on the val split and write them; False where a signal came in between."""
        model = self.ema.module
        assert isinstance(model, CCNet3D)
        spec = self.train_set.spec
        info = ModelInfo(
            model=model.config,
            class_names=spec.class_names,
            palette=spec.palette,
            clip_length=self.recipe.inference_clip_length,
            input_size=self.recipe.data.input_size,
            dataset=f"{spec.name}, split {self.recipe.train_split}",
            recipe=asdict(self.recipe),
        )
        segmenter = VideoSegmenter(model, info, dtype=self.precision)
        try:
            miou = evaluate(segmenter, self.val_set, progress=stop.watch).miou
        except SignalReceivedError:
            return False
        attention = model.head.attention
        gamma = {} if attention is None else {"val/gamma": attention.gamma.item()}
        log.add_scalars({"val/miou": miou, **gamma}, step)
        log.add_strip(segmenter, self.val_set, step)
        tqdm.write(f"epoch {epoch} of {self.recipe.epochs}: {self.recipe.val_split} mIoU {100 * miou:.2f}")
        scores = {f"{self.recipe.val_split}_miou": miou}
        save_model(self.out / MODEL_NAME, model, replace(info, scores=scores))
        return True
