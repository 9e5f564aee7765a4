"""Code on its way to a run, and results on their way back: what goes, what stays, what is refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from dstack_jupyter.client import pack as pack_module
from dstack_jupyter.client.pack import Packed, pack, pack_task
from dstack_jupyter.client.unpack import unpack
from dstack_jupyter.models.configurations import TaskConfiguration
from dstack_jupyter.models.errors import ConfigurationError, LimitExceeded, NotFound


def names(packed: Packed) -> list[str]:
    with tarfile.open(packed.path) as tar:
        return sorted(tar.getnames())


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_a_work_tree_goes_with_new_and_changed_files_and_without_ignored_and_deleted_ones(tmp_path: Path) -> None:
    fill(tmp_path, "a.py", "gone.py", "data/big.bin", "sub/b.py", "notes.md")
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / ".dstackignore").write_text("*.md\n")
    git(tmp_path, "init")
    git(tmp_path, "add", "a.py", "gone.py", ".gitignore")
    git(tmp_path, "commit", "-m", "x")
    (tmp_path / "gone.py").unlink()
    (tmp_path / "a.py").write_text("changed")
    packed = pack(".", ".", tmp_path, ignore=True)
    assert names(packed) == [".dstackignore", ".gitignore", "a.py", "sub/b.py"]
    with tarfile.open(packed.path) as tar:
        member = tar.extractfile("a.py")
        assert member is not None
        assert member.read() == b"changed"


def test_a_plain_folder_honours_nested_ignore_files(tmp_path: Path) -> None:
    fill(tmp_path, "a.py", "x.log", "sub/b.py", "sub/c.tmp", "other/c.tmp", ".git/config")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / "sub" / ".gitignore").write_text("*.tmp\n")
    assert names(pack(".", ".", tmp_path, ignore=True)) == [".gitignore", "a.py", "other/c.tmp", "sub/.gitignore", "sub/b.py"]


def test_the_same_content_is_the_same_archive(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        fill(tmp_path / folder, "a.py", "sub/b.py")
        for file in (tmp_path / folder).rglob("*"):
            os.utime(file, (1, 1))
    first, second = (pack(folder, ".", tmp_path, ignore=False) for folder in ("one", "two"))
    assert first.sha256 == second.sha256
    with tarfile.open(first.path) as tar:
        assert {(m.uid, m.gid, m.uname) for m in tar} == {(0, 0, "")}


def test_files_arrive_under_their_own_or_the_given_name(tmp_path: Path) -> None:
    fill(tmp_path, "train.py", "conf/a.yml")
    task = TaskConfiguration.model_validate(
        {"type": "task", "commands": ["x"], "files": ["train.py", "train.py:src/main.py", "conf", "conf:settings"]}
    )
    found = [(packed.dest, names(packed)) for packed in pack_task(task, tmp_path)]
    assert found == [(".", ["train.py"]), ("src", ["main.py"]), ("conf", ["a.yml"]), ("settings", ["a.yml"])]


def test_a_missing_file_names_the_near_one(tmp_path: Path) -> None:
    fill(tmp_path, "train.py")
    with pytest.raises(NotFound, match="'trian.py'") as caught:
        pack("trian.py", None, tmp_path, ignore=False)
    assert "train.py" in caught.value.hint


def test_a_link_that_leads_out_is_refused_and_one_inside_is_kept(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.py")
    (tmp_path / "in" / "inner").symlink_to("a.py")
    assert names(pack("in", ".", tmp_path, ignore=False)) == ["a.py", "inner"]
    (tmp_path / "in" / "outer").symlink_to("/etc/passwd")
    with pytest.raises(ConfigurationError, match="leads out"):
        pack("in", ".", tmp_path, ignore=False)


def test_a_pipe_cannot_be_sent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigurationError, match="neither a file nor a link"):
        pack(".", ".", tmp_path, ignore=False)


def test_too_much_is_refused_before_it_is_packed_and_names_the_heaviest(tmp_path: Path) -> None:
    fill(tmp_path, "small.py")
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "sparse.bin").open("wb") as file:
        file.truncate(pack_module.LARGEST + 1)
    with pytest.raises(LimitExceeded, match="1 GiB can be sent") as caught:
        pack(".", ".", tmp_path, ignore=False)
    assert caught.value.hint.startswith("largest: data (1024 MiB)")


def tar_of(*members: tarfile.TarInfo) -> io.BytesIO:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    stream.seek(0)
    return stream


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "evil",
    [
        [member("../out")],
        [member("a/../../out")],
        [member("link", tarfile.SYMTYPE, "/etc/passwd")],
        [member("link", tarfile.SYMTYPE, ".."), member("link/out")],
        [member("link", tarfile.LNKTYPE, "../../etc/passwd")],
        [member("device", tarfile.CHRTYPE)],
        [member("pipe", tarfile.FIFOTYPE)],
    ],
    ids=["dotdot", "inner dotdot", "link out", "through a link", "hard link out", "device", "pipe"],
)
def test_results_cannot_be_written_outside(tmp_path: Path, evil: list[tarfile.TarInfo]) -> None:
    target = tmp_path / "deep" / "target"
    with pytest.raises(ConfigurationError):
        unpack(tar_of(*evil), target)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target"]


def test_an_absolute_name_lands_inside(tmp_path: Path) -> None:
    unpack(tar_of(member("/abs")), tmp_path)
    assert (tmp_path / "abs").exists()


def test_a_link_that_stood_there_before_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("safe")
    target = tmp_path / "target"
    target.mkdir()
    (target / "folder").symlink_to(outside)
    with pytest.raises(ConfigurationError, match="leads out"):
        unpack(tar_of(member("folder/victim")), target)
    (target / "victim").symlink_to(outside / "victim")
    unpack(tar_of(member("victim")), target)
    assert (outside / "victim").read_text() == "safe"


def test_a_stream_that_was_cut_says_so(tmp_path: Path) -> None:
    whole = tar_of(member("a"), member("b")).getvalue()
    with pytest.raises(ConfigurationError, match="did not arrive whole"):
        unpack(io.BytesIO(whole[:1000]), tmp_path)
