"""A recipe and labelled sequences to a trained model file."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ccnet3d.data import IGNORE_INDEX, LabelledSequences
from ccnet3d.evaluation import evaluate
from ccnet3d.inference import VideoSegmenter
from ccnet3d.losses import balanced_class_weights
from ccnet3d.models import CCNet3D, ModelInfo, load_model, save_model
from ccnet3d.models.backbone import load_backbone_weights
from ccnet3d.training.batches import ClipBatches
from ccnet3d.training.checkpoint import Stateful, load_checkpoint, save_checkpoint
from ccnet3d.training.config import OptimizerRecipe, Recipe
from ccnet3d.training.logging import RunLog
from ccnet3d.training.objective import training_loss

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
    ) -> None:
        self.recipe = recipe
        self.out = out
        self.device = device
        self.precision = torch.bfloat16 if recipe.precision == "bf16" else torch.float32
        torch.manual_seed(recipe.seed)
        if recipe.data.detail_share and detail is None:
            raise ValueError(
                f"the recipe takes {recipe.data.detail_share:.0%} of its clips from frames at a higher resolution; "
                "name their folder with --detail, or set data.detail_share=0"
            )
        self.train_set = LabelledSequences.open(
            data,
            recipe.train_split,
            spec_file=spec_file,
            transform=recipe.data.augmentation,
            detail_root=detail,
            detail_share=recipe.data.detail_share,
        )
        self.val_set = LabelledSequences.open(data, recipe.val_split, spec_file=spec_file)
        spec = self.train_set.spec
        config = recipe.model.build_config(len(spec.classes))
        self.model = CCNet3D(config)
        if recipe.model.backbone_weights:
            load_backbone_weights(self.model.backbone, config.backbone, recipe.model.backbone_weights)
        if recipe.model.initial_weights:
            _start_from(self.model, recipe.model.initial_weights)
        self.model.to(device)
        self.ema = ModelEmaV3(self.model, decay=recipe.ema_decay, use_warmup=True)
        self.ema.module.eval()
        self.steps_per_epoch = math.ceil(len(self.train_set) / recipe.data.frames_per_batch)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        self.optimizer = build_optimizer(self.model, recipe.optimizer)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: learning_rate_factor(step, self.total_steps, recipe.optimizer)
        )
        self.class_weights = self._class_weights()

    def _class_weights(self) -> Tensor | None:
        offset = self.recipe.loss.class_balance_offset
        if not offset:
            return None
        counts = torch.zeros(IGNORE_INDEX + 1, dtype=torch.long)
        for index in range(len(self.train_set)):
            counts += torch.bincount(self.train_set.read_label(index).flatten(), minlength=len(counts))
        return balanced_class_weights(counts[: len(self.train_set.spec.classes)], offset).to(self.device)

    def run(self, *, resume: bool = False) -> Path:
        """Train to the end and write the averaged weights.

        Args:
            resume: go on from the checkpoint in the run's folder.

        Returns:
            The model file.

        Raises:
            ValueError: nothing fit to resume from, or an earlier run in the folder.
            FloatingPointError: the loss is no longer finite.
        """
        parts: dict[str, Stateful] = {
            "model": self.model,
            "ema": self.ema,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }
        checkpoint = self.out / CHECKPOINT_NAME
        if checkpoint.exists() and not resume:
            raise ValueError(f"{self.out} holds an earlier run; give --resume to go on with it, or another --out")
        done = load_checkpoint(checkpoint, self.recipe, parts) if resume else 0
        self.out.mkdir(parents=True, exist_ok=True)
        log = RunLog(self.out, done + 1)
        data = self.recipe.data
        batches = ClipBatches(
            len(self.train_set),
            data.frames_per_batch,
            data.clip_lengths,
            self.recipe.seed,
            done,
            self.total_steps,
            data.clip_strides,
        )
        # A generator of its own, so that the loader draws nothing from the run's random state.
        loader = DataLoader(
            self.train_set, batch_sampler=batches, num_workers=data.workers, generator=torch.Generator()
        )
        progress = tqdm(loader, initial=done, total=self.total_steps, desc="training", unit="step", disable=None)
        for step, batch in enumerate(progress, done + 1):
            learning_rate = float(self.schedule.get_last_lr()[-1])
            losses = self.train_step(batch["clip"], batch["labels"])
            progress.set_postfix(loss=f"{losses['loss/total']:.3f}")
            log.add_scalars({**losses, "learning_rate": learning_rate}, step)
            epoch, rest = divmod(step, self.steps_per_epoch)
            if rest == 0:
                last = step == self.total_steps
                if last or epoch % self.recipe.evaluate_every == 0:
                    self._evaluate_and_save(log, epoch, step)
                if last or epoch % self.recipe.checkpoint_every == 0:
                    save_checkpoint(checkpoint, self.recipe, step, parts)
        log.close()
        return self.out / MODEL_NAME

    def train_step(self, clip: Tensor, labels: Tensor) -> dict[str, float]:
        """One step on uint8 ``[B, T, 3, H, W]`` and its labels ``[B, T, H, W]``; gives the losses by name."""
        self.model.train()
        frames = clip.to(self.device, non_blocking=True).float().div(255)
        labels = labels.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            outputs = self.model.forward_with_auxiliary(frames)
        total, parts = training_loss(outputs, labels, self.recipe.loss, self.class_weights)
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss became {total.item()}; lower the learning rate or clip gradients")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if self.recipe.optimizer.clip_gradient_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_gradient_norm)
        self.optimizer.step()
        self.schedule.step()
        self.ema.update(self.model, step=self.schedule.last_epoch)
        return {f"loss/{name}": part.item() for name, part in {"total": total, **parts}.items()}

    def _evaluate_and_save(self, log: RunLog, epoch: int, step: int) -> None:
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
        miou = evaluate(segmenter, self.val_set).miou
        attention = model.head.attention
        gamma = {} if attention is None else {"val/gamma": attention.gamma.item()}
        log.add_scalars({"val/miou": miou, **gamma}, step)
        log.add_strip(segmenter, self.val_set, step)
        tqdm.write(f"epoch {epoch} of {self.recipe.epochs}: {self.recipe.val_split} mIoU {100 * miou:.2f}")
        scores = {f"{self.recipe.val_split}_miou": miou}
        save_model(self.out / MODEL_NAME, model, replace(info, scores=scores))


def _start_from(model: CCNet3D, weights: str) -> None:
    """Load trained weights; attention and embeddings may be in one of the two only."""
    trained, _ = load_model(None if weights == "default" else Path(weights))
    try:
        keys = model.load_state_dict(trained.state_dict(), strict=False)
        strangers = [key for key in (*keys[0], *keys[1]) if not key.startswith(("head.attention.", "embedding."))]
        if strangers:
            raise RuntimeError(f"{strangers[0]} is in one of the two only")
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise ValueError(
            f"initial_weights {weights} are of another architecture or other classes ({reason}); "
            "give a model file of this recipe's, or none"
        ) from error


def build_optimizer(model: CCNet3D, recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """Parameter groups by learning rate, with weight decay (kernels) or without (biases, norms, gamma)."""
    in_backbone = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    factors = {
        name: recipe.backbone_factor * recipe.backbone_first_factor ** (1 - place / max(1, len(in_backbone) - 1))
        for place, name in enumerate(in_backbone)
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((factors.get(name, 1.0), parameter.dim() > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": recipe.learning_rate * factor,
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (factor, decays), parameters in groups.items()
    ]
    if recipe.name == "sgd":
        return torch.optim.SGD(settings, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(settings, lr=recipe.learning_rate)


def learning_rate_factor(step: int, total_steps: int, recipe: OptimizerRecipe) -> float:
    """The learning rate at a step over the recipe's: linear warm-up, then poly (power 0.9) or cosine to 0."""
    if step < recipe.warmup_steps:
        return (step + 1) / (recipe.warmup_steps + 1)
    done = min(1.0, (step - recipe.warmup_steps) / max(1, total_steps - recipe.warmup_steps))
    return (1 - done) ** 0.9 if recipe.schedule == "poly" else (1 + math.cos(math.pi * done)) / 2
