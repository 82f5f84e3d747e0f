"""Runs the cases of Triton kernels in processes of their own: whether they are interpreted is decided once, for all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = ("triton_cases.py", "fusion_triton_cases.py")


@pytest.mark.parametrize("cases", CASES)
def test_triton_kernels(cases: str) -> None:
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__).with_name(cases))]
    done = subprocess.run(command, env={**os.environ, **interpreted}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:]
