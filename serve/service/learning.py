"""Feedback, the policies that say how adapters learn from it, and the runs that do."""

import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

from pydantic import ValidationError

from polyad.adapters_store.errors import Conflict, InvalidInput, NotFound
from polyad.adapters_store.feedback import (
    Answer,
    Feedback,
    FeedbackStore,
    Interaction,
    Policies,
    Policy,
    Run,
    Runs,
    Score,
)
from polyad.adapters_store.names import PRODUCTION, check_name
from polyad.adapters_store.registry import Registry
from polyad.serve.learn.settings import LearnSettings
from polyad.serve.service.interactions import interaction_fields
from polyad.serve.service.recorder import Recorder

CANARY = "canary"

_LABEL = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})@v([1-9][0-9]{0,8})", re.ASCII)
_KINDS = ("thumb", "score", "correction", "preferred", "comment", "labels")


class LearningService:
    """Every method takes the tenant that asks. Those that write raise RegistryUnavailable when Redis is away."""

    def __init__(self, registry: Registry, store: FeedbackStore, policies: Policies, runs: Runs) -> None:
        self._registry = registry
        self._store = store
        self._policies = policies
        self._runs = runs
        self._recorder = Recorder(store)
        self._random = random.Random()

    def keeps(self, tenant: str, label: str) -> tuple[str, int, Policy] | None:
        """The adapter, the version's number and the policy, if interactions with what has this label are kept.

        Only a version as it is can learn: of blends it would be unknown which part the feedback is for.
        """
        match = _LABEL.fullmatch(label)
        if match is None:
            return None
        adapter = self._registry.snapshot.find_adapter(tenant, match[1])
        if adapter is None or int(match[2]) not in adapter.versions:
            return None
        policy = self._policies.get(tenant, match[1])
        return (match[1], int(match[2]), policy) if policy.keeps else None

    @property
    def idle(self) -> bool:
        """Whether no adapter of any tenant learns."""
        return not any(policy.keeps for policy in self._policies.all().values())

    async def keep(
        self, tenant: str, label: str, response: str, asked: Mapping[str, Any], answers: Sequence[Answer]
    ) -> None:
        """Keep what answered a request, in the format of OpenAI's routes, under `label`, if its adapter learns.

        Never raises for a Redis that is away; KeyError, TypeError and AttributeError for other formats.
        """
        kept = self.keeps(tenant, label)
        if kept is None:
            return
        adapter, version, policy = kept
        fields = interaction_fields(asked, adapter, answers)
        if fields is None:
            return
        now = time.time()
        place = {"id": response, "tenant": tenant, "adapter": adapter, "version": version}
        times = {"created": now, "expires": now + policy.keep_s}
        await self._recorder.record(Interaction.model_validate({**fields, **place, **times}))

    def route(self, tenant: str, model: str) -> str:
        """The `model` of one request: a share of those for an adapter's plain name goes to its canary."""
        policy = self._policies.get(tenant, model)
        if policy.keeps and policy.canary_share > 0 and self._random.random() < policy.canary_share:
            try:
                if CANARY in self._registry.snapshot.adapter(tenant, model).aliases:
                    return f"{model}@{CANARY}"
            except NotFound:
                return model
        return model

    async def give(self, tenant: str, fields: Mapping[str, Any]) -> tuple[Feedback, Interaction, bool]:
        """Queue feedback on a response; False if this very feedback was there before.

        Raises InvalidInput, UnknownResponse, ResponseExpired, Conflict if the adapter does not learn.
        """
        given = {key: value for key, value in fields.items() if value is not None}
        if not any(given.get(kind) not in (None, ()) for kind in _KINDS):
            raise InvalidInput("feedback", "none of its kinds", f"at least one of {', '.join(_KINDS)}")
        feedback = _feedback(given)
        await self._recorder.drain()
        interaction = await self._store.interaction(tenant, feedback.response)
        _check_answers(feedback, interaction)
        policy = self._policies.get(tenant, interaction.adapter)
        if not policy.keeps:
            raise Conflict("response", f"adapter {interaction.adapter!r} does not learn: its policy is off")
        if feedback.user is None and interaction.user is not None:
            feedback = feedback.model_copy(update={"user": interaction.user})
        return feedback, interaction, await self._store.give(interaction, feedback, policy)

    async def forget(self, tenant: str, user: str) -> dict[str, int]:
        """Delete what is kept of an end user: interactions, queued feedback, examples for later runs."""
        await self._recorder.drain()
        return await self._store.forget_user(tenant, user, self._policies.adapters(tenant))

    def policy(self, tenant: str, name: str) -> Policy:
        """Raises UnknownAdapter."""
        self._registry.snapshot.adapter(tenant, name)
        return self._policies.get(tenant, name)

    async def set_policy(self, tenant: str, name: str, policy: Policy) -> Policy:
        """Raises UnknownAdapter, InvalidInput for settings that the worker would refuse."""
        self._registry.snapshot.adapter(tenant, name)
        LearnSettings.read(policy.settings)
        await self._policies.set(tenant, name, policy)
        return policy

    async def forget_adapter(self, tenant: str, name: str) -> None:
        """Leave nothing for a later adapter of this name: neither policy nor feedback. Its open run is cancelled."""
        await self._policies.drop(tenant, name)
        run = await self._runs.active(tenant, name)
        if run is not None:
            with suppress(Conflict):  # it has ended meanwhile
                await self._runs.cancel(run)
        await self._store.forget_adapter(tenant, name)

    async def state(self, tenant: str, name: str) -> tuple[int, dict[int, Score], list[dict[str, str]]]:
        """Queued events, thumbs by version, and dead letters of an adapter. Raises UnknownAdapter."""
        self._registry.snapshot.adapter(tenant, name)
        waiting, _ = await self._store.waiting(tenant, name)
        return waiting, await self._store.scores(tenant, name), await self._store.dead_letters(tenant, name)

    async def begin_run(self, tenant: str, name: str) -> Run:
        """A run on demand, for the next free worker. Raises UnknownAdapter, Conflict."""
        adapter = self._registry.snapshot.adapter(tenant, check_name("adapter", name))
        if PRODUCTION not in adapter.aliases:
            raise Conflict("adapter", f"{name!r} has no {PRODUCTION} version to go on from")
        if not self._policies.get(tenant, name).keeps:
            raise Conflict("adapter", f"{name!r} does not learn: its policy is off")
        return await self._runs.begin(tenant, name, "demand")

    async def run(self, tenant: str, id: str) -> Run:
        """Raises UnknownRun."""
        return await self._runs.run(tenant, id)

    async def runs(self, tenant: str, after: str | None, limit: int) -> list[Run]:
        """Runs, newest first, behind the one with the id `after`. Raises UnknownRun for that."""
        before = None if after is None else (await self._runs.run(tenant, after)).created
        return await self._runs.page(tenant, before, limit)

    async def needed_digests(self) -> set[str]:
        """Of the bytes that open runs of all tenants need: candidates that are not versions yet, and parents."""
        needed: set[str | None] = set()
        for tenant, adapter in {*self._policies.all(), *await self._runs.open()}:
            run = await self._runs.active(tenant, adapter)
            if run is not None:
                needed |= {run.candidate, run.parent_digest}
        return {digest for digest in needed if digest is not None}

    async def decisions(self, tenant: str, id: str) -> list[dict[str, Any]]:
        """What the run decided for each event and example. Raises UnknownRun."""
        return await self._runs.decisions(await self._runs.run(tenant, id))

    async def cancel(self, tenant: str, id: str) -> Run:
        """Raises UnknownRun, Conflict for one that has ended."""
        run = await self._runs.run(tenant, id)
        await self._runs.cancel(run)
        return run

    async def decide(self, tenant: str, id: str, approved: bool) -> Run:
        """Answer a run that waits for a person. Raises UnknownRun, Conflict."""
        run = await self._runs.run(tenant, id)
        await self._runs.decide(run, approved)
        return run


@asynccontextmanager
async def open_learning(url: str, namespace: str, registry: Registry) -> AsyncIterator[LearningService]:
    """The service over the Redis at `url`. Raises RegistryUnavailable."""
    store, policies, runs = FeedbackStore(url, namespace), Policies(url, namespace), Runs(url, namespace)
    try:
        await policies.start()
        yield LearningService(registry, store, policies, runs)
    finally:
        for part in (policies, runs, store):
            await part.close()


def _feedback(given: Mapping[str, Any]) -> Feedback:
    try:
        return Feedback(**{"id": uuid4().hex, "created": time.time(), **given})
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        raise InvalidInput(".".join(map(str, problem["loc"])), problem["input"], problem["msg"]) from error


def _check_answers(feedback: Feedback, interaction: Interaction) -> None:
    count = len(interaction.answers)
    if feedback.answer >= count:
        raise InvalidInput("answer", feedback.answer, f"0 to {count - 1}: the response has {count} answers")
    if feedback.preferred is not None and (count < 2 or feedback.preferred >= count):
        raise InvalidInput("preferred", feedback.preferred, f"one of several answers; the response has {count}")
    if feedback.correction is not None and feedback.correction == interaction.answers[feedback.answer].text:
        raise InvalidInput("correction", feedback.correction, "a text that differs from the answer")
