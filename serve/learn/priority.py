"""Requests come first wherever a worker shares the machine with a server."""

import os
from contextlib import suppress
from pathlib import Path

NICENESS = 10

_AUTOGROUP = Path("/proc/self/autogroup")


def step_back() -> None:
    """Let this process, and the threads that it will start, wait for whoever else wants to compute."""
    with suppress(OSError):
        os.nice(NICENESS)
    # Linux may share out time between sessions first. Niceness then counts only within a session, and the server is in
    # another one; so the session has to step back too. One that belongs to somebody else is left alone.
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            _AUTOGROUP.write_text(str(NICENESS))
