"""Every route and RPC, asked with another tenant's key, a revoked key and none: a table of what each answered.

A whole server, vLLM's own routes too; the routes are those of its OpenAPI document, the RPCs those that reflection
tells. One tenant has an adapter, a composition, a merge, feedback and keys; an admin of another asks each operation for
these names, and again for names that nobody has: but for the name, the answers must be the same, and for some of the
operations, asked ASKS times each in turns, the times that they take (a rank test, in standard deviations). Ends 0 if
they are, and if without a valid key nothing is answered but probes. `--write FILE` writes the table as Markdown.
"""

import argparse
import math
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from polyad.adapters_store.base_model import BaseModel
from polyad.serve.example import unpack_base_model
from tests.bench.isolation_calls import Names, http_calls, rpc_calls
from tests.bench.machine import print_header, print_result
from tests.bench.mixed_load import content
from tests.bench.servers import DTYPE, EAGER, ENGINE, polyad
from tests.fixtures.adapters import write_adapter
from tests.fixtures.ports import free_port

ADMIN_KEY = "bench-admin"
TIMED = (
    "GET /v1/adapters/{name}",
    "GET /v1/compositions/{name}",
    "POST /v1/completions",
    "polyad.v1.Adapters/Get",
    "polyad.v1.Inference/Generate",
)
ASKS = 500
# Of five comparisons by chance alone once in three thousand runs.
MOST_DEVIATIONS = 4.0
REFUSED = ("401", "UNAUTHENTICATED")
# Probes, which say nothing of anybody, and what tools ask before they know a key.
OPEN = re.compile(r"(GET|POST) /(health|ready|version|ping|live)$|grpc\.(health|reflection)\.|/Server(Live|Ready)$")
# Times, counts and random ids differ between any two answers.
_VOLATILE = re.compile(r"[0-9a-f]{8,}|[0-9]+")

Call = Callable[[Names, str | None], tuple[str, str]]


@dataclass(frozen=True)
class Row:
    operation: str
    other: str
    same_as_nobodys: bool
    revoked: str
    none: str

    @property
    def open(self) -> bool:
        return OPEN.search(self.operation) is not None

    @property
    def ok(self) -> bool:
        return self.same_as_nobodys and (self.open or {self.revoked, self.none} <= set(REFUSED))

    def __str__(self) -> str:
        marks = "" if self.ok else " **leak**"
        return f"| {self.operation}{marks} | {self.other} | {self.revoked} | {self.none} |"


class Tenants:
    """The keys, and the names that one tenant has and another asks for."""

    def __init__(self, url: str, files: Mapping[str, bytes]) -> None:
        self._url = url
        self.acme, self.other, self.revoked = (self._key(tenant) for tenant in ("acme", "other", "acme"))
        with self._client(self.acme["secret"]) as http:
            _ok(http.post("/v1/adapters", data={"name": "secret", "alias": "production"}, files=files))
            _ok(http.put("/v1/compositions/plans", json={"expression": "secret*0.5"}))
            _ok(http.put("/v1/adapters/secret/policy", json={"mode": "ask"}))
            merge = _ok(http.post("/v1/merges", json={"expression": "ties(secret, secret*0.5; density=0.3)"}))
            body = {"model": "secret", "prompt": "hello", "max_tokens": 2, "user": "ann"}
            said = _ok(http.post("/v1/completions", json=body))
            _ok(http.post("/v1/feedback", json={"response": said["id"], "thumb": "up"}))
            run = http.post("/v1/runs", json={"adapter": "secret"}).json()
        with self._client(ADMIN_KEY) as http:
            _ok(http.delete(f"/v1/keys/{self.revoked['key']}"))
        run_id = run.get("id", "0" * 32)
        self.theirs = Names("secret", "plans", "acme", self.acme["key"], merge["id"], run_id, said["id"], "ann")
        self.nobodys = Names(*(_unlike(name) for name in self.theirs.all))

    def _client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self._url, timeout=60, headers={"authorization": f"Bearer {key}"})

    def _key(self, tenant: str) -> dict[str, str]:
        with self._client(ADMIN_KEY) as http:
            return dict(_ok(http.post("/v1/keys", json={"tenant": tenant, "role": "admin"})))


def _ok(answer: httpx.Response) -> Any:
    if not answer.is_success:
        raise RuntimeError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
    return answer.json()


def _unlike(name: str) -> str:
    """A name of the same form and length that nobody has."""
    head, separator, random = name.rpartition("-")
    turned = "".join("0" if letter == "f" else "f" if letter in "0123456789abcde" else letter for letter in random)
    return f"{head}{separator}{turned if turned != random else 'x' * len(random)}"


def rows(calls: Iterator[tuple[str, Call]], tenants: Tenants) -> Iterator[Row]:
    for operation, call in calls:
        status, text = call(tenants.theirs, tenants.other["secret"])
        of_nobody = call(tenants.nobodys, tenants.other["secret"])
        same = (status, _plain(text, tenants.theirs)) == (of_nobody[0], _plain(of_nobody[1], tenants.nobodys))
        revoked, none = (call(tenants.theirs, key)[0] for key in (tenants.revoked["secret"], None))
        yield Row(operation, status, same, revoked, none)


def _plain(text: str, names: Names) -> str:
    for name in sorted(names.all, key=len, reverse=True):
        text = text.replace(name, "NAME")
    return _VOLATILE.sub("#", text)


def timing(operation: str, call: Call, tenants: Tenants) -> float:
    """By how many standard deviations the times for their names differ from those for nobody's (Mann and Whitney)."""
    took: list[tuple[float, bool]] = []
    for _ in range(ASKS):
        for names in random.sample((tenants.theirs, tenants.nobodys), 2):
            began = time.perf_counter()
            call(names, tenants.other["secret"])
            took.append((time.perf_counter() - began, names is tenants.theirs))
    ranks = [rank for rank, (_, theirs) in enumerate(sorted(took), 1) if theirs]
    medians = [statistics.median(seconds for seconds, one in took if one is theirs) for theirs in (True, False)]
    deviations = (statistics.mean(ranks) - (2 * ASKS + 1) / 2) / math.sqrt((2 * ASKS + 1) / 12)
    print(
        f"{operation:40} {1000 * medians[0]:.2f} ms for theirs, {1000 * medians[1]:.2f} for nobody's, "
        f"{deviations:+.1f} standard deviations",
        flush=True,
    )
    return abs(deviations)


def measure(url: str, rpc: str, files: Mapping[str, bytes], table: Path | None) -> dict[str, float]:
    tenants = Tenants(url, files)
    with grpc.insecure_channel(rpc) as channel:
        routes = list(rows(http_calls(url, ADMIN_KEY), tenants))
        methods = list(rows(rpc_calls(channel), tenants))
        calls = [*http_calls(url, ADMIN_KEY), *rpc_calls(channel)]
        apart = max(timing(name, call, tenants) for name, call in calls if name in TIMED)
    lines = ["| operation | another tenant's admin | revoked key | no key |", "| --- | --- | --- | --- |"]
    lines += [str(row) for row in (*routes, *methods)]
    print("\n".join(lines), flush=True)
    if table is not None:
        table.write_text("\n".join(lines) + "\n")
    leaks = sum(not row.ok for row in (*routes, *methods))
    return {"routes": len(routes), "rpcs": len(methods), "leaks": leaks, "timing_deviations": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-models", type=Path, default=Path(".state/base-models"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    model = unpack_base_model(given.base_models, print)
    print_header("isolation", {"model": model.name, "dtype": DTYPE, "engine": " ".join([*ENGINE, EAGER])})
    with tempfile.TemporaryDirectory() as folder:
        scratch, port = Path(folder), free_port()
        files = content(write_adapter(scratch / "files", BaseModel.from_folder(model, model.name), seed=1, size=0.02))
        with polyad(model, scratch, "--admin-key", ADMIN_KEY, "--grpc-port", str(port)) as server:
            result = measure(server.url, f"127.0.0.1:{port}", files, given.write)
    print_result(result)
    sys.exit(result["leaks"] > 0 or result["timing_deviations"] > MOST_DEVIATIONS)


if __name__ == "__main__":
    main()
