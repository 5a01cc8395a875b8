"""The course of a training run: steps, evaluations, checkpoints, and how it stops and resumes."""

from __future__ import annotations

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ccnet3d.distributed import Processes
from ccnet3d.errors import RunStoppedError, UserError, explain_out_of_memory
from ccnet3d.journal import check_files, claimed_folder
from ccnet3d.progress import progress_bar
from ccnet3d.training.checkpoint import Progress, RunRecipe, Stateful, load_checkpoint, save_checkpoint
from ccnet3d.training.run_log import RunLog
from ccnet3d.training.signals import StopSignals
from ccnet3d.training.throughput import Throughput

__all__ = ["CHECKPOINT_NAME", "MODEL_NAME", "TrainingRun", "check_run_folder"]

CHECKPOINT_NAME = "checkpoint.pt"
MODEL_NAME = "model.safetensors"


def check_run_folder(out: Path, *, resume: bool) -> None:
    """Check that a run may begin or go on in a folder, before its data is read.

    Raises:
        UserError: an earlier run in the folder without ``resume``, no checkpoint with it, or files of others.
    """
    checkpoint = out / CHECKPOINT_NAME
    if checkpoint.exists() and not resume:
        raise UserError(f"{out} contains an earlier run; give --resume to continue it, or another --out for a new one")
    if resume and not checkpoint.exists():
        raise UserError(f"there is no checkpoint at {checkpoint} to resume from; start without --resume")
    if not resume:
        check_files(out, (CHECKPOINT_NAME, MODEL_NAME))


class TrainingRun(ABC):
    """A run of any network: a subclass says what a step, an evaluation and the state of the run are.

    Attributes:
        recipe: what to train and how.
        out: folder of the run: checkpoint, model file, TensorBoard events.
        device: where the model trains.
        processes: the processes that train together.
        data_fingerprints: a hash of the data of each split.
        steps_per_epoch: steps of one epoch.
        total_steps: steps of the whole run.
        frames_per_step: frames of one step, of all processes.
        accumulate_steps: parts of a step that each process computes one after the other.
        memory_advice: what to change when memory runs out.
    """

    recipe: RunRecipe
    out: Path
    device: torch.device
    processes: Processes
    data_fingerprints: Mapping[str, str]
    steps_per_epoch: int
    total_steps: int
    frames_per_step: int
    accumulate_steps: int
    memory_advice: str

    @abstractmethod
    def batches_from(self, start: int) -> Iterable[Any]:
        """Return the parts of the steps of this process, from a step on."""

    @abstractmethod
    def train_step(self, step: int, samples: Sequence[Any]) -> dict[str, float]:
        """Do one step, from 0, on its parts, and return its losses by name, with ``loss/total``.

        Its result depends only on its index, its parts and the state of the run.
        """

    @abstractmethod
    def learning_rate(self, step: int) -> float:
        """Return the learning rate at a step, from 0."""

    @abstractmethod
    def state(self) -> dict[str, Stateful]:
        """Return the parts of the run that a checkpoint contains."""

    @abstractmethod
    def evaluate_and_save(self, step: int, log: RunLog, stop: StopSignals) -> bool:
        """Score the model and write it; return False if a signal interrupted it."""

    def run(self, *, resume: bool = False) -> Path:
        """Train to the end and write the model.

        SIGINT and SIGTERM stop the run after its current step, or within an evaluation, with a checkpoint.

        Args:
            resume: continue from the checkpoint in the run's folder.

        Returns:
            The model file.

        Raises:
            UserError: no checkpoint that fits, an earlier run or a model of others in the folder, or another process
                that writes to it.
            DivergedError: the loss is no longer finite.
            RunStoppedError: a signal stopped the run.
        """
        progress = self._first_progress(resume)
        is_main = self.processes.is_main_process
        speed = Throughput(self.device)
        with ExitStack() as stack:
            if is_main:  # a checkpoint that fits shows that this is the folder of a run
                stack.enter_context(claimed_folder(self.out, (CHECKPOINT_NAME, MODEL_NAME), adopted=resume))
            stack.enter_context(explain_out_of_memory(self.memory_advice))
            stop = stack.enter_context(StopSignals(ignore_repeats=self.processes.world_size > 1))
            log = stack.enter_context(closing(RunLog(self.out, progress.step + 1))) if is_main else None
            bar = stack.enter_context(
                progress_bar(
                    initial=progress.step,
                    total=self.total_steps,
                    desc="training",
                    unit="step",
                    hidden=not is_main,
                )
            )
            batches = iter(self.batches_from(progress.step))
            self._finish_step(progress, log, stop)  # a resumed run may have an evaluation due
            for step in range(progress.step, self.total_steps):
                began = time.perf_counter()
                samples = [next(batches) for _ in range(self.accumulate_steps)]
                arrived = time.perf_counter()
                losses = self.train_step(step, samples)
                figures = speed.add(self.frames_per_step, arrived - began, time.perf_counter() - arrived)
                bar.update()
                bar.set_postfix(loss=f"{losses['loss/total']:.3f}")
                if log:
                    log.add_scalars({**losses, **figures, "learning_rate": self.learning_rate(step)}, step + 1)
                self._finish_step(Progress(step + 1, evaluated=not self._evaluation_due(step + 1)), log, stop)
        if is_main and speed.frames:
            tqdm.write(f"trained on {speed.summary()}")
        return self.out / MODEL_NAME

    def _first_progress(self, resume: bool) -> Progress:
        """Return where the run begins; a resumed one restores the state of the run."""
        check_run_folder(self.out, resume=resume)
        if not resume:
            return Progress()
        progress = load_checkpoint(self._checkpoint, self.recipe, self.data_fingerprints, self.state())
        if progress.step > self.total_steps:
            raise UserError(
                f"{self._checkpoint} is at step {progress.step} of a run of {self.total_steps}; give another --out"
            )
        return progress

    @property
    def _checkpoint(self) -> Path:
        return self.out / CHECKPOINT_NAME

    def _save_checkpoint(self, progress: Progress) -> None:
        save_checkpoint(self._checkpoint, self.recipe, self.data_fingerprints, progress, self.state())

    def _finish_step(self, progress: Progress, log: RunLog | None, stop: StopSignals) -> None:
        """Evaluate, stop and write a checkpoint, each if it is due.

        All processes call this after the same step, because here they agree on whether to stop. Only the main process,
        which has a log, evaluates and writes.

        Raises:
            RunStoppedError: a signal was received in one of the processes.
        """
        if log and not progress.evaluated:
            progress = progress._replace(evaluated=self.evaluate_and_save(progress.step, log, stop))
        finished = progress.step == self.total_steps and (progress.evaluated or log is None)
        if self.processes.any(stop.received is not None and not finished):
            if log:
                self._save_checkpoint(progress)
            raise RunStoppedError(
                stop.received or signal.SIGTERM,
                f"{progress.step} of {self.total_steps} steps are done and in {self._checkpoint}",
            )
        if log and self._checkpoint_due(progress.step):
            self._save_checkpoint(progress)

    def _evaluation_due(self, step: int) -> bool:
        return step == self.total_steps or step % (self.recipe.evaluate_every * self.steps_per_epoch) == 0

    def _checkpoint_due(self, step: int) -> bool:
        at_epoch = step > 0 and step % (self.recipe.checkpoint_every * self.steps_per_epoch) == 0
        return at_epoch or step == self.total_steps
