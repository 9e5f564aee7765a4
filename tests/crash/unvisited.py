"""Points of the engine's source that the stories do not reach, each with the reason: ``module:function`` or the start of one.

The walker fails for a point that is neither reached nor excused, and for an excuse that is none any more.
"""

from __future__ import annotations

HTTP = "a handler calls one method of the service and passes on what it says; it stores nothing itself"
PROCESS = "who hosts an engine: tested by killing real servers (test_kill.py, tests/server)"
NOT_ASKED = "no part of submitting, running, reading logs or stopping; it stores nothing"
SSH_ONLY = "real connections only: tests/machines, tests/fleets"

UNVISITED = {
    "api:": HTTP,
    "cleanup:": "asked by a user, and nothing waits for it: tests/clouds/test_cleanup.py",
    "doctor:": NOT_ASKED,
    "forwards:": "ports of jobs: no simulated job has any, and nothing of them is stored (tests/fleets)",
    "fleet_service:FleetService.plan": NOT_ASKED,
    "fleet_service:FleetService.trust": NOT_ASKED,
    "handler:": HTTP,
    "host:": PROCESS,
    "machines:": SSH_ONLY,
    "service:Service.backends": NOT_ASKED,
    "service:Service.doctor": NOT_ASKED,
    "service:Service.machines": NOT_ASKED,
    "service:Service.pull": NOT_ASKED,
    "service:Service._turn": "no story submits so many runs at once; it only waits (tests/engine/test_engine.py)",
    "watchdog:": "looks only, and condemns in memory (tests/engine/test_policies.py)",
    "rotation:": NOT_ASKED,
    "sweeps:Sweeps.detach": "asked for by cleanup only",
    "service:Service.rotate_key": NOT_ASKED,
    "vendors:_Line._turn": "more calls at once than any story makes; it stores nothing (tests/engine/test_vendors.py)",
}

SHARED = "where several engines share a store: walked on PostgreSQL"
UNVISITED_ON = {
    "sqlite": {
        "archives:Archives.has": SHARED,
        "archives:Archives.put": SHARED,
        "engine:Engine.start": SHARED,
        "housekeeping:Housekeeping.sweep": SHARED,
        "archives:Archives.fetch": SHARED,
        "leasing:FleetLeases": SHARED,
        "relay:": SHARED,
        "service:Service._say_elsewhere": SHARED,
        "store.database:Database.write_aside": SHARED,
    },
    "postgresql": {
        "archives:Archives.fetch": "what another engine uploaded: tests/engine/test_leases.py",
        "archives:Archives.has": "asks the store only where another engine has the file: tests/engine/test_leases.py",
        "relay:Relay.stop": "wakes that are still being sent at the end",
        "relay:Relay._listen": "no network in a virtual loop; a wake that is not heard only delays (tests/engine/test_leases.py)",
        "leasing:StoreLease": "of SQLite",
    },
}
"""Those of one database."""
