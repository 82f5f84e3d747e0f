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
CODE = """
import os
from pathlib import Path
from polyad.serve.learn.priority import step_back
step_back()
group = Path("/proc/self/autogroup")
print(os.getpriority(os.PRIO_PROCESS, 0), group.read_text().split()[-1] if group.exists() else "-")
"""


def stepped_back(new_session: bool) -> list[str]:
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, start_new_session=new_session)
    return done.stdout.split()


def test_a_worker_is_nice() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert int(stepped_back(new_session=False)[0]) == min(19, own + NICENESS)


@with_autogroups
def test_a_worker_with_a_session_of_its_own_takes_the_weight_from_it() -> None:
    assert stepped_back(new_session=True)[1] == str(NICENESS)


@with_autogroups
def test_a_worker_in_somebodys_session_leaves_that_alone() -> None:
    own = Path("/proc/self/autogroup").read_text().split()[-1]
    assert stepped_back(new_session=False)[1] == own
