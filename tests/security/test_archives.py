"""Tar streams that nobody meant well: nothing outside the target changes, no device appears, only errors of ours are raised."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dstack_jupyter.client.pack import pack
from dstack_jupyter.client.unpack import unpack
from dstack_jupyter.machines import job_folder
from dstack_jupyter.machines.base import Archive
from dstack_jupyter.models.errors import DstackJupyterError

NAMES = [
    "a",
    "A",
    "b",
    "d",
    "d/a",
    "d/e/f",
    "d/..",
    "../out",
    "../outside/kept",
    "/etc/dj-canary",
    "..",
    ".",
    "./a",
    "d//a",
    "a/b",
    "l",
    "l/a",
    "l/l/a",
    "d/l/kept",
    "kept",
    "d/../../outside/kept",
    "h",
    "dir/l",
    "p/q/r/s",
    "p/q/r/s/kept",
]
NAMES += ["", "x" * 300, "\u202e", "a\0b"]
TARGETS = [*NAMES, "../outside", "../../outside", "../../../outside", "l/../../outside", "p/q/r/s/../../outside", "/", "/etc"]
TARGETS += ["../../../top"]
KINDS = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]

Member = tuple[str, bytes, str]
ANY_NAME = st.one_of(st.sampled_from(NAMES), st.text(max_size=12))
MEMBERS = st.lists(st.tuples(ANY_NAME, st.sampled_from(KINDS), st.sampled_from(TARGETS)), max_size=8)
SYM, REG, LNK = tarfile.SYMTYPE, tarfile.REGTYPE, tarfile.LNKTYPE


def archive(members: list[Member], format: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=format) as tar:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, 0o6777
            content = b"evil" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return data.getvalue()


def outside(folder: Path) -> Any:
    return sorted((str(path), path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in folder.rglob("*"))


def judge(act: Any, members: list[Member]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name).resolve()
        (base / "outside").mkdir()
        (base / "outside" / "kept").write_text("kept")
        target = base / "target"
        target.mkdir()
        before = outside(base / "outside")
        with contextlib.suppress(DstackJupyterError):
            act(archive(members), target)
        assert outside(base / "outside") == before
        assert sorted(os.listdir(base)) == ["outside", "target"]
        for path in target.rglob("*"):
            mode = path.lstat().st_mode
            assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode), path
            if stat.S_ISLNK(mode):
                assert Path(os.path.realpath(path)).is_relative_to(target), path
            else:
                assert not mode & (stat.S_ISUID | stat.S_ISGID), path
        assert not Path("/etc/dj-canary").exists()


def of_a_pull(data: bytes, target: Path) -> None:
    unpack(io.BytesIO(data), target)


def of_an_upload(data: bytes, target: Path) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        job_folder.unpack(Archive(Path(file.name), "."), target, {})


CHAINS: list[list[Member]] = [
    [("l", SYM, "../outside"), ("l/kept", REG, "")],
    [("l", SYM, "."), ("l/l", SYM, ".."), ("l/outside/kept", REG, "")],
    [("p/q/r/s", SYM, "../../../top"), ("top/a", REG, ""), ("l", SYM, "p/q/r/s/../../outside"), ("l/kept", REG, "")],
    [("l", SYM, "p/q/r/s/../../outside"), ("p/q/r/s", SYM, "../../../top"), ("h", LNK, "l"), ("h/kept", REG, "")],
    [("h", LNK, "../outside/kept"), ("h", REG, "")],
    [("l", SYM, "../outside/kept"), ("h", LNK, "l"), ("h", REG, "")],
]


@pytest.mark.parametrize("act", [of_a_pull, of_an_upload])
@pytest.mark.parametrize("members", CHAINS)
def test_chains_of_links_lead_nowhere(act: Any, members: list[Member]) -> None:
    judge(act, members)


@settings(max_examples=300, deadline=None)
@given(MEMBERS)
@example([("a", REG, ""), ("A", REG, ""), ("a/b", REG, "")])
def test_whatever_a_machine_sends_stays_in_its_folder(members: list[Member]) -> None:
    judge(of_a_pull, members)


@settings(max_examples=150, deadline=None)
@given(MEMBERS)
def test_whatever_is_uploaded_stays_in_its_folder(members: list[Member]) -> None:
    judge(of_an_upload, members)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.integers(0, 2000))
def test_a_stream_that_is_no_archive_or_was_cut(noise: bytes, at: int) -> None:
    whole = archive([("a", REG, ""), ("d/e", REG, "")])
    for data in (noise, whole[:at], whole[:at] + noise + whole[at:]):
        with tempfile.TemporaryDirectory() as name:
            try:
                unpack(io.BytesIO(data), Path(name) / "to")
            except DstackJupyterError:
                continue


def test_a_file_with_a_second_name_outside_is_replaced_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", target / "a")
    unpack(io.BytesIO(archive([("a", REG, "")])), target)
    assert ((tmp_path / "mine").read_text(), (target / "a").read_text()) == ("mine", "evil")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.text("ab\u00e9 '\"$`\\;&|<>*?[]{}()!#~-\t\n\u202e", min_size=1, max_size=12), min_size=1, max_size=5, unique=True)
)
def test_whatever_a_file_is_called_it_arrives(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for number, each in enumerate(names):
            (base / "from" / each).parent.mkdir(exist_ok=True)
            (base / "from" / each).write_text(str(number))
        packed = pack("from", ".", base, ignore=False)
        try:
            job_folder.unpack(Archive(packed.path, packed.dest), base / "to", {})
        finally:
            packed.path.unlink()
        assert {path.name: path.read_text() for path in (base / "to").iterdir()} == {each: str(i) for i, each in enumerate(names)}
