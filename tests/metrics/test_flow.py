from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models.optical_flow import RAFT, raft_small

from ccnet3d.errors import UserError
from ccnet3d.metrics import dis_flow, raft_flow


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Use one thread: on a busy machine, two wait for each other at every small layer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def raft() -> RAFT:
    torch.manual_seed(0)
    model: RAFT = raft_small(weights=None).eval()
    return model


@pytest.fixture(scope="module")
def weights(raft: RAFT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raft") / "raft.safetensors"
    save_file(raft.state_dict(), path)
    return path


def random_pair(height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height)
    first, second = torch.randint(0, 256, (2, 3, height, width), generator=generator, dtype=torch.uint8)
    return first, second


@pytest.mark.parametrize(
    ("height", "width", "padded_height", "padded_width"),
    [(128, 136, 128, 136), (131, 137, 136, 144), (37, 129, 128, 136), (1, 1, 128, 128)],
)
def test_as_torchvision_on_frames_padded_to_eighths(
    raft: RAFT, weights: Path, height: int, width: int, padded_height: int, padded_width: int
) -> None:
    """The flow is from the first frame to the second, with pixels from -1 to 1, after the last refinement."""
    first, second = random_pair(height, width)
    flow = raft_flow(weights)(first, second)
    assert flow.shape == (2, height, width)
    assert flow.dtype == torch.float32
    padding = [(0, 0), (0, padded_height - height), (0, padded_width - width)]
    scaled = [torch.from_numpy(np.pad(f.numpy(), padding, mode="edge")).float() / 255 * 2 - 1 for f in (first, second)]
    with torch.no_grad():
        truth = raft(scaled[0][None], scaled[1][None])[-1][0, :, :height, :width]
    torch.testing.assert_close(flow, truth, rtol=1e-3, atol=1e-3)
    assert flow.abs().max() > 0


def test_files_that_hold_no_such_weights(tmp_path: Path, raft: RAFT) -> None:
    path = tmp_path / "raft.safetensors"
    message = (
        r"raft\.safetensors does not contain weights of torchvision's raft_small \(.+\); save its state with safetens"
    )
    with pytest.raises(UserError, match=message):
        raft_flow(path)
    path.write_bytes(b"no safetensors")
    with pytest.raises(UserError, match=message):
        raft_flow(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match=message):
        raft_flow(path)
    state = raft.state_dict()
    save_file(dict(list(state.items())[1:]), path)
    with pytest.raises(UserError, match=message):
        raft_flow(path)
    name = next(iter(state))
    save_file({**state, name: state[name][:1].clone()}, path)
    with pytest.raises(UserError, match=message):
        raft_flow(path)
    torch.save(state, path)  # a pickle is never loaded
    with pytest.raises(UserError, match=message):
        raft_flow(path)
    with pytest.raises(UserError, match="does not contain weights of torchvision's raft_small"):
        raft_flow(tmp_path)


@pytest.mark.parametrize("shift", [(0, 0), (3, 0), (-2, 4)])
def test_dis_finds_where_the_picture_moved(shift: tuple[int, int]) -> None:
    """A smooth random picture, of which the second frame is a window further right and down."""
    across, down = shift
    noise = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    world = (255 * torch.nn.functional.interpolate(noise, size=(128, 128), mode="bicubic")[0]).clamp(0, 255).byte()
    first, second = world[:, 20:84, 20:100], world[:, 20 + down : 84 + down, 20 + across : 100 + across]
    flow = dis_flow()(first, second)
    assert (flow.shape, flow.dtype) == ((2, 64, 80), torch.float32)
    middle = flow[:, 10:-10, 10:-10]  # what is at x was at x - flow: the picture moves against the window
    expected = torch.tensor([-across, -down]).float().view(2, 1, 1).expand_as(middle)
    assert (middle - expected).abs().median() < 0.1


@pytest.mark.parametrize("size", [(1, 1), (5, 40), (11, 11), (17, 13)])
def test_dis_takes_frames_of_any_size(size: tuple[int, int]) -> None:
    first, second = random_pair(*size)
    assert dis_flow()(first, second).shape == (2, *size)


def test_dis_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r'OpenCV, which is not installed: pip install "ccnet3d\[evaluate\]"'):
        dis_flow()
