"""Random input for long: the tests that are marked `fuzz`, with TIMES the examples of `make test`.

Readers of safetensors headers, delta files, configs and tensors of every kind of adapter, pickles that are imported,
compositions as text and as JSON, and every gRPC method, with random bytes, random messages and mutated ones. Ends 0 if
none of them found anything.
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections import Counter

from tests.bench.machine import print_header, print_result
from tests.fixtures.fuzzing import TIMES

_TEST = re.compile(r"^(tests/\S+\.py)::")
_COUNTS = re.compile(r"(\d+) passing, (\d+) failing, and (\d+) invalid")


def counted(times: int) -> tuple[Counter[str], int]:
    """The examples that each file's tests tried, and how pytest ended."""
    command = [sys.executable, "-m", "pytest", "-m", "fuzz", "-q", "--hypothesis-show-statistics"]
    found: Counter[str] = Counter()
    file = ""
    environment = {**os.environ, TIMES: str(times)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            if test := _TEST.match(line):
                file = test[1]
            elif counts := _COUNTS.search(line):
                found[file] += sum(map(int, counts.groups()))
            elif line.startswith(("FAILED", "ERROR", "E  ")):
                print(line, end="", flush=True)
    return found, process.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=25)
    times = parser.parse_args().times
    print_header("fuzz", {"times the examples of make test": times})
    began = time.monotonic()
    found, code = counted(times)
    minutes = (time.monotonic() - began) / 60
    for file, count in sorted(found.items()):
        print(f"{file:60} {count:9,} examples")
    print_result({"examples": found.total(), "minutes": minutes, "failed": code != 0})
    sys.exit(code or not found)


if __name__ == "__main__":
    main()
