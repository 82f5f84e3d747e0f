"""A worker steps back for the server beside it, also where Linux shares out time between sessions first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyad.serve.learn.priority import NICENESS

AUTOGROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")
with_autogroups = pytest.mark.skipif(
    not AUTOGROUPS.exists() or AUTOGROUPS.read_text().strip() != "1", reason="sessions do not share out time here"
)
STEP_BACK = """
import os
from polyad.serve.learn.priority import step_back
step_back()
print(os.getpriority(os.PRIO_PROCESS, 0))
"""
# The last word of the file is the session's niceness. It is empty for processes that a machine began before its first
# session, so each test below has a session of its own.
GROUP = """
from pathlib import Path
print(Path("/proc/self/autogroup").read_text().split()[-1])
"""
BESIDE = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {STEP_BACK!r}], check=True, stdout=subprocess.DEVNULL)
{GROUP}
"""


def said(code: str, *, new_session: bool) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, start_new_session=new_session)
    return done.stdout.split()[-1]


def test_a_worker_is_nice() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert int(said(STEP_BACK, new_session=False)) == min(19, own + NICENESS)


@with_autogroups
def test_a_worker_with_a_session_of_its_own_takes_the_weight_from_it() -> None:
    assert said(STEP_BACK + GROUP, new_session=True) == str(NICENESS)


@with_autogroups
def test_a_worker_in_somebodys_session_leaves_that_alone() -> None:
    assert said(BESIDE, new_session=True) == said(GROUP, new_session=True)
