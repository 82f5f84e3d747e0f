"""Groups on the real scheduler, over a model that says random tokens: members must stay alike whatever happens."""

import random
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.lora.request import LoRARequest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.engine import FinishReason
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from polyad.adapters_store.base_model import BaseModel
from polyad.kernels.fusion.method import static
from polyad.serve.config import Settings
from polyad.serve.engine.arguments import engine_arguments, serve_arguments
from polyad.serve.engine.composition import encode
from polyad.serve.engine.fusion_request import KEY, attached
from polyad.serve.engine.scheduler import SlotScheduler

SLOTS = 4
BLOCK = 16
STEP_S = 0.02


def adapter(letter: str) -> LoRARequest | None:
    number = ord(letter)
    return None if letter == "-" else LoRARequest(letter, number, letter, base_model_name=encode([(number, 1.0)]))


class Engine:
    """A scheduler and what it schedules for. With `depth`, so many steps are made before the first one's outcome."""

    def __init__(self, scheduler: SlotScheduler, clock: list[float], depth: int, seed: int) -> None:
        self.scheduler = scheduler
        self.requests: dict[str, Request] = {}
        self.heard: dict[str, list[Any]] = {}
        self.preemptions = 0
        self.obeys = True
        self.groups_per_step: list[int] = []
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        self._random = random.Random(seed)
        self._clock = clock
        self._depth = depth
        self._flying: deque[tuple[Any, dict[str, list[int]]]] = deque()

    @property
    def now(self) -> float:
        return self._clock[0]

    def add(self, streams: str, prompt: int, tokens: int, stop: int | None = None, priority: int = 0) -> Request:
        """One letter for each stream, "-" for the base."""
        params = SamplingParams(max_tokens=tokens, ignore_eos=True, stop_token_ids=[stop] if stop else None)
        if len(streams) > 1:
            params = attached(
                params, static([1 / len(streams)] * (len(streams) - 1)), list(map(adapter, streams[1:])), 7
            )
        request = Request(
            request_id=f"{streams}{len(self.requests)}",
            # Many begin alike, so that the prefix cache has something to find.
            prompt_token_ids=[1 + place % 50 for place in range(prompt)],
            sampling_params=params,
            pooling_params=None,
            arrival_time=self.now,
            lora_request=adapter(streams[0]),
            priority=priority,
            block_hasher=self._hasher,
        )
        self.requests[request.request_id] = request
        self.scheduler.add_request(request)
        return request

    def step(self) -> None:
        scheduled = self.scheduler.schedule()
        self._clock[0] += STEP_S
        said = {
            name: [] if self.scheduler.requests[name].is_prefill_chunk else [self._random.randrange(100, 130)]
            for name in scheduled.num_scheduled_tokens
        }
        steps = getattr(scheduled, "polyad_fusion", [])
        self.groups_per_step.append(len(steps))
        for one in steps:
            said |= dict.fromkeys(one.request_ids if self.obeys else (), said[one.request_ids[0]])
        self.preemptions += len(scheduled.preempted_req_ids or ())
        self._flying.append((scheduled, {name: list(tokens) for name, tokens in said.items()}))
        if len(self._flying) > self._depth:
            self._land()
        self.check()

    def check(self) -> None:
        for group in self.scheduler._lockstep.groups.values():
            assert not group.broken
            texts = {tuple(member.all_token_ids) for member in group.members}
            assert len(texts) == 1, group.leader.request_id

    def run_until(self, done: Callable[[], bool], steps: int = 20_000) -> None:
        for _ in range(steps):
            if done():
                return
            self.step()
        raise AssertionError(f"not done: {[r.request_id for r in self.requests.values() if not r.is_finished()]}")

    def finish(self) -> None:
        self.run_until(lambda: all(request.is_finished() for request in self.requests.values()))
        while self._flying:
            self._land()
        assert not self.scheduler.requests
        assert not self.scheduler._lockstep
        assert not self.scheduler._lockstep._group_of
        assert not self.scheduler.running
        assert self.scheduler._lockstep.free_blocks == self.scheduler._lockstep.all_blocks

    def _land(self) -> None:
        scheduled, said = self._flying.popleft()
        names = list(said)
        output = ModelRunnerOutput(names, {name: row for row, name in enumerate(names)}, list(said.values()))
        output.polyad_fusion = {one.request_ids[0]: [0.0] * 5 for one in getattr(scheduled, "polyad_fusion", [])}
        for of_client in self.scheduler.update_from_output(scheduled, output).values():
            for one in of_client.outputs:
                assert one.request_id in self.requests, "followers are nobody's business"
                self.heard.setdefault(one.request_id, []).append(one)


Make = Callable[..., Engine]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet_vllm: None) -> Make:
    clock = [1_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    init_none_hash(sha256)

    def made(blocks: int = 4000, places: int = 32, depth: int = 0, seed: int = 0, *options: str) -> Engine:
        settings = Settings.load(slots=SLOTS, max_rank=8, slot_wait_s=1.0, state_dir=tmp_path)
        base = BaseModel.from_folder(tiny_model, "tiny")
        given = ["--skip-tokenizer-init", "--max-num-seqs", str(places), "--max-num-batched-tokens", "64", *options]
        config = engine_arguments(serve_arguments(str(tiny_model), given, settings, base)).create_engine_config()
        config.cache_config.num_gpu_blocks = blocks
        layer = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], layer)]
        )
        scheduler = SlotScheduler(config, cache, StructuredOutputManager(config), BLOCK)
        return Engine(scheduler, clock, depth, seed)

    return made


@pytest.mark.parametrize("prompt", [1, 2, 16, 17, 33, 64, 65, 500])
@pytest.mark.parametrize("depth", [0, 1])
def test_group_says_as_many_tokens_as_were_asked(make: Make, prompt: int, depth: int) -> None:
    engine = make(depth=depth)
    for _ in range(2):  # the second one finds its prompt in the prefix cache
        request = engine.add("-abc", prompt, 20)
        engine.finish()
        assert request.num_output_tokens == 20
        heard = engine.heard[request.request_id]
        assert [len(one.new_token_ids) for one in heard] == [1] * 20
        assert {one.kv_transfer_params[KEY]["trace"] for one in heard} == {7}


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("blocks", [55, 90, 4000])
@pytest.mark.parametrize("options", [[], ["--watermark", "0.05"], ["--long-prefill-token-threshold", "20"]])
def test_members_stay_alike_in_every_weather(make: Make, depth: int, blocks: int, options: list[str]) -> None:
    weather = random.Random(blocks + depth)
    engine = make(blocks, 12, depth, blocks, *options)
    cancelled = set()
    for number in range(120):
        streams = weather.choice(["-ab", "ab", "-abcd", "-c", "a", "b", "-", "cd", "-", "d"])
        longest = 200 if len(streams) < 4 else 100
        prompt = weather.choice([1, 16, 17, weather.randrange(2, longest)])
        tokens = weather.randrange(1, 40 if len(streams) > 1 else 150)
        engine.add(streams, prompt, tokens, weather.choice([None, None, 110]), weather.randrange(3))
        for _ in range(weather.randrange(6)):
            engine.step()
        alive = [one for one in engine.requests.values() if not one.is_finished()]
        if number % 6 == 0 and alive:
            victim = weather.choice(alive)
            cancelled.add(victim.request_id)
            engine.scheduler.finish_requests(victim.request_id, RequestStatus.FINISHED_ABORTED)
    engine.finish()
    assert engine.preemptions > 0 or blocks > 55
    assert max(engine.groups_per_step) >= 2
    for name, request in engine.requests.items():
        if name in cancelled:
            continue
        last = engine.heard[name][-1]
        assert last.finish_reason in (FinishReason.STOP, FinishReason.LENGTH), (name, last)
        said = [token for one in engine.heard[name] for token in one.new_token_ids]
        assert said == list(request.output_token_ids)


def test_group_whose_text_fits_into_a_step_says_its_first_token_in_it(make: Make) -> None:
    engine = make()
    together = engine.add("-ab", 12, 4), engine.add("b", 9, 4), engine.add("cd", 9, 4)
    engine.step()
    assert [request.num_output_tokens for request in together] == [1, 1, 1]
    late = engine.add("-ab", 30, 4)
    engine.step()
    engine.step()
    assert late.num_output_tokens == 0, "three texts of 30 tokens, and steps of 64"
    engine.finish()


def test_group_waits_for_room_to_its_end_and_lets_others_pass(make: Make) -> None:
    engine = make(blocks=41)
    first = engine.add("-ab", 100, 90)  # 3 sequences of 12 blocks
    engine.step()
    second, plain = engine.add("-ab", 100, 90), engine.add("c", 20, 5)
    engine.run_until(lambda: plain.is_finished())
    assert not first.is_finished()
    assert second.num_computed_tokens == 0
    engine.finish()
    assert second.num_output_tokens == 90
    assert engine.preemptions == 0


def test_group_that_waited_long_is_let_in_before_those_who_came_later(make: Make) -> None:
    engine = make(blocks=4000, places=6)
    for number in range(6):
        engine.add("a", 4, 100 + 10 * number)
    engine.step()
    group = engine.add("-abc", 4, 5)
    for _ in range(60):
        engine.step()
    later = [engine.add("a", 4, 120) for _ in range(6)]
    engine.run_until(lambda: group.num_computed_tokens > 0)
    assert all(request.num_computed_tokens == 0 for request in later)
    engine.finish()


def test_group_that_can_never_fit_ends_with_an_error_and_harms_nobody(make: Make) -> None:
    engine = make(blocks=30)
    group, plain = engine.add("-ab", 100, 100), engine.add("a", 20, 5)
    engine.finish()
    assert engine.heard[group.request_id][-1].finish_reason == FinishReason.ERROR
    assert plain.num_output_tokens == 5


def test_end_of_the_leader_ends_the_followers_at_once(make: Make) -> None:
    engine = make()
    request = engine.add("-ab", 30, 50)
    for _ in range(5):
        engine.step()
    assert len(engine.scheduler.requests) == 3
    engine.scheduler.finish_requests(request.request_id, RequestStatus.FINISHED_ABORTED)
    assert not engine.scheduler.requests
    engine.finish()


def test_members_out_of_step_end_with_an_error_and_no_wrong_token(make: Make) -> None:
    engine = make()
    request = engine.add("-ab", 30, 50)
    engine.run_until(lambda: request.num_output_tokens == 3)
    engine.obeys = False
    engine.run_until(request.is_finished)
    assert engine.heard[request.request_id][-1].finish_reason == FinishReason.ERROR
    engine.finish()


def test_slots_are_counted_by_the_union_of_the_group(make: Make) -> None:
    engine = make()
    engine.add("-abc", 4, 100)
    engine.step()
    waits, runs = engine.add("de", 4, 5), engine.add("cb", 4, 5)
    engine.run_until(lambda: runs.is_finished())
    assert waits.num_computed_tokens == 0
    engine.finish()
    assert waits.num_output_tokens == 5
