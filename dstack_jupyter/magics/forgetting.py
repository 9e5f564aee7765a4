"""Takes a line that should not have been typed out of IPython's history: what this session holds, and its database."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def forget_input(shell: InteractiveShell, sign: str, instead: str) -> bool:
    """Put ``instead`` in the place of the newest input, which is being executed, wherever it is kept: if ``sign`` is in it.

    Called by a magic, on the shell's thread. False where it may still be stored somewhere. An input that IPython was told not to
    keep is not the newest one: then there is nothing to do.
    """
    history = shell.history_manager
    typed = history.input_hist_raw[-1] if history is not None else ""
    if history is None or sign not in typed:
        return True
    history.input_hist_parsed[-1] = history.input_hist_raw[-1] = instead
    history._i00 = instead
    for name, value in list(shell.user_ns.items()):
        if re.fullmatch(r"_i+\d*", name) and value == typed:
            shell.user_ns[name] = instead
    try:
        # Under this lock it waits for the thread that saves, or is committed.
        with history.db_input_cache_lock:
            history.db_input_cache = [
                (each[0], instead, instead) if each[2] == typed else each for each in history.db_input_cache
            ]
            if history.enabled:
                history.db.execute("PRAGMA secure_delete = ON")  # the bytes too, not only the row
                with history.db:
                    values = (instead, instead, typed)
                    history.db.execute("UPDATE history SET source = ?, source_raw = ? WHERE source_raw = ?", values)
    except Exception:  # an IPython that keeps it another way, or a database that is locked
        return False
    return True
