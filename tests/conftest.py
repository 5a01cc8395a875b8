from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import Commands
from PIL import Image

from ccnet3d.models import CCNet3D, ModelConfig, ModelInfo, save_model
from ccnet3d.native import load_library

# Two processes run the tests, and threads do not make tiny models faster.
torch.set_num_threads(1)

# A suite that runs in the background inherits ignored signals, and so would the commands that it starts.
for _number, _handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    if hasattr(signal, _number) and signal.getsignal(getattr(signal, _number)) is signal.SIG_IGN:
        signal.signal(getattr(signal, _number), _handler)

REPOSITORY = Path(__file__).parents[1]
CAMVID_SPEC = REPOSITORY / "datasets" / "camvid" / "dataset.toml"

TINY = ModelConfig(
    num_classes=3,
    backbone="test_efficientnet",
    channels=16,
    skip_channels=(12, 10, 8),
)
"""A small model with every part of the light one, 0.1 million parameters."""

THREE_CLASSES = """
name = "yard"
classes = [
    { name = "ground", color = [90, 140, 60] },
    { name = "box", color = [200, 40, 40] },
    { name = "rail", color = [40, 40, 220] },
]

[splits]
train = ["walk", "yard_2"]
val = ["night"]
"""


LONGEST = (
    "attention/test_triton_without_gpu.py", "inference/test_resume.py", "inference/test_memory.py",
    "cli/test_infer_mutants.py", "scripts/test_training.py", "scripts/test_evaluation.py", "scripts/test_benchmarks.py",
    "cli/test_infer_options.py", "cli/test_ray_engine.py", "training/test_distributed.py", "video/test_mutations.py",
    "masks/test_files_of_others.py", "models/test_evidence.py", "ablation/test_runner.py", "cli/test_streams.py",
)  # fmt: skip
"""Files that begin first, so that no process runs a long one while the other has nothing left to do."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def native_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The C kernels as hatch_build.py compiles them now."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("native") / "native.so"
    if not runpy.run_path(str(REPOSITORY / "hatch_build.py"))["build"](path):
        pytest.skip("the kernels are for x86-64 Linux")
    library = load_library(path)
    assert library is not None
    return library


@pytest.fixture
def camvid() -> Path:
    """The folder with CamVid at 480x360; tests that need it are marked ``real_data``."""
    folder = os.environ.get("CCNET3D_CAMVID", "")
    if not folder:
        pytest.skip("CCNET3D_CAMVID does not name a folder with CamVid")
    return Path(folder).resolve()


def draw_scene(number: int, height: int = 48, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Draw a moving box and a rail on noisy ground; return RGB and class ids 0 to 2 with a void border (255)."""
    random = np.random.default_rng(number)
    label = np.zeros((height, width), np.uint8)
    left = 4 + 3 * number % (width - 24)
    label[12:30, left : left + 16] = 1
    label[34:38] = 2
    image = np.array([[90, 140, 60], [200, 40, 40], [40, 40, 220]])[label]
    image = np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    label[:2] = 255
    return image, label


def write_sequence(root: Path, sequence: str, numbers: list[int]) -> None:
    """Write frames and labels of a sequence with the given frame numbers."""
    for folder in ("frames", "labels"):
        (root / folder / sequence).mkdir(parents=True)
    for number in numbers:
        image, label = draw_scene(number)
        Image.fromarray(image).save(root / "frames" / sequence / f"{number:04d}.png")
        Image.fromarray(label).save(root / "labels" / sequence / f"{number:04d}.png")


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A user's dataset: three classes, three sequences, a dataset.toml."""
    root = tmp_path / "yard"
    write_sequence(root, "walk", [1, 2, 3, 4, 5, 6, 7])
    write_sequence(root, "yard_2", [10, 12, 14, 16])
    write_sequence(root, "night", [1, 3, 5])
    (root / "dataset.toml").write_text(THREE_CLASSES)
    return root


@pytest.fixture
def tiny_info() -> ModelInfo:
    return ModelInfo(
        model=TINY,
        class_names=("ground", "box", "rail"),
        palette=((90, 140, 60), (200, 40, 40), (40, 40, 220)),
        clip_length=3,
        input_size=(32, 48),
        dataset="yard, split train",
    )


@pytest.fixture
def tiny_model() -> CCNet3D:
    """A model with random weights and batch norm statistics that are not the initial ones."""
    torch.manual_seed(0)
    model = CCNet3D(TINY)
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model.forward_with_auxiliary(torch.rand(2, 2, 3, 64, 96))
    return model.eval()


@pytest.fixture
def torn_model(tiny_model: CCNet3D) -> CCNet3D:
    """A tiny model with standardized logits, so that all classes occur all over its masks."""
    frames = torch.stack([torch.from_numpy(draw_scene(number)[0]).permute(2, 0, 1) for number in range(4)])
    with torch.no_grad():
        logits = tiny_model(frames[None].float() / 255)[0]  # [T, K, H, W]
        deviation, mean = logits.std((0, 2, 3)), logits.mean((0, 2, 3))
        classifier = tiny_model.classifier
        classifier.weight /= deviation.view(-1, 1, 1, 1)
        assert classifier.bias is not None
        classifier.bias.sub_(mean).div_(deviation)
    return tiny_model


@pytest.fixture
def tiny_checkpoint(tmp_path: Path, tiny_model: CCNet3D, tiny_info: ModelInfo) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(path, tiny_model, tiny_info)
    return path


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Processes of the commands without the time that the import of PyTorch takes."""
    server = Commands()
    yield server
    server.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Avoid threads that wait for each other at every small layer on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


MakeVideo = Callable[..., Path]


@pytest.fixture
def make_video(tmp_path: Path) -> MakeVideo:
    """Return a function that writes a video with PyAV, independently of the package's writer."""

    def make(
        name: str = "clip.mp4",
        frames: int = 7,
        height: int = 48,
        width: int = 64,
        codec: str = "libx264",
        pts: Sequence[int] | None = None,
    ) -> Path:
        import av

        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for index in range(frames):
                frame = av.VideoFrame.from_ndarray(draw_scene(index, height, width)[0], format="rgb24")
                frame.pts = index if pts is None else pts[index]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return make
