"""Videos and outputs by URL, against the files of a local run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import MakeVideo

from ccnet3d.cli.infer import main
from ccnet3d.errors import UserError
from ccnet3d.inference import is_remote, local_job, plan_all_jobs
from ccnet3d.inference.remote_store import Store


@pytest.fixture
def memory() -> Iterator[Any]:
    """An empty store in the memory of this process."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def remote_tree(files: Any, folder: str) -> dict[str, bytes]:
    return {name.removeprefix(f"/{folder}/"): files.cat_file(name) for name in files.find(folder)}


def put(files: Any, path: Path, url: str) -> str:
    files.pipe_file(url, path.read_bytes())
    return url


OPTIONS = [
    ["--save-probabilities"],
    ["--format", "npz", "--smooth", "1"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_remote_outputs_equal_local_ones(
    memory: Any, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, options: list[str], capsys
) -> None:
    names = ("a.mp4", "b.mp4")
    videos = [make_video(name, frames=frames) for name, frames in zip(names, (5, 4), strict=True)]
    for path in videos:
        put(memory, path, f"memory://bucket/in/{path.name}")
    memory.pipe_file("memory://bucket/in/notes.txt", b"mine")
    common = ["--checkpoint", str(tiny_checkpoint), *options]
    local = [*map(str, videos), "-o", str(tmp_path / "out"), "--overlay", str(tmp_path / "out" / "overlays")]
    assert main([*local, *common]) == 0
    expected = tree(tmp_path / "out")
    capsys.readouterr()
    for number, source in enumerate(["memory://bucket/in", "memory://bucket/in/", "memory://bucket/in/*"]):
        out = f"memory://bucket/out{number}/masks"
        assert main([source, "-o", out, "--overlay", f"{out}/overlays/", *common]) == 0
        shown = capsys.readouterr()
        assert shown.out == f"5 masks of 64x48 in {out}/a\n4 masks of 64x48 in {out}/b\n"
        assert shown.err == f"ccnet3d-infer: warning: {source} is read as videos; left out: notes.txt\n"
        assert remote_tree(memory, f"bucket/out{number}/masks") == expected


def test_a_single_remote_video_and_the_order_of_the_upload(
    memory: Any, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    put(memory, make_video("a.mp4", frames=3), "memory://bucket/a.mp4")
    uploaded: list[str] = []
    upload, remove = Store.upload, Store.remove
    monkeypatch.setattr(
        Store, "upload", lambda self, files: (uploaded.extend(u for _, u in files), upload(self, files))
    )
    monkeypatch.setattr(
        Store, "remove", lambda self, urls: (uploaded.extend(f"-{u}" for u in urls), remove(self, urls))
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", None)
    command = ["memory://bucket/a.mp4", "-o", "memory://bucket/masks", "--checkpoint", str(tiny_checkpoint), "-q"]
    assert main(command) == 0
    journal, summary = "memory://bucket/masks/.ccnet3d-run.jsonl", "memory://bucket/masks/summary.json"
    masks = [f"memory://bucket/masks/{number:06d}.png" for number in range(3)]
    assert uploaded == [journal, *masks, summary, f"-{journal}"]
    assert list((tmp_path / "temporary").iterdir()) == []
    uploaded.clear()
    assert main([*command, "--end", "2", "--overwrite"]) == 0
    assert uploaded == [journal, f"-{summary}", *masks[:2], f"-{masks[2]}", summary, f"-{journal}"]


def test_earlier_runs_and_files_of_others(memory: Any, make_video: MakeVideo, tiny_checkpoint: Path, capsys) -> None:
    put(memory, make_video("a.mp4", frames=3), "memory://bucket/a.mp4")
    command = ["memory://bucket/a.mp4", "-o", "memory://bucket/masks", "--checkpoint", str(tiny_checkpoint), "-q"]
    memory.pipe_file("memory://bucket/masks/000001.png", b"mine")
    for option in ([], ["--resume"], ["--overwrite"]):
        assert main([*command, *option]) == 2
        error = capsys.readouterr().err
        assert "memory://bucket/masks/000001.png exists, and is a file that ccnet3d did not write there" in error
        assert "/tmp" not in error
    assert remote_tree(memory, "bucket/masks") == {"000001.png": b"mine"}
    memory.mv("/bucket/masks/000001.png", "/bucket/masks/000009.png")
    assert main(command) == 0
    before = remote_tree(memory, "bucket/masks")
    assert set(before) == {"000000.png", "000001.png", "000002.png", "000009.png", "summary.json"}
    assert main(command) == 2
    assert "memory://bucket/masks contains the masks of an earlier run" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert main([*command, "--resume", "--clip-length", "2"]) == 2
    assert "the run in memory://bucket/masks had clip_length = 3, now it is 2" in capsys.readouterr().err
    assert remote_tree(memory, "bucket/masks") == before
    assert main([*command, "--format", "npz", "--overwrite"]) == 0
    assert set(remote_tree(memory, "bucket/masks")) == {"000009.png", "masks.npz", "summary.json"}


@pytest.mark.parametrize("again", ["--resume", "--overwrite"])
@pytest.mark.parametrize("replacing", [False, True])
def test_interrupted_uploads(
    memory: Any, make_video: MakeVideo, tiny_checkpoint: Path, monkeypatch, capsys, again: str, replacing: bool
) -> None:
    put(memory, make_video("a.mp4", frames=4), "memory://bucket/a.mp4")
    command = ["memory://bucket/a.mp4", "-q", "--checkpoint", str(tiny_checkpoint), "-o"]
    assert main([*command, "memory://bucket/whole"]) == 0
    overlay = ["--overlay", "memory://bucket/over.mp4"]
    if replacing:
        assert main([*command, "memory://bucket/masks", "--clip-length", "1", *overlay]) == 0
    upload = Store.upload

    def fail(self: Store, files: list[tuple[Path, str]]) -> None:
        upload(self, files[:2])
        if len(files) > 2:
            raise UserError("the connection is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "upload", fail)
        assert main([*command, "memory://bucket/masks", *(["--overwrite"] if replacing else [])]) == 2
    left = remote_tree(memory, "bucket/masks")
    assert "summary.json" not in left
    assert ".ccnet3d-run.jsonl" in left
    capsys.readouterr()
    assert main([*command, "memory://bucket/masks"]) == 2
    assert "memory://bucket/masks contains masks of a run whose upload was interrupted" in capsys.readouterr().err
    assert main([*command, "memory://bucket/masks", again]) == 0
    assert remote_tree(memory, "bucket/masks") == remote_tree(memory, "bucket/whole")


def test_a_journal_cannot_lead_elsewhere(
    memory: Any, make_video: MakeVideo, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    put(memory, make_video("a.mp4", frames=2), "memory://bucket/a.mp4")
    memory.pipe_file("memory://bucket/mine.png", b"mine")
    (tmp_path / "mine.png").write_bytes(b"mine")
    names = ["../mine.png", str(tmp_path / "mine.png"), "../../../../../../../../etc/passwd"]
    lines = [{"settings": {}}, *names]
    memory.pipe_file("memory://bucket/masks/.ccnet3d-run.jsonl", "".join(f"{json.dumps(x)}\n" for x in lines).encode())
    out = ["-o", "memory://bucket/masks", "--checkpoint", str(tiny_checkpoint), "-q", "--resume"]
    assert main(["memory://bucket/a.mp4", *out]) == 0
    assert memory.cat_file("memory://bucket/mine.png") == b"mine"
    assert (tmp_path / "mine.png").read_bytes() == b"mine"


def test_errors_name_the_url_as_typed(memory: Any, tiny_checkpoint: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    memory.pipe_file("memory://bucket/broken.mp4", b"no video" * 100)
    memory.pipe_file("memory://bucket/notes/a.txt", b"mine")
    out = ["-o", "memory://bucket/masks", "--checkpoint", str(tiny_checkpoint)]
    for source, message in [
        ("memory://bucket/broken.mp4", "memory://bucket/broken.mp4 cannot be read as a video"),
        ("memory://bucket/none.mp4", "cannot use memory://bucket/none.mp4: there is no such file, folder or bucket"),
        ("memory://bucket/none/*.mp4", "there is no file, folder or match of memory://bucket/none/*.mp4"),
        ("memory://bucket/notes", "memory://bucket/notes contains no video (only a.txt)"),
        ("memory://bucket/../x.mp4", "expected a URL such as memory://bucket/folder, got 'memory://bucket/../x.mp4'"),
    ]:
        assert main([source, *out]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
    assert memory.find("bucket/masks") == []
    assert main(["a.mp4", *out, "--overlay", str(tmp_path / "over.mp4")]) == 2
    assert "must be both local or in the same store" in capsys.readouterr().err
    assert main(["a.mp4", *out, "--piece-frames", "100"]) == 2
    assert "--piece-frames needs a local output folder" in capsys.readouterr().err

    def missing(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    assert main(["s3://bucket/a.mp4", *out]) == 2
    assert "s3://bucket/a.mp4 needs a package; run: pip install 'ccnet3d[s3]'" in capsys.readouterr().err


def test_a_store_without_rights(
    make_video: MakeVideo, tiny_checkpoint: Path, monkeypatch, capsys, tmp_path: Path
) -> None:
    class NoCredentialsError(Exception):
        """As botocore has it, which is not an OSError."""

    NoCredentialsError.__module__ = "botocore.exceptions"

    class Files:
        def invalidate_cache(self) -> None:
            pass

        def info(self, url: str) -> None:
            if url == "s3://missing":
                raise FileNotFoundError(url)
            raise (PermissionError("Access Denied") if "denied" in url else NoCredentialsError("Unable to locate\nit"))

    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: Files())
    for bucket, reason in [("denied", "Access Denied"), ("anonymous", "Unable to locate")]:
        assert main([f"s3://{bucket}/a.mp4", "-o", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert f"error: cannot use s3://{bucket}/a.mp4: {reason}; check the name, your credentials" in error
        assert error.count("\n") == 1
    assert main([str(make_video(frames=2)), "-o", "s3://missing/out", "--checkpoint", str(tiny_checkpoint)]) == 2
    shown = capsys.readouterr()
    assert "cannot use s3://missing/out: there is no such file, folder or bucket" in shown.err
    assert shown.out == ""  # it is found before the video is segmented


def test_a_file_that_is_too_large_for_the_disk(memory: Any, tmp_path: Path, monkeypatch) -> None:
    memory.pipe_file("memory://bucket/a.mp4", b"x" * 5)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5})())
    (job,) = plan_all_jobs(["memory://bucket/a.mp4"], tmp_path / "out")
    expected = pytest.raises(UserError, match=r"memory://bucket/a.mp4 has 0 MiB.* in the environment variable TMPDIR")
    with expected, local_job(job):
        pass


def test_names_of_remote_jobs(memory: Any, tmp_path: Path) -> None:
    for name in ("x/walk.mp4", "y/walk.mp4", "z[1].mov", ".hidden.mp4"):
        memory.pipe_file(f"memory://bucket/{name}", b"")
    inputs = ["memory://bucket/x/walk.mp4", "memory://bucket/y/walk.mp4", "memory://bucket"]
    jobs = plan_all_jobs(inputs, "s3://out/masks", "s3://out/overlays")
    assert [job.output for job in jobs] == [f"s3://out/masks/{name}" for name in ("x_walk.mp4", "y_walk.mp4", "z[1]")]
    assert [job.name for job in jobs] == [*inputs[:2], "memory://bucket/z[1].mov"]
    assert jobs[2].overlay == Path("out/overlays/z[1].mp4")
    (job,) = plan_all_jobs(["memory://bucket/x"], tmp_path)
    assert job.output == str(tmp_path / "walk")
    assert [is_remote(text) for text in ("https://a/b.mp4", "s3:/a", "gs://a/b", "frames/*.png")] == [
        False,
        False,
        True,
        False,
    ]
