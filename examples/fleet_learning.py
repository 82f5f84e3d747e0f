"""One run for all: feedback on every server makes one run, whose version every server serves; the worker is killed in
the middle of it, under load."""

import asyncio
from typing import Any

import httpx
from fleet_checks import Failed, check, until
from fleet_load import ADAPTER, ANSWER_S, REST_S, Load
from fleet_processes import ServedFleet, Serving
from fleet_promotions import REACH_S, files_of

PUPIL = "pupil"
# Two of the questions with these numbers are held out, by what they say.
ITEMS = range(7, 15)
RUN_S = 300.0
SERVED_S = 20.0
LOOK_S = 0.25
POLICY: dict[str, Any] = {
    "mode": "automatic",
    "min_events": len(ITEMS),
    "canary_share": 0.0,
    "settings": {
        "data": {"held_out": 0.3},
        # As short as a run can be that the gate lets pass, and written down after each step.
        "train": {"learning_rate": 2e-3, "epochs": 1, "batch": 2, "max_length": 128, "save_every": 1},
        "gate": {"min_held_out": 2, "confidence": 0.5},
    },
}


async def one_run_for_all(fleet: ServedFleet, client: httpx.AsyncClient) -> None:
    await _begin(fleet, client)
    async with Load(client, REST_S).running() as load:
        await _correct(fleet)
        await until(lambda: _state(fleet, "training", steps=1), RUN_S, "a run trains", LOOK_S)
        await fleet.learner.kill()
        killed = await _run(fleet.servers[0])
        await fleet.learner.start()
        await until(lambda: _state(fleet, "published", "rejected", "failed", "empty"), RUN_S, "the run ends", LOOK_S)
    run = await _run(fleet.servers[0])
    check(f"the worker was killed at step {killed['step']} of {killed['steps']}, and the run went on in attempt "
          f"{run['attempts']}", killed["state"] == "training" and run["attempts"] > 1)  # fmt: skip
    stages = ", ".join(f"{state} {moment - run['created']:.0f} s" for moment, state in run["history"])
    check(f"all servers know this one run: {run['id']} ({stages}), {run['reason']}",
          run["state"] == "published" and all([await _run(server) == run for server in fleet.servers]))  # fmt: skip
    await _check_served(fleet, run)
    check(f"no request failed: {load.told()}", not load.errors)


async def _begin(fleet: ServedFleet, client: httpx.AsyncClient) -> None:
    """A copy of an adapter that learns, and all servers know that it does."""
    (await client.post("/v1/adapters", data={"name": PUPIL}, files=files_of(ADAPTER))).raise_for_status()
    (await client.put(f"/v1/adapters/{PUPIL}/policy", json=POLICY)).raise_for_status()

    async def known() -> bool:
        return all([(await _policy(server))["mode"] == POLICY["mode"] for server in fleet.servers])

    await until(known, REACH_S, f"all servers know that {PUPIL} learns")


async def _correct(fleet: ServedFleet) -> None:
    """Each question is asked of one server, and its answer corrected on another."""
    given = []
    for number, item in enumerate(ITEMS):
        asked, told = (fleet.servers[(number + turn) % len(fleet.servers)] for turn in (0, 1))
        messages = [{"role": "user", "content": f"What is the number of item {item}?"}]
        body = {"model": PUPIL, "messages": messages, "max_tokens": 8, "temperature": 0}
        answer = await asked.client.post("/v1/chat/completions", json=body, timeout=ANSWER_S)
        verdict = {"response": answer.raise_for_status().json()["id"], "correction": f"The number is {item * 7}."}
        given.append((await told.client.post("/v1/feedback", json=verdict)).status_code)
    check(f"{len(given)} answers were corrected, each on another server than the one that gave it",
          given == [httpx.codes.CREATED] * len(ITEMS))  # fmt: skip


async def _check_served(fleet: ServedFleet, run: dict[str, Any]) -> None:
    wanted = f"{PUPIL}@{run['version']}"

    async def all_serve() -> bool:
        return await asyncio.gather(*map(_answers_as, fleet.servers)) == [wanted] * len(fleet.servers)

    reach = await until(all_serve, SERVED_S, f"all servers answer as {wanted}")
    check(f"all servers were asked, and had answered as {wanted} after {reach:.1f} s", True)
    waiting = [(await _policy(server))["waiting"] for server in fleet.servers]
    check(f"the run took {run['events']['taken']} events, and none is left in the queue: {waiting}",
          run["events"]["taken"] == len(ITEMS) and not any(waiting))  # fmt: skip


async def _answers_as(server: Serving) -> str:
    body = {"model": PUPIL, "prompt": "Hello", "max_tokens": 1}
    return str(
        (await server.client.post("/v1/completions", json=body, timeout=ANSWER_S)).raise_for_status().json()["model"]
    )


async def _policy(server: Serving) -> dict[str, Any]:
    return dict(await server.get(f"/v1/adapters/{PUPIL}/policy"))


async def _run(server: Serving) -> dict[str, Any]:
    """The only run that a server knows. Raises Failed if it knows another number of runs."""
    runs = (await server.get("/v1/runs"))["data"]
    if len(runs) != 1:
        raise Failed(f"{server.name} knows {len(runs)} runs")
    return dict(runs[0])


async def _state(fleet: ServedFleet, *states: str, steps: int = 0) -> bool:
    runs = (await fleet.servers[0].get("/v1/runs"))["data"]
    return any(run["state"] in states and run["step"] >= steps for run in runs)
