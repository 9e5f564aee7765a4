"""Images without a registry: file systems packed from this machine's own files."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
from pathlib import Path

# Packages whose programs go into the Debian-like image, if they are installed here.
PACKAGES = [
    "bash",
    "coreutils",
    "dash",
    "debianutils",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libc-bin",
    "login",
    "mawk",
    "openssh-client",
    "openssh-server",
    "passwd",
    "procps",
    "sed",
    "tar",
    "util-linux",
]
PROGRAM = re.compile(r"/(?:usr/)?s?bin/[^/]+|/usr/lib/openssh/[^/]+")

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
sshd:x:103:65534::/run/sshd:/usr/sbin/nologin
app:x:1000:1000::/home/app:/bin/bash
"""
GROUP = "root:x:0:\ntty:x:5:\nutmp:x:43:\nnogroup:x:65534:\napp:x:1000:\n"
SHADOW = "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\nsshd:*:19000:0:99999:7:::\napp:*:19000:0:99999:7:::\n"
NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"


def busybox_image(folder: Path) -> Path:
    """A tar of 2 MB for `Host.load`: busybox under all its names, and /tmp. Made once for a folder."""
    target = folder / "busybox.tar"
    if not target.exists():
        names = subprocess.run(["busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
        with _Tree(target) as tree:
            tree.folder("bin", "etc", "root", "run", "var")
            tree.folder("tmp", mode=0o1777)
            tree.file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
            for name in names:
                if name != "busybox":
                    tree.link(f"bin/{name}", "busybox")
            tree.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
            tree.file("etc/group", b"root:x:0:\n")
    return target


def debian_like_image(folder: Path) -> Path:
    """A tar for `Host.load`: bash, coreutils, ps, ssh, sshd and the like, users root and app (1000). No Python, no apt."""
    target = folder / "debian.tar"
    if target.exists():
        return target
    # A package's list says /bin/x where merged /usr has /usr/bin/x. A package that isn't here is a line on stderr.
    listed = subprocess.run(["dpkg", "-L", *PACKAGES], capture_output=True, text=True, check=False).stdout.split("\n")
    programs = sorted({_real(path) for path in listed if PROGRAM.fullmatch(path) and os.path.isfile(path)})
    with _Tree(target) as tree:
        tree.folder(
            "etc", "etc/ssh", "home", "opt", "run", "run/sshd", "srv", "usr", "usr/bin", "usr/lib", "usr/lib64", "usr/sbin"
        )
        tree.folder("mnt", "proc", "sys", "dev", "var", "var/empty", "var/log", "var/lib", "usr/local", "usr/local/bin")
        tree.folder("tmp", "var/tmp", mode=0o1777)
        tree.folder("root", mode=0o700)
        tree.folder("home/app", mode=0o755, owner=1000)
        for name in ("bin", "sbin", "lib", "lib64"):
            tree.link(name, f"usr/{name}")
        tree.link("var/run", "/run")
        for path in [*programs, *_libraries(programs)]:
            name = path.removeprefix("/")
            if os.path.islink(path) and path in programs:
                tree.link(name, os.readlink(path))
            else:
                tree.file(name, Path(path).read_bytes(), os.stat(path).st_mode & 0o7777)
        for name, to in {"usr/bin/awk": "mawk", "usr/bin/which": "which.debianutils"}.items():
            tree.link(name, to)
        tree.file("etc/passwd", PASSWD.encode())
        tree.file("etc/group", GROUP.encode())
        tree.file("etc/shadow", SHADOW.encode(), 0o600)
        tree.file("etc/nsswitch.conf", NSSWITCH.encode())
        tree.file("etc/ssh/sshd_config", b"UsePAM no\nSubsystem sftp internal-sftp\n")
        tree.file("etc/os-release", Path("/etc/os-release").read_bytes())
        tree.file("etc/profile", b"export PATH\nPS1='$ '\n")
    return target


def _real(path: str) -> str:
    """The path with its folder's links resolved and its own kept."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _libraries(programs: list[str]) -> list[str]:
    """All shared libraries of the programs, the loader too, under the names they are looked for."""
    text = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout  # fails for scripts among them
    found = re.findall(r"(?:=> )?(/\S+) \(0x", text)
    return sorted({_real(path) for path in found})


class _Tree:
    """A tar that appears under its name only when it is whole."""

    def __init__(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._partial = target.with_name(f"{target.name}.{os.getpid()}")
        self._tar = tarfile.open(self._partial, "w")  # noqa: SIM115 - closed by __exit__
        self._names: set[str] = set()

    def __enter__(self) -> _Tree:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._tar.close()
        if kind is None:
            self._partial.replace(self._target)
        else:
            self._partial.unlink()

    def folder(self, *names: str, mode: int = 0o755, owner: int = 0) -> None:
        for name in names:
            self._add(name, tarfile.DIRTYPE, mode=mode, owner=owner)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            self._add("/".join(parts[:depth]), tarfile.DIRTYPE, mode=0o755)
        self._add(name, tarfile.REGTYPE, data, mode=mode)

    def link(self, name: str, to: str) -> None:
        self._add(name, tarfile.SYMTYPE, to=to, mode=0o777)

    def _add(self, name: str, kind: bytes, data: bytes = b"", *, mode: int, owner: int = 0, to: str = "") -> None:
        if name in self._names:
            return
        self._names.add(name)
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.linkname, entry.size = kind, mode, to, len(data)
        entry.uid = entry.gid = owner
        self._tar.addfile(entry, io.BytesIO(data))
