"""A world in memory for tests of the engine: virtual time, hosts and jobs that outlive every engine, faults on demand.

Never part of the package. ``machine.SimulatedMachine`` is held to the contract of real machines (tests/machines/contract.py).
"""
