"""Rented machines for a benchmark: a vendor in a process of its own, and machines that need no SSH."""
