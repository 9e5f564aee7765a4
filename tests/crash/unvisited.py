"""Points of the engine's source that the stories do not reach, each with the reason: ``module:function`` or the start of one.

The walker fails for a point that is neither reached nor excused, and for an excuse that is none any more.
"""

from __future__ import annotations

HTTP = "a handler calls one method of the service and passes on what it says; it stores nothing itself"
PROCESS = "who hosts an engine: tested by killing real servers (test_kill.py, tests/server)"
NOT_ASKED = "no part of submitting, running, reading logs or stopping; it stores nothing"
SSH_ONLY = "real connections only: tests/machines, tests/fleets"

UNVISITED = {
    "api.routes:": HTTP,
    "service.cleanup:": "asked by a user, and nothing waits for it: tests/clouds/test_cleanup.py",
    "service.doctor:": NOT_ASKED,
    "jobs.forwards:": "ports of jobs: no simulated job has any, and nothing of them is stored (tests/fleets)",
    "service.fleets:FleetService.plan": NOT_ASKED,
    "service.fleets:FleetService.trust": NOT_ASKED,
    "api.handler:": HTTP,
    "process.host:": PROCESS,
    "jobs.machines:": SSH_ONLY,
    "service.runs:Service.backends": NOT_ASKED,
    "service.runs:Service.doctor": NOT_ASKED,
    "service.runs:Service.machines": NOT_ASKED,
    "service.runs:Service.pull": NOT_ASKED,
    "service.runs:Service._turn": "no story submits so many runs at once; it only waits (tests/engine/test_engine.py)",
    "reconcilers.watchdog:": "looks only, and condemns in memory (tests/engine/test_policies.py)",
    "service.rotation:": NOT_ASKED,
    "reconcilers.sweep:Sweeps.detach": "asked for by cleanup only",
    "service.runs:Service.rotate_key": NOT_ASKED,
    "provisioning.vendor_calls:_Line._turn": "more calls at once than any story makes (tests/engine/test_vendors.py)",
}

SHARED = "where several engines share a store: walked on PostgreSQL"
UNVISITED_ON = {
    "sqlite": {
        "jobs.archives:Archives.has": SHARED,
        "jobs.archives:Archives.put": SHARED,
        "engine:Engine.start": SHARED,
        "reconcilers.housekeeping:Housekeeping.sweep": SHARED,
        "jobs.archives:Archives.fetch": SHARED,
        "runtime.leases:FleetLeases": SHARED,
        "runtime.relay:": SHARED,
        "service.runs:Service._say_elsewhere": SHARED,
        "store.database:Database.write_aside": SHARED,
    },
    "postgresql": {
        "jobs.archives:Archives.fetch": "what another engine uploaded: tests/engine/test_leases.py",
        "jobs.archives:Archives.has": "asks the store only where another engine has the file: tests/engine/test_leases.py",
        "runtime.relay:Relay.stop": "wakes that are still being sent at the end",
        "runtime.relay:Relay._listen": "no network in a virtual loop; a lost wake only delays (tests/engine/test_leases.py)",
        "runtime.leases:StoreLease": "of SQLite",
    },
}
"""Those of one database."""
