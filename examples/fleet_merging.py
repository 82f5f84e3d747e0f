"""One merge for all: servers that are asked for the same merge at the same moment compute it once."""

import asyncio
import time

import httpx
from fleet_checks import check
from fleet_load import ADAPTER, ANSWER_S, OTHER, question
from fleet_processes import ServedFleet, Serving

EXPRESSION = f"ties({ADAPTER}, {OTHER}; density=0.3)"
_LOADS = "polyad_adapter_loads_total{"


async def one_merge_for_all(fleet: ServedFleet) -> None:
    began = time.monotonic()
    answers = await asyncio.gather(*(_ask(server) for server in fleet.servers))
    took = time.monotonic() - began
    said = {
        answer.json()["choices"][0]["message"]["content"] if answer.is_success else answer.text for answer in answers
    }
    check(f"all answered {EXPRESSION} within {took:.1f} s, and the same: {said}",
          len(said) == 1 and all(answer.is_success for answer in answers))  # fmt: skip
    listed = [(await server.get("/v1/merges"))["data"] for server in fleet.servers]
    ids = {(merge["id"], merge["digest"], merge["created"]) for merges in listed for merge in merges}
    check(f"GET /v1/merges of each lists one result, the same: {[merge[0][:12] for merge in ids]}",
          len(ids) == 1 and all(len(merges) == 1 for merges in listed))  # fmt: skip
    computed = {server.number: line for server in fleet.servers if (line := server.heard("merged ties("))}
    check(f"it was computed by one server, number {'and '.join(map(str, computed))}: {list(computed.values())}",
          len(computed) == 1)  # fmt: skip
    loads = [await _loads(server) for server in fleet.servers]
    check(f"/metrics of each has one load of it: {loads}", loads == [1] * len(fleet.servers))


async def _ask(server: Serving) -> httpx.Response:
    return await server.client.post("/v1/chat/completions", json=question(EXPRESSION), timeout=ANSWER_S)


async def _loads(server: Serving) -> int:
    """How often the server brought a merge into its host memory."""
    lines = (await server.client.get("/metrics")).raise_for_status().text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(_LOADS) and "ties(" in line)
