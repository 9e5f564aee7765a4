"""Real machines for the tests: sshd and Docker in network namespaces, images made from this machine, a registry."""
