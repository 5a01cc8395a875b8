"""Train an instance segmentation model on images in COCO's layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.detection import MaskRCNN
from tqdm import tqdm

from ccnet3d.distributed import Processes
from ccnet3d.errors import DivergedError, UserError
from ccnet3d.instances.coco_data import CocoImages, ImageTarget, open_coco
from ccnet3d.instances.coco_scores import evaluate_detector
from ccnet3d.instances.detector import build_detector
from ccnet3d.instances.detector_file import DetectorInfo, load_backbone, load_detector, save_detector, start_from
from ccnet3d.instances.instance_recipe import InstanceRecipe, step_factor
from ccnet3d.training import (
    MODEL_NAME,
    PRECISIONS,
    ClipBatches,
    RunLog,
    SignalReceivedError,
    Stateful,
    StopSignals,
    TrainingRun,
    ignore_stop_signals,
)

__all__ = ["InstanceTrainer"]


class InstanceTrainer(TrainingRun):
    """One training run.

    >>> from ccnet3d.instances import read_instance_recipe
    >>> from ccnet3d.resources import recipe_file
    >>> recipe = read_instance_recipe(recipe_file("coco_maskrcnn"))
    >>> trainer = InstanceTrainer(recipe, Path("data/coco"), Path("runs/coco"), torch.device("cuda"))  # doctest: +SKIP
    >>> trainer.run()  # doctest: +SKIP
    PosixPath('runs/coco/model.safetensors')

    Args:
        recipe: what to train and how.
        root: folder of the data that the recipe names.
        out: folder of the run: checkpoint, model file, TensorBoard events.
        device: where the model trains.
        processes: the processes that train together; a single one by default.

    Attributes:
        warnings: lines about what is left out of the data.

    Raises:
        UserError: data or weights that do not exist or do not fit the recipe.
    """

    recipe: InstanceRecipe
    memory_advice = "use a larger data.accumulate_steps, or a smaller detector.min_size"

    def __init__(
        self,
        recipe: InstanceRecipe,
        root: Path,
        out: Path,
        device: torch.device,
        *,
        processes: Processes | None = None,
    ) -> None:
        self.out = out
        self.device = device
        self.processes = processes or Processes()
        self.precision = PRECISIONS[recipe.precision]
        data = recipe.data
        self.frames_per_step, self.accumulate_steps = data.images_per_step, data.accumulate_steps
        if data.images_per_step % (data.accumulate_steps * self.processes.world_size):
            raise UserError(
                f"data.images_per_step = {data.images_per_step} cannot be split evenly over "
                f"{self.processes.world_size} processes times {data.accumulate_steps} accumulation steps"
            )
        self.train_set, self.val_set = self._open(root, recipe)
        self.data_fingerprints = {"train": self.train_set.fingerprint, "val": self.val_set.fingerprint}
        self.steps_per_epoch = math.ceil(len(self.train_set) / data.images_per_step)
        self.total_steps = recipe.epochs * self.steps_per_epoch
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.model, self.info = self._build(recipe)
        self.model.to(device)
        self.network = self.processes.wrap(self.model, some_unused=False)
        self.optimizer = self._build_optimizer()

    def batches_from(self, start: int) -> DataLoader[ImageTarget]:
        """Return the images of the steps of this process, each a list."""
        data = self.recipe.data
        return DataLoader(
            self.train_set,
            batch_sampler=ClipBatches(
                len(self.train_set),
                data.images_per_step,
                (1,),
                self.recipe.seed,
                start,
                self.total_steps,
                accumulate=data.accumulate_steps,
                process=self.processes.rank,
                processes=self.processes.world_size,
            ),
            collate_fn=list,
            num_workers=data.workers,
            generator=torch.Generator(),  # its own, so that the loader draws nothing from the run's random state
            worker_init_fn=ignore_stop_signals,
        )

    def learning_rate(self, step: int) -> float:
        """Return the learning rate at a step, from 0."""
        recipe = self.recipe.optimizer
        return recipe.learning_rate * step_factor(step, self.steps_per_epoch, recipe)

    def train_step(self, step: int, samples: Sequence[Sequence[ImageTarget]]) -> dict[str, float]:
        """Do one step and return its losses, those of torchvision's detector, by name.

        Args:
            step: index of the step, from 0.
            samples: parts of the step of this process, computed one after the other.
        """
        processes, recipe = self.processes, self.recipe
        entropy = np.random.SeedSequence((recipe.seed, 2, step, processes.rank))
        torch.manual_seed(int(entropy.generate_state(1)[0]))  # the regions that are trained on are drawn
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for index, part in enumerate(samples):
            with processes.gradient_sync(self.network, enabled=index == len(samples) - 1):
                losses = self._losses(part)
                total = torch.stack(list(losses.values())).sum()
                if not torch.isfinite(total):
                    raise DivergedError(f"the loss became {total.item()}; lower the learning rate or clip gradients")
                (total / len(samples)).backward()
            for name, value in {"loss/total": total, **losses}.items():
                sums[name] = sums.get(name, torch.zeros(())) + value.detach().cpu() / len(samples)
        if recipe.optimizer.clip_gradient_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip_gradient_norm)
        self.optimizer.step()
        means = processes.sum(torch.stack(list(sums.values())).double()) / processes.world_size
        return dict(zip(sums, means.tolist(), strict=True))

    def state(self) -> dict[str, Stateful]:
        """Return the parts of the run that a checkpoint contains."""
        return {"model": self.model, "optimizer": self.optimizer}

    def evaluate_and_save(self, step: int, log: RunLog, stop: StopSignals) -> bool:
        """Score the model on the val images and write it; return False if a signal interrupted it."""
        ids = self.info.category_ids
        try:
            result, _ = evaluate_detector(self.model, self.val_set, ids, precision=self.precision, progress=stop.watch)
        except SignalReceivedError:
            return False
        log.add_scalars({f"val/{name}": value for name, value in result.scores.items() if value is not None}, step)
        box, mask = (100 * (result.scores[name] or 0) for name in ("box_ap", "mask_ap"))
        epoch = f"epoch {step // self.steps_per_epoch} of {self.recipe.epochs}"
        tqdm.write(f"{epoch}: box AP {box:.1f}, mask AP {mask:.1f}")
        save_detector(self.out / MODEL_NAME, self.model, replace(self.info, scores=result.scores))
        return True

    def _open(self, root: Path, recipe: InstanceRecipe) -> tuple[CocoImages, CocoImages]:
        data = recipe.data
        train = open_coco(root / data.train_images, root / data.train_annotations, flip=data.flip)
        val = open_coco(root / data.val_images, root / data.val_annotations)
        self.warnings = [f"{name}: {line}" for name, part in (("train", train), ("val", val)) for line in part.warnings]
        if train.categories != val.categories:
            raise UserError(
                f"{root / data.train_annotations} and {root / data.val_annotations} have different categories"
            )
        all_images = len(train)
        train.keep(empty=data.empty_images)
        if left_out := all_images - len(train):
            self.warnings.append(f"train: {left_out} of {all_images} images without objects left out")
        if not len(train) or not len(val):
            raise UserError(f"there are no {'val' if len(train) else 'training'} images with objects in {root}")

        def check() -> Tensor:
            train.check()
            val.check()
            return torch.zeros(1, dtype=torch.long)

        self.processes.once(check, (1,))
        return train, val

    def _build(self, recipe: InstanceRecipe) -> tuple[MaskRCNN, DetectorInfo]:
        """Return the model with its initial weights, on the CPU, and its description."""
        config, weights, categories = recipe.detector, recipe.weights, self.train_set.categories
        start = load_detector(Path(weights.initial_weights)) if weights.initial_weights else None
        if start is not None:
            config = replace(config, batch_norm_epsilon=start[1].detector.batch_norm_epsilon)
        info = DetectorInfo(
            config,
            class_names=tuple(one.name for one in categories),
            category_ids=tuple(one.id for one in categories),
            dataset=recipe.data.train_annotations,
            recipe=asdict(recipe),
        )
        model = build_detector(config, len(categories), trained_stages=weights.trained_stages)
        if start is not None:
            start_from(model, info, *start, source=weights.initial_weights)
        elif weights.backbone_weights:
            load_backbone(model, config.backbone, weights.backbone_weights)
        return model, info

    def _losses(self, part: Sequence[ImageTarget]) -> Mapping[str, Tensor]:
        images = [image.to(self.device).float().div(255) for image, _ in part]
        targets = [{key: value.to(self.device) for key, value in target.items()} for _, target in part]
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            losses: dict[str, Tensor] = self.network(images, targets)
        return {f"loss/{name.removeprefix('loss_')}": value for name, value in losses.items()}

    def _build_optimizer(self) -> torch.optim.SGD:
        recipe = self.recipe.optimizer
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [one for one in parameters if one.dim() > 1], "weight_decay": recipe.weight_decay},
            {"params": [one for one in parameters if one.dim() <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
