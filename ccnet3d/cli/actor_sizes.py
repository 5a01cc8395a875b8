"""How many actors ``--engine ray`` starts, and what each of them gets of the machines."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from ccnet3d.errors import UserError

__all__ = ["ActorSizes", "size_actors"]

_THREADS = 4
"""Most CPU threads of an actor by default: more of them make small convolutions hardly faster, more actors do."""


@dataclass(frozen=True)
class ActorSizes:
    """What Ray reserves."""

    actors: int
    threads: int
    """CPU threads of each model."""
    cpus: float
    """Of each actor; less than ``threads`` if more actors were requested than fit."""
    gpus: int
    """Of each actor, 0 or 1."""
    device: str
    """As ``--device`` names it; an actor sees its own GPU only."""


def size_actors(arguments: argparse.Namespace, cpus: float, gpus: float) -> ActorSizes:
    """Share out the CPUs and GPUs of a cluster.

    Raises:
        UserError: more actors than GPUs, or a GPU by its number.

    >>> size_actors(argparse.Namespace(device="auto", actors=None, threads=None), cpus=16, gpus=2)
    ActorSizes(actors=2, threads=4, cpus=4, gpus=1, device='cuda')
    >>> size_actors(argparse.Namespace(device="auto", actors=None, threads=None), cpus=2, gpus=0)
    ActorSizes(actors=2, threads=1, cpus=1, gpus=0, device='cpu')
    """
    requested, threads, device = arguments.actors, arguments.threads, arguments.device
    if device.startswith("cuda:"):
        raise UserError(f"--engine ray gives each actor a GPU; give --device cuda instead of {device}")
    if device == "auto" and gpus < 1:
        device = "cpu"
    on_gpu = device in ("auto", "cuda")
    if on_gpu and (requested or 1) > gpus:
        raise UserError(
            f"the Ray cluster has {int(gpus)} GPUs, one per actor, and --actors and --device ask for {requested or 1}; "
            "give fewer --actors, or --device cpu"
        )
    actors = requested or (int(gpus) if on_gpu else max(1, int(cpus // (threads or max(1, min(_THREADS, cpus // 2))))))
    threads = threads or max(1, min(_THREADS, int(cpus // actors)))
    share = threads if threads * actors <= cpus else cpus / actors
    return ActorSizes(actors, threads, share, int(on_gpu), "cuda" if on_gpu else device)
