"""Runs a program that dies with its parent: `python tether.py PARENT_PID PROGRAM ARGUMENT...`.

A program of its own, because a hook between fork and exec is not safe in a process that has threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, program, *arguments = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the line above.
    if os.getppid() == int(parent):
        os.execv(program, [program, *arguments])  # noqa: S606


if __name__ == "__main__":
    main()
