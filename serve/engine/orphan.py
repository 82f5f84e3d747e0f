"""A process of the engine ends when the process that started it is gone, however that went, and not before."""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

_NAME = "polyad-parent-watch"


def end_with_parent() -> None:
    """Watch over the parent, if this is a child of multiprocessing; safe to call again.

    vLLM's children notice a parent that was killed only when they next have something to say to it, and would keep
    their memory until then. A Ctrl-C in the terminal, which goes to a whole process group, is the server's to handle:
    it lets running requests end first.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _NAME for thread in threading.enumerate()):
        return
    os.setpgid(0, 0)
    threading.Thread(target=_follow, args=(parent,), name=_NAME, daemon=True).start()


def _follow(parent: BaseProcess) -> None:
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
