"""When a step is broken off, by the declared rules; and that nobody loses or repeats a token by it."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polyad.serve.engine.fair_share import Claim, Counters
from polyad.serve.engine.interruption import Interruption, Mark, NumberReader, SharedNumber
from tests.fixtures.simulation import Simulation

SEATS = 4
FLOOD = [Claim("flood", "", 10)] * 4
SMALL = Claim("small", "", 10)
STEP_S = 0.1


class Steps:
    """An Interruption, with a clock of its own, in whose steps the flood was served before."""

    def __init__(self) -> None:
        self.now = 0.0
        self.served = Counters()
        self.served.add("flood", 100.0)
        self._interruption = Interruption(self.served, lambda claim: claim, lambda: self.now)

    def begin(self, claims: list[Claim] = FLOOD, tokens: int = 4) -> Mark | None:
        return self._interruption.begin(claims, SEATS, tokens)

    def whole(self, claims: list[Claim] = FLOOD, tokens: int = 4, seconds: float = STEP_S) -> None:
        self.begin(claims, tokens)
        self.now += seconds
        self._interruption.end(broken_off=False)

    def broken_by(self, claim: Claim, after: float = 0.01, claims: list[Claim] = FLOOD, tokens: int = 4) -> bool:
        """Whether a request that comes so long after a step began breaks it off."""
        mark = self.begin(claims, tokens)
        self.now += after
        self._interruption.arrive(claim)
        broken = mark is not None and NumberReader(mark.path).read() == mark.step
        self.now += STEP_S - after
        self._interruption.end(broken)
        return broken


@pytest.fixture
def steps() -> Steps:
    steps = Steps()
    steps.whole()
    return steps


def test_a_number_is_seen_by_another_process_and_gone_with_the_one_that_wrote_it() -> None:
    number = SharedNumber()
    number.write(41)
    code = (
        "import sys; from polyad.serve.engine.interruption import NumberReader as R; r = R(sys.argv[1]);"
        "print(r.read(), flush=True); input(); print(r.read(), flush=True)"
    )
    command = [sys.executable, "-c", code, number.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        assert reader.stdout.readline() == "41\n"
        number.write(2**40)
        print(file=reader.stdin, flush=True)
        assert reader.stdout.readline() == f"{2**40}\n"
    assert reader.returncode == 0
    assert not [path for path in Path("/dev/shm").iterdir() if "polyad-step" in path.name]


def test_a_flood_is_broken_off_for_who_comes_in_the_first_half_of_its_step(steps: Steps) -> None:
    assert steps.broken_by(SMALL, after=0.49 * STEP_S)
    steps.whole()
    steps.whole()
    assert not steps.broken_by(SMALL, after=0.51 * STEP_S)


def test_a_step_is_as_long_as_the_last_of_about_as_many_tokens(steps: Steps) -> None:
    assert not steps.broken_by(SMALL, after=0.9 * STEP_S, tokens=100)
    steps.whole(tokens=120, seconds=2 * STEP_S)
    assert steps.broken_by(SMALL, after=0.9 * STEP_S, tokens=100)
    for _ in range(2):
        steps.whole(tokens=100, seconds=2 * STEP_S)
    assert not steps.broken_by(SMALL, after=0.9 * STEP_S, tokens=5)


def test_nothing_is_known_of_the_first_step() -> None:
    assert not Steps().broken_by(SMALL, after=0)


def test_the_two_steps_after_one_that_is_broken_off_go_to_their_end(steps: Steps) -> None:
    assert [steps.broken_by(SMALL) for _ in range(7)] == [True, False, False, True, False, False, True]


def test_a_flood_gets_on_whoever_comes(simulate: Callable[..., Simulation]) -> None:
    """In every step another tenant comes, for which it is broken off wherever it may be, and sat out."""
    simulation = simulate(places=8)
    flood = [simulation.add(None, 900, tenant="flood") for _ in range(5)]
    simulation.run(0.2)
    before = sum(one.num_output_tokens for one in flood)
    for number in range(300):
        simulation.add(None, 1, tenant=f"small-{number}")
        simulation.step(break_off=True)
    assert simulation.broken_off > 50
    assert sum(one.num_output_tokens for one in flood) - before >= 5 * 300 / 3


def test_who_comes_between_two_steps_breaks_none(steps: Steps) -> None:
    steps._interruption.arrive(SMALL)
    assert not steps.broken_by(Claim("flood", "", 10))


@pytest.mark.parametrize(
    ("claims", "comes", "why"),
    [
        (FLOOD, Claim("flood", "", 10), "its own tenant's"),
        ([*FLOOD[:2], SMALL, SMALL], SMALL, "it has its share already"),
        ([*FLOOD[:2]], SMALL, "nobody has more than its share"),
        ([*FLOOD[:3], SMALL], Claim("small", "", 10, weight=0.1), "a share of a seat is one seat"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_nothing_is_broken_off(steps: Steps, claims: list[Claim], comes: Claim, why: str) -> None:
    assert not steps.broken_by(comes, claims=claims), why


def test_nothing_is_broken_off_for_who_was_served_more(steps: Steps) -> None:
    steps.served.add("small", 101.0)
    assert not steps.broken_by(SMALL)
    steps.served.add("flood", 2.0)
    assert steps.broken_by(SMALL)


def test_a_step_is_done_over_and_says_the_same(simulate: Callable[..., Simulation]) -> None:
    simulation = simulate(places=4)
    requests = [simulation.add(None, tokens) for tokens in (30, 31, 32)]
    simulation.run(0.1)
    before = [(request.num_tokens, request.num_computed_tokens) for request in requests]
    assert simulation.step(break_off=True) == {}
    assert simulation.broken_off == 1
    after = [(request.num_tokens, request.num_computed_tokens) for request in requests]
    assert after == before
    assert simulation.step() == {request.request_id: 1 for request in requests}
    assert [request.num_tokens for request in requests] == [tokens + 1 for tokens, _ in before]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_broken_off_everybody_gets_all_tokens(simulate: Callable[..., Simulation], seed: int) -> None:
    chance = random.Random(seed)
    simulation = simulate(places=4)
    for _ in range(300):
        if chance.random() < 0.2:
            tenant, prompt = chance.choice("ab"), chance.randint(1, 90)
            simulation.add(chance.choice([None, "a", "b"]), chance.randint(1, 40), prompt, tenant)
        if chance.random() < 0.05 and simulation.scheduler.running:
            gone = chance.choice(simulation.scheduler.running)
            simulation.cancel(gone)
        simulation.step(break_off=chance.random() < 0.5)
    simulation.run_until(lambda: not simulation.scheduler.has_unfinished_requests(), seconds=600)
    assert simulation.broken_off > 20
    for name, request in simulation.requests.items():
        if name not in simulation.cancelled:
            assert request.num_output_tokens == request.max_tokens


@pytest.mark.parametrize(("caching", "refused"), [(True, [16, 32, 48]), (False, [])])
def test_steps_that_leave_something_behind_are_not_broken_off(
    simulate: Callable[..., Simulation], caching: bool, refused: list[int]
) -> None:
    simulation = simulate(places=4)
    simulation.scheduler.kv_cache_manager.enable_caching = caching
    request = simulation.add(None, 60, prompt=4)
    marked = []
    while not request.is_finished():
        scheduled = simulation.scheduler.schedule()
        marked.append((request.num_computed_tokens, scheduled.polyad_mark is not None))
        simulation.say(scheduled)
    # a token that fills a block of 16
    assert [at for at, may in marked if not may] == refused


def test_a_real_engine_says_the_same_whatever_is_broken_off(base_model: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.fixtures.breaking", str(base_model)], capture_output=True, text=True, timeout=600
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = json.loads(ran.stdout.splitlines()[-1])
    assert said["broken_off"] == said["broken_off_by_its_worker"]
    assert said["broken_off"] > 10
    assert said["broken"] == said["whole"]
