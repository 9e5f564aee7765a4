"""SSH fleets: no entry in config.yml, a key on each host."""

from __future__ import annotations

from ..config.account import Account, Guide, Permission

ACCOUNT = Account(
    guides={
        "key": Guide(
            steps=(
                "Apply a configuration of `type: fleet` with `ssh_config`: hosts, user, identity_file. config.yml has no entry.",
                "Put the public half of the key into authorized_keys of that user on each host; chmod 600 the private half.",
                "Without identity_file our own key is used: `~/.dstack/jupyter/keys/id_ed25519.pub` is its public half.",
                "For containers the user must be allowed to use Docker; without Docker jobs run as processes.",
            ),
            commands=("ssh-copy-id -i ~/.dstack/jupyter/keys/id_ed25519.pub <USER>@<HOST>", "sudo usermod -aG docker <USER>"),
            tool="ssh",
        ),
    },
    permissions=(
        Permission("login with the key"),
        Permission("use of Docker", "feature", "containers"),
    ),
    no_policy="the user of each host needs a login with the key, and the group docker for containers",
)
