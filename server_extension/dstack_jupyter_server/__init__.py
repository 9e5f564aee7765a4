"""The Jupyter server extension: hosts the engine, and opens its API to the browser behind Jupyter's own authentication.

Importing this package must stay cheap: Jupyter imports it at every start, wanted or not.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from .app import DstackServerApp

    return [{"module": "dstack_jupyter_server", "app": DstackServerApp}]
