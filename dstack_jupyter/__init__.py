"""GPU provisioning from notebooks: offers, runs, logs and costs of your own clouds and machines, without leaving the cell.

``%load_ext dstack_jupyter`` gives ``%dstack``; ``from dstack_jupyter import api`` gives the functions of the same names. Nothing
is loaded before it is used: the extension costs a notebook next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

__all__ = ["__version__"]


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by ``%load_ext dstack_jupyter``, on the kernel's main thread."""
    from .magics.magic import register

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Called by ``%unload_ext dstack_jupyter``."""
    from .magics.magic import unregister

    unregister(shell)
