"""For whom a request runs: in its salt, so that no tenants share cached prompts, and in what the scheduler reads."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.request import Request

from polyad.serve.engine.ownership import claim_of, own

tenants = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)
BLOCK = 4


def asked(tokens: Sequence[int], salt: str | None = None, **fields: Any) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id="id",
        prompt_token_ids=list(tokens),
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=1),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=salt,
        data_parallel_rank=None,
        **fields,
    )


def arrived(request: EngineCoreRequest) -> Request:
    return Request.from_engine_core_request(request, get_request_block_hasher(BLOCK, sha256))


@given(st.tuples(tenants, st.none() | st.text(max_size=9)), st.tuples(tenants, st.none() | st.text(max_size=9)))
def test_no_salt_of_a_client_makes_it_another_tenant(
    one: tuple[str, str | None], other: tuple[str, str | None]
) -> None:
    salts = []
    for tenant, salt in (one, other):
        request = asked([1], salt)
        own(request, tenant, 1.0)
        salts.append(request.cache_salt)
    assert (salts[0] == salts[1]) == ((one[0], one[1] or "") == (other[0], other[1] or ""))


def test_the_same_prompt_is_another_in_the_cache_of_another_tenant() -> None:
    init_none_hash(sha256)
    hashes = []
    for tenant in ("acme", "acme", "other"):
        request = asked(range(3 * BLOCK))
        own(request, tenant, 1.0)
        hashes.append(arrived(request).block_hashes)
    assert len(hashes[0]) == 3
    assert hashes[0] == hashes[1]
    for mine, theirs in zip(hashes[0], hashes[2], strict=True):
        assert mine != theirs


@pytest.mark.parametrize("weight", [0.01, 1.0, 1 / 3, 100.0])
def test_the_scheduler_reads_what_was_written(weight: float) -> None:
    init_none_hash(sha256)
    request = asked(range(5), priority=-3, trace_headers={"traceparent": "x"})
    own(request, "acme", weight)
    claim = claim_of(arrived(request))
    assert (claim.tenant, claim.weight, claim.priority, claim.prompt_tokens) == ("acme", weight, -3, 5)
    assert request.trace_headers["traceparent"] == "x"


def test_requests_of_nobody_are_of_one() -> None:
    init_none_hash(sha256)
    claims = [claim_of(arrived(asked([1, 2]))) for _ in range(2)]
    assert all(one == other for one, other in pairwise(claims))
