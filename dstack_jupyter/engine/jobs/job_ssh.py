"""SSH inside jobs: between the nodes of a run, and into a dev environment. Pure functions that make files for the job folder.

The job's own sshd, where its image has one, with keys of the run only; ``ssh`` finds it by a wrapper on PATH, so that nobody's
~/.ssh is touched. Every host key is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..keys.ssh_keys import Keys

PORT = 10022
"""Of a job's sshd, as in dstack."""


@dataclass(frozen=True, slots=True)
class Node:
    rank: int
    address: str
    gpus: int
    port: int = PORT


PREPARE = r"""
mkdir -p "$folder/ssh/bin" && chmod 700 "$folder/ssh"
for file in "$folder"/ssh_*; do
    inner=$folder/ssh/${file##*/}
    cat "$file" >"$inner" && chmod 600 "$inner"
done
sed "s|FOLDER|$folder/ssh|g" "$folder/ssh_client" >"$folder/ssh/ssh_client"
sed "s|FOLDER|$folder/ssh|g" "$folder/ssh_server" >"$folder/ssh/ssh_server"
client=$(command -v ssh)
if [ -n "$client" ]; then
    printf '#!/bin/sh\nexec %s -F %s "$@"\n' "$client" "'$folder/ssh/ssh_client'" >"$folder/ssh/bin/ssh"
    chmod 700 "$folder/ssh/bin/ssh"
    PATH=$folder/ssh/bin:$PATH
    export PATH
fi
server=$(command -v sshd || { [ -x /usr/sbin/sshd ] && echo /usr/sbin/sshd; })
if [ -n "$server" ]; then
    [ "$(id -u)" = 0 ] && mkdir -p /run/sshd
    "$server" -D -f "$folder/ssh/ssh_server" 2>"$folder/ssh/log" &
else
    echo "note: there is no sshd here, so SSH MISSING does not work" >&2
fi
DSTACK_MPI_HOSTFILE=$folder/mpi_hosts
export DSTACK_MPI_HOSTFILE
"""


def prepare_script(missing: str) -> str:
    """What runs before a job's commands; ``missing`` says what a machine without sshd lacks."""
    return PREPARE.replace("MISSING", missing)


def ssh_files(keys: Keys, run_id: str, run_name: str, rank: int, nodes: Sequence[Node]) -> dict[str, str]:
    """The files that ``prepare_script`` needs, for node ``rank``."""
    pair = keys.of_run(run_id, "nodes")
    here = nodes[rank]
    known = "".join(f"[{node.address}]:{node.port} {keys.of_run(run_id, f'host-{node.rank}').public}\n" for node in nodes)
    client = "".join(
        f"Host node-{node.rank} {run_name}-{node.rank} {node.address}\n  HostName {node.address}\n  Port {node.port}\n"
        for node in nodes
    )
    client += (
        "Host *\n  IdentityFile FOLDER/ssh_id\n  IdentitiesOnly yes\n  UserKnownHostsFile FOLDER/ssh_known\n"
        "  StrictHostKeyChecking yes\n  LogLevel ERROR\n"
    )
    server = (
        f"Port {here.port}\nHostKey FOLDER/ssh_host\nAuthorizedKeysFile FOLDER/ssh_authorized\nPidFile none\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nStrictModes no\n"
        "AllowTcpForwarding yes\nSubsystem sftp internal-sftp\n"
    )
    return {
        "ssh_id": pair.private,
        "ssh_authorized": f"{pair.public}\n{keys.public}\n",
        "ssh_host": keys.of_run(run_id, f"host-{rank}").private,
        "ssh_known": known,
        "ssh_client": client,
        "ssh_server": server,
        "mpi_hosts": "".join(f"{node.address} slots={max(1, node.gpus)}\n" for node in nodes),
    }
