import torch

from polyad.adapters_store.merge.counter_random import keep, normal, stream, uniform


def splitmix64(state: int) -> int:
    """The generator as published, on Python's integers."""
    z = state % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return z ^ (z >> 31)


def number(key: int, index: int) -> float:
    """As the module says that it is, on Python's integers."""
    word = splitmix64(key + (index // 2 + 1) * 0x9E3779B97F4A7C15)
    return ((word >> 32 * (index % 2)) % 2**24) / 2**24


def test_the_words_of_seed_0_are_those_of_the_published_generator() -> None:
    # Java's SplittableRandom and the C reference of xoshiro give these for seed 0
    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF
    first, second = 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4
    expected = [word >> shift & 0xFFFFFF for word in (first, second) for shift in (0, 32)]
    assert (uniform(0, 0, 4) * 2**24).tolist() == expected


def test_it_is_the_published_generator_at_every_key_and_element() -> None:
    for key in (1, 2**63, stream(7, "layers.0.q")):
        assert uniform(key, 0, 51).tolist() == [number(key, index) for index in range(51)]


def test_a_shard_sees_its_own_part() -> None:
    key = stream(3, "x")
    whole = keep(key, 0, 1000, 0.3)
    parts = torch.cat([keep(key, 0, 17, 0.3), keep(key, 17, 600, 0.3), keep(key, 617, 383, 0.3)])
    assert torch.equal(whole, parts)


def test_streams_differ_by_seed_and_by_name() -> None:
    keys = {stream(seed, *names) for seed in (0, 1) for names in (("a",), ("b",), ("a", 1), ("a1",))}
    assert len(keys) == 8


def test_shares_and_moments_are_those_of_the_distribution() -> None:
    n = 200_000
    kept = float(keep(stream(0, "share"), 0, n, 0.2).double().mean())
    assert abs(kept - 0.2) < 5 * (0.2 * 0.8 / n) ** 0.5
    drawn = normal(stream(0, "normal"), n)
    assert abs(float(drawn.mean())) < 5 / n**0.5
    assert abs(float(drawn.var()) - 1) < 5 * (2 / n) ** 0.5
    assert abs(float((drawn**4).mean()) - 3) < 5 * (96 / n) ** 0.5
