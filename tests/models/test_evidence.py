"""Class evidence attention: its formula against a slow loop, and toy tasks that need time or several loops."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ccnet3d.models.evidence import ClassEvidence, ClassEvidenceAttention

CLASSES, CHANNELS = 4, 8

pytestmark = pytest.mark.usefixtures("one_thread")


def scene(clips: int, length: int, height: int = 8, width: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, confident logits and labels of still scenes: ``[B, T, C or K, h, w]`` and ``[B, T, h, w]``."""
    blocks = torch.randint(CLASSES, (clips, 1, height // 2, width // 2))
    labels = blocks.repeat_interleave(2, -1).repeat_interleave(2, -2).expand(clips, length, height, width)
    code = torch.eye(CLASSES, CHANNELS)
    features = code[labels].permute(0, 1, 4, 2, 3) + 0.3 * torch.randn(clips, length, CHANNELS, height, width)
    logits = 4 * F.one_hot(labels, CLASSES).permute(0, 1, 4, 2, 3).float()
    return features, logits + torch.randn_like(logits), labels


def spoil(kind: str, features: Tensor, logits: Tensor) -> Tensor:
    """Take one frame of each clip away; returns which, bool ``[B, T]``."""
    clips, length = features.shape[:2]
    lost = torch.zeros(clips, length, dtype=torch.bool)
    lost[torch.arange(clips), torch.randint(length, (clips,))] = True
    if kind == "blank":  # a black frame, which a network confidently calls class 0
        features[lost], logits[lost] = 0.0, torch.tensor([6.0, 0, 0, 0]).view(CLASSES, 1, 1)
    elif kind == "noise":
        features[lost], logits[lost] = 3 * torch.randn_like(features[lost]), 4 * torch.randn_like(logits[lost])
    else:  # the scene is there to see, but its classes are known from another frame only
        logits[lost] = 0.0
        features[lost] = torch.randn_like(features[lost])
    return lost


def accuracy_of_lost_frames(kind: str, length: int) -> float:
    """Train on clips of a length, then score the frames that were taken away in new clips."""
    torch.manual_seed(0)
    module = ClassEvidenceAttention(CHANNELS, CLASSES, loops=2, temperature=5.0)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    for _ in range(100):
        features, logits, labels = scene(8, length)
        spoil(kind, features, logits)
        features, logits = features.flatten(0, 1), logits.flatten(0, 1)
        loss = F.cross_entropy(module(logits, module.embed(features, logits), length), labels.flatten(0, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    features, logits, labels = scene(32, length)
    lost = spoil(kind, features, logits).flatten()
    features, logits = features.flatten(0, 1), logits.flatten(0, 1)
    with torch.no_grad():
        predictions = module(logits, module.embed(features, logits), length).argmax(1)
    return float((predictions == labels.flatten(0, 1))[lost].float().mean())


@pytest.mark.parametrize("kind", ["blank", "noise", "unknown"])
def test_what_a_frame_has_lost_comes_from_its_neighbors(kind: str) -> None:
    assert accuracy_of_lost_frames(kind, 3) > 0.97
    assert accuracy_of_lost_frames(kind, 1) < 0.4  # chance is 0.25


def differing_coordinates(shape: tuple[int, int, int], source: Tensor) -> Tensor:
    """Number of coordinates in which each position ``[T, h, w]`` differs from a source (t, h, w)."""
    axes = torch.meshgrid(*[torch.arange(n) for n in shape], indexing="ij")
    return torch.stack([axis != place for axis, place in zip(axes, source.tolist(), strict=True)]).sum(0)


def accuracy_by_distance(loops: int, shape: tuple[int, int, int]) -> list[float]:
    """One position knows the class of all; accuracy elsewhere, by the number of coordinates that differ from it."""
    torch.manual_seed(0)
    # A single cell must be able to say that it is the one to listen to.
    module = ClassEvidenceAttention(2, CLASSES, loops=loops, temperature=1.0, reliability_cells=1)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.03)
    hits: dict[int, list[float]] = {n: [] for n in range(4)}
    for step in range(160):
        if step == 140:
            module.eval()
        classes = torch.randint(CLASSES, (16,))
        sources = torch.stack([torch.randint(n, (16,)) for n in shape], dim=1)  # [B, 3]
        features = torch.zeros(16, shape[0], 2, *shape[1:])
        logits = torch.zeros(16, shape[0], CLASSES, *shape[1:])
        for b, (t, y, x) in enumerate(sources.tolist()):
            features[b, t, 0, y, x], logits[b, t, classes[b], y, x] = 1.0, 5.0
        features, logits = features.flatten(0, 1), logits.flatten(0, 1)
        out = module(logits, module.embed(features, logits), shape[0])  # [B*T, K, h, w]
        labels = classes[:, None, None, None].expand(16, *shape).flatten(0, 1)
        if step < 140:
            optimizer.zero_grad()
            F.cross_entropy(out, labels).backward()
            optimizer.step()
            continue
        right = (out.argmax(1) == labels).float().unflatten(0, (16, -1))
        for b in range(16):
            distance = differing_coordinates(shape, sources[b])
            for n in range(int(distance.max()) + 1):
                hits[n].append(float(right[b][distance == n].mean()))
    return [sum(values) / len(values) for values in hits.values() if values]


@pytest.mark.parametrize(("loops", "shape"), [(1, (1, 5, 6)), (2, (1, 5, 6)), (2, (3, 4, 5)), (3, (3, 4, 5))])
def test_each_loop_reaches_one_coordinate_further(loops: int, shape: tuple[int, int, int]) -> None:
    accuracy = accuracy_by_distance(loops, shape)
    assert min(accuracy[: loops + 1]) > 0.95
    assert max(accuracy[loops + 1 :], default=0.0) < 0.5  # chance is 0.25


def test_scores_follow_the_formula() -> None:
    """One loop against a loop over positions and their crosses, in float64."""
    torch.manual_seed(1)
    module = ClassEvidenceAttention(3, CLASSES, loops=1, temperature=3.0).double()
    with torch.no_grad():
        module.position_weight.fill_(0.7)
        module.frame_weight.fill_(-1.3)
        module.gamma.fill_(0.5)
    shape = (2, 3, 4)
    unit = F.normalize(torch.randn(2, 5, 3, 4).double(), dim=1)
    reliability, evidence = torch.randn(2, 1, 3, 4).double(), torch.randn(2, CLASSES, 3, 4).double()
    logits = evidence.clone()
    out = module(logits, ClassEvidence(unit, reliability, evidence), 2)
    waves = {
        (y, x): [
            wave(math.pi * frequency * (place + 0.5) / length) / math.sqrt(8)
            for length, place in ((3, y), (4, x))
            for wave in (math.sin, math.cos)
            for frequency in (1, 2, 4, 8)
        ]
        for y, x in itertools.product(range(3), range(4))
    }
    cells = list(itertools.product(*map(range, shape)))
    for u in cells:
        cross = [i for i in cells if sum(a != b for a, b in zip(u, i, strict=True)) <= 1]
        scores = torch.stack([
            module.log_temperature.exp() * unit[u[0], :, u[1], u[2]] @ unit[i[0], :, i[1], i[2]]
            + module.position_weight * sum(a * b for a, b in zip(waves[u[1:]], waves[i[1:]], strict=True))
            + module.frame_weight * (u[0] == i[0])
            + reliability[i[0], 0, i[1], i[2]]
            for i in cross
        ])  # fmt: skip
        values = torch.stack([evidence[i[0], :, i[1], i[2]] for i in cross])
        before = evidence[u[0], :, u[1], u[2]]
        expected = logits[u[0], :, u[1], u[2]] + 0.5 * (scores.softmax(0) @ values - before)
        torch.testing.assert_close(out[u[0], :, u[1], u[2]], expected, rtol=1e-9, atol=1e-9)


def test_refused_arguments() -> None:
    with pytest.raises(ValueError, match="loops must be at least 1, got 0"):
        ClassEvidenceAttention(3, 4, loops=0)
    with pytest.raises(ValueError, match="reliability_cells must be an odd number, got 4"):
        ClassEvidenceAttention(3, 4, reliability_cells=4)


def test_the_norm_runs_over_the_first_batches_evenly() -> None:
    module = ClassEvidenceAttention(3, CLASSES)
    batches = [torch.randn(2, 3, 4, 5) * 3 + 1 for _ in range(4)]
    for batch in batches:
        module.embed(batch, torch.randn(2, CLASSES, 8, 10))
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3), correction=0) for batch in batches]).mean(0)
    torch.testing.assert_close(module.feature_norm.mean, means)
    torch.testing.assert_close(module.feature_norm.variance, variances)
    module.eval()
    module.embed(batches[0], torch.randn(2, CLASSES, 8, 10))
    torch.testing.assert_close(module.feature_norm.mean, means)
