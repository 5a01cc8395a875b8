from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ccnet3d.errors import OutputError, UserError
from ccnet3d.journal import Journal, claimed_folder, lock_folder


def test_names_survive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / ".journal"
    journal = Journal(path)
    journal.begin({"a": 1})
    for name in ("one.png", "line\nbreak.png", "ä.png"):
        journal.claim(tmp_path / name)
    with path.open("ab") as file:
        file.write(b'"tw')
    again = Journal(path)
    assert (again.header, again.names) == ({"a": 1}, {"one.png", "line\nbreak.png", "ä.png"})
    again.claim(tmp_path / "three.png")
    assert Journal(path).names == again.names | {"three.png"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b"{}\n1\n", b"\xff\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_journal(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".journal").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*\.journal: it is not a journal of this version of ccnet3d"):
        Journal(tmp_path / ".journal")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_a_journal_and_a_lock_are_files(tmp_path: Path, kind: str) -> None:
    for name in (".journal", ".ccnet3d-lock"):
        path = tmp_path / name
        {"folder": os.mkdir, "pipe": os.mkfifo, "link": lambda path: path.symlink_to(tmp_path / "gone")}[kind](path)
    with pytest.raises(UserError, match=r"cannot read"):
        Journal(tmp_path / ".journal")
    with pytest.raises(UserError, match=r"\.ccnet3d-lock|Is a directory"), lock_folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ccnet3d-lock", ".journal"]


def test_a_full_disk_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / ".journal")
    journal.begin({})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    with pytest.raises(OutputError, match="No space left on device"):
        journal.claim(tmp_path / "one.png")
    monkeypatch.undo()
    again = Journal(tmp_path / ".journal")
    again.claim(tmp_path / "one.png")
    assert Journal(tmp_path / ".journal").names == {"one.png"}


def test_files_of_a_folder_are_claimed_together(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "mine").write_text("mine")
    for _ in range(2):
        with claimed_folder(out, ["a", "b"]):
            for name in "ab":
                (out / name).write_text("theirs")
    (out / ".a.01234567.partial").touch()
    (out / ".c.01234567.partial").touch()
    (out / "c").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=r"c exists, and is a link that"), claimed_folder(out, ["a", "c"]):
        pass
    with claimed_folder(out, ["a"]):
        pass
    assert sorted(path.name for path in out.iterdir()) == [".c.01234567.partial", ".ccnet3d-files.jsonl", "a", "b", "c"]
    lines = (out / ".ccnet3d-files.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{}, "a", "b"]
