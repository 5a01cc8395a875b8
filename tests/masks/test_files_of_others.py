"""Whatever a run meets in its output folder, and wherever it is killed: it changes only what a run wrote."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from masks.samples import PALETTE, invent, sequence_of

from ccnet3d.errors import UserError
from ccnet3d.journal import lock_folder, relative_name
from ccnet3d.masks import FORMATS, RunFolder
from ccnet3d.masks.npz_format import NPZ

FRAMES = 5
EXIT_REFUSED, EXIT_KILLED = 3, 9

PLACES = [
    "000000.png", "000001.png", "000003.PNG", "123456.png", "0000002.png", "notes.txt", "masks.npz", "masks.mkv",
    "cvat.zip", "summary.json", "over.mp4", ".notes.partial", ".000001.png.partial", ".photo.png.0123abcd.partial",
    ".masks/000001.png", ".masks/notes.txt", ".masks", "probabilities", "probabilities/000000.npz",
    "probabilities/000999.npz", "probabilities/.x.npz.89abcdef.partial", ".ccnet3d-lock", ".ccnet3d-run.jsonl",
    ".ccnet3d-run.json", "report.html",
]  # fmt: skip
CONTENTS = [b"mine", b"[]", b'"x"\n', b'{"a": 1}']
"""None is a summary or the journal of a run."""


def snapshot(folder: Path) -> dict[str, tuple[str, bytes, int]]:
    """Everything in a folder, links unfollowed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            entry = ("link", os.fsencode(path.readlink()), 0)
        else:
            entry = ("folder", b"", mode) if stat.S_ISDIR(mode) else ("file", path.read_bytes(), mode)
        found[path.relative_to(folder).as_posix()] = entry
    return found


def plant(random: Random, yard: Path) -> set[str]:
    """Put some files, folders and links of the user into the output folder; return their names."""
    out, names = yard / "out", set()
    journals = [path for path in out.glob(".ccnet3d-run.jsonl") if path.is_file()]
    known = {line for path in journals for line in path.read_text().splitlines()[1:]}
    for name in random.sample(PLACES, random.choice([0, 0, 1, 3])):
        path = out / name
        parents = [parent for parent in path.parents if out in parent.parents and os.path.lexists(parent)]
        beneath_folders = all(stat.S_ISDIR(parent.lstat().st_mode) for parent in parents)
        if os.path.lexists(path) or json.dumps(name) in known or not beneath_folders:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = random.choice(["file", "file", "file", "link", "dangling", "folder"])
        if kind == "file":
            path.write_bytes(random.choice(CONTENTS))
        elif kind == "folder":
            path.mkdir()
            (path / "inside.txt").write_text("mine")
            names.add(f"{name}/inside.txt")
        else:
            path.symlink_to(yard / random.choice(["elsewhere", "elsewhere/000001.png"] if kind == "link" else ["gone"]))
        names |= {name}
    return names


def do_run(out: Path, name: str, options: dict[str, Any], *, probabilities: bool, overlay: Path) -> None:
    """Write what a run writes; a frame's mask is made from its index."""
    run = RunFolder(out, FORMATS[name])
    settings = {"format": name, "probabilities": probabilities, "overlay": relative_name(out, overlay)}
    if options["resume"] and run.read_summary() is not None:
        run.finish()
        return
    with lock_folder(out):
        saved = run.begin(settings, beside=[overlay], frames=range(FRAMES), **options)
        run.claim(overlay)
        assert saved == list(range(len(saved)))
        for index in range(len(saved), FRAMES):
            if probabilities:
                run.write_probabilities(index, np.full((2, 1, 1), index, np.uint8))
            run.write_mask(index, invent(3, 4, index), PALETTE)
        run.claim(overlay)
        unfinished = overlay.with_name(".over.mp4.01234567.partial")
        unfinished.write_bytes(b"an overlay")
        os.replace(unfinished, overlay)
        run.write_file(sequence_of([(index, invent(3, 4, index)) for index in range(FRAMES)]))
        run.complete(
            {"frames": FRAMES, "format": name, "settings": settings, "overlay_file": relative_name(out, overlay)}
        )


def in_a_fork(work: Callable[[], None], kill_at: int | None = None) -> int:
    """Return the exit code of some work, killed before one of its changes to the disk."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    changes = iter(range(1 << 30))

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **options: Any) -> Any:
            if next(changes) == kill_at:
                os._exit(EXIT_KILLED)
            return call(*arguments, **options)

        return change

    for name in ("replace", "unlink", "write", "mkdir", "rmdir", "open", "truncate"):
        setattr(os, name, counted(getattr(os, name)))
    try:
        work()
    except UserError:
        os._exit(EXIT_REFUSED)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("seed", range(24))
def test_only_what_a_run_wrote_changes(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    elsewhere, out = tmp_path / "elsewhere", tmp_path / "out"
    for path in (elsewhere / "000001.png", elsewhere / ".000001.png.0123abcd.partial"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine, elsewhere")
    out.mkdir()
    (tmp_path / "over").mkdir()
    afar = snapshot(elsewhere)
    theirs: set[str] = set()
    for _ in range(5):
        theirs |= plant(random, tmp_path)
        before = snapshot(out)
        name = random.choice(["png", "png", "npz"])
        options = random.choice([(False, False), (True, False), (True, False), (False, True), (False, True)])
        flags = {"resume": options[0], "overwrite": options[1]}
        kill_at = random.choice([None, random.randrange(60)])
        parts = {
            "probabilities": random.random() < 0.4,
            "overlay": random.choice([out, tmp_path / "over"]) / "over.mp4",
        }
        code = in_a_fork(partial(do_run, out, name, flags, **parts), kill_at)
        after = snapshot(out)
        assert code in (0, EXIT_REFUSED, EXIT_KILLED)
        assert snapshot(elsewhere) == afar
        for path in theirs:
            assert after.get(path) == before[path], path
        if code == EXIT_REFUSED:
            left = {path for path in before if not path.endswith(".partial") and path != ".ccnet3d-lock"}
            assert {path: after.get(path) for path in left} == {path: before[path] for path in left}
        if code == 0:
            assert not any(path.startswith(".ccnet3d-run") for path in set(after) - theirs)
            assert json.loads(after["summary.json"][1])["frames"] == FRAMES
    shutil.rmtree(out)


def test_a_run_that_is_killed_anywhere_is_resumed_or_replaced(tmp_path: Path) -> None:
    """Before each of its changes to the disk, of a first run and of one that replaces another."""

    def work(out: Path, **options: bool) -> Callable[[], None]:
        flags = {"resume": False, "overwrite": False, **options}
        return partial(do_run, out, "npz", flags, probabilities=True, overlay=out / "over.mp4")

    assert in_a_fork(work(tmp_path / "whole")) == 0
    whole = snapshot(tmp_path / "whole")
    assert sorted(name for name, entry in whole.items() if entry[0] == "file" and "/" not in name) == [
        "masks.npz", "over.mp4", "summary.json",
    ]  # fmt: skip
    for again in (False, True):
        kill_at, code = 0, EXIT_KILLED
        while code == EXIT_KILLED:
            out = tmp_path / f"{again}-{kill_at}"
            if again:
                assert in_a_fork(work(out)) == 0
            code = in_a_fork(work(out, overwrite=again), kill_at)
            ending = {"overwrite": True} if kill_at % 3 == 2 else {"resume": True}
            assert in_a_fork(work(out, **ending)) == 0
            assert snapshot(out) == whole
            shutil.rmtree(out)
            kill_at += 5 if again else 4
        assert kill_at > 40


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that any user can reach, as pytest's own belong to one."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("part", [".", "probabilities", ".masks"])
def test_read_only_parts_are_refused_before_anything_changes(open_folder: Path, part: str) -> None:
    out = open_folder / "out"
    for name in ("probabilities/000999.npz", ".masks/notes.txt"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"mine")
    if os.geteuid() == 0:
        for path in (out, *out.rglob("*")):
            os.chown(path, 65534, 65534)
    (out / part).chmod(0o555)
    before = snapshot(out)

    def work() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        with pytest.raises(UserError, match=r"cannot use the output folder .*: Permission denied"):
            do_run(out, "npz", {"resume": False, "overwrite": True}, probabilities=True, overlay=out / "over.mp4")

    assert in_a_fork(work) == 0
    assert snapshot(out) == before
    (out / part).chmod(0o755)


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with lock_folder(out):
            os.write(writer, b"!")
            while True:
                signal.pause()
    assert os.read(reader, 1) == b"!"
    with pytest.raises(UserError, match=r"another run is writing to .*out; wait until it ends, or give another folder"):
        do_run(out, "png", {"resume": True, "overwrite": False}, probabilities=False, overlay=out / "over.mp4")
    os.kill(child, 9)
    os.waitpid(child, 0)
    for end in (reader, writer):
        os.close(end)
    assert [path.name for path in out.iterdir()] == [".ccnet3d-lock"]
    with lock_folder(out):
        fork = os.fork()  # as a DataLoader makes them; it outlives the lock of its parent without keeping it
        if fork == 0:
            while True:
                signal.pause()
    with lock_folder(out):
        pass
    os.kill(fork, 9)
    os.waitpid(fork, 0)
    assert not (tmp_path / "new" / "out" / ".ccnet3d-lock").exists()


def test_a_lock_creates_no_folder_that_stays_empty(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    with lock_folder(tmp_path / "a" / "b"):
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_runs_of_earlier_versions(tmp_path: Path) -> None:
    """A complete one is replaced by what its summary says; an interrupted one left no list of its files."""
    for index in range(3):
        RunFolder(tmp_path).write_mask(index, invent(2, 2), PALETTE)
    for name in ("000007.png", "None", "over.mp4"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "summary.json").write_text(json.dumps({"frames": 3, "classes": []}))
    run = RunFolder(tmp_path, NPZ)
    with pytest.raises(UserError, match="contains the masks of an earlier run"):
        run.begin({}, resume=True, overwrite=False)
    assert run.begin({}, resume=False, overwrite=True) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".ccnet3d-run.jsonl", ".masks", "000007.png", "None", "over.mp4",
    ]  # fmt: skip
    early = tmp_path / "early"
    early.mkdir()
    (early / ".ccnet3d-run.json").write_text("{}")
    for resume in (False, True):
        with pytest.raises(UserError, match="an interrupted run of an earlier version of ccnet3d.*another folder"):
            RunFolder(early).begin({}, resume=resume, overwrite=not resume)
