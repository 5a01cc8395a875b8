"""One of several processes of an evaluation: evaluate its segments of a data folder, then fail in one process."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ccnet3d.data import DataSource
from ccnet3d.errors import UserError
from ccnet3d.evaluation import Evaluation, evaluate
from ccnet3d.evaluation.parallel import gather, processes, split_segments
from ccnet3d.inference import VideoSegmenter
from ccnet3d.metrics import dis_flow
from ccnet3d.models import load_model


def evaluate_all(data: Path, split: str, checkpoint: Path, segments: list[int] | None = None) -> Evaluation:
    torch.set_num_threads(1)
    dataset = DataSource(data).open(split)
    return evaluate(
        VideoSegmenter(*load_model(checkpoint), dtype=torch.float32),
        dataset,
        scores=["vc2_strict", "vc3_reference", "tc", "boundary_f", "boundary_iou"],
        flow=dis_flow(),
        segments=segments,
    )


def main() -> None:
    data, split, checkpoint, out = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    dataset = DataSource(data).open(split)
    with processes() as among:
        share = split_segments(dataset.segments, among.world_size)[among.rank]
        assert len(share) < len(dataset.segments)
        gather(lambda: evaluate_all(data, split, checkpoint, share)).save(out / f"{among.rank}.json")

        for number, error in enumerate((UserError("a mask is missing"), ValueError("a bug"))):

            def fail_in_the_second(error: Exception = error) -> Evaluation:
                if among.rank == 1:
                    raise error
                return evaluate_all(data, split, checkpoint, [])

            try:
                gather(fail_in_the_second)
            except (ValueError, SystemExit) as caught:
                (out / f"{among.rank}_{number}.txt").write_text(f"{type(caught).__name__} {caught}")
