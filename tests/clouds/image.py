"""The disk image of the simulated clouds' real machines: Debian with systemd, cloud-init, sshd and Docker.

Made once for a recipe (about 40 s, needs Debian's mirror) and kept in this user's cache: ``python -m tests.clouds.image``.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = (
    "systemd-sysv", "dbus", "cloud-init", "openssh-server", "iproute2", "iptables", "sudo", "procps", "curl",
    "ca-certificates", "docker.io", "python3",
)  # fmt: skip

CLOUD_INIT = """\
# As the image of a vendor: root may not log in and there is a user of the distribution, until user-data says otherwise.
datasource_list: [NoCloud, None]
network: {config: disabled}
disable_root: true
apt_preserve_sources_list: true
system_info:
  default_user: {name: debian, lock_passwd: true, shell: /bin/bash, groups: [sudo], sudo: ["ALL=(ALL) NOPASSWD:ALL"]}
cloud_init_modules: [bootcmd, write-files, set_hostname, update_etc_hosts, users-groups, ssh]
cloud_config_modules: [ssh-import-id, set-passwords, apt-configure, runcmd]
cloud_final_modules: [package-update-upgrade-install, scripts-per-once,
   scripts-per-boot, scripts-per-instance, scripts-user, final-message]
"""

DOCKER = """\
[Service]
# Inside a container the cgroup mounts are read-only at first.
ExecStartPre=-/bin/sh -c 'for d in /sys/fs/cgroup/*; do mountpoint -q $d && mount -o remount,rw,bind $d; done'
"""

MASKED = (
    "systemd-remount-fs.service", "systemd-networkd.service", "systemd-networkd-wait-online.service", "apt-daily.timer",
    "apt-daily-upgrade.timer", "e2scrub_all.timer", "e2scrub_reap.service", "fstrim.timer", "getty@tty1.service",
)  # fmt: skip

# What a hardware vendor's image has not got: host keys, a machine id, daemons that run before somebody asks for them.
FINISH = r"""
set -e
cp CLOUD_INIT "$1/etc/cloud/cloud.cfg.d/99-tests.cfg"
mkdir -p "$1/etc/systemd/system/docker.service.d"
cp DOCKER "$1/etc/systemd/system/docker.service.d/tests.conf"
rm -f "$1"/etc/ssh/ssh_host_*
for unit in docker containerd; do rm -f "$1/etc/systemd/system/multi-user.target.wants/$unit.service"; done
for unit in MASKED; do ln -sf /dev/null "$1/etc/systemd/system/$unit"; done
: > "$1/etc/machine-id"
"""

RECIPE = hashlib.sha256("\n".join([*PACKAGES, CLOUD_INIT, DOCKER, *MASKED, FINISH]).encode()).hexdigest()[:12]


CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dstack-jupyter-tests"
"""Of who runs the tests: a test's own HOME comes later."""


def image() -> Path:
    """The tar of the image, built if it is not there yet. Raises CalledProcessError where it cannot be built."""
    target = CACHE / f"instance-{RECIPE}.tar"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        there = Path(folder)
        (there / "cloud-init").write_text(CLOUD_INIT)
        (there / "docker").write_text(DOCKER)
        finish = (
            FINISH.replace("CLOUD_INIT", str(there / "cloud-init"))
            .replace("DOCKER", str(there / "docker"))
            .replace("MASKED", shlex.join(MASKED))
        )
        (there / "finish.sh").write_text(finish)
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                f'--customize-hook=sh {there / "finish.sh"} "$1"',
                "bookworm",
                str(there / "image.tar"),
            ],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        (there / "image.tar").replace(target)
    for old in CACHE.glob("instance-*.tar"):
        if old != target:
            old.unlink()
    return target


if __name__ == "__main__":
    sys.stdout.write(f"{image()}\n")
