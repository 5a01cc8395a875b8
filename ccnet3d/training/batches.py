"""The order of training clips, a pure function of recipe, seed and step; and clips of two datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Dataset, Sampler

from ccnet3d.data import ClipRequest, LabelledSequences, RequestedSample
from ccnet3d.errors import UserError

__all__ = ["ClipBatches", "MixedSequences"]


class ClipBatches(Sampler[list[ClipRequest]]):
    """Batches of clip requests, in which every frame is an anchor once before any frame is an anchor again.

    The anchor is at a random offset of its clip. Batches cycle through ``clip_lengths``; each clip draws one of
    ``clip_strides``. Pseudo-labeled frames, whose indices follow those of the labeled ones, are the anchors of their
    share of the clips of each length, to within half a clip at any time.

    >>> batches = ClipBatches(8, frames_per_batch=4, clip_lengths=[1, 4], seed=0, start=0, stop=2)
    >>> [[request.length for request in batch] for batch in batches]
    [[1, 1, 1, 1], [4]]

    Args:
        num_frames: labeled frames of the split.
        frames_per_batch: frames of a batch.
        clip_lengths: see :class:`ccnet3d.training.recipe.DataRecipe`.
        seed: of all draws.
        start: index of the first batch to yield; above 0 in a resumed run.
        stop: index after the last batch.
        clip_strides: see :class:`ccnet3d.training.recipe.DataRecipe`.
        accumulate: parts of a batch that each process computes one after the other; each is yielded on its own.
        process: rank of this process.
        processes: number of processes that share each batch; the draws do not depend on it.
        pseudo_frames: pseudo-labeled frames.
        pseudo_share: share of the clips whose anchors are pseudo-labeled frames.

    Raises:
        UserError: the clips of a batch cannot be split evenly.
    """

    def __init__(
        self,
        num_frames: int,
        frames_per_batch: int,
        clip_lengths: Sequence[int],
        seed: int,
        start: int,
        stop: int,
        clip_strides: Sequence[int] = (1,),
        *,
        accumulate: int = 1,
        process: int = 0,
        processes: int = 1,
        pseudo_frames: int = 0,
        pseudo_share: float = 0.0,
    ) -> None:
        for clips in (frames_per_batch // length for length in clip_lengths):
            if clips % (accumulate * processes):
                raise UserError(
                    f"a batch of {clips} clips cannot be split evenly over {processes} processes times "
                    f"{accumulate} accumulation steps; change data.frames_per_batch or compute.accumulate_steps"
                )
        self.num_frames = num_frames
        self.frames_per_batch = frames_per_batch
        self.clip_lengths = tuple(clip_lengths)
        self.clip_strides = tuple(clip_strides)
        self.seed = seed
        self.start = start
        self.stop = stop
        self.accumulate = accumulate
        self.process = process
        self.processes = processes
        self.pseudo_frames = pseudo_frames
        self.pseudo_share = pseudo_share

    def __len__(self) -> int:
        return (self.stop - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        labeled, pseudo = self._shuffled(self.num_frames, 0), self._shuffled(self.pseudo_frames, 3)
        drawn: Counter[int] = Counter()  # clips by length
        for batch in range(self.stop):
            length = self.clip_lengths[batch % len(self.clip_lengths)]
            before, clips = drawn[length], self.frames_per_batch // length
            from_pseudo = round(self.pseudo_share * (before + clips)) - round(self.pseudo_share * before)
            drawn[length] += clips
            chosen = [next(labeled) for _ in range(clips - from_pseudo)]
            chosen += [self.num_frames + next(pseudo) for _ in range(from_pseudo)]
            if batch >= self.start:
                random = np.random.default_rng((self.seed, 1, batch))
                requests = [
                    ClipRequest(
                        anchor,
                        int(random.integers(length)),
                        length,
                        int(random.integers(2**31)),
                        self.clip_strides[int(random.integers(len(self.clip_strides)))],
                    )
                    for anchor in chosen
                ]
                for part in range(self.accumulate):
                    yield requests[part * self.processes + self.process :: self.accumulate * self.processes]

    def _shuffled(self, count: int, stream: int) -> Iterator[int]:
        random = np.random.default_rng((self.seed, stream))
        while True:
            yield from random.permutation(count).tolist()


class MixedSequences(Dataset[RequestedSample]):
    """Clips of labeled and of pseudo-labeled frames; the indices of the latter follow those of the former."""

    def __init__(self, labeled: LabelledSequences, pseudo: LabelledSequences) -> None:
        self.labeled = labeled
        self.pseudo = pseudo

    def __len__(self) -> int:
        return len(self.labeled) + len(self.pseudo)

    def __getitem__(self, request: ClipRequest) -> RequestedSample:
        if request.anchor < len(self.labeled):
            return self.labeled[request]
        return self.pseudo[request._replace(anchor=request.anchor - len(self.labeled))]
