"""The long form of tests/serve/test_fusion_soak.py: 200 fused requests and 200 plain ones. Ends 0 if all is well."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.adapters import push_to_polyad, write_same
from tests.bench.machine import print_header, print_result
from tests.fixtures.fusion_soak import ENGINE, SMALL_CACHE, soak
from tests.fixtures.ports import free_port
from tests.fixtures.server import serving


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--fused", type=int, default=200)
    parser.add_argument("--plain", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    print_header("fusion soak", {**vars(given), "engine": " ".join([*ENGINE, *SMALL_CACHE])})
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        adapters = write_same(scratch, BaseModel.from_folder(model, model.name), 2)
        with serving(model, scratch / "state", free_port(), "--slots", "2", *ENGINE, *SMALL_CACHE) as server:
            for name, path in adapters.items():
                push_to_polyad(server.url, name, path)
            began = time.monotonic()
            with httpx.Client(base_url=server.url, timeout=1800) as client:
                found = soak(client, *adapters, fused=given.fused, plain=given.plain, seed=given.seed)
    for failure in found.failures:
        print(failure)
    print_result(
        {
            "answered": found.answered,
            "cancelled": found.cancelled,
            "failures": len(found.failures),
            "worst_logit": found.worst,
            "seconds": time.monotonic() - began,
        }
    )
    sys.exit(bool(found.failures))


if __name__ == "__main__":
    main()
