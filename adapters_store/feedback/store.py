"""Interactions and the feedback on them, in Redis: kept as long as the adapter's policy says, and no longer."""

import hashlib
import json
import time
from collections.abc import Iterable
from typing import Any

from polyad.adapters_store.errors import Conflict, ResponseExpired, Unavailable, UnknownResponse
from polyad.adapters_store.feedback.keys import Keys
from polyad.adapters_store.feedback.records import Feedback, Interaction, Policy, Queued, Score
from polyad.adapters_store.feedback.scripting import Scripting

GROUP = "learn"
# One run at a time holds an adapter's queue, whichever process runs it.
CONSUMER = "run"

_MARK_S = 30 * 86_400
_MAX_QUEUED = 100_000
_PAGE = 500
_DEAD_SHOWN = 1000
_FORGOTTEN = ("events", "scores", "dead", "tries", "memory", "rest")


class FeedbackStore:
    """All tenants' interactions and queues. Every method raises RegistryUnavailable when Redis is away."""

    def __init__(self, url: str, namespace: str = "polyad") -> None:
        self._redis = Scripting(url)
        self._keys = Keys(namespace)

    async def close(self) -> None:
        await self._redis.close()

    async def keep(self, interaction: Interaction) -> None:
        """Store an interaction until it expires."""
        keep_s = max(1, round(interaction.expires - time.time()))
        tenant, id = interaction.tenant, interaction.id
        keys = [self._keys.interaction(tenant, id), self._keys.expiry(tenant, id)]
        if interaction.user is not None:
            keys.append(self._keys.user(tenant, interaction.user))
        text = interaction.model_dump_json()
        await self._redis.run("keep", keys, text, keep_s, keep_s + _MARK_S, interaction.expires, id)

    async def interaction(self, tenant: str, response: str) -> Interaction:
        """Raises UnknownResponse, or ResponseExpired for one that was kept once."""
        found = await self.interactions(tenant, [response])
        if response in found:
            return found[response]
        client = self._redis.client
        expired = await self._redis.ask(client.get(self._keys.expiry(tenant, response)))
        if expired is not None:
            raise ResponseExpired("response", response, float(expired))
        raise UnknownResponse("response", response, "is no response that is kept for feedback")

    async def interactions(self, tenant: str, responses: Iterable[str]) -> dict[str, Interaction]:
        """Those of the responses that are still kept, by their ids."""
        found = {}
        for response in dict.fromkeys(responses):
            text = await self._redis.ask(self._redis.client.get(self._keys.interaction(tenant, response)))
            if text is not None:
                found[response] = Interaction.model_validate_json(text)
        return found

    async def give(self, interaction: Interaction, feedback: Feedback, policy: Policy) -> bool:
        """Queue feedback on an interaction; False if this very feedback is there already.

        Raises Conflict for another feedback with the same id, ResponseExpired, Unavailable for a full queue.
        """
        tenant, adapter = interaction.tenant, interaction.adapter
        keys = [
            self._keys.interaction(tenant, interaction.id),
            self._keys.given(tenant, feedback.id),
            self._keys.of_adapter("events", tenant, adapter),
            self._keys.of_adapter("scores", tenant, adapter),
            self._keys.judges(tenant, adapter, interaction.version),
        ]
        oldest = int((time.time() - policy.keep_s) * 1000)
        queueing = (feedback.model_dump_json(), _fingerprint(feedback), policy.keep_s, oldest, _MAX_QUEUED)
        judge = _judge(feedback.user) if feedback.user is not None else ""
        scoring = (_scored(interaction, feedback), judge, policy.canary_user_cap)
        answer = await self._redis.run("give", keys, *queueing, *scoring)
        if answer == "other":
            raise Conflict("id", f"{feedback.id!r} is the id of other feedback")
        if answer == "gone":
            raise ResponseExpired("response", interaction.id, interaction.expires)
        if answer == "full":
            raise Unavailable(f"feedback: the queue of adapter {adapter!r} is full ({_MAX_QUEUED} events)")
        return bool(answer == "new")

    async def waiting(self, tenant: str, adapter: str) -> tuple[int, float | None]:
        """How many events are in the queue, and the Unix time of the oldest."""
        key = self._keys.of_adapter("events", tenant, adapter)
        length = int(await self._redis.ask(self._redis.client.xlen(key)))
        first = await self._redis.ask(self._redis.client.xrange(key, count=1)) if length else []
        return length, int(first[0][0].partition("-")[0]) / 1000 if first else None

    async def collect(self, tenant: str, adapter: str, limit: int) -> list[Queued]:
        """Take at most `limit` events for the adapter's run: first those that an earlier one took and did not end.

        They stay in the queue until a run that used them ends. Only for who holds the adapter's lease.
        """
        key = self._keys.of_adapter("events", tenant, adapter)
        await self._make_group(key)
        taken: list[Any] = []
        after = "0"
        while len(taken) < limit:
            page = await self._read(key, after, min(_PAGE, limit - len(taken)))
            if not page and after == ">":
                break
            # An entry without fields was deleted after it was taken.
            taken += [(entry, fields) for entry, fields in page if fields]
            after = page[-1][0] if page and after != ">" else ">"
        return [Queued(entry=entry, feedback=Feedback.model_validate_json(f["feedback"])) for entry, f in taken]

    async def scores(self, tenant: str, adapter: str) -> dict[int, Score]:
        """The thumbs that each version got, as far as they count: `canary_user_cap` of each user's."""
        key = self._keys.of_adapter("scores", tenant, adapter)
        found: dict[int, dict[str, int]] = {}
        for field, count in (await self._redis.ask(self._redis.client.hgetall(key))).items():
            version, _, way = field.partition(":")
            found.setdefault(int(version), {})[way] = int(count)
        return {version: Score(**ways) for version, ways in found.items()}

    async def dead_letters(self, tenant: str, adapter: str) -> list[dict[str, str]]:
        """Events that no run could use, with the reasons; the last 1000."""
        key = self._keys.of_adapter("dead", tenant, adapter)
        return [json.loads(text) for text in await self._redis.ask(self._redis.client.lrange(key, -_DEAD_SHOWN, -1))]

    async def memory(self, tenant: str, adapter: str) -> dict[str, str]:
        """What earlier runs left for later ones: examples as JSON, by their ids."""
        found = await self._redis.ask(self._redis.client.hgetall(self._keys.of_adapter("memory", tenant, adapter)))
        return dict(found)

    async def forget_adapter(self, tenant: str, adapter: str) -> None:
        """Delete what was to be learnt from, and what was learnt from; interactions expire by themselves."""
        keys = [self._keys.of_adapter(part, tenant, adapter) for part in _FORGOTTEN]
        await self._redis.ask(self._redis.client.delete(*keys))

    async def forget_user(self, tenant: str, user: str, adapters: Iterable[str]) -> dict[str, int]:
        """Delete what is kept of an end user: interactions, queued feedback, and examples for later runs."""
        client, key = self._redis.client, self._keys.user(tenant, user)
        responses = set(await self._redis.ask(client.zrange(key, 0, -1)))
        for response in responses:
            await self._redis.ask(client.delete(self._keys.interaction(tenant, response)))
        await self._redis.ask(client.delete(key))
        events = examples = 0
        for adapter in adapters:
            events += await self._forget_events(tenant, adapter, user, responses)
            examples += await self._forget_examples(tenant, adapter, user)
            for version in await self.scores(tenant, adapter):
                await self._redis.ask(client.hdel(self._keys.judges(tenant, adapter, version), _judge(user)))
        return {"interactions": len(responses), "events": events, "examples": examples}

    async def _forget_events(self, tenant: str, adapter: str, user: str, responses: set[str]) -> int:
        key, count, after = self._keys.of_adapter("events", tenant, adapter), 0, "-"
        while page := await self._redis.ask(self._redis.client.xrange(key, min=after, count=_PAGE)):
            for entry, fields in page:
                feedback = Feedback.model_validate_json(fields["feedback"])
                if feedback.user == user or feedback.response in responses:
                    count += int(await self._redis.ask(self._redis.client.xdel(key, entry)))
            after = f"({page[-1][0]}"
        return count

    async def _forget_examples(self, tenant: str, adapter: str, user: str) -> int:
        memory = await self.memory(tenant, adapter)
        ids = [id for id, text in memory.items() if user in json.loads(text)["users"]]
        if ids:
            await self._redis.ask(self._redis.client.hdel(self._keys.of_adapter("memory", tenant, adapter), *ids))
        return len(ids)

    async def _make_group(self, key: str) -> None:
        groups = []
        if await self._redis.ask(self._redis.client.exists(key)):
            groups = [group["name"] for group in await self._redis.ask(self._redis.client.xinfo_groups(key))]
        if GROUP not in groups:
            await self._redis.ask(self._redis.client.xgroup_create(key, GROUP, id="0", mkstream=True))

    async def _read(self, key: str, after: str, count: int) -> list[Any]:
        streams = await self._redis.ask(self._redis.client.xreadgroup(GROUP, CONSUMER, {key: after}, count=count))
        return [entry for _, entries in streams for entry in entries]


def _fingerprint(feedback: Feedback) -> str:
    content = feedback.model_dump(exclude={"created"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _judge(user: str) -> str:
    return hashlib.sha256(user.encode()).hexdigest()[:32]


def _scored(interaction: Interaction, feedback: Feedback) -> str:
    up = feedback.thumb == "up" or (feedback.score or 0) >= 4
    down = feedback.thumb == "down" or 1 <= (feedback.score or 0) <= 2 or feedback.correction is not None
    return f"{interaction.version}:{'up' if up else 'down'}" if up != down else ""
