"""What open runs need is not collected, however old it is."""

import pytest

from polyad.adapters_store.errors import CorruptBlob
from polyad.adapters_store.registry import Version
from polyad.serve.service import Collector, LearningService
from tests.fixtures.learning import ADAPTER, POLICY, TENANT, Learning
from tests.fixtures.tiny_chat import lora

pytestmark = pytest.mark.filterwarnings("ignore")


class NoLeases:
    def leased(self, version: Version) -> bool:
        return False


@pytest.mark.parametrize("approved", [False, True])
async def test_a_candidate_that_waits_outlives_collection(parts: Learning, approved: bool) -> None:
    service = LearningService(parts.registry, parts.store, parts.policies, parts.runs)
    collector = Collector(parts.registry, parts.blobs, NoLeases(), 0.0, "another", service.needed_digests)
    await parts.policies.set(TENANT, ADAPTER, POLICY.model_copy(update={"mode": "ask"}))
    await parts.give(24)
    worker = parts.worker()
    await worker.look()
    run = await parts.last_run()
    assert run.state == "waiting" and run.candidate is not None and run.parent_digest is not None
    await parts.registry.set_alias(TENANT, ADAPTER, "production", (await parts.push(lora(seed=5))).number)
    await parts.registry.delete_alias(TENANT, ADAPTER, "previous")
    await parts.registry.delete_version(TENANT, ADAPTER, 1)
    assert not {run.candidate, run.parent_digest} & set((await collector.collect(dry_run=False)).blobs)
    await parts.runs.decide(run, approved)
    await worker.look()
    run = await parts.last_run()
    assert run.state == ("failed" if approved else "rejected"), run.reason
    assert run.version is not None or "somebody else" in run.reason
    await collector.collect(dry_run=False)
    with pytest.raises(CorruptBlob):
        await parts.blobs.fetch(run.parent_digest or "")
