"""The bound of the virtual token counter, on a server that says one token a step; and what it promises beside it."""

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from polyad.serve.engine.fair_share import INPUT_COST, OUTPUT_COST, Claim, FairShare

MAX_PROMPT = 40
MAX_ANSWER = 30


@dataclass(eq=False)
class Asked:
    claim: Claim
    answer: int
    said: int = 0


@dataclass
class Server:
    """Runs at most `batch` requests at once, the ones that are first in line."""

    batch: int
    share: FairShare = field(default_factory=FairShare)
    waiting: deque[Asked] = field(default_factory=deque)
    running: list[Asked] = field(default_factory=list)
    service: Counter[str] = field(default_factory=Counter)

    def ask(
        self, tenant: str, prompt: int, answer: int, *, weight: float = 1, adapter: str = "", priority: int = 0
    ) -> None:
        self.waiting.append(Asked(Claim(tenant, adapter, prompt, weight, priority), answer))

    def step(self) -> None:
        line = deque(self.share.order(list(self.waiting), lambda asked: asked.claim))
        assert Counter(map(id, line)) == Counter(map(id, self.waiting))
        while line and len(self.running) < self.batch:
            taken = line.popleft()
            self.share.admitted(taken.claim)
            self.service[taken.claim.tenant] += INPUT_COST * taken.claim.prompt_tokens
            self.running.append(taken)
        self.waiting = line
        for asked in self.running:
            asked.said += 1
            self.share.produced(asked.claim, 1)
            self.service[asked.claim.tenant] += OUTPUT_COST
        self.running = [asked for asked in self.running if asked.said < asked.answer]

    @property
    def backlogged(self) -> set[str]:
        return {asked.claim.tenant for asked in self.waiting}


@dataclass(frozen=True)
class Load:
    weights: Sequence[float]
    batch: int
    seed: int


loads = st.builds(
    Load,
    weights=st.lists(st.sampled_from([0.25, 0.5, 1, 2, 4]), min_size=2, max_size=5),
    batch=st.integers(1, 8),
    seed=st.integers(0, 2**32),
)


def bound(load: Load) -> float:
    return (INPUT_COST * MAX_PROMPT + OUTPUT_COST * load.batch * MAX_ANSWER) / min(load.weights)


@settings(max_examples=40, deadline=None)
@given(loads)
def test_tenants_that_wait_are_within_the_bound_of_each_other(load: Load) -> None:
    """Whoever asks how much, when, for how long; also those who come back, and those who come late."""
    chance = random.Random(load.seed)
    server = Server(load.batch)
    activity = [chance.random() * 0.6 for _ in load.weights]
    since: dict[tuple[str, str], dict[str, int]] = {}
    for step in range(300):
        if step % 60 == 0:
            activity = [chance.random() * 0.6 if chance.random() < 0.7 else 0 for _ in load.weights]
        for number, weight in enumerate(load.weights):
            if chance.random() < activity[number]:
                prompt, answer = chance.randint(1, MAX_PROMPT), chance.randint(1, MAX_ANSWER)
                server.ask(f"t{number}", prompt, answer, weight=weight, adapter=chance.choice("ab"))
        server.step()
        _check(server, load, since)


def _check(server: Server, load: Load, since: dict[tuple[str, str], dict[str, int]]) -> None:
    waiting = server.backlogged
    counters = [server.share.tenants[tenant] for tenant in waiting]
    if counters:
        assert max(counters) - min(counters) <= bound(load) + 1e-6
    pairs = {(one, other) for one in waiting for other in waiting if one < other}
    for pair in list(since.keys() - pairs):
        del since[pair]
    for one, other in pairs:
        start = since.setdefault((one, other), dict(server.service))
        got = [
            (server.service[tenant] - start.get(tenant, 0)) / load.weights[int(tenant[1:])] for tenant in (one, other)
        ]
        assert abs(got[0] - got[1]) <= 2 * bound(load) + 1e-6


def test_service_follows_the_weights() -> None:
    server = Server(4)
    for _ in range(2000):
        for tenant, weight in (("small", 1.0), ("large", 3.0)):
            server.ask(tenant, 10, 5, weight=weight)
    for _ in range(2000):
        server.step()
    assert 2.8 < server.service["large"] / server.service["small"] < 3.2


def test_a_flood_does_not_delay_a_trickle() -> None:
    """Twenty times its share beside half a share: the small one waits for one place in the batch, and no more."""
    server = Server(4)
    waits: list[int] = []
    for step in range(600):
        for _ in range(4):
            server.ask("flood", 20, 10)
        if step % 12 == 0:
            server.ask("trickle", 20, 10)
        began = sum(asked.claim.tenant == "trickle" for asked in server.waiting)
        server.step()
        waits.append(began and sum(asked.claim.tenant == "trickle" for asked in server.waiting))
    assert server.service["trickle"] == 600 // 12 * (20 * INPUT_COST + 10 * OUTPUT_COST)
    # a place falls free within the ten tokens of an answer, before the next of the trickle comes
    assert max(waits) == 1 and sum(waits) <= 10 * 600 // 12


def test_nobody_saves_up_credit() -> None:
    server = Server(1)
    server.ask("late", 1, 1)
    server.step()
    for _ in range(300):
        server.ask("busy", 10, 2)
        server.step()
    while server.waiting:
        server.step()
    start = dict(server.service)
    for _ in range(50):
        server.ask("busy", 10, 2)
        server.ask("late", 10, 2)
    for _ in range(40):
        server.step()
    gained = {tenant: server.service[tenant] - start[tenant] for tenant in ("busy", "late")}
    assert abs(gained["busy"] - gained["late"]) <= 2 * (10 + 2 * 2)


def test_adapters_of_a_tenant_share_its_part() -> None:
    server = Server(2)
    for _ in range(100):
        server.ask("acme", 10, 3, adapter="hot")
    for _ in range(10):
        server.ask("acme", 10, 3, adapter="cold")
    while any(asked.claim.adapter == "cold" for asked in [*server.waiting, *server.running]):
        server.step()
    assert sum(asked.claim.adapter == "hot" for asked in server.waiting) >= 100 - 15


def test_priority_is_before_fairness_within_a_tenant_and_nothing_between_tenants() -> None:
    share = FairShare()
    claims = [
        Claim("a", "x", 10, priority=5),
        Claim("a", "y", 10, priority=5),
        Claim("a", "x", 10, priority=-1),
        Claim("b", "x", 10, priority=9),
    ]
    order = share.order(list(range(4)), lambda index: claims[index])
    assert order == [2, 3, 0, 1]


def test_the_oldest_is_first_where_nothing_else_decides() -> None:
    share = FairShare()
    assert share.order(list(range(50)), lambda index: Claim("a", "x", 10)) == list(range(50))


def test_what_is_kept_does_not_grow_with_names() -> None:
    server = Server(8)
    for number in range(5000):
        server.ask(f"t{number}", 1, 1, adapter=f"a{number}")
        server.ask("one", 1, 1, adapter=f"a{number}")
        server.step()
    assert len(server.share.tenants) < 2000
    assert len(server.share.adapters) < 2000
    assert len(server.share.adapters["one"]) < 2000
