"""``python -m dstack_jupyter.engine``: the engine in a process of its own, for kernels without a Jupyter server.

Detached from whoever started it. Ends ten minutes after the last work or request, when a server asks for the lease, on SIGTERM.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
import signal
import sys
import threading
import time

from ..models.errors import DstackJupyterError
from ..models.home import Home
from ..models.secret import Redacting
from .process.host import EngineHost

IDLE = 600.0
ENV_LOG_LEVEL = "DSTACK_JUPYTER_LOG_LEVEL"
"""DEBUG says more in engine.log; it says no secrets, nor lets libraries say what they send."""
TALKATIVE = ("asyncssh", "azure", "boto3", "botocore", "google", "httpcore", "httpx", "kubernetes", "sqlalchemy", "urllib3")
"""Libraries that log headers, URLs or parameters below WARNING."""
ENV_IDLE = "DSTACK_JUPYTER_IDLE_EXIT"


def log_to(home: Home) -> None:
    """Log into engine.log of the home: 0600, two generations of 1 MiB."""
    os.chdir(home.create().root)  # a start folder may be unmounted or removed while we live
    os.umask(0o077)
    handler = logging.handlers.RotatingFileHandler(home.engine_log, maxBytes=1 << 20, backupCount=1)
    handler.setFormatter(Redacting("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    level = getattr(logging, os.environ.get(ENV_LOG_LEVEL, "INFO").upper(), logging.INFO)
    logging.basicConfig(level=level, handlers=[handler])
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def main() -> int:
    """Exit code 0 after a normal end, 1 if another engine holds the home, 2 if it cannot be used."""
    home = Home.default()
    log_to(home)
    log = logging.getLogger("dstack_jupyter.engine")
    ended = threading.Event()
    host = EngineHost(home, "process", released=ended.set)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    try:
        host.start()
    except DstackJupyterError as error:
        log.error("%s", error)
        return 2
    host.wait_ready(30)
    if not host.hosting:
        host.stop()
        return 1
    log.info("engine of %s, pid %d", home.root, os.getpid())
    patience = float(os.environ.get(ENV_IDLE, IDLE))
    last_work = time.monotonic()
    while not ended.wait(min(5.0, patience / 4)):
        if host.busy:
            last_work = time.monotonic()
        if time.monotonic() - max(last_work, host.last_request) > patience:
            log.info("idle: ending")
            break
    host.stop()
    log.info("ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
