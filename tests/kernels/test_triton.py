"""Runs triton_cases.py in a process of its own: whether kernels are interpreted is decided once, for all of Triton."""

import os
import subprocess
import sys
from pathlib import Path

import torch

CASES = Path(__file__).with_name("triton_cases.py")


def test_triton_kernels() -> None:
    interpreted = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env={**os.environ, **interpreted}, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:]
